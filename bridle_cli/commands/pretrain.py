"""`bridle pretrain`: shards become an encoder and its codes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.errors import UsageError
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import PretrainProgress, Progress

_NEWEST = "newest"


def _batch_size(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and value != "auto" and not (value.isdecimal() and int(value) > 0):
        raise click.BadParameter(f"'{value}' is neither a number of clips nor auto.", context, parameter)
    return value


def _as_settings(batch_size: str | None) -> tuple[str, ...]:
    if batch_size is None:
        return ()
    return ("train.part=auto",) if batch_size == "auto" else (f"optim.batch_size={batch_size}",)


@click.command(name="pretrain")
@click.option(
    "--shards",
    type=options.LOCATION,
    default=None,
    help="A set, or a folder of sets of one modality; default: shards.",
)
@options.modality
@options.preset
@options.config_file
@options.sets
@options.out("Folder of the run; default: runs/SET-PRESET.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Length of the run in steps.")
@click.option("--epochs", type=options.Between(min=0, min_open=True), default=None, help="Or in passes over the data.")
@click.option(
    "--max-minutes",
    type=options.Between(min=0, min_open=True),
    default=None,
    help="Train for N minutes; the schedule is scaled to fit.",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=_NEWEST,
    default=None,
    metavar="[RUN]",
    help="Go on with an interrupted run; without a name: --out, or the newest.",
)
@click.option(
    "--batch-size",
    metavar="N|auto",
    default=None,
    callback=_batch_size,
    help="Clips a step, on all devices together. auto: as the preset says, computed in parts that fit into memory.",
)
@click.option("--force", is_flag=True, help="With --resume: other --set values, if they do not affect training.")
@options.seed
@options.device
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train on that many GPUs of this machine (without any: in as many processes). More machines: torchrun.",
)
@click.option("--restarted", is_flag=True, hidden=True)  # said by whoever started the processes, to the next ones
@options.workers
@click.option("--profile", is_flag=True, help="Show where the time goes; traces of some steps land in RUN/profile/.")
@options.dry_run
@options.overwrite
@options.shared
@click.pass_obj
def command(
    console: Console,
    shards: str | Path | None,
    modality: str | None,
    preset: str | None,
    config_file: Path | None,
    sets: tuple[str, ...],
    out: Path | None,
    steps: int | None,
    epochs: float | None,
    max_minutes: float | None,
    batch_size: str | None,
    resume: str | None,
    force: bool,
    seed: int | None,
    device: str,
    devices: int,
    restarted: bool,
    workers: int | None,
    profile: bool,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Pretrain an encoder and its residual codebooks on shards.

    The configuration is the preset, then --config, then --set, then the options here; `bridle config show` prints it.

    \b
    Examples:
      bridle pretrain --shards shards/recordings
      bridle pretrain --shards shards/photos --preset image-small --epochs 100 --device cuda
      bridle pretrain --shards shards/ --modality audio --max-minutes 15 --set mask.ratio=0.7
      bridle pretrain --shards shards/recordings --dry-run
      bridle pretrain --shards shards/recordings --devices 8
      bridle pretrain --resume runs/recordings-audio-tiny
    """
    limits = {"--steps": steps, "--epochs": epochs, "--max-minutes": max_minutes}
    if sum(limit is not None for limit in limits.values()) > 1:
        raise UsageError(f"Use only one of {', '.join(limits)}.")
    if devices > 1 and "RANK" not in os.environ:
        raise click.exceptions.Exit(api.launch(console.arguments, devices, on_event=Progress(console)))
    restarted = restarted or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    first = os.environ.get("RANK", "0") == "0"
    console.quiet = console.quiet or not first
    with PretrainProgress(console) as progress:
        try:
            if resume is not None:
                own = {"--preset": preset, "--config": config_file, "--modality": modality, "--seed": seed}
                _refuse_with_resume({**own, **limits, "--overwrite": overwrite})
                result = api.resume(
                    out if resume == _NEWEST else Path(resume),
                    shards=shards,
                    sets=(*sets, *_as_settings(batch_size), *([] if workers is None else [f"data.workers={workers}"])),
                    force=force,
                    device=device,
                    dry_run=dry_run,
                    profile=profile,
                    on_event=progress,
                )
            else:
                result = api.pretrain(
                    shards or Path("shards"),
                    recipe=api.Recipe(modality, preset, config_file, (*sets, *_as_settings(batch_size)), seed, workers),
                    out=out,
                    steps=steps,
                    epochs=epochs,
                    max_minutes=max_minutes,
                    device=device,
                    overwrite=overwrite,
                    dry_run=dry_run,
                    profile=profile,
                    restarted=restarted,
                    on_event=progress,
                )
        except KeyboardInterrupt:
            if progress.run:
                console.warn(f"to go on from the last checkpoint: bridle pretrain --resume {progress.run}")
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
