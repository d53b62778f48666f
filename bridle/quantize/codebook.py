"""K-means and nearest-code search: the arithmetic under every quantizer.

Shapes: N vectors, K codes, C width. All float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 22  # entries of the distance matrix held at once: 16 MB, memory stays linear in N


def nearest_code(x_NC: Tensor, codebook_KC: Tensor) -> Tensor:
    """Index of the nearest code of each vector, `argmin_k |x - e_k|^2`, int64 `(N,)`; ties go to the lowest."""
    half_norm_K = 0.5 * codebook_KC.square().sum(-1)
    rows = max(1, _CHUNK // len(codebook_KC))
    if len(x_NC) <= rows:
        return torch.addmm(half_norm_K, x_NC, codebook_KC.T, alpha=-1.0).argmin(-1)
    return torch.cat([nearest_code(part, codebook_KC) for part in x_NC.split(rows)])


def kmeans(x_NC: Tensor, codes: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random distinct vectors; an empty cluster restarts at a random vector.

    Returns:
        centres `(K, C)` and the number of vectors in each `(K,)`. With fewer than K vectors, the spare centres
        are jittered copies of them.
    """
    n, width = x_NC.shape
    assert n > 0, "k-means needs at least one vector"

    def draw(count: int) -> Tensor:
        if n >= count:
            return x_NC[torch.randperm(n, generator=generator)[:count].to(x_NC.device)]
        picks = torch.randint(n, (count,), generator=generator).to(x_NC.device)
        noise = torch.randn(count, width, generator=generator).to(x_NC)
        return x_NC[picks] + 1e-3 * x_NC.std(unbiased=False).clamp(min=1e-6) * noise

    centre_KC = draw(codes)
    count_K = x_NC.new_zeros(codes)
    for _ in range(iterations):
        code_N = nearest_code(x_NC, centre_KC)
        count_K = torch.bincount(code_N, minlength=codes).to(x_NC.dtype)
        sum_KC = torch.zeros_like(centre_KC).index_add_(0, code_N, x_NC)
        empty_K1 = (count_K == 0)[:, None]
        centre_KC = torch.where(empty_K1, draw(codes), sum_KC / count_K.clamp(min=1)[:, None])
    return centre_KC, count_K
