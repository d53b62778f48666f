"""`bridle report`: a run as a page to look at."""

from __future__ import annotations

from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress


@click.command(name="report")
@click.argument("run", type=options.PATH)
@click.option(
    "--data",
    type=options.LOCATION,
    default=None,
    help="A folder of media, or shards.  [default: what the run was trained on]",
)
@options.out("The file to write.  [default: RUN/report.html]")
@click.option(
    "--clips",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="Clips to show with code maps and nearest neighbours.",
)
@options.overwrite
@options.device
@options.shared
@click.pass_obj
def command(
    console: Console, run: Path, data: Path | None, out: Path | None, clips: int, overwrite: bool, device: str
) -> None:
    """Write one HTML file about RUN: curves, codebooks, a map of clips, clips with their codes and neighbours, results,
    system facts. It needs no network and no other file.

    \b
    Examples:
      bridle report runs/recordings-audio-tiny
      bridle report runs/photos-image-tiny --data shards/photos --clips 24 --out photos.html --overwrite
    """
    with Progress(console) as progress:
        result = api.report(run, data=data, out=out, clips=clips, device=device, overwrite=overwrite, on_event=progress)
    console.result(result)
