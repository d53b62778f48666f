"""What is the same for local and remote places."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.request import url2pathname

from bridle.errors import DataError, UsageError, redacted
from bridle.storage.remote import Remote, RemoteFile

Location = Path | Remote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")
_BUFFER_BYTES = 1 << 20


def locate(place: str | Path | Remote) -> Location:
    """A path of this machine, or `scheme://...` that fsspec knows.

    Raises:
        UsageError: an unknown scheme, or one that carries credentials, which would end up in logs and checkpoints.
    """
    if isinstance(place, Remote | Path):
        return place
    match = _SCHEME.match(place)
    if match is None or match[2] is None:
        return Path(place)
    scheme = match[1].lower()
    if scheme == "file":
        return Path(url2pathname(place[match.end() :].removeprefix("localhost")))
    rest = place[match.end() :].rstrip("/")
    from fsspec import available_protocols

    if scheme not in available_protocols():
        raise UsageError(f"{scheme}:// is not a supported storage", "Supported: s3://, gs:// and others of fsspec.")
    if redacted(place) != place or "@" in rest.partition("/")[0]:
        raise UsageError(
            f"the {scheme}:// address carries credentials or a query; it would be stored with the results",
            "Set them in the environment or the storage's configuration files, and give scheme://bucket/folder.",
        )
    if "::" in rest:
        raise UsageError(f"{scheme}://...::... is a chain of addresses", f"Give {scheme}://bucket/folder alone.")
    if not rest:
        raise UsageError(f"{place} names no bucket", f"Give {scheme}://bucket/folder.")
    return Remote(f"{scheme}://{rest}")


def check_bucket(place: Location, hint: str) -> None:
    """Before work whose result is to go to `place`; of storage other than S3 nothing is asked.

    Raises:
        DataError: there is no such bucket, with this hint.
    """
    if isinstance(place, Remote) and place.url.startswith("s3://") and not place.bucket.exists():
        raise DataError(f"there is no bucket {place.bucket}", hint)


def names_in(folder: Location) -> list[str]:
    """What lies directly in a folder, sorted; nothing where there is none."""
    try:
        return (
            [entry.name for entry in folder.entries() if entry.name]
            if isinstance(folder, Remote)
            else sorted(os.listdir(folder))
        )
    except FileNotFoundError:
        return []


def sizes_in(folder: Location, names: list[str]) -> Iterator[tuple[str, int | OSError]]:
    """Size of each of these files, or why it cannot be had; of a remote folder in one request."""
    if isinstance(folder, Remote):
        found = {entry.name: entry.bytes for entry in folder.entries()} if names else {}
        for name in names:
            yield name, found.get(name, FileNotFoundError(2, "No such file or directory", str(folder / name)))
        return
    for name in names:
        try:
            status = os.stat(folder / name)
            regular = stat.S_ISREG(status.st_mode)
            yield name, status.st_size if regular else _irregular(status.st_mode, folder / name)
        except OSError as error:
            yield name, error


def folders_with(name: str, below: Location) -> Iterator[Location]:
    """This folder and those below it that hold such a file, but none with a hidden name on the way."""
    if isinstance(below, Path):
        for folder, inside, files in os.walk(below, followlinks=False):
            inside[:] = sorted(one for one in inside if not one.startswith("."))
            if name in files:
                yield Path(folder)
        return
    entries = list(below.entries())
    if any(entry.name == name for entry in entries):
        yield below
    for entry in entries:
        if entry.folder and entry.name and not entry.name.startswith("."):
            yield from folders_with(name, below / entry.name)


def opened(file: Location) -> IO[bytes]:
    """A file to read and to seek in."""
    if isinstance(file, Remote):
        return io.BufferedReader(RemoteFile(file), _BUFFER_BYTES)
    return open(open_regular(file, os.O_RDONLY), "rb")


def open_regular(file: Path, flags: int) -> int:
    """A handle of a regular file: opening a pipe would wait, and `/dev/zero` never ends.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    handle = os.open(file, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(mode := os.fstat(handle).st_mode):
        os.close(handle)
        raise _irregular(mode, file)
    return handle


def _irregular(mode: int, file: Path) -> OSError:
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    return OSError(errno.EINVAL, "it is not a regular file", str(file))


def hashed(file: Location) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with opened(file) as content:
        while part := content.read(_BUFFER_BYTES * 8):
            digest.update(part)
    return digest.hexdigest()
