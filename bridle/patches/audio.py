"""Waveforms -> log-mel spectrograms -> rectangles of time and frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bridle.config.sections import AudioPatches
from bridle.patches.cut import spread
from bridle.patches.patcher import Patcher
from bridle.patches.spectrogram import LOG_FLOOR, MelFilterbank
from bridle.rng import Draws
from bridle.schema import Clip, MediaInfo, PatchBatch

_INT16 = 32767.0
_LOUDEST = 1e12  # of samples of any scale: the squares of a window of them can be added up in float32
_LEAST_ENERGY = 1e-30  # keeps the logarithm of digital silence finite


class AudioPatcher(Patcher):
    """Rows of the grid are mel bands, time runs along its first axis.

    Args:
        config: sizes and augmentation.
        mean, std: of the corpus' log-mel values, measured at sharding time.
    """

    channels = 1
    axes = (0, 1)

    def __init__(self, config: AudioPatches, mean: float, std: float) -> None:
        super().__init__()
        self.config, self.mean, self.std = config, mean, std
        self.rate_hz, self.exact = config.rate_hz, config.exact
        floor = _LEAST_ENERGY if self.exact else LOG_FLOOR
        self.mel = MelFilterbank(config.rate_hz, config.mel_bins, config.high_hz, config.low_hz, floor)
        self.patch = (config.patch_frames, config.patch_mels, 1)
        self.grid = (config.frames // config.patch_frames, config.mel_bins // config.patch_mels, 1)
        self.step_s = config.patch_frames * self.mel.hop / config.rate_hz
        self.samples = self.mel.samples(config.frames)

    def window_s(self, info: MediaInfo) -> float | None:
        return self.samples / self.config.rate_hz

    def prepare(self, clip: Clip, rng: torch.Generator | None) -> Tensor:
        wave_S = clip.data
        spare = len(wave_S) - self.samples
        if spare > 0:
            start = int(torch.randint(spare + 1, (), generator=rng)) if rng else spare // 2
            wave_S = wave_S[start : start + self.samples]
        if rng and self.config.roll and len(wave_S):
            wave_S = wave_S.roll(int(torch.randint(len(wave_S), (), generator=rng)))
        return self._compact(wave_S)

    def blank(self) -> Tensor:
        return self._compact(torch.zeros(self.samples))

    def windows(self, clip: Clip) -> list[tuple[Tensor, float]]:
        hop = self.grid[0] * self.config.patch_frames * self.mel.hop
        # A tail shorter than half a patch would be nothing but padding; the window before it ends the clip.
        least = self.mel.samples(max(1, self.config.patch_frames // 2))
        starts = [s for s in range(0, max(len(clip.data), 1), hop) if s == 0 or len(clip.data) - s >= least]
        return [
            (self._compact(clip.data[s : s + self.samples]), clip.start_s + s / self.config.rate_hz) for s in starts
        ]

    def several(self, clip: Clip, clips: int, crops: int) -> list[tuple[Tensor, float]]:
        starts = spread(max(0, len(clip.data) - self.samples), clips)
        rate_hz = self.config.rate_hz
        return [(self._compact(clip.data[s : s + self.samples]), clip.start_s + s / rate_hz) for s in starts]

    def _compact(self, wave_S: Tensor) -> Tensor:
        """A copy, or a large clip would stay in memory with each of its windows."""
        if self.exact:
            return wave_S.clamp(-_LOUDEST, _LOUDEST)
        return (wave_S.clamp(-1, 1) * _INT16).round().to(torch.int16)

    def forward(self, views: list[Tensor], draws: Draws | None = None) -> PatchBatch:
        device = self.mel.window_W.device
        patch = self.config.patch_frames
        frames = [self.mel.frames(len(view)) for view in views]
        # A last patch that is at least half full counts; a clip always has one.
        steps = [min(max(1, (f + patch // 2) // patch), self.grid[0]) for f in frames]
        # What a clip becomes must not depend on the longest of its batch.
        real = [max(1, min(f, step * patch)) for f, step in zip(frames, steps, strict=True)]
        longest = max(steps) * patch
        wave_BS = pad_sequence(views, batch_first=True).to(device, non_blocking=True)
        needed = self.mel.samples(longest)
        wave_BS = torch.nn.functional.pad(wave_BS, (0, max(0, needed - wave_BS.shape[1])))[:, :needed]
        if not self.exact:
            wave_BS = wave_BS.float() / _INT16
        if draws is not None and self.config.gain_db:
            gain_B1 = (draws.uniform("gain") * 2 - 1) * self.config.gain_db
            wave_BS = wave_BS * 10 ** (gain_B1 / 20)
        mel_BTM = self.mel(wave_BS)
        frame_B11 = torch.tensor(real).to(device, non_blocking=True)[:, None, None]
        real_BT1 = torch.arange(longest, device=device)[None, :, None] < frame_B11
        mel_BTM = self._normalise(mel_BTM, real_BT1, frame_B11) * real_BT1
        return self._assemble(mel_BTM[:, None, :, :, None], steps)

    def _normalise(self, mel_BTM: Tensor, real_BT1: Tensor, frame_B11: Tensor) -> Tensor:
        if self.config.normalise == "corpus":
            return (mel_BTM - self.mean) / (2 * self.std)
        if self.config.range_db is not None:
            loudest_B11 = mel_BTM.masked_fill(~real_BT1, -math.inf).amax((1, 2), keepdim=True)
            mel_BTM = (mel_BTM - loudest_B11).clamp(min=-self.config.range_db * math.log(10) / 10)
        n_B11 = frame_B11 * mel_BTM.shape[-1]
        mean_B11 = (mel_BTM * real_BT1).sum((1, 2), keepdim=True) / n_B11
        variance_B11 = ((mel_BTM - mean_B11) * real_BT1).square().sum((1, 2), keepdim=True) / n_B11
        return (mel_BTM - mean_B11) / (variance_B11 + 1e-3).sqrt()
