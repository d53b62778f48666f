"""Patch features -> one fixed vector a clip.

    h_BND, valid_BN, coords_BN3 --pool--> (B, D) or (B, S * D)

`mean` forgets the order in time and space; `segments` keeps a coarse one: the clip's own valid extent is cut into
equal parts, each averaged, and the averages are laid side by side. A grid with more than one step in time is cut into
four in time; any other (an image) into 2 x 2 in rows and columns.

Shapes: B clips, N patches, D width, S segments, 3 axes (time, row, column).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from bridle.errors import UsageError, nearest

Pool = Literal["mean", "segments", "class"]  # the last is the encoder's class token, and no business of this file
TIME_PARTS = (4, 1, 1)
SPACE_PARTS = (1, 2, 2)
SEGMENTS = 4  # of either


def pool(
    h_BND: Tensor,
    valid_BN: Tensor,
    coords_BN3: Tensor,
    how: Pool = "mean",
    grid: tuple[int, int, int] | None = None,
) -> Tensor:
    """Average the valid patches of each clip, as a whole or by segment.

    Args:
        h_BND: patch features.
        valid_BN: False at padding, which counts for nothing.
        coords_BN3: integer (time, row, column) of each patch.
        how: `mean` -> `(B, D)`; `segments` -> `(B, S * D)`, segments in time order (rows, then columns, for images).
        grid: of a full clip (`patcher.grid`): decides which axis is cut. Without it the batch's coordinates decide,
            so say it where a batch may hold nothing but clips of a single step.

    Returns:
        float32 vectors; zeros for a clip without a valid patch.
    """
    check_pool(how)
    assert how != "class"
    steps = grid[0] if grid else int(coords_BN3[..., 0].max()) + 1
    cuts = (1, 1, 1) if how == "mean" else TIME_PARTS if steps > 1 else SPACE_PARTS
    weight_BSN = segment_weights(valid_BN, coords_BN3, cuts)
    pooled_BSD = weight_BSN @ h_BND.float()
    return pooled_BSD.flatten(1)


def check_pool(how: str) -> None:
    """Check the name; raises UsageError."""
    if how not in get_args(Pool):
        raise UsageError(f"--pool: unknown value '{how}'; {nearest(str(how), get_args(Pool))}")


def segment_weights(valid_BN: Tensor, coords_BN3: Tensor, cuts: tuple[int, int, int]) -> Tensor:
    """Weights `(B, S, N)`, each row summing to one, of every patch in every segment.

    A patch counts for the share of its extent that lies in the segment. So an extent that is no multiple of the
    number of segments is still cut exactly, and a clip shorter than that repeats its nearest patches.
    """
    weight_BSN = valid_BN.float().unsqueeze(1)
    for axis, count in enumerate(cuts):
        if count > 1:
            share_BSN = _overlap(coords_BN3[..., axis].float(), valid_BN, count)
            weight_BSN = (weight_BSN.unsqueeze(2) * share_BSN.unsqueeze(1)).flatten(1, 2)
    return weight_BSN / weight_BSN.sum(-1, keepdim=True).clamp(min=1e-12)


def _overlap(position_BN: Tensor, valid_BN: Tensor, count: int) -> Tensor:
    """Length of `[position, position + 1)` inside each of `count` equal parts of the valid extent, `(B, count, N)`."""
    first_B1 = position_BN.masked_fill(~valid_BN, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0.0)
    last_B1 = position_BN.masked_fill(~valid_BN, -torch.inf).amax(1, keepdim=True).nan_to_num(neginf=0.0)
    part_B11 = ((last_B1 - first_B1 + 1) / count).unsqueeze(-1)
    low_BS1 = part_B11 * torch.arange(count, device=position_BN.device).view(1, -1, 1)
    from_B1N = (position_BN - first_B1).unsqueeze(1)
    return (torch.minimum(from_B1N + 1, low_BS1 + part_B11) - torch.maximum(from_B1N, low_BS1)).clamp(min=0)
