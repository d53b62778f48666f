"""Tokenizing on a Ray cluster.

sources -> decoding tasks -> batches of windows -> actors with the model -> one result a file

The driver lists the sources and says which windows share a batch, the same ones as on one machine: it learns from each
task how many windows a file has, while the windows stay in the cluster's memory until the model's actor takes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bridle.cluster import Cluster, node, unseen
from bridle.decoding.ahead import Opened, Piece, decode_piece
from bridle.errors import EnvironmentFault, MediaError
from bridle.infer.encode import BATCH_SIZE, Encoded, Failures, Outputs, join, modality_of, run_batch
from bridle.inputs.sources import Source, View
from bridle.model import Bridle
from bridle.patches.patcher import Patcher
from bridle.schema import Modality

_AHEAD = 2  # pieces of media in the making, for each processor of the cluster


def tokenize_on(
    cluster: Cluster,
    model: Bridle,
    sources: Iterable[Source],
    *,
    failures: Failures,
    batch_size: int = BATCH_SIZE,
    together: int = 0,
    workers: int = 0,
    device: str = "auto",
) -> Generator[Encoded]:
    """As `encode` with the model's codes, and the same codes where processors (or GPUs) are the same.

    Args:
        model: on the CPU; each actor gets a copy.
        together: see `join`.
        workers: actors with the model; 0: one for each GPU, or for as many processors as the model would use here.
        device: "cpu", "cuda" (a GPU for each actor), or "auto": GPUs if the cluster has any.

    Raises:
        EnvironmentFault: no GPUs for "cuda", a node that does not see a file, work that is lost again and again.
    """
    if device == "cuda" and not cluster.gpus:
        raise EnvironmentFault("--device cuda: the Ray cluster has no GPU.", "Use --device cpu or auto.")
    gpus = cluster.gpus if device != "cpu" else 0
    threads = torch.get_num_threads()
    count = workers or gpus or max(1, cluster.cpus // threads)
    actor_device = "cuda" if gpus else "cpu"
    with cluster.pool(Tokenizing, count, cluster.put(model), threads, actor_device, gpus=min(1, gpus)) as pool:

        def run(batches: Iterator[list[Any]]) -> Iterator[Outputs]:
            return pool.map(map(_by_reference, batches))

        yield from join(_opened(cluster, model, sources, threads), run, failures, batch_size, together)


class Tokenizing:
    """What an actor holds: the model, with as many threads as the driver has: their number decides how sums round."""

    def __init__(self, model: Bridle, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._model = model.eval().to(device)

    def work(self, places: list[tuple[int, int]], *pieces: list[np.ndarray]) -> Outputs:
        """One batch; `places` says which window of which piece comes when."""
        views = [torch.tensor(pieces[piece][window]) for piece, window in places]
        return run_batch(self._model, views, lambda batch: (self._model.tokenize(batch),))


def _by_reference(batch: list[tuple[Any, int]]) -> tuple[Any, ...]:
    """(reference of a piece, window in it) of each -> arguments of `work`, each piece once."""
    pieces = list(dict.fromkeys(reference for reference, _ in batch))
    return [(pieces.index(reference), window) for reference, window in batch], *pieces


def _opened(cluster: Cluster, model: Bridle, sources: Iterable[Source], threads: int) -> Iterator[Opened]:
    """Every source, the first pieces of the next ones being decoded on the cluster."""
    modality = modality_of(model)
    decode = partial(cluster.task(_decode, returns=2), cluster.put(model.patcher), modality, threads)

    def begin(source: Source) -> tuple[Source, Any]:
        if isinstance(source.data, Path):  # tasks run in folders of their own
            source = replace(source, data=source.data.absolute())
        return source, None if isinstance(source.data, MediaError) else decode(source, 0.0)

    todo, ahead = iter(sources), deque[tuple[Source, Any]]()
    most = _AHEAD * cluster.cpus
    while True:
        ahead += [begin(source) for source in islice(todo, most - len(ahead))]
        if not ahead:
            return
        source, first = ahead.popleft()
        yield source, partial(_windows, cluster, decode, source, first)


def _windows(cluster: Cluster, decode: Callable[..., Any], source: Source, piece: Any) -> Iterator[View]:
    """The windows of one file, by reference.

    Raises:
        MediaError: the file cannot be read.
    """
    if isinstance(source.data, MediaError):
        raise source.data
    while piece is not None:
        views, about = piece
        header: Piece = cluster.get(about, f"the decoding of {source.path}")
        if header.unseen_by and isinstance(source.data, Path) and source.data.exists():
            raise unseen(source.data, header.unseen_by)
        if header.failure:
            raise MediaError(header.failure)
        piece = None if header.next_s is None else decode(source, header.next_s)
        for number, (start_s, step_s) in enumerate(header.starts_s):
            yield View((views, number), start_s, step_s, header.notice)


def _decode(
    patcher: Patcher, modality: Modality, threads: int, source: Source, start_s: float
) -> tuple[list[np.ndarray], Piece]:
    """One piece of a file, on whatever node."""
    torch.set_num_threads(threads)
    try:
        return decode_piece(source, patcher, modality, start_s)
    except MediaError as error:
        absent = isinstance(source.data, Path) and not source.data.exists()
        return [], Piece(failure=error.message, unseen_by=node() if absent else "")
