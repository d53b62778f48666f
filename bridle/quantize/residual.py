"""Residual vector quantization with codebooks that follow the data (method: arXiv 2502.02118, section 3).

    r_0 = z / |z|;   k_q = argmin_k |r_{q-1} - e_{q,k}|^2;   r_q = r_{q-1} - e_{q,k_q};   z_q = sum_q e_{q,k_q}

One level with one codebook is plain vector quantization. z is normalised once and never again: normalising the
input of each level but subtracting from the unnormalised residual makes the deeper levels useless.

Shapes: N vectors, Q levels, K codes a level, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridle import distributed
from bridle.quantize.codebook import kmeans, nearest_code

_KMEANS_ROWS = 128  # vectors a code that k-means looks at, at most
_SMOOTHING = 1e-5  # Laplace, so that an unused code never divides by zero


@dataclass(slots=True)
class Quantized:
    """What a quantizer returns for N vectors.

    Attributes:
        codes_NQ: int64 indices.
        z_q_NC: sum of the chosen codes, with the gradient of z (straight-through).
        commitment: mean over vectors, levels and channels-sum of `|r_{q-1} - sg(e_q)|^2`, the term that draws z
            towards its codes.
        residual_norm_NQ: `|r_q|` after each level, detached; z itself has norm 1.
    """

    codes_NQ: Tensor
    z_q_NC: Tensor
    commitment: Tensor
    residual_norm_NQ: Tensor


class ResidualQuantizer(nn.Module):
    """Q unshared codebooks of K vectors, started by k-means and moved by a count-weighted moving average.

    Training mode updates the codebooks at every call; `freeze()` ends that for good, whatever `.train()` says.
    Always computes in float32: bf16 flips about 1 % of the assignments on residual levels.

    Args:
        levels: Q.
        codes: K.
        width: C.
        decay: of the moving averages of counts and sums.
        dead_below: a code used less than this share of its expected usage (1/K) is replaced.
        kmeans_iterations: Lloyd steps at the start.
        seed: all draws (k-means start, replacements) follow from it and the number of updates so far.
    """

    codebook_QKC: Tensor
    count_QK: Tensor
    sum_QKC: Tensor
    initialised: Tensor
    frozen: Tensor
    updates: Tensor

    def __init__(
        self,
        levels: int,
        codes: int,
        width: int,
        *,
        decay: float = 0.99,
        dead_below: float = 0.1,
        kmeans_iterations: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.levels, self.codes, self.width = levels, codes, width
        self.decay, self.dead_below, self.kmeans_iterations, self.seed = decay, dead_below, kmeans_iterations, seed
        self.register_buffer("codebook_QKC", torch.zeros(levels, codes, width))
        self.register_buffer("count_QK", torch.zeros(levels, codes))
        self.register_buffer("sum_QKC", torch.zeros(levels, codes, width))
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))

    def freeze(self) -> None:
        """No more updates, whatever mode the module is in; saved with the weights."""
        self.frozen.fill_(True)

    def reset(self) -> None:
        """Forget the codebooks: the next training batch starts new ones by k-means."""
        for buffer in (self.codebook_QKC, self.count_QK, self.sum_QKC, self.updates):
            buffer.zero_()
        self.initialised.fill_(False)
        self.frozen.fill_(False)

    def forward(self, z_NC: Tensor) -> Quantized:
        """Quantizes N vectors; in training mode moves the codebooks afterwards."""
        with torch.autocast(z_NC.device.type, enabled=False):
            z_NC = F.normalize(z_NC.float(), dim=-1)
            # One vector that is not finite would stay in the moving averages for good.
            learning = self.training and not bool(self.frozen) and bool(z_NC.isfinite().all())
            if learning and not bool(self.initialised):
                self._start(z_NC.detach())
            residual_NC, chosen_NC = z_NC, torch.zeros_like(z_NC)
            codes, inputs, norms = [], [], []
            commitment = z_NC.new_zeros(())
            for codebook_KC in self.codebook_QKC:
                code_N = nearest_code(residual_NC.detach(), codebook_KC)
                code_NC = codebook_KC[code_N]
                inputs.append(residual_NC.detach())
                codes.append(code_N)
                # Only the detached code is subtracted: a straight-through one would cancel the gradient below.
                residual_NC = residual_NC - code_NC
                chosen_NC = chosen_NC + code_NC
                commitment = commitment + residual_NC.square().sum(-1).mean() / self.levels
                norms.append(residual_NC.detach().norm(dim=-1))
            codes_NQ = torch.stack(codes, dim=-1)
            if learning:
                self._update(codes_NQ, inputs)
            z_q_NC = z_NC + (chosen_NC - z_NC).detach()
            return Quantized(codes_NQ, z_q_NC, commitment, torch.stack(norms, dim=-1))

    def decode(self, codes_NQ: Tensor) -> Tensor:
        """`z_q` from codes; the first levels alone give a coarser one."""
        return sum(self.codebook_QKC[q][codes_NQ[:, q]] for q in range(codes_NQ.shape[1]))  # type: ignore[return-value]

    def _generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + int(self.updates)) * 2 + purpose)

    @torch.no_grad()
    def _start(self, z_NC: Tensor) -> None:
        """K-means level by level on the vectors of all ranks."""
        generator = self._generator(0)
        rows_NC = distributed.gather_rows(z_NC)
        most = _KMEANS_ROWS * self.codes
        if len(rows_NC) > most:
            rows_NC = rows_NC[torch.randperm(len(rows_NC), generator=generator)[:most].to(rows_NC.device)]
        for q in range(self.levels):
            centre_KC, count_K = kmeans(rows_NC, self.codes, self.kmeans_iterations, generator)
            self.codebook_QKC[q], self.count_QK[q] = centre_KC, count_K
            self.sum_QKC[q] = centre_KC * count_K[:, None]
            rows_NC = rows_NC - centre_KC[nearest_code(rows_NC, centre_KC)]
        self.initialised.fill_(True)

    @torch.no_grad()
    def _update(self, codes_NQ: Tensor, inputs: list[Tensor]) -> None:
        """Moving averages of counts and sums, one all-reduce for all levels, then replacement of dead codes."""
        q, k, c = self.codebook_QKC.shape
        slot_NQ = codes_NQ + torch.arange(q, device=codes_NQ.device) * k
        batch = torch.zeros(q * k, c + 1, device=codes_NQ.device)
        batch[:, c] = torch.bincount(slot_NQ.flatten(), minlength=q * k)
        for level, input_NC in enumerate(inputs):
            batch[:, :c].index_add_(0, slot_NQ[:, level], input_NC)
        batch = distributed.sum_over_ranks(batch).view(q, k, c + 1)
        self.count_QK.lerp_(batch[..., c], 1 - self.decay)
        self.sum_QKC.lerp_(batch[..., :c], 1 - self.decay)
        self._replace_dead(inputs)
        total_Q1 = self.count_QK.sum(-1, keepdim=True)
        smooth_QK = (self.count_QK + _SMOOTHING) / (total_Q1 + k * _SMOOTHING) * total_Q1
        self.codebook_QKC.copy_(self.sum_QKC / smooth_QK.clamp(min=1e-12)[..., None])
        self.updates += 1

    def _replace_dead(self, inputs: list[Tensor]) -> None:
        """A code used too rarely becomes a random input of its level, with the usage an average code has."""
        expected_Q1 = self.count_QK.mean(-1, keepdim=True)
        dead_QK = self.count_QK < self.dead_below * expected_Q1
        if not bool(dead_QK.any()):
            return
        generator = self._generator(1)
        for q, input_NC in enumerate(inputs):
            dead_K = dead_QK[q]
            pool_NC = distributed.gather_rows(input_NC)
            pick_K = torch.randint(len(pool_NC), (self.codes,), generator=generator).to(pool_NC.device)
            self.sum_QKC[q] = torch.where(dead_K[:, None], pool_NC[pick_K] * expected_Q1[q], self.sum_QKC[q])
            self.count_QK[q] = torch.where(dead_K, expected_Q1[q], self.count_QK[q])
