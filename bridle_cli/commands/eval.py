"""`bridle eval`: how much the frozen features and the codes are worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.api.options import Evaluate
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN = (
    "task", "checkpoint", "protocol", "pool", "metric", "value", "ci95", "metrics", "per_seed", "sequence", "chance",
    "n_train", "n_test", "folds", "missing", "seed",
)  # fmt: skip


def _list(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """All tasks, instead of a run."""
    if not value or context.resilient_parsing:  # the latter: a shell asks for completions
        return
    console = context.find_object(Console)
    assert console is not None
    found = api.tasks()
    if console.json:
        for one in found:
            console.record(one)
    else:
        columns = ("task", "what", "modality", "classes", "metric", "train", "test", "published")
        rows = [
            (
                one["name"],
                one["title"],
                one["modality"],
                one["classes"],
                "mAP" if one["metric"] == "map" else one["metric"],
                sum(one["clips"].get(part, 0) for part in one["train"]),
                f"{len(one['test'])} folds" if one["folds"] else sum(one["clips"].get(part, 0) for part in one["test"]),
                one["published"],
            )
            for one in found
        ]
        console.table(columns, rows)
        for one in found:
            console.text(f"\n{one['name']}: {one['get']}\n{one['layout']}\n")
        console.note("bridle eval --task NAME without data lists the files it expects and where to get them.")
    context.exit()


@click.command(name="eval", cls=options.Command)
@options.option(
    "--data",
    type=options.LOCATION,
    default=None,
    help="A folder CLASS/file, shards, or a task's release (default: $BRIDLE_DATA/TASK, data/TASK).",
)
@options.takes(Evaluate)
@options.option(
    "--list", is_flag=True, expose_value=False, callback=_list, help="Print the published benchmarks and their layouts."
)
@options.recipe
@options.shared
@click.pass_obj
def command(console: Console, chosen: Evaluate, data: str | Path | None, recipe: api.Recipe) -> None:
    """Evaluate features and codes with labels, or fine-tune.

    Prints results with 95 % intervals. Folders or sets named train and test (or val) are used as the splits. Otherwise
    the default is cross-validation.

    \b
    Examples:
      bridle eval --list
      bridle eval --task k400 --data kinetics/ --protocol attentive
      bridle eval --data shards/digits --protocol linear --pool segments
      bridle eval --data digits/ --group-by '_([a-z]+)_' --folds 6
      bridle eval --data shards/digits --test-share 0.2 --protocol finetune --set finetune.epochs=10 --out tuned/
      bridle eval --data others/ --protocol head --checkpoint tuned/
      bridle eval --data digits/ --checkpoint random --preset audio-tiny
      bridle eval --data shards/digits --protocol codebook --json
    """
    with Progress(console) as progress:
        result = api.evaluate(data, **vars(replace(chosen, recipe=recipe, on_event=progress)))
    if console.json:
        console.record(result)
        return
    every: dict[str, Any] = {**result}
    console.result({key: every[key] for key in _SHOWN if every.get(key) not in (None, {}, [])})
    if result["skipped"]:
        console.note(f"files that could not be read: {len(result['skipped'])}; --verbose and --json list them")
        for one in result["skipped"]:
            console.detail(f"skipped {one['file']}: {one['reason']}")
    if "per_level" in result:
        levels = result["per_level"]
        console.table(list(levels[0]), [list(level.values()) for level in levels])
