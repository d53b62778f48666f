"""Labelled files through a frozen encoder, once: vectors for kNN and linear, patches for the attentive probe.

Vectors are kept in the cache (`$BRIDLE_CACHE`, else `~/.cache/bridle`), by the weights and the files they are of.

Shapes: F files, N patches of the longest file, D width, S segments.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bridle import progress
from bridle.evaluate.attentive import Look, pad
from bridle.evaluate.dataset import Labelled
from bridle.infer import Encoded, Failures, Pool, encode, nothing_read, pool_encoded
from bridle.infer.encode import Forward
from bridle.inputs import Several, Source
from bridle.model import Bridle
from bridle.outputs import written
from bridle.schema import PatchBatch
from bridle.storage.cache import cache_folder

_POOLS: tuple[Pool, ...] = ("mean", "segments", "class")
_BATCH = 64  # windows
_VERSION = 1  # of what a cached file holds; another when features come out differently
_MOST_BYTES = 10 * 10**9  # of all cached features; those used longest ago go


@dataclass(slots=True)
class Files:
    """What is known of each file that could be read, in the order of the paths."""

    paths: list[str] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # path -> why it could not be read

    def add(self, source: Source) -> None:
        self.paths.append(source.path)
        self.labels.append(source.labels)
        self.parts.append(source.part)


@dataclass(slots=True)
class Vectors:
    """One vector a file, for each way to pool: `(F, D)`, segments `(F, S * D)`."""

    files: Files
    pooled: dict[str, Tensor]


@dataclass(slots=True)
class Patches:
    """All patches of every file.

    Attributes:
        rows: of each file features `(N, D)` in half precision (they are many), and `(N, 3)` coordinates (time, row,
            column), time counted from the file's begin.
    """

    files: Files
    rows: list[tuple[Tensor, Tensor]]


def extract_vectors(
    model: Bridle,
    data: Labelled,
    *,
    several: Several | None = None,
    workers: int = 0,
) -> Vectors:
    """Features of every labelled file, pooled over all of its windows or `several` views of it; from the cache if they
    are there.

    Raises:
        DataError: without labels, or nothing could be read.
    """
    key = _key(model, data, several)
    place = cache_folder() / "features" / f"{key}.safetensors" if data.fingerprint else None
    if place and (kept := _read(place)):
        again = Failures()
        for path, reason in kept.files.skipped.items():
            again.add(path, reason)
        return kept
    found: list[tuple[Source, list[Tensor]]] = []
    failures = Failures()
    options: dict[str, Any] = {"several": several, "workers": workers}
    for encoded in each_file(model, data, model.features_and_class, failures, **options):
        found.append((encoded.source, [pool_encoded(encoded, how, model) for how in _POOLS]))
    files, rows = in_order(found, failures)
    vectors = Vectors(files, {how: torch.stack([row[at] for row in rows]) for at, how in enumerate(_POOLS)})
    if place:
        _keep(place, vectors)
    return vectors


def extract_patches(model: Bridle, data: Labelled, *, most_gb: float = math.inf, workers: int = 0) -> Patches | None:
    """Features of every patch of every labelled file, not cached; None where they take more memory than `most_gb`.

    Raises:
        DataError: without labels, or nothing could be read.
    """
    if 2e-9 * data.total * math.prod(model.patcher.grid) * model.config.encoder.width > most_gb:
        return None  # even if no file is longer than a window

    def forward(batch: PatchBatch) -> tuple[Tensor, ...]:
        return (model.features(batch),)

    found: list[tuple[Source, tuple[Tensor, Tensor]]] = []
    failures, taken_gb = Failures(), 0.0
    for encoded in each_file(model, data, forward, failures, workers=workers):
        found.append((encoded.source, (encoded.outputs[0].half(), encoded.coords_N3.short())))
        if (taken_gb := taken_gb + 1e-9 * sum(part.nbytes for part in found[-1][1])) > most_gb:
            return None
    return Patches(*in_order(found, failures))


def listed(data: Labelled) -> tuple[list[Source], Files, Failures]:
    """All labelled files in the order of their paths, none of them read yet."""
    failures = Failures()
    sources = sorted(data.sources(read=False), key=lambda source: (source.path, source.span_s or ()))
    files = Files(skipped=failures.reasons)
    for source in sources:
        files.add(source)
    return sources, files, failures


def look_at_patches(model: Bridle, sources: Sequence[Source], failures: Failures, workers: int) -> Look:
    """The patches of some of the files, computed whenever they are asked for: for data that no memory holds."""
    seen = 0

    def look(rows: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        nonlocal seen
        wanted = [sources[row] for row in rows.tolist()]
        place = {id(source): at for at, source in enumerate(wanted)}
        options: dict[str, Any] = {"failures": failures, "batch_size": _BATCH, "workers": workers}
        found = list(encode(model, wanted, lambda batch: (model.features(batch),), **options))
        seen += len(wanted)
        progress.report("progress", done=seen, total=None, what="looks at clips")
        if not found:
            nothing = torch.empty(0)
            return rows[:0], (nothing, nothing, nothing)
        kept = rows[[place[id(encoded.source)] for encoded in found]]
        return kept, pad([(encoded.outputs[0], encoded.coords_N3) for encoded in found])

    return look


def each_file(
    model: Bridle,
    data: Labelled,
    forward: Forward,
    failures: Failures,
    *,
    labelled: bool = True,
    several: Several | None = None,
    workers: int = 0,
) -> Iterator[Encoded]:
    """Every readable file of a data set through `forward`, with progress.

    Args:
        labelled: without a label they are left out.
        several: views of each that take part instead of consecutive windows.

    Raises:
        DataError: nothing could be read, or nothing has a label.
    """
    chosen = data.sources() if labelled else data.open(True)
    done = 0
    options: dict[str, Any] = {"batch_size": _BATCH, "workers": workers, "several": several}
    for encoded in encode(model, chosen, forward, failures=failures, **options):
        done += 1
        progress.report("progress", done=done + len(failures.reasons), total=data.total, what="files")
        yield encoded
    if not done and failures.reasons:
        raise nothing_read(failures)


def in_order(found: list[tuple[Source, Any]], failures: Failures) -> tuple[Files, list[Any]]:
    """By path: shards are shuffled, and must give what their folder gives."""
    found.sort(key=lambda item: (item[0].path, item[0].span_s or ()))
    files = Files(skipped=failures.reasons)
    for source, _ in found:
        files.add(source)
    return files, [row for _, row in found]


def _key(model: Bridle, data: Labelled, several: Several | None) -> str:
    """Of the network, what cuts the clips, and the files."""
    identity = _VERSION, data.fingerprint, several, type(model).__qualname__, model.fingerprint()
    return hashlib.sha256(repr(identity).encode()).hexdigest()


def _read(place: Path) -> Vectors | None:
    try:
        tensors = load_file(place)
        files = Files(**json.loads(bytes(tensors.pop("files").tolist())))
        files.labels = [tuple(labels) for labels in files.labels]
        os.utime(place)
        return Vectors(files, tensors)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None  # not there, or damaged: it is made again


def _keep(place: Path, vectors: Vectors) -> None:
    """Into the cache, if there is room on the disk; the oldest make way."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        about = torch.frombuffer(bytearray(json.dumps(asdict(vectors.files)).encode()), dtype=torch.uint8)
        with written(place) as content:
            content.write(save({**vectors.pooled, "files": about}))
        size = 0
        for kept in sorted(place.parent.glob("*.safetensors"), key=lambda one: one.stat().st_mtime, reverse=True):
            size += kept.stat().st_size
            if size > _MOST_BYTES and kept != place:
                kept.unlink()
    except (OSError, SafetensorError):
        return
