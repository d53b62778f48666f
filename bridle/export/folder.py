"""A folder that is written beside its place and takes it only when it is whole and checked: all or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridle.errors import UsageError
from bridle.outputs import exists, put_back, put_in_place, staging

MARK = "preprocessing.json"  # what tells an export from a checkpoint
_NAMES = {"model.safetensors", "model.json", "head.safetensors", "config.yaml", MARK, "preprocess.py", "README.md"}
_NAMES |= {"pixels.py", "classes.json", "config.json", "preprocessor_config.json", "video_preprocessor_config.json"}
_NAMES |= {f"{name}_bridle.py" for name in ("configuration", "modeling", "feature_extraction")}
_NAMES |= {f"{name}_processing_bridle.py" for name in ("image", "video")}
_PROGRAMS = {f"{part}.{suffix}" for part in ("encoder", "tokenizer") for suffix in ("onnx", "onnx.data", "pt2")}


@contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to write into; becomes `out` when the block ends well, and is gone when it does not.

    Raises:
        UsageError: `out` exists (see `check_output`), or another process is writing it.
        EnvironmentFault: the disk is full or cannot be written.
    """
    out = Path(os.path.realpath(out))  # a link stays one
    hidden = out.with_name(f".{out.name}.partial")
    with staging(hidden, out):
        put_back(hidden, out)
        for left in hidden.glob("*.partial"):  # of a process that was killed
            shutil.rmtree(left)
        new = hidden / f"{secrets.token_hex(4)}.partial"  # transformers remembers modules by the name of their folder
        try:
            check_output(out, overwrite=overwrite)
            new.mkdir()
            yield new
            check_output(out, overwrite=overwrite)  # somebody may have put something there in the meantime
            put_in_place(new, out)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def check_output(out: Path, *, overwrite: bool) -> None:
    """Check that an export may be written here; raises UsageError if something else is there."""
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise exists(out)
    if not out.is_dir():
        raise UsageError(f"{out} is not a folder: it will not be replaced", "Choose another --out.")
    found = {path.name for path in out.iterdir()} - {"__pycache__"}
    if found and not (MARK in found and found <= _NAMES | _PROGRAMS):
        more = ", ".join(sorted(found - _NAMES - _PROGRAMS)[:3]) or f"no {MARK}"
        raise UsageError(
            f"{out} holds other files than an export ({more}): it will not be replaced", "Choose another --out."
        )


def names_of(out: Path) -> list[str]:
    """The files of a finished export."""
    return sorted(path.name for path in out.iterdir())
