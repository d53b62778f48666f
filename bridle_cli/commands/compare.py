"""`bridle compare`: the results of several runs side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.api.options import Compare
from bridle.api.results import Question
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_MORE = ("labels", "test_share", "split_file", "views")  # what else tells questions apart


@click.command(name="compare", cls=options.Command)
@click.argument("runs", metavar="RUN RUN...", type=options.PATH, nargs=-1)
@options.takes(Compare)
@options.shared
@click.pass_obj
def command(console: Console, chosen: Compare, runs: tuple[Path, ...]) -> None:
    """Compare the results of several runs.

    Compares each RUN with the first: runs, or folders written by bridle eval --out. Prints one table for each
    evaluation (task, data, protocol, pooling, folds) that they share, with the newest result of each.

    Differences are over the clips that both were tested on, with a bootstrap interval. Marks: + better, - worse,
    = no significant difference.

    \b
    Examples:
      bridle compare runs/a runs/b
      bridle eval --data shards/digits --checkpoint random --preset audio-tiny --out runs/untrained
      bridle compare runs/untrained runs/a runs/b --protocol linear
      bridle compare runs/a runs/b --json
    """
    with Progress(console) as progress:
        found = api.compare(runs, **vars(replace(chosen, on_event=progress)))
    for question in found:
        if console.json:
            console.record(question)
        else:
            _show(console, question)
    if not console.json and any(row["mark"] for question in found for row in question["rows"]):
        console.note(
            f"mark: + better than {runs[0]}, - worse, = no significant difference (its interval contains 0). Intervals "
            "are over clips, not training seeds. With more runs those of the differences are wider, to correct for "
            "multiple comparisons."
        )


def _show(console: Console, question: Question) -> None:
    rows = [
        (
            row["run"],
            f"{100 * row['value']:.1f}",
            _interval(row["ci95"]),
            None if row["difference"] is None else f"{100 * row['difference']:+.1f}",
            _interval(row["difference_ci"], "+"),
            row["mark"] or "",  # `-` is a mark
        )
        for row in question["rows"]
    ]
    its = f"its {100 * question['confidence']:.4g} % interval"
    columns = ("run", "value %", "95 % interval", "difference", its, "mark")
    console.table(columns, rows, title=_title({**question}))
    for row in question["rows"]:
        if row["note"]:
            console.note(f"{row['run']}: {row['note']}")


def _title(question: dict[str, Any]) -> str:
    words = [question[key] for key in ("task", "protocol", "pool") if question[key]]
    metric = "mAP" if question["metric"] == "map" else question["metric"]
    folds = f", {question['folds']} folds" if (question["folds"] or 1) != 1 else ""
    more = "".join(f", {name.replace('_', ' ')} {question[name]}" for name in _MORE if question.get(name))
    groups = f" grouped by {question['group_by']}" if question["group_by"] else ""
    return f"{' / '.join(words)} / {metric}: {question['clips']} clips of {question['data']}{folds}{groups}{more}"


def _interval(ends: list[float] | None, sign: str = "") -> str | None:
    return f"{100 * ends[0]:{sign}.1f} to {100 * ends[1]:{sign}.1f}" if ends else None
