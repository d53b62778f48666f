"""`bridle shard`: the whole way from a folder to published sets, one for each part of the split.

list the files in a journal -> build tars, index and manifest in a hidden folder -> publish. Interrupted at any point it
continues with `resume`, and ends with the same bytes.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from bridle.archive import Shard
from bridle.archive.manifest import FILE as MANIFEST
from bridle.archive.manifest import Manifest, parse_manifest, read_manifest
from bridle.cluster import Cluster, Engine
from bridle.errors import UsageError
from bridle.inputs.discover import check_raw
from bridle.outputs import same_settings
from bridle.schema import Modality
from bridle.sharding.build import Build, NothingDecodes
from bridle.sharding.journal import FILE as JOURNAL
from bridle.sharding.journal import Journal
from bridle.sharding.notices import notices
from bridle.sharding.options import Options
from bridle.sharding.plan import list_files
from bridle.sharding.publish import building, check_no_set, check_output, files_of, indexes_of, publish
from bridle.storage import Location, Remote

_TAR_OVERHEAD = 2048  # of a sample: two headers, the description, padding

_ADDED_UP = "samples", "shards", "bytes", "candidates", "unlabelled", "duplicates", "dropped", "added", "absent"


def shard(
    raw: Location,
    modality: Modality | None = None,
    out: Location | None = None,
    *,
    name: str | None = None,
    options: Options | None = None,
    workers: int | None = 1,
    engine: Engine = "local",
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Turn the media below a folder into sets of shards.

    Args:
        raw: folder, searched recursively; hidden names are left out.
        modality: detected when None.
        out: folder of the set, with a split of its parts' folders; default `shards/NAME`.
        name: begins every tar's name; default the name of `out`, else of `raw`.
        options: what decides the bytes.
        workers: decoding processes; None: one for each core of the machine or cluster.
        engine: "local", or "ray" for processes all over a Ray cluster, whose nodes see `raw` under the same path. The
            bytes depend on neither; a run that was begun with one may be resumed with the other.
        overwrite: replace a set at `out`; the old one stays until the new one is complete, in object storage until its
            first tar is.
        resume: continue a set that was interrupted, or add the files that came since to one that is complete (with
            `overwrite` replace that one).
        dry_run: look for files and report the plan; decode and write nothing.

    Returns:
        name, modality, samples, shards, bytes, rejected, seconds, out, candidates, ignored, labels, unlabelled,
        unmatched (lines of the table that label no file), notes (what else to say of the table), ungrouped (files
        without a group), absent (files of the set that are not below `raw` now), rejects, duplicates, dropped,
        dry_run, notices (warnings from what was measured); with a split also `splits`, the same of each part.

    Raises:
        UsageError: `out` exists, is being written, or was begun with other options. DataError: nothing to read, or
        nothing that decodes. EnvironmentFault: cannot write; no Ray, no such cluster, or a node that does not see a
        file.
    """
    began = time.monotonic()
    options = options or Options()
    wanted = _clean(name or (out or raw).resolve().name)
    out = out or Path("shards") / wanted
    parts = list(options.split.shares) if options.split else [""]
    if options.named is not None:
        parts = sorted({part for part, _ in options.named.values()})
    if parts != [""] and not dry_run:
        check_no_set(out)
    check_raw(raw)
    with ExitStack() as stack:
        builds: list[Build] = []
        for part in parts:
            called = f"{wanted}-{part}" if part else wanted
            if not name and resume and not overwrite and (out / part / MANIFEST).exists():
                called = read_manifest(out / part).name  # of a folder that was renamed
            build = _open(stack, raw, modality, out / part, called, options, part, overwrite, resume, dry_run)
            builds.append(build)
        for build in builds:
            build.others = [other.journal for other in builds if other is not build]
        todo = [build for build in builds if not dry_run and not build.journal.noted("manifest")]
        cluster = stack.enter_context(Cluster()) if todo and engine == "ray" else None
        try:
            for build in todo:
                build.write(workers, cluster)
        except NothingDecodes as error:
            error.result = {"name": error.build.name, **_result(error.build, error.manifest)} | _ending(
                began, out, False
            )
            raise
        results = [_result(build, _estimate(build) if dry_run else _noted(build)) for build in builds]
        if not dry_run:
            for part, build in zip(parts, builds, strict=True):
                publish(build.folder, out / part, build.journal)
    found = _sum(parts, results) if parts != [""] else results[0]
    return {
        "name": wanted if parts != [""] else builds[0].name,
        **found,
        **_ending(began, out, dry_run),
    }


