"""A folder from elsewhere is data: what its files say names nothing outside it, asks nothing of a network, and is read
within bounds; nothing is written through its links."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import IO

from bridle.errors import DataError
from bridle.storage.location import Location, open_regular, opened
from bridle.storage.remote import Remote

MOST_JSON_BYTES = 1 << 30  # of a manifest, which lists rejected files and duplicates; it takes 10 times that in memory


def is_plain(name: object) -> bool:
    """Whether a name that a file gives is that of a file beside it: one component, and not `..`."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & {*name}


def recorded(place: str, named_by: Path, option: str) -> Path:
    """A place on this machine that a file names. What is in remote storage the user must name: a folder from elsewhere
    could otherwise have requests made, signed with the user's credentials.

    Args:
        named_by: the file or folder that names it.
        option: by which the user may name it.

    Raises:
        DataError: it is not on this machine.
    """
    if "://" in place:
        raise DataError(
            f"{named_by} names data at {place}, which is not opened unless you name it yourself",
            f"If these are your data: {option} {place}",
        )
    return Path(place)


def read_small(file: Location, most_bytes: int = MOST_JSON_BYTES) -> bytes:
    """The content of a regular file up to a size: a pipe would wait forever, and `/dev/zero` never end.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger.
    """
    size = file.size() if isinstance(file, Remote) else os.stat(file).st_size
    if size > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes / (1 << 20):.0f} MiB", str(file))
    if isinstance(file, Remote):
        return file.read_bytes()
    with opened(file) as content:
        return content.read()


def read_text(file: Location, errors: str = "strict", most_bytes: int = MOST_JSON_BYTES) -> str:
    """`read_small` as text, with newlines as `\\n`.

    Raises:
        OSError: as there. UnicodeDecodeError: it is not text.
    """
    return io.TextIOWrapper(io.BytesIO(read_small(file, most_bytes)), "utf-8", errors).read()


def lock_file(path: Path) -> IO[bytes]:
    """A file to be locked, made where there is none; nothing is written to it, and no link followed.

    Raises:
        OSError: a link or something else is there.
    """
    return open(open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW), "rb+")


def refuse_links(*paths: Path) -> None:
    """What is about to be written to may have come from elsewhere: files that its links name must stay as they are.

    Raises:
        DataError: naming the first that is a link.
    """
    for path in paths:
        if path.is_symlink():
            raise DataError(
                f"{path} is a link to {os.readlink(path)}: nothing is written through links",
                "Remove it, or replace it with a real folder.",
            )
