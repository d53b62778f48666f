"""Which sample comes when: a function of the seed and of a position, whatever the number of ranks or workers.

One endless sequence for the whole job: epoch after epoch, each a fresh permutation of all samples. A step takes the
next `batch x world` entries, rank r those at r, r + world, ... of them, so batches are always full, run across the end
of an epoch, and every sample comes exactly once an epoch. The cursor is a place in that sequence and means the same
to any number of ranks.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Cursor:
    """So many samples of this epoch are done, by all ranks together."""

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One sample in one epoch."""

    epoch: int
    index: int


def permutation(samples: int, seed: int, epoch: int) -> np.ndarray:
    """int64 `(samples,)`: the order of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(samples)


def sample_seed(seed: int, request: Request) -> int:
    """63 bits for the random crop of this sample in this epoch, the same in any process."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, request.epoch, request.index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def plan(
    samples: int, batch: int, seed: int, start: Cursor, rank: int = 0, world: int = 1
) -> Iterator[tuple[list[Request], Cursor]]:
    """Endless: the requests of this rank's next batch, and the cursor after that batch."""
    epoch, position = start.epoch, start.position
    order = permutation(samples, seed, epoch)
    while True:
        step: list[Request] = []
        while len(step) < batch * world:
            if position >= samples:
                epoch, position = epoch + 1, 0
                order = permutation(samples, seed, epoch)
            taken = order[position : position + batch * world - len(step)]
            step.extend(Request(epoch, int(index)) for index in taken)
            position += len(taken)
        yield step[rank::world], Cursor(epoch, position)
