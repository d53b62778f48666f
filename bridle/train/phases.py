"""The order of the phases and how far a run has come.

interleaved:  cold | tokenizer encoder | tokenizer encoder | ...      joint:  joint
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bridle.config.sections import ScheduleSection
from bridle.errors import BridleError, ConfigError, UsageError

Kind = Literal["cold", "tokenizer", "encoder", "joint"]
_LONGEST = 10**12  # steps or minutes; phases of more steps than 2**53 would not add up


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: what it trains, and how long in steps or, where the run is limited by time, in seconds."""

    kind: Kind
    steps: int | None
    seconds: float | None = None

    def fraction(self, steps: int, seconds: float) -> float:
        """How much of the phase is done after that many steps and seconds, 1 when it is over."""
        if self.seconds is not None:
            return min(1.0, seconds / self.seconds)
        assert self.steps is not None
        return min(1.0, steps / self.steps)


class Limits(NamedTuple):
    """The length of a run; at most one is given, else it is that of the schedule."""

    steps: int | None = None
    epochs: float | None = None
    max_minutes: float | None = None


NO_LIMITS = Limits()


def plan_phases(schedule: ScheduleSection, steps_per_epoch: float, limits: Limits = NO_LIMITS) -> list[Phase]:
    """All phases of a run; a limit stretches or shrinks every phase alike.

    Raises:
        UsageError: the limit is no length, or without end.
        ConfigError: without a limit, the schedule is.
    """
    steps, epochs, max_minutes = limits
    lengths: list[tuple[Kind, float]] = [("cold", schedule.cold)]
    lengths += [("tokenizer", schedule.tokenizer), ("encoder", schedule.encoder)] * schedule.turns
    lengths = [(kind, length) for kind, length in lengths if length]
    total = sum(length for _, length in lengths)
    if schedule.mode == "joint":
        lengths = [("joint", total)]
    if max_minutes is not None:
        _check_length(max_minutes, "minutes")
        return [Phase(kind, None, 60 * max_minutes * length / total) for kind, length in lengths]
    wanted = steps if steps is not None else (epochs if epochs is not None else total) * steps_per_epoch
    if steps is None and epochs is None:
        _check_length(wanted, "steps by schedule (turns, cold, tokenizer, encoder)", ConfigError)
    _check_length(wanted, "steps")
    counts = _divide(max(1, round(wanted)), [length for _, length in lengths])
    return [Phase(kind, count) for (kind, _), count in zip(lengths, counts, strict=True) if count]


def _check_length(length: float, unit: str, kind: type[BridleError] = UsageError) -> None:
    if not 0 < length <= _LONGEST:
        raise kind(f"A run of {length} {unit}: expected more than 0 and at most {_LONGEST:,}.")


def _divide(steps: int, shares: list[float]) -> list[int]:
    """Whole numbers in these proportions that add up to `steps`; none is zero while another is above one."""
    ends = [round(steps * sum(shares[: n + 1]) / sum(shares)) for n in range(len(shares))]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    for n, count in enumerate(counts):
        if not count and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[n] = 1
    return counts


def rate_share(fraction: float, warmup: float) -> float:
    """Share of the peak learning rate: linear over the first `warmup` of a phase, then a cosine to zero (Loshchilov &
    Hutter 2017)."""
    if fraction < warmup:
        return fraction / warmup
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / max(1 - warmup, 1e-9)))
