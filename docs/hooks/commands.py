"""Fills `docs/reference/commands.md` from the command line itself, so that it cannot be out of date."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

import click

from bridle_cli.main import commands

MARK = re.compile(r"<!-- filled from bridle_cli -->\n.*")  # and the line for those who read the page elsewhere


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs with the text of every page."""
    return MARK.sub(lambda _: text(), markdown)


def text() -> str:
    """All commands, in the order of `bridle --help`."""
    found = list(every_command())
    rows = [dict(options_of(command, path)) for path, command in found if not isinstance(command, click.Group)]
    shared = {name: help_text for name, help_text in rows[0].items() if all(name in others for others in rows)}
    parts = ["Every command takes these, too:", _table(shared, "option")]
    return "\n\n".join([*parts, *(_section(path, command, set(shared)) for path, command in found)])


def every_command() -> Iterator[tuple[str, click.Command]]:
    """`("shard", ...)`, `("shard info", ...)` and so on."""
    context = click.Context(commands, info_name="bridle")
    for name in commands.list_commands(context):
        command = commands.get_command(context, name)
        assert command is not None
        yield name, command
        module = importlib.import_module(f"bridle_cli.commands.{name}")
        inner = dict(command.commands) if isinstance(command, click.Group) else {}
        for one in vars(module).values():  # `shard` looks like a command and has two beside it
            own = isinstance(one, click.Command) and getattr(one.callback, "__module__", "") == module.__name__
            if own and one is not command:
                inner.setdefault(one.name or "", one)
        yield from ((f"{name} {other}", one) for other, one in inner.items())


def options_of(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
    """Option and help of all but the hidden ones."""
    context = click.Context(command, info_name=f"bridle {path}")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:  # arguments are in the usage
            yield record


def _section(path: str, command: click.Command, shared: set[str]) -> str:
    context = click.Context(command, info_name=f"bridle {path}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = {name: words for name, words in options_of(command, path) if name not in shared}
    parts = [f"## bridle {path}", f"```text\n{usage}\n```", *_prose(command.help or "")]
    return "\n\n".join([*parts, _table(options, "option")] if options else parts)


def _prose(help_text: str) -> Iterator[str]:
    """The help's paragraphs; those that keep their lines (`\\b`) become blocks."""
    for paragraph in inspect.cleandoc(help_text).split("\n\n"):
        if not paragraph.startswith("\b"):
            yield _escaped(paragraph)
            continue
        title, _, rest = paragraph.removeprefix("\b").strip("\n").partition("\n")
        if title.strip() == "Examples:":
            yield f"```sh\n{inspect.cleandoc(rest)}\n```"
        else:
            yield f"```text\n{inspect.cleandoc(paragraph.removeprefix(chr(8)))}\n```"


def _table(rows: dict[str, str], title: str) -> str:
    lines = [f"| `{name}` | {_escaped(words)} |" for name, words in rows.items()]
    return "\n".join([f"| {title} | |", "|---|---|", *lines])


def _escaped(words: str) -> str:
    """Text that Markdown shows as it is."""
    for char in "\\*_<>[]|":
        words = words.replace(char, f"&#{ord(char)};")
    return words
