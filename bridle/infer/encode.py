"""Sources -> the model, in batches of windows -> one result a file.

Windows of many files share a batch, windows of one file are joined again along time. Who decodes the windows and who
runs the batches is left open (`join`); which windows share a batch is decided here alone, since sums round differently
in other company.

Shapes: B windows of a batch, N valid patches of a file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, islice
from typing import Any

import torch
from torch import Tensor

from bridle import progress
from bridle.decoding.ahead import Decoders, Opened
from bridle.errors import MediaError
from bridle.inputs.listing import Listing
from bridle.inputs.sources import Several, Source, View, windows_of
from bridle.model import Bridle
from bridle.schema import Modality, PatchBatch

Forward = Callable[[PatchBatch], tuple[Tensor, ...]]  # `(B, N, ...)` of each patch, or `(B, 1, ...)` of each window
Outputs = tuple[list[Tensor], Tensor, Tensor]  # of a batch, on the CPU: what `forward` said, valid_BN, coords_BN3
BATCH_SIZE = 32  # windows


@dataclass(slots=True)
class Encoded:
    """What the model said about one whole file.

    Attributes:
        outputs: one tensor for each that the forward function returns: `(N, ...)`, patches in grid order, or a row for
            each window.
        coords_N3: (time, row, column), time counted from the file's begin.
        grid: patches along time, rows and columns; their product is N.
        times_T: start of each step along time in seconds.
    """

    source: Source
    outputs: tuple[Tensor, ...]
    coords_N3: Tensor
    grid: tuple[int, int, int]
    times_T: list[float]


@dataclass(slots=True)
class Failures:
    """Files that could not be read, with the reason; each is reported as a warning.

    Attributes:
        reasons: by path.
        numbered: by number in a listing, where several may have one path.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    numbered: dict[int, str] = field(default_factory=dict)

    def add(self, path: str, reason: str, number: int | None = None) -> None:
        if path in self.reasons and (number is None or number in self.numbered):  # read again, and told already
            return
        self.reasons[path] = reason
        if number is not None:
            self.numbered[number] = reason
        progress.warn(f"skipped {path}: {reason}")


@dataclass(slots=True)
class _File:
    """A file some of whose windows are done."""

    source: Source
    waiting: int = 0  # windows handed to the model and not back yet
    complete: bool = False  # no more windows to come
    steps: int = 0
    outputs: list[tuple[Tensor, ...]] = field(default_factory=list)
    coords: list[Tensor] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def encode(
    model: Bridle,
    sources: Iterable[Source],
    forward: Forward,
    *,
    failures: Failures,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    several: Several | None = None,
) -> Iterator[Encoded]:
    """Run every source through `forward`, in order; files that cannot be read are noted in `failures` and left out.

    Args:
        forward: PatchBatch -> tensors `(B, N, ...)`, such as `lambda batch: (model.features(batch),)`.
        workers: threads that decode ahead; 0 decodes between batches.
        several: clips in time and crops of each instead of consecutive windows; their patches follow each other as if
            in time.
    """
    model.eval()
    return join(_open_ahead(model, sources, workers, several), partial(_run, model, forward), failures, batch_size)


def encode_listed(
    model: Bridle,
    listing: Listing,
    numbers: Iterable[int],
    forward: Forward,
    *,
    failures: Failures,
    batch_size: int = BATCH_SIZE,
    together: int = 0,
    workers: int = 0,
) -> Generator[Encoded]:
    """As `encode`, of files by their numbers in a listing.

    Args:
        together: see `join`.
        workers: processes that decode ahead; 0 decodes between batches.
    """
    model.eval()
    with Decoders(listing, model.patcher, modality_of(model), workers) as decoders:
        yield from join(decoders.opened(numbers), partial(_run, model, forward), failures, batch_size, together)


