"""A folder that is written beside its place and takes it only when it is whole and checked: all or nothing."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridle.errors import EnvironmentFault, UsageError

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
        UsageError: `out` exists (see `check_output`).
        EnvironmentFault: the disk is full or cannot be written.
    """
    check_output(out, overwrite=overwrite)
    out = Path(os.path.realpath(out))  # a link stays one
    partial = _beside(out, "partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        check_output(out, overwrite=overwrite)  # somebody may have put something there in the meantime
        _replace(partial, out)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentFault(
            f"{out} cannot be written: {error.strerror or error}",
            "Free some space, or name another --out." if full else "Name another --out.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raises UsageError where there is something already that may not be replaced, or is no export."""
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise UsageError(f"{out} exists", "choose another --out, or add --overwrite")
    if not out.is_dir():
        raise UsageError(f"{out} is no folder: it will not be replaced", "choose another --out")
    found = {path.name for path in out.iterdir()} - {"__pycache__"}
    if found and not (MARK in found and found <= _NAMES | _PROGRAMS):
        more = ", ".join(sorted(found - _NAMES - _PROGRAMS)[:3]) or f"no {MARK}"
        raise UsageError(
            f"{out} is no export, or holds more than that ({more}): it will not be replaced", "choose another --out"
        )


def names_of(out: Path) -> list[str]:
    """The files of a finished export."""
    return sorted(path.name for path in out.iterdir())


def _replace(partial: Path, out: Path) -> None:
    """Put the finished folder in place; the one that was there goes last."""
    if not out.exists():
        partial.rename(out)
        return
    old = _beside(out, "old")
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path, what: str) -> Path:
    """A name that no other process has, not even one of the same number in another container."""
    return out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}.{what}")
