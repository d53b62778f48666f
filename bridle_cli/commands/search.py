"""`bridle search`: which files are like this one?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from bridle import api
from bridle.api.options import Search
from bridle_cli import options
from bridle_cli.console import Console

_FAILS_WITHIN_S = 2.0  # an opener that still runs then has found a program


@click.command(name="search", cls=options.Command)
@click.argument("queries", metavar="FILE...", nargs=-1, required=True, type=options.PATH)
@options.option("--index", type=options.PATH, required=True, help="File or folder written by `bridle embed`.")
@options.takes(Search)
@options.option("--open", "shown", type=click.IntRange(min=0), default=0, help="Open the N nearest files.")
@options.shared
@click.pass_obj
def command(console: Console, chosen: Search, queries: tuple[Path, ...], index: Path, shown: int) -> None:
    """Find the files most similar to a given one.

    Ranks the files of an index by cosine similarity to each FILE, with the model that made the index.

    For an index made with --per step or patch, shows the best position in each file in seconds; each FILE is
    represented by its mean.

    \b
    Examples:
      bridle search call.wav --index vectors.npz
      bridle search call.wav --index moments.parquet --top 3 --json
      bridle search photo.jpg --index vectors.npz --open 3
    """
    found = api.search(queries, index, **vars(chosen))
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
            console.warn(f"{hit['file']} is not a separate file on this disk")
            continue
        path = os.path.abspath(hit["path"])  # an index may name one that reads as an option
        console.note(f"opens {path}")
        if why := _open(path):
            console.warn(f"{path} could not be opened: {why}")


def _open(path: str) -> str:
    """With the program that this system has for it, which is left running; why that failed, or ""."""
    if sys.platform == "win32":
        try:
            os.startfile(path)
        except OSError as error:
            return str(error.strerror or error)
        return ""
    opener, null = "open" if sys.platform == "darwin" else "xdg-open", subprocess.DEVNULL
    theirs = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # ours, see `main`
    try:
        process = subprocess.Popen(
            [opener, path], env=theirs, stdin=null, stdout=null, stderr=null, start_new_session=True
        )
        code = process.wait(_FAILS_WITHIN_S)
    except subprocess.TimeoutExpired:
        return ""
    except OSError as error:
        return f"{opener}: {error.strerror}"
    return f"{opener} found no program for it, or it failed (exit code {code})" if code else ""
