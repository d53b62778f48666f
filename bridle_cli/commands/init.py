"""`bridle init`: shards become a commented configuration to begin with."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import click

from bridle import api
from bridle.api.options import Init
from bridle.errors import UsageError
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress


@click.command(name="init", cls=options.Command)
@options.option(
    "--shards",
    type=options.LOCATION,
    default=Path("shards"),
    show_default=True,
    help="A set, or a folder of sets of one modality.",
)
@options.takes(Init)
@options.shared
@click.pass_obj
def command(console: Console, chosen: Init, shards: str | Path) -> None:
    """Write a configuration for given shards.

    Each value has a comment with its reason and when to change it.

    \b
    Examples:
      bridle init --shards shards/recordings
      bridle init --shards shards/photos --preset image-small --out photos.yaml
      bridle init --shards shards/recordings --minutes 30 --overwrite
    """
    if chosen.out == Path("-"):
        raise UsageError("--out - is not a file.", "Name one; bridle config show --config FILE prints it in full.")
    with Progress(console) as progress:
        result = api.init(shards, **vars(replace(chosen, on_event=progress)))
    times = ", ".join(f"{kind} {ms:.1f} ms" for kind, ms in result["step_ms"].items())
    console.result(result if console.json else {**result, "step_ms": times}, hide=() if times else ("step_ms",))
    given = f"--config {shlex.quote(result['config'])} --shards {shlex.quote(str(shards))}"
    console.note(f"next: read {shlex.quote(result['config'])}, edit it as needed, then run")
    for command_line in (
        f"config validate {shlex.quote(result['config'])} --shards {shlex.quote(str(shards))}",
        f"pretrain {given}",
    ):
        console.note(f"  bridle {command_line}")
