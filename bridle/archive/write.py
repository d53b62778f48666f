"""Samples -> tars, byte for byte the same on every run, each of them whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np

# One sample in the index: offsets and sizes of its two members in its tar, and the CRC-32 of their bytes.
ROW = np.dtype(
    [
        ("key", "S24"),
        ("tar", "<u4"),  # which of the set's shards
        ("media", "<u8"),
        ("media_bytes", "<u8"),
        ("media_crc", "<u4"),
        ("meta", "<u8"),
        ("meta_bytes", "<u4"),
        ("meta_crc", "<u4"),
    ]
)


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: its name inside the set's folder, samples, size and hash."""

    file: str
    samples: int
    bytes: int
    sha256: str


_JOINED_BYTES = 1 << 20  # smaller samples are written at once

OnClose = Callable[[Shard, np.ndarray], None]


class TarWriter:
    """Fills `NAME-000000.tar`, `NAME-000001.tar`, ... in one folder.

    Args:
        folder: exists; the tars are written into it.
        name: of the set.
        max_bytes: a tar is closed before it grows over this; a larger single sample has one of its own.
        first: number of the first tar.
        on_close: told each tar that is whole and on the disk, with its rows of the index, before the next sample.
    """

    def __init__(
        self, folder: Path, name: str, max_bytes: int, first: int = 0, on_close: OnClose | None = None
    ) -> None:
        self.shards: list[Shard] = []
        self._folder, self._name, self._max_bytes, self._number = folder, name, max_bytes, first
        self._on_close = on_close or (lambda shard, rows_N: None)
        self._file: IO[bytes] | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._hash, self._at = hashlib.sha256(), 0

    def add(
        self,
        key: str,
        suffix: str,
        content: bytes,
        meta: dict[str, Any],
        more: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Append `KEY.suffix`, `KEY.json` and, of `more`, what the index does not know: `KEY.NAME`."""
        text = json.dumps(meta, ensure_ascii=True).encode("ascii")  # escapes names that are no valid Unicode too
        members = {suffix: content, "json": text, **more}
        grown = sum(_padded(len(part)) + tarfile.BLOCKSIZE for part in members.values()) + tarfile.RECORDSIZE
        if self._file is not None and self._at + grown > self._max_bytes:
            self.close()
        if self._file is None:
            self._file = open(self._folder / f"{self._name}-{self._number:06d}.tar", "wb")  # noqa: SIM115
            self._hash, self._at = hashlib.sha256(), 0
        rows = []
        parts: list[bytes] = []
        for name, part in members.items():
            parts += [_header(f"{key}.{name}", len(part)), part, b"\0" * (_padded(len(part)) - len(part))]
            rows += [self._at + tarfile.BLOCKSIZE, len(part), zlib.crc32(part)] if name not in more else []
            self._at += tarfile.BLOCKSIZE + _padded(len(part))
        for piece in [b"".join(parts)] if len(content) < _JOINED_BYTES else parts:
            self._write(piece)
        self._rows.append((key.encode(), self._number, *rows))

    def close(self) -> None:
        """Finish the open tar; does nothing when there is none."""
        if self._file is None:
            return
        blocks = self._at + 2 * tarfile.BLOCKSIZE  # two empty ones, then zeros to a whole record
        end = -(-blocks // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        self._write(b"\0" * (end - self._at))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        shard = Shard(Path(self._file.name).name, len(self._rows), end, self._hash.hexdigest())
        self.shards.append(shard)
        self._on_close(shard, np.array(self._rows, ROW))
        self._file, self._rows, self._number = None, [], self._number + 1

    def abandon(self) -> None:
        """Close the file of an unfinished tar."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        self._hash.update(content)
        self._file.write(content)


def _header(name: str, size: int) -> bytes:
    """What `tarfile` would write, in a tenth of its time: only name, size and checksum differ between members."""
    name_, size_ = name.encode("ascii"), b"%011o" % size
    if len(name_) > tarfile.LENGTH_NAME or len(size_) > 11:
        return _member(name, size).tobuf(tarfile.USTAR_FORMAT)
    empty, checksum = _empty_header()
    checksum += sum(name_) + sum(size_) - 11 * ord("0")
    return b"".join((name_, empty[len(name_) : 124], size_, empty[135:148], b"%06o\0 " % checksum, empty[156:]))


@cache
def _empty_header() -> tuple[bytes, int]:
    """The header of an empty member without a name, and its checksum."""
    header = _member("", 0).tobuf(tarfile.USTAR_FORMAT)
    return header, int(header[148:154], 8)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # owner, group and time stay 0: the same input gives the same bytes
    member.size = size
    member.mode = 0o644
    return member


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
