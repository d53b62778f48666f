"""A Ray cluster: the only file that asks about Ray.

    with Cluster() as cluster, cluster.pool(Decoder, 8, modality) as pool:
        for answer in pool.map(jobs): ...

Work on a cluster is lost now and then, with a process or a whole node; it is then given to another. Since the same job
has the same answer wherever it runs, and answers come in the order of the jobs, nobody sees that it happened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bridle import __version__
from bridle.errors import EnvironmentFault

Engine = Literal["local", "ray"]  # where work runs
_CONNECT_S = 10.0
_QUEUE = 2  # jobs an actor has: the next one waits there while the answer to the last one travels
_AHEAD = 4  # jobs that a pool may be ahead of the slowest one, for each actor: bounds what waits to be taken
_TRIES = 4  # a job that was lost so often takes its process along, or the cluster is broken


class Cluster:
    """The cluster of RAY_ADDRESS, else the one that runs on this machine, else a new one of this machine alone.

    Leaving the `with` ends what was started through it: a new cluster as a whole, of another what is ours there. A
    connection that the program made before (`ray.init`) is used and left open.

    Raises:
        EnvironmentFault: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own reports to nobody
        try:
            import ray
        except ModuleNotFoundError as error:
            raise EnvironmentFault(
                f"--engine ray needs a library that is not installed: {error.name}", "pip install 'bridle[ray]'"
            ) from None
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect()

    def _connect(self) -> None:
        address = os.environ.get("RAY_ADDRESS", "")
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            if place := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):  # Ray itself tries for minutes
                socket.create_connection((place[1], int(place[2])), _CONNECT_S).close()
            with contextlib.chdir(os.sep):  # Ray has all processes import from the current folder, which may be data
                self._ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (OSError, RuntimeError, ValueError) as error:  # OSError: refused or timed out
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise EnvironmentFault(
                f"the Ray cluster at {address or 'this machine'} cannot be used: {last[0]}",
                "Start one (ray start --head), set RAY_ADDRESS=HOST:PORT, or leave out --engine ray.",
            ) from error
        # Ray prints what its nodes report, lost processes for instance, on stdout; that belongs to the result.
        self._ray._private.worker.print_to_stdstream = lambda *_, **__: None
        with contextlib.suppress(ValueError, TypeError):  # not the main thread, or no handler of Python's
            signal.signal(signal.SIGTERM, terminate)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self._ray.shutdown()

    @property
    def cpus(self) -> int:
        """Processors of all nodes, at least one."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return int(self._ray.cluster_resources().get("GPU", 0))

    def put(self, value: Any) -> Any:
        """A reference that all jobs can be given in place of the value; it travels to each node once."""
        return self._ray.put(value)

    def pool(self, kind: Callable[..., Any], count: int, *arguments: Any, cpus: int = 0, gpus: int = 0) -> Pool:
        """That many `kind(*arguments)`, each in a process of its own; `kind` has a method `work`."""
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        remote = self._ray.remote(_Actor).options(**options)
        return Pool(self._ray, lambda: remote.remote(__version__, kind, *arguments), count)

    def task(self, function: Callable[..., Any], *, returns: int) -> Any:
        """`function` as one that runs anywhere, gives references, and is run again when they are lost."""
        remote = self._ray.remote(num_cpus=1, num_returns=returns, max_retries=_TRIES - 1)(function)
        return remote.remote

    def get(self, reference: Any, what: str) -> Any:
        """The value of a reference.

        Args:
            what: was being done, for the message.

        Raises:
            EnvironmentFault: the processes were lost again and again.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise _lost(what, error) from error


class _Actor:
    """Any `kind`, where the same BRIDLE is installed."""

    def __init__(self, version: str, kind: Callable[..., Any], *arguments: Any) -> None:
        if version != __version__:
            raise EnvironmentFault(f"{node()} has bridle {__version__}, but this machine has bridle {version}")
        self._worker = kind(*arguments)

    def begin(self) -> None:
        """Answered once the above is done."""

    def work(self, *arguments: Any) -> Any:
        return self._worker.work(*arguments)


