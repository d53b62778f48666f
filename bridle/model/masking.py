"""Which patches the encoder sees and which it must predict.

Every shape is a way to score the patches of a grid; the lowest scores stay visible. So the share of hidden patches
is the same for every clip, padding is neither visible nor masked, and clips of different length share a batch.

Shapes: B clips, N patches, V visible, M masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bridle.schema import PatchBatch

_CHUNK = 64  # clips whose blocks are drawn at once: each takes blocks x N numbers


@dataclass(slots=True)
class Mask:
    """Indices into the N patches; the `_valid` masks are None when no slot of any clip is padding."""

    visible_BV: Tensor
    visible_valid_BV: Tensor | None
    masked_BM: Tensor
    masked_valid_BM: Tensor | None


def draw_mask(batch: PatchBatch, shape: str, ratio: float, rng: torch.Generator, predict: float = 1.0) -> Mask:
    """One random mask a clip.

    Args:
        batch: patches with validity and grid.
        shape: "random" hides single patches, "tube" the same rows and columns at all times, "block" rectangles.
        ratio: share of each clip's valid patches to hide; with tubes the nearest share that whole tubes allow.
        rng: a CPU generator; the masks follow from it alone, whatever the device.
        predict: share of the hidden patches that stay in `masked_BM`. The others are simply never asked for, which
            makes the predictor cheaper (CrossMAE, arXiv 2401.14391).
    """
    clips, tubes = len(batch.valid_BN), 0
    if shape == "tube" and batch.grid[1] * batch.grid[2] > 1:  # a single tube would hide everything or nothing
        tubes = batch.grid[1] * batch.grid[2]
        score_BN = torch.rand(clips, 1, tubes, generator=rng).expand(-1, batch.grid[0], -1).flatten(1)
    elif shape == "block":
        parts = [min(_CHUNK, clips - start) for start in range(0, clips, _CHUNK)]
        score_BN = torch.cat([_block_scores(part, batch.grid, rng) for part in parts])
    else:
        score_BN = torch.rand(clips, batch.valid_BN.shape[1], generator=rng)
    mask = split(score_BN.to(batch.valid_BN.device), batch.valid_BN, ratio, dense=batch.dense, tubes=tubes)
    hidden = mask.masked_BM.shape[1]
    if (kept := max(1, round(hidden * predict))) < hidden:
        slot_M = torch.randperm(hidden, generator=rng)[:kept].to(mask.masked_BM.device)
        valid_BM = mask.masked_valid_BM
        mask = replace(
            mask,
            masked_BM=mask.masked_BM[:, slot_M],
            masked_valid_BM=None if valid_BM is None else valid_BM[:, slot_M],
        )
    return mask


def _block_scores(clips: int, grid: tuple[int, int, int], rng: torch.Generator, blocks: int = 64) -> Tensor:
    """Random boxes fall one after the other; a patch's score is how early it was hit, the earliest highest."""
    size_3 = torch.tensor(grid, dtype=torch.float32)
    centre_BK3 = torch.rand(clips, blocks, 3, generator=rng) * size_3
    # Boxes of a sixth to half of each axis: large enough that a hidden patch's neighbours are hidden too.
    half_BK3 = (torch.rand(clips, blocks, 3, generator=rng) / 6 + 1 / 12) * size_3
    axes = [torch.arange(n, dtype=torch.float32) + 0.5 for n in grid]
    point_N3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    hit_BKN = ((point_N3 - centre_BK3[:, :, None]).abs() <= half_BK3[:, :, None].clamp(min=0.5)).all(-1)
    order_K1 = torch.arange(blocks, 0, -1)[:, None]
    earliest_BN = (hit_BKN * order_K1).amax(1).float()
    return earliest_BN + torch.rand(clips, len(point_N3), generator=rng)


def split(score_BN: Tensor, valid_BN: Tensor, ratio: float, *, dense: bool, tubes: int = 0) -> Mask:
    """Hides the `ratio` of each clip's valid patches with the highest scores; at least one stays, one goes.

    With `tubes` that many groups of equal score are kept whole: part of a tube left visible would give the rest away.
    """
    patches = score_BN.shape[1]
    score_BN = score_BN.masked_fill(~valid_BN, torch.inf)
    order_BN = score_BN.argsort(dim=1, stable=True)
    n_B = torch.tensor([patches]) if dense else valid_BN.sum(1)  # dense: known without asking the device
    whole_B = (n_B // tubes).clamp(min=1) if tubes > 1 else torch.ones_like(n_B)  # patches that stay or go together
    units_B = n_B // whole_B
    visible_B = (units_B.double() * (1 - ratio)).round().long().clamp(min=1).minimum(
        (units_B - 1).clamp(min=1)
    ) * whole_B
    if dense:
        visible = int(visible_B[0])
        return Mask(order_BN[:, :visible], None, order_BN[:, visible:], None)
    masked_B = n_B - visible_B
    slot_V = torch.arange(int(visible_B.max()), device=score_BN.device)
    slot_M = torch.arange(max(int(masked_B.max()), 1), device=score_BN.device)
    place_BM = (visible_B[:, None] + slot_M).clamp(max=patches - 1)
    return Mask(
        order_BN[:, : len(slot_V)],
        slot_V < visible_B[:, None],
        order_BN.gather(1, place_BM),
        slot_M < masked_B[:, None],
    )


def pick(x_BNX: Tensor, index_BM: Tensor) -> Tensor:
    """Rows of each clip by index: `(B, N, X)`, `(B, M)` -> `(B, M, X)`."""
    return x_BNX.gather(1, index_BM[..., None].expand(-1, -1, x_BNX.shape[-1]))
