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


def from_first(x: Tensor) -> Tensor:
    """What rank 0 holds, on every rank, in place."""
    if _active():
        dist.broadcast(x, 0)
    return x


def row_span(rows: int, device: torch.device) -> tuple[int, int]:
    """Where this rank's rows begin among the rows of all ranks one after the other, and how many those are."""
    if not _active():
        return 0, rows
    counts = _row_counts(rows, device)
    return int(counts[: rank()].sum()), int(counts.sum())


def _row_counts(rows: int, device: torch.device) -> Tensor:
    counts = torch.zeros(world(), dtype=torch.int64, device=device)
    counts[rank()] = rows
    dist.all_reduce(counts)
    return counts


def gather_rows(x_NC: Tensor) -> Tensor:
    """Rows of all ranks one after the other, the same on every rank; row counts may differ."""
    if not _active():
        return x_NC
    counts = _row_counts(len(x_NC), x_NC.device)
    most = int(counts.max())
    padded = x_NC.new_zeros(most, *x_NC.shape[1:])
    padded[: len(x_NC)] = x_NC
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])
