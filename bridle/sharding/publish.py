"""A set that appears whole or not at all: it is built in a hidden folder of its output, by one process at a time.

On object storage, where nothing can be renamed, a set is there when its manifest is. Its tars are uploaded as they
come; the hidden folder is one of this machine, from where alone such a run can be resumed.

What a killed run leaves there is a journal and whole tars, from which `resume` continues.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridle.archive.manifest import FILE, Manifest, is_index
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.outputs import LOCK, exists, interrupted, remote_staging, staging, sync, written
from bridle.sharding.journal import FILE as JOURNAL
from bridle.sharding.journal import Journal
from bridle.storage import (
    Location,
    Remote,
    check_bucket,
    names_in,
    read_small,
    read_text,
    refuse_links,
)

PARTIAL = ".partial"
BEGUN = "begun"  # from here on there is a run to resume, though no tar is whole
_REPLACED = ".replaced"


def workplace(out: Location) -> Path:
    """Where on this machine the set at `out` is built."""
    return remote_staging(out) if isinstance(out, Remote) else out


def check_output(out: Location, *, overwrite: bool, resume: bool) -> None:
    """Refuse an output that would be lost.

    Raises:
        UsageError: a set is there, whole or unfinished, and may not be replaced, or other files are. DataError: there
            is no such bucket.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder.", "Choose another --out.")
    partial = workplace(out) / PARTIAL
    refuse_links(partial)
    unfinished, whole = (partial / JOURNAL).exists(), (out / FILE).exists()
    if (resume or overwrite) and (unfinished or whole):
        return
    if unfinished:
        raise interrupted(out, partial)
    if whole:
        raise exists(out, "a set of shards", "Add new files with --resume.")
    check_bucket(out, "Create it first, or choose another --out.")
    others = [name for name in names_in(out) if not name.startswith((PARTIAL, _REPLACED))]
    if others:
        raise UsageError(
            f"{out} holds files that are not a set of shards: {', '.join(others[:3])}",
            "Choose another --out, or remove them.",
        )


def check_no_set(out: Location) -> None:
    """Refuse a folder for the parts of a split that is a set itself: its samples would be there twice."""
    if (out / FILE).exists() or (workplace(out) / PARTIAL / JOURNAL).exists():
        raise UsageError(f"{out} is a set of shards, not a folder for several.", "Choose another --out.")


@contextmanager
def building(out: Location, *, resume: bool) -> Iterator[Path]:
    """The hidden folder of the set at `out`, for this process alone.

    When the work is interrupted it stays if it holds a whole tar; otherwise it goes, and its parent too if it is empty.

    Raises:
        UsageError: another process is at it. EnvironmentFault: no space, no permission.
    """
    partial = workplace(out) / PARTIAL
    refuse_links(partial.with_name(_REPLACED))
    try:
        with staging(partial, out, resumable=True):
            if not resume or _is_published(partial):
                _start_over(partial)
            try:
                yield partial
            finally:
                if not _worth_keeping(partial):
                    shutil.rmtree(partial, ignore_errors=True)
    except sqlite3.DatabaseError as error:  # a full disk, or a journal that is damaged
        raise EnvironmentFault(
            f"the journal in {partial} cannot be written or read: {error}",
            "Free some space and continue with --resume; if it is damaged, start again with --overwrite.",
        ) from error


def publish(partial: Path, out: Location, journal: Journal) -> None:
    """Move a finished set into place, the manifest last; the set it replaces goes only then.

    Can be repeated after it was killed at any point. What the journal notes: "manifest", the text of the new one;
    "index", the name of its file; "replaces", the names of the files that must go.
    """
    manifest, (index,) = str(journal.noted("manifest")), journal.names("index")
    if isinstance(out, Remote):
        _publish_remote(partial, out, journal, manifest, index)
        return
    check_tars(partial, out, journal)
    replaced = out / _REPLACED
    moved: list[tuple[Path, Path]] = []  # (from, to), undone backwards on failure
    try:
        for name in journal.names("replaces"):
            if (out / name).exists() and not (replaced / name).exists():
                replaced.mkdir(exist_ok=True)
                _move(out / name, replaced / name, moved)
        for path in [*sorted(partial.glob("*.tar")), partial / index]:
            if path.exists():
                _move(path, out / path.name, moved)
        with written(partial / FILE) as file:
            file.write(manifest.encode())
        os.replace(partial / FILE, out / FILE)
    except BaseException:
        if _holds(out, manifest):  # a signal came during the last line above
            raise
        for source, target in reversed(moved):
            os.rename(target, source)
        with contextlib.suppress(OSError):
            replaced.rmdir()
        raise
    sync(out)
    journal.note("published", True)  # before the old set is gone for good: then nothing may be moved a second time
    journal.commit()
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)


