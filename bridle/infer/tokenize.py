"""Files, folders and shards -> Codes, one a file, any length: as they come, or into a file by way of parts.

inputs --Listing--> decoders --> batches --model--> Codes --parts--> OUT

Shapes: T, H, W grid of a file, Q levels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bridle import distributed, progress
from bridle.checkpoint import run_of
from bridle.cluster import Cluster, Engine
from bridle.errors import UsageError
from bridle.formats import codes as forms
from bridle.formats.codes.arrays import as_codes as from_record
from bridle.formats.codes.arrays import check_levels
from bridle.formats.codes.compact import CodesFile, CodesWriter, Record
from bridle.formats.codes.members import check_places, check_replaced
from bridle.formats.codes.members import write as write_members
from bridle.infer.encode import BATCH_SIZE, Encoded, Failures, encode_listed
from bridle.infer.parts import NothingRead, in_parts
from bridle.infer.parts_folder import check_free
from bridle.infer.ray_encode import tokenize_on
from bridle.inputs.listing import Listing
from bridle.model import Bridle
from bridle.schema import Codes, Modality
from bridle.storage import Location

_INT16_MOST = 1 << 15
_MOST_WORKERS = 8  # that are started unasked, and ...
_FEW_FILES = 4  # ... none for fewer than these


@dataclass(frozen=True, slots=True)
class How:
    """How the work is done; the codes are the same.

    Attributes:
        batch_size: windows the model sees at once.
        workers: processes that decode ahead, 0 none, None: as many as there are cores to spare; with Ray, actors with
            the model (see `tokenize_on`).
        engine: "local", or "ray" for a Ray cluster, whose nodes see media files under the same path.
        device: with Ray, what the actors compute on; otherwise the model is there already.
    """

    batch_size: int = BATCH_SIZE
    workers: int | None = 0
    engine: Engine = "local"
    device: str = "auto"


def tokenize_inputs(
    model: Bridle,
    inputs: Sequence[Location],
    *,
    levels: int | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    engine: Engine = "local",
    device: str = "auto",
) -> Iterator[Codes]:
    """Codes of everything that `inputs` name, in order.

    Args:
        inputs: media files, folders, sets of shards.
        levels: the first N.
        batch_size, workers, engine, device: see `How`.

    Raises:
        UsageError: the model is untrained and has no codes, or has fewer levels.
        DataError: inputs of another modality, or nothing that could be read.
        EnvironmentFault: with Ray, see `Cluster` and `tokenize_on`.
    """
    require_codes(model)
    kept = check_levels(levels, model.config.quantizer.levels, model.source)
    failures = Failures()
    listing = Listing(inputs, Modality(model.modality), accounting=True)
    done = 0
    how = How(batch_size, workers, engine, device)
    for _, found in _tokenized(model, listing, iter(range(len(listing))), failures, how):
        done += 1
        progress.report("progress", done=done + len(failures.numbered), total=len(listing), what="files")
        yield replace(found, codes_THWQ=found.codes_THWQ[..., :kept])
    if not done:
        raise nothing_read(failures)


def check_output(out: Location, inputs: Sequence[Location], *, resume: bool, overwrite: bool) -> None:
    """To be called before anything is loaded.

    Raises:
        UsageError: `out` is of no known form, or in the way of something. EnvironmentFault: a library is missing.
    """
    forms.check_ending(out)
    if not out.suffix:
        check_places(list(inputs), out)
    check_free(out, resume=resume, overwrite=overwrite)
    if overwrite and isinstance(out, Path) and not out.suffix:
        check_replaced(inputs[0], out)


def write_tokens(
    model: Bridle,
    inputs: Sequence[Location],
    out: Location,
    how: How | None = None,
    *,
    levels: int | None = None,
    part_files: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any] | None:
    """As `tokenize_inputs`, into `out`; interrupted anywhere, it continues with `resume` and ends with the same bytes.

    Args:
        out: its ending says the form, see `bridle.formats.codes`.
        part_files: files of a part, None: as the listing says; batches are put together within one, since sums round
            differently in other company.

    Returns:
        `{out, files, levels, patches, bytes, skipped, seconds, failures}`; None on ranks other than the first.
    """
    how, began = how or How(), time.monotonic()
    require_codes(model)
    kept = check_levels(levels, model.config.quantizer.levels, model.source)
    listing = Listing(inputs, Modality(model.modality), accounting=True)
    failures, fingerprint = Failures(), model.fingerprint()
    size = part_files or listing.part_files()
    header = {
        "checkpoint": model.source,
        "model": fingerprint,
        "modality": model.modality,
        "codes": model.config.quantizer.codes,
        "levels": kept,
    }
    identity = {
        "model": fingerprint,
        "inputs": [str(place) for place in inputs],
        "files": len(listing),
        "content of the files": listing.fingerprint(),
        "levels": kept,
        "batch size": how.batch_size,
    }
    result = in_parts(
        out,
        identity,
        len(listing),
        lambda numbers: _tokenized(model, listing, numbers, failures, how, size),
        partial(_write_part, header, listing, failures),
        partial(_join, header, list(inputs), out),
        size=size,
        resume=resume,
        overwrite=overwrite,
    )
    if result is None:
        return None
    return {
        "out": str(out),
        "files": result["files"],
        "levels": kept,
        "patches": result["patches"],
        "bytes": size_of(out),
        "skipped": result["skipped"],
        "seconds": round(time.monotonic() - began, 3),
        "failures": result["failures"],
    }


def size_of(out: Location) -> int:
    """Bytes of a file, or of all that is in a folder."""
    if not isinstance(out, Path):
        return out.size()
    return sum(path.stat().st_size for path in (out, *out.rglob("*")) if path.is_file())


def default_workers(files: int) -> int:
    """Decoding processes for so many files: half of this process's share of the cores. The rest feeds the model."""
    spare = (os.cpu_count() or 1) // (2 * distributed.local_world())
    return 0 if files < _FEW_FILES else max(1, min(_MOST_WORKERS, spare))


