"""Line charts: values over steps, with the phases of training as bands behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bridle.report.scale import Point, extent, number, pieces, short, thin, ticks
from bridle.report.svg import Chart, Place, colour, drawing, element, path, placer, words

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 468, 22, 212  # of the field
_BAND_TOP = _TOP - 16
_POINTS = 300  # of one line: more than pixels is waste
_LETTER = 6.4  # width of one in a band's name
_FEW = 24  # points of a line that are marked
_TOLD = 8  # lines whose end the description names


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of the x axis that has a name, and the class that colours it."""

    start: float
    end: float
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a name for the legend, and its points; None or nan leave a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


def line_chart(
    title: str,
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    level: tuple[float, str] | None = None,
    note: str = "",
    x_name: str = "step",
    broken: bool = True,
) -> Chart | None:
    """Lines over steps; None where there is not a single point.

    Args:
        unit: of y; `%` shows shares in percent.
        low, high: ends of the y axis; as the values need them if they are None.
        level: a value that the lines are to be seen against, and its name.
        broken: whether lines are cut where a band begins.
    """
    edges = [band.start for band in bands[1:]] if broken else []
    drawn = [(at, line.name, found) for at, line in enumerate(lines) if (found := pieces(line.points, edges))]
    every = [point for _, _, found in drawn for piece in found for point in piece]
    if not every:
        return None
    ends = [x for x, _ in every] + [edge for band in bands for edge in (band.start, band.end)]
    x0, x1 = (min(ends), max(ends)) if min(ends) < max(ends) else (ends[0] - 1, ends[0] + 1)
    y0, y1 = extent([y for _, y in every] + ([level[0]] if level and high is None else []), low, high)
    x, y = placer(x0, x1, _LEFT, _RIGHT), placer(y0, y1, _BOTTOM, _TOP)
    parts = [*_bands(bands, x), *_axes(x, y, (x0, x1), (y0, y1), x_name, unit)]
    if level and y0 <= level[0] <= y1:
        place = y(level[0])
        parts.append(path(f"M{_LEFT} {place:.1f}H{_RIGHT}", "ref"))
        parts.append(words(level[1], _RIGHT - 2, place - 4 if place > _TOP + 8 else place + 13, "reftext", "end"))
    parts += [mark for at, name, found in drawn for mark in _line(name, found, x, y, colour(at))]
    ending = "; ".join(f"{name} ends at {number(found[-1][-1][1])}" for _, name, found in drawn[:_TOLD])
    svg = drawing(
        _WIDTH,
        _HEIGHT,
        f"{title}: {ending}",
        parts,
        "lines",
        data_name=x_name,
        data_x=f"{x0:g} {x1:g} {_LEFT} {_RIGHT}",
        data_y=f"{y0:g} {y1:g} {_BOTTOM} {_TOP}",
    )
    return Chart(title, svg, [(colour(at), name) for at, name, _ in drawn], note)


def _bands(bands: Sequence[Band], x: Place) -> list[Markup]:
    parts = []
    for band in bands:
        left, right = x(band.start), x(band.end)
        title = element("title", band.name)
        wide, tall = max(right - left, 0.5), _BOTTOM - _BAND_TOP
        size = {"x": left, "y": _BAND_TOP, "width": wide, "height": tall}
        parts.append(element("rect", title, kind=f"band {band.kind}", **size))
        if band is not bands[0]:
            parts.append(path(f"M{left:.1f} {_BAND_TOP}V{_BOTTOM}", "edge"))
        if wide > _LETTER * len(band.name) + 6:
            parts.append(words(band.name, (left + right) / 2, _TOP - 4, "bandname"))
    return parts


def _axes(x: Place, y: Place, xs: Point, ys: Point, x_name: str, unit: str) -> list[Markup]:
    parts = []
    for value in ticks(*ys):
        parts.append(path(f"M{_LEFT} {y(value):.1f}H{_RIGHT}", "grid"))
        label = f"{100 * value:g}" if unit == "%" else short(value)
        parts.append(words(label, _LEFT - 6, y(value) + 4, anchor="end"))
    parts.append(path(f"M{_LEFT} {_BOTTOM}H{_RIGHT}", "axis"))
    for value in ticks(*xs):
        parts.append(path(f"M{x(value):.1f} {_BOTTOM}v4", "axis"))
        parts.append(words(short(value), x(value), _BOTTOM + 16))
    parts.append(words(x_name, (_LEFT + _RIGHT) / 2, _HEIGHT - 5, "name"))
    if unit:
        parts.append(words(unit, 4, _TOP - 9, "name", "start"))
    return parts


def _line(name: str, found: Sequence[Sequence[Point]], x: Place, y: Place, kind: str) -> list[Markup]:
    """Its pieces, with marks where points are few or stand alone."""
    total = sum(map(len, found))
    parts = []
    for piece in found:
        kept = [(x(a), y(b)) for a, b in thin(piece, max(4, _POINTS * len(piece) // total))]
        places = " ".join(f"{a:.1f},{b:.1f}" for a, b in kept)
        parts.append(element("polyline", kind=f"line {kind}", data_name=name, points=places))
        if total <= _FEW or len(piece) == 1:
            parts += [element("circle", kind=f"fill {kind}", cx=a, cy=b, r=2.6) for a, b in kept]
    return parts
