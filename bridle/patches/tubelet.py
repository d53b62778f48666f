"""Video -> tubelets: blocks of a few frames and a square of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from bridle.config.sections import VideoPatches
from bridle.patches.cut import spread
from bridle.patches.image import crop_and_resize, flip_some, normalise_pixels, squares
from bridle.patches.patcher import Patcher
from bridle.rng import Draws
from bridle.schema import Clip, MediaInfo, PatchBatch


class VideoPatcher(Patcher):
    """Args:
    config: sizes and augmentation.
    mean, std: of each RGB channel of the corpus in [0, 1].
    rate_hz: the corpus' typical frames a second, for times in results.
    """

    channels = 3
    axes = (0, 1, 2)
    mean: Tensor
    std: Tensor

    def __init__(self, config: VideoPatches, mean: list[float], std: list[float], rate_hz: float = 25.0) -> None:
        super().__init__()
        self.config = config
        self.patch = (config.tubelet, config.patch, config.patch)
        side = config.size // config.patch
        self.grid = (config.frames // config.tubelet, side, side)
        self.step_s = config.tubelet * config.stride / rate_hz
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)

    def window_s(self, info: MediaInfo) -> float | None:
        return None if not info.rate_hz else self.config.frames * self.config.stride / info.rate_hz

    def prepare(self, clip: Clip, rng: torch.Generator | None) -> Tensor:
        frames, stride = self.config.frames, self.config.stride
        available = len(clip.data)
        # A clip shorter than the window is sampled more densely before it is padded.
        stride = max(1, min(stride, available // frames))
        spare = available - ((frames - 1) * stride + 1)
        start = 0 if spare <= 0 else int(torch.randint(spare + 1, (), generator=rng)) if rng else spare // 2
        picked_TCHW = clip.data[start : start + (frames - 1) * stride + 1 : stride]
        return crop_and_resize(picked_TCHW, self.config.size, self.config.crop_scale, rng)

    def blank(self) -> Tensor:
        return torch.zeros(self.config.frames, 3, self.config.size, self.config.size, dtype=torch.uint8)

    def windows(self, clip: Clip) -> list[tuple[Tensor, float]]:
        frames, rate_hz = self.config.frames, clip.rate_hz or 25.0
        stride = self._stride(clip)
        span = frames * stride
        # A tail shorter than one tubelet is left to the window before it.
        starts = [
            s for s in range(0, len(clip.data), span) if s == 0 or len(clip.data) - s >= self.config.tubelet * stride
        ]
        return [
            (
                crop_and_resize(clip.data[s : s + span : stride], self.config.size, 1.0, None),
                clip.start_s + s / rate_hz,
            )
            for s in starts
        ]

    def several(self, clip: Clip, clips: int, crops: int) -> list[tuple[Tensor, float]]:
        frames, stride = self.config.frames, self._stride(clip)
        span = (frames - 1) * stride + 1
        found = []
        for start in spread(max(0, len(clip.data) - span), clips):
            picked_TCHW = clip.data[start : start + span : stride]
            begin_s = clip.start_s + start / (clip.rate_hz or 25.0)
            found += [(square, begin_s) for square in squares(picked_TCHW, self.config.size, crops)]
        return found

    def step_of(self, clip: Clip) -> float:
        return self.config.tubelet * self._stride(clip) / (clip.rate_hz or 25.0)

    def _stride(self, clip: Clip) -> int:
        """A clip shorter than the window is sampled more densely before it is padded."""
        return max(1, min(self.config.stride, len(clip.data) // self.config.frames))

    def forward(self, views: list[Tensor], draws: Draws | None = None) -> PatchBatch:
        tubelet = self.config.tubelet
        steps = [max(1, len(view) // tubelet) for view in views]
        longest = max(steps) * tubelet
        x_BTCHW = torch.stack([_fit(view, longest) for view in views])
        x_BTCHW = x_BTCHW.to(self.mean.device, non_blocking=True)
        if draws is not None and self.config.flip:
            x_BTCHW = flip_some(x_BTCHW, draws)
        x_BCTHW = normalise_pixels(x_BTCHW.transpose(1, 2), self.mean, self.std)
        if self.config.motion_gain != 1.0:
            x_BCTHW = enlarge_motion(x_BCTHW, tubelet, self.config.motion_gain)
        return self._assemble(x_BCTHW, steps)


def _fit(x_TCHW: Tensor, frames: int) -> Tensor:
    """Exactly that many frames: the last one is held where there are fewer (a single frame fills its tubelet)."""
    if len(x_TCHW) >= frames:
        return x_TCHW[:frames]
    return torch.cat([x_TCHW, x_TCHW[-1:].expand(frames - len(x_TCHW), -1, -1, -1)])


def enlarge_motion(x_BCTHW: Tensor, tubelet: int, gain: float) -> Tensor:
    """Each frame's difference from the mean frame of its tubelet times `gain`; a tubelet's mean stays as it is."""
    frames = x_BCTHW.unflatten(2, (-1, tubelet))
    mean = frames.mean(3, keepdim=True)
    return (mean + gain * (frames - mean)).flatten(2, 3)
