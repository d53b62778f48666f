"""Ranks and collectives: the only file that asks about process groups.

A run of one process needs no process group: every function is then the identity.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def _active() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, 0 for a single process."""
    return dist.get_rank() if _active() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _active() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Adds `x` up over all ranks, in place."""
    if _active():
        dist.all_reduce(x)
    return x


def gather_rows(x_NC: Tensor) -> Tensor:
    """Rows of all ranks one after the other, the same on every rank; row counts may differ."""
    if not _active():
        return x_NC
    counts = torch.zeros(world(), dtype=torch.int64, device=x_NC.device)
    counts[rank()] = len(x_NC)
    dist.all_reduce(counts)
    most = int(counts.max())
    padded = x_NC.new_zeros(most, *x_NC.shape[1:])
    padded[: len(x_NC)] = x_NC
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])
