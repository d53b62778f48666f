"""Looking at finished sets: what they hold, and whether they are still what was written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bridle import progress
from bridle.archive import Place, TarReader, damaged, describe_sample, load_index, make_index, rows_of, tar_of
from bridle.archive.manifest import Manifest
from bridle.decoding.pool import Workers
from bridle.decoding.server import Failure, Task
from bridle.errors import DataError, MediaError
from bridle.sharding.notices import notices
from bridle.storage import hashed


def describe(manifest: Manifest) -> dict[str, Any]:
    """name, modality, samples, shards, bytes, hours (of audio and video), sizes, labels (histogram) and so on.

    Raises:
        DataError: a tar does not match the manifest.
    """
    labels: Counter[str] = Counter()
    seconds, unlabelled, rates, suffixes = 0.0, 0, Counter[float](), Counter[str]()
    for meta in _metas(manifest):
        several = meta.get("labels") or ([meta["label"]] if meta.get("label") is not None else [])
        labels.update(several)
        unlabelled += not several
        seconds += meta.get("duration_s") or 0.0
        suffixes[meta["suffix"]] += 1
        if meta.get("rate_hz"):
            rates[round(meta["rate_hz"], 2)] += 1
    return {
        "name": manifest.name,
        "folder": str(manifest.folder),
        "modality": str(manifest.modality),
        "samples": manifest.samples,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "hours": round(seconds / 3600, 3),
        **{f"{name} (5, 50, 95 %)": quantiles for name, quantiles in manifest.extent.items()},
        "rates_hz": dict(rates.most_common(5)),
        "formats": dict(suffixes.most_common()),
        "labels": dict(sorted(labels.items())),
        "unlabelled": unlabelled,
        "rejected": len(manifest.rejects),
        "duplicates": len(manifest.duplicates),
        **({"pixel_range": used} if (used := manifest.statistics.get("pixel_rules", {}).get("range")) else {}),
        "created_by": manifest.created_by,
        "notices": notices(manifest),
    }


def verify(
    manifest: Manifest,
    *,
    decode: int = 100,
    workers: int = 1,
) -> dict[str, Any]:
    """Read every byte: sizes, hashes, counts, the index, and decode some samples from beginning to end.

    Args:
        manifest: of the set.
        decode: how many samples, evenly spread.
        workers: decoding processes.

    Returns:
        name, folder, samples, shards, bytes, decoded.

    Raises:
        DataError: naming all tars that were altered, or all samples that do not decode.
    """
    wrong: list[str] = []
    for done, shard in enumerate(manifest.shards, start=1):
        path = manifest.folder / shard.file
        try:
            if hashed(path) != shard.sha256:
                raise damaged(path, "its content differs from the manifest's hash")
            rows_of(path, shard, 0)
        except OSError as error:
            wrong.append(f"{path} cannot be read: {error.strerror}")
        except DataError as error:
            wrong.append(error.message)
        progress.report("progress", done=done, total=len(manifest.shards), what="tars")
    wrong = wrong or list(_index_faults(manifest))
    if decode and not wrong:
        wrong = list(_decode_faults(manifest, decode, workers))
    if wrong:
        raise DataError("\n".join(wrong), "Copy the set again, or write it again with bridle shard --overwrite.")
    return {
        "name": manifest.name,
        "folder": str(manifest.folder),
        "samples": manifest.samples,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "decoded": min(decode, manifest.samples),
    }


def _index_faults(manifest: Manifest) -> Iterator[str]:
    """The index must say what the headers of the tars say."""
    rows_N = load_index(manifest.folder, manifest.shards)
    if "media_crc" not in (rows_N.dtype.names or ()) and isinstance(manifest.folder, Path):
        rows_N = make_index(manifest.folder, manifest.shards)  # of before there were checksums
    reader, at = TarReader(), 0
    for number, shard in enumerate(manifest.shards):
        path = tar_of(manifest.folder, shard)
        scanned_N, part_N = rows_of(path, shard, number), rows_N[at : at + shard.samples]
        at += shard.samples
        if any(np.any(scanned_N[name] != part_N[name]) for name in scanned_N.dtype.names or ()):
            yield f"the index of {manifest.folder} does not match {shard.file}: remove index-*.npy, it will be rebuilt"
            continue
        for row in part_N:
            for member in ("media", "meta"):
                try:
                    reader.read(Place.of(path, row, member))
                except MediaError as error:
                    yield error.message


def _decode_faults(manifest: Manifest, count: int, workers: int) -> Iterator[str]:
    """Through the processes that may die, as everything unknown."""
    rows_N = load_index(manifest.folder, manifest.shards)
    reader, names = TarReader(), list[str]()
    chosen = np.unique(np.linspace(0, len(rows_N) - 1, min(count, len(rows_N))).astype(int)).tolist()
    with tempfile.TemporaryDirectory() as folder, Workers(manifest.modality, min(workers, count)) as pool:

        def tasks() -> Iterator[Task]:
            for number in chosen:
                row = rows_N[number]
                path = tar_of(manifest.folder, manifest.shards[int(row["tar"])])
                meta = describe_sample(reader, path, row)
                names.append(meta["path"])
                suffix = "".join(filter(str.isalnum, str(meta["suffix"])))  # what a shard says is never a path
                copy = Path(folder) / f"{number}.{suffix}"
                copy.write_bytes(reader.read(Place.of(path, row, "media")))
                yield Task.of(copy, manifest.modality)

        for number, answer in enumerate(pool.map(tasks())):
            if isinstance(answer, Failure):
                yield f"{names[number]}: {answer.reason}"


def _metas(manifest: Manifest) -> Iterator[dict[str, Any]]:
    reader = TarReader()
    for row in load_index(manifest.folder, manifest.shards):
        path = tar_of(manifest.folder, manifest.shards[int(row["tar"])])
        yield describe_sample(reader, path, row)
