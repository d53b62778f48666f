"""Which sample comes when: a function of the seed and of a position, whatever the number of ranks or workers.

One endless sequence for the whole job: epoch after epoch, each a fresh shuffle of all samples. A step takes the
next `batch x world` entries, rank r the r-th part of them, so batches are always full, run across the end of an epoch,
and every sample comes exactly once an epoch. The cursor is a place in that sequence and means the same
to any number of ranks.

Large corpora are shuffled in two steps, so that reading stays nearly sequential: runs of neighbouring samples
("blocks", cut at other places in every epoch) in random order, and within some of them together (a "pool") all
samples. Finding a place takes no more than shuffling its pool.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bridle.errors import ConfigError

_BLOCK = 128  # samples
_POOL, _LEAST = 128, 8  # blocks, at most and at least; a corpus of one pool is shuffled as a whole
_POOL_BYTES = 4e9
_ROUND = 1000  # draws of a mixture in which each set has exactly its share


@dataclass(frozen=True, slots=True)
class Cursor:
    """So many samples of this epoch are done, by all ranks together; a mixture counts all its draws in `position`."""

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One sample in one epoch."""

    epoch: int
    index: int


class Order(Protocol):
    """An endless sequence of requests."""

    def take(self, start: Cursor, count: int) -> tuple[list[Request], Cursor]:
        """The next `count` from there, and where they end."""
        ...


class Epochs:
    """Every sample once an epoch.

    Args:
        samples: how many.
        seed: of all shuffles.
        first: number of the first sample.
        sample_bytes: of one on average: a pool of large ones holds fewer of them, so that it fits into memory or, of
            remote sets, into the cache; or every block would be read again and again.
    """

    def __init__(self, samples: int, seed: int | Sequence[int], first: int = 0, sample_bytes: float = 0.0) -> None:
        self.samples = samples
        fitting = int(_POOL_BYTES / max(1.0, sample_bytes) / _BLOCK)
        self._blocks = min(_POOL, max(_LEAST, fitting))  # of a pool
        self._seed = (seed,) if isinstance(seed, int) else tuple(seed)
        self._first = first
        self._epoch, self._pool = -1, -1

    def take(self, start: Cursor, count: int) -> tuple[list[Request], Cursor]:
        epoch, position = start.epoch, start.position
        taken: list[Request] = []
        while len(taken) < count:
            if position >= self.samples:
                epoch, position = epoch + 1, 0
            some = self._at(epoch, position)[: count - len(taken)]
            taken.extend(Request(epoch, self._first + index) for index in some.tolist())
            position += len(some)
        return taken, Cursor(epoch, position)

    def _at(self, epoch: int, position: int) -> np.ndarray:
        """The rest of the pool that holds this position."""
        if epoch != self._epoch:
            self._epoch, self._pool = epoch, -1
            self._blocks_B2 = self._cut(epoch)
            lengths = np.diff(self._blocks_B2, axis=1)[:, 0]
            self._starts = np.concatenate([[0], np.cumsum(lengths)])[:: self._blocks]
        pool = int(np.searchsorted(self._starts, position, side="right")) - 1
        if pool != self._pool:
            blocks = self._blocks_B2[pool * self._blocks : (pool + 1) * self._blocks]
            rng = np.random.default_rng((*self._seed, epoch, *((pool,) if pool else ())))
            self._shuffled = rng.permutation(np.concatenate([np.arange(*block) for block in blocks]))
            self._pool = pool
        return self._shuffled[position - int(self._starts[pool]) :]

    def _cut(self, epoch: int) -> np.ndarray:
        """First and one past the last sample of each block, in random order."""
        if self.samples <= _BLOCK * self._blocks:
            return np.array([[0, self.samples]])
        rng = np.random.default_rng((*self._seed, epoch, 2**32))
        cuts = np.arange(rng.integers(1, _BLOCK + 1), self.samples, _BLOCK)
        bounds = np.concatenate([[0], cuts, [self.samples]])
        return rng.permutation(np.stack([bounds[:-1], bounds[1:]], axis=1))


class Mixture:
    """Several sets, each by its weight whatever its size, and each sample of a set once in an epoch of that set.

    Args:
        sizes: samples of each set.
        weights: how often each set is drawn from, relative to the others.
        seed: of all shuffles.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], seed: int, sample_bytes: Sequence[float] = ()
    ) -> None:
        starts, each = np.cumsum([0, *sizes]), sample_bytes or [0.0] * len(sizes)
        self._sets = [
            Epochs(n, (seed, number + 1), int(starts[number]), each[number]) for number, n in enumerate(sizes) if n
        ]
        self._seed, self._counts = seed, _shares([weight for weight, n in zip(weights, sizes, strict=True) if n])

    def take(self, start: Cursor, count: int) -> tuple[list[Request], Cursor]:
        taken: list[Request] = []
        while len(taken) < count:
            number, offset = divmod(start.position + len(taken), _ROUND)
            pattern = np.random.default_rng((self._seed, number)).permutation(
                np.repeat(np.arange(len(self._sets)), self._counts)
            )
            some = pattern[offset : offset + count - len(taken)]
            taken.extend(
                self._draws(number * self._counts + np.bincount(pattern[:offset], minlength=len(self._sets)), some)
            )
        return taken, Cursor(0, start.position + len(taken))

    def _draws(self, before_S: np.ndarray, some: np.ndarray) -> list[Request]:
        """One request for each entry of `some`, a set's number; `before_S` draws of each set came before."""
        queues = []
        for one, before, n in zip(
            self._sets, before_S.tolist(), np.bincount(some, minlength=len(self._sets)), strict=True
        ):
            epoch, position = divmod(before, one.samples)
            queues.append(iter(one.take(Cursor(epoch, position), int(n))[0]))
        return [next(queues[which]) for which in some.tolist()]


def _shares(weights: Sequence[float]) -> np.ndarray:
    """Draws of each set in a round, at least one; largest remainders make the sum exact."""
    if len(weights) > _ROUND:
        raise ConfigError(f"data.mix: {len(weights)} sets; at most {_ROUND} can be mixed", "Merge some of them.")
    exact = np.asarray(weights, dtype=float) / sum(weights) * _ROUND
    counts = np.maximum(np.floor(exact), 1).astype(int)
    for number in np.argsort(counts - exact, kind="stable"):
        counts[number] += int(counts.sum() < _ROUND)
    counts[counts.argmax()] -= counts.sum() - _ROUND
    return counts


def sample_seed(seed: int, request: Request) -> int:
    """63 bits for the random crop of this sample in this epoch, the same in any process."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, request.epoch, request.index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def plan(
    order: Order, batch: int, start: Cursor, rank: int = 0, world: int = 1
) -> Iterator[tuple[list[Request], Cursor]]:
    """Endless: the requests of this rank's next batch, and the cursor after that batch."""
    while True:
        step, start = order.take(start, batch * world)
        yield step[rank * batch : (rank + 1) * batch], start
