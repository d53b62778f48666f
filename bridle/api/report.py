"""A run -> one HTML file about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridle import progress
from bridle.api.session import pick_device
from bridle.storage import locate


@progress.heard
def report(
    run: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    clips: int = 12,
    device: str = "auto",
    overwrite: bool = False,
    on_event: progress.Listener | None = None,
) -> dict[str, Any]:
    """Curves, codebooks, a map of clips, clips with their codes, results and facts of a run, in one file that needs no
    network; see `bridle.report.write_report`.

    Args:
        data: media in class folders, or shards; default: what the run was trained on.
        out: default: `report.html` in the run.
        clips: how many are shown with their code maps and nearest neighbours.

    Returns:
        `{run, out, bytes, sections, clips, skipped}`.
    """
    from bridle.report import write_report

    return write_report(
        Path(run),
        data=locate(data) if data else None,
        out=Path(out) if out else None,
        count=clips,
        device=pick_device(device),
        overwrite=overwrite,
    )
