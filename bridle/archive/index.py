"""Where every sample of a set lies: `index-DIGEST.npy` beside its tars, one row a sample, mapped into memory.

The digest in the name is that of the tars, so an index can be missing but never be out of date; behind the array stands
the SHA-256 of the file so far. A missing or damaged one is made again: from every byte of tars on this machine, whose
hashes are compared on the way, and from the headers of remote ones. Member names are keys and nothing else: they are
never used as paths, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bridle.archive.description import parse_description
from bridle.archive.headers import open_tar, read_npy
from bridle.archive.read import Place, TarReader
from bridle.archive.write import ROW, Shard
from bridle.errors import DataError, MediaError
from bridle.outputs import written
from bridle.storage import Cache, Location, Remote, opened, read_small, sizes_in

_DIGEST_BYTES, _NPY_HEADER_BYTES = 32, 1 << 16  # the latter at most
_HINT = "Copy the set again, or write it again with bridle shard --overwrite."
_SCANNED = np.dtype([(name, ROW[name]) for name in ROW.names or () if not name.endswith("crc")])


def index_name(shards: Sequence[Shard]) -> str:
    """The file that holds the index of just these tars."""
    text = "".join(f"{shard.file} {shard.samples} {shard.bytes} {shard.sha256}\n" for shard in shards)
    return f"index-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"


def save_index(folder: Path, shards: Sequence[Shard], rows_N: np.ndarray) -> None:
    """Write the index beside the tars, whole or not at all."""
    content = io.BytesIO()
    np.save(content, rows_N, allow_pickle=False)
    with written(folder / index_name(shards)) as file:
        file.write(content.getbuffer())
        file.write(hashlib.sha256(content.getbuffer()).digest())  # readers of .npy do not look behind the array


def load_index(folder: Location, shards: Sequence[Shard], whole: Sequence[Shard] = ()) -> np.ndarray:
    """Rows of `ROW`, in shard order; without the checksums where a remote set has no index of its own.

    Args:
        folder: of the set.
        shards: its tars, or some of them.
        whole: all of its tars, where `shards` are some.

    Raises:
        DataError: naming the tar that is missing, cut or altered, or has not the samples its manifest promises.
    """
    check_sizes(folder, shards)
    beside, described = folder if isinstance(folder, Path) else Cache().folder, whole or shards
    rows_N = _mapped(beside / index_name(described), described)
    if rows_N is None and isinstance(folder, Remote):
        rows_N = _fetched(folder / index_name(described), described)
    if rows_N is None:
        return make_index(folder, shards, keep=not whole)
    return _rows_for(rows_N, whole, shards) if whole else rows_N


def make_index(folder: Location, shards: Sequence[Shard], *, keep: bool = True) -> np.ndarray:
    """The rows from the tars themselves; kept beside them, or in the cache for remote ones.

    Raises:
        DataError: naming the tar that is not what was written.
    """
    made = (rows_of(tar_of(folder, shard), shard, n) for n, shard in enumerate(shards))
    if isinstance(folder, Path):
        checked = (_checksummed(folder / shard.file, shard, part) for shard, part in zip(shards, made, strict=True))
        rows_N = np.concatenate([np.empty(0, ROW), *checked])
    else:
        rows_N = np.concatenate([np.empty(0, _SCANNED), *made])
    with contextlib.suppress(OSError):  # a folder that may only be read: made again the next time
        if keep:
            save_index(folder if isinstance(folder, Path) else Cache().folder, shards, rows_N)
    return rows_N


def _checksummed(path: Path, shard: Shard, rows_N: np.ndarray) -> np.ndarray:
    """The rows with the checksums of both members; the tar is compared with its hash first."""
    full_N = np.zeros(len(rows_N), ROW)
    for name in _SCANNED.names or ():
        full_N[name] = rows_N[name]
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if hashlib.sha256(content).hexdigest() != shard.sha256:
            raise damaged(path, "its content differs from the manifest's hash")
        with memoryview(content) as view:
            for member in ("media", "meta"):
                spans = zip(full_N[member].tolist(), full_N[f"{member}_bytes"].tolist(), strict=True)
                full_N[f"{member}_crc"] = [zlib.crc32(view[start : start + size]) for start, size in spans]
    return full_N


def _rows_for(rows_N: np.ndarray, whole: Sequence[Shard], shards: Sequence[Shard]) -> np.ndarray:
    """Those of some tars, numbered as if there were no others."""
    parts = []
    for number, shard in enumerate(shards):
        part = rows_N[rows_N["tar"] == whole.index(shard)].copy()
        part["tar"] = number
        parts.append(part)
    return np.concatenate(parts)


def tar_of(folder: Location, shard: Shard) -> Location:
    """Where a tar lies; a remote one with the hash that its parts are cached by."""
    place = folder / shard.file
    return place if isinstance(place, Path) else replace(place, version=shard.sha256)


def _fetched(index: Remote, shards: Sequence[Shard]) -> np.ndarray | None:
    """The index of a remote set, if it has one, from the cache or, where there is no place for it, from memory."""
    try:
        content = read_small(index, _DIGEST_BYTES + _NPY_HEADER_BYTES + ROW.itemsize * sum(s.samples for s in shards))
    except OSError:
        return None
    with contextlib.suppress(OSError):
        return _mapped(Cache().put(index.name, content), shards)
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return _parsed(io.BytesIO(body), shards) if hashlib.sha256(body).digest() == digest else None


def _mapped(path: Path, shards: Sequence[Shard]) -> np.ndarray | None:
    """None when it is not there or not what it should be."""
    return _parsed(path, shards) if _is_whole(path) else None


def _parsed(source: Path | io.BytesIO, shards: Sequence[Shard]) -> np.ndarray | None:
    """None when it does not fit to these tars."""
    try:
        if isinstance(source, Path):
            rows_N: np.ndarray = np.lib.format.open_memmap(source, mode="r")  # `np.load` reads zips and pickles too
        else:
            rows_N = read_npy(source, source.getbuffer().nbytes)
    except (OSError, ValueError, EOFError):
        return None
    if rows_N.ndim != 1 or rows_N.dtype not in (ROW, _SCANNED) or len(rows_N) != sum(s.samples for s in shards):
        return None
    starts = np.cumsum([0] + [shard.samples for shard in shards])
    for n, shard in enumerate(shards):
        part = rows_N[starts[n] : starts[n + 1]]
        offsets, sizes = (np.stack([part[member + end] for member in ("media", "meta")]) for end in ("", "_bytes"))
        if np.any(part["tar"] != n) or np.any(offsets > shard.bytes) or np.any(sizes > shard.bytes - offsets):
            return None
    return rows_N


def _is_whole(path: Path) -> bool:
    """Whether it is there, and the hash at its end is that of what comes before."""
    try:
        digest, left = hashlib.sha256(), os.stat(path).st_size - _DIGEST_BYTES
        with opened(path) as file:
            while left > 0 and (part := file.read(min(left, 1 << 20))):
                digest.update(part)
                left -= len(part)
            return left == 0 and file.read() == digest.digest()
    except OSError:
        return False


def rows_of(path: Location, shard: Shard, number: int) -> np.ndarray:
    """The rows of one tar from its headers, without checksums.

    Raises:
        DataError: naming the tar.
    """
    media: dict[bytes, tuple[int, int]] = {}
    meta: dict[bytes, tuple[int, int]] = {}
    try:
        with opened(path) as file, open_tar(file) as tar:
            for member in tar:
                if not member.isfile() or member.offset_data + member.size > shard.bytes:
                    continue
                key, _, suffix = member.name.partition(".")
                # The media come first; what else stands beside them (codes) is somebody else's.
                (meta if suffix == "json" else media).setdefault(os.fsencode(key), (member.offset_data, member.size))
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error.strerror or error})") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise damaged(path, f"it is not a complete tar ({error})") from error
    rows = [(key, number, *span, *meta[key]) for key, span in media.items() if key in meta]
    if len(rows) != shard.samples:
        raise damaged(path, f"it holds {len(rows)} complete samples, the manifest says {shard.samples}")
    return np.array(rows, dtype=_SCANNED)


def describe_sample(reader: TarReader, tar: Location, row: np.void) -> dict[str, Any]:
    """The JSON of a sample.

    Raises:
        DataError: naming the tar, where it is damaged.
    """
    try:
        content = reader.read(Place.of(tar, row, "meta"))
    except MediaError as error:
        raise DataError(error.message, _HINT) from error
    try:
        return parse_description(content)
    except MediaError as error:
        raise damaged(tar, error.message) from error


def check_sizes(folder: Location, shards: Sequence[Shard]) -> None:
    """Every tar is there in its full size.

    Raises:
        DataError: naming the first that is not.
    """
    try:
        for shard, (name, size) in zip(shards, sizes_in(folder, [shard.file for shard in shards]), strict=True):
            if isinstance(size, OSError):
                raise damaged(folder / name, f"it cannot be read ({size.strerror or size})") from size
            if size != shard.bytes:
                raise damaged(folder / name, f"it has {size} bytes, the manifest says {shard.bytes}")
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def damaged(path: Location, why: str) -> DataError:
    """A tar that is not what its manifest says."""
    return DataError(f"{path} does not match its manifest: {why}", _HINT)
