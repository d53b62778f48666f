"""The processes that decode unknown files and may be lost: `python -m bridle.sharding.child MODALITY FD FD ...`.

A nurse loads the libraries once and forks a process for each FD; when a decoder kills one, the nurse
reports it and forks the next, in milliseconds. A hang is ended by the kernel: SIGALRM, left at its default,
stops a process even while a decoder holds Python's lock.

Messages on an FD: Task in; Report, Failure or Death out.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import traceback
import zlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from bridle import media
from bridle.errors import MediaError
from bridle.patches.statistics import Moments, clip_moments, typical_window
from bridle.schema import MediaInfo, Modality
from bridle.sharding.transcode import transcode


class Task(NamedTuple):  # pickled in a fifth of a dataclass's time
    """Decode one file; all times in seconds."""

    path: bytes
    modality: Modality
    timeout_s: float
    transcode: bool = False
    measure: bool = False
    check: bool = True  # decode all of it; otherwise believe its header


class Report(NamedTuple):
    """A file that decodes: what it holds, hash and CRC-32 of its bytes, its share of the statistics, its new bytes if
    transcoded."""

    info: MediaInfo
    sha256: bytes
    crc: int
    moments: Moments | None = None
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that does not."""

    reason: str


@dataclass(frozen=True, slots=True)
class Death:
    """The decoder took its process along."""

    signal: int


@dataclass(frozen=True, slots=True)
class Bug:
    """An error of ours; the parent raises it."""

    traceback: str


def work(task: Task) -> Report | Failure:
    """Check one file from beginning to end."""
    path = Path(os.fsdecode(task.path))
    try:
        raw = media.read_bytes(path)
        info = (media.check if task.check else media.probe)(raw, path.name, task.modality)
        if info.modality is not task.modality:
            return Failure(f"holds {info.modality}, not {task.modality}")
        content = None
        if task.transcode:
            info, content = transcode(raw, info)
        moments = None
        if task.measure:
            moments = clip_moments(media.decode(raw if content is None else content, info, window=typical_window(info)))
        return Report(info, hashlib.sha256(raw).digest(), zlib.crc32(raw), moments, content)
    except MediaError as error:
        return Failure(error.message)
    except MemoryError:
        return Failure("cannot be decoded: not enough memory")


def serve(connection: Connection) -> None:
    """Answer tasks until the parent closes the connection."""
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, task.timeout_s)
        try:
            answer: Report | Failure | Bug = work(task)
        except Exception:
            answer = Bug(traceback.format_exc())
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


def nurse(modality: str, connections: list[Connection]) -> None:
    """Keep one working process alive for each connection, until the parent closes them."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    media.preload(Modality(modality))  # once, before the forks
    working = {_fork(connection): connection for connection in connections}
    while working:
        process, status = os.wait()
        connection = working.pop(process)
        if os.WIFSIGNALED(status):
            connection.send(Death(os.WTERMSIG(status)))
            working[_fork(connection)] = connection


def _fork(connection: Connection) -> int:
    process = os.fork()
    if process:
        return process
    try:
        serve(connection)
    except OSError:  # the parent is gone
        pass
    finally:
        os._exit(0)


if __name__ == "__main__":
    from bridle.sharding import child  # messages must carry the importable module's name, not __main__

    child.nurse(sys.argv[1], [Connection(int(number)) for number in sys.argv[2:]])
    os._exit(0)  # nothing to tidy up, and taking the libraries down takes seconds for which the parent would wait
