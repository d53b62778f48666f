"""An object or a folder in remote storage, with the few names of `pathlib.Path` that this project asks for.

Every request is repeated with growing pauses when the network or the server fails. A storage that cannot be used is the
environment's fault; what is wrong with one object is an `OSError` whose `strerror` says what, as for a local file.
Credentials are the libraries' business (environment, `~/.aws`, roles of the machine): none is taken, kept, or shown.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bridle.errors import BridleError, EnvironmentFault

_ATTEMPTS = 8  # some 40 seconds in all, if the answer is a quick no ...
_FIRST_ATTEMPTS = 3  # ... but a storage that has never answered is more likely to be a wrong address
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0
_PART_BYTES = 8 << 20  # of a large file: what is asked for again after a broken connection
# One policy of repetition, ours; the libraries' own would multiply with it.
_ONCE = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 30}
_S3: dict[str, Any] = {"config_kwargs": _ONCE}
_DENIED = re.compile("denied|forbidden", re.IGNORECASE)
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_WEATHER = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3")  # may pass

_answered: set[str] = set()  # schemes that did, in this process

_Result = TypeVar("_Result")


class Entry(NamedTuple):
    """What a folder holds."""

    name: str
    folder: bool
    bytes: int


@dataclass(frozen=True, slots=True, order=True)
class Remote:
    """`scheme://bucket/key`.

    Args:
        url: without a slash at its end.
        version: what tells this content from any other (a hash); files without one are never kept in a cache.

    Raises:
        OSError: from everything that asks the storage, about this object. EnvironmentFault: the storage does not
            answer, or not to these credentials, or its library is missing.
    """

    url: str
    version: str = ""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, path: str) -> Remote:
        return Remote(f"{self.url}/{path}".rstrip("/"))

    @property
    def name(self) -> str:
        return posixpath.basename(self.url)

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> Remote:
        above = posixpath.dirname(self.url)
        return self if above.endswith(":/") else Remote(above)

    def resolve(self) -> Remote:
        """Itself; a path of this machine may be relative."""
        return self

    @property
    def bucket(self) -> Remote:
        """The first part of the address."""
        return Remote("/".join(self.url.split("/")[:3]))

    def with_name(self, name: str) -> Remote:
        return self.parent / name

    def with_suffix(self, suffix: str) -> Remote:
        return Remote(posixpath.splitext(self.url)[0] + suffix)

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def size(self) -> int:
        return int(self._info()["size"])

    def parts(self) -> Iterator[bytes]:
        """The whole object; a broken connection costs a part of it.

        Raises:
            OSError: also when it was replaced meanwhile.
        """
        before = self._info()
        for at in range(0, int(before["size"]), _PART_BYTES):
            yield self.read_at(at, _PART_BYTES)
        if before["size"] > _PART_BYTES and _identity(before) != _identity(self._info()):
            raise OSError(errno.EIO, "it changed while being read", self.url)

    def read_bytes(self) -> bytes:
        return b"".join(self.parts())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def read_at(self, offset: int, size: int) -> bytes:
        """A part of the object; less at its end."""
        try:
            content: bytes = self._ask(lambda files: files.cat_file(self.url, start=offset, end=offset + size))
        except OSError as error:
            if error.errno == errno.EINVAL and "range" in str(error.strerror):  # behind the end
                return b""
            raise
        if len(content) > size:
            raise OSError(errno.ENOTSUP, "this server cannot send a part of a file", self.url)
        return content

    def upload(self, source: Path) -> None:
        """Make the object a copy of a local file; it appears whole or not at all."""
        self._ask(lambda files: files.put_file(str(source), self.url))

    def write_bytes(self, content: bytes) -> None:
        self._ask(lambda files: files.pipe_file(self.url, content))

    def unlink(self) -> None:
        self._ask(lambda files: files.rm_file(self.url))

    def entries(self) -> Iterator[Entry]:
        """What lies directly in this folder, sorted by name; a folder without a name is that of keys with `//`."""
        key, found = self.url.partition("://")[2], list[Entry]()
        for one in self._ask(lambda files: files.ls(self.url, detail=True)):
            nameless, folder = one["name"].strip("/") in (key, self.url), one["type"] == "directory"
            if folder or not nameless:  # not the mark of the folder itself
                name = "" if nameless else posixpath.basename(one["name"].rstrip("/"))
                found.append(Entry(name, folder, one["size"] or 0))
        yield from sorted(found)

    def _kind(self) -> str | None:
        """ "file", "directory", or None for nothing."""
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return None

    def _info(self) -> dict[str, Any]:
        # Not fsspec's `exists` and `isfile`: they take a connection that breaks for a no.
        known: dict[str, Any] = self._ask(lambda files: files.info(self.url))
        return known

    def _ask(self, request: Callable[[Any], _Result]) -> _Result:
        scheme, attempt = self.url.partition("://")[0], 1
        while True:
            try:
                answer = request(_files_of(scheme))
                _answered.add(scheme)
                return answer
            except Exception as error:
                if "Credential" in type(error).__name__:
                    raise self._fault("no credentials for this storage were found") from None
                if isinstance(error, PermissionError) and not _DENIED.search(_reason(error)):
                    raise self._fault(_reason(error)) from None  # of the token or the clock, not of this object
                if isinstance(error, _FINAL) or (isinstance(error, OSError) and error.errno == errno.EINVAL):
                    _answered.add(scheme)
                    raise type(error)(error.errno or errno.EIO, _reason(error), self.url) from None
                if isinstance(error, BridleError):
                    raise
                if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _WEATHER:
                    raise self._fault(f"{type(error).__name__}: {error}") from error  # reference:// needs more to work
                if attempt == (_ATTEMPTS if scheme in _answered else _FIRST_ATTEMPTS):
                    raise self._fault(f"tried {attempt} times, {_reason(error)}") from None
            time.sleep(min(_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.5))
            attempt += 1

    def _fault(self, why: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self.url} cannot be reached: {why}",
            "Check the address, the network and the credentials. Continue sharding or training with --resume.",
        )


def _identity(info: dict[str, Any]) -> list[str]:
    return [str(info.get(name)) for name in ("size", "ETag", "etag", "LastModified", "mtime", "created")]


def _files_of(scheme: str) -> Any:
    """The file system of a scheme; fsspec keeps one a process, and makes a new one after a fork."""
    import fsspec

    options = _S3 if scheme in ("s3", "s3a") else {}
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except ImportError as error:
        extra = "pip install 'bridle[s3]'" if scheme in ("s3", "s3a") else str(error)
        raise EnvironmentFault(f"{scheme}:// needs a library that is not installed", extra) from error
    if hasattr(files, "retries"):
        files.retries = 1
    return files


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class RemoteFile(io.RawIOBase):
    """A remote object as a file that can be read and sought in; wrap it in `io.BufferedReader`."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._size, self._at = remote, remote.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        content = self._remote.read_at(self._at, wanted)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
