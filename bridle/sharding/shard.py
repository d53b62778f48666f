"""`bridle shard`: the whole way from a folder to a published set."""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import bridle
from bridle.errors import DataError, UsageError
from bridle.media import decoded_bytes
from bridle.patches.statistics import Moments, summarise
from bridle.schema import MediaInfo, Modality
from bridle.sharding.child import Failure, Report, Task
from bridle.sharding.discover import Found, Labels, csv_labels, discover, folder_labels
from bridle.sharding.manifest import Manifest, Shard
from bridle.sharding.workers import Workers
from bridle.sharding.write import TarWriter, building, check_output, publish

MAX_SHARD_BYTES = 256 * 10**6
_MEASURED = 1000  # clips that the corpus statistics are taken from
_TIMEOUT_S = 60.0  # for a file, and ...
_TIMEOUT_S_PER_MB = 2.0  # ... for each megabyte of it
_QUANTILES = (0.05, 0.5, 0.95)


def shard(
    raw: Path,
    modality: Modality | None = None,
    out: Path | None = None,
    *,
    name: str | None = None,
    labels: Literal["folder"] | Path | None = "folder",
    workers: int = 1,
    max_size_bytes: int = MAX_SHARD_BYTES,
    transcode: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Turn the media below a folder into a set of shards.

    Args:
        raw: folder, searched recursively; hidden names are left out.
        modality: detected when None.
        out: folder of the set; default `shards/NAME`.
        name: begins every tar's name; default the name of `out`, else of `raw`.
        labels: "folder" (the name of the folder that holds a file), a CSV with the columns path,label, or None.
        workers: decoding processes.
        max_size_bytes: of one tar.
        transcode: store small FLAC, JPEG or H.264 instead of the bytes as they came (see `transcode.py`).
        overwrite: replace a set at `out`; the old one stays until the new one is complete.
        dry_run: look for files and report the plan; decode and write nothing.
        seed: of the order of samples in the shards.
        progress: called with (files done, files in all).

    Returns:
        name, modality, samples, shards, bytes, rejected, seconds, out, candidates, ignored, labels, unlabelled,
        unmatched (rows of the CSV without a file), rejects, transcoded, dry_run.

    Raises:
        UsageError: `out` exists. DataError: nothing to read, or nothing that decodes. EnvironmentFault: cannot write.
    """
    began = time.monotonic()
    raw = Path(raw)
    found = discover(raw, modality)
    chosen = _choose_labels(labels, found.files)
    name = _clean(name or (Path(out).resolve() if out else raw.resolve()).name)
    out = Path(out) if out else Path("shards") / name
    check_output(out, overwrite)
    plan = _Plan(raw, found, chosen, seed, transcode)
    if dry_run:
        manifest = _estimate(plan, name, max_size_bytes)
    else:
        with building(out) as partial, Workers(found.modality, min(workers, len(found.files))) as pool:
            writer = TarWriter(partial, name, max_size_bytes)
            try:
                tally = _write(plan, pool, writer, progress or (lambda done, total: None))
                writer.close()
            finally:
                writer.abandon()
            manifest = _manifest(plan, tally, writer, name)
            publish(partial, out, manifest, overwrite)
    return {
        "name": name,
        "modality": str(found.modality),
        "samples": manifest.samples,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "rejected": len(manifest.rejects),
        "seconds": round(time.monotonic() - began, 3),
        "out": str(out),
        "candidates": len(found.files),
        "ignored": found.ignored,
        "labels": manifest.labels,
        "unlabelled": chosen.unlabelled,
        "unmatched": chosen.unmatched,
        "rejects": manifest.rejects,
        "transcoded": transcode,
        "dry_run": dry_run,
    }


@dataclass(frozen=True, slots=True)
class _Plan:
    """What there is to do, in the order of the shards."""

    raw: Path
    found: Found
    labels: Labels
    seed: int
    transcode: bool

    def files(self) -> list[str]:
        """Shuffled by hash, so that every shard is a fair sample of the corpus, with the same order everywhere."""
        return sorted(self.found.files, key=lambda file: _hash(f"{self.seed}:", file))

    def tasks(self, files: list[str]) -> list[Task]:
        return [
            Task(
                os.fsencode(self.raw / file), self.found.modality, self._timeout_s(file), self.transcode, n < _MEASURED
            )
            for n, file in enumerate(files)
        ]

    def _timeout_s(self, file: str) -> float:
        try:
            megabytes = (self.raw / file).stat().st_size / 1e6
        except OSError:
            megabytes = 0.0  # the worker will say why
        return _TIMEOUT_S + _TIMEOUT_S_PER_MB * megabytes


@dataclass(slots=True)
class _Tally:
    """What was learned on the way."""

    infos: list[MediaInfo] = field(default_factory=list)
    moments: list[Moments] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


def _write(plan: _Plan, pool: Workers, writer: TarWriter, progress: Callable[[int, int], None]) -> _Tally:
    files, tally = plan.files(), _Tally()
    keys = _keys(files)
    progress(0, len(files))
    for done, (file, report) in enumerate(zip(files, pool.map(plan.tasks(files)), strict=True), start=1):
        content = _content(plan.raw / file, report)
        if isinstance(content, Failure):
            tally.rejects.append({"file": file, "reason": content.reason})
        else:
            assert isinstance(report, Report)
            label = plan.labels.of.get(file)
            writer.add(keys[file], report.info.suffix, content, _meta(file, report.info, label))
            tally.infos.append(report.info)
            tally.labels |= {label} if label is not None else set()
            tally.moments += [report.moments] if report.moments is not None else []
        progress(done, len(files))
    return tally


def _content(path: Path, report: Report | Failure) -> bytes | Failure:
    """The bytes to store: what the worker made, or the file as it came."""
    if isinstance(report, Failure):
        return report
    if report.content is not None:
        return report.content
    try:
        content = path.read_bytes()
    except OSError as error:
        return Failure(f"cannot be read: {error.strerror}")
    return content if len(content) == report.size else Failure("changed while it was read")


def _manifest(plan: _Plan, tally: _Tally, writer: TarWriter, name: str) -> Manifest:
    rejects = sorted(plan.found.rejects + tally.rejects, key=lambda reject: os.fsencode(reject["file"]))
    if not tally.infos:
        first = rejects[0]
        raise DataError(
            f"none of the {len(plan.found.files)} {plan.found.modality} files below {plan.raw} can be decoded; "
            f"the first: {first['file']!r} {first['reason']}"
        )
    return Manifest(
        name=name,
        modality=plan.found.modality,
        shards=writer.shards,
        samples=len(tally.infos),
        bytes=sum(shard.bytes for shard in writer.shards),
        labels=sorted(tally.labels),
        statistics=summarise(tally.moments, plan.found.modality),
        extent=_extent(tally.infos),
        decoded_bytes=sum(map(decoded_bytes, tally.infos)),
        rejects=rejects,
        created_by=f"bridle {bridle.__version__}",
    )


def _estimate(plan: _Plan, name: str, max_size_bytes: int) -> Manifest:
    """The manifest of a dry run: nothing decoded, sizes from the folder."""
    size = 0
    for file in plan.found.files:
        try:
            size += (plan.raw / file).stat().st_size + 2048
        except OSError:
            continue
    shards = [Shard("", 0, 0, "")] * max(1, math.ceil(size / max_size_bytes))
    labels = sorted(set(plan.labels.of.values()))
    return Manifest(name, plan.found.modality, shards, len(plan.found.files), size, labels, rejects=plan.found.rejects)


def _extent(infos: list[MediaInfo]) -> dict[str, list[float]]:
    """Quantiles of what presets adapt to."""
    columns: dict[str, Iterable[float | None]] = {
        "duration_s": (info.duration_s for info in infos),
        "rate_hz": (info.rate_hz for info in infos),
        "frames": (info.frames for info in infos),
        "short_side": (min(info.height, info.width) if info.height and info.width else None for info in infos),
    }
    extent = {}
    for column, values in columns.items():
        known = sorted(value for value in values if value is not None)
        if known:
            extent[column] = [round(float(known[round(q * (len(known) - 1))]), 6) for q in _QUANTILES]
    return extent


def _meta(file: str, info: MediaInfo, label: str | None) -> dict[str, Any]:
    fields = ("suffix", "duration_s", "rate_hz", "channels", "frames", "height", "width")
    return {
        "path": file,
        "modality": str(info.modality),
        **{field: getattr(info, field) for field in fields},
        "label": label,
    }


def _choose_labels(labels: Literal["folder"] | Path | None, files: list[str]) -> Labels:
    if labels is None:
        return Labels({}, unlabelled=len(files))
    if labels == "folder":
        return folder_labels(files)
    return csv_labels(Path(labels), files)


def _keys(files: list[str]) -> dict[str, str]:
    """A short name without dots, from the path alone: the same file has the same key in every set."""
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for file in sorted(files, key=os.fsencode):
        digest = _hash("", file)
        key = next(digest[:length] for length in range(16, 65) if digest[:length] not in taken)
        taken.add(key)
        keys[file] = key
    return keys


def _hash(prefix: str, file: str) -> str:
    return hashlib.sha256(prefix.encode() + os.fsencode(file)).hexdigest()


def _clean(name: str) -> str:
    """Characters that webdataset, shells and other systems take as they are."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")
    if not name:
        raise UsageError("the set needs a name with letters or digits", "Give one with --out shards/NAME.")
    return name
