"""Decoded clips in memory that all decoding processes share: decoding is paid once, in the first epoch.

Anonymous shared memory, inherited by forked workers: no file, and no limit of /dev/shm, which is 64 MB in containers.
Sound is kept in 16 bits and within [-1, 1]: to that it is brought for training anyway.
"""

from __future__ import annotations

import mmap
import multiprocessing

import numpy as np
import torch

from bridle.schema import Clip

_PEAK = 32767.0  # sound is kept in 16 bits
_SLACK_BYTES = 64  # a resampler may give some samples more than the duration says


class ClipCache:
    """Room for all clips of a corpus, filled by whoever decodes one first. What does not fit any more is not kept.

    Args:
        clips: how many there are.
        decoded_bytes: of all of them, audio as int16, pixels as uint8.
    """

    def __init__(self, clips: int, decoded_bytes: int) -> None:
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
        dtype = np.dtype(np.int16 if len(shape) == 1 else np.uint8)
        stored = self._data[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)
        data = torch.from_numpy(stored)
        data = data.float() / _PEAK if data.dtype is torch.int16 else data.movedim(-1, -3)
        return Clip(like.key, like.modality, data, like.rate_hz, 0.0, like.source)

    def put(self, sample: int, clip: Clip) -> None:
        """Keep a whole clip."""
        data = clip.data
        if data.is_floating_point():
            data = (data * _PEAK).round().clamp(-32768, 32767).to(torch.int16)
        else:
            data = data.movedim(-3, -1)  # as decoders give it: the channels of a pixel together
        flat = data.contiguous().view(-1).numpy().view(np.uint8)
        with self._lock:
            start = int(self._used[0])
            if not len(flat) or start + len(flat) > len(self._data):
                return
            self._used[0] = start + len(flat) + len(flat) % 2  # int16 begins at even bytes
        self._data[start : start + len(flat)] = flat
        self._clip_N5[sample, 0] = start
        self._clip_N5[sample, 1:] = list(data.shape) + [0] * (4 - data.dim())  # last: now others may read it
