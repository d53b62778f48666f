"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from bridle.config import MOST_SEED
from bridle.errors import nearest
from bridle_cli.console import Console

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Group(click.Group):
    """Names the nearest of its commands for one that it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            raise click.UsageError(f"No such command '{args[0]}'; {nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


class _Place(click.Path):
    """A path; where the library can use it also `scheme://...`, as text."""

    def __init__(self, remote: bool) -> None:
        super().__init__(path_type=Path, readable=False)  # the library says what is wrong with a path, and how to go on
        self._remote = remote

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty (a variable that is not set?).", parameter, context)
        if isinstance(value, str) and "://" in value:
            if not self._remote:
                self.fail(f"'{value}' is not on this machine; give a local path.", parameter, context)
            return value
        return super().convert(value, parameter, context)


class Between(click.FloatRange):
    """A number within bounds; nan, which no bound holds off, and inf are none."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        number: float = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number.", parameter, context)
        return number


PATH = _Place(remote=False)
LOCATION = _Place(remote=True)
MODALITIES = ("audio", "image", "video")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """`256MB`, `1GiB` or plain bytes -> bytes."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]+)?)\s*([KMG]i?B|)", value.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise click.BadParameter(f"'{value}' is not a size; wanted something like 256MB or 1GiB.", context, parameter)
    return size


def _presets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from bridle.config import presets

    return [name for name in presets() if name.startswith(incomplete)]


def configurations(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets, and whatever lies here."""
    names = [CompletionItem(name) for name in _presets(context, parameter, incomplete)]
    return [CompletionItem(incomplete, type="file"), *names]  # bash forgets what comes before


def _tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from bridle import api

    return [one["name"] for one in [{"name": "folder"}, *api.tasks()] if one["name"].startswith(incomplete)]


def _checkpoints(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders, by the shell, and the word for none."""
    words = [CompletionItem("random")] if incomplete and "random".startswith(incomplete) else []
    return [CompletionItem(incomplete, type="dir"), *words]


def _folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


max_size = click.option(
    "--max-size",
    metavar="SIZE",
    default="256MB",
    show_default=True,
    callback=_size,
    help="Maximum shard size.",
)


def _switch(name: str, help_text: str) -> Callable[[_Command], _Command]:
    """A flag that sets the console's attribute of the same name as soon as it is read."""

    def turn_on(context: click.Context, _: click.Parameter, value: bool) -> None:
        console = context.find_object(Console)
        if value and console:
            setattr(console, name, True)
            if console.quiet and console.verbose:
                raise click.UsageError("--quiet and --verbose exclude each other.", context)

    return click.option(f"--{name}", is_flag=True, is_eager=True, expose_value=False, callback=turn_on, help=help_text)


def shared(command: _Command) -> _Command:
    """`--json`, `--quiet`, `--verbose` and `--debug`: every command has them."""
    for switch in (
        _switch("debug", "Show the traceback of a failure."),
        _switch("verbose", "Every step and skipped file, where settings come from, how long what took, versions."),
        _switch("quiet", "No progress and notes; warnings and errors stay."),
        _switch("json", "Print the result as JSON."),
    ):
        command = switch(command)
    return command


seed = click.option("--seed", type=click.IntRange(0, MOST_SEED), default=None, help="Seed of every random choice.")
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: GPU if available.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
dry_run = click.option("--dry-run", is_flag=True, help="Show what would run, then exit.")
modality = click.option(
    "--modality", type=click.Choice(MODALITIES), default=None, help="Media type (default: detected)."
)
workers = click.option("--workers", type=click.IntRange(min=0), default=None, help="Processes that decode.")
engine = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or a Ray cluster: of RAY_ADDRESS, the running one, or a new one here.",
)
max_missing = click.option(
    "--max-missing",
    type=Between(0, 1),
    default=0.5,
    show_default=True,
    help="Largest fraction of listed files that may be missing.",
)
checkpoint = click.option(
    "--checkpoint",
    metavar="RUN|FILE|random",
    default=None,
    shell_complete=_checkpoints,
    help="A run, checkpoint or export; default: the newest run. random: an untrained encoder, with --preset.",
)
trained = click.option(
    "--checkpoint",
    metavar="RUN|FILE",
    default=None,
    shell_complete=_folders,
    help="A run, checkpoint or export; default: the newest run.",
)
preset = click.option(
    "--preset", metavar="NAME", default=None, shell_complete=_presets, help="A recipe, such as audio-tiny."
)
task = click.option(
    "--task",
    metavar="NAME",
    default="folder",
    shell_complete=_tasks,
    help="A published benchmark (--list), or folder: data of your own.",
)
config_file = click.option(
    "--config",
    "config_file",
    type=PATH,
    default=None,
    help="YAML file that overrides the preset, or sets it with extends: audio-tiny.",
)
sets = click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="Override one setting, e.g. optim.lr=1e-3; repeatable."
)


def out(help_text: str, *, required: bool = False, kind: _Place = PATH) -> Callable[[_Command], _Command]:
    """`--out PATH`, with what lands there."""
    return click.option("--out", type=kind, default=None, required=required, help=help_text)
