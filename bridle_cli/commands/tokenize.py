"""`bridle tokenize`: media become discrete codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN_CODES = 16


@click.command(name="tokenize")
@click.argument("inputs", metavar="FILE|DIR|SHARDS...", nargs=-1, required=True, type=options.LOCATION)
@options.checkpoint
@options.out("Write the codes to this .npz or .safetensors file instead of printing them.")
@options.workers
@options.engine
@options.device
@options.overwrite
@options.shared
@click.pass_obj
def command(
    console: Console,
    inputs: tuple[Path, ...],
    checkpoint: str | None,
    out: Path | None,
    workers: int | None,
    engine: Literal["local", "ray"],
    device: str,
    overwrite: bool,
) -> None:
    """Turn files, folders or shards of any length into codes: levels x grid (time, rows, columns).

    Prints a table, or with --json one object a file and line; long audio and video go through in windows.

    \b
    Examples:
      bridle tokenize clip.wav
      bridle tokenize recordings/ --checkpoint runs/recordings-audio-tiny --out codes.npz
      bridle tokenize shards/photos --out codes.safetensors
      bridle tokenize clip.mp4 --json
      bridle tokenize /shared/recordings --engine ray --out codes.npz
    """
    with Progress(console) as progress:
        if out is not None:
            result = api.write_codes(
                inputs,
                out,
                checkpoint=checkpoint,
                device=device,
                workers=workers or 0,
                engine=engine,
                overwrite=overwrite,
                on_event=progress,
            )
            console.result(result)
            return
        rows = []
        for record in api.tokenize(
            inputs, checkpoint=checkpoint, device=device, workers=workers or 0, engine=engine, on_event=progress
        ):
            if console.json:
                console.record(record)
            else:
                rows += _rows(record)
    if not console.json:
        console.table(["file", "grid", "level", "codes"], rows)


def _rows(record: dict[str, Any]) -> list[list[Any]]:
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
