"""The face of all patchers: what decoding, training and inference ask of a modality.

Clip --prepare (CPU, one clip, random crop)--> small tensor --forward (device, whole batch)--> PatchBatch
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bridle.errors import UsageError
from bridle.patches.cut import Grid, coordinates, cut
from bridle.rng import Draws
from bridle.schema import AUDIO_HZ, Clip, MediaInfo, PatchBatch


class Patcher(nn.Module, ABC):
    """Turns clips of one modality into patches; holds no weights, only settings and corpus statistics."""

    patch: Grid  # values of a patch along time, rows and columns
    grid: Grid  # patches of a full clip along time, rows and columns
    axes: tuple[int, ...]  # the grid axes that carry positions
    channels: int
    channel: int | None = None  # of audio with several, from 1; None: their mean
    step_s: float  # seconds between two steps of the grid along time; 0 for an image
    rate_hz: int = AUDIO_HZ  # at which audio is decoded
    exact: bool = False  # audio clips are needed in float32, whatever their scale; else 16 bits in [-1, 1] suffice
    pixel_rules: Mapping[str, Any] | None = None  # by which images are decoded; see `bridle.media.pixels.picture`

    @property
    def values(self) -> int:
        """P, the numbers in a patch."""
        t, h, w = self.patch
        return self.channels * t * h * w

    @abstractmethod
    def window_s(self, info: MediaInfo) -> float | None:
        """Seconds of this file that one training clip needs; None means all of it."""

    @abstractmethod
    def prepare(self, clip: Clip, rng: torch.Generator | None) -> Tensor:
        """One training view in a compact dtype: random crop with `rng`, the centre without."""

    @abstractmethod
    def blank(self) -> Tensor:
        """A view of nothing: silence, a black image."""

    def nothing(self) -> PatchBatch:
        """A batch of one clip without a valid patch, for who has no clip and must take part all the same."""
        batch = self([self.blank()])
        nowhere_BN = torch.zeros_like(batch.valid_BN)
        return PatchBatch(torch.zeros_like(batch.x_BNP), batch.coords_BN3, nowhere_BN, [0], batch.grid)

    @abstractmethod
    def windows(self, clip: Clip) -> list[tuple[Tensor, float]]:
        """Consecutive views that cover the whole clip, each with its start in seconds."""

    @abstractmethod
    def several(self, clip: Clip, clips: int, crops: int) -> list[tuple[Tensor, float]]:
        """Views for a test that averages over them, each with its start in seconds: `clips` windows evenly spread, the
        first where the clip begins, the last where it ends, and `crops` places of each along the longer side. One of
        either is the middle."""

    def check_views(self, clips: int, crops: int) -> None:
        """Check that the media have time for clips and a side for crops; raises UsageError."""
        for number, what, axis in ((clips, "clips", 0), (crops, "crops", 2)):
            if number > 1 and axis not in self.axes:
                raise UsageError(
                    f"--views {clips}x{crops}: this modality has no {what} to choose from", "Use --views 1x1."
                )

    def step_of(self, clip: Clip) -> float:
        """Seconds between two steps of the grid in the windows of this clip."""
        return self.step_s

    @abstractmethod
    def forward(self, views: list[Tensor], draws: Draws | None = None) -> PatchBatch:
        """Views of one batch -> patches on this module's device, augmented when `draws` are given."""

    def _assemble(self, x_BCTHW: Tensor, steps: list[int]) -> PatchBatch:
        """Cuts padded blocks; `steps` says how many time steps of each clip are real."""
        x_BNP = cut(x_BCTHW, self.patch)
        grid = (x_BCTHW.shape[2] // self.patch[0], *self.grid[1:])
        coords_N3 = coordinates(grid, x_BNP.device)
        step_B1 = torch.tensor(steps).to(x_BNP.device, non_blocking=True)[:, None]
        valid_BN = coords_N3[:, 0] < step_B1
        x_BNP = x_BNP * valid_BN[..., None]
        lengths = [count * grid[1] * grid[2] for count in steps]
        return PatchBatch(x_BNP, coords_N3.expand(len(steps), -1, -1), valid_BN, lengths, grid)
