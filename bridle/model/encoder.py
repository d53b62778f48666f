"""The encoder E and the shared trunk: patches -> features.

Shapes: B clips, N patches (all or the visible ones), P values a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridle.config.sections import EncoderSection
from bridle.nn import Blocks, GridPositions, initialise


class Encoder(nn.Module):
    """A Vision Transformer with a class token and fixed grid positions.

    Args:
        values: P.
        axes: grid axes that carry positions.
        shape: width, depth, heads.
    """

    def __init__(self, values: int, axes: tuple[int, ...], shape: EncoderSection) -> None:
        super().__init__()
        self.embed = nn.Linear(values, shape.width)
        self.positions = GridPositions(shape.width, axes)
        self.class_token_D = nn.Parameter(torch.zeros(shape.width))
        self.blocks = Blocks(shape.depth, shape.width, shape.heads, shape.mlp_ratio)
        self.norm = nn.LayerNorm(shape.width)
        self.apply(initialise)
        nn.init.normal_(self.class_token_D, std=0.02)

    def forward(self, x_BNP: Tensor, coords_BN3: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        """`(B, N, P)` -> `(B, 1 + N, D)`, the class token first."""
        h_BND = self.embed(x_BNP) + self.positions(coords_BN3)
        h_BND = torch.cat([self.class_token_D.expand(h_BND.shape[0], 1, -1).to(h_BND.dtype), h_BND], dim=1)
        if valid_BN is not None:
            valid_BN = nn.functional.pad(valid_BN, (1, 0), value=True)
        return self.norm(self.blocks(h_BND, valid_BN))