def check_tars(partial: Path, out: Path, journal: Journal) -> None:
    """Every tar that the journal has is there in its full size, still hidden or in place already.

    Raises:
        DataError: naming the first that is not.
    """
    for shard, _ in journal.shards():
        places = [place for place in (partial / shard.file, out / shard.file) if place.exists()]
        if not places or places[0].stat().st_size != shard.bytes:
            raise DataError(
                f"{partial / shard.file}, a finished tar, was {'truncated' if places else 'removed'} by others",
                "Start again with --overwrite.",
            )


def check_alone(out: Remote, journal: Journal, manifest: str = "") -> None:
    """Nobody else has published a set at `out` since this run began; the lock is one of this machine alone.

    Args:
        manifest: our own, which may be there when publishing is repeated.

    Raises:
        UsageError: somebody has.
    """
    if journal.noted("adds"):
        return
    with contextlib.suppress(FileNotFoundError):
        if (out / FILE).read_bytes() != manifest.encode():
            raise UsageError(f"another process has written a set to {out} meanwhile", "Choose another --out.")


def _publish_remote(partial: Path, out: Remote, journal: Journal, manifest: str, index: str) -> None:
    """The index, then the manifest; the tars are there, and a set that is replaced went before the first of them."""
    check_alone(out, journal, manifest)
    if (partial / index).exists():
        (out / index).upload(partial / index)
    (out / FILE).write_bytes(manifest.encode())
    kept = {FILE, index, *(shard["file"] for shard in json.loads(manifest)["shards"])}
    for name in journal.names("replaces"):
        if name not in kept:
            with contextlib.suppress(FileNotFoundError):
                (out / name).unlink()
    journal.note("published", True)
    journal.commit()
    shutil.rmtree(partial, ignore_errors=True)


def files_of(out: Location, name: str) -> list[str]:
    """The manifest, tars and index of the set at `out`, and tars that would be in the way of a set of that name.

    If the manifest is unreadable, all tars there. The manifest comes first: without the others it must not be seen.
    """
    there = names_in(out)
    tars = {file for file in there if re.fullmatch(rf"{name}-\d{{6,}}\.tar", file)}
    try:
        tars |= {str(shard["file"]) for shard in json.loads(read_text(out / FILE))["shards"]}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        tars |= {file for file in there if file.endswith(".tar")}
    ours = [file for file in there if file == FILE or file in tars or is_index(file)]
    return sorted(ours, key=lambda file: file != FILE)


def next_number(manifest: Manifest) -> int:
    """Of the first tar that is added to a set."""
    numbers = [re.search(r"-(\d+)\.tar$", shard.file) for shard in manifest.shards]
    return 1 + max((int(found[1]) for found in numbers if found), default=-1)


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    if target.exists():
        raise FileExistsError(errno.EEXIST, "a file of that name appeared meanwhile", str(target))
    os.rename(source, target)
    moved.append((source, target))


def _is_published(partial: Path) -> bool:
    """Whether the run before was killed after its set was in place; its manifest may be there before that is noted."""
    if not (partial / JOURNAL).exists():
        return False
    with contextlib.closing(Journal(partial / JOURNAL)) as journal:
        if journal.noted("published"):
            return True
        manifest = journal.noted("manifest")
    return _holds(partial.parent, manifest)


def _holds(out: Path, manifest: str | None) -> bool:
    """Whether the set at `out` is the one of that manifest."""
    with contextlib.suppress(OSError):
        return bool(manifest) and read_small(out / FILE) == str(manifest).encode()
    return False


def _moved(partial: Path, out: Path) -> list[Path]:
    """Files of an unfinished set that are in place already; while one is hidden, its name is that of an old one."""
    if not (partial / JOURNAL).exists():
        return []
    with contextlib.closing(Journal(partial / JOURNAL)) as journal:
        names = [shard.file for shard, _ in journal.shards()] + journal.names("index")
        manifest = journal.noted("manifest")
    return [out / name for name in names if manifest and not (partial / name).exists() and (out / name).exists()]


def _start_over(partial: Path) -> None:
    """Nothing of the run before stays; a set that it was about to replace comes back."""
    out = partial.parent
    try:
        published = _is_published(partial)
        moved = [] if published else _moved(partial, out)
    except sqlite3.DatabaseError:  # a journal that is damaged; the manifest is what is moved last
        published, moved = (out / FILE).exists(), []
    for path in moved:
        path.unlink()
    for entry in partial.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    if published:
        shutil.rmtree(out / _REPLACED, ignore_errors=True)
    elif (out / _REPLACED).exists():
        for path in (out / _REPLACED).iterdir():
            os.replace(path, out / path.name)
        (out / _REPLACED).rmdir()


def _worth_keeping(partial: Path) -> bool:
    """Whether there is a whole tar to resume from, or an old set that was taken away for the first one."""
    if not (partial / JOURNAL).exists():
        return False
    with contextlib.closing(Journal(partial / JOURNAL)) as journal:
        return (partial / BEGUN).exists() or bool(journal.shards())


def indexes_of(out: Location) -> list[str]:
    """Names of the indexes at `out`."""
    return [name for name in names_in(out) if is_index(name)]
