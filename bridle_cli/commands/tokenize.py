"""`bridle tokenize`: media become discrete codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.api.options import WriteCodes
from bridle.api.results import FileCodes
from bridle.errors import UsageError
from bridle_cli import options, parts
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN_CODES = 16


@click.command(name="tokenize", cls=options.Command)
@click.argument("inputs", metavar="FILE|DIR|SHARDS...", nargs=-1, required=True, type=options.LOCATION)
@options.option(
    "--out",
    type=options.LOCATION,
    default=None,
    help="Write the codes instead of printing them: NAME.codes, .parquet, .npz or .safetensors. Without a "
    "suffix: a folder with a copy of the shards and the codes beside their media.",
)
@options.takes(WriteCodes)
@options.devices
@options.restarted
@options.shared
@click.pass_obj
def command(
    console: Console,
    chosen: WriteCodes,
    inputs: tuple[str | Path, ...],
    out: str | Path | None,
    devices: int,
    restarted: bool,
) -> None:
    """Turn media into discrete codes.

    Codes have the shape levels x grid (time, rows, columns). Long audio and video are processed in windows.

    Prints a table, or with --json one object per file and line. With --out an interrupted command continues with
    --resume and writes the same bytes. Formats: docs/codes.md.

    \b
    Examples:
      bridle tokenize clip.wav
      bridle tokenize recordings/ --checkpoint runs/recordings-audio-tiny --out recordings.codes
      bridle tokenize shards/photos --out photos.parquet --levels 2
      bridle tokenize shards/photos --out with-codes/photos
      bridle tokenize s3://media/raw --out raw.codes --devices 8
      bridle tokenize recordings/ --out recordings.codes --resume
      bridle tokenize clip.mp4 --json
      bridle tokenize /shared/recordings --engine ray --out codes.npz
    """
    if out is None and (chosen.resume or chosen.overwrite or parts.several(devices)):
        what = "--resume" if chosen.resume else "--overwrite" if chosen.overwrite else "--devices"
        raise UsageError(f"{what} is for codes that are written, not printed.", "Name a file with --out.")
    if chosen.engine == "ray" and parts.several(devices):
        raise UsageError("--engine ray distributes the work itself.", "Leave out --devices or torchrun.")
    if out is not None:
        work = partial(api.write_codes, inputs, out, **vars(chosen))
        parts.run(console, devices, chosen.resume or restarted, work)
        return
    printed = {**vars(chosen), "workers": chosen.workers or 0}
    del printed["resume"], printed["overwrite"], printed["on_event"]
    rows = []
    with Progress(console) as progress:
        for record in api.tokenize(inputs, **printed, on_event=progress):
            if console.json:
                console.record(record)
            else:
                rows += _rows(record)
    if not console.json:
        console.table(["file", "grid", "level", "codes"], rows)


def _rows(record: FileCodes) -> list[list[Any]]:
    """One row a level with the first codes; the file is named once."""
    rows: list[list[Any]] = []
    for level, codes in enumerate(record["codes"], start=1):
        flat = _flat(codes)
        more = " ..." if len(flat) > _SHOWN_CODES else ""
        grid = "x".join(map(str, record["grid"]))
        first = level == 1
        rows.append(
            [
                record["file"] if first else "",
                grid if first else "",
                level,
                " ".join(map(str, flat[:_SHOWN_CODES])) + more,
            ]
        )
    return rows


def _flat(codes: Any) -> list[int]:
    """Nested lists -> one list, in reading order."""
    return [code for item in codes for code in _flat(item)] if isinstance(codes, list) else [codes]
