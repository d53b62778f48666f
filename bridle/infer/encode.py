"""Sources -> the model, in batches of windows -> one result a file.

Windows of many files share a batch, windows of one file are joined again along time.

Shapes: B windows of a batch, N valid patches of a file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from bridle.errors import MediaError
from bridle.infer.sources import Source, View, windows_of
from bridle.model import Bridle
from bridle.schema import Modality, PatchBatch

Forward = Callable[[PatchBatch], tuple[Tensor, ...]]
BATCH_SIZE = 32  # windows


@dataclass(slots=True)
class Encoded:
    """What the model said about one whole file.

    Attributes:
        outputs: one tensor `(N, ...)` for each that the forward function returns, patches in grid order.
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
    """Files that could not be read, with the reason; `on_event("warning", message=...)` tells of each."""

    on_event: Callable[..., None] | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, reason: str) -> None:
        self.reasons[path] = reason
        if self.on_event:
            self.on_event("warning", message=f"skipped {path}: {reason}")


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
) -> Iterator[Encoded]:
    """Run every source through `forward`, in order; files that cannot be read are noted in `failures` and left out.

    Args:
        forward: PatchBatch -> tensors `(B, N, ...)`, such as `lambda batch: (model.features(batch),)`.
        workers: threads that decode ahead; 0 decodes between batches.
    """
    model.eval()
    files: deque[_File] = deque()
    batch: list[tuple[_File, View]] = []
    for file, view in _all_windows(model, sources, files, failures, workers):
        if view is not None:
            batch.append((file, view))
        if len(batch) == batch_size:
            _run(model, batch, forward)
            batch = []
        yield from _finished(files)
    if batch:
        _run(model, batch, forward)
    yield from _finished(files)


def _all_windows(
    model: Bridle, sources: Iterable[Source], files: deque[_File], failures: Failures, workers: int
) -> Iterator[tuple[_File, View | None]]:
    """Every window of every readable file; None at the end of a file."""
    for source, opened in _open_ahead(model, sources, workers):
        file = _File(source)
        files.append(file)
        try:
            for view in opened():
                file.waiting += 1
                yield file, view
            file.complete = True
        except MediaError as error:
            failures.add(source.path, error.message)
            files.remove(file)
            continue
        yield file, None


def _open_ahead(
    model: Bridle, sources: Iterable[Source], workers: int
) -> Iterator[tuple[Source, Callable[[], Iterator[View]]]]:
    """Sources with a function that yields their windows; threads have already decoded the first piece of each."""
    config: Any = model.config.patches
    modality, rate_hz = Modality(config.modality), getattr(config, "rate_hz", 16000)

    def windows(source: Source) -> Iterator[View]:
        return windows_of(source, model.patcher, modality, rate_hz)

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


@torch.inference_mode()
def _run(model: Bridle, batch: list[tuple[_File, View]], forward: Forward) -> None:
    patches = model.patcher([view.view for _, view in batch])
    outputs = [output.cpu() for output in forward(patches)]
    valid_BN, coords_BN3 = patches.valid_BN.cpu(), patches.coords_BN3.cpu()
    for row, (file, view) in enumerate(batch):
        keep_N = valid_BN[row]
        coords_N3 = coords_BN3[row][keep_N].clone()
        steps = int(coords_N3[:, 0].max()) + 1
        coords_N3[:, 0] += file.steps
        file.outputs.append(tuple(output[row][keep_N] for output in outputs))
        file.coords.append(coords_N3)
        file.times += [view.start_s + step * view.step_s for step in range(steps)]
        file.steps += steps
        file.waiting -= 1


def _finished(files: deque[_File]) -> Iterator[Encoded]:
    while files and files[0].complete and not files[0].waiting:
        file = files.popleft()
        coords_N3 = torch.cat(file.coords)
        rows, columns = (int(coords_N3[:, axis].max()) + 1 for axis in (1, 2))
        outputs = tuple(torch.cat(parts) for parts in zip(*file.outputs, strict=True))
        yield Encoded(file.source, outputs, coords_N3, (file.steps, rows, columns), file.times)
