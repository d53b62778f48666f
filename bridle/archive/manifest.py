"""`manifest.json`: what a set of shards holds, and finding sets below a folder. The format: shards/README.md."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bridle.archive.index import check_sizes
from bridle.archive.write import Shard
from bridle.errors import DataError
from bridle.patches.statistics import what_is_missing
from bridle.schema import Modality
from bridle.storage import Location, is_plain, read_text

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
        return f"has the name {manifest.name!r}, which bridle shard never gives"
    if not all(map(is_plain, files)):
        return "names a shard outside its folder"
    if len(set(files)) < len(files):
        return "names a shard twice"
    if manifest.samples != sum(shard.samples for shard in manifest.shards):
        return f"is inconsistent: its shards do not add up to {manifest.samples} samples"
    if not all(math.isfinite(value) for values in manifest.spread.values() for value in values):
        return "has sizes that are not finite numbers"
    return what_is_missing(manifest.modality, manifest.statistics, manifest.extent)
