"""The pool of decoding processes on a Ray cluster: to `build` it looks as the local one.

Each actor holds a local pool of one process: what hangs or crashes a decoder costs that process and rejects one file,
as it would here. What takes an actor or its node costs time alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bridle.cluster import Cluster, node, unseen
from bridle.decoding.pool import KILLED, Workers
from bridle.decoding.server import Failure, Report, Task
from bridle.errors import EnvironmentFault
from bridle.schema import Modality

_CHUNK = 8  # tasks in one message at most: it costs the driver about as much as a short audio costs a worker ...
_DYING_S = 3.0  # what takes a node down may take the decoder a moment before the actor: then its verdict is never told
_SHARE = 4  # ... and messages for each actor at least, so that all end at about the same time


class Unseen(NamedTuple):
    """A file that was not there, on this node."""

    path: bytes
    node: str
    reason: str


class Decoder:
    """What an actor holds."""

    def __init__(self, modality: Modality) -> None:
        self._workers = Workers(modality, 1)

    def work(self, tasks: list[Task], contents: list[bytes] | None) -> list[Report | Failure | Unseen]:
        """Answers to the tasks, whose files are there under the same path, or came along."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                here = tasks if contents is None else _copies(tasks, contents, Path(folder))
                answers = list(self._workers.map(here))
        except EnvironmentFault as error:
            time.sleep(_DYING_S)
            raise EnvironmentFault(f"{node()}, a node of the cluster: {error.message}", error.hint) from None
        if Failure(KILLED) in answers:
            time.sleep(_DYING_S)
        if contents is not None:
            return list(answers)
        return [
            Unseen(task.path, node(), answer.reason)
            if isinstance(answer, Failure) and not os.path.exists(task.path)
            else answer
            for task, answer in zip(tasks, answers, strict=True)
        ]


class RayWorkers:
    """`with RayWorkers(cluster, Modality.AUDIO, 8, 10**6) as workers: for report in workers.map(tasks): ...`

    Args:
        count: of actors, a processor each.
        files: about how many tasks there will be.
        send: the files along with the tasks; otherwise all nodes must have them under the same path.
    """

    def __init__(self, cluster: Cluster, modality: Modality, count: int, files: int, *, send: bool = False) -> None:
        self._pool = cluster.pool(Decoder, count, modality, cpus=1)
        self._chunk = 1 if send else min(_CHUNK, max(1, files // (_SHARE * count)))
        self._send = send

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def map(self, tasks: Iterable[Task]) -> Iterator[Report | Failure]:
        """Answers in the order of the tasks.

        Raises:
            EnvironmentFault: a node does not see a file that this machine sees, or the cluster loses work again and
                again.
        """
        rest = map(_everywhere, tasks)
        chunks = iter(lambda: list(islice(rest, self._chunk)), [])
        for answers in self._pool.map((chunk, _contents(chunk) if self._send else None) for chunk in chunks):
            for answer in answers:
                yield _judged(answer)


def _everywhere(task: Task) -> Task:
    """Actors work in folders of their own."""
    return task._replace(path=os.path.abspath(task.path))


def _contents(tasks: list[Task]) -> list[bytes]:
    """Nothing for a file that could not be fetched: `build` knows why."""
    return [path.read_bytes() if (path := Path(os.fsdecode(task.path))).is_file() else b"" for task in tasks]


def _copies(tasks: list[Task], contents: list[bytes], folder: Path) -> list[Task]:
    """The same tasks, of files in a folder of this node."""
    copies = []
    for number, (task, content) in enumerate(zip(tasks, contents, strict=True)):
        copy = folder / f"{number}{Path(os.fsdecode(task.path)).suffix}"
        copy.write_bytes(content)
        copies.append(task._replace(path=os.fsencode(copy)))
    return copies


def _judged(answer: Report | Failure | Unseen) -> Report | Failure:
    """What is missing here too was deleted meanwhile; what is missing there alone is the cluster's fault."""
    if not isinstance(answer, Unseen):
        return answer
    if os.path.exists(answer.path):
        raise unseen(Path(os.fsdecode(answer.path)), answer.node)
    return Failure(answer.reason)
