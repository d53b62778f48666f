"""`bridle init`: shards become a commented configuration to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from bridle import api
from bridle.errors import UsageError
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress


@click.command(name="init")
@click.option(
    "--shards",
    type=options.LOCATION,
    default=None,
    help="A set, or a folder of sets of one modality.  [default: shards]",
)
@options.out("The file to write.  [default: bridle.yaml]")
@options.modality
@options.preset
@click.option(
    "--minutes",
    type=options.Between(min=0, min_open=True),
    default=None,
    help="How long the run may take: some steps are timed, and the schedule is stretched to it.",
)
@options.device
@options.overwrite
@options.shared
@click.pass_obj
def command(
    console: Console,
    shards: str | Path | None,
    out: Path | None,
    modality: str | None,
    preset: str | None,
    minutes: float | None,
    device: str,
    overwrite: bool,
) -> None:
    """Look at shards and this machine, and write a configuration for them.

    Each value in it says what was seen, and when to change it.

    \b
    Examples:
      bridle init --shards shards/recordings
      bridle init --shards shards/photos --preset image-small --out photos.yaml
      bridle init --shards shards/recordings --minutes 30 --overwrite
    """
    if out == Path("-"):
        raise UsageError("--out - is no file.", "Name one; bridle config show --config FILE prints it in full.")
    place = shards or Path("shards")
    with Progress(console) as progress:
        result = api.init(
            place,
            out=out or "bridle.yaml",
            modality=modality,
            preset=preset,
            minutes=minutes,
            device=device,
            overwrite=overwrite,
            on_event=progress,
        )
    times = ", ".join(f"{kind} {ms:.1f} ms" for kind, ms in result["step_ms"].items())
    console.result(result if console.json else {**result, "step_ms": times}, hide=() if times else ("step_ms",))
    given = f"--config {shlex.quote(result['config'])} --shards {shlex.quote(str(place))}"
    console.note(f"next: read {shlex.quote(result['config'])}, change what you know better, then")
    for command_line in (
        f"config validate {shlex.quote(result['config'])} --shards {shlex.quote(str(place))}",
        f"pretrain {given}",
    ):
        console.note(f"  bridle {command_line}")
