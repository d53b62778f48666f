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
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType

import bridle
from bridle.errors import EnvironmentFault
from bridle.schema import Modality
from bridle.sharding.child import Bug, Death, Failure, Report, Task

_QUEUE = 2  # tasks a worker has: the next one waits in its pipe while the parent writes
_AHEAD = 16  # tasks a worker may be ahead of the slowest one: bounds what waits to be written
_STOP_S = 5.0
_POLL_S = 5.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process uses one core, and forks safely


class Workers:
    """`with Workers(Modality.AUDIO, 2) as workers: for report in workers.map(tasks): ...`

    Raises:
        EnvironmentFault: the processes cannot start.
    """

    def __init__(self, modality: Modality, count: int) -> None:
        pipes = [Pipe() for _ in range(max(1, count))]
        self._connections = [ours for ours, _ in pipes]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # decoders chatter; shown when the nurse cannot run
        roots = [str(Path(bridle.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        theirs = [connection.fileno() for _, connection in pipes]
        self._nurse = subprocess.Popen(
            [sys.executable, "-m", "bridle.sharding.child", str(modality), *map(str, theirs)],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, roots))},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the whole group
        )
        for _, connection in pipes:
            connection.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()  # the processes end when they read its end
        if kind is not None:
            self._kill()
        try:
            self._nurse.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill()
            self._nurse.wait()
        self._log.close()

    def map(self, tasks: Iterable[Task]) -> Iterator[Report | Failure]:
        """Answers in the order of the tasks, whoever finishes first; takes a task when it can be worked on soon."""
        waiting = enumerate(tasks)
        coming = next(waiting, None)
        busy: dict[Connection, deque[int]] = {connection: deque() for connection in self._connections}
        done: dict[int, Report | Failure] = {}
        position = 0
        while coming or any(busy.values()) or done:
            while True:
                while coming and coming[0] < position + _AHEAD * len(self._connections):
                    connection = min(self._connections, key=lambda one: len(busy[one]))
                    if len(busy[connection]) == _QUEUE:
                        break
                    self._send(connection, coming[1])
                    busy[connection].append(coming[0])
                    coming = next(waiting, None)
                if position in done:
                    break
                for ready in wait([connection for connection in busy if busy[connection]], _POLL_S):
                    assert isinstance(ready, Connection)
                    done[busy[ready].popleft()] = self._receive(ready)
                if any(busy.values()) and self._nurse.poll() is not None:
                    raise self._fault()
            yield done.pop(position)
            position += 1

    def _send(self, connection: Connection, task: Task) -> None:
        try:
            connection.send(task)
        except OSError as error:
            raise self._fault() from error

    def _receive(self, connection: Connection) -> Report | Failure:
        try:
            answer = connection.recv()
        except (EOFError, OSError) as error:
            raise self._fault() from error
        if isinstance(answer, Bug):
            raise RuntimeError(f"a decoding process failed:\n{answer.traceback}")
        if isinstance(answer, Death):
            return Failure(_cause(answer.signal))
        assert isinstance(answer, Report | Failure)
        return answer

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nurse.pid, signal.SIGKILL)

    def _fault(self) -> EnvironmentFault:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nurse.wait(_STOP_S)
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return EnvironmentFault(
            f"the decoding processes could not run: {last[0]}",
            "Free memory or processes on this machine, or use fewer --workers.",
        )


def _cause(number: int) -> str:
    if number == signal.SIGALRM:
        return "the decoder hung and was stopped"
    if number == signal.SIGKILL:
        return "the decoder was killed, probably for want of memory"
    return f"the decoder crashed ({signal.Signals(number).name})"
