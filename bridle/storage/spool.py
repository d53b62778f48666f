"""Remote files on their way to a decoder: local copies in the order they are asked for, some of them ahead."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bridle.storage.remote import Remote

_THREADS = 8
_AHEAD = 32  # files

_Name = TypeVar("_Name")


def copies(
    files: Iterable[tuple[_Name, Remote]], folder: Path, most_bytes: int
) -> Iterator[tuple[_Name, Path | OSError]]:
    """Each file's name and its copy in `folder`, which the caller removes; or why there is none.

    Larger files than `most_bytes` are not copied.

    Raises:
        EnvironmentFault: the storage does not answer any more; that is no fault of the file.
    """
    stop = threading.Event()
    waiting: deque[tuple[_Name, Future[Path | OSError]]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for number, (name, file) in enumerate(files):
            waiting.append((name, pool.submit(_copy, file, folder / f"{number}{file.suffix}", most_bytes, stop)))
            if len(waiting) == _AHEAD:
                name, copy = waiting.popleft()
                yield name, copy.result()
        for name, copy in waiting:
            yield name, copy.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _copy(file: Remote, to: Path, most_bytes: int, stop: threading.Event) -> Path | OSError:
    try:
        with open(to, "wb") as local:
            for part in file.parts():
                if local.tell() + len(part) > most_bytes:
                    return OSError(errno.EFBIG, f"more than {most_bytes / 1024**3:.0f} GiB in one file", str(file))
                local.write(part)
                if stop.is_set():
                    break
    except OSError as error:
        if error.filename != str(file):  # our disk, not the storage
            raise
        return error
    return to
