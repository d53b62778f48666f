"""Files and folders that take their place whole and on the disk, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `path` when the block ends well; until then what was there stays."""
    partial = _beside(path, "partial")
    try:
        with open(partial, "xb") as file:
            yield file
        settle(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """The old content or the new, never half of it.

    Raises:
        OSError: it cannot be written.
    """
    with written(path) as file:
        file.write(text.encode())


def settle(partial: Path, path: Path) -> None:
    """A finished file gets its name when its content is on the disk.

    Raises:
        OSError: among others, it is not a regular file: a device would be replaced by one.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    _flush(partial)
    os.replace(partial, path)
    sync(path.parent)


def put_in_place(new: Path, out: Path) -> None:
    """A finished folder becomes `out` when all in it is on the disk; the one that was there goes last, and comes back
    on failure. If the process is killed meanwhile, `put_back` finds it.

    Raises:
        OSError: among others, it is not a folder.
    """
    if out.exists() and not out.is_dir():
        raise OSError(errno.EINVAL, "it is not a folder")
    for path in (new, *new.rglob("*")):
        if path.is_dir():
            sync(path)
        else:
            _flush(path)
    old = new.parent / _beside(out, "old").name
    replaces = os.path.lexists(out)
    if replaces:
        os.rename(out, old)
    try:
        os.rename(new, out)
    except BaseException:
        if replaces:
            os.rename(old, out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def put_back(staging: Path, out: Path) -> None:
    """A folder that a process was killed while replacing becomes `out` again, or goes if `out` is there."""
    for old in staging.glob(".*.old"):
        if os.path.lexists(out):
            shutil.rmtree(old)
        else:
            os.rename(old, out)


def _flush(path: Path) -> None:
    """The content of a file is on the disk, or the disk says why not."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _beside(path: Path, what: str) -> Path:
    """A hidden name that no other process has, not even one of the same number in another container."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{what}")


def sync(folder: Path) -> None:
    """The names in a folder outlive a power cut, where the system can be asked for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
