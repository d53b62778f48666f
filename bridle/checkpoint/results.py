"""`results.json` of a run: what its checkpoints were worth, by task, data and protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridle.checkpoint.run_folder import CHECKPOINTS, write_atomically

FILE = "results.json"
_SAME = ("task", "data", "protocol", "pool", "checkpoint", "seed", "group_by", "folds")


def read_results(run: Path) -> list[dict[str, Any]]:
    """All results of a run, oldest first; none where there is no file, or one that cannot be read."""
    try:
        found = json.loads((run / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def add_result(checkpoint: str, result: dict[str, Any]) -> bool:
    """Keeps a result in the run that the checkpoint is of, in place of an older one of the same question.

    Returns:
        whether it is of a run.

    Raises:
        OSError: it cannot be written.
    """
    folder = Path(checkpoint).parent
    if folder.name != CHECKPOINTS:
        return False
    kept = [one for one in read_results(folder.parent) if any(one.get(key) != result.get(key) for key in _SAME)]
    write_atomically(folder.parent / FILE, json.dumps([*kept, result], indent=1) + "\n")
    return True
