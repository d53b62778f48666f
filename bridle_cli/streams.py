"""stdout and stderr of the process while a command runs: what happens when nobody takes what is written.

stdout is the result: without its reader (`bridle ... | head`) a command has nothing left to do, on a full disk it has
failed. stderr is talk: where that cannot be written (`2>&1 | tee log`, and tee dies) the work goes on unheard.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from bridle.errors import EnvironmentFault


class ReaderGone(Exception):
    """Nobody reads stdout any more. A broken pipe of anything else is an error like others."""


@contextmanager
def guarded() -> Iterator[None]:
    """Everything written within (our own lines, click's, a library's) meets a failing stream as said above."""
    streams = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115 (None: `2>&-`)
    out, err = (cast(TextIO, kind(stream)) for kind, stream in zip((_Results, _Talk), streams, strict=True))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            with suppress(ReaderGone, EnvironmentFault):  # what is still unwritten after an error that was told
                out.flush()
            err.flush()


class _Stream:
    """A stream that fails only once: what follows, also at the process's end, goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[..., Any], *arguments: str) -> None:
        try:
            act(*arguments)
        except OSError as error:
            with suppress(OSError):  # one of a notebook has no number
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        """Nothing, for talk."""


class _Results(_Stream):
    def _failed(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise EnvironmentFault(
            f"The result cannot be written to stdout: {error.strerror or error}.", "Send it somewhere else."
        ) from error


class _Talk(_Stream):
    pass
