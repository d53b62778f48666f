"""`bridle shard`: a folder of media becomes tar shards."""

from __future__ import annotations

from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN_REJECTS = 20


@click.command(name="shard")
@click.argument("raw", type=options.PATH)
@options.modality
@options.out("Folder of the shards; default: shards/NAME.")
@click.option("--name", default=None, help="Name of the set; default: the folder's name.")
@click.option(
    "--labels",
    metavar="folder|FILE.csv|none",
    default="folder",
    show_default=True,
    help="Class of each file: the folder it lies in, or a CSV with the columns path,label.",
)
@options.workers
@options.max_size
@click.option("--transcode", is_flag=True, help="Store small FLAC, JPEG or H.264 instead of the bytes as they are.")
@options.seed
@options.dry_run
@options.overwrite
@options.shared
@click.pass_obj
def command(
    console: Console,
    raw: Path,
    modality: str | None,
    out: Path | None,
    name: str | None,
    labels: str,
    workers: int | None,
    max_size: int,
    transcode: bool,
    seed: int | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Turn the media below the folder RAW into WebDataset tars and a manifest.

    Files that cannot be decoded are listed and skipped.

    \b
    Examples:
      bridle shard recordings/ --modality audio
      bridle shard photos/ --labels folder --out shards/photos
      bridle shard clips/ --labels classes.csv --max-size 1GB --workers 8
      bridle shard recordings/ --dry-run
    """
    with Progress(console) as progress:
        result = api.shard(
            raw,
            modality=modality,
            out=out,
            name=name,
            labels=None if labels == "none" else labels,
            workers=workers,
            max_size_bytes=max_size,
            transcode=transcode,
            seed=seed or 0,
            dry_run=dry_run,
            overwrite=overwrite,
            on_event=progress,
        )
    rejects = result["rejects"]
    for reject in rejects[:_SHOWN_REJECTS]:
        console.warn(f"skipped {reject['file']}: {reject['reason']}")
    if len(rejects) > _SHOWN_REJECTS:
        console.warn(f"... and {len(rejects) - _SHOWN_REJECTS} more; all are listed in {result['out']}/manifest.json")
    if result["unmatched"]:
        console.warn(f"{result['unmatched']} rows of {labels} name no file that was found")
    if console.json:
        console.record(result)
    else:
        shown = {key: value for key, value in result.items() if key not in ("rejects", "unmatched", "transcoded")}
        console.result(shown | {"labels": len(result["labels"])})
