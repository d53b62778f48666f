"""A run on disk.

    runs/NAME/config.yaml        the recipe as it was run
    runs/NAME/state.json         status (running, complete, interrupted, failed), preset, shards, result
    runs/NAME/metrics.jsonl      one line every few steps
    runs/NAME/results.json       what `bridle eval` found
    runs/NAME/checkpoints/step-00000500/{model.safetensors, model.json, training.safetensors, training.json}
    runs/NAME/.lock              held by the process that trains it
    runs/.NAME.replaced          what --overwrite replaces, until the new run has learned something

A checkpoint is written under a temporary name and renamed when it is whole: what has its final name can be used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from bridle.checkpoint.model_file import ABOUT, Snapshot, save_model
from bridle.checkpoint.training_file import mistakes, save_training
from bridle.errors import DataError, UsageError
from bridle.outputs import alone, exists, put_in_place, write_text
from bridle.storage import read_text, refuse_links

STATE, CONFIG, METRICS, CHECKPOINTS, LOCK = "state.json", "config.yaml", "metrics.jsonl", "checkpoints", ".lock"


class _Limits(BaseModel):
    steps: int | None
    epochs: float | None
    max_minutes: float | None


class _State(BaseModel):
    """What `state.json` must hold."""

    status: str
    preset: str
    shards: list[str]
    limits: _Limits
    result: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _complete(self) -> _State:
        if self.status == "complete" and self.result is None:
            raise ValueError("complete without a result")
        return self


class RunFolder:
    """Paths and state of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / METRICS

    @classmethod
    def create(cls, path: Path, config_yaml: str, state: dict[str, Any], *, overwrite: bool) -> RunFolder:
        """An empty run folder.

        Raises:
            UsageError: there is something already.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not overwrite:
                raise exists(path, hint=f"Continue it with --resume {path}.")
            if not (path / STATE).exists() and not _is_stillborn(path):
                raise UsageError(f"{path} is not a run: it will not be overwritten.", "Choose another --out.")
            with cls(path).lock():  # not while another process trains it
                cls(path)._put_aside()
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / CHECKPOINTS).mkdir()
            (path / CONFIG).write_text(config_yaml, encoding="utf-8")
            run.update(**state)
        except OSError:
            run.give_up()
            raise
        return run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process trains a run; the system lets go of the lock when that process dies.

        Raises:
            UsageError: another process holds it.
        """
        refuse_links(self.path / LOCK)
        with alone(self.path / LOCK, self.path):  # who only asks leaves no mark of the time
            yield

    @property
    def busy(self) -> bool:
        """Whether another process trains it now."""
        try:
            with self.lock():
                return False
        except UsageError:
            return True

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f".{self.path.name}.replaced")

    def _put_aside(self) -> None:
        """Out of the way, but not lost before the new run has learned something."""
        if self._aside.exists() and not self._has_learned():
            shutil.rmtree(self.path)  # a replacement that came to nothing: what it replaced is worth more
        else:
            shutil.rmtree(self._aside, ignore_errors=True)
            self.path.rename(self._aside)

    def _has_learned(self) -> bool:
        return any(int(checkpoint.name.split("-")[1]) > 0 for checkpoint in self.checkpoints())

    def give_up(self) -> bool:
        """Takes back a run that failed before it learned anything, and puts what it replaced in its place.

        Returns:
            whether it did.
        """
        if self._has_learned():
            return False
        shutil.rmtree(self.path, ignore_errors=True)
        if self._aside.exists():
            self._aside.rename(self.path)
        return True

    def discard(self, checkpoint: Path) -> None:
        """Removes a checkpoint; under its own name a half-deleted one would look like a whole one."""
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.old")), ignore_errors=True)

    def sweep(self) -> None:
        """Removes what processes that were killed while they wrote have left; needs the lock."""
        for left in (self.path / CHECKPOINTS).glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
        for name in (STATE, CONFIG, METRICS):
            for left in self.path.glob(f".{name}.*.partial"):
                left.unlink()

    def state(self) -> dict[str, Any]:
        """`state.json`.

        Raises:
            DataError: this is no run.
        """
        try:
            state: dict[str, Any] = json.loads(read_text(self.path / STATE))
            _State.model_validate(state)
        except (OSError, ValueError, RecursionError) as error:
            why = mistakes(error) if isinstance(error, ValidationError) else str(error)
            missing = isinstance(error, FileNotFoundError)
            raise DataError(
                f"{self.path} is not a run: " + (f"no {STATE} in it" if missing else f"{STATE} cannot be read ({why})"),
                "Runs are below runs/ unless --out was used.",
            ) from error
        return state

    def rows(self) -> list[dict[str, Any]]:
        """What `metrics.jsonl` holds, without lines that cannot be read."""
        return [row for _, row in read_rows(self.metrics)]

    def update(self, **changes: Any) -> None:
        """Changes keys of `state.json`, all at once or not at all."""
        state = self.state() if (self.path / STATE).exists() else {}
        write_text(self.path / STATE, json.dumps({**state, **changes}, indent=1) + "\n")

    def checkpoints(self, *, whole: bool = True) -> list[Path]:
        """Complete checkpoints, oldest first; or also those that lack their description."""
        found = [p for p in (self.path / CHECKPOINTS).glob("step-*") if re.fullmatch(r"step-\d{8,}", p.name)]
        return sorted(p for p in found if not whole or (p / ABOUT).exists())

    def save(self, model: Snapshot, training: dict[str, Any], step: int, keep: int) -> Path:
        """Writes a checkpoint and removes all but the last `keep`."""
        final = self.path / CHECKPOINTS / f"step-{step:08d}"
        temporary = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            save_training(training, temporary)
            save_model(model, temporary, {"step": step})
            put_in_place(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if step:
            shutil.rmtree(self._aside, ignore_errors=True)
        for old in self.checkpoints()[:-keep]:
            self.discard(old)
        return final


def read_rows(metrics: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of `metrics.jsonl` that can be read, and what they say; none where there is no such file."""
    try:
        text = read_text(metrics, errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield line, row


def find_checkpoint(where: Path) -> Path:
    """The folder with the model: of a run its newest complete checkpoint; a checkpoint or an export is itself.

    Raises:
        DataError: there is none.
    """
    where = where.parent if where.is_file() else where
    if (where / ABOUT).exists():
        return where
    if not where.exists():
        raise DataError(f"{where} does not exist.", "Give a run folder, one of its checkpoints, or an export.")
    found = RunFolder(where).checkpoints()
    if not found and (where / "preprocessing.json").exists():
        raise DataError(f"{where} is an export for other programs.", "Only safetensors exports can be read.")
    if not found:
        raise DataError(f"{where} holds no checkpoint.", "Give a run folder, one of its checkpoints, or an export.")
    return found[-1]


def newest_run(root: Path, *, unfinished: bool = False) -> Path:
    """The run below `root` that was written to last and has a checkpoint.

    Args:
        unfinished: only runs count that are not complete and that no process is training.

    Raises:
        DataError: there is none.
    """
    runs = [state.parent for state in root.glob(f"**/{STATE}") if RunFolder(state.parent).checkpoints()]
    runs = [run for run in runs if not any(part.startswith(".") for part in run.relative_to(root).parts)]
    if unfinished:
        runs = [run for run in runs if _waits(RunFolder(run))]
    if not runs and unfinished:
        raise DataError(f"no interrupted run below {root}", "Name one: bridle pretrain --resume RUN")
    if not runs:
        raise DataError(f"no run with a checkpoint below {root}", "Train one: bridle pretrain --shards shards/")
    return max(runs, key=lambda run: (run / STATE).stat().st_mtime)


def run_of_launch(root: Path, launch: str | None) -> Path | None:
    """The run at or below a folder that this launch began (see `distributed.launch_id`)."""
    for state in sorted(root.glob(f"**/{STATE}")) if launch else ():
        run = RunFolder(state.parent)
        with suppress(DataError):
            if run.state().get("launch") == launch:
                return run.path
    return None


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Every run at or below a folder, the one written to last first.

    Returns:
        `{run, status, preset, modality, step, loss, best_probe, best_step, bytes, modified}`: status is that of
        `state.json`, but "stopped" where it says "running" and no process is; `best_probe` is the best accuracy of the
        online probe (None: there was none) and `best_step` its step; unreadable runs have the status "damaged".
    """
    found = []
    for state in sorted(root.glob(f"**/{STATE}")):
        run = RunFolder(state.parent)
        if not any(part.startswith(".") for part in state.parent.relative_to(root).parts):
            found.append(_summary(run))
    return sorted(found, key=lambda one: one["modified"], reverse=True)


def _summary(run: RunFolder) -> dict[str, Any]:
    try:
        state = run.state()
        status = state["status"]
        if status == "running" and not run.busy:
            status = "stopped"
    except DataError:
        state, status = {}, "damaged"
    except OSError:  # somebody else's, whose lock we may not touch
        status = state["status"]
    rows = run.rows()
    probes = [(row["probe"].get("knn"), row["step"]) for row in rows if isinstance(row.get("probe"), dict)]
    best = max((pair for pair in probes if isinstance(pair[0], int | float)), default=(None, None))
    last: dict[str, Any] = next((row for row in reversed(rows) if isinstance(row.get("loss"), int | float)), {})
    files = list(_sizes(run.path))
    return {
        "run": str(run.path),
        "status": status,
        "preset": state.get("preset"),
        "modality": state.get("modality"),
        "step": last.get("step", 0),
        "loss": last.get("loss"),
        "best_probe": best[0],
        "best_step": best[1],
        "bytes": sum(file.st_size for file in files),
        "modified": max((file.st_mtime for file in files), default=0.0),
    }


def _sizes(folder: Path) -> Iterator[os.stat_result]:
    """Of all files in it, while others may come and go."""
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield os.stat(os.path.join(inside, name))


def _is_stillborn(path: Path) -> bool:
    """What a process killed in `RunFolder.create` leaves."""
    left = {file.name for file in path.rglob("*") if not re.fullmatch(rf"\.{STATE}\.\w+\.partial", file.name)}
    return path.is_dir() and left <= {CONFIG, CHECKPOINTS, LOCK}


def _waits(run: RunFolder) -> bool:
    try:
        return run.state()["status"] != "complete" and not run.busy
    except (DataError, OSError):  # OSError: somebody else's run, which we may not write to
        return False  # named on its own it says what is wrong; it must not stand in the way of the others
