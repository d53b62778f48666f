"""`manifest.json`: what a set of shards holds, and finding sets below a folder. The format: shards/README.md."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bridle.archive import Shard, check_sizes
from bridle.errors import DataError
from bridle.patches.statistics import what_is_missing
from bridle.schema import Modality
from bridle.sharding.discover import refuse_archives
from bridle.storage import Location, folders_with, is_plain, names_in, read_text

FILE = "manifest.json"
_NOT_STORED = ("folder", "tar", "whole")
FORMAT = "bridle-shards"
VERSION = 1
_HINT = "Write the set again with bridle shard --overwrite."


@dataclass(slots=True)
class Manifest:
    """One set of shards.

    Attributes:
        folder: where the set lies; not stored.
        tar: the only one of its shards that is meant, or none; not stored.
        whole: then all shards of the set; not stored.
        statistics: `fbank_mean`, `fbank_std`, or `pixel_mean`, `pixel_std` (see `bridle.patches.statistics`).
        extent: 5, 50 and 95 % quantiles over the samples of `duration_s` and `rate_hz` (audio, video), `frames`
            (video) and `short_side` (image, video), each a list of three.
        spread: up to 100 values of each, from the lowest to the highest, that stand for all samples in equal parts;
            older sets have none.
        decoded_bytes: all samples decoded, audio as 16 kHz int16, pixels as uint8.
        rejects: `{"file", "reason"}` of every file that was skipped.
        options: what it was made with; files are added with the same.
        duplicates: `{"file", "of"}` of every file with the same bytes as another; `--dedup` leaves them out.
    """

    name: str
    modality: Modality
    shards: list[Shard]
    samples: int
    bytes: int
    labels: list[str] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    extent: dict[str, list[float]] = field(default_factory=dict)
    spread: dict[str, list[float]] = field(default_factory=dict)
    decoded_bytes: int = 0
    rejects: list[dict[str, str]] = field(default_factory=list)
    duplicates: list[dict[str, str]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    created_by: str = ""
    folder: Location = Path()
    tar: str = ""
    whole: list[Shard] = field(default_factory=list)

    @property
    def place(self) -> Location:
        """What `find_sets` finds it by."""
        return self.folder / self.tar if self.tar else self.folder

    @property
    def identity(self) -> str:
        """Other tars have another one."""
        return hashlib.sha256(repr([(shard.file, shard.sha256) for shard in self.shards]).encode()).hexdigest()

    @property
    def made_of(self) -> str | None:
        """The identity of the set that this is a copy of, with codes beside the media."""
        codes = self.options.get("codes")
        of = codes.get("of") if isinstance(codes, dict) else None
        return of if isinstance(of, str) else None

    @property
    def checked(self) -> bool:
        """Whether every file was decoded from beginning to end (`--check full`, the default)."""
        return bool(self.options.get("check", "full") == "full")

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        for name in _NOT_STORED:
            del content[name]
        return json.dumps(content, indent=1) + "\n"


def read_manifest(folder: Location) -> Manifest:
    """Read and check one set: every shard is there in its full size.

    Raises:
        DataError: naming the manifest or the shard that is wrong.
    """
    path = folder / FILE
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}", _HINT) from error
    manifest = parse_manifest(content, path)
    check_sizes(folder, manifest.shards)
    return manifest


def find_sets(path: Location, modality: Modality | None = None) -> list[Manifest]:
    """Every set at or below a folder, of one modality, sorted by path. A manifest stands for its set, a tar for itself.

    Raises:
        DataError: no sets, sets of several modalities and none chosen, a set and a copy of it, or one that is damaged.
    """
    sets = _found(path, modality)
    listing = ", ".join(f"{found.folder} ({found.modality})" for found in sets)
    chosen = [found for found in sets if modality is None or found.modality is modality]
    if not chosen:
        raise DataError(f"no {modality} shards below {path}; found {listing}", _make_hint(modality))
    if len({found.modality for found in chosen}) > 1:
        raise DataError(f"shards of several modalities below {path}: {listing}", "Choose one with --modality.")
    _refuse_copies(path, chosen)
    manifests = [read_manifest(found.folder) for found in chosen]
    return [_only(manifests[0], path)] if path.suffix == ".tar" else manifests


def find_all_sets(path: Location) -> list[Manifest]:
    """Every set at or below a folder, of any modality, sorted by path; their tars may be damaged.

    Raises:
        DataError: no sets, or a manifest that is damaged.
    """
    return _found(path, None)


def _found(path: Location, modality: Modality | None) -> list[Manifest]:
    try:
        if not path.exists():
            raise DataError(f"{path} does not exist", _make_hint())
        sets = list(_sets_below(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not sets:
        refuse_archives(path)
        raise DataError(f"no shards below {path}", _make_hint(modality))
    return sets


def _refuse_copies(path: Location, sets: list[Manifest]) -> None:
    """Each clip would count twice, and be its own nearest neighbour."""
    seen: dict[str | None, Manifest] = {}
    for one in sets:
        marks = {one.made_of, one.identity if one.shards else None} - {None}
        if first := next((seen[mark] for mark in marks if mark in seen), None):
            raise DataError(
                f"{first.folder} and {one.folder} hold the same clips: below {path} each would count twice",
                f"Name one of the two, or move the other out of {path}.",
            )
        seen |= dict.fromkeys(marks, one)


def _only(manifest: Manifest, tar: Location) -> Manifest:
    """One tar of a set, with the set's statistics."""
    shards = [shard for shard in manifest.shards if shard.file == tar.name]
    if not shards:
        raise DataError(f"{tar} is not one of the tars in {manifest.folder / FILE}", "Name the set's folder.")
    (shard,) = shards
    size = shard.bytes
    return replace(manifest, shards=shards, samples=shard.samples, bytes=size, tar=tar.name, whole=manifest.shards)


