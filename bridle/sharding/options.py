"""What decides the bytes of a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from bridle.sharding.labels import Labels
from bridle.sharding.split import Split
from bridle.sharding.tables import Columns

MAX_SHARD_BYTES = 256 * 10**6
Named = Mapping[str, tuple[str, str | list[str]]]  # path below the raw folder -> part and label


@dataclass(frozen=True, slots=True)
class Options:
    """What decides the bytes of a set.

    Attributes:
        labels: "folder" (the name of the folder that holds a file), "sidecar" (a JSON beside it), a table (CSV, TSV,
            JSONL), or None.
        path_column, label_column, group_column: of that table; None: the usual names of the first two, and no groups.
            Files of one group are on one side of a split, and say so in their descriptions.
        max_size_bytes: of one tar.
        transcode: store small FLAC, JPEG or H.264 instead of the bytes as they came (see `transcode.py`).
        check: "full" decodes every file as training will, "header" believes what it says of itself.
        dedup: leave out files with the same bytes as another.
        sound_tracks: videos are files of audio.
        channel: of audio with several, from 1; None: their mean.
        pixel_range: values that become black and white in images with more than 8 bits a channel; None: measured.
        seed: of the order of samples in the shards.
        split: parts, each a set of its own; None: one set.
        task: name of the benchmark whose lists say which files count.
        named: part and label of each of them; each part is a set of its own.
    """

    labels: Labels = "folder"
    max_size_bytes: int = MAX_SHARD_BYTES
    transcode: bool = False
    check: Literal["full", "header"] = "full"
    dedup: bool = False
    sound_tracks: bool = False
    channel: int | None = None
    pixel_range: tuple[float, float] | None = None
    seed: int = 0
    split: Split | None = None
    task: str = ""
    path_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    named: Named | None = None

    @property
    def columns(self) -> Columns:
        return Columns(self.path_column, self.label_column, self.group_column)

    @property
    def identity(self) -> dict[str, Any]:
        """What a set that is continued must have been begun with; `task` stands for its lists."""
        return {name: value for name, value in asdict(replace(self, named=None)).items() if name != "named"}
