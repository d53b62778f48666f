"""Images -> squares of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bridle.config.sections import ImagePatches
from bridle.patches.cut import spread
from bridle.patches.patcher import Patcher
from bridle.rng import Draws
from bridle.schema import Clip, MediaInfo, PatchBatch


def crop_and_resize(x_CHW: Tensor, size: int, smallest: float, rng: torch.Generator | None) -> Tensor:
    """`(..., H, W)` uint8 -> `(..., size, size)`.

    With `rng` a random crop of `smallest` to all of the area, sides 3:4 to 4:3; without, the central square.
    """
    height, width = x_CHW.shape[-2:]
    if rng is None or smallest >= 1.0:
        side = min(height, width)
        crop_h = crop_w = side
        top, left = (height - side) // 2, (width - side) // 2
    else:
        area = height * width * (smallest + (1 - smallest) * float(torch.rand((), generator=rng)))
        aspect = math.exp((float(torch.rand((), generator=rng)) * 2 - 1) * math.log(4 / 3))
        crop_h = max(1, min(height, round(math.sqrt(area / aspect))))
        crop_w = max(1, min(width, round(math.sqrt(area * aspect))))
        top = int(torch.randint(height - crop_h + 1, (), generator=rng))
        left = int(torch.randint(width - crop_w + 1, (), generator=rng))
    x_CHW = x_CHW[..., top : top + crop_h, left : left + crop_w]
    return x_CHW if (crop_h, crop_w) == (size, size) else resize(x_CHW, size)


def resize(x_CHW: Tensor, size: int) -> Tensor:
    """`(..., 3, H, W)` uint8 -> `(..., 3, size, size)`, antialiased: what `torchvision.transforms.v2.functional.resize`
    gives, without its import, which takes as long as PyTorch's."""
    # in integers, also where floats might be faster: the same pixels on every CPU
    x_BCHW = x_CHW.reshape(-1, *x_CHW.shape[-3:])
    out = interpolate(x_BCHW, [size, size], mode="bilinear", align_corners=False, antialias=True)
    return out.reshape(*x_CHW.shape[:-2], size, size)


def squares(x_CHW: Tensor, size: int, count: int) -> list[Tensor]:
    """`count` squares as wide as the shorter side, evenly spread along the longer one, `(..., size, size)` each."""
    height, width = x_CHW.shape[-2:]
    side = min(height, width)
    found = []
    for start in spread(max(height, width) - side, count):
        square = x_CHW[..., start : start + side, :] if height > width else x_CHW[..., start : start + side]
        found.append(crop_and_resize(square, size, 1.0, None))
    return found


def normalise_pixels(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 -> float32 with the corpus' mean 0 and standard deviation 1; `mean`, `std` broadcast over channels."""
    return (x.float() / 255.0 - mean) / std


def flip_some(x_BW: Tensor, draws: Draws) -> Tensor:
    """Mirrors a random half of the batch left to right (last axis)."""
    flip_B = draws.uniform("flip") < 0.5
    return torch.where(flip_B.view(-1, *[1] * (x_BW.dim() - 1)), x_BW.flip(-1), x_BW)


class ImagePatcher(Patcher):
    """Args:
    config: sizes and augmentation.
    mean, std: of each RGB channel of the corpus in [0, 1].
    pixel_rules: by which the corpus was decoded, and all other images are to be.
    """

    channels = 3
    axes = (1, 2)
    step_s = 0.0
    mean: Tensor
    std: Tensor

    def __init__(
        self, config: ImagePatches, mean: list[float], std: list[float], pixel_rules: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.pixel_rules = config, pixel_rules
        self.patch = (1, config.patch, config.patch)
        side = config.size // config.patch
        self.grid = (1, side, side)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def window_s(self, info: MediaInfo) -> float | None:
        return None

    def prepare(self, clip: Clip, rng: torch.Generator | None) -> Tensor:
        return crop_and_resize(clip.data, self.config.size, self.config.crop_scale, rng)

    def blank(self) -> Tensor:
        return torch.zeros(3, self.config.size, self.config.size, dtype=torch.uint8)

    def windows(self, clip: Clip) -> list[tuple[Tensor, float]]:
        return [(self.prepare(clip, None), 0.0)]

    def several(self, clip: Clip, clips: int, crops: int) -> list[tuple[Tensor, float]]:
        return [(square, 0.0) for square in squares(clip.data, self.config.size, crops)]

    def forward(self, views: list[Tensor], draws: Draws | None = None) -> PatchBatch:
        x_BCHW = torch.stack(views).to(self.mean.device, non_blocking=True)
        if draws is not None and self.config.flip:
            x_BCHW = flip_some(x_BCHW, draws)
        x_BCHW = normalise_pixels(x_BCHW, self.mean, self.std)
        return self._assemble(x_BCHW[:, :, None], [1] * len(views))
