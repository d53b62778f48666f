"""K-means and nearest-code search: the arithmetic under every quantizer.

Shapes: N vectors, K codes, C width. All float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Entries of the distance matrix held at once, so that memory stays linear in N: what stays in a CPU's cache (4 MB),
# and what keeps a GPU busy (64 MB).
_CPU_CHUNK, _GPU_CHUNK = 1 << 20, 1 << 24
_SETTLE = 3  # last rounds of k-means, in which only empty clusters start again


def nearest_code(x_NC: Tensor, codebook_KC: Tensor) -> Tensor:
    """Index of the nearest code of each vector, `argmin_k |x - e_k|^2`, int64 `(N,)`; ties go to the lowest."""
    half_norm_K = 0.5 * codebook_KC.square().sum(-1)
    rows = max(1, (_CPU_CHUNK if x_NC.device.type == "cpu" else _GPU_CHUNK) // len(codebook_KC))
    code_N = torch.empty(len(x_NC), dtype=torch.int64, device=x_NC.device)
    for part_NC, out_N in zip(x_NC.split(rows), code_N.split(rows), strict=True):
        distance_NK = torch.addmm(half_norm_K, part_NC, codebook_KC.T, alpha=-1.0)
        out_N.copy_(distance_NK.min(-1).indices)  # argmin takes three to five times as long on a CPU
    return code_N


def kmeans(
    x_NC: Tensor, codes: int, iterations: int, generator: torch.Generator, *, thin_below: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random distinct vectors.

    Args:
        x_NC: what to cluster.
        codes: K.
        iterations: how many; the last three leave thin clusters alone.
        generator: all draws come from it.
        thin_below: a cluster with less than this share of its expected N / K vectors starts again at a random vector,
            most likely where vectors are many; an empty one always does.

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
    for iteration in range(iterations):
        code_N = nearest_code(x_NC, centre_KC)
        count_K = torch.bincount(code_N, minlength=codes).to(x_NC.dtype)
        sum_KC = torch.zeros_like(centre_KC).index_add_(0, code_N, x_NC)
        settling = iteration >= iterations - _SETTLE
        fewest = 1.0 if settling else max(1.0, thin_below * n / codes)
        centre_KC = torch.where((count_K < fewest)[:, None], draw(codes), sum_KC / count_K.clamp(min=1)[:, None])
    return centre_KC, count_K
