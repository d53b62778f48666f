"""The pre-norm transformer block that every network here is made of.

Shapes: B clips, N tokens, D width, H heads, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Multi-head self-attention; tokens that are not valid are never attended to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        b, n, d = x_BND.shape
        q, k, v = self.qkv(x_BND).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mask_B11N = None if valid_BN is None else valid_BN[:, None, None, :]
        if x_BND.device.type == "cpu":
            # The CPU's fused attention has a backward pass 3 to 6 times slower in bf16 than in float32.
            with torch.autocast("cpu", enabled=False):
                x_BHNE = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask_B11N)
        else:
            x_BHNE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B11N)
        return self.out(x_BHNE.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Attributes:
        drop_path: how often, in training, a clip passes by each of the two branches (stochastic depth, Huang et al.
            2016); the others' are scaled up, so that the expectation stays.
    """

    drop_path = 0.0

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        x_BND = x_BND + self._kept(self.attention(self.norm1(x_BND), valid_BN))
        return x_BND + self._kept(self.mlp(self.norm2(x_BND)))

    def _kept(self, branch_BND: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return branch_BND
        keep_B11 = branch_BND.new_empty(len(branch_BND), 1, 1).bernoulli_(1 - self.drop_path)
        return branch_BND * keep_B11 / (1 - self.drop_path)


class Blocks(nn.ModuleList):
    """Blocks one after the other.

    Attributes:
        recompute: keep only what goes into each block and compute the rest a second time for the gradient: less memory,
            a third more work (Chen et al. 2016).
    """

    def __init__(self, depth: int, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.recompute = False

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        for block in self:
            if self.recompute and torch.is_grad_enabled():
                x_BND = checkpoint(block, x_BND, valid_BN, use_reentrant=False)
            else:
                x_BND = block(x_BND, valid_BN)
        return x_BND


def initialise(module: nn.Module) -> None:
    """MAE's start: Xavier-uniform weights, zero biases (use with `Module.apply`)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
