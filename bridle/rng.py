"""Random numbers that follow from a seed, a step and a clip's place in the step, and from nothing else.

Masks and augmentation come from here. A generator would give a clip other numbers when the batch is dealt to two ranks
or cut in two, and would draw on the CPU; this is a hash of integers (the finaliser of SplitMix64, Steele, Lea & Flood
2014), the same on every device.

Shapes: B clips, N numbers for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_BITS = 24  # of a float32's mantissa


def _signed(value: int) -> int:
    """64 bits as PyTorch's int64 holds them."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mixed(x: Tensor) -> Tensor:
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor  # int64 shifts in its sign: cut it off
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(key: Tensor, columns: int) -> Tensor:
    """Numbers in [0, 1) for each int64 key: `(...)` -> float32 `(..., columns)`."""
    column_N = torch.arange(1, columns + 1, device=key.device) * _GOLDEN
    return ((_mixed(_mixed(key)[..., None] + column_N) >> (64 - _BITS)) & ((1 << _BITS) - 1)) * 2.0**-_BITS


def key_of(*parts: int | str) -> int:
    """One int64 for a seed, a step, a purpose."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little", signed=True)


class Draws:
    """What one step draws for some of its clips.

    Args:
        seed, step: of the run.
        places: of the clips among all clips of the step, whichever rank holds them.
        device: where the numbers are wanted.
    """

    def __init__(self, seed: int, step: int, places: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._seed, self._step = seed, step
        self._place_B = torch.tensor(list(places), dtype=torch.int64).to(device, non_blocking=True)

    def __len__(self) -> int:
        return len(self._place_B)

    def uniform(self, purpose: str, columns: int = 1) -> Tensor:
        """In [0, 1), float32 `(B, columns)`; another purpose gives other numbers."""
        return uniform(self._place_B * _GOLDEN + key_of(self._seed, self._step, purpose), columns)
