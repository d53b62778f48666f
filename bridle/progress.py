"""Progress events of the library, sent to a listener or to the log.

    with progress.listening(callback):   # callback(kind, **fields)
        pretrain(...)

Kinds: `warning`, `note` and `detail` have a `message`; `progress` has `done`, `total` (None: unknown), `what`; training
and profiling add their own. Threads that the library starts do not report.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Listener = Callable[..., None]  # listener(kind, **fields)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Item = TypeVar("_Item")
_LEVELS = {"warning": logging.WARNING, "note": logging.INFO, "detail": logging.DEBUG}


def _log(kind: str, **fields: Any) -> None:
    """Where nobody listens: messages go to the logger `bridle`, which prints warnings unless told otherwise."""
    if kind in _LEVELS:
        logging.getLogger("bridle").log(_LEVELS[kind], "%s", fields["message"])


_LISTENER: ContextVar[Listener] = ContextVar("listener", default=_log)


@contextmanager
def listening(new: Listener | None) -> Iterator[None]:
    """Everything reported inside goes to `new`; None: as outside."""
    before = _LISTENER.set(new or listener())
    try:
        yield
    finally:
        _LISTENER.reset(before)


def heard(function: _Function) -> _Function:
    """Whoever is named by the function's `on_event` listens while it runs."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with listening(options.get("on_event")):
            return function(*arguments, **options)

    return call  # type: ignore[return-value]


def each(items: Iterator[_Item], new: Listener | None) -> Iterator[_Item]:
    """The same items; `new` listens while they are made, and not while they are used."""
    while True:
        with listening(new):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def silent(kind: str, **fields: Any) -> None:
    """Listens to nothing."""


def listener() -> Listener:
    """Who listens now."""
    return _LISTENER.get()


def report(kind: str, **fields: Any) -> None:
    """One event."""
    listener()(kind, **fields)


def warn(message: str) -> None:
    report("warning", message=message)


def note(message: str) -> None:
    report("note", message=message)


def detail(message: str) -> None:
    report("detail", message=message)
