"""User-facing errors: a message, a hint and an exit code.

Raise these for anything a user can cause or fix; `assert` is for our own invariants.
The command line prints `message` and `hint` and leaves with `exit_code`; the library raises.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

# A path takes one slash of two away; a password may hold / and @, a token may stand alone.
_CREDENTIALS = re.compile(r"(\w:/{1,2})([^/\s]*:\S*|[^/\s]+)@")
_QUERY = re.compile(r"(\w://[^?\s]*)\?[^\s'\"]*")


class BridleError(Exception):
    """Base of all user-facing errors.

    Args:
        message: names the file, option or line, and says why.
        hint: the next step, as a sentence or a command line.

    Attributes:
        result: still printed by `--json`; None: nothing.
    """

    exit_code = 1
    result: Mapping[str, Any] | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = redacted(message), redacted(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(BridleError):
    """The command line or call is wrong (an output that exists, a missing argument)."""

    exit_code = 2


class ConfigError(BridleError):
    """A preset, config file or `--set` cannot be used."""

    exit_code = 3


class DataError(BridleError):
    """Media, shards, manifest or checkpoint are missing, damaged or of the wrong kind."""

    exit_code = 4


class MediaError(DataError):
    """One file cannot be decoded; sharding and streaming catch it, count it and continue."""


class EnvironmentFault(BridleError):
    """The machine lacks something: a device, a library, disk space."""

    exit_code = 5


class NumericalError(BridleError):
    """Training produced values that are not finite too often to continue."""

    exit_code = 6


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; finished work is kept.

    Args:
        signal_number: 2 (SIGINT) leaves with 130, 15 (SIGTERM) with 143, as a shell reports them.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


def redacted(text: str) -> str:
    """The text without what an address may carry: names and passwords before an @, and queries, which may be signed."""
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub(r"\1***@", text))


def first_line(error: BaseException) -> str:
    """Of its message; its name and arguments where there is no message."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def closest(name: str, known: Iterable[str]) -> str | None:
    """Of the known names the one that was probably meant."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or the list of all when none is close."""
    known = sorted(known)
    if close := closest(name, known):
        return f"did you mean '{close}'?"
    return "known: " + ", ".join(known)
