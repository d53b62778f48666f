"""What help, README and how-to pages show can be typed: every command is there, with options that exist."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bridle_cli.console import Console
from bridle_cli.main import COMMANDS, commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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


ALL = dict(walk(commands))


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


def examples(command: click.Command) -> list[str]:
    text = command.get_help(click.Context(command, info_name="bridle"))
    block = re.search(r"Examples:\n((?:    .*\n?)+)", text)
    return [line.strip() for line in block[1].splitlines()] if block else []


def test_the_walk_finds_the_commands_below_commands() -> None:
    assert ALL.keys() >= {"", *COMMANDS, "shard info", "shard verify", "config show", "config validate", "config diff"}


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_examples_that_can_be_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = examples(ALL[name])
    own = [line for line in lines if line.startswith(f"bridle {name}".rstrip())]
    assert own, f"bridle {name} --help shows no example of it"
    for line in lines:
        assert line.startswith("bridle "), line
        parse(line)


@pytest.mark.parametrize("name", [name for name, command in ALL.items() if not isinstance(command, click.Group)])
def test_every_command_has_the_shared_options(name: str) -> None:
    known = {option for parameter in ALL[name].params for option in parameter.opts}
    assert known >= {"--json", "--quiet", "--verbose", "--debug"}


@pytest.mark.parametrize(
    "line",
    ["bridle shrad x", "bridle shard x --modalty audio", "bridle shard", "bridle config show --prest audio-tiny",
     "bridle shard info", "bridle export r --format onxx --out o", "bridle shard x --max-size huge"],
)  # fmt: skip
def test_the_dry_parse_refuses_what_the_program_would(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


def shown(page: str) -> Iterator[str]:
    """Command lines of a page: in blocks of code, and between backticks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        joined = re.sub(r"\\\n\s*", " ", block)
        yield from (line for line in joined.splitlines() if re.match(r"(\$ )?bridle [a-z-]", line))
    prose = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`(bridle [a-z-][^`]*)`", prose):
        if re.search(r"[\[{]", span) is None:
            yield " ".join(span.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_can_be_typed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = []
    for line in shown(page.read_text("utf-8")):
        try:
            parse(line)
        except click.UsageError as error:
            if not isinstance(error, click.MissingParameter):  # `bridle shard` in a sentence
                faults.append(f"{line}: {error.format_message()}")
    assert faults == []


def test_the_pages_show_commands() -> None:
    assert len(list(shown((ROOT / "README.md").read_text("utf-8")))) > 20
