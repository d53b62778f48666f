"""Who may write an output: what is there already, who else is at it, what it was begun with, what the disk says."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bridle.errors import EnvironmentFault, UsageError
from bridle.outputs.atomic import sync
from bridle.storage import Location, Remote, cache_folder, lock_file, refuse_links

LOCK = "lock"  # in the hidden folder of an output
_held: set[IO[bytes]] = set()  # locks of this process


def exists(out: Location, what: str = "", hint: str = "") -> UsageError:
    """The refusal of an output that is there.

    Args:
        what: it holds.
        hint: what else can be done about it.
    """
    return UsageError(
        f"{out} already exists{what and f' and holds {what}'}.",
        f"{hint and f'{hint} '}Choose another --out, or replace it with --overwrite.",
    )


def interrupted(out: Location, folder: Path, done: str = "") -> UsageError:
    """The refusal of an output that an earlier command has begun in a hidden folder and not finished.

    Args:
        done: what is kept of it.

    Raises:
        UsageError: that command is still running.
    """
    with contextlib.suppress(OSError), alone(folder / LOCK, out):
        pass
    return UsageError(
        f"{out} is unfinished: its command was interrupted{done and f'; {done}'}.",
        "Continue with the same command and --resume, or start again with --overwrite.",
    )


def remote_staging(out: Remote) -> Path:
    """Where on this machine an object is made."""
    return cache_folder() / "building" / hashlib.sha256(out.url.encode()).hexdigest()[:16]


@contextmanager
def staging(folder: Path, out: Location, *, resumable: bool = False) -> Iterator[None]:
    """The hidden folder in which `out` is made, there and for this process alone while the block lasts.

    What the block leaves in it stays for the next command; if that is nothing it goes, with the folders that were made
    for it.

    Raises:
        UsageError: another process is writing `out`. DataError: links lie in the folder. EnvironmentFault: see
            `disk_errors`.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        with disk_errors(out, resumable=resumable):
            refuse_links(folder)
            folder.mkdir(parents=True, exist_ok=True)
            refuse_links(*folder.iterdir())
            sync(folder.parent)
            with alone(folder / LOCK, out):
                yield
    finally:  # wherever a signal came
        with contextlib.suppress(OSError, UsageError):
            if not folder.is_symlink():
                with alone(folder / LOCK, out):
                    if os.listdir(folder) == [LOCK]:
                        shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()


@contextmanager
def alone(lock: Path, out: Location) -> Iterator[None]:
    """Only this process writes `out` while the block lasts.

    The kernel holds the lock, so that a killed process leaves none behind; nor do processes that were forked from it
    and outlive it: they let go of it as they begin.

    Raises:
        UsageError: another process is writing it.
    """
    with lock_file(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{out} is being written by another process.", "Wait for it, stop it, or choose another --out."
            ) from None
        _let_go_in_children()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


@functools.cache
def _let_go_in_children() -> None:
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])


def same_settings(before: Mapping[str, Any], now: Mapping[str, Any], out: Location) -> None:
    """Refuse to continue an output with other settings than it was begun with.

    Raises:
        UsageError: naming the first that differs.
    """
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise UsageError(
                f"{out} was started with {name} {before.get(name)!r}, not {now.get(name)!r}.",
                "Continue with the same inputs, checkpoint and options, or start again with --overwrite.",
            )


@contextmanager
def disk_errors(out: Location, *, resumable: bool = False) -> Iterator[None]:
    """What the disk refuses, in our words.

    Args:
        resumable: what is done is kept.

    Raises:
        EnvironmentFault: the disk is full, or `out` cannot be written.
    """
    try:
        yield
    except OSError as error:
        full, why = error.errno in (errno.ENOSPC, errno.EDQUOT), error.strerror or str(error)
        if error.filename and why in (os.strerror(errno.EEXIST), os.strerror(errno.ENOTDIR)):
            why = f"{error.filename} is not a folder"
        again = "continue with --resume" if resumable else "run the command again"
        raise EnvironmentFault(
            f"{out} cannot be written: {'the disk is full' if full else why}.",
            f"{'Free some space' if full else 'Fix that'} and {again}, or choose another --out.",
        ) from error
