"""Raw media -> shards, and what shards hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bridle.api.session import OnEvent, silent
from bridle.errors import DataError, UsageError
from bridle.storage import locate

if TYPE_CHECKING:
    from bridle.cluster import Engine


def shard(
    raw: str | Path,
    *,
    modality: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    labels: str | Path | None = "folder",
    workers: int | None = None,
    engine: Engine = "local",
    max_size_bytes: int = 256_000_000,
    transcode: bool = False,
    check: Literal["full", "header"] = "full",
    dedup: bool = False,
    sound_tracks: bool = False,
    split: Mapping[str, float] | None = None,
    group_by: str | None = None,
    seed: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Turn the media below a folder into tars and a manifest; see `bridle.sharding.shard`.

    Args:
        labels: "folder", "sidecar", the path of a CSV, TSV or JSONL, or None.
        workers: decoding processes; default: one a core, of the cluster if there is one.
        engine: "local", or "ray": the processes run all over a Ray cluster.
        split, group_by: parts and their shares, and what stays together (see `bridle.sharding.Split`).
    """
    from bridle.schema import Modality
    from bridle.sharding import Options, Split
    from bridle.sharding import shard as run

    report = on_event or silent
    if group_by and not split:
        raise UsageError("--group-by says what a --split keeps together; there is no --split.")
    options = Options(
        labels=labels if labels in ("folder", "sidecar") else locate(labels) if labels else None,  # type: ignore[arg-type]
        max_size_bytes=max_size_bytes,
        transcode=transcode,
        check=check,
        dedup=dedup,
        sound_tracks=sound_tracks,
        seed=seed,
        split=Split(split, group_by) if split else None,
    )
    return run(
        locate(raw),
        Modality(modality) if modality else None,
        locate(out) if out else None,
        name=name,
        options=options,
        workers=workers,
        engine=engine,
        overwrite=overwrite,
        resume=resume,
        dry_run=dry_run,
        progress=lambda done, total: report("progress", done=done, total=total, what="files"),
    )


def shard_info(shards: str | Path) -> list[dict[str, Any]]:
    """What each set at or below a folder holds; see `bridle.sharding.describe`."""
    from bridle.sharding import describe, find_all_sets

    return [describe(manifest) for manifest in find_all_sets(locate(shards))]


def shard_verify(
    shards: str | Path, *, decode: int = 100, workers: int | None = None, on_event: OnEvent | None = None
) -> list[dict[str, Any]]:
    """Compare each set at or below a folder with its manifest; see `bridle.sharding.verify`."""
    from bridle.sharding import find_all_sets, verify

    report, found, wrong = on_event or silent, [], list[str]()
    for manifest in find_all_sets(locate(shards)):
        try:
            found.append(
                verify(
                    manifest,
                    decode=decode,
                    workers=workers or os.cpu_count() or 1,
                    progress=lambda done, total: report("progress", done=done, total=total, what="tars"),
                )
            )
        except DataError as error:  # the other sets are looked at too
            wrong.append(error.message)
            hint = error.hint
    if wrong:
        raise DataError("\n".join(wrong), hint)
    return found
