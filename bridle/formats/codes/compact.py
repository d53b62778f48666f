"""The compact codes file (`.codes`): one record a file, a byte or two a code, each level by itself.

Needs NumPy and nothing else of BRIDLE: copy this file to wherever codes are read. The layout, byte for byte, is in
docs/codes.md:

    head     magic "BRDLCODE", u32 version, u32 size, JSON, u32 CRC
    records  u32 size, name, grid and times, u32 CRC, then for each level N codes and u32 CRC
    tail     u64 offset of each record, u32 size, JSON, u32 CRC
    end      u64 offset of the tail, u64 number of records, u32 CRC, "END\\n"

All numbers are little-endian; a CRC is the CRC-32 of what stands before it in its part, and one behind a level of that
level's codes alone. Nothing lies between the parts. Levels come one after the other because the codes are residual: the
first n of them are a valid, coarser tokenization, and a prefix of each record.

Shapes: Q levels, T H W grid, N = T * H * W patches.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

MAGIC, VERSION = b"BRDLCODE", 1
END = b"END\n"
_U32, _U64, _RUN = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<Idd")
_HEAD, _GRID, _END = struct.Struct("<8sII"), struct.Struct("<IIII"), struct.Struct("<QQI4s")
_MOST_CODES = 1 << 16
_NAMES = "utf-8", "surrogateescape"  # of files: bytes that are no UTF-8 come back as they were
_SAME_S = 1e-9  # times are kept to a nanosecond


class CodesError(ValueError):
    """What is wrong with a file, naming it.

    Args:
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class Record:
    """The codes of one media file.

    Attributes:
        file: its path or key, as it was called when it was read.
        codes_QTHW: uint8 or uint16.
        times_T: start in seconds of each step along time.
    """

    file: str
    codes_QTHW: np.ndarray
    times_T: np.ndarray


def code_type(codes: int) -> np.dtype[Any]:
    """What a code of a codebook of that size takes."""
    return np.dtype("u1") if codes <= 256 else np.dtype("<u2")


class CodesWriter:
    """`with CodesWriter(path, header) as writer: writer.add(...)`; the file is complete when the `with` has ended.

    Args:
        header: anything that is JSON, with `codes` (codebook size) and `levels` (how many a record has).
    """

    def __init__(self, path: str | os.PathLike[str], header: dict[str, Any]) -> None:
        self._codes, self._levels = int(header["codes"]), int(header["levels"])
        if not 2 <= self._codes <= _MOST_CODES or self._levels < 1:
            raise CodesError(f"{self._levels} levels of {self._codes} codes do not fit into a codes file")
        self._offsets: list[int] = []
        self._tail: dict[str, Any] = {}
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115
        text = json.dumps(header).encode()
        head = _HEAD.pack(MAGIC, VERSION, len(text)) + text
        self._file.write(head + _crc(head))

    def __enter__(self) -> CodesWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()

    def add(self, file: str, codes_QTHW: np.ndarray, times_T: Sequence[float] | np.ndarray) -> None:
        """One record.

        Raises:
            CodesError: other levels than the header says, codes that its codebook has not, or not a time a step.
        """
        fit = codes_QTHW.ndim == 4 and len(codes_QTHW) == self._levels and len(times_T) == codes_QTHW.shape[1]
        if not (fit and codes_QTHW.size and codes_QTHW.dtype.kind in "iu" and np.isfinite(times_T).all()):
            raise CodesError(f"{file}: {codes_QTHW.dtype} {codes_QTHW.shape} and {len(times_T)} times are not codes")
        if not 0 <= codes_QTHW.min() <= codes_QTHW.max() < self._codes:
            raise CodesError(f"{file}: codes outside a codebook of {self._codes}")
        name, runs = file.encode(*_NAMES), b"".join(_RUN.pack(*run) for run in _runs(times_T))
        about = _GRID.pack(len(name), *codes_QTHW.shape[1:]) + name + runs
        about = _U32.pack(len(about)) + about
        self._offsets.append(self._file.tell())
        self._file.write(about + _crc(about))
        for codes_THW in codes_QTHW.astype(code_type(self._codes)):
            self._file.write((level := codes_THW.tobytes()) + _crc(level))

    def note(self, **values: Any) -> None:
        """JSON that is known in the end only; it stands in the tail."""
        self._tail.update(values)

    def _finish(self) -> None:
        at, text = self._file.tell(), json.dumps(self._tail).encode()
        tail = np.array(self._offsets, "<u8").tobytes() + _U32.pack(len(text)) + text
        self._file.write(tail + _crc(tail))
        end = _U64.pack(at) + _U64.pack(len(self._offsets))
        self._file.write(end + _crc(end) + END)


