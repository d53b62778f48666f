"""`bridle pretrain`: shards become an encoder and its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.errors import UsageError
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import PretrainProgress

_NEWEST = "newest"


@click.command(name="pretrain")
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    default=None,
    help="A set, or a folder of sets of one modality; default: shards.",
)
@options.modality
@options.preset
@options.config_file
@options.sets
@options.out("Folder of the run; default: runs/SET-PRESET.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Length of the run in steps.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), default=None, help="Or in passes over the data.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="Or in time: schedules stretch to end then.",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=_NEWEST,
    default=None,
    metavar="[RUN]",
    help="Go on with an interrupted run; without a name: --out, or the newest.",
)
@options.seed
@options.device
@options.workers
@options.dry_run
@options.overwrite
@options.shared
@click.pass_obj
def command(
    console: Console,
    shards: Path | None,
    modality: str | None,
    preset: str | None,
    config_file: Path | None,
    sets: tuple[str, ...],
    out: Path | None,
    steps: int | None,
    epochs: float | None,
    max_minutes: float | None,
    resume: str | None,
    seed: int | None,
    device: str,
    workers: int | None,
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
      bridle pretrain --resume runs/recordings-audio-tiny
    """
    budget: dict[str, Any] = {"steps": steps, "epochs": epochs, "max_minutes": max_minutes}
    with PretrainProgress(console) as progress:
        try:
            if resume is not None:
                _refuse_with_resume(preset, config_file, sets, modality, seed, overwrite)
                run = out if resume == _NEWEST else Path(resume)
                result = api.resume(run, shards=shards, **budget, device=device, dry_run=dry_run, on_event=progress)
            else:
                result = api.pretrain(
                    shards or Path("shards"),
                    recipe=api.Recipe(modality, preset, config_file, sets, seed, workers),
                    out=out,
                    **budget,
                    device=device,
                    overwrite=overwrite,
                    dry_run=dry_run,
                    on_event=progress,
                )
        except KeyboardInterrupt:
            if progress.run:
                console.warn(f"to go on from the last checkpoint: bridle pretrain --resume {progress.run}")
            raise
    console.result(result)


def _refuse_with_resume(*given: Any) -> None:
    """A resumed run keeps its own configuration; options that would change it are a misunderstanding."""
    names = ("--preset", "--config", "--set", "--modality", "--seed", "--overwrite")
    wrong = [name for name, value in zip(names, given, strict=True) if value not in (None, (), False)]
    if wrong:
        raise UsageError(
            f"A resumed run keeps its configuration: {', '.join(wrong)} cannot be used with --resume.",
            "Leave them out, or start a new run without --resume.",
        )
