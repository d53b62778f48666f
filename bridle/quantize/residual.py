"""Residual vector quantization with data-driven codebooks (method: arXiv 2502.02118, section 3).

    r_0 = z / |z|;   k_q = argmin_k |r_{q-1} - e_{q,k}|^2;   r_q = r_{q-1} - e_{q,k_q};   z_q = sum_q e_{q,k_q}

One level is plain vector quantization; one level behind a `RandomProjection`, frozen, is BEST-RQ's. z is normalised
once and never again: normalising the input of each level but subtracting from the unnormalised residual makes the
deeper levels useless.

Shapes: N vectors, Q levels, K codes a level, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridle import distributed
from bridle.quantize.kmeans import kmeans, nearest_code
from bridle.rng import key_of, uniform

Learn = Literal["ema", "gradient"]
_KMEANS_ROWS = 128  # vectors a code that k-means looks at, at most
_THIN = 0.5  # of the expected size: a smaller cluster of k-means starts again
_SMOOTHING = 1e-5  # Laplace, so that an unused code never divides by zero


@dataclass(slots=True)
class Quantized:
    """Output of a quantizer for N vectors.

    Attributes:
        codes_NQ: int64 indices.
        z_q_NC: sum of the chosen codes, with the gradient of z (straight-through).
        commitment: mean over vectors and levels of `|r_{q-1} - sg(e_q)|^2`, the term that draws z towards its codes.
        codebook_loss: mean of `|sg(r_{q-1}) - e_q|^2`, the term that draws codes towards z; zero where codebooks
            move by averages.
        residual_norm_NQ: `|r_q|` after each level, detached; z itself has norm 1.
    """

    codes_NQ: Tensor
    z_q_NC: Tensor
    commitment: Tensor
    codebook_loss: Tensor
    residual_norm_NQ: Tensor


class ResidualQuantizer(nn.Module):
    """Residual quantizer with Q codebooks of K vectors, started by k-means and updated by moving averages or gradient.

    In training mode `update` moves the codebooks by the vectors quantized since its last call; `freeze()` disables
    updates permanently, also in training mode. All ranks hold the same codebooks: k-means uses the gathered batch, and
    counts, sums and replacements of all levels are reduced in one all-reduce. Always computes in float32: bf16 changes
    about 1 % of the assignments on residual levels.

    Args:
        levels: Q.
        codes: K.
        width: C.
        learn: "ema" moves codebooks by moving averages of counts and sums, "gradient" makes them parameters, for
            `Quantized.codebook_loss` to train.
        decay: of the moving averages of counts and sums, after the first updates: (1 + n) / (10 + n) if that is less.
        dead_below: a code used less than this fraction of its expected usage (1/K) is replaced.
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
        learn: Learn = "ema",
        decay: float = 0.99,
        dead_below: float = 0.3,
        kmeans_iterations: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.levels, self.codes, self.width, self.learn = levels, codes, width, learn
        self.decay, self.dead_below, self.kmeans_iterations, self.seed = decay, dead_below, kmeans_iterations, seed
        codebook_QKC = torch.zeros(levels, codes, width)
        if learn == "gradient":
            self.codebook_QKC = nn.Parameter(codebook_QKC)
        else:
            self.register_buffer("codebook_QKC", codebook_QKC)
        self.register_buffer("count_QK", torch.zeros(levels, codes))
        self.register_buffer("sum_QKC", torch.zeros(levels, codes, width))
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))
        self._seen: list[tuple[Tensor, Tensor]] = []  # vectors and their codes, for `update`

    def _apply(self, fn: Any, recurse: bool = True) -> ResidualQuantizer:
        super()._apply(fn, recurse)
        # Asked at every step: on a GPU each question would wait until the device has caught up.
        self.initialised, self.frozen = self.initialised.cpu(), self.frozen.cpu()
        return self

    def freeze(self) -> None:
        """Disable updates permanently, also in training mode; saved with the weights."""
        self.frozen.fill_(True)
        self._seen.clear()
        if self.learn == "gradient":
            self.codebook_QKC.requires_grad_(False).grad = None  # or an optimizer's momentum would move it on

    @torch.no_grad()
    def reset(self) -> None:
        """Reset the codebooks; the next training batch initialises new ones by k-means."""
        for buffer in (self.codebook_QKC, self.count_QK, self.sum_QKC, self.updates):
            buffer.zero_()
        self.initialised.fill_(False)
        self.frozen.fill_(False)
        self._seen.clear()
        if self.learn == "gradient":
            self.codebook_QKC.requires_grad_(True)

    def forward(self, z_NC: Tensor) -> Quantized:
        """Quantize N vectors; in training mode they are stored for `update`."""
        with torch.autocast(z_NC.device.type, enabled=False):
            z_NC = F.normalize(z_NC.float(), dim=-1)
            learning = self.training and not bool(self.frozen)
            if learning and not bool(self.initialised):
                self.start(distributed.gather_rows(z_NC.detach()))
            learning = learning and bool(self.initialised)
            residual_NC, codes, norms = z_NC, [], []
            commitment, codebook_loss = z_NC.new_zeros(()), z_NC.new_zeros(())
            for level, codebook_KC in enumerate(self.codebook_QKC.detach()):
                input_NC = residual_NC.detach()
                code_N = nearest_code(input_NC, codebook_KC)
                if learning and self.learn == "gradient":
                    miss_NC = input_NC - F.embedding(code_N, self.codebook_QKC[level])
                    codebook_loss = codebook_loss + miss_NC.square().sum() / (max(len(miss_NC), 1) * self.levels)
                # Only the detached code is subtracted: a straight-through one would cancel the gradient below.
                residual_NC = (-codebook_KC)[code_N].add_(residual_NC)
                norm_N = torch.linalg.vector_norm(residual_NC, dim=-1)
                commitment = commitment + norm_N.square().sum() / (max(len(norm_N), 1) * self.levels)
                codes.append(code_N)
                norms.append(norm_N.detach())
            codes_NQ = torch.stack(codes, dim=-1)
            if learning:
                self._seen.append((z_NC.detach(), codes_NQ))
            z_q_NC = z_NC - residual_NC.detach()  # in value the sum of the codes, in gradient z
            return Quantized(codes_NQ, z_q_NC, commitment, codebook_loss, torch.stack(norms, dim=-1))

    @torch.no_grad()
    def decode(self, codes_NQ: Tensor) -> Tensor:
        """Compute `z_q` from codes; the first levels alone give a coarser one."""
        return sum(self.codebook_QKC[q][codes_NQ[:, q]] for q in range(codes_NQ.shape[1]))  # type: ignore[return-value]

    @torch.no_grad()
    def start(self, z_NC: Tensor) -> None:
        """Initialise the codebooks by k-means on these vectors, level by level; non-finite vectors are ignored."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.autocast(z_NC.device.type, enabled=False):
            rows_NC = F.normalize(z_NC[z_NC.isfinite().all(-1)].float(), dim=-1)
            if not len(rows_NC):
                return
            most = _KMEANS_ROWS * self.codes
            if len(rows_NC) > most:
                rows_NC = rows_NC[torch.randperm(len(rows_NC), generator=generator)[:most].to(rows_NC.device)]
            for q in range(self.levels):
                centre_KC, count_K = kmeans(rows_NC, self.codes, self.kmeans_iterations, generator, thin_below=_THIN)
                self.codebook_QKC[q], self.count_QK[q] = centre_KC, count_K
                self.sum_QKC[q] = centre_KC * count_K[:, None]
                rows_NC = rows_NC - centre_KC[nearest_code(rows_NC, centre_KC)]
        self.initialised.fill_(True)

    @torch.no_grad()
    def update(self, sound: Tensor | None = None) -> None:
        """Update the codebooks with all vectors quantized in training mode since the last call.

        Moving averages of counts and sums; a code used too rarely becomes a random input of its level, with the usage
        that an average code has. Empty and non-finite inputs change nothing. Every rank must call it.

        Args:
            sound: bool `()`; where it is False the vectors are forgotten. Nothing here waits for the device to say so.
        """
        if not self._seen:
            return
        z_NC, codes_NQ = (torch.cat(part) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        count_QK, sum_QKC, candidate_QKC = self._tally(z_NC, codes_NQ)
        # One vector that is not finite would stay in the averages for good. Asked of the joined sums, so that all ranks
        # say the same.
        moves = sum_QKC.sum().isfinite() & (count_QK.sum() > 0)
        moves = moves if sound is None else moves & sound
        # Young codebooks forget faster: z turns most in the first steps, and codes that lag behind die in numbers.
        step = 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        new_QK = self.count_QK.lerp(count_QK, step)
        expected_Q1 = new_QK.mean(-1, keepdim=True)
        dead_QK = new_QK < self.dead_below * expected_Q1
        new_QK = torch.where(dead_QK, expected_Q1, new_QK)
        if self.learn == "gradient":
            codebook_QKC, new_QKC = torch.where(dead_QK[..., None], candidate_QKC, self.codebook_QKC), self.sum_QKC
        else:
            newcomer_QKC = candidate_QKC * expected_Q1[..., None]
            new_QKC = torch.where(dead_QK[..., None], newcomer_QKC, self.sum_QKC.lerp(sum_QKC, step))
            total_Q1 = new_QK.sum(-1, keepdim=True)
            smooth_QK = (new_QK + _SMOOTHING) / (total_Q1 + self.codes * _SMOOTHING) * total_Q1
            codebook_QKC = new_QKC / smooth_QK.clamp(min=1e-12)[..., None]
        for old, new in (
            (self.count_QK, new_QK),
            (self.sum_QKC, new_QKC),
            (self.codebook_QKC, codebook_QKC),
            (self.updates, self.updates + 1),
        ):
            old.copy_(torch.where(moves, new, old))

    def _tally(self, z_NC: Tensor, codes_NQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the vectors of all ranks say of the codebooks, in one all-reduce.

        Returns:
            counts `(Q, K)`, sums `(Q, K, C)` and for every code a random input of its level `(Q, K, C)`.
        """
        q, k, c = self.codebook_QKC.shape
        first, total = distributed.row_span(len(z_NC), z_NC.device)
        # Drawn alike on every rank from the rows of all ranks; each rank brings those that are its own.
        key = self.updates * k + key_of(self.seed, "candidates")
        pick_QK = (uniform(key, q * k).double() * total).long().view(q, k) - first
        own_QK = (pick_QK >= 0) & (pick_QK < len(z_NC))
        pick_QK = pick_QK.clamp(0, max(len(z_NC) - 1, 0))
        joined_X = z_NC.new_zeros(q * k * (2 * c + 1))
        sum_X, candidate_X, count_X = joined_X.split((q * k * c, q * k * c, q * k))
        sum_QKC, candidate_QKC, count_QK = sum_X.view(q, k, c), candidate_X.view(q, k, c), count_X.view(q, k)
        input_NC, one_N = z_NC, z_NC.new_ones(len(z_NC))
        for level, code_N in enumerate(codes_NQ.unbind(-1)):
            sum_QKC[level].index_add_(0, code_N, input_NC)
            count_QK[level].index_add_(0, code_N, one_N)
            if len(input_NC):  # a rank may have none
                candidate_QKC[level] = input_NC[pick_QK[level]] * own_QK[level, :, None]
            input_NC = (-self.codebook_QKC[level])[code_N].add_(input_NC)
        distributed.sum_over_ranks(joined_X)
        return count_QK, sum_QKC, candidate_QKC
