"""Where every sample lies: one pass over the tar headers, then any sample is one read away.

Member names are keys and nothing else; they are never used as paths, and nothing is unpickled.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bridle.errors import DataError
from bridle.schema import Modality


class ShardFile(Protocol):
    """One tar of a set, as `bridle.sharding.Shard` describes it."""

    @property
    def file(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class ShardSet(Protocol):
    """What streaming asks of `bridle.sharding.Manifest` (a package of the same layer)."""

    folder: Path
    modality: Modality
    decoded_bytes: int

    @property
    def shards(self) -> Sequence[ShardFile]: ...


@dataclass(frozen=True, slots=True)
class Index:
    """All samples of some sets, in shard order.

    Attributes:
        tars: the files.
        keys: name of each sample.
        spans_N5: int64 (tar, offset and size of the media, offset and size of the JSON) of each sample.
    """

    tars: list[Path]
    keys: list[str]
    spans_N5: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def build_index(manifests: Sequence[ShardSet]) -> Index:
    """Scan the headers of every tar.

    Raises:
        DataError: naming the tar that is missing, cut, or has not the samples its manifest promises.
    """
    tars: list[Path] = []
    keys: list[str] = []
    spans: list[tuple[int, ...]] = []
    for manifest in manifests:
        for shard in manifest.shards:
            path = manifest.folder / shard.file
            samples = _scan(path, shard.bytes)
            if len(samples) != shard.samples:
                raise _damaged(path, f"it holds {len(samples)} whole samples, the manifest says {shard.samples}")
            keys.extend(key for key, _ in samples)
            spans.extend((len(tars), *span) for _, span in samples)
            tars.append(path)
    return Index(tars, keys, np.array(spans, dtype=np.int64).reshape(-1, 5))


def _scan(path: Path, size: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Key and (media offset, media size, JSON offset, JSON size) of each sample with both members."""
    media: dict[str, tuple[int, int]] = {}
    meta: dict[str, tuple[int, int]] = {}
    try:
        actual = path.stat().st_size
        if actual != size:
            raise _damaged(path, f"it has {actual} bytes, the manifest says {size}")
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile() or member.offset_data + member.size > actual:
                    continue
                key, _, suffix = member.name.partition(".")
                (meta if suffix == "json" else media)[key] = member.offset_data, member.size
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror or error})") from error
    except tarfile.TarError as error:
        raise _damaged(path, f"it is no whole tar ({error})") from error
    return [(key, (*span, *meta[key])) for key, span in media.items() if key in meta]


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} does not match its manifest: {why}",
        "Copy the set again, or write it again with bridle shard --overwrite.",
    )
