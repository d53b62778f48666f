"""Drawings other than lines: bars, a heat map, a scatter, an interval.

Shapes: Q levels, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bridle.report.scale import number, ticks
from bridle.report.svg import COLOURS, Chart, colour, drawing, element, path, placer, words

# Outlines around 0, 0 of the marks of a scatter: with ten colours they tell forty kinds apart.
_MARKS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-4.6l4.4 7.8h-8.8z", "M0-5l5 5-5 5-5-5z")


def bar_chart(
    title: str, values: Sequence[float], *, unit: str = "", most: float | None = None, note: str = ""
) -> Chart:
    """One bar for each level, with its value.

    Args:
        most: what a value can be at most: where the axis ends, and drawn.
    """
    width, height, left, bottom, top = 190, 160, 4, 136, 24
    high = most or 1.02 * max([value for value in values if math.isfinite(value)], default=0.0) or 1.0
    y, step = placer(0, high, bottom, top), (width - 2 * left) / max(len(values), 1)
    parts = [path(f"M{left} {bottom}H{width - left}", "axis")]
    if most:
        parts.append(path(f"M{left} {top}H{width - left}", "ref"))
        parts.append(words(f"most: {number(most)}", width - left, top - 5, "reftext", "end"))
    wide = min(38.0, 0.78 * step)
    for at, value in enumerate(values):
        middle = left + step * (at + 0.5)
        upper = y(max(0.0, min(value, high))) if math.isfinite(value) else bottom
        size = {"x": middle - wide / 2, "y": upper, "width": wide, "height": max(0.0, bottom - upper), "rx": 2}
        parts.append(element("rect", kind=f"fill {colour(at)}", **size))
        if step >= 26:
            inside = upper - top < 14 and bottom - upper > 20
            parts.append(words(number(value), middle, upper + (14 if inside else -4), "in" if inside else "val"))
        if len(values) <= 12 or at % 4 == 0:
            parts.append(words(str(at + 1), middle, height - 10))
    label = ", ".join(f"level {at + 1} {number(value)}" for at, value in enumerate(values))
    full = f"{title} ({unit})" if unit else title
    return Chart(full, drawing(width, height, f"{full}: {label}", parts), note=note)


def heat_map(
    title: str, share_QK: Sequence[Sequence[float]], names: Sequence[str], *, x_name: str, note: str = ""
) -> Chart:
    """Rows of cells, the fuller the larger their share (0 to 1); an empty cell has a mark of its own."""
    columns = max(len(row) for row in share_QK)
    width, left, tall = 980, 62, 30
    cell, height = (width - left - 8) / columns, tall * len(share_QK) + 40
    parts = []
    for at, (row, name) in enumerate(zip(share_QK, names, strict=True)):
        top = 4 + at * tall
        parts.append(words(name, left - 8, top + tall / 2 + 4, anchor="end"))
        for column, share in enumerate(row):
            size = {"x": left + column * cell, "y": top, "width": max(cell - 0.6, 0.5), "height": tall - 3}
            if share > 0:
                parts.append(element("rect", kind="heat", fill_opacity=0.06 + 0.94 * min(1.0, share), **size))
            else:
                parts.append(element("rect", kind="dead", **size))
    parts += [words(f"{at:g}", left + (at + 0.5) * cell, height - 20) for at in ticks(0, columns - 1, 8)]
    parts.append(words(x_name, (left + width) / 2, height - 4, "name"))
    return Chart(title, drawing(width, height, f"{title}; rows: {', '.join(names)}", parts), note=note)


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter.

    Attributes:
        kind: which colour and mark; -1: none of them.
        title: what it says when pointed at.
        number: of the clip.
    """

    x: float
    y: float
    kind: int
    title: str
    number: int


def scatter(title: str, dots: Sequence[Dot], x_name: str, y_name: str) -> Markup:
    """A square drawing of points; equal distances are equal on both axes."""
    side, edge = 560, 30
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2 or 1.0
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    x = placer(middle_x - half, middle_x + half, edge, side - edge)
    y = placer(middle_y - half, middle_y + half, side - edge - 14, edge - 14)
    parts = [element("rect", kind="field", x=1, y=1, width=side - 2, height=side - 2, rx=8)]
    for dot in dots:
        where = f"translate({x(dot.x):.1f} {y(dot.y):.1f})"
        tip = element("title", dot.title)
        parts.append(
            path(mark(dot.kind), f"dot {kind(dot.kind)}", tip, data_n=dot.number, data_kind=dot.kind, transform=where)
        )
    parts.append(words(x_name, side / 2, side - 8, "name"))
    turned = f"translate(16 {side / 2:g}) rotate(-90)"
    parts.append(element("text", y_name, kind="name", transform=turned, text_anchor="middle"))
    return drawing(side, side, f"{title}: {len(dots)} clips", parts, "scatter")


def kind(number: int) -> str:
    """The class of a kind of dot."""
    return colour(number) if number >= 0 else "other"


def mark(number: int) -> str:
    """The outline of a kind of dot: it changes with every colour, and again with every ten."""
    return _MARKS[(number + number // COLOURS) % len(_MARKS)] if number >= 0 else _MARKS[0]


def interval_bar(low: float, value: float, high: float, chance: float | None) -> Markup:
    """A value between 0 and 1 with its interval, and where chance lies."""
    x = placer(0, 1, 3, 117)
    parts = [path("M3 9H117", "axis")]
    if chance is not None:
        parts.append(path(f"M{x(chance):.1f} 2V16", "ref"))
    parts.append(path(f"M{x(low):.1f} 9H{x(high):.1f}", "range"))
    parts.append(element("circle", kind="fill c0", cx=x(value), cy=9, r=4))
    label = f"{100 * value:.1f} %, interval {100 * low:.1f} to {100 * high:.1f} %"
    return drawing(120, 18, label, parts, "interval")
