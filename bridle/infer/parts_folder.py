"""The folder that keeps the parts of an output until it is whole: begun, locked, gone on with, published, removed.

.OUT.parts/work.json      what was asked for; other work is not resumed
.OUT.parts/000000 ...     whole parts, see `bridle.infer.parts`
.OUT.parts/result.json    what came of joining them: OUT is there, or `joined` beside it becomes OUT
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridle import progress
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.storage import Location, Remote, cache_folder, check_bucket, hashed, lock_file, read_text, refuse_links

ABOUT, CLAIMS, JOINED, RESULT = "work.json", "claims", "joined", "result.json"
_LOCK = "lock"
_GO_ON = "go on with --resume; another --out begins again."


def parts_folder(out: Location) -> Path:
    """Where on this machine the parts of `out` are kept."""
    if isinstance(out, Remote):
        return cache_folder() / "building" / f"{hashlib.sha256(out.url.encode()).hexdigest()[:16]}.parts"
    return out.with_name(f".{out.name}.parts")  # hidden: a folder of shards may lie beside it


def check_free(out: Location, *, resume: bool, overwrite: bool) -> None:
    """To be called before anything is loaded.

    Raises:
        UsageError: `out` exists, or was begun and interrupted, and nobody said what to do about it; or it is a file by
            its ending, and a folder is there.
        DataError: there is no such bucket.
    """
    folder = parts_folder(out)
    check_bucket(out, f"Make it and {_GO_ON}")
    if out.suffix and out.is_dir():
        raise UsageError(f"{out} is a folder", "Choose another --out.")
    if out.exists() and not overwrite and not (resume and _is_published(out, folder)):
        raise UsageError(f"{out} exists", "choose another --out, or add --overwrite")
    if (folder / ABOUT).exists() and not (resume or overwrite):
        done = sum(1 for _ in finished(folder))
        raise UsageError(
            f"{out} was begun by a command that was interrupted; {done} of its parts are done, in {folder}",
            "Go on with it: the same command with --resume. Or start again: --overwrite.",
        )


@contextmanager
def begun(out: Location, said: Mapping[str, Any], resume: bool, overwrite: bool) -> Iterator[bool]:
    """The folder of the parts, for this command alone; what an earlier one left is kept or removed.

    Nothing stays of work that failed before its first part was whole.

    Yields:
        whether `out` is there already and only the parts are to be removed.
    """
    check_free(out, resume=resume, overwrite=overwrite)
    folder = parts_folder(out)
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        with blamed(out):
            refuse_links(folder)
            folder.mkdir(parents=True, exist_ok=True)
            refuse_links(*folder.iterdir())
            _sync(folder.parent)
            with _only_one(folder, out):
                published = resume and out.exists() and _is_published(out, folder)
                if not published:
                    _remove(folder / RESULT)
                _prepare(folder, json.loads(json.dumps(said)), out, resume)
                progress.report("parts", folder=str(folder))
                try:
                    yield published
                except BaseException:
                    if not any(finished(folder)):
                        shutil.rmtree(folder, ignore_errors=True)
                    raise
    finally:
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()


def _prepare(folder: Path, said: dict[str, Any], out: Location, resume: bool) -> None:
    about = folder / ABOUT
    if resume := resume and about.exists():  # else nobody knows what the parts are of
        _compare(about, said, out)
    for entry in list(folder.iterdir()):
        if entry.name != _LOCK and not (resume and (entry.name in (ABOUT, RESULT) or entry.name.isdecimal())):
            _remove(entry)
    (folder / CLAIMS).mkdir()
    write_json(about, said)


def _compare(about: Path, said: dict[str, Any], out: Location) -> None:
    try:
        before = json.loads(read_text(about))
        wrong = next(name for name in {**before, **said} if before.get(name) != said.get(name))
    except StopIteration:
        return
    except (ValueError, TypeError) as error:
        raise DataError(f"{about} is damaged: {error}", "Start again: --overwrite.") from error
    raise UsageError(
        f"{out} was begun with {wrong} {before.get(wrong)!r}, now it is {said.get(wrong)!r}",
        "Go on with the same inputs, checkpoint and options, or start again with --overwrite.",
    )


@contextmanager
def _only_one(folder: Path, out: Location) -> Iterator[None]:
    """Held by the kernel, so that a killed process leaves no lock behind, nor its decoding processes: unlike `flock`'s
    it is not theirs, too."""
    with lock_file(folder / _LOCK) as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UsageError(f"another process is writing {out}", "Wait for it, or choose another --out.") from None
        yield


def finished(folder: Path) -> Iterable[Path]:
    """Whole parts, in no order."""
    return (path for path in folder.glob("[0-9]*") if path.name.isdecimal())


def _is_published(out: Location, folder: Path) -> bool:
    """Whether a command was killed when OUT, which exists, had got its name and the parts were still there."""
    joined = folder / JOINED
    if not ((folder / RESULT).exists() and (folder / ABOUT).exists()):
        return False
    if not joined.exists():
        return True
    # An object is a copy and not what was joined itself: the command may have been killed between the two.
    return isinstance(out, Remote) and out.size() == joined.stat().st_size and hashed(out) == hashed(joined)


def publish(joined: Path, out: Location) -> None:
    """`out`, whole; what it replaces goes then."""
    if isinstance(out, Remote):
        check_bucket(out, f"Make it and {_GO_ON}")
        out.upload(joined)
        joined.unlink()
        return
    if not joined.is_dir():
        settle(joined, out)
        return
    for folder in (joined, *filter(Path.is_dir, joined.rglob("*"))):
        _sync(folder)
    if out.exists():
        replaced = joined.with_name("replaced")
        os.rename(out, replaced)
        try:
            os.rename(joined, out)
        except BaseException:
            os.rename(replaced, out)
            raise
    else:
        os.rename(joined, out)
    _sync(out.parent)


def end(folder: Path) -> None:
    """The parts go, then at once all that tells of them: killed before, --resume ends it; after, OUT is any file."""
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):
        for entry in [entry for entry in folder.iterdir() if entry.name not in (ABOUT, _LOCK, RESULT)]:
            _remove(entry)
        folder.rename(gone)
    for left in (gone, folder):
        shutil.rmtree(left, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    settle(temporary, path)


def settle(temporary: Path, path: Path) -> None:
    """Under its name when it is on the disk."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Names in it outlive a power cut."""
    with contextlib.suppress(OSError):  # not every system can be asked for that
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def blamed(out: Location) -> Iterator[None]:
    """What the disk refuses, in our words."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentFault(
            f"{out} cannot be written: {'the disk is full' if full else error.strerror or error}",
            f"{'Free some space' if full else 'Mend that'} and {_GO_ON}",
        ) from error
