"""How healthy the codebooks are over a data set, level by level: usage, entropy, what is left of the residual.

Shapes: N patches, Q levels, K codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bridle.quantize.usage import count_codes, usage_entropy, usage_share


class CodebookHealth:
    """Adds up codes and residuals batch by batch; padding (negative codes) never counts.

    Args:
        levels, codes: Q and K.
    """

    def __init__(self, levels: int, codes: int) -> None:
        self.count_QK = torch.zeros(levels, codes, dtype=torch.float64)
        self.norm_Q = torch.zeros(levels, dtype=torch.float64)
        self.energy_Q = torch.zeros(levels, dtype=torch.float64)
        self.patches = 0

    def add(self, codes_NQ: Tensor, residual_norm_NQ: Tensor) -> None:
        """More patches: their codes and the norm of what each level left over (z has norm 1)."""
        valid_N = (codes_NQ >= 0).all(-1)
        norm_NQ = residual_norm_NQ[valid_N].double()
        self.count_QK += count_codes(codes_NQ, self.count_QK.shape[1])
        self.norm_Q += norm_NQ.sum(0)
        self.energy_Q += norm_NQ.square().sum(0)
        self.patches += int(valid_N.sum())

    def report(self) -> list[dict[str, Any]]:
        """For each level: `level` (from 1), `cur` (share of codes used), `entropy_bits` (at most log2 K),
        `perplexity` (2^entropy), `residual_norm` and `residual_energy` (means of |r_q| and |r_q|^2)."""
        entropy_Q = usage_entropy(self.count_QK)
        return [
            {
                "level": level + 1,
                "cur": float(cur),
                "entropy_bits": float(entropy),
                "perplexity": float(2**entropy),
                "residual_norm": float(norm) / max(self.patches, 1),
                "residual_energy": float(energy) / max(self.patches, 1),
            }
            for level, (cur, entropy, norm, energy) in enumerate(
                zip(usage_share(self.count_QK), entropy_Q, self.norm_Q, self.energy_Q, strict=True)
            )
        ]