def is_sharded(path: Location) -> bool:
    """Whether a path is a set of shards, a part of one, or a folder of sets."""
    if path.is_file():
        return path.name == FILE or (path.suffix == ".tar" and (path.parent / FILE).exists())
    return next(_sets_below(path), None) is not None


def _sets_below(path: Location) -> Iterator[Manifest]:
    """Sorted by path; sets that are still being written lie in hidden folders."""
    if path.is_file():
        folders = [path.parent] if (path.parent / FILE).exists() else []
    else:
        folders = sorted(folders_with(FILE, path), key=lambda folder: str(folder).split("/"))
    yield from (found for folder in folders if (found := _parse_quietly(folder)) is not None)


def _parse_quietly(folder: Location) -> Manifest | None:
    """None for a `manifest.json` that is somebody else's: without our format, and without an index of ours beside."""
    path = folder / FILE
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return read_manifest(folder)  # ours or not, say what is wrong
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    return parse_manifest(content, path) if ours or any(map(is_index, names_in(folder))) else None


def is_index(name: str) -> bool:
    """Whether a file is called as the index of a set."""
    return name.startswith("index-") and name.endswith(".npy")


def parse_manifest(content: Any, path: Location) -> Manifest:
    """Check what was read from `path`.

    Raises:
        DataError: naming the manifest and what is wrong with it.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not a manifest of BRIDLE shards", _HINT)
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise DataError(
            f"{path} has format version {version}, this BRIDLE reads up to {VERSION}", "Update BRIDLE to read this set."
        )
    try:
        known = {name: content[name] for name in Manifest.__slots__ if name in content and name not in _NOT_STORED}
        manifest = TypeAdapter(Manifest).validate_python(known)
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise DataError(f"{path} is damaged: {mistakes}", _HINT) from error
    if mistake := _mistake(manifest):
        raise DataError(f"{path} {mistake}", _HINT)
    manifest.folder = path.parent
    return manifest


def _mistake(manifest: Manifest) -> str | None:
    """What is wrong with a manifest whose values have the right types."""
    files = [shard.file for shard in manifest.shards]
    if not re.fullmatch("[A-Za-z0-9_-]+", manifest.name):
        return f"has the name {manifest.name!r}, which is none that bridle shard gives"
    if not all(map(is_plain, files)):
        return "names a shard outside its folder"
    if len(set(files)) < len(files):
        return "names a shard twice"
    if manifest.samples != sum(shard.samples for shard in manifest.shards):
        return f"disagrees with itself: {manifest.samples} samples, its shards hold another number"
    if not all(math.isfinite(value) for values in manifest.spread.values() for value in values):
        return "has sizes that are not finite numbers"
    return what_is_missing(manifest.modality, manifest.statistics, manifest.extent)


def _make_hint(modality: Modality | None = None) -> str:
    return f"Make shards first: bridle shard RAW --modality {modality or 'audio|image|video'}"
