"""`bridle export`: a run becomes files that others can load."""

from __future__ import annotations

from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console


@click.command(name="export")
@click.argument("run", type=options.PATH)
@click.option("--format", "format_", type=click.Choice(["safetensors"]), required=True, help="What to write.")
@options.out("Folder for the files.", required=True)
@options.overwrite
@options.shared
@click.pass_obj
def command(console: Console, run: Path, format_: str, out: Path, overwrite: bool) -> None:
    """Write weights, configuration and preprocessing of RUN to a folder, and check that they load back equal.

    \b
    Examples:
      bridle export runs/recordings-audio-tiny --format safetensors --out encoder/
      bridle export runs/photos-image-tiny --format safetensors --out encoder/ --overwrite --json
    """
    console.result(api.export(run, format=format_, out=out, overwrite=overwrite))
