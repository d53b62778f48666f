"""Tokenize files, write and read codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bridle import progress
from bridle.api.models import open_model
from bridle.api.options import Tokenize, WriteCodes, takes
from bridle.api.results import CodesWritten, FileCodes
from bridle.api.session import pick_device
from bridle.errors import UsageError
from bridle.storage import locate

if TYPE_CHECKING:
    from bridle.schema import Codes


def tokenize(
    inputs: Sequence[str | Path], *, on_event: progress.Listener | None = None, **options: Any
) -> Iterator[FileCodes]:
    """Iterate over the codes of files, folders and sets of shards.

    `codes` are nested lists by level, time, row and column (see `grid`); `times` are the starts of the time steps in
    seconds.

    Args:
        options: see `bridle.api.options.Tokenize`.
    """
    from bridle.infer import tokenize_inputs

    chosen = Tokenize(**options)
    model = open_model(chosen.checkpoint, chosen.device if chosen.engine == "local" else "cpu")
    places = [locate(item) for item in inputs]
    how: dict[str, Any] = {"levels": chosen.levels, "engine": chosen.engine, "device": chosen.device}
    found = tokenize_inputs(model, places, workers=chosen.workers or 0, **how)
    for codes in progress.each(found, on_event):
        yield {
            "file": codes.file,
            "levels": codes.levels,
            "grid": list(codes.grid),
            "codes": codes.codes_THWQ.movedim(-1, 0).tolist(),
            "times": codes.times_T,
        }


@takes(WriteCodes)
def write_codes(inputs: Sequence[str | Path], out: str | Path, chosen: WriteCodes) -> CodesWritten:
    """Write the codes of files, folders and sets of shards to `out`.

    The suffix sets the format: `.codes`, `.parquet`, `.npz` or `.safetensors`; without one, a copy of the shards with
    the codes beside the media (docs/codes.md). `read_codes` reads all formats. The work is done in chunks that are kept
    beside `out`; processes started by `torchrun` share them, and all but
    the first return `{}`.
    """
    from bridle import distributed
    from bridle.infer.tokenize import How, check_output, write_tokens

    places, target, local = [locate(item) for item in inputs], locate(out), chosen.engine == "local"
    rules = {"resume": chosen.resume, "overwrite": chosen.overwrite}
    with distributed.group(picked := pick_device(chosen.device if local else "cpu")):
        # Before anything is loaded.
        distributed.first_decides(lambda: check_output(target, places, **rules))
        model = open_model(chosen.checkpoint, picked if local else "cpu")
        how = How(workers=chosen.workers, engine=chosen.engine, device=chosen.device)
        return cast(CodesWritten, write_tokens(model, places, target, how, levels=chosen.levels, **rules) or {})


def read_codes(path: str | Path, *, levels: int | None = None) -> list[Codes]:
    """Read the codes of every file from the output of `write_codes`, in order.

    Args:
        levels: read only the first N levels, a valid, coarser tokenization.
    """
    from bridle.formats import read_codes as read

    if "://" in str(path):
        raise UsageError(f"{path} is not on this machine", "Copy it here first.")
    return read(Path(path), levels)