def _tokenized(
    model: Bridle, listing: Listing, numbers: Iterator[int], failures: Failures, how: How, together: int = 0
) -> Generator[tuple[int, Codes]]:
    """Number and codes of each file that can be read, in order."""
    options: dict[str, Any] = {"failures": failures, "batch_size": how.batch_size, "together": together}
    with ExitStack() as stack:
        if how.engine == "ray":
            cluster = stack.enter_context(Cluster())
            sources = (listing.source(number, read=True) for number in numbers)
            found = tokenize_on(cluster, model, sources, workers=how.workers or 0, device=how.device, **options)
        else:
            options["workers"] = default_workers(len(listing)) if how.workers is None else how.workers
            found = encode_listed(model, listing, numbers, lambda batch: (model.tokenize(batch),), **options)
        stack.enter_context(closing(found))  # ends before the connection to the cluster
        for encoded in found:
            yield encoded.source.number, as_codes(encoded, model)


def _write_part(
    header: dict[str, Any],
    listing: Listing,
    failures: Failures,
    path: Path,
    span: range,
    found: Iterator[tuple[int, Codes]],
) -> None:
    """Files `span` of the listing as a compact codes file."""
    numbers = list[int]()
    with CodesWriter(path, header) as writer:
        for number, codes in found:
            numbers.append(number)
            writer.add(codes.file, codes.codes_THWQ[..., : header["levels"]].movedim(-1, 0).numpy(), codes.times_T)
        writer.note(numbers=numbers, skipped=left_out(listing, failures, {*span} - {*numbers}))


def left_out(listing: Listing, failures: Failures, numbers: set[int]) -> list[tuple[int, str, str]]:
    """Number, name and reason of files that could not be read."""
    files = [(number, listing.source(number).path) for number in sorted(numbers)]
    return [(number, file, failures.numbered.get(number, "cannot be read")) for number, file in files]


def _join(
    header: dict[str, Any], inputs: Sequence[Location], out: Location, path: Path, parts: list[Path]
) -> dict[str, Any]:
    """All parts in the form that `out` tells."""
    skipped, read = dict[int, dict[str, str]](), 0
    for part in parts:
        with CodesFile(part) as file:
            skipped |= {number: {"file": name, "reason": why} for number, name, why in file.tail["skipped"]}
            read += len(file)
    if not read:
        raise nothing_read(Failures(reasons={one["file"]: one["reason"] for one in skipped.values()}))
    header, patches = {**header, "skipped": list(skipped.values())}, 0

    def records() -> Iterator[tuple[int, Record]]:
        nonlocal patches
        for part in parts:
            with CodesFile(part) as file:
                for number, record in zip(file.tail["numbers"], file, strict=True):
                    patches += record.codes_QTHW[0].size
                    yield number, record

    if out.suffix:
        sizes = header["codes"], header["levels"]
        each = (
            from_record(record.file, record.codes_QTHW, record.times_T, sizes, header["levels"], path)
            for _, record in records()
        )
        forms.write_codes(path, each, header, out.suffix)
    else:
        write_members(path, records(), header, skipped, inputs[0], Modality(header["modality"]))
    return {"files": read, "patches": patches, "skipped": len(skipped), "failures": header["skipped"]}


def as_codes(encoded: Encoded, model: Bridle) -> Codes:
    """Codes on their grid, int16 where the codebook allows."""
    dtype = torch.int16 if model.config.quantizer.codes <= _INT16_MOST else torch.int32
    codes_NQ = encoded.outputs[0].to(dtype)
    return Codes(encoded.source.path, codes_NQ.view(*encoded.grid, -1), encoded.times_T)


def require_codes(model: Bridle, instead: str = "") -> None:
    """Check that the codebooks were trained; raises UsageError. `instead`: an alternative for the hint."""
    if not model.ready:
        run = run_of(str(model.source))
        remedy = f"Continue training: bridle pretrain --resume {run}" if run else "Train one: bridle pretrain"
        raise UsageError(f"{model.source} has no codes: its codebooks were never trained", instead + remedy)


def nothing_read(failures: Failures) -> NothingRead:
    """The error for when every single file failed."""
    reasons = [f"{path}: {reason}" for path, reason in failures.reasons.items()]
    return NothingRead("nothing could be read" + "".join(f"\n  {line}" for line in reasons[:5]))
