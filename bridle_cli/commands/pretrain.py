"""`bridle pretrain`: shards become an encoder and its codes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.api.options import Pretrain
from bridle.errors import UsageError
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import PretrainProgress, Progress

_NEWEST = "newest"


def _batch_size(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and value != "auto" and not (value.isdecimal() and int(value) > 0):
        raise click.BadParameter(f"'{value}' is neither a number nor auto.", context, parameter)
    return value


def _as_settings(batch_size: str | None) -> tuple[str, ...]:
    if batch_size is None:
        return ()
    return ("train.part=auto",) if batch_size == "auto" else (f"optim.batch_size={batch_size}",)


@click.command(name="pretrain", cls=options.Command)
@options.option(
    "--shards",
    type=options.LOCATION,
    default=None,
    help="A set of shards, or a folder of sets (default: shards).",
)
@options.recipe
@options.takes(Pretrain)
@options.option(
    "--resume",
    is_flag=False,
    flag_value=_NEWEST,
    default=None,
    metavar="[RUN]",
    help="Continue an interrupted run; without a name: --out, or the newest.",
)
@options.option(
    "--batch-size",
    metavar="N|auto",
    default=None,
    callback=_batch_size,
    heading="Configuration",
    help="Clips per step, over all devices. auto: the preset's, in micro-batches that fit into memory.",
)
@options.option(
    "--force",
    is_flag=True,
    heading="Configuration",
    help="With --resume: allow other --set values if they do not affect training.",
)
@options.seed
@options.devices
@options.option("--workers", type=click.IntRange(min=0), default=None, heading="Execution", help="Decoding processes.")
@options.shared
@click.pass_obj
def command(
    console: Console,
    chosen: Pretrain,
    shards: str | Path | None,
    recipe: api.Recipe,
    resume: str | None,
    batch_size: str | None,
    force: bool,
    seed: int | None,
    devices: int,
    workers: int | None,
) -> None:
    """Pretrain an encoder and its codebooks on shards.

    The preset is overridden by --config, then --set, then the other options; `bridle config show` prints the result.

    \b
    Examples:
      bridle pretrain --shards shards/recordings
      bridle pretrain --shards shards/photos --preset image-small --epochs 100 --device cuda
      bridle pretrain --shards shards/ --modality audio --max-minutes 15 --set mask.ratio=0.7
      bridle pretrain --shards shards/recordings --dry-run
      bridle pretrain --shards shards/recordings --devices 8
      bridle pretrain --resume runs/recordings-audio-tiny
    """
    limits = {"--steps": chosen.steps, "--epochs": chosen.epochs, "--max-minutes": chosen.max_minutes}
    if sum(limit is not None for limit in limits.values()) > 1:
        raise UsageError(f"Use only one of {', '.join(limits)}.")
    if devices > 1 and "RANK" not in os.environ:
        raise click.exceptions.Exit(api.launch(console.arguments, devices, on_event=Progress(console)))
    restarted = chosen.restarted or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    first = os.environ.get("RANK", "0") == "0"
    console.quiet = console.quiet or not first
    sets = (*recipe.sets, *_as_settings(batch_size))
    with PretrainProgress(console) as progress:
        try:
            if resume is not None:
                own = {
                    "--preset": recipe.preset,
                    "--config": recipe.file,
                    "--modality": recipe.modality,
                    "--seed": seed,
                }
                _refuse_with_resume({**own, **limits, "--overwrite": chosen.overwrite})
                result = api.resume(
                    chosen.out if resume == _NEWEST else Path(resume),
                    shards=shards,
                    sets=(*sets, *([] if workers is None else [f"data.workers={workers}"])),
                    force=force,
                    device=chosen.device,
                    dry_run=chosen.dry_run,
                    profile=chosen.profile,
                    on_event=progress,
                )
            else:
                recipe = replace(recipe, sets=sets, seed=seed, workers=workers)
                given = replace(chosen, recipe=recipe, restarted=restarted, on_event=progress)
                result = api.pretrain(shards or Path("shards"), **vars(given))
        except KeyboardInterrupt:
            if progress.run:
                console.warn(f"to continue from the last checkpoint: bridle pretrain --resume {progress.run}")
            raise
    if not first:
        return  # the first process speaks for all
    if console.json:
        console.record(result)
    else:
        console.result({key: _readable(key, value) for key, value in result.items() if value not in ({}, [])})


def _refuse_with_resume(options: dict[str, Any]) -> None:
    """A resumed run keeps its configuration and its length; options that would change them are a misunderstanding."""
    wrong = [name for name, value in options.items() if value not in (None, (), False)]
    if wrong:
        raise UsageError(
            f"A resumed run keeps its configuration and length: {', '.join(wrong)} cannot be used with --resume.",
            "Leave them out, or start a new run without --resume.",
        )


def _readable(key: str, value: Any) -> Any:
    """Phases of a plan as `cold 100, tokenizer 25`; everything else as it is."""
    if key != "phases":
        return value
    return ", ".join(f"{p['name']} {p['steps']}" if p["steps"] else f"{p['name']} {p['seconds']:.0f} s" for p in value)
