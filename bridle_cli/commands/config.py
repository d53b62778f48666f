"""`bridle config show`: the configuration that a command would run with."""

from __future__ import annotations

from pathlib import Path

import click

from bridle import config
from bridle.errors import UsageError
from bridle_cli import options
from bridle_cli.console import Console


@click.group(name="config")
def command() -> None:
    """Look at configurations."""


@command.command()
@options.preset
@options.config_file
@options.sets
@options.shared
@click.pass_obj
def show(console: Console, preset: str | None, config_file: Path | None, sets: tuple[str, ...]) -> None:
    """Print the configuration: preset, then --config, then --set.

    \b
    Examples:
      bridle config show --preset audio-tiny
      bridle config show --preset audio-tiny --set optim.lr=3e-4 > mine.yaml
      bridle config show --config mine.yaml --json
    """
    if preset is None and config_file is None:
        raise UsageError(
            "Which configuration? Name a --preset or a --config file.", "Presets: " + ", ".join(config.presets())
        )
    result = config.load(preset, config_file, sets)
    if console.json:
        console.record(result.model_dump(mode="json"))
    else:
        console.text(config.dump(result))
