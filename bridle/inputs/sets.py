"""Sets of shards at or below a path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from bridle.archive.manifest import FILE, FORMAT, Manifest, is_index, parse_manifest, read_manifest
from bridle.errors import DataError
from bridle.inputs.discover import refuse_archives
from bridle.schema import Modality
from bridle.storage import Location, folders_with, names_in, read_text


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
                f"{first.folder} and {one.folder} hold the same clips, so below {path} each would count twice",
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


def _make_hint(modality: Modality | None = None) -> str:
    return f"Make shards first: bridle shard RAW --modality {modality or 'audio|image|video'}"
