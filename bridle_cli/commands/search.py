"""`bridle search`: which files are like this one?"""

from __future__ import annotations

from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console


@click.command(name="search")
@click.argument("queries", metavar="FILE...", nargs=-1, required=True, type=options.PATH)
@click.option("--index", type=options.PATH, required=True, help="What `bridle embed` wrote.")
@options.trained
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Files shown for each query.")
@click.option("--open", "shown", type=click.IntRange(min=0), default=0, help="Open as many of them, the nearest first.")
@options.device
@options.shared
@click.pass_obj
def command(
    console: Console,
    queries: tuple[Path, ...],
    index: Path,
    checkpoint: str | None,
    top: int,
    shown: int,
    device: str,
) -> None:
    """The files of an index that are most like each FILE, by cosine of their vectors.

    Needs the model that made the index. Of an index with --per step or patch the best place in each file is given in
    seconds; a FILE stands for its mean.

    \b
    Examples:
      bridle search call.wav --index vectors.npz
      bridle search call.wav --index moments.parquet --top 3 --json
      bridle search photo.jpg --index vectors.npz --open 3
    """
    found = api.search(queries, index, checkpoint=checkpoint, top=top, device=device)
    for one in found:
        if console.json:
            console.record(one)
            continue
        rows = [
            (place, hit["similarity"], hit["start_s"], hit["path"] or hit["file"])
            for place, hit in enumerate(one["hits"], 1)
        ]
        console.table(("", "similarity", "from, s", "file"), rows, title=one["query"] if len(found) > 1 else None)
    for hit in [hit for one in found for hit in one["hits"][:shown]]:
        if hit["path"] is None:
            console.warn(f"{hit['file']} is not on this disk as a file of its own")
        elif click.launch(hit["path"]):
            console.warn(f"{hit['path']} could not be opened: this system knows no program for it")
