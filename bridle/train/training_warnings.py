"""Signs that a run is going wrong, each said once with its cause and a remedy."""

from __future__ import annotations

import math
from typing import Any

_COLLAPSED = 0.5  # share of a level's codes in use below which it is called collapsed
_LOPSIDED = 0.2  # likewise the perplexity: codes that are touched and hardly ever used
_LEARNS_BY = 0.2  # of a phase: by then something must have become predictable
_EARLIEST = 100  # steps of the phase: before them nothing is said
_SHORTEST = 20  # steps of a phase that is over
_NEAR = 0.98  # of the entropy of the codes


class Watch:
    """Reads the log rows of a run; each warning comes once a phase.

    Args:
        codes: K.
    """

    def __init__(self, codes: int) -> None:
        self._codes = codes
        self._seen: set[tuple[Any, ...]] = set()

    def warnings(self, row: dict[str, Any], done: float, steps: int) -> list[str]:
        """What is new in this row.

        Args:
            row: as in `metrics.jsonl`.
            done: share of the phase.
            steps: of the phase so far.
        """
        if done < _LEARNS_BY or steps < (_EARLIEST if done < 1 else _SHORTEST):
            return []
        found: dict[tuple[Any, ...], str] = {}
        for level, (share, perplexity) in enumerate(zip(row["usage"], row["perplexity"], strict=True), start=1):
            if share < _COLLAPSED or perplexity < _LOPSIDED * self._codes:
                found["collapse", row["phase_index"], level] = (
                    f"level {level} uses {share:.0%} of its codes with a perplexity of {perplexity:.0f} of "
                    f"{self._codes}: it has collapsed, or the clips are too few or too similar; fewer codes "
                    "(--set quantizer.codes=...) or --set quantizer.dead_below=0.5 may help"
                )
        if "cross_entropy" in row:
            blind = math.log(max(row["perplexity"][0], 1.0))  # what guessing by frequency alone costs
            if blind > 0 and row["cross_entropy"][0] > _NEAR * blind:
                found["blind", row["phase_index"]] = (
                    f"cross-entropy at level 1 is {row['cross_entropy'][0]:.2f}, and guessing by frequency alone gives "
                    f"{blind:.2f}: it is not learning; try another learning rate (--set optim.lr=...), a lower "
                    "--set mask.ratio=..., or look at the clips: silence and noise cannot be predicted"
                )
        new = [message for key, message in found.items() if key not in self._seen]
        self._seen |= set(found)
        return new
