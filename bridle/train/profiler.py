"""Where the time of a step goes: a PyTorch profiler trace of some steps of each phase, and its sums.

Parts of a step carry a name (`part_of_step`), here and in the trace, which chrome://tracing and Perfetto open.
"patches" is what makes them of clips: the way to the device, features, augmentation, cutting.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bridle import progress

PARTS = (
    "data wait", "patches", "tokenizer", "encoder", "predictor", "backward", "all-reduce", "optimizer"
)  # fmt: skip
_PREFIX = "bridle: "
_WARM_UP, _STEPS = 3, 10  # of a phase


def part_of_step(name: str) -> AbstractContextManager[Any]:
    """What happens in it is counted for that part; next to nothing while nobody looks."""
    assert name in PARTS, name
    return record_function(_PREFIX + name)


class Profiler:
    """Looks at steps 4 to 13 of each phase.

    Args:
        folder: for the traces; made when the first is written.
        device: what computes.
        reports "profile" with the milliseconds of a step, those of its parts, and the trace.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._cuda = folder, device.type == "cuda"
        self._running: profile | None = None
        self._phase, self._step, self._since = "", 0, 0.0

    def enter(self, index: int, kind: str) -> None:
        """A phase begins."""
        self._phase, self._step = f"{index + 1}-{kind}", 0

    def step(self) -> None:
        """A step is over."""
        self._step += 1
        if self._step == _WARM_UP:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
            self._running = profile(activities=activities, acc_events=True)
            self._running.__enter__()
            self._since = time.perf_counter()
        elif self._step == _WARM_UP + _STEPS:
            self.leave()

    def leave(self) -> None:
        """The phase is over, or has been looked at."""
        running, self._running = self._running, None
        if self._step <= _WARM_UP:
            progress.note(f"phase {self._phase} ended before step {_WARM_UP + 1}: not profiled")
        if running is None:
            return
        if self._step <= _WARM_UP:
            running.__exit__(None, None, None)
            return
        if self._cuda:
            torch.cuda.synchronize()
        steps, wall_ms = self._step - _WARM_UP, 1e3 * (time.perf_counter() - self._since)
        running.__exit__(None, None, None)
        self._folder.mkdir(parents=True, exist_ok=True)
        trace = self._folder / f"{self._phase}.json"
        running.export_chrome_trace(str(trace))
        sums = dict.fromkeys(PARTS, 0.0)
        for event in running.key_averages():
            part = event.key.removeprefix(_PREFIX)
            if event.key.startswith(("nccl:", "gloo:")):
                part = "all-reduce"  # mostly while the backward pass continues
            if part in sums:
                on_gpu = self._cuda and part not in ("data wait", "all-reduce")
                sums[part] += (event.device_time_total if on_gpu else event.cpu_time_total) / 1e3 / max(1, steps)
        parts = {part: round(ms, 3) for part, ms in sums.items() if ms}
        step_ms = round(wall_ms / max(1, steps), 3)
        progress.report("profile", phase=self._phase, step_ms=step_ms, ms=parts, trace=str(trace))
