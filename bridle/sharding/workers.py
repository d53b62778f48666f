"""A pool of processes that decode files nobody has looked at yet, and survive them.

Not `multiprocessing`: its pools hang when a worker dies, and its start methods import the user's main script again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType

import bridle
from bridle.errors import EnvironmentFault
from bridle.sharding.child import Bug, Death, Failure, Report, Task

_AHEAD = 16  # tasks a worker may be ahead of the slowest one: bounds what waits to be written
_STOP_S = 5.0


class Workers:
    """`with Workers(2) as workers: for report in workers.map(tasks): ...`"""

    def __init__(self, count: int) -> None:
        self._members = [_Member() for _ in range(max(1, count))]

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.close(at_once=kind is not None)

    def map(self, tasks: Sequence[Task]) -> Iterator[Report | Failure]:
        """Answers in the order of the tasks, whoever finishes first."""
        waiting = deque(enumerate(tasks))
        idle = list(self._members)
        busy: dict[Connection, tuple[_Member, int]] = {}
        done: dict[int, Report | Failure] = {}
        for position in range(len(tasks)):
            while position not in done:
                while idle and waiting and waiting[0][0] < position + _AHEAD * len(self._members):
                    index, task = waiting.popleft()
                    member = idle.pop()
                    member.send(task)
                    busy[member.connection] = member, index
                for ready in wait(list(busy)):
                    member, index = busy.pop(ready)  # type: ignore[call-overload]
                    done[index] = member.receive()
                    idle.append(member)
            yield done.pop(position)


class _Member:
    """One nurse and the connection to whoever works under it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        # decoders chatter; it is shown only when the process cannot start
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        roots = [str(Path(bridle.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots)), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bridle.sharding.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the whole group
        )
        theirs.close()

    def send(self, task: Task) -> None:
        try:
            self.connection.send(task)
        except OSError as error:
            raise self._fault() from error

    def receive(self) -> Report | Failure:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._fault() from error
        if isinstance(answer, Bug):
            raise RuntimeError(f"a decoding process failed:\n{answer.traceback}")
        if isinstance(answer, Death):
            return Failure(_cause(answer.signal))
        return answer

    def close(self, at_once: bool) -> None:
        self.connection.close()  # both processes end when they read its end
        if at_once:
            self._kill()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._log.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _fault(self) -> EnvironmentFault:
        self._process.wait(_STOP_S)
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return EnvironmentFault(f"a decoding process could not run: {last[0]}", "Try: bridle doctor")


def _cause(number: int) -> str:
    if number == signal.SIGALRM:
        return "the decoder hung and was stopped"
    if number == signal.SIGKILL:
        return "the decoder was killed, probably for want of memory"
    return f"the decoder crashed ({signal.Signals(number).name})"
