"""What fine-tuning does to patches and labels: hidden bands, mixup, cutmix. On the device, whatever the modality.

Shapes: B clips, N patches, P values a patch `(C, t, h, w)`, L classes, 3 axes (time, row, column).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bridle.patches.patcher import Patcher
from bridle.schema import PatchBatch


def hide_bands(batch: PatchBatch, patcher: Patcher, time: float, rows: float, rng: np.random.Generator) -> PatchBatch:
    """SpecAugment: in each clip one band of time and one of rows (in audio: frequencies) become the corpus' mean.

    Args:
        time, rows: the largest share of the clip's own extent that a band may take; each takes a random share up to
            that, at a random place, not bound to patches.
    """
    x_BNP = batch.x_BNP
    clips, per_step = len(x_BNP), batch.grid[1] * batch.grid[2]
    for axis, most in ((0, time), (1, rows)):
        if not most:
            continue
        size = patcher.patch[axis]
        own = [n // per_step for n in batch.lengths] if axis == 0 else [batch.grid[1]] * clips
        extent_B = np.maximum(np.asarray(own), 1) * size
        width_B = most * rng.random(clips) * extent_B
        start_B = rng.random(clips) * (extent_B - width_B)
        from_B11, to_B11 = (
            torch.from_numpy(np.round(edge)).to(x_BNP.device, torch.int64)[:, None, None]
            for edge in (start_B, start_B + width_B)
        )
        at_BNP = batch.coords_BN3[..., axis, None] * size + _offsets(patcher, axis).to(x_BNP.device)
        x_BNP = x_BNP.masked_fill((at_BNP >= from_B11) & (at_BNP < to_B11), 0.0)
    return PatchBatch(x_BNP, batch.coords_BN3, batch.valid_BN, batch.lengths, batch.grid)


def _offsets(patcher: Patcher, axis: int) -> Tensor:
    """Where along an axis of its patch each of the P values lies."""
    shape = (patcher.channels, *patcher.patch)
    along = torch.arange(patcher.patch[axis]).view([-1 if at == axis + 1 else 1 for at in range(4)])
    return along.expand(shape).flatten()


def mix(
    batch: PatchBatch,
    shares_BL: Tensor,
    axes: tuple[int, ...],
    mixup: tuple[float, float],
    cutmix: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[PatchBatch, Tensor]:
    """Some clips become mixtures with their neighbour in the batch, their labels likewise.

    Mixup adds the normalised patches of two clips with weights w and 1 - w, w from Beta(alpha, alpha). Cutmix puts a
    box of the other's patches over the two innermost axes of the grid in place of the clip's own, as large a share as
    Beta says; the label goes by the share of patches that were in fact exchanged.

    Args:
        axes: of the grid that are used, as the patcher says.
        mixup, cutmix: how often, and alpha.
    """
    clips = len(batch.x_BNP)
    drawn_B = rng.random(clips)
    up_B, cut_B = drawn_B < mixup[0], (drawn_B >= mixup[0]) & (drawn_B < mixup[0] + cutmix[0])
    if clips < 2 or not (up_B | cut_B).any():
        return batch, shares_BL
    x_BNP, valid_BN = batch.x_BNP, batch.valid_BN
    other_BNP, other_BN = x_BNP.roll(1, 0), valid_BN.roll(1, 0)
    own_B = np.where(up_B, rng.beta(mixup[1], mixup[1], clips), 1.0)
    own_B11 = torch.from_numpy(own_B).to(x_BNP)[:, None, None]
    mixed_BNP = own_B11 * x_BNP + (1 - own_B11) * other_BNP
    up_B1 = torch.from_numpy(up_B).to(valid_BN.device)[:, None]
    lengths = [
        max(n, m) if up else n for n, m, up in zip(batch.lengths, np.roll(batch.lengths, 1).tolist(), up_B, strict=True)
    ]
    box_BN = _boxes(batch, axes[-2:], np.where(cut_B, 1 - rng.beta(cutmix[1], cutmix[1], clips), 0.0), rng)
    box_BN &= valid_BN & other_BN
    mixed_BNP = torch.where(box_BN[..., None], other_BNP, mixed_BNP)
    from_other_B1 = 1 - own_B11[:, :, 0] + box_BN.sum(1, keepdim=True) / valid_BN.sum(1, keepdim=True).clamp(min=1)
    mixed = PatchBatch(mixed_BNP, batch.coords_BN3, valid_BN | (up_B1 & other_BN), lengths, batch.grid)
    return mixed, (1 - from_other_B1) * shares_BL + from_other_B1 * shares_BL.roll(1, 0)


def _boxes(batch: PatchBatch, axes: tuple[int, ...], area_B: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Patches in a random box of that share of the grid, bool `(B, N)`, over all of the axes that are not named."""
    inside_BN = torch.ones_like(batch.valid_BN)
    for axis in axes:
        size = batch.grid[axis]
        width_B = np.round(size * np.sqrt(area_B)).astype(int)
        start_B = np.floor(rng.random(len(area_B)) * (size - width_B + 1)).astype(int)
        from_B1, to_B1 = (
            torch.from_numpy(edge).to(batch.coords_BN3.device)[:, None] for edge in (start_B, start_B + width_B)
        )
        at_BN = batch.coords_BN3[..., axis]
        inside_BN &= (at_BN >= from_B1) & (at_BN < to_B1)
    return inside_BN
