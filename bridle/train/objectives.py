"""The two losses of the method.

    encoder phase:    cross-entropy of every hidden patch's code at every level, the tokenizer frozen
    tokenizer phase:  1 - cos(TE(z_q), E(unmasked clip)) + commitment (+ codebook loss), the encoder frozen

Shapes: B clips, m masks a clip, N patches, V visible, M masked, Q levels, K codes, D width, R valid patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bridle.model import Bridle, draw_mask, pick
from bridle.quantize import count_codes
from bridle.schema import PatchBatch


@dataclass(slots=True)
class Objective:
    """A loss to minimise and what to log about it (detached, still on the device)."""

    loss: Tensor
    per_level_Q: Tensor  # cross-entropy (encoder) or residual norm (tokenizer) by level
    count_QK: Tensor  # how often each code was used in this batch


def encoder_objective(model: Bridle, batch: PatchBatch, rng: torch.Generator) -> Objective:
    """Predict the codes of hidden patches; one tokenizer pass serves all `mask.per_clip` masks of a clip."""
    config = model.config
    codes_BNQ, norm_BNQ = model.tokenize_detailed(batch)
    weight_Q = level_weights(norm_BNQ[batch.valid_BN], config.tokenizer.level_weights)
    count_QK = count_codes(codes_BNQ.flatten(0, 1), config.quantizer.codes)
    views = _repeat(batch, config.mask.per_clip)
    mask = draw_mask(views, config.mask.shape, config.mask.ratio, rng, config.mask.predict)
    logits_BMQK = model.predict(views, mask)
    target_BMQ = pick(codes_BNQ.repeat(config.mask.per_clip, 1, 1), mask.masked_BM)
    if mask.masked_valid_BM is not None:
        logits_BMQK, target_BMQ = logits_BMQK[mask.masked_valid_BM], target_BMQ[mask.masked_valid_BM]
    loss = F.cross_entropy(logits_BMQK.float().flatten(0, -2), target_BMQ.flatten(), reduction="none")
    loss_Q = loss.view(-1, target_BMQ.shape[-1]).mean(0)
    return Objective((loss_Q * weight_Q).sum(), loss_Q.detach(), count_QK)


def tokenizer_objective(model: Bridle, batch: PatchBatch) -> Objective:
    """Choose codes from which a small network can guess the encoder's features of the unmasked clip."""
    config = model.config
    target_RD = model.target_norm(model.features(batch)[batch.valid_BN])
    out = model.tokenizer(batch)
    guess_RD = model.estimator(out.z_q_NC, batch)
    miss = 1 - F.cosine_similarity(guess_RD.float(), target_RD, dim=-1).mean()
    count_QK = count_codes(out.codes_NQ, config.quantizer.codes)
    loss = miss + config.tokenizer.commitment * out.commitment + out.codebook_loss
    return Objective(loss, out.residual_norm_NQ.mean(0), count_QK)


def level_weights(norm_NQ: Tensor, kind: str) -> Tensor:
    """How much each level counts in the cross-entropy, summing to 1, `(Q,)`.

    "uniform" is the paper's mean over levels. "energy" weights a level by the share of |z|^2 that it explains: deep
    levels code what is nearly noise, yet would be most of a uniform loss.
    """
    if kind == "uniform":
        return norm_NQ.new_full((norm_NQ.shape[-1],), 1 / norm_NQ.shape[-1])
    energy_Q = F.pad(norm_NQ.square().mean(0), (1, 0), value=1.0)
    removed_Q = (energy_Q[:-1] - energy_Q[1:]).clamp(min=1e-6)
    return removed_Q / removed_Q.sum()


def _repeat(batch: PatchBatch, times: int) -> PatchBatch:
    if times == 1:
        return batch
    return PatchBatch(
        batch.x_BNP.repeat(times, 1, 1),
        batch.coords_BN3.repeat(times, 1, 1),
        batch.valid_BN.repeat(times, 1),
        batch.grid,
        batch.dense,
    )
