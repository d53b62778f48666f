"""Long work in parts that are kept: what a killed command has done is not done again, and several processes share it.

numbered items --compute--> results --write--> .OUT.parts/000000, .OUT.parts/000001 ... --join--> OUT

Knows nothing of what is computed. A part is a fixed number of items, and what is computed of one must not depend on the
others: then the parts are the same whoever computes them, after whatever interruption, and so is what they are joined
to. A part appears under its name when it is whole and on the disk; OUT likewise, and then the folder goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bridle import distributed, progress
from bridle.errors import DataError, EnvironmentFault
from bridle.infer.parts_folder import (
    CLAIMS,
    IDENTITY,
    JOINED,
    RESULT,
    begun,
    end,
    finished,
    parts_folder,
    publish,
    write_json,
)
from bridle.inputs.listing import ITEMS
from bridle.outputs import disk_errors, settle
from bridle.storage import Location, read_text

_STOP = "stop"
_FORMAT, _VERSION = "bridle-parts", 1

Item = TypeVar("Item")
Result = TypeVar("Result")
Compute = Callable[[Iterator[int]], Generator[tuple[int, Item]]]
Write = Callable[[Path, range, Iterator[tuple[int, Item]]], None]
Join = Callable[[Path, list[Path]], Result]


class NothingRead(DataError):
    """Every single item failed: of these parts nothing can be made."""


def in_parts(
    out: Location,
    identity: Mapping[str, Any],
    items: int,
    compute: Compute[Item],
    write: Write[Item],
    join: Join[Result],
    *,
    size: int = ITEMS,
    resume: bool = False,
    overwrite: bool = False,
) -> Result | None:
    """Compute what is missing, alone or with the other processes of a group; then rank 0 joins everything.

    Args:
        identity: what decides the result (model, inputs, options), as JSON; work that was begun with another one is
            not resumed.
        items: how many there are, numbered from 0.
        compute: numbers of items in growing order -> the result of each, in that order; a number may be left out
            (a file that cannot be read). It may take numbers ahead of what it gives.
        write: one part into a new file, given its path, its numbers and the results of those that were not left out;
            must take them all.
        join: all parts, in order, into a new file or folder at the path it is given. What it returns, as JSON, is the
            result.
        size: items of a part.
        resume: continue where an earlier call ended; without one, begin.
        overwrite: replace `out`; without `resume` what an earlier call left is thrown away.

    Returns:
        what `join` returned, on rank 0; None on the others.

    Raises:
        UsageError: see `check_free`; another process is at it, or it was begun with something else.
        DataError: from `join`; of a damaged part it says what to do about it.
        EnvironmentFault: the disk is full or cannot be written, or is not the same for all processes.
    """
    work = _Work(out, parts_folder(out), items, size)
    content = {"format": _FORMAT, "version": _VERSION, **identity, "part": size}
    with ExitStack() as stack:
        published = distributed.first_decides(lambda: stack.enter_context(begun(out, content, resume, overwrite)))
        if not published:
            distributed.together(work.check_shared)
            distributed.together(lambda: work.compute(compute, write), hours_apart=True)
        if distributed.rank():
            return None
        joined, about = work.folder / JOINED, work.folder / RESULT
        try:
            if not published:
                write_json(about, work.join(join, joined))
                publish(joined, out)
            result = json.loads(read_text(about))
        except NothingRead:
            shutil.rmtree(work.folder, ignore_errors=True)
            raise
        end(work.folder)
        return result


@dataclass(frozen=True, slots=True)
class _Work:
    out: Location
    folder: Path
    items: int
    size: int

    @property
    def parts(self) -> int:
        return -(-self.items // self.size)

    def name(self, part: int) -> str:
        return f"{part:06d}"

    def span(self, part: int) -> range:
        return range(part * self.size, min(self.items, (part + 1) * self.size))

    def done(self) -> int:
        """Items of all parts that are finished, by whatever process."""
        return sum(len(self.span(int(path.name))) for path in finished(self.folder))

    def check_shared(self) -> None:
        """Check that this rank sees the folder made by rank 0; raises EnvironmentFault."""
        if not (self.folder / IDENTITY).exists():
            raise EnvironmentFault(
                f"{self.folder}, made by rank 0, does not exist on {socket.gethostname()}",
                "Use a file system shared by all machines for OUT (if OUT is in object storage, for BRIDLE_CACHE).",
            )

    def join(self, join: Join[Result], joined: Path) -> Result:
        """What `join` says; of a part that cannot be read, what to do about it."""
        parts = [self.folder / self.name(number) for number in range(self.parts)]
        try:
            return join(joined, parts)
        except (DataError, ValueError) as error:  # the reader of codes knows no errors of ours
            message = getattr(error, "message", str(error))
            if not any(str(part) in message for part in parts):
                raise
            raise DataError(
                f"a finished part cannot be used: {message}",
                "Remove it and continue with --resume, or start again with --overwrite.",
            ) from error

    def compute(self, compute: Compute[Item], write: Write[Item]) -> None:
        """This process's share of what is missing."""
        under_way: deque[int] = deque()  # parts whose numbers were taken
        reported = 0

        def tell(done: int) -> None:
            nonlocal reported
            if done != reported:
                progress.report("progress", done=done, total=self.items, what="files")
            reported = done

        def numbers() -> Iterator[int]:
            for part in self._claimed():
                under_way.append(part)
                yield from self.span(part)

        try:
            with disk_errors(self.out, resumable=True), closing(compute(numbers())) as found:
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
                    settle(temporary, self.folder / self.name(part))
                tell(self.done())
        except BaseException:
            with contextlib.suppress(OSError):  # the others need not continue
                (self.folder / CLAIMS / _STOP).touch()
            raise

    def _claimed(self) -> Iterator[int]:
        """Parts that are missing, each for one process alone."""
        claims, alone = self.folder / CLAIMS, distributed.world() == 1
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
