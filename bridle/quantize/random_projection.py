"""A frozen random linear map of centred patches: the tokenizer of the cold start (BEST-RQ, arXiv 2202.01855).

The patches' principal variances can be levelled first (`power` 0.5 whitens) and the trailing components left out. Both
are off by default: codes of whitened patches were too close to noise to be predicted (docs/decisions.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridle import distributed


class RandomProjection(nn.Module):
    """`(N, P)` patch values -> `(N, C)`.

    Args:
        values: P.
        width: C.
        seed: of the projection.
    """

    mean_P: Tensor
    map_PC: Tensor

    def __init__(
        self, values: int, width: int, *, components: int | None = None, power: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.components, self.power, self.seed = components, power, seed
        self.register_buffer("mean_P", torch.zeros(values))
        self.register_buffer("map_PC", torch.zeros(values, width))

    @torch.no_grad()
    def fit(self, x_NP: Tensor) -> None:
        """Mean and components from these patches, the same on every rank, then the random map."""
        x_NP = x_NP.double()
        mean_P = x_NP.mean(0)
        cov_PP = torch.cov((x_NP - mean_P).T)
        variance_P, basis_PP = torch.linalg.eigh(cov_PP)
        variance_P, basis_PP = variance_P.flip(0).clamp(min=0), basis_PP.flip(1)
        keep = min(self.components or len(variance_P), len(variance_P))
        scale_P = variance_P.clamp(min=1e-6 * float(variance_P[0]) + 1e-12) ** (-self.power)
        whiten_PM = basis_PP[:, :keep] * scale_P[:keep]
        width = self.map_PC.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        random_MC = torch.randn(keep, width, generator=generator, dtype=torch.float64)
        if keep >= width:
            random_MC = torch.linalg.qr(random_MC)[0]
        self.mean_P.copy_(mean_P)
        self.map_PC.copy_(whiten_PM @ random_MC.to(whiten_PM))
        for buffer in (self.mean_P, self.map_PC):
            distributed.from_first(buffer)  # eigenvectors may differ between machines

    def forward(self, x_NP: Tensor) -> Tensor:
        with torch.autocast(x_NP.device.type, enabled=False):
            return (x_NP.float() - self.mean_P) @ self.map_PC