@dataclass(slots=True)
class _Job:
    number: int
    arguments: tuple[Any, ...]
    losses: int = 0


class Pool:
    """Actors that share jobs; leaving the `with` ends them."""

    def __init__(self, ray: Any, start: Callable[[], Any], count: int) -> None:
        self._ray, self._start, self._count = ray, start, count
        self._load: dict[Any, int] = {}  # jobs of each actor that has begun
        self._under_way: dict[Any, tuple[Any, _Job]] = {}
        self._again: deque[_Job] = deque()
        for _ in range(count):
            self._begin(_Job(-1, ()))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._ray.is_initialized():  # cut off: Ray would connect anew and end the process for want of these
            return
        for actor in {*self._load, *(actor for actor, _ in self._under_way.values())}:
            self._ray.kill(actor)

    def map(self, jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """What `work(*job)` says to each job, in order; takes a job when it can be worked on soon.

        Raises:
            EnvironmentFault: a job, or the start of an actor, was lost four times.
            Exception: what `work` raised.
        """
        waiting = (_Job(number, arguments) for number, arguments in enumerate(jobs))
        coming = next(waiting, None)
        done: dict[int, Any] = {}
        position = 0
        while True:
            while (actor := self._free()) is not None:
                if self._again:
                    self._send(actor, self._again.popleft())
                elif coming and coming.number < position + _AHEAD * self._count:
                    self._send(actor, coming)
                    coming = next(waiting, None)
                else:
                    break
            if position in done:
                yield done.pop(position)
                position += 1
            elif coming or self._again or any(job.number >= 0 for _, job in self._under_way.values()):
                done |= self._receive()
            else:
                return

    def _free(self) -> Any:
        """The actor with the least to do, or None."""
        actor = min(self._load, key=self._load.__getitem__, default=None)
        return actor if actor is not None and self._load[actor] < _QUEUE else None

    def _begin(self, job: _Job) -> None:
        actor = self._start()
        self._under_way[actor.begin.remote()] = actor, job

    def _send(self, actor: Any, job: _Job) -> None:
        self._under_way[actor.work.remote(*job.arguments)] = actor, job
        self._load[actor] += 1

    def _receive(self) -> dict[int, Any]:
        """The next answer, if it is one."""
        (reference, *_), _ = self._ray.wait(list(self._under_way), num_returns=1)
        actor, job = self._under_way[reference]
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            self._lose(actor, error)
            return {}
        del self._under_way[reference]
        if job.number < 0:
            self._load[actor] = 0
            return {}
        self._load[actor] -= 1
        return {job.number: answer}

    def _lose(self, lost: Any, error: Exception) -> None:
        """Another actor instead of one that is gone; it begins where the cluster has room."""
        self._ray.kill(lost)  # it may only be out of reach
        self._load.pop(lost, None)
        begins = 0
        for reference in [reference for reference, (actor, _) in self._under_way.items() if actor is lost]:
            _, job = self._under_way.pop(reference)
            job.losses += 1
            if job.losses == _TRIES:
                raise _lost("this work", error) from error
            if job.number < 0:
                begins = job.losses
            else:
                self._again.append(job)
        self._begin(_Job(-1, (), begins))


def node() -> str:
    """This machine's name."""
    return platform.node()


def unseen(path: Path, where: str) -> EnvironmentFault:
    """The error for a file that is here and not on a node: to reject it would make a set that depends on the nodes."""
    return EnvironmentFault(
        f"{where}, a node of the cluster, does not see {path}, which exists on this machine",
        "All nodes need the files under the same path (a shared file system); then start again (shard: with --resume).",
    )


def _lost(what: str, error: Exception) -> EnvironmentFault:
    last = str(error).strip().splitlines() or [type(error).__name__]
    return EnvironmentFault(
        f"the Ray cluster lost {what} {_TRIES} times, the last time with: {last[0]}",
        "Check the nodes (ray status). The usual cause is memory: use fewer --workers.",
    )
