"""How well the codes of each level are used. Shapes: N vectors, Q levels, K codes."""

from __future__ import annotations

import torch
from torch import Tensor


def count_codes(codes_NQ: Tensor, codes: int) -> Tensor:
    """How often each code occurs, float64 `(Q, K)`; rows with a negative code (padding) do not count."""
    levels = codes_NQ.shape[-1]
    counts_NQ = (codes_NQ >= 0).all(-1, keepdim=True).expand_as(codes_NQ).double()
    slot_NQ = codes_NQ.clamp(min=0) + torch.arange(levels, device=codes_NQ.device) * codes
    # Neither a boolean mask nor `bincount`: both make the CPU wait for a GPU, and training asks at every step.
    count_X = counts_NQ.new_zeros(levels * codes).scatter_add_(0, slot_NQ.flatten(), counts_NQ.flatten())
    return count_X.view(levels, codes)


def usage_share(count_QK: Tensor) -> Tensor:
    """CUR: fraction of the codes that are used, `(Q,)`."""
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
