"""One cut for all modalities: a block of values in time, rows and columns becomes a row of patches.

A spectrogram is (frames, mels, 1), an image (1, H, W), a video (T, H, W); see the shape legend in `schema.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int, int]


def cut(x_BCTHW: Tensor, patch: Grid) -> Tensor:
    """`(B, C, T, H, W)` -> `(B, N, P)`, time slowest; each patch is `(C, t, h, w)` flattened."""
    b, c, t, h, w = x_BCTHW.shape
    pt, ph, pw = patch
    x = x_BCTHW.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * pt * ph * pw)


def spread(spare: int, count: int) -> list[int]:
    """Starts from 0 to `spare`, evenly, rounded; a single one lies in the middle."""
    return [spare // 2] if count == 1 else [round(n * max(spare, 0) / (count - 1)) for n in range(count)]


def coordinates(grid: Grid, device: torch.device | str = "cpu") -> Tensor:
    """Integer (time, row, column) of each patch of a grid, `(N, 3)`, time slowest."""
    axes = [torch.arange(size, device=device) for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
