"""`bridle report`: a run as a page to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from bridle import api
from bridle.api.options import Report
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress


@click.command(name="report", cls=options.Command)
@click.argument("run", type=options.PATH)
@options.takes(Report)
@options.shared
@click.pass_obj
def command(console: Console, chosen: Report, run: Path) -> None:
    """Write an HTML report on a run.

    One self-contained file: training curves, codebooks, a map of clips, clips with codes and neighbours, results and
    system facts.

    \b
    Examples:
      bridle report runs/recordings-audio-tiny
      bridle report runs/photos-image-tiny --data shards/photos --clips 24 --out photos.html --overwrite
    """
    with Progress(console) as progress:
        result = api.report(run, **vars(replace(chosen, on_event=progress)))
    console.result(result)
