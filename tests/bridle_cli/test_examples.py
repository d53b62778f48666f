"""The examples of every help can be typed: the commands are there, with options that exist."""

from __future__ import annotations

import re

import click
import pytest
from typed import parse, walk

from bridle_cli.main import COMMANDS, commands

ALL = dict(walk(commands))


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


@pytest.mark.parametrize("name", [name for name, command in ALL.items() if isinstance(command, click.Group)])
def test_no_description_is_cut_off(name: str) -> None:
    text = ALL[name].get_help(click.Context(ALL[name], info_name="bridle", terminal_width=80))
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("name", [name for name, command in ALL.items() if not isinstance(command, click.Group)])
def test_the_common_options_come_first_and_are_few(name: str) -> None:
    text = ALL[name].get_help(click.Context(ALL[name], info_name="bridle", terminal_width=80))
    common = re.search(r"^Options:\n((?:  .*\n|\n(?!\w))*)", text + "\n", re.MULTILINE)
    assert len(re.findall(r"^  -", common[1] if common else "", re.MULTILINE)) <= 10
