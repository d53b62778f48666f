"""One request -> one training view: read, decode the window that is needed, prepare. Runs in the decoding processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bridle.errors import DataError, EnvironmentFault, MediaError
from bridle.media import decoded_rate_hz
from bridle.patches.patcher import Patcher
from bridle.schema import Clip, MediaInfo
from bridle.stream.cache import ClipCache
from bridle.stream.order import Request, sample_seed
from bridle.stream.read import SampleReader, media_info


@dataclass(frozen=True, slots=True)
class View:
    """A sample ready for the patcher, or the reason why it is not (then `data` is None).

    A `fault` of the shards comes along as a value: thrown in another process it would lose its hint.
    """

    key: str
    data: Tensor | None
    path: str = ""
    reason: str = ""
    fault: DataError | EnvironmentFault | None = None


class ViewDataset(Dataset[View]):
    """Map-style over `Request`; equal requests give equal views."""

    def __init__(self, reader: SampleReader, patcher: Patcher, seed: int, cache: ClipCache | None) -> None:
        self._reader, self._patcher, self._seed, self._cache = reader, patcher, seed, cache

    def __getitem__(self, request: Request) -> View:
        key = self._reader.index.key(request.index)
        rng = torch.Generator().manual_seed(sample_seed(self._seed, request))
        path = key
        try:
            meta = self._reader.meta(request.index)
            path = meta["path"]
            info = media_info(meta)
            window = _random_window(info, self._patcher.window_s(info), rng)
            if self._cache is None:
                clip = self._reader.clip(request.index, meta, window)
            else:
                clip = _cut(self._whole(request.index, meta, info), window)
        except MediaError as error:
            return View(key, None, path, error.message)
        except (DataError, EnvironmentFault) as error:
            return View(key, None, path, error.message, error)
        return View(key, self._patcher.prepare(clip, rng), path)

    def _whole(self, sample: int, meta: dict[str, Any], info: MediaInfo) -> Clip:
        assert self._cache is not None
        rate_hz = decoded_rate_hz(info, self._reader.rate_hz)
        names = Clip(self._reader.index.key(sample), info.modality, torch.empty(0), rate_hz, source=meta["path"])
        clip = self._cache.get(sample, names)
        if clip is None:
            self._cache.put(sample, self._reader.clip(sample, meta))
            clip = self._cache.get(sample, names)  # as later epochs will see it
        return clip or self._reader.clip(sample, meta)


def _random_window(info: MediaInfo, length_s: float | None, rng: torch.Generator) -> tuple[float, float] | None:
    """A uniformly random part of that length, None (everything) for clips that are not longer."""
    if length_s is None or info.duration_s is None or info.duration_s <= length_s:
        return None
    return torch.rand((), generator=rng).item() * (info.duration_s - length_s), length_s


def _cut(clip: Clip, window: tuple[float, float] | None) -> Clip:
    if window is None:
        return clip
    assert clip.rate_hz is not None
    length = max(1, round(window[1] * clip.rate_hz))
    start = min(round(window[0] * clip.rate_hz), max(0, len(clip.data) - length))  # durations are rounded
    data = clip.data[start : start + length]
    return Clip(clip.key, clip.modality, data, clip.rate_hz, start / clip.rate_hz, clip.source)
