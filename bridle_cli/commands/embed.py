"""`bridle embed`: media become vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from bridle import api
from bridle_cli import options, parts
from bridle_cli.console import Console


@click.command(name="embed")
@click.argument("inputs", metavar="FILE|DIR|SHARDS...", nargs=-1, required=True, type=options.LOCATION)
@options.trained
@options.out("Write the vectors to this .npz, .safetensors or .parquet file.", required=True, kind=options.LOCATION)
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
@parts.shared
@options.shared
@click.pass_obj
def command(
    console: Console,
    inputs: tuple[Path, ...],
    checkpoint: str | None,
    out: str | Path,
    per: Literal["file", "step", "patch"],
    pool: Literal["mean", "segments", "class"],
    dtype: str,
    workers: int | None,
    device: str,
    devices: int,
    restarted: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Turn files, folders or shards into vectors, for classifiers, clustering, maps and `bridle search`.

    The file names the model that made them. With --per step a long recording can be searched for moments. Works in
    parts: interrupted, it goes on with --resume and ends with the same bytes.

    \b
    Examples:
      bridle embed recordings/ --checkpoint runs/recordings-audio-tiny --out vectors.npz
      bridle embed shards/photos --out vectors.safetensors --dtype fp16
      bridle embed recordings/ --per step --out moments.parquet
      bridle embed s3://media/raw --out vectors.npz --devices 8
      bridle embed recordings/ --out vectors.npz --resume
    """
    how: dict[str, Any] = {"checkpoint": checkpoint, "per": per, "pool": pool, "half": dtype == "fp16"}
    write = partial(api.embed, inputs, out, workers=workers, device=device, overwrite=overwrite, **how)
    parts.run(console, devices, resume or restarted, write)
