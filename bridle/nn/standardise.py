"""Mean 0 and variance 1 in every channel: batch normalisation (Ioffe & Szegedy 2015) over the batch of all ranks.

PyTorch's `SyncBatchNorm` needs a GPU, and moves its averages while it is asked; here a step that turns out bad leaves
no trace. Shapes: R rows, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridle import distributed

_MOMENTUM, _EPSILON = 0.1, 1e-5


class Standardise(nn.Module):
    """`(R, C)` -> `(R, C)` float32, by the batch's own mean and variance in training, by running averages otherwise."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def scale_C(self) -> Tensor:
        """What centred rows are multiplied with outside training."""
        return (self.running_var + _EPSILON).rsqrt()

    def forward(self, x_RC: Tensor) -> Tensor:
        with torch.autocast(x_RC.device.type, enabled=False):
            x_RC = x_RC.float()
            if not self.training:
                return (x_RC - self.running_mean) * self.scale_C
            rows = distributed.sum_over_ranks(torch.full((), float(len(x_RC)), device=x_RC.device))
            least_one = rows.clamp(min=1)
            mean_C = distributed.differentiable_sum(x_RC.sum(0)) / least_one
            centred_RC = x_RC - mean_C
            variance_C = distributed.differentiable_sum(centred_RC.square().sum(0)) / least_one
            self._seen.append((rows, mean_C.detach(), variance_C.detach()))
            return centred_RC * (variance_C + _EPSILON).rsqrt()

    @torch.no_grad()
    def update(self, sound: Tensor) -> None:
        """The running averages take in all batches since the last call; where `sound` is False they forget them."""
        if not self._seen:
            return
        rows_M1, mean_MC, variance_MC = (torch.stack(part) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        share_M1 = rows_M1[:, None] / rows_M1.sum().clamp(min=1)
        mean_C = (share_M1 * mean_MC).sum(0)
        variance_C = (share_M1 * (variance_MC + (mean_MC - mean_C).square())).sum(0)
        rows = rows_M1.sum()
        unbiased_C = variance_C * rows / (rows - 1).clamp(min=1)
        for average_C, new_C in ((self.running_mean, mean_C), (self.running_var, unbiased_C)):
            average_C.copy_(torch.where(sound, average_C.lerp(new_C, _MOMENTUM), average_C))
