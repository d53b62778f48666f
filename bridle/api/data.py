"""Create, describe and verify shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from bridle import progress
from bridle.api.options import Shard, Verify, takes
from bridle.api.results import ShardResult, Verified
from bridle.errors import DataError, UsageError
from bridle.storage import Location, locate


@takes(Shard)
def shard(raw: str | Path, chosen: Shard) -> ShardResult:
    """Turn the media below a folder into tars and a manifest."""
    from bridle.schema import Modality
    from bridle.sharding import Options, Split
    from bridle.sharding import shard as run

    labels, group_column, group_by, split = chosen.labels, chosen.group_column, chosen.group_by, chosen.split
    if group_by and group_by.startswith("column:"):
        group_column, group_by = group_by.removeprefix("column:"), None
    for option, column in (("path", chosen.path_column), ("label", chosen.label_column), ("group", group_column)):
        if column and labels in ("folder", "sidecar", None):
            raise UsageError(
                f"--{option}-column {column!r} is a column of a table", "Name the table: --labels TABLE.csv"
            )
    if group_by and group_column:
        raise UsageError("--group-by and --group-column both define the groups", "Use only one of them.")
    if group_by and not split:
        raise UsageError("--group-by has no effect without --split.")
    named, kind, sounds, name, out = None, chosen.modality, chosen.sound_tracks, chosen.name, chosen.out
    if chosen.task:
        if split or labels != "folder":
            raise UsageError("--task sets labels and splits itself", "Leave out --labels, --split and --group-by.")
        named, kind, sounds = _release(chosen.task, locate(raw), chosen.max_missing)
        name, out = name or chosen.task, out or Path("shards") / chosen.task
    same = "max_size_bytes transcode check dedup channel pixel_range path_column label_column seed".split()
    options = Options(
        labels=labels if labels in ("folder", "sidecar") else locate(labels) if labels else None,  # type: ignore[arg-type]
        sound_tracks=sounds,
        split=Split(split, group_by) if split else None,
        task=chosen.task or "",
        named=named,
        group_column=group_column,
        **{name: getattr(chosen, name) for name in same},
    )
    result = run(
        locate(raw),
        Modality(kind) if kind else None,
        locate(out) if out else None,
        name=name,
        options=options,
        workers=chosen.workers,
        engine=chosen.engine,
        overwrite=chosen.overwrite,
        resume=chosen.resume,
        dry_run=chosen.dry_run,
    )
    return cast(ShardResult, result)


def _release(task: str, raw: Location, max_missing: float) -> tuple[dict[str, tuple[str, str | list[str]]], str, bool]:
    """Split and label of each file that a benchmark lists, its modality, and whether videos are audio."""
    from bridle.tasks import load_task, read_task

    wanted = load_task(task)
    if not isinstance(raw, Path):
        raise DataError(f"{raw} is in remote storage; releases are read from a local disk only", "Copy it here.")
    listing = read_task(wanted, raw, max_missing=max_missing)
    for item in listing.items:
        if item.span_s or item.path.startswith("../"):
            raise DataError(
                f"{task}: {item.path} is a segment of a file, or outside of {raw}: shards hold whole files below it",
                f"bridle eval --task {task} --data {raw} reads the release as it was published.",
            )
    for note in listing.notes:
        progress.note(note)
    for part, gone in listing.missing.items():
        progress.warn(f"{part}: {len(gone)} listed clips are missing, such as {gone[0]}")
    labelled = {
        item.path: (item.part, list(item.labels) if wanted.multi_label else item.labels[0]) for item in listing.items
    }
    return labelled, str(wanted.modality), wanted.reader.sound_tracks


def shard_info(shards: str | Path) -> list[dict[str, Any]]:
    """Describe each set of shards at or below a folder; see `bridle.sharding.describe`."""
    from bridle.inputs import find_all_sets
    from bridle.sharding import describe

    return [describe(manifest) for manifest in find_all_sets(locate(shards))]


@takes(Verify)
def shard_verify(shards: str | Path, chosen: Verify) -> list[Verified]:
    """Verify each set of shards at or below a folder; see `bridle.sharding.verify`."""
    from bridle.inputs import find_all_sets
    from bridle.sharding import verify

    found, wrong = list[Any](), list[str]()
    for manifest in find_all_sets(locate(shards)):
        try:
            found.append(verify(manifest, decode=chosen.decode, workers=chosen.workers or os.cpu_count() or 1))
        except DataError as error:  # the other sets are looked at too
            wrong.append(error.message)
            hint = error.hint
    if wrong:
        raise DataError("\n".join(wrong), hint)
    return found
