"""Parts of remote files on the local disk: what was read last stays, up to a limit that all processes share.

`$BRIDLE_CACHE` names the folder (default `~/.cache/bridle`), `$BRIDLE_CACHE_GB` its limit (default 20). A file appears
there whole or not at all and is named by its content, so any number of processes may use it, and any file in it may
be removed at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bridle.errors import EnvironmentFault
from bridle.storage.foreign import lock_file
from bridle.storage.remote import Remote

BLOCK_BYTES = 8 << 20
_GIGABYTE = 10**9


def cache_folder() -> Path:
    """Where what can be fetched again lies."""
    if named := os.environ.get("BRIDLE_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bridle"
    except RuntimeError:
        raise EnvironmentFault("no home folder for the cache", "Set a folder: BRIDLE_CACHE=...") from None


class Cache:
    """Blocks and small files of remote storage.

    Raises:
        EnvironmentFault: `$BRIDLE_CACHE_GB` is no number, or there is no home folder.
    """

    def __init__(self) -> None:
        self.folder = cache_folder() / "remote"
        limit = os.environ.get("BRIDLE_CACHE_GB", "20")
        try:
            self.limit_bytes = int(float(limit) * _GIGABYTE)
        except (ValueError, OverflowError):
            self.limit_bytes = -1
        if self.limit_bytes < 0:
            raise EnvironmentFault(f"BRIDLE_CACHE_GB={limit} is not a number of gigabytes", "Use a number, such as 20.")

    def read(self, file: Remote, offset: int, size: int) -> bytes:
        """A part of a file that has a version, from whole blocks; less at its end."""
        parts = []
        for number in blocks_of(offset, size):
            start = max(0, offset - number * BLOCK_BYTES)
            stop = min(BLOCK_BYTES, offset + size - number * BLOCK_BYTES)
            part = self._part(_name(file, number), start, stop)
            parts.append(self.block(file, number)[start:stop] if part is None else part)
        return b"".join(parts)

    def block(self, file: Remote, number: int) -> bytes:
        """One block, from here or from there; whoever wants one that is on its way waits for it.

        A disk that takes nothing more costs speed alone.
        """
        name = _name(file, number)
        with self._alone(name):
            content = self._part(name, 0, BLOCK_BYTES)
            if content is None:
                content = file.read_at(number * BLOCK_BYTES, BLOCK_BYTES)
                with contextlib.suppress(OSError):
                    self.put(name, content)
        return content

    def has(self, file: Remote, number: int) -> bool:
        """Whether a block need not be fetched."""
        return (self.folder / _name(file, number)).exists()

    def forget(self, file: Remote, offset: int, size: int) -> None:
        """Remove blocks that are not what they should be."""
        for number in blocks_of(offset, size):
            with contextlib.suppress(OSError):
                (self.folder / _name(file, number)).unlink()

    def _part(self, name: str, start: int, stop: int) -> bytes | None:
        """Of a block that is here."""
        try:
            with open(self.folder / name, "rb", buffering=0) as file:
                with contextlib.suppress(OSError):  # of another user
                    os.utime(file.fileno())  # used last now
                return os.pread(file.fileno(), stop - start, start)
        except OSError:
            return None

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One thread of one process at a time for this name, as far as the folder allows."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = hashlib.sha256(name.encode()).hexdigest()[:3]  # blocks of one file do not wait for each other
            lock = lock_file(self.folder / f".lock-{number}")
        except OSError:
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a process forked meanwhile has it open too

    def put(self, name: str, content: bytes) -> Path:
        """Keep a file; the least used ones go when there are too many.

        Raises:
            OSError: there is no place.
        """
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=".", dir=self.folder)
        try:
            with open(handle, "wb") as file:
                file.write(content)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        self._make_room()
        return path

    def _make_room(self) -> None:
        found = sorted(self._files())
        excess = sum(size for _, size, _ in found) - self.limit_bytes
        for _, size, path in found[:-1]:  # what came last is wanted now
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
            excess -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """When it was used last, size, path."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # locks, and what is being written
                    continue
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    yield status.st_mtime, status.st_size, entry.path


def blocks_of(offset: int, size: int) -> range:
    """Numbers of the blocks that a part of a file touches."""
    return range(offset // BLOCK_BYTES, (offset + max(size, 1) - 1) // BLOCK_BYTES + 1)


def _name(file: Remote, number: int) -> str:
    return f"{hashlib.sha256(file.version.encode()).hexdigest()[:32]}-{number}"