class CodesFile:
    """Reads a codes file, all of it or single records: `len(file)`, `file[7]`, `for record in file`.

    Args:
        levels: only the first N; what follows them is not read.

    Attributes:
        header: what the writer was given.
        tail: what it noted.
        codes, levels: size of the codebooks, and how many there are.
        kept: of these levels the first N are read.

    Raises:
        CodesError: no codes file, one of another version, cut, or damaged. Reading a record raises it, too.
    """

    def __init__(self, path: str | os.PathLike[str], levels: int | None = None) -> None:
        self._path = Path(path)
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115
        try:
            self.header = self._read_header()
            self.codes, self.levels = self._sizes()
            self.kept = self.levels if levels is None else levels
            if not 1 <= self.kept <= self.levels:
                raise CodesError(f"{self._path} has {self.levels} levels, not {levels}", f"Use 1 to {self.levels}.")
            self._bounds, self.tail = self._read_tail()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> CodesFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(number)
        offset, end = self._bounds[number : number + 2].tolist()
        (size,) = _U32.unpack(self._bytes(offset, _U32.size))
        about = self._checked(offset, _U32.size + size)[_U32.size :]
        try:
            name_bytes, *grid = _GRID.unpack_from(about)
            file = about[_GRID.size : _GRID.size + name_bytes].decode(*_NAMES)
            kind = code_type(self.codes)
            at, level_bytes = offset + _U32.size + size + 4, grid[0] * grid[1] * grid[2] * kind.itemsize
            # Before anything is made in the size that the grid says.
            if min(grid) < 1 or at + self.levels * (level_bytes + 4) != end:
                raise ValueError("a grid that does not match its codes")
            times_T = _times(about[_GRID.size + name_bytes :], grid[0])
        except (struct.error, ValueError) as error:
            raise self._damaged(f"record {number}") from error
        levels = []
        for _ in range(self.kept):
            levels.append(np.frombuffer(self._checked(at, level_bytes), kind).reshape(grid))
            at += level_bytes + 4
        codes_QTHW = np.stack(levels)
        if int(codes_QTHW.max()) >= self.codes:
            raise CodesError(
                f"{self._path}: {file} has the code {codes_QTHW.max()}, but the codebook has {self.codes}",
                "It was written with a different codebook; write it again with bridle tokenize.",
            )
        return Record(file, codes_QTHW, times_T)

    def _read_header(self) -> dict[str, Any]:
        start = self._file.read(_HEAD.size)
        if start[: len(MAGIC)] != MAGIC[: len(start)] or not start:
            raise CodesError(f"{self._path} is not a codes file", "Write one: bridle tokenize FILES --out NAME.codes")
        if len(start) < _HEAD.size:
            raise self._cut()
        _, version, size = _HEAD.unpack(start)
        if version != VERSION:
            raise CodesError(
                f"{self._path} has version {version}, this reader knows {VERSION}", "Update BRIDLE to read it."
            )
        self._records_at = _HEAD.size + size + 4
        return self._json(self._checked(0, _HEAD.size + size)[_HEAD.size :])

    def _sizes(self) -> tuple[int, int]:
        codes, levels = self.header.get("codes"), self.header.get("levels")
        if type(codes) is not int or type(levels) is not int or not 2 <= codes <= _MOST_CODES or levels < 1:
            raise self._damaged("its header")
        return codes, levels

    def _read_tail(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Where each record begins, and the last one ends; what the writer noted."""
        size = self._file.seek(0, os.SEEK_END)
        end = self._bytes(max(0, size - _END.size), _END.size)
        tail_at, files, crc, mark = _END.unpack(end)
        if mark != END:
            raise self._cut()
        if zlib.crc32(end[:16]) != crc or tail_at + 8 * files + 8 > size:
            raise self._damaged("its end")
        tail = self._checked(tail_at, size - _END.size - tail_at - 4)
        (text_bytes,) = _U32.unpack_from(tail, 8 * files)
        if 8 * files + 4 + text_bytes != len(tail):
            raise self._damaged("its tail")
        bounds = np.append(np.frombuffer(tail, "<u8", files), np.uint64(tail_at))
        if bounds[0] != self._records_at or (bounds[1:] <= bounds[:-1]).any():
            raise self._damaged("where its records are")
        return bounds, self._json(tail[8 * files + 4 :])

    def _checked(self, at: int, size: int) -> bytes:
        """Bytes that the CRC behind them agrees with."""
        content = self._bytes(at, size + 4)
        if _crc(content[:-4]) != content[-4:]:
            raise self._damaged(f"the bytes from {at} on")
        return content[:-4]

    def _bytes(self, at: int, size: int) -> bytes:
        """A size may be damaged: nothing is asked for that the file has not."""
        if at + size > self._file.seek(0, os.SEEK_END):
            raise self._cut()
        self._file.seek(at)
        content = self._file.read(size)
        if len(content) != size:
            raise self._cut()
        return content

    def _json(self, text: bytes) -> dict[str, Any]:
        try:
            content = json.loads(text.decode())  # of bytes it would guess other encodings
        except (ValueError, RecursionError) as error:
            raise self._damaged("its description") from error
        if not isinstance(content, dict):
            raise self._damaged("its description")
        return content

    def _cut(self) -> CodesError:
        return CodesError(f"{self._path} is cut: it ends before its codes do", "Copy it again, or write it again.")

    def _damaged(self, what: str) -> CodesError:
        return CodesError(f"{self._path} is damaged ({what})", "Copy it again, or write it again.")


def _crc(content: bytes) -> bytes:
    return _U32.pack(zlib.crc32(content))


def _runs(times_T: Sequence[float] | np.ndarray) -> Iterator[tuple[int, float, float]]:
    """(count, start, step) of evenly spaced stretches, to a nanosecond."""
    left = np.asarray(times_T, np.float64)
    while len(left):
        step = float(left[1] - left[0]) if len(left) > 1 else 0.0
        off = np.abs(left[0] + step * np.arange(len(left)) - left) > _SAME_S
        count = int(off.argmax()) if off.any() else len(left)
        yield count, float(left[0]), step
        left = left[count:]


def _times(packed: bytes, steps: int) -> np.ndarray:
    """The reverse, `(T,)` float64; ValueError if they are not so many, or no numbers."""
    runs = list(_RUN.iter_unpack(packed))
    if sum(count for count, _, _ in runs) != steps:
        raise ValueError("a number of times that differs from its steps")
    with np.errstate(all="ignore"):
        times_T = np.concatenate([np.empty(0), *(start + step * np.arange(count) for count, start, step in runs)])
    if not np.isfinite(times_T).all():
        raise ValueError("times that are not numbers")
    return times_T
