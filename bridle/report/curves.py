"""`metrics.jsonl` -> the phases of a run, and what changed while it was trained.

A row that lacks a value, or holds one that is no number, leaves a gap.

Shapes: Q levels, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bridle.report.lines import Band, Line, line_chart
from bridle.report.svg import Chart

Rows = Sequence[dict[str, Any]]
_LEVELS = 16  # drawn of each kind: more cannot be distinguished
KINDS = {
    "cold": "cold start: the encoder predicts codes of a random projection",
    "tokenizer": "the tokenizer learns codes of the encoder",
    "encoder": "the encoder predicts the tokenizer's codes",
    "joint": "encoder and tokenizer learn together",
}


def phases(rows: Rows) -> list[Band]:
    """The phases that the run went through: each begins where the one before has its last row."""
    bands: list[Band] = []
    numbers: list[Any] = []
    for row in rows:
        name = str(row.get("phase", ""))
        mark = row.get("phase_index"), name
        if not bands or numbers[-1] != mark:
            start = bands[-1].end if bands else 0
            bands.append(Band(start, row["step"], name, name if name in KINDS else "unknown"))
            numbers.append(mark)
        else:
            last = bands[-1]
            bands[-1] = Band(last.start, max(last.end, row["step"]), last.name, last.kind)
    return [band for band in bands if band.end > band.start]


def curves(rows: Rows, codes: int) -> list[Chart]:
    """A chart for each thing that the rows tell; `codes`: K, of one level."""
    bands = phases(rows)
    entropy = (math.log(codes), f"guessing: ln {codes}") if codes > 1 else None
    charts = [
        line_chart(
            "Loss",
            [_one(rows, "loss", "loss")],
            bands,
            note="The loss of each phase; phases minimise different losses.",
        ),
        line_chart(
            "Learning rate",
            [_one(rows, "lr", "learning rate")],
            bands,
            low=0.0,
            note="The schedule: every phase warms up and cools down.",
        ),
        line_chart(
            "Prediction of hidden codes",
            _levels(rows, "cross_entropy"),
            bands,
            unit="nats",
            level=entropy,
            note="Cross-entropy of each level's codes in cold start and encoder phases.",
        ),
        line_chart(
            "Residual norm",
            _levels(rows, "residual_norm"),
            bands,
            low=0.0,
            note="Squared residual after each level, for vectors of norm 1, in tokenizer phases.",
        ),
        line_chart("Codes in use", _levels(rows, "usage"), bands, unit="%", low=0.0, high=1.0),
        line_chart(
            "Perplexity of the codes",
            _levels(rows, "perplexity"),
            bands,
            low=0.0,
            high=1.12 * codes,
            level=(float(codes), f"uniform: {codes}"),
        ),
        line_chart(
            "Online probe: nearest neighbours",
            [_one(rows, "probe.knn", "kNN accuracy")],
            bands,
            unit="%",
            low=0.0,
            note="On a few labelled training clips: for comparing steps, not for evaluating the encoder.",
            broken=False,
        ),
        line_chart(
            "Online probe: information of a code about the label",
            _levels(rows, "probe.mutual_information"),
            bands,
            unit="bits",
            low=0.0,
            broken=False,
        ),
    ]
    return [chart for chart in charts if chart]


def machine(rows: Rows) -> list[Chart]:
    """How the machine kept up."""
    bands = phases(rows)
    charts = [
        line_chart("Speed", [_one(rows, "clips_per_s", "clips per second")], bands, unit="clips/s", low=0.0),
        line_chart("Time spent waiting for data", [_one(rows, "data_wait", "waiting")], bands, unit="%", low=0.0),
        line_chart("Memory", [_one(rows, "memory_mb", "memory")], bands, unit="MB", low=0.0),
        line_chart("Gradient norm", [_one(rows, "grad_norm", "gradient norm")], bands, low=0.0),
        line_chart("Use of the device", [_one(rows, "mfu", "share of its peak")], bands, unit="%", low=0.0),
    ]
    return [chart for chart in charts if chart]


def last(rows: Rows, key: str) -> Any:
    """The newest value of a key that is there and finite."""
    return next((value for row in reversed(rows) if _finite(value := _found(row, key))), None)


def best_probe(rows: Rows) -> tuple[float, int] | None:
    """The best accuracy of the online probe, and its step."""
    found = [(value, row["step"]) for row in rows if _finite(value := _found(row, "probe.knn"))]
    return max(found, key=lambda one: one[0], default=None)


def level_values(row: dict[str, Any], key: str) -> list[float]:
    """The value of each level in a row; none where one of them is no number."""
    values = row.get(key)
    found = [number for value in values if (number := _number(value)) is not None] if isinstance(values, list) else []
    return found if isinstance(values, list) and len(found) == len(values) else []


def _one(rows: Rows, key: str, name: str) -> Line:
    holds = [(row["step"], _number(_found(row, key))) for row in rows if _found(row, key) is not None]
    return Line(name, holds)


def _levels(rows: Rows, key: str) -> list[Line]:
    """A line for each level."""
    lists = [(row["step"], value) for row in rows if isinstance(value := _found(row, key), list)]
    levels = min(max((len(value) for _, value in lists), default=0), _LEVELS)
    return [
        Line(f"level {level + 1}", [(step, _number(v[level]) if level < len(v) else None) for step, v in lists])
        for level in range(levels)
    ]


def _found(row: dict[str, Any], key: str) -> Any:
    """`probe.knn` is the `knn` of what `probe` holds."""
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    return float(value) if _finite(value) else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
