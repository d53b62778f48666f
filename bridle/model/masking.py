"""Which patches the encoder sees and which it must predict.

Every shape is a way to score the patches of a grid; the lowest scores stay visible. So the share of hidden patches
is the same for every clip, padding is neither visible nor masked, and clips of different length share a batch.

Shapes: B masks (one or several for each clip, see `draw_mask`), N patches, V visible, M masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bridle.rng import Draws
from bridle.schema import PatchBatch

_CHUNK = 64  # clips whose blocks are drawn at once: each takes blocks x N numbers


@dataclass(slots=True)
class Mask:
    """Indices into the N patches; the `_valid` masks are None when no slot of any clip is padding."""

    visible_BV: Tensor
    visible_valid_BV: Tensor | None
    masked_BM: Tensor
    masked_valid_BM: Tensor | None


def draw_mask(
    batch: PatchBatch,
    shape: str,
    ratio: float,
    draws: Draws,
    predict: float = 1.0,
    full: tuple[int, int, int] | None = None,
) -> Mask:
    """Random masks, the same whatever other clips are in the batch.

    Args:
        batch: patches with validity and grid.
        shape: "random" hides single patches, "tube" the same rows and columns at all times, "block" rectangles.
        ratio: share of each clip's valid patches to hide; with tubes the nearest share that whole tubes allow.
        draws: of every mask: one for each clip in order, or several times that.
        predict: share of the hidden patches that stay in `masked_BM`. The others are simply never asked for, which
            makes the predictor cheaper (CrossMAE, arXiv 2401.14391).
        full: grid of a full clip, which the sizes of blocks follow from; default: of the batch.
    """
    tubes = 0
    if shape == "tube" and batch.grid[1] * batch.grid[2] > 1:  # a single tube would hide everything or nothing
        tubes = batch.grid[1] * batch.grid[2]
        score_BN = draws.uniform("mask", tubes)[:, None].expand(-1, batch.grid[0], -1).flatten(1)
    elif shape == "block":
        score_BN = _block_scores(batch.grid, full or batch.grid, draws)
    else:
        score_BN = draws.uniform("mask", batch.valid_BN.shape[1])
    mask = split(score_BN, batch, ratio, tubes=tubes)
    return mask if predict == 1 else _fewer(mask, predict, draws.uniform("predict", score_BN.shape[1]))


def _fewer(mask: Mask, share: float, score_BN: Tensor) -> Mask:
    """A part of each clip's hidden patches, at least one: those of the lowest scores."""
    score_BM = score_BN.gather(1, mask.masked_BM)
    most = max(1, round(mask.masked_BM.shape[1] * share))
    if mask.masked_valid_BM is None:
        return replace(mask, masked_BM=mask.masked_BM.gather(1, score_BM.argsort(1)[:, :most]))
    order_BM = score_BM.masked_fill(~mask.masked_valid_BM, torch.inf).argsort(1)[:, :most]
    hidden_B1 = mask.masked_valid_BM.sum(1, keepdim=True)
    kept_B1 = (hidden_B1.double() * share).round().clamp(min=1).minimum(hidden_B1)
    valid_BM = torch.arange(most, device=order_BM.device) < kept_B1
    return replace(mask, masked_BM=mask.masked_BM.gather(1, order_BM), masked_valid_BM=valid_BM)


def _block_scores(grid: tuple[int, int, int], full: tuple[int, int, int], draws: Draws, blocks: int = 64) -> Tensor:
    """Random boxes fall one after the other; a patch's score is how early it was hit, the earliest highest."""
    place_BK3 = draws.uniform("mask centre", 3 * blocks).unflatten(1, (blocks, 3))
    extent_BK3 = draws.uniform("mask extent", 3 * blocks).unflatten(1, (blocks, 3))
    device = place_BK3.device
    size_3 = torch.tensor(full, dtype=torch.float32).to(device, non_blocking=True)
    axes = [torch.arange(n, dtype=torch.float32, device=device) + 0.5 for n in grid]
    point_N3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    order_K1 = torch.arange(blocks, 0, -1, device=device)[:, None]
    earliest = []
    for some_BK3, half_BK3 in zip((place_BK3 * size_3).split(_CHUNK), extent_BK3.split(_CHUNK), strict=True):
        # Boxes of a sixth to half of each axis: large enough that a hidden patch's neighbours are hidden too.
        reach_BK3 = ((half_BK3 / 6 + 1 / 12) * size_3).clamp(min=0.5)
        hit_BKN = ((point_N3 - some_BK3[:, :, None]).abs() <= reach_BK3[:, :, None]).all(-1)
        earliest.append((hit_BKN * order_K1).amax(1).float())
    return torch.cat(earliest) + draws.uniform("mask", len(point_N3))


def split(score_BN: Tensor, batch: PatchBatch, ratio: float, *, tubes: int = 0) -> Mask:
    """Hides the `ratio` of each clip's valid patches with the highest scores; at least one stays, one goes.

    With `tubes` that many groups of equal score are kept whole: part of a tube left visible would give the rest away.
    """
    patches, device, masks = score_BN.shape[1], score_BN.device, len(score_BN) // len(batch.lengths)
    if not batch.dense:
        score_BN = score_BN.masked_fill(~batch.valid_BN.repeat(masks, 1), torch.inf)
    order_BN = score_BN.argsort(dim=1, stable=True)
    n_B = torch.tensor(
        batch.lengths[:1] if batch.dense else list(batch.lengths) * masks
    )  # shapes are settled on the CPU
    whole_B = (n_B // tubes).clamp(min=1) if tubes > 1 else torch.ones_like(n_B)  # patches that stay or go together
    units_B = n_B // whole_B
    visible_B = (units_B.double() * (1 - ratio)).round().long().clamp(min=1).minimum(
        (units_B - 1).clamp(min=1)
    ) * whole_B
    if batch.dense:
        visible = int(visible_B[0])
        return Mask(order_BN[:, :visible], None, order_BN[:, visible:], None)
    masked_B = n_B - visible_B
    slot_V = torch.arange(int(visible_B.max()), device=device)
    slot_M = torch.arange(max(int(masked_B.max()), 1), device=device)
    visible_B1, masked_B1 = (count_B.to(device, non_blocking=True)[:, None] for count_B in (visible_B, masked_B))
    return Mask(
        order_BN[:, : len(slot_V)],
        slot_V < visible_B1,
        order_BN.gather(1, (visible_B1 + slot_M).clamp(max=patches - 1)),
        slot_M < masked_B1,
    )


def pick(x_BNX: Tensor, index_mBM: Tensor) -> Tensor:
    """Rows of each clip by index: `(B, N, X)`, `(m * B, M)` -> `(m * B, M, X)`; the clips m times in order."""
    masks = len(index_mBM) // len(x_BNX)
    index = index_mBM.unflatten(0, (masks, -1))[..., None].expand(-1, -1, -1, x_BNX.shape[-1])
    return x_BNX.expand(masks, -1, -1, -1).gather(2, index).flatten(0, 1)
