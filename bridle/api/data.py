"""Raw media -> shards, and what shards hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bridle import progress
from bridle.errors import DataError, UsageError
from bridle.storage import Location, locate

if TYPE_CHECKING:
    from bridle.cluster import Engine


@progress.heard
def shard(
    raw: str | Path,
    *,
    modality: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    labels: str | Path | None = "folder",
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    workers: int | None = None,
    engine: Engine = "local",
    max_size_bytes: int = 256_000_000,
    transcode: bool = False,
    check: Literal["full", "header"] = "full",
    dedup: bool = False,
    sound_tracks: bool = False,
    channel: int | None = None,
    pixel_range: tuple[float, float] | None = None,
    split: Mapping[str, float] | None = None,
    group_by: str | None = None,
    task: str | None = None,
    max_missing: float = 0.5,
    seed: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    on_event: progress.Listener | None = None,
) -> dict[str, Any]:
    """Turn the media below a folder into tars and a manifest; see `bridle.sharding.shard`.

    Args:
        labels: "folder", "sidecar", the path of a CSV, TSV or JSONL, or None.
        path_column, label_column, group_column: of that table; see `bridle.sharding.Options`.
        workers: decoding processes; default: one a core, of the cluster if there is one.
        engine: "local", or "ray": the processes run all over a Ray cluster.
        channel: of audio with several, from 1; default: their mean.
        pixel_range: values that become black and white in images of more than 8 bits; default: measured.
        split, group_by: parts and their shares, and what stays together (see `bridle.sharding.Split`);
            `column:NAME` is the same as `group_column`.
        task: a published benchmark whose release `raw` is: its lists say what is taken, with parts and labels.
        max_missing: largest fraction of a part's listed files that may be missing.
    """
    from bridle.schema import Modality
    from bridle.sharding import Options, Split
    from bridle.sharding import shard as run

    if group_by and group_by.startswith("column:"):
        group_column, group_by = group_by.removeprefix("column:"), None
    for option, column in (("path", path_column), ("label", label_column), ("group", group_column)):
        if column and labels in ("folder", "sidecar", None):
            raise UsageError(
                f"--{option}-column {column!r} is a column of a table", "Name the table: --labels TABLE.csv"
            )
    if group_by and group_column:
        raise UsageError("--group-by and --group-column both say what belongs together", "Use only one of them.")
    if group_by and not split:
        raise UsageError("--group-by says what a --split keeps together; there is no --split.")
    named, kind, sounds = None, modality, sound_tracks
    if task:
        if split or labels != "folder":
            raise UsageError("--task brings labels and parts along", "Leave out --labels, --split and --group-by.")
        named, kind, sounds = _release(task, locate(raw), max_missing)
        name = name or task
        out = out or Path("shards") / task
    options = Options(
        labels=labels if labels in ("folder", "sidecar") else locate(labels) if labels else None,  # type: ignore[arg-type]
        max_size_bytes=max_size_bytes,
        transcode=transcode,
        check=check,
        dedup=dedup,
        sound_tracks=sounds,
        channel=channel,
        pixel_range=pixel_range,
        seed=seed,
        split=Split(split, group_by) if split else None,
        task=task or "",
        path_column=path_column,
        label_column=label_column,
        group_column=group_column,
    )
    return run(
        locate(raw),
        Modality(kind) if kind else None,
        locate(out) if out else None,
        name=name,
        options=options,
        named=named,
        workers=workers,
        engine=engine,
        overwrite=overwrite,
        resume=resume,
        dry_run=dry_run,
    )


def _release(task: str, raw: Location, max_missing: float) -> tuple[dict[str, tuple[str, str | list[str]]], str, bool]:
    """Part and label of each file that the lists of a benchmark name, its modality, and whether videos are sounds."""
    from bridle.tasks import load_task, read_task

    wanted = load_task(task)
    if not isinstance(raw, Path):
        raise DataError(f"{raw} is in remote storage, where releases are not read", "Copy it here.")
    listing = read_task(wanted, raw, max_missing=max_missing)
    for item in listing.items:
        if item.span_s or item.path.startswith("../"):
            raise DataError(
                f"{task}: {item.path} is a piece of a file, or lies beside {raw}: shards hold whole files below it",
                f"bridle eval --task {task} --data {raw} reads the release as it lies.",
            )
    for note in listing.notes:
        progress.note(note)
    for part, gone in listing.missing.items():
        progress.warn(f"{part}: {len(gone)} clips are listed and not there, such as {gone[0]}")
    labelled = {
        item.path: (item.part, list(item.labels) if wanted.multi_label else item.labels[0]) for item in listing.items
    }
    return labelled, str(wanted.modality), wanted.reader.sound_tracks


def shard_info(shards: str | Path) -> list[dict[str, Any]]:
    """What each set at or below a folder holds; see `bridle.sharding.describe`."""
    from bridle.inputs import find_all_sets
    from bridle.sharding import describe

    return [describe(manifest) for manifest in find_all_sets(locate(shards))]


@progress.heard
def shard_verify(
    shards: str | Path, *, decode: int = 100, workers: int | None = None, on_event: progress.Listener | None = None
) -> list[dict[str, Any]]:
    """Compare each set at or below a folder with its manifest; see `bridle.sharding.verify`."""
    from bridle.inputs import find_all_sets
    from bridle.sharding import verify

    found, wrong = [], list[str]()
    for manifest in find_all_sets(locate(shards)):
        try:
            found.append(
                verify(
                    manifest,
                    decode=decode,
                    workers=workers or os.cpu_count() or 1,
                )
            )
        except DataError as error:  # the other sets are looked at too
            wrong.append(error.message)
            hint = error.hint
    if wrong:
        raise DataError("\n".join(wrong), hint)
    return found
