"""Write the HTML report on a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridle.api.options import Report, takes
from bridle.api.session import pick_device
from bridle.storage import locate


@takes(Report)
def report(run: str | Path, chosen: Report) -> dict[str, Any]:
    """Write a self-contained HTML report on a run: curves, codebooks, a map of clips, codes, results and system facts.

    Returns:
        `{run, out, bytes, sections, clips, skipped}`.
    """
    from bridle.report import write_report

    return write_report(
        Path(run),
        data=locate(chosen.data) if chosen.data else None,
        out=Path(chosen.out) if chosen.out else None,
        count=chosen.clips,
        device=pick_device(chosen.device),
        overwrite=chosen.overwrite,
    )
