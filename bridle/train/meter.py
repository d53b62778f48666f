"""What happened since the last log line; sums stay on the device until they are read."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from bridle import distributed
from bridle.quantize import usage_entropy, usage_share
from bridle.train.step import Outcome


class Meter:
    """Averages over the steps between two reads; the use of codes over these and the ones before, if there were any.

    The last read of a phase may cover a single step, and few vectors never use all codes. Steps that changed nothing
    do not count.
    """

    def __init__(self) -> None:
        self.since = time.monotonic()  # later by what is not to be counted
        self.waited_s = 0.0  # for data; whoever waits adds to it
        self.before_QK: Tensor | None = None
        self._sums: list[Tensor] = []

    def state(self) -> dict[str, Any]:
        """What was added since the last read, as numbers; every rank must call it."""
        if not self._sums:
            return {"before": None if self.before_QK is None else self.before_QK.tolist()}
        steps, clips, patches, *own = self._sums
        sums = [steps, clips, patches, *(distributed.sum_over_ranks(value.clone()) for value in own)]
        return {
            "sums": [value.tolist() for value in sums],
            "before": None if self.before_QK is None else self.before_QK.tolist(),
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """The reverse of `state`; what ranks add up is the first one's."""
        sums = [torch.tensor(value, dtype=torch.float64, device=device) for value in state.get("sums", ())]
        self._sums = [value if at < 3 or distributed.rank() == 0 else 0 * value for at, value in enumerate(sums)]
        if state["before"] is not None:
            self.before_QK = torch.tensor(state["before"], dtype=torch.float64, device=device)

    def add(self, outcome: Outcome) -> None:
        """One step."""
        new = [
            outcome.sound.double(),
            outcome.status_4[1].double(),
            outcome.status_4[2].double(),
            outcome.loss,
            outcome.per_level_Q,
            outcome.count_QK,
        ]
        new = [torch.where(outcome.sound, value.double(), 0.0) for value in new]
        self._sums = [old + value for old, value in zip(self._sums, new, strict=True)] if self._sums else new

    def read(self) -> dict[str, Any] | None:
        """Loss, per-level values, usage and speed since the last read, of all ranks; None without a step. Starts anew.

        Every rank must call it.
        """
        if not self._sums:
            return None
        steps, clips, patches, loss, per_level_Q, count_QK = self._sums
        joined = distributed.sum_over_ranks(torch.cat([loss[None], per_level_Q.flatten(), count_QK.flatten()]))
        loss, per_level_Q, count_QK = joined.split((1, per_level_Q.numel(), count_QK.numel()))
        count_QK = count_QK.view(len(per_level_Q), -1)
        used_QK = count_QK if self.before_QK is None else count_QK + self.before_QK
        self._sums, now = [], time.monotonic()
        elapsed, self.since = now - self.since, now
        waited_s, self.waited_s = self.waited_s, 0.0
        if not float(steps):
            return None
        self.before_QK = count_QK
        return {
            "loss": float(loss / steps),
            "per_level": [round(x, 5) for x in (per_level_Q / steps).tolist()],
            "usage": [round(x, 4) for x in usage_share(used_QK).tolist()],
            "perplexity": [round(x, 2) for x in usage_entropy(used_QK).exp2().tolist()],
            "clips_per_s": float(clips) / max(elapsed, 1e-9),
            "patches_per_clip": float(patches / clips),
            "data_wait": min(1.0, waited_s / max(elapsed, 1e-9)),
        }
