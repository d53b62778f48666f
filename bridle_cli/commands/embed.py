"""`bridle embed`: media become vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress


@click.command(name="embed")
@click.argument("inputs", metavar="FILE|DIR|SHARDS...", nargs=-1, required=True, type=options.LOCATION)
@options.checkpoint
@options.out("Write the vectors to this .npz, .safetensors or .parquet file.", required=True)
@click.option(
    "--per",
    type=click.Choice(["file", "step", "patch"]),
    default="file",
    show_default=True,
    help="What gets a vector: a file, a step of its time, or a patch.",
)
@click.option(
    "--pool",
    type=click.Choice(["mean", "segments", "class"]),
    default="mean",
    show_default=True,
    help="How a file becomes one: its mean, means of its parts side by side, or the class token.",
)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="How numbers are stored.",
)
@options.workers
@options.device
@options.overwrite
@options.shared
@click.pass_obj
def command(
    console: Console,
    inputs: tuple[Path, ...],
    checkpoint: str | None,
    out: Path,
    per: Literal["file", "step", "patch"],
    pool: Literal["mean", "segments", "class"],
    dtype: str,
    workers: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Turn files, folders or shards into vectors, for classifiers, clustering, maps and `bridle search`.

    The file names the model that made them. With --per step a long recording can be searched for moments.

    \b
    Examples:
      bridle embed recordings/ --checkpoint runs/recordings-audio-tiny --out vectors.npz
      bridle embed shards/photos --out vectors.safetensors --dtype fp16
      bridle embed recordings/ --per step --out moments.parquet
      bridle embed s3://media/raw --out vectors.npz --workers 4
    """
    with Progress(console) as progress:
        result = api.embed(
            inputs,
            out,
            checkpoint=checkpoint,
            per=per,
            pool=pool,
            half=dtype == "fp16",
            workers=workers or 0,
            device=device,
            overwrite=overwrite,
            on_event=progress,
        )
    console.result(result)
