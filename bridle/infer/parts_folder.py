"""The folder that keeps the parts of an output until it is whole: begun, resumed, published, removed.

.OUT.parts/work.json      what was asked for; other work is not resumed
.OUT.parts/000000 ...     whole parts, see `bridle.infer.parts`
.OUT.parts/result.json    what came of joining them: OUT is there, or `joined` beside it becomes OUT
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridle import progress
from bridle.errors import DataError, UsageError
from bridle.outputs import (
    LOCK,
    exists,
    interrupted,
    put_in_place,
    remote_staging,
    same_settings,
    settle,
    staging,
    write_text,
)
from bridle.storage import Location, Remote, check_bucket, hashed, read_text

IDENTITY, CLAIMS, JOINED, RESULT = "work.json", "claims", "joined", "result.json"
_NO_BUCKET = "Make it and continue with --resume, or choose another --out."


def parts_folder(out: Location) -> Path:
    """Where on this machine the parts of `out` are kept."""
    if isinstance(out, Remote):
        return remote_staging(out).with_suffix(".parts")
    return out.with_name(f".{out.name}.parts")  # hidden: a folder of shards may lie beside it


def check_free(out: Location, *, resume: bool, overwrite: bool) -> None:
    """To be called before anything is loaded.

    Raises:
        UsageError: `out` exists, or was begun and interrupted, without `resume` or `overwrite`; or it is a file by
            its ending, and a folder is there.
        DataError: there is no such bucket.
    """
    folder = parts_folder(out)
    check_bucket(out, _NO_BUCKET)
    if out.suffix and out.is_dir():
        raise UsageError(f"{out} is a folder.", "Choose another --out.")
    if out.exists() and not overwrite and not (resume and _is_published(out, folder)):
        raise exists(out)
    if (folder / IDENTITY).exists() and not (resume or overwrite):
        done = sum(1 for _ in finished(folder))
        raise interrupted(out, folder, f"{done} of its parts are done, in {folder}")


@contextmanager
def begun(out: Location, identity: Mapping[str, Any], resume: bool, overwrite: bool) -> Iterator[bool]:
    """The folder of the parts, for this command alone; what an earlier one left is kept or removed.

    Nothing stays of work that failed before its first part was whole.

    Yields:
        whether `out` is there already and only the parts are to be removed.
    """
    check_free(out, resume=resume, overwrite=overwrite)
    folder = parts_folder(out)
    with staging(folder, out, resumable=True):
        published = resume and out.exists() and _is_published(out, folder)
        if not published:
            _remove(folder / RESULT)
        _prepare(folder, json.loads(json.dumps(identity)), out, resume)
        progress.report("parts", folder=str(folder))
        try:
            yield published
        except BaseException:
            if not any(finished(folder)):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _prepare(folder: Path, identity: dict[str, Any], out: Location, resume: bool) -> None:
    file = folder / IDENTITY
    if resume := resume and file.exists():  # else nobody knows what the parts are of
        try:
            before = dict(json.loads(read_text(file)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{file} is damaged: {error}", "Start again with --overwrite.") from error
        same_settings(before, identity, out)
    for entry in list(folder.iterdir()):
        if entry.name != LOCK and not (resume and (entry.name in (IDENTITY, RESULT) or entry.name.isdecimal())):
            _remove(entry)
    (folder / CLAIMS).mkdir()
    write_json(file, identity)


def finished(folder: Path) -> Iterable[Path]:
    """Whole parts, in no order."""
    return (path for path in folder.glob("[0-9]*") if path.name.isdecimal())


def _is_published(out: Location, folder: Path) -> bool:
    """Whether a command was killed when OUT, which exists, had got its name and the parts were still there."""
    joined = folder / JOINED
    if not ((folder / RESULT).exists() and (folder / IDENTITY).exists()):
        return False
    if not joined.exists():
        return True
    # An object is a copy and not what was joined itself: the command may have been killed between the two.
    return isinstance(out, Remote) and out.size() == joined.stat().st_size and hashed(out) == hashed(joined)


def publish(joined: Path, out: Location) -> None:
    """`out`, whole; what it replaces goes then."""
    if isinstance(out, Remote):
        check_bucket(out, _NO_BUCKET)
        out.upload(joined)
        joined.unlink()
        return
    if joined.is_dir():
        put_in_place(joined, out)
    else:
        settle(joined, out)


def end(folder: Path) -> None:
    """The parts go, then at once all that tells of them: killed before, --resume ends it; after, OUT is any file."""
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):
        for entry in [entry for entry in folder.iterdir() if entry.name not in (IDENTITY, LOCK, RESULT)]:
            _remove(entry)
        folder.rename(gone)
    for left in (gone, folder):
        shutil.rmtree(left, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
