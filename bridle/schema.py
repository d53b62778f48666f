"""The nouns that flow through BRIDLE, from bytes to codes.

    raw media --media--> Clip --patches--> PatchBatch --model--> features, Codes

Shape suffixes: B clips, N patches, P values in a patch, Q levels, C channels, T H W time, height, width,
S audio samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import and the command line reads this file for its names
    from torch import Tensor


class Modality(StrEnum):
    """What kind of media a corpus holds."""

    AUDIO = "audio"
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a probe learned about one file without keeping its samples.

    Audio fills `duration_s`, `rate_hz` (samples a second) and `channels`; images `height` and `width`;
    video all of `duration_s`, `rate_hz` (frames a second), `frames`, `height` and `width`.
    """

    modality: Modality
    suffix: str  # canonical, without dot: "flac", "jpg", "mp4"; from the content, not the name
    duration_s: float | None = None
    rate_hz: float | None = None
    channels: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(slots=True)
class Clip:
    """One decoded piece of media.

    `data` is float32 `(S,)` mono at `rate_hz` for audio, uint8 `(3, H, W)` for an image and uint8
    `(T, 3, H, W)` at `rate_hz` frames a second for video.
    """

    key: str
    modality: Modality
    data: Tensor
    rate_hz: float | None = None
    start_s: float = 0.0  # where `data` begins in the source
    source: str = ""  # the original path, for messages and results


@dataclass(slots=True)
class PatchBatch:
    """A batch of clips cut into patches: all the model ever sees, whatever the modality.

    Attributes:
        x_BNP: float32 patch values, normalised; padding is zero.
        coords_BN3: integer (time, row, column) of each patch in its grid.
        valid_BN: False where a patch is padding; such patches are never encoded, masked or learned.
        grid: patches along time, rows and columns, `T * H * W = N`, time slowest.
        dense: no patch is padding, known without asking the device.
    """

    x_BNP: Tensor
    coords_BN3: Tensor
    valid_BN: Tensor
    grid: tuple[int, int, int]
    dense: bool = False

    def to(self, device: str) -> PatchBatch:
        """The same batch on another device."""
        return PatchBatch(
            self.x_BNP.to(device, non_blocking=True),
            self.coords_BN3.to(device, non_blocking=True),
            self.valid_BN.to(device, non_blocking=True),
            self.grid,
            self.dense,
        )


@dataclass(slots=True)
class Codes:
    """Discrete tokens of one whole file.

    Attributes:
        file: original path or key.
        codes_THWQ: integer codes of the valid patches, grid first, levels last.
        times_T: start in seconds of each step along time (a single 0.0 for an image).
    """

    file: str
    codes_THWQ: Tensor
    times_T: list[float] = field(default_factory=list)

    @property
    def levels(self) -> int:
        return self.codes_THWQ.shape[-1]

    @property
    def grid(self) -> tuple[int, int, int]:
        time, rows, columns = self.codes_THWQ.shape[:3]
        return time, rows, columns
