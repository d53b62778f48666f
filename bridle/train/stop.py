"""When a run is to end before its time: it is told to by a signal, or one of several ranks has no more data.

Ranks must end after the same step. So each says in every step what it was told, and all act on the sum.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bridle.errors import DataError, EnvironmentFault, Interrupted

FAILED = 1_000_000  # instead of a signal: more than those of all ranks add up to
_ECHO_S = 2.0  # within which another signal is the first one once more


class Stop:
    """Why the run is to end, if it is.

    Attributes:
        told: what this rank says in the next step: the number of its signal, one for a failure, or 0.
        agreed: what all ranks end by, or 0.
        failure: why this rank has no more data.
    """

    def __init__(self) -> None:
        self.asked, self.agreed, self._first_s = 0, 0, 0.0
        self.failure: DataError | EnvironmentFault | None = None

    def fail(self, failure: DataError | EnvironmentFault) -> None:
        """This rank has no more data."""
        self.failure, self.asked = failure, self.asked or FAILED

    @property
    def failed(self) -> bool:
        """Whether they end because the data of one of them failed."""
        return self.agreed >= FAILED

    def hear(self, asked: float) -> None:
        """What all ranks said in a step, added up."""
        if asked:
            self.agreed = FAILED if asked >= FAILED else self.asked or signal.SIGTERM

    def raise_agreed(self) -> None:
        """Stop if the ranks agreed to.

        Raises:
            Interrupted: by a signal.
            DataError, EnvironmentFault: data failed, on this rank or another.
        """
        if self.failed:
            raise self.failure or EnvironmentFault("another rank failed; see its error")
        if self.agreed:
            raise Interrupted(self.agreed)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGINT and SIGTERM finish the step first; a second SIGINT, later on, does not wait.

        Whoever started several processes passes on to them what they have been sent already.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if not self.asked:
            self.asked, self._first_s = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first_s > _ECHO_S:
            raise KeyboardInterrupt
