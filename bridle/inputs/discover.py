"""What lies below a folder: candidates by suffix, one after the other. Nothing is opened and nothing is kept here."""

from __future__ import annotations

import os
import re
import shlex
import tarfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from bridle.errors import DataError
from bridle.media import SUFFIXES, detect
from bridle.schema import Modality
from bridle.storage import Location, Remote, opened

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


@dataclass(slots=True)
class Found:
    """What a walk met, complete at its end.

    Attributes:
        counts: candidates of each modality.
        others: files that are not candidates.
        archives: those of them that are tars or zips, and `archive`: the first.
        rejects: folders and links that could not be read, with the reason.
        bytes: of the candidates in remote storage, whose listing tells.
    """

    counts: Counter[Modality] = field(default_factory=Counter)
    others: int = 0
    archives: int = 0
    archive: str = ""
    rejects: list[dict[str, str]] = field(default_factory=list)
    bytes: int = 0

    def other(self, path: str) -> None:
        """Count a file that is not a candidate."""
        self.others += 1
        if path.lower().endswith(_ARCHIVES):
            self.archives += 1
            self.archive = self.archive or path

    def choose(self, raw: Location, modality: Modality | None) -> Modality:
        """The modality to continue with: the one asked for, or the only one there.

        Raises:
            DataError: none, or several to choose from.
        """
        listing = ", ".join(f"{self.counts[kind]} {kind}" for kind in Modality if self.counts[kind])
        if modality is None and len(self.counts) > 1:
            raise DataError(f"{raw} holds several kinds of media: {listing}", "Choose one with --modality.")
        chosen = modality or next(iter(self.counts), None)
        if chosen is None or not self.counts[chosen]:
            what = f"no {modality} files" if modality else "no audio, image or video files"
            if self.archives:
                raise not_read(raw, self)
            suffixes = SUFFIXES[modality] if modality else frozenset().union(*SUFFIXES.values())
            beside = f" (it holds {listing})" if listing else f" ({self.others} other files)" if self.others else ""
            raise DataError(f"{what} below {raw}{beside}", "Known suffixes: " + " ".join(sorted(suffixes)))
        return chosen


def refuse_archives(place: Location) -> None:
    """Refuse archives of other programs where shards are expected; raises DataError."""
    found = Found()
    if place.is_file():
        found.other(place.name)
        place = place.parent
    else:
        deque(walk(place, found), maxlen=0)
    if found.archives:
        raise not_read(place, found)


def not_read(folder: Location, found: Found) -> DataError:
    """Archives where media or shards are expected: of another program, or of a set that has lost its manifest."""
    first = folder / found.archive
    if _is_ours(first):
        return DataError(
            f"no shards below {folder}: {first} was written by bridle shard, but its manifest.json is missing",
            "Copy the whole folder of the set; if bridle shard was interrupted, repeat its command with --resume.",
        )
    several = f" and {found.archives - 1} other archives" if found.archives > 1 else ""
    name, where = shlex.quote(first.name), shlex.quote(str(first.parent))
    command = f"mkdir media && unzip {name} -d media"
    if not name.endswith(".zip"):  # a folder for each: names in two tars may be the same
        command = 'for tar in *.tar*; do mkdir -p "media/$tar" && tar -xf "$tar" -C "media/$tar"; done'
    return DataError(
        f"{first}{several}: archives of other programs (WebDataset, img2dataset, ...) are not supported",
        f"Extract the files, then shard them: cd {where} && {command}\n"
        "bridle shard media --labels sidecar (labels in a .json or .cls beside each file; else --labels none)",
    )


def _is_ours(tar: Location) -> bool:
    """By the name of its first member."""
    try:
        with opened(tar) as file, tarfile.open(fileobj=file, mode="r:") as members:
            first = members.next()
    except (OSError, tarfile.TarError, ValueError, OverflowError):
        return False
    return first is not None and re.fullmatch(r"[0-9a-f]{24}\.\w+", first.name) is not None


def check_raw(raw: Location) -> None:
    """Check that the folder exists; raises DataError."""
    try:
        exists, folder = raw.exists(), raw.is_dir()
    except OSError as error:
        raise DataError(f"{raw} cannot be read: {error.strerror}") from error
    if not exists:
        raise DataError(f"{raw} does not exist", "Name the folder that holds the media.")
    if not folder:
        if raw.is_file():
            refuse_archives(raw)
            raise DataError(f"{raw} is a file, not a folder of media", f"Give its folder: bridle shard {raw.parent}")
        raise DataError(f"{raw} is neither a file nor a folder")


def walk(raw: Location, found: Found, *, sound_tracks: bool = False) -> Iterator[tuple[str, Modality]]:
    """Paths below `raw`, with `/` between parts, and what their names say they are; in no particular order.

    Hidden names are skipped; each real folder is entered once, through its own path rather than a link where it has
    both, so loops end and labels do not depend on link names. With `sound_tracks` videos are files of audio.

    Raises:
        DataError: `raw` is not a folder.
    """
    check_raw(raw)
    if isinstance(raw, Remote):
        yield from _walk_remote(raw, "", found, sound_tracks)
        return
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        inside, linked = list[str](), list[str]()
        try:
            status = os.stat(raw / folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(raw / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    kind = detect(path, sound_tracks=sound_tracks)
                    yield from _look(entry, path, kind, found, inside, linked)
        except OSError as error:
            found.rejects.append({"file": f"{folder}/", "reason": f"cannot be read: {error.strerror}"})
        for names, waiting in ((inside, folders), (linked, links)):
            waiting.extend(sorted(names, key=os.fsencode, reverse=True))


def _walk_remote(folder: Remote, below: str, found: Found, sound_tracks: bool) -> Iterator[tuple[str, Modality]]:
    """A folder at a time, so that no more than one of them is in memory."""
    for entry in folder.entries():
        if entry.name.startswith("."):
            continue
        path = f"{below}{entry.name}"
        if not entry.name:
            found.rejects.append({"file": f"{below}/", "reason": "keys with // are not supported"})
            continue
        if entry.folder:
            yield from _walk_remote(folder / entry.name, f"{path}/", found, sound_tracks)
        elif kind := detect(path, sound_tracks=sound_tracks):
            found.counts[kind] += 1
            found.bytes += entry.bytes
            yield path, kind
        else:
            found.other(path)


def media_below(raw: Location, modality: Modality, found: Found | None = None) -> list[str]:
    """Candidates of one modality, sorted by the bytes of their paths.

    Args:
        found: takes what else was met.

    Raises:
        DataError: no folder, or nothing of that kind in it.
    """
    found = found or Found()
    files = sorted((path for path, kind in walk(raw, found) if kind is modality), key=os.fsencode)
    found.choose(raw, modality)
    return files


def _look(
    entry: os.DirEntry[str], path: str, kind: Modality | None, found: Found, inside: list[str], linked: list[str]
) -> Iterator[tuple[str, Modality]]:
    if entry.name.startswith("."):
        return
    try:
        if entry.is_dir():
            (linked if entry.is_symlink() else inside).append(path)
        elif not entry.is_file():
            if kind:
                reason = "a broken link" if entry.is_symlink() else "not a regular file"
                found.rejects.append({"file": path, "reason": reason})
        elif kind is None:
            found.other(path)
        else:
            found.counts[kind] += 1
            yield path, kind
    except OSError as error:  # a link to itself
        found.rejects.append({"file": path, "reason": f"cannot be read: {error.strerror}"})
