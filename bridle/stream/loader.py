"""The training stream: endless batches in an order that depends on the seed alone, resumable at every batch.

Costs: one pass over the tar headers at the start; then a read and a decode a sample, in `workers` processes or, with
0, in this one. Sets whose decoded clips fit in `cache_gb` are decoded once and kept in memory.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bridle.archive import index_name
from bridle.errors import ConfigError, DataError, EnvironmentFault, first_line, nearest
from bridle.patches.patcher import Patcher
from bridle.stream.ahead import fetch_ahead
from bridle.stream.cache import ClipCache, cache_bytes
from bridle.stream.dataset import View, ViewDataset
from bridle.stream.index import ShardSet
from bridle.stream.order import Cursor, Epochs, Mixture, Order, Request, plan
from bridle.stream.read import SampleReader, all_failed

_GIGABYTE = 10**9


@dataclass(slots=True)
class Batch:
    """Training views of different samples, the samples' keys, and their places among those of all ranks."""

    tensors: list[Tensor]
    keys: list[str]
    places: list[int]


class ClipStream:
    """Batches of prepared clips from some sets of one modality.

    Args:
        manifests: the sets.
        patcher: how clips are decoded and become training views (`prepare`, compact CPU tensors).
        batch_size: views a batch, on each rank; at most the corpus.
        seed: of order and crops.
        workers: decoding processes; 0 decodes in this one.
        cache_gb: keep decoded clips when all of them take less memory than this, and `--check full` has told how much.
        mix: name of a set -> how often it is drawn from; sets not named have weight 1. Empty: every sample alike.
        rank, world: this process' share of every step.

    Attributes:
        samples: in the corpus.
        reader: random access to them.
        failures: path -> reason of samples that could not be decoded; they are left out of their batch.

    Raises:
        DataError: a tar does not match its manifest, or the sets are empty.
        ConfigError: `mix` names no set.
    """

    def __init__(
        self,
        manifests: Sequence[ShardSet],
        patcher: Patcher,
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        cache_gb: float = 0.0,
        mix: Mapping[str, float] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.reader = SampleReader(manifests, patcher.rate_hz, patcher.pixel_rules, patcher.channel)
        self.samples = len(self.reader)
        if not self.samples:
            raise DataError("the shards hold no samples")
        self.batch_size = max(1, min(batch_size, self.samples // world))
        # What only its header was looked at of may be longer or shorter than that says.
        size = cache_bytes(sum(one.decoded_bytes for one in manifests), patcher.rate_hz, patcher.exact)
        checked = all(one.checked for one in manifests)
        self.cached = checked and size <= cache_gb * _GIGABYTE
        self.failures: dict[str, str] = {}
        clip_cache = ClipCache(self.samples, size, patcher.exact) if self.cached else None
        self._dataset = ViewDataset(self.reader, patcher, seed, clip_cache)
        self._order = _order(manifests, self.reader.index.starts.tolist(), mix or {}, seed)
        self._mix, self._seed = dict(mix or {}), seed
        self._shards = [index_name(manifest.shards) for manifest in manifests]  # names that tell their content
        self._workers, self._rank, self._world = workers, rank, world
        self._cursor = Cursor()

    def batches(self) -> Iterator[Batch]:
        """Endless, from the cursor on. With several ranks a batch may be empty: all take the same number of steps.

        Raises:
            DataError: a shard is gone or cut, or not one sample of a whole epoch can be decoded. EnvironmentFault: its
            storage does not answer, or a decoding process was killed.
        """
        failed_in_a_row = 0
        with closing(self._views()) as running:  # an error keeps this frame alive, but not the processes
            for _, cursor in self._plan():
                views = next(running)
                for view in views:
                    if view.fault:
                        raise view.fault
                first = self._rank * self.batch_size
                good = [(first + n, view) for n, view in enumerate(views) if view.data is not None]
                self.failures.update({view.path: view.reason for view in views if view.data is None})
                self._cursor = cursor
                failed_in_a_row = 0 if good else failed_in_a_row + len(views)
                if failed_in_a_row * self._world >= self.samples:
                    raise all_failed(self.failures)
                batch = Batch(
                    [view.data for _, view in good if view.data is not None],
                    [view.key for _, view in good],
                    [place for place, _ in good],
                )
                del views, view, good  # or they would be in memory beside the next batch
                if batch.keys or self._world > 1:
                    yield batch
                del batch

    def state(self) -> dict[str, Any]:
        """Where the stream stands, after the batch yielded last; goes into a checkpoint."""
        place = {"epoch": self._cursor.epoch, "position": self._cursor.position, "samples": self.samples}
        return place | {"seed": self._seed, "shards": self._shards} | ({"mix": self._mix} if self._mix else {})

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there, with the next call of `batches`.

        Raises:
            DataError: the state belongs to another corpus.
        """
        if state["samples"] != self.samples:
            raise DataError(
                f"the shards hold {self.samples} samples, the run to resume used {state['samples']}",
                "Resume with the shards it was started on, or start a new run.",
            )
        if state.get("shards", self._shards) != self._shards:
            raise DataError(
                "the shards differ from those this run was trained on, or are in another order",
                "Resume with the shards it was started on, or start a new run.",
            )
        if state.get("seed", self._seed) != self._seed:
            raise DataError(
                f"the run to resume used seed {state['seed']}, now it is {self._seed}",
                "Resume with the same seed, or start a new run.",
            )
        if state.get("mix", {}) != self._mix:
            raise DataError(
                f"the run to resume mixed its sets by {state.get('mix') or 'size'}, now by {self._mix or 'size'}",
                "Resume with the same data.mix, or start a new run.",
            )
        self._cursor = Cursor(state["epoch"], state["position"])

    def _plan(self) -> Iterator[tuple[list[Request], Cursor]]:
        return plan(self._order, self.batch_size, self._cursor, self._rank, self._world)

    def _views(self) -> Generator[list[View]]:
        requests: Iterator[list[Request]] = (step for step, _ in self._plan())
        if self.reader.index.remote:
            requests = fetch_ahead(requests, self.reader.index)
        if not self._workers:
            for step in requests:
                yield [self._dataset[request] for request in step]
            return
        loader = DataLoader(
            self._dataset,
            batch_sampler=requests,  # any iterable of lists will do
            num_workers=self._workers,
            collate_fn=_pack,
            worker_init_fn=_ignore_signals,
            multiprocessing_context="fork" if sys.platform == "linux" else None,  # the cache is inherited
        )
        batches = _quiet(loader)
        try:
            for packed in batches:
                yield _unpack(*packed)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise EnvironmentFault(
                f"a decoding process was killed: {first_line(error)}",
                "If memory ran out, lower --workers or --set data.cache_gb=0. Continue with bridle pretrain --resume.",
            ) from error
        finally:
            for worker in getattr(batches, "_workers", ()):  # PyTorch asks them by SIGTERM, which they do not hear
                worker.kill()


def _ignore_signals(worker: int) -> None:
    """What stops a run may be sent to all of its processes, and the one that trains makes its last step with them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _quiet(loader: DataLoader[Any]) -> Iterator[Any]:
    """A lost worker is heard of where batches are waited for: PyTorch's handler would raise in the midst of a step."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return iter(loader)  # it has none there
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return batches


def _order(manifests: Sequence[ShardSet], starts: list[int], mix: Mapping[str, float], seed: int) -> Order:
    stored = [sum(shard.bytes for shard in manifest.shards) for manifest in manifests]
    if not mix:
        return Epochs(starts[-1], seed, 0, sum(stored) / starts[-1])
    names = [manifest.name for manifest in manifests]
    for name in mix:
        if name not in names:
            raise ConfigError(f"data.mix: there is no set {name!r}; {nearest(name, names)}")
    sizes = [end - start for start, end in itertools.pairwise(starts)]
    each = [size / max(1, count) for size, count in zip(stored, sizes, strict=True)]
    return Mixture(sizes, [mix.get(name, 1.0) for name in names], seed, each)


def _pack(views: list[View]) -> tuple[list[View], Tensor | None, list[torch.Size]]:
    """One tensor for the way between processes: each tensor would take a file descriptor of its own."""
    data = [view.data for view in views if view.data is not None]
    names = [View(view.key, None, view.path, view.reason, view.fault) for view in views]
    return names, torch.cat([tensor.reshape(-1) for tensor in data]) if data else None, [one.shape for one in data]


def _unpack(names: list[View], flat: Tensor | None, shapes: list[torch.Size]) -> list[View]:
    if flat is None:
        return names
    parts = iter(flat.split([shape.numel() for shape in shapes]))
    sizes = iter(shapes)
    return [name if name.reason else View(name.key, next(parts).view(next(sizes)), name.path) for name in names]
