"""A command line as text, read as the program would read it and not run."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator

import click

from bridle_cli.console import Console
from bridle_cli.main import commands


def others(command: click.Command, context: click.Context) -> dict[str, click.Command]:
    """Commands below a command, by name."""
    if isinstance(command, click.Group):
        return {name: command.get_command(context, name) for name in command.list_commands(context)}
    return command.others() if hasattr(command, "others") else {}


def walk(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """`("config show", command)` and so on, the program itself as `""`."""
    yield " ".join(words), command
    for name, other in others(command, click.Context(command)).items():
        yield from walk(other, (*words, name))


def typed(line: str) -> list[str]:
    """The words of the command in a line of a shell, of a|b the first: no prompt, comment, or place for its output."""
    words = shlex.split(line.removeprefix("$ ").replace("...", " "), comments=True)
    ends = [place for place, word in enumerate(words) if word in (">", "|", "&&", "\\")]
    return [re.sub(r"(\w)\|.*", r"\1", word) for word in words[: min(ends, default=len(words))]]


def parse(line: str) -> None:
    """Reads the options as the program would, and runs nothing.

    Raises:
        click.UsageError: something that it does not know.
    """
    _, *words = typed(line)
    root = click.Context(commands, info_name="bridle", obj=Console())
    command: click.Command = commands
    while words and words[0] in (below := others(command, root)):
        command = below[words.pop(0)]
    if command is commands and words and not words[0].startswith("-"):
        raise click.UsageError(f"no command {words[0]}")
    if command is commands or (isinstance(command, click.Group) and not words):
        return
    with contextlib.suppress(click.exceptions.Exit):  # of an option that answers at once, as --list
        command.make_context("bridle", words, parent=root)
