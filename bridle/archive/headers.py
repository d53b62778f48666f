"""Headers of tars and of `.npy`, checked before the sizes that they state are allocated or skipped."""

from __future__ import annotations

import math
import tarfile
from typing import IO

import numpy as np


class _Plain(tarfile.TarInfo):
    """A header of the kinds that `TarWriter` and WebDataset write: files and folders.

    Headers of other kinds (long names, attributes, sparse files) may state any length and follow each other endlessly.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Plain:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:  # the next header would be sought before this one, forever
            raise tarfile.ReadError(f"{member.name!r} has the size {member.size}")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            raise tarfile.ReadError(f"{member.name!r} has a header of type {member.type!r}, not that of a plain file")
        return member


def open_tar(file: IO[bytes]) -> tarfile.TarFile:
    """A tar, to iterate over its members.

    Raises:
        tarfile.TarError: also while it is iterated over: a header is damaged.
    """
    return tarfile.open(fileobj=file, mode="r:", tarinfo=_Plain)


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """The array of a `.npy` of that size; nothing is unpickled.

    Raises:
        ValueError: it is not a `.npy`, or its header states another size.
    """
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # headers of later ones may state 4 GB, which NumPy reads before it refuses them
        raise ValueError(f"a .npy of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{dtype} {shape} is not what {size} bytes hold")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
