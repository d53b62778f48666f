"""A pool of processes that decode files nobody has looked at yet, and survive them.

Not `multiprocessing`: its pools hang when a worker dies, and its start methods import the user's main script again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import NamedTuple

from bridle.children import python_module
from bridle.decoding.server import Bug, Death, Failure, Report, Task
from bridle.errors import EnvironmentFault
from bridle.schema import Modality

_GROUP, _GROUP_BYTES = 16, 250_000  # small files travel together: a message takes as long as decoding one
_QUEUE = 2  # groups a worker has: the next one waits in its pipe while the parent writes
_AHEAD = 64  # tasks a worker may be ahead of the slowest one: bounds what waits to be written
_STOP_S = 5.0
_POLL_S = 5.0
KILLED = "the decoder was killed, probably out of memory"
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
        theirs = [connection.fileno() for _, connection in pipes]
        self._nurse = subprocess.Popen(
            python_module("bridle.decoding.server", str(modality), *map(str, theirs)),
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ | _ONE_THREAD,
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
        groups = _grouped(tasks)
        again: deque[_Group] = deque()  # whose process died on one of them: now one by one
        coming = next(groups, None)
        busy: dict[Connection, deque[_Group]] = {connection: deque() for connection in self._connections}
        done: dict[int, Report | Failure] = {}
        position = 0
        while coming or again or any(busy.values()) or done:
            while True:
                while again or (coming and coming.first < position + _AHEAD * len(self._connections)):
                    connection = min(self._connections, key=lambda one: len(busy[one]))
                    if len(busy[connection]) == _QUEUE:
                        break
                    if again:
                        group = again.popleft()
                    else:
                        assert coming is not None
                        group, coming = coming, next(groups, None)
                    self._send(connection, group)
                    busy[connection].append(group)
                if position in done:
                    break
                for ready in wait([connection for connection in busy if busy[connection]], _POLL_S):
                    assert isinstance(ready, Connection)
                    group = busy[ready].popleft()
                    answers = self._receive(ready)
                    if isinstance(answers, Death) and len(group.tasks) > 1:
                        again.extend(_Group(group.first + n, [task]) for n, task in enumerate(group.tasks))
                    elif isinstance(answers, Death):
                        done[group.first] = Failure(_cause(answers.signal))
                    else:
                        done.update(enumerate(answers, start=group.first))
                if any(busy.values()) and self._nurse.poll() is not None:
                    raise self._fault()
            yield done.pop(position)
            position += 1

    def _send(self, connection: Connection, group: _Group) -> None:
        try:
            connection.send(group.tasks)
        except OSError as error:
            raise self._fault() from error

    def _receive(self, connection: Connection) -> list[Report | Failure] | Death:
        try:
            answers = connection.recv()
        except (EOFError, OSError) as error:
            raise self._fault() from error
        if isinstance(answers, Death):
            return answers
        for answer in answers:
            if isinstance(answer, Bug):
                raise RuntimeError(f"a decoding process failed:\n{answer.traceback}")
        return list(answers)

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


class _Group(NamedTuple):
    """Tasks that are sent together, and the number of the first."""

    first: int
    tasks: list[Task]


def _grouped(tasks: Iterable[Task]) -> Iterator[_Group]:
    group, size, first = list[Task](), 0, 0
    for number, task in enumerate(tasks):
        if group and (len(group) == _GROUP or size + task.bytes > _GROUP_BYTES):
            yield _Group(first, group)
            group, size, first = [], 0, number
        group.append(task)
        size += task.bytes
    if group:
        yield _Group(first, group)


def _cause(number: int) -> str:
    if number == signal.SIGALRM:
        return "the decoder hung and was stopped"
    if number == signal.SIGKILL:
        return KILLED
    return f"the decoder crashed ({signal.Signals(number).name})"
