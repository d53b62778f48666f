"""Data types, from bytes to codes.

    raw media --media--> Clip --patches--> PatchBatch --model--> features, Embedded, Codes

Shape suffixes: B clips, N patches, P values in a patch, Q levels, C channels, T H W time, height, width,
S audio samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import and the command line reads this file for its names
    from torch import Tensor

AUDIO_HZ = 16000  # default sampling rate, and the one that shards are measured at


class Modality(StrEnum):
    """Media type of a corpus."""

    AUDIO = "audio"
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Properties of one media file, without its samples.

    Audio fills `duration_s`, `rate_hz` (samples a second) and `channels`; images `height` and `width`, and `frames`
    where a check found several pages or frames, of which the first is used;
    video all of `duration_s`, `rate_hz` (frames a second), `frames`, `height` and `width`. `decoder` names the decoder
    that the check found right for this file; None: chosen by format. `channel` of audio is the one that is decoded,
    from 1; None: the mean of all.
    """

    modality: Modality
    suffix: str  # canonical, without dot: "flac", "jpg", "mp4"; from the content, not the name
    duration_s: float | None = None
    rate_hz: float | None = None
    channels: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    decoder: str | None = None
    channel: int | None = None


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
    notice: str = ""  # what decoding lost, for a warning


@dataclass(slots=True)
class PatchBatch:
    """A batch of clips cut into patches: the input of the model, for every modality.

    Attributes:
        x_BNP: float32 patch values, normalised; padding is zero.
        coords_BN3: integer (time, row, column) of each patch in its grid.
        valid_BN: False where a patch is padding; such patches are never encoded, masked or learned.
        lengths: how many patches of each clip are valid; they come first. Known without asking the device.
        grid: patches along time, rows and columns, `T * H * W = N`, time slowest.
    """

    x_BNP: Tensor
    coords_BN3: Tensor
    valid_BN: Tensor
    lengths: Sequence[int]
    grid: tuple[int, int, int]
    _row_R: Tensor | None = field(default=None, repr=False)

    @property
    def dense(self) -> bool:
        """No patch is padding."""
        return min(self.lengths) == self.x_BNP.shape[1]

    @property
    def mask_BN(self) -> Tensor | None:
        """`valid_BN` for attention, None where there is nothing to leave out."""
        return None if self.dense else self.valid_BN

    def rows(self, x_BNX: Tensor) -> Tensor:
        """The valid patches, clip by clip: `(B, N, X)` -> `(R, X)`."""
        x_X = x_BNX.flatten(0, 1)
        return x_X if self.dense else x_X.index_select(0, self._index())

    def padded(self, x_RX: Tensor, fill: float = 0) -> Tensor:
        """The reverse of `rows`: `(R, X)` -> `(B, N, X)`."""
        clips, patches = self.x_BNP.shape[:2]
        if self.dense:
            return x_RX.view(clips, patches, *x_RX.shape[1:])
        x_X = x_RX.new_full((clips * patches, *x_RX.shape[1:]), fill)
        return x_X.index_copy(0, self._index(), x_RX).view(clips, patches, *x_RX.shape[1:])

    def _index(self) -> Tensor:
        """Rows of the flattened batch; a boolean mask would make the CPU wait for the device to count them."""
        if self._row_R is None:
            import torch

            patches = self.x_BNP.shape[1]
            spans = [torch.arange(n) + clip * patches for clip, n in enumerate(self.lengths)]
            self._row_R = torch.cat(spans).to(self.x_BNP.device, non_blocking=True)
        return self._row_R


@dataclass(slots=True)
class Embedded:
    """Vectors of one whole file.

    Attributes:
        file: original path or key.
        vectors_RD: float32, R of them: one, one a step of time, or one a patch.
        times_R: where each begins in seconds.
        coords_R3: (time, row, column) of each in the file's grid; of one vector a file all zero.
    """

    file: str
    vectors_RD: Tensor
    times_R: list[float]
    coords_R3: Tensor


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
