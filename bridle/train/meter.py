"""What happened since the last log line; sums stay on the device until they are read."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from bridle.quantize import usage_entropy, usage_share
from bridle.train.objectives import Objective


class Meter:
    """Averages over the steps between two reads; the use of codes over these and the ones before, if there were any.

    The last read of a phase may cover a single step, and few vectors never use all codes.
    """

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.before_QK: Tensor | float = 0.0
        self._start()

    def _start(self) -> None:
        self.steps, self.clips = 0, 0
        self.loss: Tensor | float = 0.0
        self.per_level_Q: Tensor | float = 0.0
        self.count_QK: Tensor | float = 0.0

    def add(self, objective: Objective, clips: int) -> None:
        """One step."""
        self.steps += 1
        self.clips += clips
        self.loss = self.loss + objective.loss.detach()
        self.per_level_Q = self.per_level_Q + objective.per_level_Q
        self.count_QK = self.count_QK + objective.count_QK

    def read(self) -> dict[str, float | list[float]]:
        """Loss, per-level values, usage and speed since the last read; starts anew."""
        now = time.monotonic()
        count_QK, per_level_Q = torch.as_tensor(self.count_QK + self.before_QK), torch.as_tensor(self.per_level_Q)
        row: dict[str, float | list[float]] = {
            "loss": float(self.loss) / self.steps,
            "per_level": [round(x, 5) for x in (per_level_Q / self.steps).tolist()],
            "usage": [round(x, 4) for x in usage_share(count_QK).tolist()],
            "perplexity": [round(x, 2) for x in usage_entropy(count_QK).exp2().tolist()],
            "clips_per_s": self.clips / max(now - self.last, 1e-9),
        }
        self.last, self.before_QK = now, self.count_QK
        self._start()
        return row
