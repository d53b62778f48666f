"""The pieces of a drawing: elements whose text is escaped, and places along an axis.

Colours are classes (`c0` to `c9` for kinds, `heat` for amounts) that the page's style sheet fills in, so that a drawing
is legible by day and by night.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from markupsafe import Markup, escape

COLOURS = 10
Place = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with what stands around it.

    Attributes:
        keys: of the legend: class and name.
        note: a sentence below.
    """

    title: str
    svg: Markup
    keys: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


def colour(index: int) -> str:
    """The class of a kind; after ten kinds they repeat."""
    return f"c{index % COLOURS}"


def element(name: str, *inside: str, kind: str = "", **attributes: str | float) -> Markup:
    """`<name class="kind" ...>inside</name>`; an underscore in an attribute's name stands for a hyphen.

    Text and values are escaped, elements among `inside` are not.
    """
    pairs = [("class", kind)] if kind else []
    pairs += [(key.replace("_", "-"), _figure(value)) for key, value in attributes.items()]
    head = "".join(f' {key}="{escape(value)}"' for key, value in pairs)
    body = "".join(map(escape, inside))
    return Markup(f"<{name}{head}>{body}</{name}>" if body else f"<{name}{head}/>")


def words(text: str, x: float, y: float, kind: str = "", anchor: str = "middle") -> Markup:
    """A line of text."""
    return element("text", text, kind=kind, x=x, y=y, text_anchor=anchor)


def path(d: str, kind: str, *inside: str, **attributes: str | float) -> Markup:
    return element("path", *inside, kind=kind, d=d, **attributes)


def drawing(
    width: float, height: float, label: str, inside: Iterable[Markup], kind: str = "", **attributes: str | float
) -> Markup:
    """The whole; `told` is for who cannot see it."""
    return element(
        "svg",
        Markup("").join(inside),
        kind=kind,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        **attributes,
    )


def placer(low: float, high: float, first: float, last: float) -> Place:
    """From values between `low` and `high` to places between `first` and `last`."""
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _figure(value: str | float) -> str:
    """A place to a hundredth of a pixel."""
    return value if isinstance(value, str) else f"{round(value, 2):g}"