def _ending(began: float, out: Location, dry_run: bool) -> dict[str, Any]:
    return {"seconds": round(time.monotonic() - began, 3), "out": str(out), "dry_run": dry_run}


def _noted(build: Build) -> Manifest:
    return parse_manifest(json.loads(build.journal.noted("manifest")), build.folder / MANIFEST)


def _open(
    stack: ExitStack,
    raw: Location,
    modality: Modality | None,
    out: Location,
    name: str,
    options: Options,
    part: str,
    overwrite: bool,
    resume: bool,
    dry_run: bool,
) -> Build:
    """Take the output and list the files; what an interrupted run listed is not listed again."""
    check_output(out, overwrite=overwrite, resume=resume)
    if dry_run:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    else:
        folder = stack.enter_context(building(out, resume=resume))
        if not (overwrite or resume):
            check_output(out, overwrite=False, resume=False)  # another process may have ended just before
    journal = stack.enter_context(closing(Journal(folder / JOURNAL)))
    identity = json.loads(json.dumps({"raw": raw.resolve(), "name": name, **options.identity}, default=str))
    defaults = Options().identity  # what older sets do not state
    if (before := journal.noted("options")) is None:
        adds = resume and not overwrite and (out / MANIFEST).exists()
        old = read_manifest(out) if adds else None
        if old and old.options:
            same_settings(_kept(defaults) | old.options, _kept(identity), out)
        journal.note("modality", list_files(journal, raw, modality, options, part, old))
        journal.note("adds", adds)
        journal.note("replaces", files_of(out, name) if old is None else indexes_of(out))
        journal.note("options", identity)
        journal.commit()
    else:
        same_settings(defaults | before, identity, out)
        old = read_manifest(out) if journal.noted("adds") else None
    kind = Modality(journal.noted("modality"))
    return Build(journal, folder, raw, out, old.name if old else name, kind, options, old, _kept(identity), ())


def _kept(identity: dict[str, Any]) -> dict[str, Any]:
    """What a manifest keeps of the options: the size of the tars may change, and tables of labels are read anew."""
    kept = {name: value for name, value in identity.items() if name not in ("raw", "max_size_bytes")}
    return kept | {"labels": identity["labels"] if identity["labels"] in ("folder", "sidecar", None) else "table"}


def _result(build: Build, manifest: Manifest) -> dict[str, Any]:
    journal, found = build.journal, build.journal.noted("found")
    counts = journal.counts()
    return {
        "modality": str(manifest.modality),
        "samples": manifest.samples,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "rejected": len(manifest.rejects),
        "candidates": sum(counts.values()) - counts["old"],
        "ignored": found["others"],
        "labels": manifest.labels,
        "unlabelled": journal.unlabelled(),
        "unmatched": found["unmatched"],
        "notes": found.get("notes", []),
        "ungrouped": found.get("ungrouped", 0),
        "absent": found.get("absent", 0),
        "rejects": manifest.rejects,
        "duplicates": len(manifest.duplicates),
        "dropped": counts["copy"],
        "added": counts["sample"],
        "notices": notices(manifest),
    }


def _sum(parts: Sequence[str], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All parts as one; what was found beside the media is the same for each."""
    whole = dict(results[0])
    for result in results[1:]:
        for key in _ADDED_UP:
            whole[key] += result[key]
        whole["rejects"] = whole["rejects"] + [one for one in result["rejects"] if one not in whole["rejects"]]
        whole["labels"] = sorted({*whole["labels"], *result["labels"]})
    whole["notices"] = [
        f"{part}: {one}" for part, result in zip(parts, results, strict=True) for one in result["notices"]
    ]
    return whole | {"rejected": len(whole["rejects"]), "splits": dict(zip(parts, results, strict=True))}


def _estimate(build: Build) -> Manifest:
    """The manifest of a dry run: nothing decoded, sizes from the folder."""
    files, size = build.journal.counts()["todo"], 0
    if isinstance(build.raw, Remote):  # whose listing has told the sizes
        size = build.journal.noted("found")["bytes"]
    else:
        for entry in build.journal.todo():
            try:
                size += (build.raw / entry.path).stat().st_size
            except OSError:
                files -= 1
    size += files * _TAR_OVERHEAD
    count = max(1, math.ceil(size / build.options.max_size_bytes))
    rejects = build.journal.noted("found")["rejects"]
    shards = [Shard("", 0, 0, "")] * count
    return Manifest(build.name, build.modality, shards, files, size, list(build.journal.labels()), rejects=rejects)


def _clean(name: str) -> str:
    """Characters that webdataset, shells and other systems take as they are."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")
    if not name:
        raise UsageError("the name of the set needs letters or digits", "Give one with --out shards/NAME.")
    return name
