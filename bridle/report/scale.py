"""From numbers to places in a drawing: axes, their ticks, fewer points that draw the same line.

Shapes are plain lists: a point is `(x, y)`, a piece is a line without gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from `low` to `high`, about `most` of them.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((one for one in (1, 2, 5, 10) if one * power >= raw * (1 - 1e-9)), default=10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def extent(values: Iterable[float], low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """From the least to the greatest value with a little room, or the ends that are given; never empty."""
    found = [value for value in values if math.isfinite(value)]
    least = min(found, default=0.0) if low is None else low
    most = max(found, default=1.0) if high is None else high
    if not most > least:
        room = abs(least) * 0.1 or 1.0
        return (least if low is not None else least - room), least + room
    room = 0.05 * (most - least)
    return (least if low is not None else least - room), (most if high is not None else most + room)


def pieces(points: Iterable[tuple[float, float | None]], breaks: Sequence[float] = ()) -> list[list[Point]]:
    """The line cut where a value is missing or no number, and at each of `breaks` (places along x)."""
    found: list[list[Point]] = [[]]
    side = 0
    for x, y in points:
        now = sum(x > edge for edge in breaks)
        if now != side or y is None or not math.isfinite(y):
            found.append([])
        side = now
        if y is not None and math.isfinite(y):
            found[-1].append((x, y))
    return [piece for piece in found if piece]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: of each stretch its least and its greatest, so that no peak is lost.

    The first and the last point stay.
    """
    if len(points) <= max(most, 4):
        return list(points)
    inner = points[1:-1]
    buckets = max(1, (most - 2) // 2)
    kept = [points[0]]
    for number in range(buckets):
        stretch = inner[number * len(inner) // buckets : (number + 1) * len(inner) // buckets]
        if stretch:
            ends = {
                min(range(len(stretch)), key=lambda n: stretch[n][1]),
                max(range(len(stretch)), key=lambda n: stretch[n][1]),
            }
            kept += [stretch[at] for at in sorted(ends)]
    return [*kept, points[-1]]


def number(value: float | int | None) -> str:
    """As people read it: `1 234 567`, `0.157`, `3.2e-05`; a dash for what is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15:
        return f"{value:.2e}"
    if isinstance(value, int) or size >= 1000 or value == round(value):
        return f"{round(value):,}".replace(",", "\u202f")
    if size < 1e-3:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{value:.3g}"


def size(count: float) -> str:
    """Bytes as `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def short(value: float) -> str:
    """A tick's label: `20k`, `0.05`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:g}"
