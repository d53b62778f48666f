"""The two losses of the method.

    encoder phase:    cross-entropy of every hidden patch's code at every level, the tokenizer frozen
    tokenizer phase:  1 - cos(TE(z_q), E(unmasked clip)) + commitment (+ codebook loss), the encoder frozen

Shapes: B clips, m masks a clip, N patches, V visible, M masked, Q levels, K codes, D width, R valid patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridle.model import Bridle, Mask, draw_mask, pick
from bridle.quantize import count_codes
from bridle.rng import Draws
from bridle.schema import PatchBatch
from bridle.train.profiler import part_of_step

_PADDING = -1


@dataclass(slots=True)
class Objective:
    """A loss to minimise and what to log about it (detached, still on the device)."""

    loss: Tensor  # mean over this batch's hidden (encoder) or valid (tokenizer) patches
    per_level_Q: Tensor  # cross-entropy (encoder) or residual norm (tokenizer) by level, likewise
    count_QK: Tensor  # how often each code was used in this batch


@dataclass(slots=True)
class Targets:
    """What the encoder is to predict of one batch, and from what; made without gradients."""

    mask: Mask  # `mask.per_clip` of them for each clip: the clips in order for the first, then for the second
    code_BMQ: Tensor  # -1 where there is nothing to predict
    energy_Q: Tensor  # what each level takes away of |z|^2, sum over the valid patches
    count_QK: Tensor
    hidden: Tensor  # how many patches are to be predicted, ()


@torch.no_grad()
def make_targets(model: Bridle, batch: PatchBatch, draws: Draws) -> Targets:
    """One tokenizer pass serves all `mask.per_clip` masks of a clip.

    Args:
        draws: of each mask of each clip, in the order of `Targets.mask`.
    """
    shape = model.config.mask
    codes_BNQ, norm_BNQ = model.tokenize_detailed(batch)
    energy_RQ = F.pad(batch.rows(norm_BNQ).square(), (1, 0), value=1.0)
    mask = draw_mask(batch, shape.shape, shape.ratio, draws, shape.predict, model.patcher.grid)
    code_BMQ = pick(codes_BNQ, mask.masked_BM)
    if mask.masked_valid_BM is not None:
        code_BMQ = code_BMQ.masked_fill(~mask.masked_valid_BM[..., None], _PADDING)
    return Targets(
        mask,
        code_BMQ,
        (energy_RQ[:, :-1] - energy_RQ[:, 1:]).sum(0),
        count_codes(codes_BNQ.flatten(0, 1), model.config.quantizer.codes),
        (code_BMQ[..., 0] >= 0).sum(),
    )


def encoder_objective(model: Bridle, batch: PatchBatch, targets: Targets, weight_Q: Tensor) -> Objective:
    """Predict the codes of hidden patches; see `level_weights`."""
    with part_of_step("encoder"):
        h_BVD = model.encode_visible(batch, targets.mask)
    with part_of_step("predictor"):
        logits_BMQK = model.predict(h_BVD, batch, targets.mask)
    target_BMQ = targets.code_BMQ
    loss = F.cross_entropy(
        logits_BMQK.float().flatten(0, -2), target_BMQ.flatten(), reduction="none", ignore_index=_PADDING
    )
    loss_Q = loss.view(-1, target_BMQ.shape[-1]).sum(0) / targets.hidden.clamp(min=1)
    return Objective((loss_Q * weight_Q).sum(), loss_Q.detach(), targets.count_QK)


def tokenizer_objective(model: Bridle, batch: PatchBatch) -> Objective:
    """Choose codes from which a small network can guess the encoder's features of the unmasked clip."""
    config = model.config
    with part_of_step("encoder"):
        target_RD = model.target_norm(batch.rows(model.features(batch)))
    with part_of_step("tokenizer"):
        out = model.tokenizer(batch)
        guess_RD = model.estimator(out.z_q_NC, batch)
    patches = max(len(guess_RD), 1)  # there may be none
    miss = (1 - F.cosine_similarity(guess_RD.float(), target_RD, dim=-1)).sum() / patches
    count_QK = count_codes(out.codes_NQ, config.quantizer.codes)
    loss = miss + config.tokenizer.commitment * out.commitment + out.codebook_loss
    return Objective(loss, out.residual_norm_NQ.sum(0) / patches, count_QK)


def level_weights(energy_Q: Tensor, kind: str) -> Tensor:
    """How much each level counts in the cross-entropy, summing to 1, `(Q,)`.

    "uniform" is the paper's mean over levels. "energy" weights a level by the share of |z|^2 that it explains: deep
    levels code what is nearly noise, yet would be most of a uniform loss.

    Args:
        energy_Q: |z|^2 that each level takes away, mean over the patches of the whole step.
    """
    if kind == "uniform":
        return energy_Q.new_full(energy_Q.shape, 1 / len(energy_Q))
    removed_Q = energy_Q.clamp(min=1e-6)
    return removed_Q / removed_Q.sum()


class Losses(nn.Module):
    """Both losses behind one `forward`, where the gradients of several ranks are joined."""

    def __init__(self, model: Bridle) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: PatchBatch, targets: Targets | None, weight_Q: Tensor, tokenizer: bool
    ) -> tuple[Objective | None, Objective | None]:
        """The encoder's objective if there are `targets`, the tokenizer's if it is asked for."""
        encoder = encoder_objective(self.model, batch, targets, weight_Q) if targets else None
        return encoder, tokenizer_objective(self.model, batch) if tokenizer else None
