"""Codes beside the media: shards again, with one more member a sample.

    KEY.SUFFIX      the media, as they were
    KEY.json        as it was, and "codes": {"grid": [T, H, W], "times": [T starts in seconds]}
    KEY.codes.npy   (Q, T, H, W), uint8 (uint16 beyond 256 codes)

Every set keeps its name, its keys and their order, tar by tar. Samples without codes are left out and listed among the
rejects of the manifest, whose options say which model the codes are of, and ("of") which shards they were made of:
only what holds no media that are not in the input is ever replaced.

Shapes: Q levels, T H W grid.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

import bridle
from bridle.archive import (
    ROW,
    Manifest,
    Shard,
    TarWriter,
    damaged,
    index_name,
    open_tar,
    parse_description,
    read_npy,
    save_index,
)
from bridle.archive.manifest import FILE, parse_manifest
from bridle.errors import DataError, UsageError
from bridle.formats.codes.arrays import as_codes, check_levels, sizes_of
from bridle.formats.codes.compact import Record
from bridle.inputs import find_sets
from bridle.inputs.listing import set_below
from bridle.inputs.sets import find_all_sets, is_sharded
from bridle.outputs import written
from bridle.schema import Codes, Modality
from bridle.storage import Location, opened, read_text
from bridle.stream import SampleReader

MEMBER = "codes.npy"
_NOT_FULL = 1 << 62  # bytes: tars end where those of the input do


def check_places(inputs: list[Location], out: Location) -> None:
    """Whether the codes of these inputs can stand beside their media at `out`.

    Raises:
        UsageError: they are no shards, several, or in the way of the output. DataError: there is nothing.
    """
    if not isinstance(out, Path):
        raise UsageError(
            f"{out} is in object storage, where shards with codes are not written",
            "Write them to a local disk and copy them, or write one file with --out NAME.codes, .parquet or .npz.",
        )
    if len(inputs) != 1:
        raise UsageError(
            "several inputs with codes beside their media",
            f"Use one set of shards, or a folder of sets, with --out {out}.",
        )
    (place,) = inputs
    if not place.exists():
        raise DataError(f"{place} does not exist", "Name a set of shards, or a folder of such sets.")
    if not place.is_dir() or not is_sharded(place):
        raise UsageError(
            f"{out} has no suffix (codes beside the media of shards), but {place} is not a set of shards",
            f"Make shards first: bridle shard {place}. Or give --out a suffix: .codes, .parquet, .npz, .safetensors.",
        )
    if isinstance(place, Path):
        there, here = place.resolve(), out.resolve()
        if there == here or here in there.parents or there in here.parents:
            raise UsageError(f"{out} and {place} contain one another", "Choose another --out.")


def check_replaced(place: Location, out: Path) -> None:
    """Whether all that lies at `out` was made of the sets at `place`, so that no media are lost with it.

    Raises:
        UsageError: naming a file that was not.
    """
    if out.exists() and (strange := _strange(out, {manifest.identity for manifest in find_all_sets(place)})):
        raise UsageError(
            f"{strange} was not made from {place} as it is now and would be lost",
            "Choose another --out, or remove it yourself.",
        )


def _strange(out: Path, sources: set[str]) -> Path | None:
    """A file that would be lost with `out` and belongs to no set that was made of one of these sources."""
    if not out.is_dir():
        return out
    known: dict[Path, set[str]] = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        if path.parent not in known:
            known[path.parent] = _names(path.parent, sources)
        if path.name not in known[path.parent]:
            return path
    return None


def _names(folder: Path, sources: set[str]) -> set[str]:
    """Of the files of a set that was made of one of these; none where there is none."""
    try:
        manifest = parse_manifest(json.loads(read_text(folder / FILE)), folder / FILE)
    except (OSError, ValueError, RecursionError, DataError):
        return set()
    if manifest.made_of not in sources:
        return set()
    return {FILE, index_name(manifest.shards), *(shard.file for shard in manifest.shards)}


def write(
    path: Path,
    records: Iterator[tuple[int, Record]],
    header: dict[str, Any],
    skipped: Mapping[int, dict[str, str]],
    place: Location,
    modality: Modality,
) -> None:
    """All sets below `place` again, below `path`.

    Args:
        records: with the numbers of their samples in the listing of `place`, in order.
        skipped: file and reason of the samples that have none.
    """
    kept = {name: header[name] for name in ("checkpoint", "model", "codes", "levels")}
    first, waiting = 0, _Waiting(records)
    manifests = find_sets(place, modality)
    for manifest in manifests:
        name = set_below(manifest, place)
        folder, by = path / name, f"{name}/" if len(manifests) > 1 else ""  # as the listing calls its samples
        folder.mkdir(parents=True, exist_ok=True)
        shards, rows_N = _copy(manifest, folder, first, waiting)
        failed = [skipped[number] for number in range(first, first + manifest.samples) if number in skipped]
        first += manifest.samples
        copy = replace(
            manifest,
            shards=shards,
            samples=len(rows_N),
            bytes=sum(shard.bytes for shard in shards),
            rejects=[*manifest.rejects, *({**one, "file": one["file"].removeprefix(by)} for one in failed)],
            options={**manifest.options, "codes": {**kept, "of": manifest.identity}},
            created_by=f"bridle {bridle.__version__}",
        )
        save_index(folder, shards, rows_N)
        with written(folder / FILE) as file:
            file.write(copy.to_json().encode())


class _Waiting:
    """Records, each given out when its number is asked for; numbers are asked for in order."""

    def __init__(self, records: Iterator[tuple[int, Record]]) -> None:
        self._records, self._next = records, next(records, None)

    def take(self, number: int) -> Record | None:
        if self._next is None or self._next[0] != number:
            return None
        found, self._next = self._next[1], next(self._records, None)
        return found


def _copy(manifest: Manifest, folder: Path, first: int, waiting: _Waiting) -> tuple[list[Shard], np.ndarray]:
    """The tars of one set with codes, and their index."""
    reader, parts = SampleReader([manifest]), [np.empty(0, ROW)]
    writer = TarWriter(folder, manifest.name, _NOT_FULL, on_close=lambda shard, rows_N: parts.append(rows_N))
    try:
        for _, samples in itertools.groupby(range(len(reader)), lambda sample: reader.index.media(sample).tar):
            for sample in samples:
                record = waiting.take(first + sample)
                if record is not None:
                    meta, codes = reader.meta(sample), io.BytesIO()
                    about = {"grid": list(record.codes_QTHW.shape[1:]), "times": record.times_T.tolist()}
                    np.save(codes, record.codes_QTHW, allow_pickle=False)
                    more = {MEMBER: codes.getvalue()}
                    key, suffix = reader.index.key(sample), meta["suffix"]
                    writer.add(key, suffix, reader.content(sample), {**meta, "codes": about}, more)
            writer.close()
    finally:
        writer.abandon()
    return writer.shards, np.concatenate(parts)


def read(folder: Location, levels: int | None = None) -> Iterator[Codes]:
    """The codes of every sample of the sets below a folder, in order.

    Raises:
        DataError: no sets, sets without codes, or damaged ones.
    """
    manifests = find_sets(folder)
    for manifest in manifests:
        about = manifest.options.get("codes")
        if not isinstance(about, dict):
            raise DataError(
                f"{manifest.folder} is a set of shards without codes", "Write one: bridle tokenize SHARDS --out FOLDER"
            )
        sizes = sizes_of(about, manifest.folder / FILE)
        kept = check_levels(levels, sizes[1], manifest.folder)
        for shard in manifest.shards:
            place = manifest.folder / shard.file
            try:
                for file, codes_QTHW, times in _read_tar(place):
                    if len(manifests) > 1:
                        file = str(PurePosixPath(set_below(manifest, folder), file))
                    yield as_codes(file, codes_QTHW, times, sizes, kept, place)
            except (OSError, tarfile.TarError, LookupError, TypeError, ValueError) as error:
                raise damaged(place, f"its codes cannot be read ({error})") from error


def _read_tar(place: Location) -> Iterator[tuple[Any, np.ndarray, Any]]:
    metas: dict[str, dict[str, Any]] = {}
    with opened(place) as file, open_tar(file) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            if suffix not in ("json", MEMBER):
                continue
            content = tar.extractfile(member)
            assert content is not None
            if suffix == "json":
                metas[key] = parse_description(content.read())
                continue
            codes_QTHW, meta = read_npy(io.BytesIO(content.read()), member.size), metas.pop(key)
            yield meta["path"], codes_QTHW, meta["codes"]["times"]
