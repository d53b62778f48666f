"""The predictor: features of the visible patches -> logits of the hidden patches' codes, all levels at once.

Shapes: B clips, V visible, M masked, D encoder width, W predictor width, Q levels, K codes, C code width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridle.config.sections import PredictorSection
from bridle.nn import Block, GridPositions, initialise


class Predictor(nn.Module):
    """Args:
    width_in: D.
    axes: grid axes that carry positions.
    shape: width, depth, heads.
    levels, codes, code_width: Q, K, C.
    """

    def __init__(
        self, width_in: int, axes: tuple[int, ...], shape: PredictorSection, levels: int, codes: int, code_width: int
    ) -> None:
        super().__init__()
        self.levels, self.codes = levels, codes
        self.embed = nn.Linear(width_in, shape.width)
        self.positions = GridPositions(shape.width, axes)
        self.mask_token_W = nn.Parameter(torch.zeros(shape.width))
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.mlp_ratio) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, levels * codes)
        self.above = nn.Linear(code_width, levels * shape.width) if shape.chain else None
        self.apply(initialise)
        nn.init.normal_(self.mask_token_W, std=0.02)

    def renew_head(self) -> None:
        """A new output layer, for new codebooks."""
        self.head.apply(initialise)
        if self.above is not None:
            self.above.apply(initialise)

    def forward(
        self,
        h_BVD: Tensor,
        visible_coords_BV3: Tensor,
        masked_coords_BM3: Tensor,
        visible_valid_BV: Tensor | None = None,
        masked_valid_BM: Tensor | None = None,
    ) -> Tensor:
        """Features of the hidden patches `(B, M, W)`, for `logits`; `h_BVD` comes without the class token."""
        seen_BVW = self.embed(h_BVD) + self.positions(visible_coords_BV3)
        hidden_BMW = self.mask_token_W + self.positions(masked_coords_BM3)
        x = torch.cat([seen_BVW, hidden_BMW.to(seen_BVW.dtype)], dim=1)
        valid = None
        if visible_valid_BV is not None and masked_valid_BM is not None:
            valid = torch.cat([visible_valid_BV, masked_valid_BM], dim=1)
        for block in self.blocks:
            x = block(x, valid)
        return self.norm(x[:, seen_BVW.shape[1] :])

    def logits(self, h_RW: Tensor, above_RQC: Tensor | None = None) -> Tensor:
        """`(R, Q, K)` of R hidden patches; `above_RQC` sums the true codes of the levels above, for `chain`."""
        if self.above is None or above_RQC is None:
            return self.head(h_RW).unflatten(-1, (self.levels, self.codes))
        width = h_RW.shape[-1]
        weight_QWC = self.above.weight.view(self.levels, width, -1)
        given_QRW = torch.baddbmm(self.above.bias.view(self.levels, 1, width), above_RQC.transpose(0, 1), weight_QWC.mT)
        seen_QRW = nn.functional.gelu(h_RW + given_QRW)
        weight_QKW = self.head.weight.view(self.levels, self.codes, width)
        bias_Q1K = self.head.bias.view(self.levels, 1, self.codes)
        return torch.baddbmm(bias_Q1K, seen_QRW, weight_QKW.mT).transpose(0, 1)
