"""A labelled data set through a frozen encoder, once: vectors for kNN and linear, patches for the attentive probe.

Shapes: F files, N patches of the longest file, D width, S segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bridle.errors import DataError
from bridle.infer import Encoded, Failures, Pool, Source, encode, find_sources, nothing_read, pool_encoded
from bridle.infer.encode import Forward
from bridle.model import Bridle
from bridle.schema import Modality, PatchBatch
from bridle.storage import Location

OnEvent = Callable[..., None]


@dataclass(slots=True)
class Vectors:
    """One vector a file.

    Attributes:
        x_FD: features.
        labels, paths: class and original path of each, in the order of the paths.
        skipped: path -> reason of the files that could not be read.
    """

    x_FD: Tensor
    labels: list[str]
    paths: list[str]
    skipped: dict[str, str]


@dataclass(slots=True)
class Patches:
    """All patches of every file, padded to the longest.

    Attributes:
        h_FND: features in half precision: they are many.
        valid_FN: False at padding.
        coords_FN3: (time, row, column), time counted from the file's begin.
        labels, paths, skipped: as in `Vectors`.
    """

    h_FND: Tensor
    valid_FN: Tensor
    coords_FN3: Tensor
    labels: list[str]
    paths: list[str]
    skipped: dict[str, str]


def extract_vectors(
    model: Bridle, data: Location, how: Pool = "mean", *, batch_size: int = 64, on_event: OnEvent | None = None
) -> Vectors:
    """Features of every labelled file, pooled over all of its windows.

    Args:
        data: a folder of class folders with media, or shards with labels.

    Raises:
        DataError: of another modality, without labels, or nothing could be read.
    """
    found: list[tuple[Any, ...]] = []
    failures = Failures(on_event)
    for encoded in _labelled(model, data, failures, batch_size, on_event):
        found.append((encoded.source.path, encoded.source.label or "", pool_encoded(encoded, how, model)))
    found.sort(key=_by_path)
    paths, labels, rows = ([item[part] for item in found] for part in range(3))
    return Vectors(torch.stack(rows), labels, paths, failures.reasons)


def extract_patches(model: Bridle, data: Location, *, batch_size: int = 64, on_event: OnEvent | None = None) -> Patches:
    """Features of every patch of every labelled file; arguments and errors as `extract_vectors`."""
    found: list[tuple[Any, ...]] = []
    failures = Failures(on_event)
    for encoded in _labelled(model, data, failures, batch_size, on_event):
        source = encoded.source
        found.append((source.path, source.label or "", encoded.outputs[0].half(), encoded.coords_N3))
    found.sort(key=_by_path)
    paths, labels, rows, coords = ([item[part] for item in found] for part in range(4))
    valid_FN = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    return Patches(
        pad_sequence(rows, batch_first=True),
        valid_FN,
        pad_sequence(coords, batch_first=True),
        labels,
        paths,
        failures.reasons,
    )


def each_file(
    model: Bridle,
    data: Location,
    forward: Forward,
    failures: Failures,
    *,
    keep: Callable[[Source], bool] = lambda source: True,
    batch_size: int = 64,
    on_event: OnEvent | None = None,
) -> Iterator[Encoded]:
    """Every readable file of a data set through `forward`, with progress.

    Raises:
        DataError: of another modality, or nothing could be read.
    """
    sources, total = find_sources([data], Modality(model.modality))
    chosen: Iterable[Source] = (source for source in sources if keep(source))
    done = 0
    for encoded in encode(model, chosen, forward, failures=failures, batch_size=batch_size):
        done += 1
        if on_event:
            on_event("progress", done=done + len(failures.reasons), total=total, what="files")
        yield encoded
    if not done and failures.reasons:
        raise nothing_read(failures)


def _by_path(item: tuple[Any, ...]) -> str:
    """The order that splits see: shards are shuffled, and must give what their folder gives."""
    return item[0]


def _labelled(
    model: Bridle, data: Location, failures: Failures, batch_size: int, on_event: OnEvent | None
) -> Iterator[Encoded]:
    unlabelled = []

    def keep(source: Source) -> bool:
        if source.label is None:
            unlabelled.append(source.path)
        return source.label is not None

    def forward(batch: PatchBatch) -> tuple[Tensor, ...]:
        return (model.features(batch),)

    done = 0
    for encoded in each_file(model, data, forward, failures, keep=keep, batch_size=batch_size, on_event=on_event):
        done += 1
        yield encoded
    if not done:
        raise DataError(
            f"none of the {len(unlabelled)} files of {data} has a label",
            "lay them out as DATA/CLASS/file, or shard them with --labels",
        )
    if unlabelled and on_event:
        on_event("warning", message=f"{len(unlabelled)} files without a label left out, such as {unlabelled[0]}")
