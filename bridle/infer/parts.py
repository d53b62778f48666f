"""Long work in parts that are kept: what a killed command has done is not done again, and several processes share it.

numbered items --compute--> results --write--> .OUT.parts/000000, .OUT.parts/000001 ... --join--> OUT

Knows nothing of what is computed. A part is a fixed number of items, and what is computed of one must not depend on the
others: then the parts are the same whoever computes them, after whatever interruption, and so is what they are joined
to. A part appears under its name when it is whole and on the disk; OUT likewise, and then the folder goes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bridle import distributed
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.storage import Location, Remote, cache_folder, hashed

ITEMS = 512  # a part of files: minutes of work, thousands of parts for a million
_ABOUT, _LOCK, _CLAIMS, _STOP, _JOINED, _RESULT = "work.json", "lock", "claims", "stop", "joined", "result.json"
_FORMAT, _VERSION = "bridle-parts", 1
_GO_ON = "go on with --resume; another --out begins again."

Item = TypeVar("Item")
Result = TypeVar("Result")
Compute = Callable[[Iterator[int]], Generator[tuple[int, Item]]]
Write = Callable[[Path, range, Iterator[tuple[int, Item]]], None]
Join = Callable[[Path, list[Path]], Result]


class NothingRead(DataError):
    """Every single item failed: of these parts nothing can be made."""


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
    _check_bucket(out)
    if out.suffix and out.is_dir():
        raise UsageError(f"{out} is a folder", "Choose another --out.")
    if out.exists() and not overwrite and not (resume and _is_published(out, folder)):
        raise UsageError(f"{out} exists", "choose another --out, or add --overwrite")
    if (folder / _ABOUT).exists() and not (resume or overwrite):
        done = sum(1 for _ in _finished(folder))
        raise UsageError(
            f"{out} was begun by a command that was interrupted; {done} of its parts are done, in {folder}",
            "Go on with it: the same command with --resume. Or start again: --overwrite.",
        )


def in_parts(
    out: Location,
    said: Mapping[str, Any],
    items: int,
    compute: Compute[Item],
    write: Write[Item],
    join: Join[Result],
    *,
    size: int = ITEMS,
    resume: bool = False,
    overwrite: bool = False,
    on_event: Callable[..., None] | None = None,
) -> Result | None:
    """Compute what is missing, alone or with the other processes of a group; then rank 0 joins everything.

    Args:
        said: what decides the result (model, inputs, options), as JSON; work that was begun with something else is not
            resumed.
        items: how many there are, numbered from 0.
        compute: numbers of items in growing order -> the result of each, in that order; a number may be left out
            (a file that cannot be read). It may take numbers ahead of what it gives.
        write: one part into a new file, given its path, its numbers and the results of those that were not left out;
            must take them all.
        join: all parts, in order, into a new file or folder at the path it is given. What it returns, as JSON, is the
            result.
        size: items of a part.
        resume: go on where an earlier call ended; without one, begin.
        overwrite: replace `out`; without `resume` what an earlier call left is thrown away.
        on_event: told `parts` (folder) at the begin and `progress` (done, total, what) after each item.

    Returns:
        what `join` returned, on rank 0; None on the others.

    Raises:
        UsageError: see `check_free`; another process is at it, or it was begun with something else.
        DataError: from `join`; of a damaged part it says what to do about it.
        EnvironmentFault: the disk is full or cannot be written, or is not the same for all processes.
    """
    work = _Work(out, parts_folder(out), items, size, on_event or (lambda kind, **fields: None))
    content = {"format": _FORMAT, "version": _VERSION, **said, "part": size}
    with ExitStack() as stack:
        published = distributed.first_decides(lambda: stack.enter_context(_begun(work, content, resume, overwrite)))
        if not published:
            distributed.together(work.check_shared)
            distributed.together(lambda: work.compute(compute, write), hours_apart=True)
        if distributed.rank():
            return None
        joined, about = work.folder / _JOINED, work.folder / _RESULT
        try:
            if not published:
                _write_json(about, work.join(join, joined))
                _publish(joined, out)
            result = json.loads(about.read_text())
        except NothingRead:
            shutil.rmtree(work.folder, ignore_errors=True)
            raise
        _end(work.folder)
        return result


@dataclass(frozen=True, slots=True)
class _Work:
    out: Location
    folder: Path
    items: int
    size: int
    tell: Callable[..., None]

    @property
    def parts(self) -> int:
        return -(-self.items // self.size)

    def name(self, part: int) -> str:
        return f"{part:06d}"

    def span(self, part: int) -> range:
        return range(part * self.size, min(self.items, (part + 1) * self.size))

    def done(self) -> int:
        """Items of all parts that are finished, by whatever process."""
        return sum(len(self.span(int(path.name))) for path in _finished(self.folder))

    def check_shared(self) -> None:
        """Raises EnvironmentFault where the folder that the first process has made is not seen."""
        if not (self.folder / _ABOUT).exists():
            raise EnvironmentFault(
                f"{self.folder}, made by process 0, is not there on {socket.gethostname()}",
                "Processes on several machines need a file system that all of them see: for OUT, and if OUT is in "
                "object storage for the folder that BRIDLE_CACHE names.",
            )

    def join(self, join: Join[Result], joined: Path) -> Result:
        """What `join` says; of a part that cannot be read, what to do about it."""
        parts = [self.folder / self.name(number) for number in range(self.parts)]
        try:
            return join(joined, parts)
        except (DataError, ValueError) as error:  # the reader of codes knows no errors of ours
            said = getattr(error, "message", str(error))
            if not any(str(part) in said for part in parts):
                raise
            raise DataError(
                f"a finished part cannot be used: {said}",
                "Remove it and go on with --resume, or start again: --overwrite.",
            ) from error

    def compute(self, compute: Compute[Item], write: Write[Item]) -> None:
        """This process's share of what is missing."""
        under_way: deque[int] = deque()  # parts whose numbers were taken
        told = 0

        def tell(done: int) -> None:
            nonlocal told
            if done != told:
                self.tell("progress", done=done, total=self.items, what="files")
            told = done

        def numbers() -> Iterator[int]:
            for part in self._claimed():
                under_way.append(part)
                yield from self.span(part)

        try:
            with _blamed(self.out), closing(compute(numbers())) as found:
                pending, done = next(found, None), 0

                def results(span: range) -> Iterator[tuple[int, Item]]:
                    nonlocal pending
                    while pending is not None and pending[0] in span:
                        yield pending
                        tell(done + pending[0] - span.start + 1)
                        pending = next(found, None)

                while under_way:
                    part, done = under_way.popleft(), self.done()
                    temporary = self.folder / f".{self.name(part)}.{os.getpid()}"
                    write(temporary, self.span(part), results(self.span(part)))
                    _settle(temporary, self.folder / self.name(part))
                tell(self.done())
        except BaseException:
            with contextlib.suppress(OSError):  # the others need not go on
                (self.folder / _CLAIMS / _STOP).touch()
            raise

    def _claimed(self) -> Iterator[int]:
        """Parts that are missing, each for one process alone."""
        claims, alone = self.folder / _CLAIMS, distributed.world() == 1
        for part in range(self.parts):
            if (self.folder / self.name(part)).exists():
                continue
            if not alone:
                if (claims / _STOP).exists():
                    return
                try:
                    (claims / self.name(part)).touch(exist_ok=False)
                except FileExistsError:
                    continue
            yield part


