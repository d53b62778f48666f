"""`bridle embed`: media become vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from bridle import api
from bridle.api.options import Embed
from bridle_cli import options, parts
from bridle_cli.console import Console


@click.command(name="embed", cls=options.Command)
@click.argument("inputs", metavar="FILE|DIR|SHARDS...", nargs=-1, required=True, type=options.LOCATION)
@options.option(
    "--out", type=options.LOCATION, required=True, help="The file to write: .npz, .safetensors or .parquet."
)
@options.takes(Embed)
@options.devices
@options.restarted
@options.shared
@click.pass_obj
def command(
    console: Console, chosen: Embed, inputs: tuple[str | Path, ...], out: str | Path, devices: int, restarted: bool
) -> None:
    """Turn media into embeddings.

    For classifiers, clustering, maps and `bridle search`. --per step makes positions in long recordings searchable.

    An interrupted command continues with --resume and writes the same bytes.

    \b
    Examples:
      bridle embed recordings/ --checkpoint runs/recordings-audio-tiny --out vectors.npz
      bridle embed shards/photos --out vectors.safetensors --dtype fp16
      bridle embed recordings/ --per step --out moments.parquet
      bridle embed s3://media/raw --out vectors.npz --devices 8
      bridle embed recordings/ --out vectors.npz --resume
    """
    work = partial(api.embed, inputs, out, **vars(chosen))
    parts.run(console, devices, chosen.resume or restarted, work)
