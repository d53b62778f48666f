"""How the codebooks are used: a bar for each level and figure, and who is used how often.

Shapes: Q levels, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bridle.report.charts import bar_chart, heat_map
from bridle.report.lines import Line, line_chart
from bridle.report.svg import Chart

_COLUMNS = 128  # of the heat map; of larger codebooks neighbours share one
_DRAWN = 400  # points of a curve over the codes
READING = (
    ("CUR", "fraction of the codes that are used"),
    ("Entropy", "entropy of the code frequencies, in bits"),
    ("Perplexity", "2 to the entropy: the equivalent number of equally used codes"),
    ("Residual energy", "mean squared norm of the residual after the level, for vectors of norm 1"),
    ("Label information", "mutual information of one patch's code and its clip's label; too large for few clips"),
)


def health_charts(levels: Sequence[dict[str, Any]], codes: int) -> list[Chart]:
    """Bars of everything that `per_level` of a result or `CodebookHealth.report` tells.

    Args:
        codes: K; 0 where it is not known.
    """
    bits = math.log2(codes) if codes > 1 else None
    kinds = (
        ("cur", "CUR", "%", 100.0),
        ("entropy_bits", "Entropy", "bits", bits),
        ("perplexity", "Perplexity", "codes", float(codes) or None),
        ("residual_energy", "Residual energy", "", None),
        ("label_bits", "Label information", "bits", None),
    )
    charts = []
    for key, title, unit, most in kinds:
        values = [float(value) for level in levels if isinstance(value := level.get(key), int | float)]
        if values and len(values) == len(levels):
            charts.append(
                bar_chart(title, [100 * value if unit == "%" else value for value in values], unit=unit, most=most)
            )
    return charts


def use_map(count_QK: Tensor) -> Chart:
    """How often each code occurs beside the even share."""
    levels, codes = count_QK.shape
    wide = -(-codes // _COLUMNS)
    even_QK = count_QK.double() * codes / count_QK.double().sum(1, keepdim=True).clamp(min=1)
    share_QK = [[float(part.mean()) / 2 for part in row.split(wide)] for row in even_QK]
    dead = [int((row == 0).sum()) for row in count_QK]
    named = f"groups of {wide} codes, by number" if wide > 1 else "code"
    unused = "no code is unused" if not any(dead) else f"unused, by level: {', '.join(map(str, dead))}"
    return heat_map(
        "Codebook use",
        share_QK,
        [f"level {level + 1}" for level in range(levels)],
        x_name=named,
        note=f"Half tone: average use; full: twice the average or more; hollow: unused. Of {codes} codes per level, "
        f"{unused}.",
    )


def rank_curve(count_QK: Tensor) -> Chart | None:
    """Shares of the codes from the most used to the least."""
    codes = count_QK.shape[1]
    step = max(1, codes // _DRAWN)
    lines = []
    for level, row in enumerate(count_QK.double()):
        share = (row / row.sum().clamp(min=1)).sort(descending=True).values.tolist()
        points = [(at + 1, share[at]) for at in range(0, codes, step)]
        lines.append(Line(f"level {level + 1}", points))
    return line_chart(
        "Codes by rank of use",
        lines,
        unit="%",
        low=0.0,
        level=(1 / codes, "all alike"),
        x_name="rank of the code",
        note="Fraction of all patches with the code.",
    )
