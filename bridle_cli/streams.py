"""stdout and stderr of the process while a command runs: what happens when nobody takes what is written.

stdout is the result: without its reader (`bridle ... | head`) a command has nothing left to do, on a full disk it has
failed. stderr is talk: where that cannot be written (`2>&1 | tee log`, and tee dies) the work continues unheard.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from bridle.errors import EnvironmentFault


class ReaderGone(Exception):
    """Nobody reads stdout any more. A broken pipe of anything else is an error like others."""


@contextmanager
def guarded(*, ends: bool) -> Iterator[None]:
    """Everything written within (our own lines, click's, a library's) meets a failing stream as said above.

    Args:
        ends: the process ends with the command: what a failed stream still holds and Python then flushes goes nowhere.
    """
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        opened = (
            nowhere if stream is None or getattr(stream, "closed", False) else stream  # None: `2>&-`
            for stream in (sys.stdout, sys.stderr)
        )
        out, err = (kind(stream) for kind, stream in zip((_Results, _Talk), opened, strict=True))
        with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
            try:
                yield
            finally:
                with suppress(ReaderGone, EnvironmentFault):  # what is still unwritten after an error that was reported
                    out.flush()
                err.flush()
                for stream in (out, err):
                    if ends and stream.error:
                        with suppress(AttributeError, OSError):  # one of a notebook has no number
                            os.dup2(nowhere.fileno(), stream.fileno())


@io.TextIOBase.register
class _Stream:
    """The caller's stream, never closed from here. Once it has failed, nothing more is given to it.

    Attributes:
        error: how it failed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # `copy` asks for some before there is a stream
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def buffer(self) -> _Stream:
        """For bytes: click writes them where stdout is ASCII."""
        return type(self)(self._stream.buffer)  # type: ignore[arg-type]

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.flush()

    def isatty(self) -> bool:
        return hasattr(self._stream, "isatty") and self._stream.isatty()

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if hasattr(self._stream, "flush"):
            self._try(self._stream.flush)

    def _try(self, act: Callable[..., Any], *arguments: str) -> None:
        if not self.error:
            try:
                act(*arguments)
            except OSError as error:
                self.error = error
        if self.error:
            self._failed(self.error)

    def _failed(self, error: OSError) -> None:
        """Nothing, for talk."""


class _Results(_Stream):
    def _failed(self, error: OSError) -> None:
        """Every time: click tries a stream with an empty text, and ignores what that raises."""
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise EnvironmentFault(
            f"The result cannot be written to stdout: {error.strerror or error}.", "Redirect it elsewhere."
        ) from error


class _Talk(_Stream):
    pass
