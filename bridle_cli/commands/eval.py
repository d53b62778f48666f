"""`bridle eval`: how much the frozen features and the codes are worth."""

from __future__ import annotations

import re
from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN = (
    "task", "checkpoint", "protocol", "pool", "metric", "value", "ci95", "metrics", "per_seed", "sequence", "chance",
    "n_train", "n_test", "folds", "missing", "seed",
)  # fmt: skip


def _views(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`5x3` -> (5, 3)."""
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", value)
    if not match:
        raise click.BadParameter(f"'{value}' is not something like 5x3.", context, parameter)
    return int(match[1]), int(match[2])


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
        console.note("bridle eval --task NAME without data says which files are wanted, and where they are to be had.")
    context.exit()


@click.command(name="eval")
@options.task
@click.option(
    "--list", is_flag=True, expose_value=False, callback=_list, help="Print the published benchmarks and their layouts."
)
@click.option(
    "--data",
    type=options.LOCATION,
    default=None,
    help="A folder CLASS/file, shards, or a task's release; default: $BRIDLE_DATA/TASK, data/TASK.",
)
@click.option(
    "--protocol",
    type=click.Choice(["knn", "linear", "attentive", "finetune", "head", "codes", "codebook"]),
    default="knn",
    show_default=True,
    help="Nearest neighbours, a linear layer, an attentive probe, on the frozen encoder; finetune trains it, "
    "too; head: a fine-tuned one; codes: probe the tokens; codebook: usage statistics.",
)
@click.option(
    "--pool",
    type=click.Choice(["mean", "segments", "class", "attentive"]),
    default=None,
    help="How patches become one vector: their mean, means of a coarse grid, the class token, or (linear) as the "
    "attentive probe does.  [default: mean]",
)
@click.option(
    "--folds", type=click.IntRange(min=2), default=None, help="Cross-validation.  [default: 5, without parts]"
)
@click.option(
    "--test-share",
    type=options.Between(0, 1, min_open=True, max_open=True),
    default=None,
    help="Single split with this test fraction instead of folds.",
)
@click.option(
    "--labels",
    metavar="folder|sidecar|TABLE",
    default=None,
    help="Where the labels of media in a folder are: the folder of each, a JSON beside it, a CSV, TSV or JSONL.  "
    "[default: folder]",
)
@click.option("--split-file", type=options.PATH, default=None, help="CSV with path,part: train and test (or val).")
@click.option(
    "--group-by",
    metavar="REGEX",
    default=None,
    help="Files whose names agree in the first group stay on one side: '_([a-z]+)_' for DIGIT_SPEAKER_TAKE.wav.",
)
@click.option(
    "--views",
    metavar="CLIPSxCROPS",
    default=None,
    callback=_views,
    help="Test averages over 5 clips in time, 3 crops of each: 5x3.  [default: the task's, else all of the file]",
)
@click.option(
    "--finetune", metavar="NAME|FILE", default=None, help="Recipe of --protocol finetune.  [default: the task's]"
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Number of seeds; reports the mean.")
@options.out(
    "A folder that keeps the result, as the checkpoint's run does; fine-tuning also leaves its classifier there."
)
@options.overwrite
@options.max_missing
@options.checkpoint
@options.modality
@options.preset
@options.config_file
@options.sets
@options.seed
@options.device
@click.option("--workers", type=click.IntRange(min=0), default=None, help="Threads that decode ahead.")
@options.shared
@click.pass_obj
def command(
    console: Console,
    task: str,
    data: Path | None,
    labels: str | None,
    protocol: str,
    pool: str | None,
    folds: int | None,
    test_share: float | None,
    split_file: Path | None,
    group_by: str | None,
    seeds: int,
    views: tuple[int, int] | None,
    finetune: str | None,
    out: Path | None,
    overwrite: bool,
    max_missing: float,
    checkpoint: str | None,
    modality: str | None,
    preset: str | None,
    config_file: Path | None,
    sets: tuple[str, ...],
    seed: int | None,
    device: str,
    workers: int | None,
) -> None:
    """Judge the encoder by a small classifier, with a 95 % interval, or the codes and codebooks; or fine-tune it.

    Without a word on how to split, train/ and test/ (or val/), folders or sets, are what they are called; else the
    files are divided into folds.

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
        result = api.evaluate(
            data,
            task=task,
            labels=labels,
            protocol=protocol,
            pool=pool,
            folds=folds,
            test_share=test_share,
            split_file=split_file,
            group_by=group_by,
            checkpoint=checkpoint,
            recipe=api.Recipe(modality, preset, config_file, sets),
            seed=seed or 0,
            seeds=seeds,
            max_missing=max_missing,
            workers=workers or 0,
            device=device,
            views=views,
            finetune=finetune,
            out=out,
            overwrite=overwrite,
            on_event=progress,
        )
    if console.json:
        console.record(result)
        return
    console.result({key: result[key] for key in _SHOWN if result.get(key) not in (None, {}, [])})
    if result["skipped"]:
        console.note(f"files that could not be read: {len(result['skipped'])}; --verbose and --json list them")
        for one in result["skipped"]:
            console.detail(f"skipped {one['file']}: {one['reason']}")
    if "per_level" in result:
        levels = result["per_level"]
        console.table(list(levels[0]), [list(level.values()) for level in levels])
