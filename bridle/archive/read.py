"""Members of tars by their place: one read each, checked against what was written."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bridle.errors import DataError, MediaError
from bridle.storage import Cache, Location, Remote

_OPEN_FILES = 64
_HINT = "Copy the set again; then continue the run with bridle pretrain --resume."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member lies, and the CRC-32 of its bytes if that is known."""

    tar: Location
    offset: int
    bytes: int
    crc: int | None

    @classmethod
    def of(cls, tar: Location, row: np.void, member: str) -> Place:
        """Of the "media" or "meta" of a row of an index."""
        crc = int(row[f"{member}_crc"]) if f"{member}_crc" in (row.dtype.names or ()) else None
        return cls(tar, int(row[member]), int(row[f"{member}_bytes"]), crc)


class TarReader:
    """Keeps the tars open that it read last. Forked processes may share it."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, int] = OrderedDict()

    def read(self, place: Place) -> bytes:
        """The bytes of a member.

        Raises:
            DataError: the tar is gone or cut. MediaError: the member is not what was written. EnvironmentFault: its
                storage does not answer.
        """
        try:
            if isinstance(place.tar, Remote):
                content = self._fetch(place.tar, place)
            else:
                content = _read_at(self._opened(place.tar), place.bytes, place.offset)
        except OSError as error:
            raise DataError(f"{place.tar} cannot be read: {error.strerror}", _HINT) from error
        if len(content) != place.bytes:
            raise DataError(f"{place.tar} was truncated while being read", _HINT)
        if place.crc is not None and zlib.crc32(content) != place.crc:
            raise MediaError(f"{place.tar} was changed: the bytes from {place.offset} on differ from what was written")
        return content

    def _opened(self, tar: Path) -> int:
        if tar in self._files:
            self._files.move_to_end(tar)
        else:
            self._files[tar] = os.open(tar, os.O_RDONLY)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        return self._files[tar]

    @cached_property
    def _cache(self) -> Cache:
        return Cache()

    def _fetch(self, tar: Remote, place: Place) -> bytes:
        content = self._cache.read(tar, place.offset, place.bytes)
        if len(content) != place.bytes or (place.crc is not None and zlib.crc32(content) != place.crc):
            self._cache.forget(tar, place.offset, place.bytes)  # it may be our copy that was damaged
            content = self._cache.read(tar, place.offset, place.bytes)
        return content

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)


def _read_at(file: int, size: int, offset: int) -> bytes:
    """`pread` that continues after a short read (Linux stops at 2 GB); no position that processes share."""
    content = os.pread(file, size, offset)
    while len(content) < size:
        more = os.pread(file, size - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content
