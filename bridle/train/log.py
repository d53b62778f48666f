"""`metrics.jsonl`: one JSON object a line, readable while the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridle.checkpoint import write_atomically


class MetricsLog:
    """Appends rows; after a resume, rows beyond the checkpoint are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")

    def truncate(self, step: int) -> None:
        """Drops the rows after that step, and a last line that a crash cut off."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):
                continue
        write_atomically(self.path, "".join(line + "\n" for line in kept))
