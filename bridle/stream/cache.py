"""Decoded clips in memory that all decoding processes share: decoding is paid once, in the first epoch.

Anonymous shared memory, inherited by forked workers: no file, and no limit of /dev/shm, which is 64 MB in containers.
Audio is kept in 16 bits and within [-1, 1] where training rounds it so too, else in float32.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing

import numpy as np
import torch

from bridle.schema import AUDIO_HZ, Clip

_PEAK = 32767.0  # of audio in 16 bits
_SLACK_BYTES = 64  # a resampler may give some samples more than the duration says
_ALIGNED_BYTES = 4  # where a clip begins


def cache_bytes(decoded_bytes: int, rate_hz: int, exact: bool) -> int:
    """Memory for clips of which the manifests say `decoded_bytes`, at this rate and, if `exact`, in float32; images and
    video have the default rate."""
    return math.ceil(decoded_bytes * rate_hz / AUDIO_HZ) * (2 if exact else 1)


class ClipCache:
    """Room for all clips of a corpus, filled by whoever decodes one first. What does not fit any more is not kept.

    Args:
        clips: how many there are.
        decoded_bytes: of all of them, audio as int16 or float32, pixels as uint8.
        exact: audio is kept as float32.
    """

    def __init__(self, clips: int, decoded_bytes: int, exact: bool = False) -> None:
        self._exact = exact
        self._data = np.frombuffer(mmap.mmap(-1, decoded_bytes + clips * _SLACK_BYTES + 1), dtype=np.uint8)
        self._used = np.frombuffer(mmap.mmap(-1, 8), dtype=np.int64)  # bytes, one number
        table = mmap.mmap(-1, max(1, 5 * 8 * clips))
        self._clip_N5 = np.frombuffer(table, dtype=np.int64).reshape(-1, 5)  # start, shape; zero: not here
        self._lock = multiprocessing.Lock()

    def get(self, sample: int, like: Clip) -> Clip | None:
        """The clip of this sample with the names of `like`, None when it is not here."""
        start, *sizes = self._clip_N5[sample].tolist()
        shape = tuple(size for size in sizes if size)
        if not shape:
            return None
        dtype = np.dtype((np.float32 if self._exact else np.int16) if len(shape) == 1 else np.uint8)
        stored = self._data[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)
        data = torch.from_numpy(stored)
        if data.dtype is torch.int16:
            data = data.float() / _PEAK
        elif data.dtype is torch.uint8:
            data = data.movedim(-1, -3)
        return Clip(like.key, like.modality, data, like.rate_hz, 0.0, like.source)

    def put(self, sample: int, clip: Clip) -> None:
        """Keep a whole clip."""
        data = clip.data
        if data.is_floating_point() and not self._exact:
            data = (data * _PEAK).round().clamp(-32768, 32767).to(torch.int16)
        elif not data.is_floating_point():
            data = data.movedim(-3, -1)  # as decoders give it: the channels of a pixel together
        flat = data.contiguous().view(-1).numpy().view(np.uint8)
        with self._lock:
            start = int(self._used[0])
            if not len(flat) or start + len(flat) > len(self._data):
                return
            self._used[0] = start + len(flat) + -len(flat) % _ALIGNED_BYTES
        self._data[start : start + len(flat)] = flat
        self._clip_N5[sample, 0] = start
        self._clip_N5[sample, 1:] = list(data.shape) + [0] * (4 - data.dim())  # last: now others may read it
