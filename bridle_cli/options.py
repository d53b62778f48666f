"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from bridle.api.options import MODALITIES
from bridle.config import MOST_SEED
from bridle.config.recipe import Recipe
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
        super().__init__(path_type=Path, readable=False)  # the library checks the path and gives the hint
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


def _presets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from bridle.config import presets

    return [name for name in presets() if name.startswith(incomplete)]


def configurations(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets, and whatever lies here."""
    names = [CompletionItem(name) for name in _presets(context, parameter, incomplete)]
    return [CompletionItem(incomplete, type="file"), *names]  # bash forgets what comes before


def _tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from bridle import api

    return [name for name in ("folder", *(one["name"] for one in api.tasks())) if name.startswith(incomplete)]


def _checkpoints(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders, by the shell, and the word for none."""
    words = [CompletionItem("random")] if incomplete and "random".startswith(incomplete) else []
    return [CompletionItem(incomplete, type="dir"), *words]


def _folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


class Option(click.Option):
    """An option that stands under a heading of its command's help."""

    def __init__(self, names: Sequence[str], heading: str = "", **settings: Any) -> None:
        super().__init__(names, **settings)
        self.heading = heading
        if isinstance(self.type, click.IntRange | click.FloatRange):
            self.metavar = self.metavar or "N"


class Command(click.Command):
    """Its help shows the common options first, the others under their headings."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        by_heading: dict[str, list[tuple[str, str]]] = {"": []}
        for parameter in self.get_params(context):
            row = parameter.get_help_record(context)
            if row and isinstance(parameter, click.Option):
                by_heading.setdefault(getattr(parameter, "heading", "Every command"), []).append(row)
        by_heading["Every command"] = by_heading.pop("Every command", [])  # last
        for heading, rows in by_heading.items():
            if rows:
                with formatter.section(heading or "Options"):
                    formatter.write_dl(rows)


def takes(kind: type[Any]) -> Callable[[_Command], _Command]:
    """The options of a command, made of the fields of a class of `bridle.api.options`; the command gets them as one."""

    def wrap(command: _Command) -> _Command:
        own = [one for one in dataclasses.fields(kind) if one.metadata]

        @functools.wraps(command)
        def call(*arguments: Any, **given: Any) -> Any:
            return command(*arguments, kind(**{one.name: given.pop(one.name) for one in own}), **given)

        decorated: Any = call
        for one in reversed(own):
            decorated = _option(one)(decorated)
        return decorated  # type: ignore[no-any-return]

    return wrap


def _option(one: dataclasses.Field[Any]) -> Callable[[_Command], _Command]:
    about, settings = one.metadata, dict[str, Any]()
    flag = about["flag"] or "--" + one.name.replace("_", "-")
    default = None if one.default is dataclasses.MISSING else about["typed"] or one.default
    if one.default is False and not about["parse"]:
        settings = {"is_flag": True}
    elif about["choices"]:
        settings = {"type": click.Choice(about["choices"])}
    elif place := about.get("place"):
        settings = {"type": LOCATION if place == "location" else PATH}
    elif "int" in str(one.type) and not about["parse"]:
        bounded = "low" in about or "high" in about
        settings = {"type": click.IntRange(about.get("low"), about.get("high")) if bounded else click.INT}
    elif "float" in str(one.type) and not about["parse"]:
        bounds = about.get("low", about.get("above")), about.get("high", about.get("below"))
        settings = {"type": Between(*bounds, min_open="above" in about, max_open="below" in about)}
    if parse := about["parse"]:
        settings["callback"] = functools.partial(_parsed, parse)
    if about.get("complete"):
        settings["shell_complete"] = _COMPLETE[about["complete"]]
    required = one.default is dataclasses.MISSING or about.get("required", False)
    if not required:  # since Click 8.3 a default of None is a value: nothing would be missing
        settings["default"] = default
    return click.option(
        flag,
        one.name,
        cls=Option,
        heading=about["heading"],
        required=required,
        show_default=default not in (None, False) and not required,
        metavar=about.get("metavar"),
        hidden=about.get("hidden", False),
        help=about["help"],
        **settings,
    )


def _parsed(parse: Callable[[str], Any], context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def option(*names: str, heading: str = "", **settings: Any) -> Callable[[_Command], _Command]:
    """As `click.option`, for what the command line has beside the options of the interface."""
    return click.option(*names, cls=Option, heading=heading, **settings)


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
        _switch("verbose", "Show each step and skipped file, sources of settings, timings and versions."),
        _switch("quiet", "Show only warnings and errors."),
        _switch("json", "Print the result as JSON."),
    ):
        command = switch(command)
    return command


seed = option(
    "--seed", type=click.IntRange(0, MOST_SEED), heading="Execution", default=None, help="Seed of every random choice."
)
modality = option(
    "--modality",
    type=click.Choice(MODALITIES),
    default=None,
    heading="Configuration",
    help="Media type (default: detected).",
)
preset = option("--preset", metavar="NAME", default=None, shell_complete=_presets, help="A recipe, such as audio-tiny.")
config_file = option(
    "--config",
    "config_file",
    type=PATH,
    default=None,
    heading="Configuration",
    help="YAML file that overrides the preset, or sets it with extends: audio-tiny.",
)
sets = option(
    "--set",
    "sets",
    metavar="KEY=VALUE",
    multiple=True,
    heading="Configuration",
    help="Override one setting, e.g. optim.lr=1e-3; repeatable.",
)


def recipe(command: _Command) -> _Command:
    """--modality, --preset, --config and --set; the command gets them as one `recipe`."""

    @functools.wraps(command)
    def call(
        *arguments: Any,
        modality: str | None,
        preset: str | None,
        config_file: Path | None,
        sets: tuple[str, ...],
        **given: Any,
    ) -> Any:
        return command(*arguments, recipe=Recipe(modality, preset, config_file, sets), **given)

    decorated: Any = modality(preset(config_file(sets(call))))
    return decorated  # type: ignore[no-any-return]


devices = option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    heading="Execution",
    help="Number of GPUs (without a GPU: CPU processes). For several machines use torchrun.",
)
restarted = option("--restarted", is_flag=True, hidden=True)  # said by whoever started the processes, to the next ones
_COMPLETE = {"presets": _presets, "tasks": _tasks, "checkpoints": _checkpoints, "folders": _folders}
