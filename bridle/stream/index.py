"""All samples of some sets under one number each, in shard order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from bridle.archive import Place, Shard, load_index
from bridle.schema import Modality


class ShardSet(Protocol):
    """What streaming asks of `bridle.sharding.Manifest` (a package of the same layer)."""

    name: str
    folder: Path
    modality: Modality
    decoded_bytes: int

    @property
    def shards(self) -> Sequence[Shard]: ...


class Index:
    """Sample numbers of several sets, one set after the other; the rows stay on the disk until they are asked for.

    Raises:
        DataError: a tar does not match its manifest.
    """

    def __init__(self, manifests: Sequence[ShardSet]) -> None:
        self._manifests = manifests
        self._rows = [load_index(manifest.folder, manifest.shards) for manifest in manifests]
        self.starts = np.cumsum([0, *(len(rows_N) for rows_N in self._rows)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def key(self, sample: int) -> str:
        """The name of both members."""
        row, _ = self._row(sample)
        return bytes(row["key"]).decode()

    def media(self, sample: int) -> Place:
        """The clip as stored."""
        return self._place(sample, "media")

    def meta(self, sample: int) -> Place:
        """The JSON beside it."""
        return self._place(sample, "meta")

    def _place(self, sample: int, member: str) -> Place:
        row, manifest = self._row(sample)
        return Place.of(manifest.folder / manifest.shards[int(row["tar"])].file, row, member)

    def _row(self, sample: int) -> tuple[np.void, ShardSet]:
        which = int(np.searchsorted(self.starts, sample, side="right")) - 1
        return self._rows[which][sample - int(self.starts[which])], self._manifests[which]
