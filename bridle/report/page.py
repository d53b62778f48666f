"""The page: everything that was found, through the templates, into one file that needs nothing else.

The page allows itself no connection at all (a content security policy says so to the browser), and no script but its
own: names of files and labels are shown, never run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bridle.report import charts
from bridle.report.scale import number

# What neither HTML nor XML may hold, and halves of characters, which file names may.
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def render(**found: Any) -> str:
    """The page as text.

    Args:
        found: what the template names.
    """
    environment = Environment(
        loader=PackageLoader("bridle.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals |= {"kind": charts.kind, "mark": charts.mark}
    # Not through the engine: they are no templates, and hold nothing from outside.
    style, script = (
        (files("bridle.report") / "templates" / name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html").render(
        style=Markup(style), script=Markup(script), script_digest=f"sha256-{digest}", **found
    )
    return _UNUSABLE.sub("\ufffd", page)
