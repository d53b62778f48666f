"""`bridle shard`: a folder of media becomes tar shards; `info` and `verify` look at them afterwards."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN_REJECTS = 20
_SHOWN_LABELS = 30


class _Shard(click.Command):
    """`bridle shard RAW`, and beside it `bridle shard info DIR` and `bridle shard verify DIR`."""

    @staticmethod
    def others() -> dict[str, click.Command]:
        return {"info": info, "verify": verify}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        other = self.others().get(args[0]) if args else None
        if other is not None:
            return other.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _shares(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, float] | None:
    """`train=0.9,val=0.1` -> shares."""
    if value is None:
        return None
    parts = [part.partition("=") for part in value.split(",")]
    try:
        shares = {name.strip(): float(share) for name, _, share in parts}
        if len(shares) == len(parts):
            return shares
        raise click.BadParameter(f"'{value}' names a part twice.", context, parameter)
    except ValueError:
        raise click.BadParameter(f"'{value}' is not like train=0.9,val=0.1.", context, parameter) from None


def _channel(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """`mean` -> None, or the number of a channel."""
    if value != "mean" and not (value.isdecimal() and int(value) > 0):
        raise click.BadParameter(f"'{value}' is neither mean nor a number from 1.", context, parameter)
    return None if value == "mean" else int(value)


def _range(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """`-1000,3000` -> the two numbers."""
    try:
        low, high = map(float, value.split(",")) if value else (0.0, 1.0)
    except ValueError:
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise click.BadParameter(f"'{value}' is not like 0,4095.", context, parameter)
    return (low, high) if value else None


@click.command(name="shard", cls=_Shard)
@click.argument("raw", type=options.LOCATION)
@options.modality
@options.out("Folder of the shards; default: shards/NAME.", kind=options.LOCATION)
@click.option("--name", default=None, help="Name of the set; default: the folder's name.")
@click.option(
    "--labels",
    metavar="folder|sidecar|FILE|none",
    default="folder",
    show_default=True,
    help="Labels: the folder of each file, a JSON beside it, or a table (CSV, TSV, JSONL).",
)
@click.option("--path-column", metavar="NAME", default=None, help="Table column with the file names.")
@click.option("--label-column", metavar="NAME", default=None, help="Table column with the labels.")
@click.option(
    "--group-column", metavar="NAME", default=None, help="Table column with the group of each file, e.g. patient."
)
@options.workers
@options.engine
@options.max_size
@click.option("--transcode", is_flag=True, help="Store small FLAC, JPEG or H.264 instead of the bytes as they are.")
@click.option(
    "--check",
    type=click.Choice(["full", "header"]),
    default="full",
    show_default=True,
    help="Decode every file to its end, or trust its header (much faster; bad clips are found in training).",
)
@click.option("--dedup", is_flag=True, help="Leave out files with the same bytes as another.")
@click.option("--sound-tracks", is_flag=True, help="Use the audio tracks of video files.")
@click.option(
    "--channel",
    metavar="mean|N",
    default="mean",
    show_default=True,
    callback=_channel,
    help="Channel of audio files that have several.",
)
@click.option(
    "--pixel-range",
    metavar="LOW,HIGH",
    default=None,
    callback=_range,
    help="Black and white in images of more than 8 bits (default: measured).",
)
@click.option(
    "--split",
    metavar="NAME=SHARE,...",
    default=None,
    callback=_shares,
    help="Split into separate sets, e.g. train=0.9,val=0.1.",
)
@click.option(
    "--group-by",
    metavar="REGEX|column:NAME",
    default=None,
    help="Files with the same match stay in one part (matches none: exit 2).",
)
@click.option(
    "--task", metavar="NAME", default=None, help="RAW is the release of a published benchmark: bridle eval --list."
)
@options.max_missing
@options.seed
@options.dry_run
@options.overwrite
@click.option("--resume", is_flag=True, help="Go on after an interruption, or add files that came since.")
@options.shared
@click.pass_obj
def command(
    console: Console,
    raw: str | Path,
    modality: str | None,
    out: str | Path | None,
    name: str | None,
    labels: str,
    path_column: str | None,
    label_column: str | None,
    group_column: str | None,
    workers: int | None,
    engine: Literal["local", "ray"],
    max_size: int,
    transcode: bool,
    check: Literal["full", "header"],
    dedup: bool,
    sound_tracks: bool,
    channel: int | None,
    pixel_range: tuple[float, float] | None,
    split: dict[str, float] | None,
    group_by: str | None,
    task: str | None,
    max_missing: float,
    seed: int | None,
    dry_run: bool,
    overwrite: bool,
    resume: bool,
) -> None:
    """Turn the media below the folder RAW into WebDataset tars and a manifest.

    Files that cannot be decoded are listed and skipped.

    \b
    Examples:
      bridle shard recordings/ --modality audio
      bridle shard photos/ --labels folder --out shards/photos
      bridle shard clips/ --labels classes.csv --max-size 1GB --workers 8
      bridle shard scans/ --labels cases.csv --group-column patient
      bridle shard recordings/ --split train=0.9,val=0.1 --group-by '^([^_]+)_'
      bridle shard kinetics/ --task k400
      bridle shard recordings/ --resume
      bridle shard s3://bucket/recordings --out s3://bucket/shards/recordings
      bridle shard /shared/recordings --engine ray
      bridle shard info shards/recordings
      bridle shard verify shards/recordings
    """
    with Progress(console) as progress, _told_how_to_go_on(progress, console):
        result = api.shard(
            raw,
            modality=modality,
            out=out,
            name=name,
            labels=None if labels == "none" else labels,
            path_column=path_column,
            label_column=label_column,
            group_column=group_column,
            workers=workers,
            engine=engine,
            max_size_bytes=max_size,
            transcode=transcode,
            check=check,
            dedup=dedup,
            sound_tracks=sound_tracks,
            channel=channel,
            pixel_range=pixel_range,
            split=split,
            group_by=group_by,
            task=task,
            max_missing=max_missing,
            seed=seed or 0,
            dry_run=dry_run,
            overwrite=overwrite,
            resume=resume,
            on_event=progress,
        )
    rejects = result["rejects"]
    shown = len(rejects) if console.verbose else _SHOWN_REJECTS
    for reject in rejects[:shown]:
        console.warn(f"skipped {reject['file']}: {reject['reason']}")
    if len(rejects) > shown:
        console.warn(f"... and {len(rejects) - shown} more; all are listed in {result['out']}/manifest.json")
    if result["unmatched"]:
        console.warn(f"{result['unmatched']} rows of {labels} label no file that was found")
    for note in result["notes"]:
        console.warn(note)
    if result["absent"] and result["absent"] + result["added"] == result["samples"]:
        console.warn(
            f"none of the {result['absent']} files that were in the set is below {raw}: if this is another folder, its "
            "files were taken for theirs wherever the paths are the same"
        )
    if result["ungrouped"]:
        by = (
            "have no group in the table"
            if group_column or (group_by or "").startswith("column:")
            else "do not match --group-by"
        )
        console.warn(f"{result['ungrouped']} files {by}: each of them is a group of its own")
    if result["duplicates"] > result["dropped"]:
        files = "1 file has" if result["duplicates"] == 1 else f"{result['duplicates']} files have"
        console.warn(f"{files} the same bytes as another; --dedup leaves them out")
    for notice in result["notices"]:
        console.warn(notice)
    if console.json:
        console.record(result)
    else:
        told = {
            key: value
            for key, value in result.items()
            if key not in ("rejects", "unmatched", "notes", "ungrouped", "absent", "splits", "notices")
        }
        console.result(told | {"labels": len(result["labels"])} | _by_part(result))


@contextlib.contextmanager
def _told_how_to_go_on(progress: Progress, console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if progress.done:
            console.warn("the same command with --resume goes on from the tars that are complete, if there are any")
        raise


def _by_part(result: dict[str, Any]) -> dict[str, Any]:
    return {part: f"{one['samples']} samples" for part, one in result.get("splits", {}).items()}


@click.command()
@click.argument("shards", type=options.LOCATION)
@options.shared
@click.pass_obj
def info(console: Console, shards: str | Path) -> None:
    """Show what the sets of shards at or below SHARDS hold.

    \b
    Examples:
      bridle shard info shards/recordings
      bridle shard info shards/ --json
    """
    for found in api.shard_info(shards):
        for notice in found["notices"]:
            console.warn(f"{found['name']}: {notice}")
        if console.json:
            console.record(found)
        else:
            labels = list(found["labels"].items())
            most = len(labels) if console.verbose else _SHOWN_LABELS
            shown = ", ".join(f"{label} {count}" for label, count in labels[:most])
            more = f", ... {len(labels)} in all" if len(labels) > most else ""
            console.result(found | {"labels": shown + more or "none"}, hide=["notices"])


@click.command()
@click.argument("shards", type=options.LOCATION)
@click.option("--decode", type=click.IntRange(min=0), default=100, show_default=True, help="Samples to decode.")
@options.workers
@options.shared
@click.pass_obj
def verify(console: Console, shards: str | Path, decode: int, workers: int | None) -> None:
    """Read every byte of the sets at or below SHARDS: hashes, counts, index, and a sample of decodes.

    Exit code 4 and the name of what was altered, if anything was.

    \b
    Examples:
      bridle shard verify shards/recordings
      bridle shard verify shards/recordings --decode 100000
    """
    with Progress(console) as progress:
        found = api.shard_verify(shards, decode=decode, workers=workers, on_event=progress)
    for one in found:
        (console.record if console.json else console.result)(one)
