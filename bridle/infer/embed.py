"""Files, folders and shards -> vectors: one a file, one a time step, or one a patch.

Shapes: R vectors of a file, N patches of a file, T its time steps, D width.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from bridle.formats.array_file import read_arrays
from bridle.formats.vectors import PART, check_ending, join_vectors, write_vectors
from bridle.infer.encode import Encoded, Failures, encode_listed
from bridle.infer.parts import in_parts
from bridle.infer.parts_folder import check_free
from bridle.infer.pooling import Pool
from bridle.infer.pretrained import pool_encoded
from bridle.infer.tokenize import How, default_workers, left_out, nothing_read, size_of
from bridle.inputs.listing import Listing
from bridle.model import Bridle
from bridle.schema import Embedded, Modality
from bridle.storage import Location

Per = Literal["file", "step", "patch"]


def as_vectors(encoded: Encoded, model: Bridle, per: Per = "file", pool: Pool = "mean") -> Embedded:
    """What `model.features_and_class` said of a file, as vectors.

    Args:
        per: "file": one vector, pooled as `pool` says; "step": the mean over rows and columns at each time; "patch":
            all of them.
    """
    features_ND, coords_N3, file = encoded.outputs[0].float(), encoded.coords_N3, encoded.source.path
    if per == "file":
        return Embedded(file, pool_encoded(encoded, pool, model)[None], [0.0], coords_N3.new_zeros(1, 3))
    if per == "patch":
        return Embedded(file, features_ND, [encoded.times_T[step] for step in coords_N3[:, 0].tolist()], coords_N3)
    steps = encoded.grid[0]
    sums_TD = features_ND.new_zeros(steps, features_ND.shape[1]).index_add_(0, coords_N3[:, 0], features_ND)
    counts_T = torch.bincount(coords_N3[:, 0], minlength=steps)
    coords_T3 = torch.stack([torch.arange(steps), torch.zeros(steps), torch.zeros(steps)], 1).long()
    return Embedded(file, sums_TD / counts_T[:, None], encoded.times_T, coords_T3)


def check_vectors_output(out: Location, *, resume: bool, overwrite: bool) -> None:
    """To be called before anything is loaded.

    Raises:
        UsageError: `out` is of no known form, or in the way of something. EnvironmentFault: a library is missing.
    """
    check_ending(out)
    check_free(out, resume=resume, overwrite=overwrite)


def write_embeddings(
    model: Bridle,
    inputs: Sequence[Location],
    out: Location,
    how: How | None = None,
    *,
    per: Per = "file",
    pool: Pool = "mean",
    half: bool = False,
    part_files: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any] | None:
    """Vectors of everything that `inputs` name; in parts, as `write_tokens` does it.

    Args:
        out: its ending says the form, see `vectors_file`.
        per, pool: see `as_vectors`.
        half: as float16.

    Returns:
        `{out, files, vectors, width, bytes, skipped, seconds, failures}`; None on ranks other than the first.

    Raises:
        UsageError: `out` is in the way, or was begun with something else.
        DataError: inputs of another modality, or nothing that could be read.
        EnvironmentFault: the disk is full or cannot be written.
    """
    how, began = how or How(), time.monotonic()
    listing = Listing(inputs, Modality(model.modality), accounting=True)
    failures = Failures()
    size = part_files or listing.part_files()
    about: dict[str, Any] = {"model": model.fingerprint(), "checkpoint": model.source, "modality": model.modality}
    about |= {"per": per, "pool": pool, "inputs": [_whole(place) for place in inputs], "folder": os.getcwd()}
    identity = {"files": len(listing), "content of the files": listing.fingerprint(), "batch size": how.batch_size}

    def compute(numbers: Iterator[int]) -> Generator[tuple[int, Embedded]]:
        options: dict[str, Any] = {"failures": failures, "batch_size": how.batch_size, "together": size}
        options["workers"] = default_workers(len(listing)) if how.workers is None else how.workers
        for encoded in encode_listed(model, listing, numbers, model.features_and_class, **options):
            yield encoded.source.number, as_vectors(encoded, model, per, pool)

    def write(path: Path, span: range, found: Iterator[tuple[int, Embedded]]) -> None:
        numbers, vectors = list[int](), list[Embedded]()
        for number, embedded in found:
            numbers.append(number)
            vectors.append(embedded)
        skipped = [{"file": file, "reason": why} for _, file, why in left_out(listing, failures, {*span} - {*numbers})]
        write_vectors(path, vectors, {"skipped": skipped}, half=half, suffix=PART)

    result = in_parts(
        out,
        {**{name: about[name] for name in ("model", "per", "pool", "inputs")}, **identity, "half": half},
        len(listing),
        compute,
        write,
        partial(_join, about, out),
        size=size,
        resume=resume,
        overwrite=overwrite,
    )
    if result is None:
        return None
    failed = result.pop("failures")
    seconds = round(time.monotonic() - began, 3)
    return {"out": str(out), **result, "bytes": size_of(out), "seconds": seconds, "failures": failed}


def _join(about: dict[str, Any], out: Location, path: Path, parts: list[Path]) -> dict[str, Any]:
    headers = [read_arrays(part, (), "finished part", PART)[1] for part in parts]  # checked when they are joined
    skipped = [one for header in headers for one in header.get("skipped", ())]
    if not any(header.get("files") for header in headers):
        raise nothing_read(Failures(reasons={one["file"]: one["reason"] for one in skipped}))
    sizes = join_vectors(path, parts, {**about, "skipped": skipped}, out.suffix)
    return {**sizes, "skipped": len(skipped), "failures": skipped}


def _whole(place: Location) -> str:
    return str(place.absolute() if isinstance(place, Path) else place)
