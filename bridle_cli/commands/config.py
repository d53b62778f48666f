"""`bridle config`: the configuration that a command would run with, whether it is valid, and how two differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from bridle import api, config
from bridle.api.options import Validate
from bridle.errors import UsageError
from bridle_cli import options
from bridle_cli.console import Console, printable
from bridle_cli.progress import Progress


@click.group(name="config", cls=options.Group)
def command() -> None:
    """Show, check and compare configurations.

    \b
    Examples:
      bridle config show --preset audio-tiny > mine.yaml
      bridle config validate mine.yaml
      bridle config diff audio-tiny mine.yaml
    """


@command.command(cls=options.Command)
@options.preset
@options.config_file
@options.sets
@options.shared
@click.pass_obj
def show(console: Console, preset: str | None, config_file: Path | None, sets: tuple[str, ...]) -> None:
    """Print a configuration in full.

    The preset is overridden by --config, then --set.

    \b
    Examples:
      bridle config show --preset audio-tiny
      bridle config show --preset audio-tiny --set optim.lr=3e-4 > mine.yaml
      bridle config show --config mine.yaml --json
      bridle config show --config runs/recordings-audio-tiny
    """
    if preset is None and config_file is None:
        raise UsageError(
            "Which configuration? Name a --preset or a --config file.", "Presets: " + ", ".join(config.presets())
        )
    result, name = api.Recipe(preset=preset, file=config_file, sets=sets).load()
    if console.json:
        console.record(result.model_dump(mode="json"))
    else:
        console.text(config.dump(result, name))


@command.command(cls=options.Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=options.PATH)
@options.takes(Validate)
@options.sets
@options.shared
@click.pass_obj
def validate(console: Console, chosen: Validate, files: tuple[Path, ...], sets: tuple[str, ...]) -> None:
    """Check configuration files.

    Loads each FILE like bridle pretrain and prints a summary, or all mistakes with their lines (exit code 3).

    \b
    Examples:
      bridle config validate mine.yaml
      bridle config validate configs/a.yaml configs/b.yaml
      bridle config validate bridle.yaml --shards shards/recordings
      bridle config validate mine.yaml --preset audio-small --set optim.batch_size=256 --json
    """
    with Progress(console) as progress:
        found = api.config_validate(files, **vars(replace(chosen, sets=sets, on_event=progress)))
    for one in found:
        if console.json:
            console.record(one)
        else:
            more = ""
            if "samples" in one:
                more = f"; {one['samples']} clips, {one['batch_size']} per step, {one['memory_mb']} MB"
            millions, steps = one["parameters"] / 1e6, f", {one['steps']} steps" if one.get("steps") else ""
            name = one["preset"] or "no preset"
            file = printable(one["file"])
            console.text(f"{file}: ok, {name} ({one['modality']}), {millions:.1f} M parameters{more}{steps}\n")


@command.command(cls=options.Command)
@click.argument("a", shell_complete=options.configurations)
@click.argument("b", shell_complete=options.configurations)
@options.shared
@click.pass_obj
def diff(console: Console, a: str, b: str) -> None:
    """Print the settings in which two configurations differ.

    A and B are each a preset, a YAML file, a run or an export.

    Ends with exit code 0 whether they differ or not.

    \b
    Examples:
      bridle config diff audio-tiny audio-small
      bridle config diff audio-tiny bridle.yaml
      bridle config diff runs/recordings-audio-tiny runs/recordings-audio-tiny-2 --json
    """
    rows = api.config_diff(a, b)
    if console.json:
        console.record({"a": a, "b": b, "differences": rows})
    elif rows:
        shown = [(row["key"], *(_value(row[side]) if side in row else "" for side in ("a", "b"))) for row in rows]
        console.table(("key", a, b), shown)
    else:
        console.note("no differences")


def _value(value: object) -> str:
    """As in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
