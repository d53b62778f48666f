"""Fixed sine-cosine positions over a grid of one to three axes (Vaswani et al. 2017; N-d as in MAE and VideoMAE).

Shapes: B clips, N patches, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_LONGEST = 10000.0


class GridPositions(nn.Module):
    """Integer coordinates `(B, N, 3)` -> `(B, N, D)`; the width is shared out between the axes in use.

    Args:
        width: D.
        axes: which of (time, row, column) carry positions.
    """

    frequency_F: Tensor

    def __init__(self, width: int, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes, self.width = axes, width
        pairs = width // (2 * len(axes))
        exponent_F = torch.arange(pairs) / max(pairs, 1)
        self.register_buffer("frequency_F", torch.exp(-math.log(_LONGEST) * exponent_F), persistent=False)

    def forward(self, coords_BN3: Tensor) -> Tensor:
        # Not by a list of axes: it would be copied to a GPU at every call, and the CPU would wait for that.
        used = torch.stack([coords_BN3[..., axis] for axis in self.axes], dim=-1)
        angle = used[..., None].float() * self.frequency_F
        wave = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
        return nn.functional.pad(wave, (0, self.width - wave.shape[-1]))
