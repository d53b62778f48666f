"""`results.json` of a run: what its checkpoints were worth, by task, data and protocol.

Each result names a file of `results/` with what was said of each tested clip: from that two runs are compared clip by
clip.

Shapes: S seeds, M tested clips, L classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from bridle.checkpoint.files import read_tensors, write_tensors
from bridle.checkpoint.run_folder import CHECKPOINTS, STATE
from bridle.errors import DataError
from bridle.outputs import write_text
from bridle.storage import is_plain, read_text, refuse_links

FILE, CLIPS = "results.json", "results"
DIVISION = ("group_by", "folds", "test_share", "split_file")  # how the files were divided
_SAME = ("task", "data", "labels", "protocol", "pool", "checkpoint", "seed", "seeds", *DIVISION, "views", "recipe")


@dataclass(frozen=True, slots=True)
class Tested:
    """What was said of each tested clip.

    Attributes:
        paths: of the M clips, as the data set calls them.
        y: the class of each clip, int64 `(M,)`, or which of the classes it is of, bool `(M, L)`.
        scores_SML: the higher, the likelier.
    """

    paths: list[str]
    classes: list[str]
    y: Tensor
    scores_SML: Tensor


def read_results(run: Path) -> list[dict[str, Any]]:
    """All results of a run, oldest first; none where there is no file.

    Raises:
        DataError: it is damaged. OSError: it cannot be read.
    """
    file = run / FILE
    try:
        found = json.loads(read_text(file))
        if not isinstance(found, list):
            raise ValueError("a list of results was expected")
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged: {error}", "Fix it, or remove it and run `bridle eval` again.") from error
    return [one for one in found if isinstance(one, dict)]


def read_tested(run: Path, result: dict[str, Any]) -> Tested:
    """What was said of each clip behind one of the run's results.

    Raises:
        DataError: it was not kept, or is damaged.
    """
    folder, _, name = str(result.get("clips")).partition("/")
    file = run / CLIPS / name
    try:
        if folder != CLIPS or not is_plain(name):
            raise ValueError(f"{result.get('clips')!r} is not a file of {CLIPS}/")
        tensors = read_tensors(file)
        names = json.loads(bytes(tensors["names"].tolist()))
        tested = Tested(names["paths"], names["classes"], tensors["y"], tensors["scores"].float())
        _check(tested)
        return tested
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}): the results of each clip are unknown", "Run `bridle eval` again."
        ) from error


def _check(tested: Tested) -> None:
    """Parts of one thing fit together.

    Raises:
        ValueError: these do not.
    """
    clips, classes = len(tested.paths), len(tested.classes)
    shape, several = tuple(tested.scores_SML.shape), tested.y.ndim == 2
    fits = len(shape) == 3 and shape[0] > 0 and shape[1:] == (clips, classes)
    fits &= tuple(tested.y.shape) == ((clips, classes) if several else (clips,)) and clips > 0
    fits &= tested.y.dtype == (torch.bool if several else torch.int64)
    if not fits or (not several and not 0 <= int(tested.y.min()) <= int(tested.y.max()) < classes):
        raise ValueError(f"{clips} clips and {classes} classes, but scores {shape} and labels {tuple(tested.y.shape)}")
    if not all(isinstance(name, str) for name in (*tested.paths, *tested.classes)):
        raise ValueError("names that are not text")


def run_of(checkpoint: str) -> Path | None:
    """The run that a checkpoint is of, however it is named; None for an export, or an untrained model."""
    if checkpoint in ("", "random"):
        return None
    # By its name first: the folder of the checkpoints may be a link to a larger disk.
    named = (Path(os.path.abspath(checkpoint)).parent, Path(checkpoint).resolve().parent)
    found = [folder.parent for folder in named if folder.name == CHECKPOINTS]
    return next((run for run in found if (run / STATE).exists()), found[0] if found else None)


def add_result(folder: Path, result: dict[str, Any], tested: Tested | None = None) -> Path | None:
    """Keeps a result, in place of an older one of the same question; adds `clips` to it, the file beside it.

    A damaged file of older results is put aside, as `results.json.damaged`.

    Args:
        folder: of a run, or any other.

    Returns:
        where that is, if there was one.

    Raises:
        OSError: it cannot be written.
    """
    aside = None
    try:
        older = read_results(folder)
    except DataError:
        aside, older = (folder / FILE).replace(folder / f"{FILE}.damaged"), []
    question = json.dumps([result.get(key) for key in _SAME])
    if tested:
        result["clips"] = f"{CLIPS}/{hashlib.sha256(question.encode()).hexdigest()[:16]}.safetensors"
        refuse_links(folder / CLIPS)
        (folder / CLIPS).mkdir(parents=True, exist_ok=True)
        names = json.dumps({"paths": tested.paths, "classes": tested.classes}).encode()
        content = {
            "names": torch.frombuffer(bytearray(names), dtype=torch.uint8),
            "y": tested.y,
            "scores": tested.scores_SML.float(),
        }
        write_tensors(content, folder / result["clips"])
    kept = [one for one in older if any(one.get(key) != result.get(key) for key in _SAME)]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE, json.dumps(_plain([*kept, result]), indent=1, allow_nan=False) + "\n")
    return aside


def _plain(value: Any) -> Any:
    """What JSON can say: nan and infinity are null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
