"""Parts of remote files on the local disk: what was read last stays, up to a limit that all processes share.

`$BRIDLE_CACHE` names the folder (default `~/.cache/bridle`), `$BRIDLE_CACHE_GB` its limit (default 20). A file appears
there whole or not at all and is named by its content, so any number of processes may use it, and any file in it may
be removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bridle.errors import EnvironmentFault
from bridle.storage.remote import Remote

BLOCK_BYTES = 8 << 20
_GIGABYTE = 10**9


def cache_folder() -> Path:
    """Where what can be fetched again lies."""
    named = os.environ.get("BRIDLE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bridle"


class Cache:
    """Blocks and small files of remote storage.

    Raises:
        EnvironmentFault: `$BRIDLE_CACHE_GB` is no number.
    """

    def __init__(self) -> None:
        self.folder = cache_folder() / "remote"
        said = os.environ.get("BRIDLE_CACHE_GB", "20")
        try:
            self._limit = float(said) * _GIGABYTE
        except ValueError:
            raise EnvironmentFault(f"BRIDLE_CACHE_GB={said} is no number of gigabytes") from None

    def read(self, file: Remote, offset: int, size: int) -> bytes:
        """A part of a file that has a version, from whole blocks; less at its end."""
        parts = []
        for number in blocks_of(offset, size):
            content = self.block(file, number)
            start = max(0, offset - number * BLOCK_BYTES)
            parts.append(content[start : offset + size - number * BLOCK_BYTES])
        return b"".join(parts)

    def block(self, file: Remote, number: int) -> bytes:
        """One block, from here or from there."""
        return self.get(_name(file, number), lambda: file.read_at(number * BLOCK_BYTES, BLOCK_BYTES))

    def has(self, file: Remote, number: int) -> bool:
        """Whether a block need not be fetched."""
        return (self.folder / _name(file, number)).exists()

    def forget(self, file: Remote, offset: int, size: int) -> None:
        """Remove blocks that are not what they should be."""
        for number in blocks_of(offset, size):
            with contextlib.suppress(OSError):
                (self.folder / _name(file, number)).unlink()

    def get(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """A small file under its name; fetched if it is not here. A disk that takes nothing more costs speed alone."""
        path = self.folder / name
        try:
            content = path.read_bytes()
            with contextlib.suppress(OSError):
                os.utime(path)  # used last now
            return content
        except OSError:
            content = fetch()
        with contextlib.suppress(OSError):
            self.put(name, content)
        return content

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
            os.unlink(partial)
            raise
        self._make_room()
        return path

    def _make_room(self) -> None:
        found = sorted(self._files())
        excess = sum(size for _, size, _ in found) - self._limit
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
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    yield status.st_mtime, status.st_size, entry.path


def blocks_of(offset: int, size: int) -> range:
    """Numbers of the blocks that a part of a file touches."""
    return range(offset // BLOCK_BYTES, (offset + max(size, 1) - 1) // BLOCK_BYTES + 1)


def _name(file: Remote, number: int) -> str:
    return f"{hashlib.sha256(file.version.encode()).hexdigest()[:32]}-{number}"