@contextmanager
def _begun(work: _Work, said: Mapping[str, Any], resume: bool, overwrite: bool) -> Iterator[bool]:
    """The folder of the parts, for this command alone; what an earlier one left is kept or removed.

    Nothing stays of work that failed before its first part was whole.

    Yields:
        whether `out` is there already and only the parts are to be removed.
    """
    check_free(work.out, resume=resume, overwrite=overwrite)
    made = [folder for folder in work.folder.parents if not folder.exists()]
    try:
        with _blamed(work.out):
            work.folder.mkdir(parents=True, exist_ok=True)
            _sync(work.folder.parent)
            with _only_one(work.folder, work.out):
                published = resume and work.out.exists() and _is_published(work.out, work.folder)
                if not published:
                    _remove(work.folder / _RESULT)
                _prepare(work.folder, json.loads(json.dumps(said)), work.out, resume)
                work.tell("parts", folder=str(work.folder))
                try:
                    yield published
                except BaseException:
                    if not any(_finished(work.folder)):
                        shutil.rmtree(work.folder, ignore_errors=True)
                    raise
    finally:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def _prepare(folder: Path, said: dict[str, Any], out: Location, resume: bool) -> None:
    about = folder / _ABOUT
    if resume and about.exists():
        _compare(about, said, out)
    for entry in list(folder.iterdir()):
        if entry.name != _LOCK and not (resume and (entry.name in (_ABOUT, _RESULT) or entry.name.isdecimal())):
            _remove(entry)
    (folder / _CLAIMS).mkdir()
    _write_json(about, said)


def _is_published(out: Location, folder: Path) -> bool:
    """Whether a command was killed when OUT, which exists, had got its name and the parts were still there."""
    joined = folder / _JOINED
    if not (folder / _RESULT).exists():
        return False
    if not joined.exists():
        return True
    # An object is a copy and not what was joined itself: the command may have been killed between the two.
    return isinstance(out, Remote) and out.size() == joined.stat().st_size and hashed(out) == hashed(joined)


def _end(folder: Path) -> None:
    """The parts go, and last of all what says that OUT is there: killed on the way, --resume ends it."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.name not in (_ABOUT, _LOCK, _RESULT):
                _remove(entry)
        _remove(folder / _RESULT)
    shutil.rmtree(folder, ignore_errors=True)


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    _settle(temporary, path)


def _compare(about: Path, said: dict[str, Any], out: Location) -> None:
    try:
        before = json.loads(about.read_text())
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
    with open(folder / _LOCK, "w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UsageError(f"another process is writing {out}", "Wait for it, or choose another --out.") from None
        yield


def _finished(folder: Path) -> Iterable[Path]:
    return (path for path in folder.glob("[0-9]*") if path.name.isdecimal())


def _settle(temporary: Path, path: Path) -> None:
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


def _publish(joined: Path, out: Location) -> None:
    """`out`, whole; what it replaces goes then."""
    if isinstance(out, Remote):
        _check_bucket(out)
        out.upload(joined)
        joined.unlink()
        return
    if not joined.is_dir():
        _settle(joined, out)
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


def _check_bucket(out: Location) -> None:
    if isinstance(out, Remote) and out.url.startswith("s3://") and not out.bucket.exists():
        raise DataError(f"there is no bucket {out.bucket}", f"Make it and {_GO_ON}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _blamed(out: Location) -> Iterator[None]:
    """What the disk refuses, in our words."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentFault(
            f"{out} cannot be written: {'the disk is full' if full else error.strerror or error}",
            f"{'Free some space' if full else 'Mend that'} and {_GO_ON}",
        ) from error
