"""From a journal to the tars, the index and the manifest of a set, in its hidden folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.recfunctions import repack_fields

import bridle
from bridle import progress
from bridle.archive import ROW, Shard, TarWriter, index_name, load_index, save_index
from bridle.archive.manifest import FILE, Manifest
from bridle.cluster import Cluster
from bridle.decoding.pool import Workers
from bridle.decoding.ray_pool import RayWorkers
from bridle.decoding.server import Failure, Report, Task
from bridle.errors import DataError, MediaError
from bridle.media import MAX_BYTES, read_bytes
from bridle.patches.statistics import summarise
from bridle.schema import MediaInfo, Modality
from bridle.sharding.journal import Entry, Journal
from bridle.sharding.options import Options
from bridle.sharding.publish import BEGUN, check_alone, check_tars, next_number
from bridle.storage import Location, Remote, copies

_MEASURED = 1000  # clips that the corpus statistics are taken from
_FETCHED = "raw"  # folder of copies of remote files
_REASONS, _NAMED = 10, 3  # shown of the reasons why nothing decodes, and files of each
_KEY_DIGITS = 24  # of the path's hash: among a billion files two are equal once in 10^11 corpora


@dataclass(slots=True)
class Build:
    """One set on its way.

    Attributes:
        folder: of this machine, where its tars are written.
        out: where they go from there.
        old: the set that they are added to.
        identity: of its options, what the manifest keeps.
        others: journals of the other parts, with whose files none of these should be alike.
    """

    journal: Journal
    folder: Path
    raw: Location
    out: Location
    name: str
    modality: Modality
    options: Options
    old: Manifest | None
    identity: dict[str, Any]
    others: Sequence[Journal]

    def write(self, workers: int | None, cluster: Cluster | None) -> None:
        """Tars of all files still to do, then manifest and index.

        Args:
            workers: decoding processes; None: one a core.
            cluster: where they run; None: here.

        Raises:
            NothingDecodes: not one file does. DataError: all are copies.
        """
        whole = {shard.file for shard, _ in self.journal.shards()}
        if isinstance(self.out, Path):
            check_tars(self.folder, self.out, self.journal)
        for torn in self.folder.glob("*.tar"):
            if torn.name not in whole or isinstance(self.out, Remote):
                torn.unlink()
        first = len(whole) + (next_number(self.old) if self.old else 0)
        writer = TarWriter(self.folder, self.name, self.options.max_size_bytes, first, self._end_shard)
        counts = self.journal.counts()
        total = sum(counts.values()) - counts["old"]
        done = total - counts["todo"]
        progress.report("progress", done=done, total=total, what="files")
        try:
            if counts["todo"]:
                with _pool(self.modality, workers, counts["todo"], cluster, isinstance(self.raw, Remote)) as pool:
                    for entry, path, report in self._work(pool, done):
                        self._take(entry, path, report, writer)
                        if isinstance(self.raw, Remote):
                            path.unlink(missing_ok=True)
                        done += 1
                        progress.report("progress", done=done, total=total, what="files")
            writer.close()
        finally:
            writer.abandon()
        self._conclude()

    def _work(self, pool: Workers | RayWorkers, done: int) -> Iterator[tuple[Entry, Path, Report | Failure]]:
        """Every file that is still to do, where it lies on this machine, and what a worker says of it."""
        under_way: deque[tuple[Entry, Path | OSError]] = deque()

        def tasks() -> Iterator[Task]:
            for number, (entry, place) in enumerate(self._local(), start=done):
                under_way.append((entry, place))
                measure = self.old is None and number < _MEASURED
                path = self.folder if isinstance(place, OSError) else place  # a folder fails at once: order is kept
                options = self.options
                full = options.check == "full"
                yield Task.of(path, self.modality, options.transcode, measure, full, options.channel)

        for report in pool.map(tasks()):
            entry, place = under_way.popleft()
            if isinstance(place, OSError):
                yield entry, self.folder / "none", Failure(f"cannot be read: {place.strerror}")
            else:
                yield entry, place, report

    def _local(self) -> Iterator[tuple[Entry, Path | OSError]]:
        """Files on this machine: as they are, or fetched a little ahead."""
        raw = self.raw
        if isinstance(raw, Path):
            yield from ((entry, raw / entry.path) for entry in self.journal.todo())
            return
        shutil.rmtree(self.folder / _FETCHED, ignore_errors=True)
        (self.folder / _FETCHED).mkdir()
        files = ((entry, raw / entry.path) for entry in self.journal.todo())
        yield from copies(files, self.folder / _FETCHED, MAX_BYTES)

    def _end_shard(self, shard: Shard, rows_N: np.ndarray) -> None:
        if isinstance(self.out, Remote):
            begun = self.folder / BEGUN
            if FILE in self.journal.noted("replaces") and not begun.exists():
                begun.touch()  # not in the journal, which would keep samples whose tar is not there yet
                with contextlib.suppress(FileNotFoundError):  # tars of the same names will be overwritten
                    (self.out / FILE).unlink()
            check_alone(self.out, self.journal)
            (self.out / shard.file).upload(self.folder / shard.file)
        self.journal.end_shard(shard, rows_N)
        if isinstance(self.out, Remote):
            (self.folder / shard.file).unlink()

    def _take(self, entry: Entry, path: Path, report: Report | Failure, writer: TarWriter) -> None:
        """Write one sample, or note why not."""
        content = _content(path, report)
        if isinstance(content, Failure):
            self.journal.reject(entry.place, content.reason)
            return
        assert isinstance(report, Report)
        journals = (self.journal, *self.others)
        original = next((first for one in journals if (first := one.original(report.sha256))), None)
        if original is not None and self.options.dedup:
            self.journal.dropped(entry.place, original)
            return
        key = hashlib.sha256(os.fsencode(entry.path)).hexdigest()[:_KEY_DIGITS]
        writer.add(key, report.info.suffix, content, _meta(entry, report))
        self.journal.sample(entry.place, report.sha256, report.info, report.moments, original)

    def _conclude(self) -> None:
        """Everything that publishing needs, in the journal and the folder."""
        shards = [shard for shard, _ in self.journal.shards()]
        parts = [np.frombuffer(rows, ROW) for _, rows in self.journal.shards()]
        if self.old:
            shards, parts = self.old.shards + shards, [load_index(self.old.folder, self.old.shards), *parts]
        rows_N = _joined([np.empty(0, ROW), *parts])
        rows_N["tar"] = np.repeat(np.arange(len(shards)), [shard.samples for shard in shards])
        rejects = sorted(
            self.journal.noted("found")["rejects"] + self.journal.rejects(), key=lambda one: os.fsencode(one["file"])
        )
        if not shards and not rejects:
            raise DataError(
                f"all {self.journal.counts()['copy']} files of {self.name} are copies of others; nothing is left",
                "Leave out --dedup, or change the shares of --split; start again with --overwrite.",
            )
        extent, spread = self.journal.sizes()
        manifest = Manifest(
            name=self.name,
            modality=self.modality,
            shards=shards,
            samples=len(rows_N),
            bytes=sum(shard.bytes for shard in shards),
            labels=list(self.journal.labels()),
            statistics=self.old.statistics
            if self.old
            else summarise(self.journal.moments(), self.modality, self.options.pixel_range),
            extent=extent,
            spread=spread,
            decoded_bytes=self.journal.decoded_bytes(),
            rejects=rejects,
            duplicates=_once((self.old.duplicates if self.old else []) + self.journal.duplicates()),
            options=self.identity,
            created_by=f"bridle {bridle.__version__}",
        )
        if not shards:
            raise NothingDecodes(self, manifest)
        save_index(self.folder, shards, rows_N)
        self.journal.note("manifest", manifest.to_json())
        self.journal.note("index", index_name(shards))
        self.journal.commit()


class NothingDecodes(DataError):
    """Not one file of a set; `manifest` lists them all with their reasons."""

    def __init__(self, build: Build, manifest: Manifest) -> None:
        self.build, self.manifest = build, manifest
        files = defaultdict[str, list[str]](list)
        for reject in manifest.rejects:
            files[reject["reason"]].append(reject["file"])
        groups = sorted(files.items(), key=lambda one: -len(one[1]))
        lines = [
            f"{len(names)}: {reason} ({', '.join(map(repr, names[:_NAMED]))}{', ...' if len(names) > _NAMED else ''})"
            for reason, names in groups[:_REASONS]
        ]
        if len(groups) > _REASONS:
            lines.append(f"{sum(len(names) for _, names in groups[_REASONS:])}: other reasons")
        super().__init__(
            f"none of the {sum(build.journal.counts().values())} {build.modality} files below {build.raw} that "
            f"belong to {build.name} can be decoded:\n" + "\n".join(lines),
            "--json lists every file with its reason.",
        )


def _pool(
    modality: Modality, workers: int | None, files: int, cluster: Cluster | None, send: bool
) -> Workers | RayWorkers:
    """As many processes as are wanted and can be kept busy; other machines are sent what lies on this one alone."""
    if cluster is None:
        return Workers(modality, min(workers or os.cpu_count() or 1, files))
    return RayWorkers(cluster, modality, min(workers or cluster.cpus, files), files, send=send)


def _once(duplicates: list[dict[str, str]]) -> list[dict[str, str]]:
    """A file that was left out before is found again whenever files are added."""
    by_file = {one["file"]: one for one in reversed(duplicates)}
    return [by_file[file] for file in sorted(by_file, key=os.fsencode)]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One index; with checksums if all parts have them."""
    names = [name for name in ROW.names or () if all(name in (part.dtype.names or ()) for part in parts)]
    return np.concatenate([repack_fields(part[names]) for part in parts])


def _content(path: Path, report: Report | Failure) -> bytes | Failure:
    """The bytes to store: what the worker made, or the file as it came."""
    if isinstance(report, Failure):
        return report
    if report.content is not None:
        return report.content
    try:
        content = read_bytes(path)
    except MediaError as error:
        return Failure(error.message)
    return content if zlib.crc32(content) == report.crc else Failure("changed while being read")


def _meta(entry: Entry, report: Report) -> dict[str, Any]:
    info: MediaInfo = report.info
    several = isinstance(entry.label, list)
    sizes = ("suffix", "duration_s", "rate_hz", "channels", "frames", "height", "width")
    return {
        "path": entry.path,
        "modality": str(info.modality),
        **{name: getattr(info, name) for name in sizes},
        **{name: value for name in ("decoder", "channel") if (value := getattr(info, name))},
        "label": None if several else entry.label,
        **({"labels": entry.label} if several else {}),
        **({"group": entry.group} if entry.group is not None else {}),
        "sha256": report.sha256.hex(),
    }
