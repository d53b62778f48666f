"""What the user sees: results on stdout, everything else on stderr.

rich is imported at the first line that is printed, and paints only terminals. `NO_COLOR` takes the colours away, as
does `FORCE_COLOR=0`; any other `FORCE_COLOR` paints pipes too. What moves the cursor (bars) is for a terminal alone,
and neither for a dumb one nor for a notebook, whose cells keep what was overwritten.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from bridle.errors import redacted

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_PIPE_WIDTH = 200  # columns of a table that is not on a terminal: names are worth more than the fold


class Console:
    """One for each run of the command line; the shared options set its four switches.

    Attributes:
        json: results are JSON objects instead of tables.
        quiet: no progress and no notes; warnings and errors stay.
        verbose: every step of the progress, every skipped file, where settings come from, how long what took.
        debug: a failure shows its traceback.
        arguments: of the command line, for commands that start others like themselves.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = list(arguments)
        self.json = False
        self.quiet = False
        self.verbose = False
        self.debug = False

    @cached_property
    def out(self) -> RichConsole:
        return _rich(sys.stdout)

    @cached_property
    def err(self) -> RichConsole:
        return _rich(sys.stderr)

    @property
    def animated(self) -> bool:
        """Whether stderr can be drawn on: a terminal, and not one of a notebook's cells."""
        return sys.stderr.isatty() and not self.err.is_dumb_terminal and not _in_notebook()

    def detail(self, text: str) -> None:
        """Something for who asked for --verbose, on stderr."""
        if self.verbose:
            self.note(text)

    def note(self, text: str) -> None:
        """Something good to know, on stderr."""
        if not self.quiet:
            self.err.print(printable(text), style="dim", soft_wrap=True)

    def warn(self, text: str) -> None:
        """Something the user should look at, on stderr, quiet or not."""
        self.err.print(f"warning: {printable(text)}", style="yellow", soft_wrap=True)

    def fail(self, message: str, hint: str = "") -> None:
        """Why the command stops, and what to try next, on stderr."""
        self.err.print(f"error: {printable(message, lines=True)}", style="bold red", soft_wrap=True)
        if hint:
            self.err.print(printable(hint, lines=True), soft_wrap=True)

    def result(self, value: Mapping[str, Any], hide: Iterable[str] = ()) -> None:
        """One result: an object with `--json`, else two columns without the keys in `hide`."""
        if self.json:
            self.record(value)
        else:
            hidden = set(hide)
            self.table(None, [(key, value[key]) for key in value if key not in hidden])

    def record(self, value: Mapping[str, Any]) -> None:
        """One JSON object on one line of stdout."""
        sys.stdout.write(json.dumps(_jsonable(value), allow_nan=False) + "\n")

    def text(self, text: str) -> None:
        """A result that is text already (YAML), on stdout as it is."""
        sys.stdout.write(text)

    def table(self, columns: Sequence[str] | None, rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
        """A table on stdout; numbers are aligned right. Without `columns` it has no head."""
        from rich import box
        from rich.table import Table

        rows = [list(row) for row in rows]
        width = len(columns) if columns else max((len(row) for row in rows), default=0)
        table = Table(
            box=box.SIMPLE_HEAD if columns else None,
            show_header=columns is not None,
            pad_edge=False,
        )
        for index in range(width):
            numeric = columns is not None and all(isinstance(row[index], int | float) for row in rows)
            table.add_column(columns[index] if columns else "", justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*[_cell(value) for value in row])
        if title:
            self.out.print(printable(title), style="italic", soft_wrap=True)
        self.out.print(table)


def printable(text: str, *, lines: bool = False) -> str:
    """The text without secrets, and without what moves a terminal's cursor: names may hold newlines and escapes."""
    kept = "\n" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode("ascii")
        for char in redacted(text)
    )


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rich(stream: TextIO) -> RichConsole:
    from rich.console import Console as RichConsole

    plain = _in_notebook() or (os.environ.get("FORCE_COLOR") == "0" and not stream.isatty())
    return RichConsole(
        file=stream,
        width=None if stream.isatty() else _PIPE_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
        force_terminal=False if plain else None,
        no_color=True if os.environ.get("FORCE_COLOR") == "0" else None,
        force_jupyter=False,
    )


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this or started it: `!bridle` has a terminal there, with FORCE_COLOR set."""
    return "JPY_PARENT_PID" in os.environ


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(_cell(item) for item in value)
    if isinstance(value, Mapping):
        return "  ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return printable(str(value))


def _jsonable(value: Any) -> Any:
    """Paths as text, arrays as lists, and what JSON cannot say (nan, inf) as null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return str(value) if isinstance(value, str) else value
    return str(value)
