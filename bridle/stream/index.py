"""All samples of some sets under one number each, in shard order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bridle.archive import Place, Shard, load_index, tar_of
from bridle.schema import Modality
from bridle.storage import Location, Remote


class ShardSet(Protocol):
    """What streaming asks of `bridle.sharding.Manifest` (a package of the same layer)."""

    name: str
    folder: Location
    modality: Modality
    decoded_bytes: int

    @property
    def checked(self) -> bool: ...

    @property
    def shards(self) -> Sequence[Shard]: ...

    @property
    def whole(self) -> Sequence[Shard]: ...


class Index:
    """Sample numbers of several sets, one set after the other; the rows stay on the disk until they are asked for.

    Raises:
        DataError: a tar does not match its manifest.
    """

    def __init__(self, manifests: Sequence[ShardSet]) -> None:
        # Still mapped files, but plain arrays: numpy takes several times as long to look into its own `memmap`.
        self._rows = [np.asarray(load_index(one.folder, one.shards, one.whole)) for one in manifests]
        self._tars = [[tar_of(manifest.folder, shard) for shard in manifest.shards] for manifest in manifests]
        self._checked = [manifest.checked for manifest in manifests]
        self.starts = np.cumsum([0, *(len(rows_N) for rows_N in self._rows)])
        self._first = self.starts.tolist()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def remote(self) -> bool:
        """Whether some of the tars are not on this machine."""
        return any(isinstance(tar, Remote) for tars in self._tars for tar in tars)

    def checked(self, sample: int) -> bool:
        """Whether it was decoded from beginning to end when its set was made."""
        return self._checked[bisect_right(self._first, sample) - 1]

    def key(self, sample: int) -> str:
        """The name of both members."""
        row, _ = self._row(sample)
        return bytes(row["key"]).decode(errors="replace")

    def media(self, sample: int) -> Place:
        """The clip as stored."""
        return self._place(sample, "media")

    def meta(self, sample: int) -> Place:
        """The JSON beside it."""
        return self._place(sample, "meta")

    def _place(self, sample: int, member: str) -> Place:
        row, tars = self._row(sample)
        return Place.of(tars[int(row["tar"])], row, member)

    def _row(self, sample: int) -> tuple[np.void, list[Location]]:
        """A row, and the tars of its set."""
        which = bisect_right(self._first, sample) - 1
        return self._rows[which][sample - self._first[which]], self._tars[which]
