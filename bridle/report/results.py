"""`results.json` -> what was judged, what was taken for what, and which clips went wrong.

The file may have been edited or damaged: what has not its form is left out.

Shapes: S seeds, M tested clips, L classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bridle.checkpoint import read_tested
from bridle.errors import DataError
from bridle.report.charts import interval_bar
from bridle.report.scale import number

_SHARES = ("accuracy", "map", "cur", "top5", "macro_f1")
_MOST_CLASSES = 100
_WRONG = 12  # clips
_PAIRS = 8


@dataclass(frozen=True, slots=True)
class Judged:
    """One line of the table."""

    what: str
    how: str
    metric: str
    value: str
    interval: str
    drawing: Markup
    chance: str
    tested: str
    checkpoint: str
    data: str


@dataclass(frozen=True, slots=True)
class Confusion:
    """What was taken for what.

    Attributes:
        rows: of each class: name, clips, and a cell for each class: count, share of the row's clips.
        pairs: the commonest mistakes: `(true, said, count)`.
    """

    title: str
    classes: list[str]
    rows: list[tuple[str, int, list[tuple[int, float]]]]
    pairs: list[tuple[str, str, int]]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A clip that was taken for another class, and by how much the scores preferred it."""

    path: str
    true: str
    predicted: str
    margin: str


def table(results: Sequence[dict[str, Any]]) -> list[Judged]:
    """Every result, the newest first."""
    return [_judged(one) for one in reversed(results)]


def confusion(results: Sequence[dict[str, Any]]) -> Confusion | None:
    """Of the newest result that has one."""
    one = next((one for one in reversed(results) if _is_confusion(one)), None)
    if one is None:
        return None
    classes = [str(name) for name in one["classes"]]
    matrix = one["confusion"]
    rows = [
        (name, sum(row), [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(classes, matrix, strict=True)
    ]
    wrong = [
        (classes[true], classes[predicted], count)
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if true != predicted and count
    ]
    pairs = sorted(wrong, key=lambda pair: -pair[2])[:_PAIRS]
    return Confusion(f"{one.get('task', '')}, {_how(one)}", classes, rows, pairs)


def wrong_clips(run: Path, results: Sequence[dict[str, Any]]) -> tuple[str, list[Wrong]]:
    """The clips that the newest probe was surest of and wrong, and which probe that was; none if it was not kept."""
    for one in reversed(results):
        try:
            tested = read_tested(run, one)
        except DataError:
            continue
        scores_ML = tested.scores_SML.mean(0)
        if tested.y.ndim != 1 or scores_ML.shape != (len(tested.paths), len(tested.classes)):
            continue
        predicted_M = scores_ML.argmax(1)
        margin_M = scores_ML.max(1).values - scores_ML.gather(1, tested.y[:, None])[:, 0]
        worst = [at for at in margin_M.argsort(descending=True).tolist() if predicted_M[at] != tested.y[at]]
        clips = [
            Wrong(
                tested.paths[at],
                tested.classes[int(tested.y[at])],
                tested.classes[int(predicted_M[at])],
                number(float(margin_M[at])),
            )
            for at in worst[:_WRONG]
        ]
        return f"{one.get('task', '')}, {_how(one)}: {len(worst)} of {len(tested.paths)} clips", clips
    return "", []


def newest_levels(results: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """`per_level` of the newest result that has it, and which one that is."""
    for one in reversed(results):
        levels = one.get("per_level")
        if isinstance(levels, list) and levels and all(isinstance(level, dict) for level in levels):
            return f"{one.get('task', '')}, {_how(one)}, {number(_float(one.get('n_test')))} clips", levels
    return "", []


def headline(results: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
    """The newest figure of a probe and what it is of, for the top of the page."""
    for one in reversed(results):
        if (value := _float(one.get("value"))) is not None and one.get("metric") in ("accuracy", "map"):
            return _share(value), f"{one['metric']}, {_how(one)[:40]}"
    return None


def _judged(one: dict[str, Any]) -> Judged:
    value, chance = _float(one.get("value")), _float(one.get("chance"))
    ends = one.get("ci95") if isinstance(one.get("ci95"), list) else []
    ends = [_float(end) for end in ends or []]
    share = one.get("metric") in _SHARES
    show = _share if share else number
    low, high = ends if len(ends) == 2 else (None, None)
    drawn = Markup()
    if share and None not in (low, value, high) and all(0 <= x <= 1 for x in (low, value, high)):  # type: ignore[operator]
        drawn = interval_bar(low, value, high, chance)  # type: ignore[arg-type]
    trained = _float(one.get("n_train"))
    counts = [number(int(n)) for n in (_float(one.get("n_test")), trained) if n is not None]
    return Judged(
        what=str(one.get("task", "")),
        how=_how(one),
        metric=str(one.get("metric", "")),
        value=show(value) if value is not None else "–",
        interval=f"{show(low)} to {show(high)}" if low is not None and high is not None else "–",
        drawing=drawn,
        chance=_share(chance) if chance is not None else "–",
        tested=" / ".join(counts),
        checkpoint=Path(str(one.get("checkpoint", ""))).name,
        data=str(one.get("data", "")),
    )


def _how(one: dict[str, Any]) -> str:
    pool = one.get("pool")
    return str(one.get("protocol", "")) + (f", {pool}" if pool and pool != one.get("protocol") else "")


def _is_confusion(one: dict[str, Any]) -> bool:
    matrix, classes = one.get("confusion"), one.get("classes")
    return (
        isinstance(matrix, list)
        and isinstance(classes, list)
        and 0 < len(classes) == len(matrix) <= _MOST_CLASSES
        and all(isinstance(row, list) and len(row) == len(classes) for row in matrix)
        and all(isinstance(count, int) and 0 <= count < 10**15 for row in matrix for count in row)
    )


def _float(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if usable and math.isfinite(value) else None


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
