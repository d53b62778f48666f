"""Decoded clips in memory that all decoding processes share: decoding is paid once, in the first epoch.

Anonymous shared memory, inherited by forked workers: no file, and no limit of /dev/shm, which is 64 MB in containers.
"""

from __future__ import annotations

import mmap

import numpy as np
import torch

from bridle.schema import Clip

_PEAK = 32767.0  # sound is kept in 16 bits


class ClipCache:
    """One slot a sample, filled by whoever decodes it first.

    Args:
        capacity_N: bytes that each decoded clip needs, audio as int16, pixels as uint8. A clip that turns out larger
            is not kept.
    """

    def __init__(self, capacity_N: np.ndarray) -> None:
        self._offset_N = np.concatenate([[0], np.cumsum(capacity_N)])
        self._data = np.frombuffer(mmap.mmap(-1, max(1, int(self._offset_N[-1]))), dtype=np.uint8)
        table = mmap.mmap(-1, max(1, 4 * 8 * len(capacity_N)))
        self._shape_N4 = np.frombuffer(table, dtype=np.int64).reshape(-1, 4)  # zero: an empty slot

    def get(self, sample: int, like: Clip) -> Clip | None:
        """The clip of this sample with the names of `like`, None when its slot is empty."""
        shape = tuple(int(size) for size in self._shape_N4[sample] if size)
        if not shape:
            return None
        dtype = np.dtype(np.int16 if len(shape) == 1 else np.uint8)
        start = int(self._offset_N[sample])
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
        start, end = int(self._offset_N[sample]), int(self._offset_N[sample + 1])
        if len(flat) > end - start or not len(flat):
            return
        self._data[start : start + len(flat)] = flat
        self._shape_N4[sample] = list(data.shape) + [0] * (4 - data.dim())  # last: now others may read the slot
