"""`bridle shard`: a folder of media becomes tar shards; `info` and `verify` look at them afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.api.options import Shard, Verify
from bridle.api.results import ShardResult
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN_REJECTS = 20
_SHOWN_LABELS = 30


class _Shard(options.Command):
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


@click.command(name="shard", cls=_Shard)
@click.argument("raw", type=options.LOCATION)
@options.takes(Shard)
@options.shared
@click.pass_obj
def command(console: Console, chosen: Shard, raw: str | Path) -> None:
    """Turn a folder of media into tar shards.

    Reads all audio, image or video files below RAW and writes WebDataset tars and a manifest. Files that cannot be
    decoded are skipped and listed.

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
    with Progress(console) as progress, _hint_of_resume(progress, console):
        result = api.shard(raw, **vars(replace(chosen, on_event=progress)))
    rejects = result["rejects"]
    shown = len(rejects) if console.verbose else _SHOWN_REJECTS
    for reject in rejects[:shown]:
        console.warn(f"skipped {reject['file']}: {reject['reason']}")
    if len(rejects) > shown:
        console.warn(f"... and {len(rejects) - shown} more; all are listed in {result['out']}/manifest.json")
    if result["unmatched"]:
        console.warn(f"{result['unmatched']} rows of {chosen.labels} match no file")
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
            if chosen.group_column or (chosen.group_by or "").startswith("column:")
            else "do not match --group-by"
        )
        console.warn(f"{result['ungrouped']} files {by}: each of them is its own group")
    if result["duplicates"] > result["dropped"]:
        files = "1 file has" if result["duplicates"] == 1 else f"{result['duplicates']} files have"
        console.warn(f"{files} the same bytes as another; --dedup leaves them out")
    for notice in result["notices"]:
        console.warn(notice)
    if console.json:
        console.record(result)
    else:
        summary = {
            key: value
            for key, value in result.items()
            if key not in ("rejects", "unmatched", "notes", "ungrouped", "absent", "splits", "notices")
        }
        console.result(summary | {"labels": len(result["labels"])} | _by_part(result))


@contextlib.contextmanager
def _hint_of_resume(progress: Progress, console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if progress.done:
            console.warn("the same command with --resume continues after the complete tars")
        raise


def _by_part(result: ShardResult) -> dict[str, Any]:
    return {part: f"{one['samples']} samples" for part, one in result.get("splits", {}).items()}


@click.command(cls=options.Command)
@click.argument("shards", type=options.LOCATION)
@options.shared
@click.pass_obj
def info(console: Console, shards: str | Path) -> None:
    """Show the contents of the sets of shards at or below SHARDS.

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


@click.command(cls=options.Command)
@click.argument("shards", type=options.LOCATION)
@options.takes(Verify)
@options.shared
@click.pass_obj
def verify(console: Console, chosen: Verify, shards: str | Path) -> None:
    """Verify sets of shards: hashes, counts, index, and a sample of decodes.

    Ends with exit code 4 and the name of the first file that was changed.

    \b
    Examples:
      bridle shard verify shards/recordings
      bridle shard verify shards/recordings --decode 100000
    """
    with Progress(console) as progress:
        found = api.shard_verify(shards, **vars(replace(chosen, on_event=progress)))
    for one in found:
        (console.record if console.json else console.result)(one)
