"""How well the codes of each level are used. Shapes: N vectors, Q levels, K codes."""

from __future__ import annotations

import torch
from torch import Tensor


def count_codes(codes_NQ: Tensor, codes: int) -> Tensor:
    """How often each code occurs, float64 `(Q, K)`; rows with a negative code (padding) do not count."""
    codes_NQ = codes_NQ[(codes_NQ >= 0).all(-1)]
    levels = codes_NQ.shape[-1]
    slot_NQ = codes_NQ + torch.arange(levels, device=codes_NQ.device) * codes
    return torch.bincount(slot_NQ.flatten(), minlength=levels * codes).view(levels, codes).double()


def usage_share(count_QK: Tensor) -> Tensor:
    """CUR: share of the codes that occur at all, `(Q,)`."""
    return (count_QK > 0).double().mean(-1)


def usage_entropy(count_QK: Tensor) -> Tensor:
    """UE: entropy of the code distribution in bits, `(Q,)`; log2 K when all are used alike. Perplexity is 2^UE."""
    p_QK = count_QK / count_QK.sum(-1, keepdim=True).clamp(min=1e-12)
    return -torch.xlogy(p_QK, p_QK).sum(-1) / torch.log(torch.tensor(2.0, dtype=p_QK.dtype))


def mutual_information(count_QKL: Tensor) -> Tensor:
    """What a code tells of the label, in bits, `(Q,)`: `H(code) + H(label) - H(code, label)` of how often they meet."""
    return (
        usage_entropy(count_QKL.sum(-1)) + usage_entropy(count_QKL.sum(-2)) - usage_entropy(count_QKL.flatten(-2))
    ).clamp(min=0)
