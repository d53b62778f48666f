"""`bridle eval`: how much the frozen features and the codes are worth."""

from __future__ import annotations

from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_SHOWN = ("checkpoint", "protocol", "pool", "metric", "value", "ci95", "chance", "n_train", "n_test", "folds", "seed")


@click.command(name="eval")
@click.option("--task", type=click.Choice(["folder"]), required=True, help="folder: classes are folders or labels.")
@click.option("--data", type=options.LOCATION, required=True, help="A folder CLASS/file, or shards.")
@click.option(
    "--protocol",
    type=click.Choice(["knn", "linear", "attentive", "codes"]),
    default="knn",
    show_default=True,
    help="Nearest neighbours, logistic regression, an attentive probe; codes: the health of the codebooks.",
)
@click.option(
    "--pool",
    type=click.Choice(["mean", "segments", "attentive"]),
    default=None,
    help="How patches become one vector: mean forgets their order, segments keeps a coarse one.  [default: mean]",
)
@click.option("--folds", type=click.IntRange(min=2), default=None, help="Cross-validation.  [default: 5]")
@click.option(
    "--test-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=None, help="One split instead."
)
@click.option(
    "--group-by",
    metavar="REGEX",
    default=None,
    help="Files whose names agree in the first group stay on one side: '_([a-z]+)_' for DIGIT_SPEAKER_TAKE.wav.",
)
@options.checkpoint
@options.modality
@options.preset
@options.config_file
@options.sets
@options.seed
@options.device
@options.shared
@click.pass_obj
def command(
    console: Console,
    task: str,
    data: Path,
    protocol: str,
    pool: str | None,
    folds: int | None,
    test_share: float | None,
    group_by: str | None,
    checkpoint: str | None,
    modality: str | None,
    preset: str | None,
    config_file: Path | None,
    sets: tuple[str, ...],
    seed: int | None,
    device: str,
) -> None:
    """Judge the frozen encoder by a small classifier, with a 95 % interval, or the codebooks by their use.

    \b
    Examples:
      bridle eval --task folder --data shards/digits --protocol linear --pool segments
      bridle eval --task folder --data digits/ --group-by '_([a-z]+)_' --folds 6
      bridle eval --task folder --data digits/ --checkpoint random --preset audio-tiny
      bridle eval --task folder --data shards/digits --protocol codes --json
    """
    with Progress(console) as progress:
        result = api.evaluate(
            data,
            task=task,
            protocol=protocol,
            pool=pool,
            folds=folds,
            test_share=test_share,
            group_by=group_by,
            checkpoint=checkpoint,
            recipe=api.Recipe(modality, preset, config_file, sets),
            seed=seed or 0,
            device=device,
            on_event=progress,
        )
    if console.json:
        console.record(result)
        return
    console.result({key: result[key] for key in _SHOWN if key in result})
    if "per_level" in result:
        levels = result["per_level"]
        console.table(list(levels[0]), [list(level.values()) for level in levels])
