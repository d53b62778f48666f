"""The predictor: features of the visible patches -> logits of the hidden patches' codes, all levels at once.

Shapes: B clips, V visible, M masked, D encoder width, W predictor width, Q levels, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridle.config.sections import PredictorSection
from bridle.nn import Blocks, GridPositions, initialise


class Predictor(nn.Module):
    """Args:
    width_in: D.
    axes: grid axes that carry positions.
    shape: width, depth, heads.
    levels, codes: Q, K.
    """

    def __init__(self, width_in: int, axes: tuple[int, ...], shape: PredictorSection, levels: int, codes: int) -> None:
        super().__init__()
        self.levels, self.codes = levels, codes
        self.embed = nn.Linear(width_in, shape.width)
        self.positions = GridPositions(shape.width, axes)
        self.mask_token_W = nn.Parameter(torch.zeros(shape.width))
        self.blocks = Blocks(shape.depth, shape.width, shape.heads, shape.mlp_ratio)
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, levels * codes)
        self.apply(initialise)
        nn.init.normal_(self.mask_token_W, std=0.02)

    def renew_head(self) -> None:
        """A new output layer, for new codebooks."""
        self.head.apply(initialise)

    def forward(
        self,
        h_BVD: Tensor,
        visible_coords_BV3: Tensor,
        masked_coords_BM3: Tensor,
        visible_valid_BV: Tensor | None = None,
        masked_valid_BM: Tensor | None = None,
    ) -> Tensor:
        """Logits `(B, M, Q, K)`; `h_BVD` comes without the class token."""
        seen_BVW = self.embed(h_BVD) + self.positions(visible_coords_BV3)
        hidden_BMW = self.mask_token_W + self.positions(masked_coords_BM3)
        x = torch.cat([seen_BVW, hidden_BMW.to(seen_BVW.dtype)], dim=1)
        valid = None
        if visible_valid_BV is not None and masked_valid_BM is not None:
            valid = torch.cat([visible_valid_BV, masked_valid_BM], dim=1)
        x = self.blocks(x, valid)
        logits = self.head(self.norm(x[:, seen_BVW.shape[1] :]))
        return logits.unflatten(-1, (self.levels, self.codes))
