"""Fills a journal with the files that are to become a set, in the order of its shards."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bridle.archive import TarReader, describe_sample, load_index, tar_of
from bridle.archive.manifest import Manifest
from bridle.errors import DataError, UsageError
from bridle.inputs.discover import Found, walk
from bridle.schema import MediaInfo, Modality
from bridle.sharding.journal import Journal
from bridle.sharding.labels import label_by_table, labeller
from bridle.sharding.options import Options
from bridle.storage import Location, Remote

_SIZES = ("duration_s", "rate_hz", "frames", "height", "width")


def list_files(
    journal: Journal,
    raw: Location,
    modality: Modality | None,
    options: Options,
    part: str,
    old: Manifest | None,
) -> Modality:
    """Note every candidate below `raw` that belongs to this part and is not in `old`; the modality they have.

    Raises:
        DataError: nothing to list, several kinds of media, or a table of labels that does not fit.
    """
    if old is not None:
        _note_old(journal, old, options.seed)
        modality = modality or old.modality
    found, grouped, known, left_out = Found(), 0, 0, 0
    label_of, split, named = labeller(options.labels, raw), options.split, options.named
    table = options.labels if isinstance(options.labels, Path | Remote) else None
    for path, kind in walk(raw, found, sound_tracks=options.sound_tracks):
        if modality not in (None, kind):
            continue
        if named is not None:
            if path not in named:
                left_out += 1
            elif named[path][0] == part:
                known += not journal.add(place_of(path, options.seed), path, named[path][1])
            continue
        grouped += split is not None and split.has_group(path)
        if split is None or table or split.part_of(path) == part:  # a table may name the files of all parts
            known += not journal.add(place_of(path, options.seed), path, label_of(path))
    modality = found.choose(raw, modality)
    for option, value, only in (
        ("--channel", options.channel, Modality.AUDIO),
        ("--pixel-range", options.pixel_range, Modality.IMAGE),
    ):
        if value is not None and modality is not only:
            raise UsageError(f"{option} has no effect on {modality}", "Leave it out.")
    if split and split.group_by and not grouped:
        raise UsageError(
            f"--group-by {split.group_by!r} matches none of the {found.counts[modality]} files",
            "It is searched in the path below the raw folder, such as 'speaker/clip.wav'.",
        )
    if old is not None and modality is not old.modality:
        raise DataError(f"{old.folder} holds {old.modality}, not {modality}", "Choose another --out.")
    unmatched, notes = 0, list[str]()
    if table and journal.counts()["todo"]:
        unmatched, notes = label_by_table(journal, table, options.columns, raw)
        if options.group_column:
            grouped = journal.grouped()
            if not grouped:
                raise DataError(
                    f"{table} has no value in column {options.group_column!r} for any file", "Name another column."
                )
        if split:
            journal.keep(lambda path, group: split.part_of(path, group) == part)
    if found.archives:
        notes.append(f"archives are not read: {found.archives} below {raw}, such as {found.archive}; extract them")
    todo = journal.counts()["todo"]
    if not todo and old is None:
        raise DataError(
            f"no {modality} file below {raw} falls into the split {part!r}", "Change the shares of --split."
        )
    others = left_out + found.others + sum(count for kind, count in found.counts.items() if kind is not modality)
    size = found.bytes * todo // max(1, found.counts.total())  # about that of the files in this part
    by_group = options.group_column or (split and split.group_by)
    info = {"others": others, "rejects": found.rejects, "unmatched": unmatched, "bytes": size, "notes": notes}
    info |= {
        "ungrouped": found.counts[modality] - grouped if by_group else 0,
        "absent": journal.counts()["old"] - known,
    }
    journal.note("found", info)
    return modality


def place_of(path: str, seed: int) -> bytes:
    """Shuffled by hash, so that every shard is a fair sample of the corpus, with the same order everywhere."""
    return hashlib.sha256(f"{seed}:".encode() + os.fsencode(path)).digest()


def _note_old(journal: Journal, old: Manifest, seed: int) -> None:
    reader = TarReader()
    for row in load_index(old.folder, old.shards):
        meta = describe_sample(reader, tar_of(old.folder, old.shards[int(row["tar"])]), row)
        info = MediaInfo(old.modality, meta["suffix"], **{name: meta.get(name) for name in _SIZES})
        journal.add_old(place_of(meta["path"], seed), meta, info)