def join(
    opened: Iterable[Opened],
    run: Callable[[Iterator[list[Any]]], Iterator[Outputs]],
    failures: Failures,
    batch_size: int,
    together: int = 0,
) -> Iterator[Encoded]:
    """Windows -> batches -> files.

    Args:
        run: answers to batches of `View.view`, in their order.
        together: so many files, by their numbers in the listing, share batches among themselves alone; 0: all do.
    """
    files: deque[_File] = deque()
    under_way: deque[list[tuple[_File, View]]] = deque()

    def batches() -> Iterator[list[Any]]:
        windows = _all_windows(opened, files, failures)
        for _, some in groupby(windows, lambda window: together and window[0].source.number // together):
            while batch := list(islice(some, batch_size)):
                under_way.append(batch)
                yield [view.view for _, view in batch]

    for outputs in run(batches()):
        _take(under_way.popleft(), outputs)
        yield from _finished(files, failures)
    yield from _finished(files, failures)


def _all_windows(opened: Iterable[Opened], files: deque[_File], failures: Failures) -> Iterator[tuple[_File, View]]:
    """Every window of every readable file."""
    for source, windows in opened:
        file = _File(source)
        files.append(file)
        try:
            for number, view in enumerate(windows()):
                if view.notice and not number and source.info is None:  # of sets, `notices` tells
                    progress.warn(f"{source.path}: {view.notice}")
                file.waiting += 1
                yield file, view
            file.complete = True
        except MediaError as error:
            failures.add(source.path, error.message, source.number)
            files.remove(file)


def modality_of(model: Bridle) -> Modality:
    """What the model's windows are made of."""
    return Modality(model.config.patches.modality)


def _open_ahead(model: Bridle, sources: Iterable[Source], workers: int, several: Several | None) -> Iterator[Opened]:
    """Every source; threads have already decoded the first piece of each."""
    modality = modality_of(model)

    def windows(source: Source) -> Iterator[View]:
        return windows_of(source, model.patcher, modality, several)

    def begin(source: Source) -> tuple[list[View], Iterator[View]]:
        rest = windows(source)
        return list(islice(rest, 1)), rest

    if not workers:
        for source in sources:
            yield source, lambda source=source: windows(source)  # type: ignore[misc]
        return
    with ThreadPoolExecutor(workers) as threads:
        todo, ahead = iter(sources), deque[tuple[Source, Future[tuple[list[View], Iterator[View]]]]]()
        while True:
            for source in islice(todo, 2 * workers - len(ahead)):
                ahead.append((source, threads.submit(begin, source)))
            if not ahead:
                return
            source, future = ahead.popleft()
            yield source, lambda future=future: chain(*future.result())  # type: ignore[misc]


def _run(model: Bridle, forward: Forward, batches: Iterator[list[Any]]) -> Iterator[Outputs]:
    return (run_batch(model, views, forward) for views in batches)


@torch.inference_mode()
def run_batch(model: Bridle, views: Sequence[Tensor], forward: Forward) -> Outputs:
    """One batch of windows through the model."""
    patches = model.patcher(list(views))
    return [output.cpu() for output in forward(patches)], patches.valid_BN.cpu(), patches.coords_BN3.cpu()


def _take(batch: list[tuple[_File, View]], answer: Outputs) -> None:
    """Each window's part of the answer goes to its file."""
    outputs, valid_BN, coords_BN3 = answer
    for row, (file, view) in enumerate(batch):
        keep_N = valid_BN[row]
        coords_N3 = coords_BN3[row][keep_N].clone()
        steps = int(coords_N3[:, 0].max()) + 1
        coords_N3[:, 0] += file.steps
        file.outputs.append(tuple(out[row][keep_N] if out.shape[1] == len(keep_N) else out[row] for out in outputs))
        file.coords.append(coords_N3)
        file.times += [view.start_s + step * view.step_s for step in range(steps)]
        file.steps += steps
        file.waiting -= 1


def _finished(files: deque[_File], failures: Failures) -> Iterator[Encoded]:
    while files and files[0].complete and not files[0].waiting:
        file = files.popleft()
        coords_N3 = torch.cat(file.coords)
        rows, columns = (int(coords_N3[:, axis].max()) + 1 for axis in (1, 2))
        outputs = tuple(torch.cat(parts) for parts in zip(*file.outputs, strict=True))
        if all(bool((out.isfinite() if out.is_floating_point() else out >= 0).all()) for out in outputs):
            yield Encoded(file.source, outputs, coords_N3, (file.steps, rows, columns), file.times)
        else:
            failures.add(file.source.path, "the model's output is not finite", file.source.number)
