"""Kaldi-compatible log-mel filterbanks for a whole batch at once, on whatever device the batch is on.

The same numbers as `torchaudio.compliance.kaldi.fbank(htk_compat=True, use_energy=False,
window_type="hanning", dither=0)` clip by clip (a test holds them together to 1e-3), without its Python loop. Below
10,240 Hz the FFT is longer than Kaldi's, so that every band has a bin.

Shapes: B clips, S samples, T frames, W samples in a window, F frequency bins, M mel bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from bridle.schema import AUDIO_HZ

FRAME_S = 0.010  # hop; the window is 25 ms (Kaldi's defaults, and AudioMAE's, BEATs' and the paper's)
WINDOW_S = 0.025
_PREEMPHASIS = 0.97
LOG_FLOOR = float(torch.finfo(torch.float32).eps)
_GROUP = 32  # bands that are summed together: a band is a few neighbouring bins, and the others would be times zero
_BLOCK = 102_400  # samples of frames that a CPU works on at once: half a megabyte, which stays in its cache
_SHORTEST_FFT = 512


def mel_banks(bins: int, fft: int, rate_hz: int, high_hz: float = 0.0, low_hz: float = 20.0) -> Tensor:
    """Kaldi's triangles, evenly spaced in mel from `low_hz` up, `(M, F)`; bit for bit what torchaudio's `get_mel_banks`
    gives, without the import of torchaudio."""
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz or 0.5 * rate_hz))
    width = (high - low) / (bins + 1)
    bin_M1 = torch.arange(bins).unsqueeze(1)
    left_M1, centre_M1, right_M1 = low + bin_M1 * width, low + (bin_M1 + 1.0) * width, low + (bin_M1 + 2.0) * width
    mel_1F = 1127.0 * (1.0 + (rate_hz / fft * torch.arange(fft / 2)).unsqueeze(0) / 700.0).log()
    up_MF, down_MF = (mel_1F - left_M1) / (centre_M1 - left_M1), (right_M1 - mel_1F) / (right_M1 - centre_M1)
    return torch.max(torch.zeros(1), torch.min(up_MF, down_MF))


class MelFilterbank(nn.Module):
    """Waveforms `(B, S)` -> log-mel energies `(B, T, M)`, 100 frames a second.

    Args:
        rate_hz: sampling rate of the waveforms.
        mel_bins: number of mel bands.
        high_hz: upper edge of the highest band; 0 is half the rate.
        low_hz: lower edge of the lowest band.
        floor: smallest energy; the default is for samples in [-1, 1].
    """

    window_W: Tensor
    mel_FM: Tensor

    def __init__(
        self,
        rate_hz: int = AUDIO_HZ,
        mel_bins: int = 128,
        high_hz: float = 0.0,
        low_hz: float = 20.0,
        floor: float = LOG_FLOOR,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.hop = round(rate_hz * FRAME_S)
        self.window = round(rate_hz * WINDOW_S)
        self.fft = max(_SHORTEST_FFT, 2 ** math.ceil(math.log2(self.window)))
        banks_MF = mel_banks(mel_bins, self.fft, rate_hz, high_hz, low_hz)
        banks_MF = nn.functional.pad(banks_MF, (0, 1))  # not the Nyquist bin
        self.register_buffer("window_W", torch.hann_window(self.window, periodic=False), persistent=False)
        self.register_buffer("mel_FM", banks_MF.T.contiguous(), persistent=False)

    def frames(self, samples: int) -> int:
        """Number of whole frames in that many samples (Kaldi's `snip_edges`)."""
        return max((samples - self.window) // self.hop + 1, 0)

    def samples(self, frames: int) -> int:
        """The fewest samples that give that many frames."""
        return (frames - 1) * self.hop + self.window

    def forward(self, wave_BS: Tensor) -> Tensor:
        with torch.autocast(wave_BS.device.type, enabled=False):
            return self._features(wave_BS.float())

    def _features(self, wave_BS: Tensor) -> Tensor:
        frames = max(1, self.frames(wave_BS.shape[1]))
        block = max(1, _BLOCK // self.window) if wave_BS.device.type == "cpu" else len(wave_BS) * frames
        clips = max(1, block // frames)
        parts = [
            self._log_mel(*part).flatten(0, 1) for some in wave_BS.split(clips) for part in self._parts(some, block)
        ]
        return torch.cat(parts).unflatten(0, (len(wave_BS), -1))

    def _parts(self, wave_BS: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames, that many at a time, with pre-emphasis, and what is left in them of their mean.

        All frames that a sample is in share its pre-emphasis. The first sample of a frame would have a rule of its own
        (Kaldi repeats it), but the window is zero there.
        """
        frame_BTW = wave_BS.unfold(-1, self.window, self.hop)
        emphasised_BS = torch.cat([wave_BS[:, :1], wave_BS[:, 1:].sub(wave_BS[:, :-1], alpha=_PREEMPHASIS)], dim=1)
        emphasised_BTW = emphasised_BS.unfold(-1, self.window, self.hop)
        mean_BT1 = frame_BTW.mean(-1, keepdim=True) * (1 - _PREEMPHASIS)
        return zip(emphasised_BTW.split(length, 1), mean_BT1.split(length, 1), strict=True)

    def _log_mel(self, frame_BTW: Tensor, mean_BT1: Tensor) -> Tensor:
        spectrum_BTF = torch.fft.rfft((frame_BTW - mean_BT1) * self.window_W, n=self.fft)
        power_BTF = spectrum_BTF.real.square() + spectrum_BTF.imag.square()  # `abs` takes as long as the FFT
        parts = [power_BTF[..., bins] @ self.mel_FM[bins, bands] for bins, bands in self._groups]
        return torch.cat(parts, dim=-1).clamp_(min=self.floor).log_()

    @cached_property
    def _groups(self) -> list[tuple[slice, slice]]:
        """Some neighbouring bands, and the bins that they look at."""
        groups = []
        for first in range(0, self.mel_FM.shape[1], _GROUP):
            bands = slice(first, first + _GROUP)
            used = self.mel_FM[:, bands].any(1).nonzero()[:, 0].tolist() or [0]
            groups.append((slice(used[0], used[-1] + 1), bands))
        return groups
