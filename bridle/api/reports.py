"""Write the HTML report on a run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from bridle.api.options import Report, takes
from bridle.api.results import ReportResult
from bridle.api.session import pick_device
from bridle.storage import locate


@takes(Report)
def report(run: str | Path, chosen: Report) -> ReportResult:
    """Write a self-contained HTML report on a run: curves, codebooks, a map of clips, codes and results."""
    from bridle.report import write_report

    result = write_report(
        Path(run),
        data=locate(chosen.data) if chosen.data else None,
        out=Path(chosen.out) if chosen.out else None,
        count=chosen.clips,
        device=pick_device(chosen.device),
        overwrite=chosen.overwrite,
    )
    return cast(ReportResult, result)
