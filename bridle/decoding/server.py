"""The processes that decode unknown files and may be lost: `python -m bridle.decoding.server MODALITY FD FD ...`.

A nurse loads the libraries once and forks a process for each FD; when a decoder kills one, the nurse
reports it and forks the next, in milliseconds. A hang is ended by the kernel: SIGALRM, left at its default,
stops a process even while a decoder holds Python's lock.

Messages on an FD: a list of Tasks in; a list with a Report or Failure of each, or one Death, out.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import sys
import traceback
import zlib
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from bridle import media
from bridle.errors import MediaError
from bridle.patches.statistics import PIXEL_RULES, Moments, clip_moments, measure, typical_window
from bridle.schema import MediaInfo, Modality

_TIMEOUT_S = 60.0  # for a file, and ...
_TIMEOUT_S_PER_MB = 2.0  # ... for each megabyte of it


class Task(NamedTuple):  # pickled in a fifth of a dataclass's time
    """Decode one file; all times in seconds."""

    path: bytes
    modality: Modality
    timeout_s: float
    bytes: int  # of the file
    transcode: bool = False
    measure: bool = False
    check: bool = True  # decode all of it; otherwise trust its header
    channel: int | None = None  # of audio; None: the mean of all

    @classmethod
    def of(
        cls,
        path: Path,
        modality: Modality,
        transcode: bool = False,
        measure: bool = False,
        check: bool = True,
        channel: int | None = None,
    ) -> Task:
        """With the time that a file of its size may take."""
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # the worker will say why
        timeout_s = _TIMEOUT_S + _TIMEOUT_S_PER_MB * size / 1e6
        return cls(os.fsencode(path), modality, timeout_s, size, transcode, measure, check, channel)


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
        if task.channel and 1 < (info.channels or 1) < task.channel:
            return Failure(f"has {info.channels} channels, not the requested channel {task.channel}")
        info = replace(info, channel=task.channel)
        content, found = None, info
        if task.transcode:
            from bridle.decoding.transcode import transcode

            info, content = transcode(raw, info)
        moments = None
        if task.measure:
            moments = moments_of(raw if content is None else content, info, typical_window(info))
            if stored := media.as_stored(raw, found, typical_window(found)):
                moments = replace(moments, measured=measure(stored))
        return Report(info, hashlib.sha256(raw).digest(), zlib.crc32(raw), moments, content)
    except MediaError as error:
        return Failure(error.message)
    except MemoryError:
        return Failure("cannot be decoded: not enough memory")


def moments_of(data: bytes | Path, info: MediaInfo, window: tuple[float, float] | None, **options: Any) -> Moments:
    """A file's share of the statistics.

    Args:
        window, options: of `media.decode`.
    """
    levels_CL = media.levels(data, info)
    if levels_CL is not None:
        return Moments(1.0, (), (), levels_CL=tuple(map(tuple, levels_CL.tolist())))
    return clip_moments(media.decode(data, info, window=window, pixel_rules=PIXEL_RULES, **options))


def serve(connection: Connection, at_work: mmap.mmap) -> None:
    """Answer tasks until the parent closes the connection; `at_work` tells the nurse when one has been taken."""
    while True:
        at_work[0] = False
        connection.poll(None)
        at_work[0] = True
        try:
            tasks = connection.recv()
        except EOFError:
            return
        connection.send([_answer(task) for task in tasks])


def _answer(task: Task) -> Report | Failure | Bug:
    signal.setitimer(signal.ITIMER_REAL, task.timeout_s)
    try:
        return work(task)
    except Exception:
        return Bug(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def nurse(modality: str, connections: list[Connection]) -> None:
    """Keep one working process alive for each connection, until the parent closes them."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    media.preload(Modality(modality))  # once, before the forks
    working: dict[int, tuple[Connection, mmap.mmap]] = {}
    for connection in connections:
        _fork(connection, mmap.mmap(-1, 1), working)
    while working:
        process, status = os.wait()
        connection, at_work = working.pop(process)
        if os.WIFSIGNALED(status):
            if at_work[0]:  # nobody waits for an answer of one that was killed between two tasks
                connection.send(Death(os.WTERMSIG(status)))
            _fork(connection, at_work, working)


def _fork(connection: Connection, at_work: mmap.mmap, working: dict[int, tuple[Connection, mmap.mmap]]) -> None:
    process = os.fork()
    if process:
        working[process] = connection, at_work
        return
    try:
        serve(connection, at_work)
    except OSError:  # the parent is gone
        pass
    finally:
        os._exit(0)


if __name__ == "__main__":
    from bridle.decoding import server  # messages must carry the importable module's name, not __main__

    server.nurse(sys.argv[1], [Connection(int(number)) for number in sys.argv[2:]])
    os._exit(0)  # nothing to tidy up, and taking the libraries down takes seconds for which the parent would wait
