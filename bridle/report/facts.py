"""What is known of a run without its data: how it was trained, what came out, on what it was reported.

A run that is still trained, was killed or has lost a file is read as far as it goes.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

from bridle import __version__
from bridle.checkpoint import list_runs, read_results, read_rows, read_state
from bridle.checkpoint.run_folder import CONFIG, METRICS
from bridle.cores import cores
from bridle.errors import BridleError, DataError
from bridle.inputs import find_sets
from bridle.model import Bridle
from bridle.report.curves import last
from bridle.report.scale import number, size
from bridle.storage import Location, read_text

Table = list[tuple[str, str]]
_MOST_STEPS = 10**15  # beyond lies a damaged line
_PARTS = ("encoder", "average", "predictor", "tokenizer", "estimator", "cold_tokenizer")


@dataclass(frozen=True, slots=True)
class Facts:
    """A run as its folder tells it.

    Attributes:
        summary: see `bridle.checkpoint.list_runs`.
        rows: of `metrics.jsonl`, in the order of their steps.
        config: `config.yaml` as text; "" where it is gone.
        damage: why the results cannot be read; "" where they can, or there are none.
    """

    run: Path
    state: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    results: list[dict[str, Any]]
    config: str
    damage: str = ""

    @property
    def result(self) -> dict[str, Any]:
        """What training returned; {} as long as it has not."""
        return self.state.get("result") or {}

    @property
    def name(self) -> str:
        return self.run.resolve().name or str(self.run)

    @property
    def steps(self) -> int:
        return max([row["step"] for row in self.rows], default=0)


def read_facts(run: Path) -> Facts:
    """Everything that the folder of a run says.

    Raises:
        DataError: it is no run.
    """
    if not run.is_dir():
        raise DataError(f"{run} is not a run: no such folder", "List all runs: bridle runs")
    state = read_state(run)
    summary = next((one for one in list_runs(run) if one["run"] == str(run)), {})
    rows = [row for _, row in read_rows(run / METRICS) if 0 <= row["step"] < _MOST_STEPS]
    try:
        config = read_text(run / CONFIG, errors="replace")
    except OSError:
        config = ""
    try:
        results, damage = read_results(run), ""
    except (DataError, OSError) as error:
        results, damage = [], error.message if isinstance(error, DataError) else str(error)
    return Facts(run, state, summary, sorted(rows, key=lambda row: row["step"]), results, config, damage)


def run_table(facts: Facts) -> Table:
    """How the run was trained."""
    limits = facts.state.get("limits") or {}
    asked = [f"{number(value)} {name.replace('_', ' ')}" for name, value in limits.items() if value is not None]
    failed = facts.result.get("failed_clips") or {}
    seconds = last(facts.rows, "seconds") or facts.result.get("seconds")
    return [
        ("folder", str(facts.run)),
        ("status", str(facts.summary.get("status", facts.state["status"]))),
        ("preset", facts.state["preset"] or "–"),
        ("asked for", ", ".join(asked) or "the preset's length"),
        ("steps", number(facts.steps)),
        ("clips seen", number(facts.result.get("clips"))),
        ("training time", span(seconds)),
        ("steps left out, not finite", number(facts.result.get("skipped_steps"))),
        ("clips that could not be read", number(len(failed)) if facts.result else "–"),
        ("configuration written", _time(facts.run / CONFIG)),
        ("last log line", _time(facts.run / METRICS)),
        ("size of the folder", size(facts.summary.get("bytes", 0))),
    ]


def model_table(model: Bridle) -> Table:
    """What was trained."""
    quantizer, grid = model.config.quantizer, model.patcher.grid
    parts = [(name, part) for name in _PARTS if (part := getattr(model, name)) is not None]
    rows = [(f"parameters: {name.replace('_', ' ')}", _parameters(part)) for name, part in parts]
    folder = Path(str(model.source))
    weights = sum(file.stat().st_size for file in folder.glob("model.*")) if folder.is_dir() else 0
    return [
        ("checkpoint", folder.name),
        ("size of the model's files", size(weights)),
        ("parameters", number(parameters(model))),
        *((name, number(count)) for name, count in rows if count),
        ("codes", f"{quantizer.levels} levels of {quantizer.codes}"),
        ("codes in use", "of the learned tokenizer" if bool(model.learned) else "of the random projection"),
        ("patches of a clip", f"{grid[0]} × {grid[1]} × {grid[2]} (time, rows, columns)"),
        ("values of a patch", number(model.patcher.values)),
        ("seed", str(model.config.train.seed)),
    ]


def data_table(places: Sequence[Location]) -> Table:
    """What lies in the sets of shards at those places; a folder of media says nothing here."""
    rows = []
    for place in places:
        try:
            for one in find_sets(place) if place.exists() else ():
                labels = f", {len(one.labels)} labels" if one.labels else ""
                rows.append((str(one.folder), f"{number(one.samples)} clips{labels}, {size(one.bytes)}"))
        except (BridleError, OSError):
            rows.append((str(place), "not a set of shards"))
    return rows


def machine_table(device: str) -> Table:
    """What this report was made with, which need not be what trained the run."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine() or "cpu"
    return [
        ("bridle", __version__),
        ("PyTorch, NumPy", f"{torch.__version__}, {numpy.__version__}"),
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.release()}"),
        ("device", f"{device} ({name})"),
        ("cores", number(cores())),
        ("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def parameters(model: torch.nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def span(seconds: Any) -> str:
    """`7 min 16 s`."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e12:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _parameters(part: Any) -> int:
    return parameters(part) if isinstance(part, torch.nn.Module) else 0


def _time(file: Path) -> str:
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except OSError:
        return "–"
