"""Progress of long commands on stderr: bars on a terminal, a plain line every ten seconds elsewhere. With --verbose
every event is a line, on terminals too, and at the end stands how long each stage took.

The library reports events, `on_event(kind, **fields)`; the classes here turn them into bars and lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bridle_cli.console import Console, duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_PLAIN_EVERY_S = 10.0
_NOTABLE_WAIT = 0.05  # share of the time spent waiting for data from which a plain line says so


class Progress:
    """Shows `done of total` of whatever the events count. Use as a context manager and hand it over as the callback.

    It has one method `_KIND` for each kind of event; subclasses add their own.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: RichProgress | None = None
        self._task: Any = None
        self._began = self._spoke = time.monotonic()
        self._stages: dict[str, float] = {}  # name -> when it was first heard of
        self.done = 0  # of what is under way

    def __enter__(self) -> Self:
        if self._console.animated and not self._console.quiet and not self._console.verbose:
            from rich.progress import BarColumn, TextColumn

            self._bars = _bars_above_more()(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[count]}", markup=False),
                TextColumn("{task.fields[details]}", markup=False),
                console=self._console.err,
                redirect_stdout=sys.stdout.isatty(),  # lines for a file or a pipe are not to go above the bars
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
        starts, names = [self._began, *self._stages.values(), time.monotonic()], ["before that", *self._stages]
        for name, began, end in zip(names, starts, starts[1:]) if self._stages else ():
            self._console.detail(f"{name}: {end - began:.2f} s")

    def __call__(self, kind: str, **fields: Any) -> None:
        """One event; kinds that a class does not know are not shown."""
        handler = getattr(self, f"_{kind}", None)
        if handler:
            handler(**fields)

    def _progress(self, done: int, total: int | None = None, what: str = "files", **_: Any) -> None:
        self.done = done
        self._advance(what, done, total, f"{done}/{'?' if total is None else total}", "")

    def _warning(self, message: str, **_: Any) -> None:
        self._console.warn(message)

    def _note(self, message: str, **_: Any) -> None:
        self._console.note(message)

    def _detail(self, message: str, **_: Any) -> None:
        self._console.detail(message)

    def _begin(self, name: str, total: float | None) -> None:
        """A new bar; the one before stays above it."""
        if self._bars:
            self._task = self._bars.add_task(name, total=total, count="", details="")

    def _advance(self, name: str, done: float, total: float | None, count: str, details: str) -> None:
        if self._console.quiet:
            return
        self._stages.setdefault(name, time.monotonic())
        if self._bars:
            if self._task is None:
                self._begin(name, total)
            self._bars.update(self._task, description=name, completed=done, total=total, count=count, details=details)
        elif self._console.verbose or time.monotonic() - self._spoke >= _PLAIN_EVERY_S or (total and done >= total):
            self._spoke = time.monotonic()
            self._console.note(f"{name} {count}  {details}".rstrip())


def _bars_above_more() -> type[RichProgress]:
    """Rich's bars, with room below for what has no bar: the attribute `more`."""
    from rich.progress import Progress as RichProgress

    class Bars(RichProgress):
        more: Any = None

        def get_renderables(self) -> Iterator[Any]:
            yield from super().get_renderables()
            if self.more is not None:
                yield self.more

    return Bars


class PretrainProgress(Progress):
    """One bar for the whole run, and below it a table: each level's loss and codes; speed, waiting, memory.

    Attributes:
        run: the run folder as soon as there is something in it, to say how an interrupted run continues.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.run: str | None = None
        self._folder: str | None = None
        self._phases = 1

    def _run(self, path: str, **_: Any) -> None:
        self._folder = path

    def _start(self, phases: list[dict[str, Any]], samples: int, parameters: dict[str, int], **_: Any) -> None:
        self.run, self._phases = self._folder, len(phases)
        millions = sum(parameters.values()) / 1e6
        self._console.note(f"{self.run}: {samples} clips, {millions:.1f} M parameters, {len(phases)} phases")

    def _probe(self, step: int, clips: int, knn: float, mutual_information: list[float], **_: Any) -> None:
        bits = " ".join(f"{value:.2f}" for value in mutual_information)
        self._console.note(
            f"step {step}: kNN on {clips} labelled clips {100 * knn:.0f} %, codes hold {bits} bits about the label"
        )

    def _profile(self, phase: str, step_ms: float, ms: dict[str, float], trace: str, **_: Any) -> None:
        parts = ", ".join(f"{part} {taken:.1f} ({taken / step_ms:.0%})" for part, taken in ms.items())
        self._console.note(f"phase {phase}: {step_ms:.1f} ms per step: {parts}; {trace}")

    def _step(self, phase: str, phase_index: int, step: int, done: float, **fields: Any) -> None:
        name = f"{phase_index + 1}/{self._phases} {phase}"
        left = f"{100 * done:.0f} %"
        if not self._bars:
            self._advance(name, done, 1.0, f"step {step}", f"{left}  {_details(fields)}")
            return
        self._bars.more = _table(fields)  # type: ignore[attr-defined]
        eta_s = fields.get("eta_s")
        self._advance(
            name, done, 1.0, f"step {step}", left + (f"  {duration(eta_s)} left" if eta_s is not None else "")
        )


def _details(fields: dict[str, Any]) -> str:
    """`loss 3.21  512 clips/s  codes in use 98 97 95 90 %  2:10 left`, as far as it is known."""
    parts = []
    if fields.get("loss") is not None:
        parts.append(f"loss {fields['loss']:.3f}")
    if fields.get("clips_per_s"):
        parts.append(f"{fields['clips_per_s']:.0f} clips/s")
    if fields.get("usage"):
        parts.append(f"codes in use {' '.join(f'{100 * share:.0f}' for share in fields['usage'])} %")
    if fields.get("data_wait", 0.0) >= _NOTABLE_WAIT:
        parts.append(f"data wait {fields['data_wait']:.0%}")
    if fields.get("memory_mb"):
        parts.append(f"{fields['memory_mb'] / 1e3:.1f} GB")
    if fields.get("mfu"):
        parts.append(f"{fields['mfu']:.0%} of the device")
    if fields.get("eta_s") is not None:
        parts.append(f"{duration(fields['eta_s'])} left")
    return "  ".join(parts)


def _table(fields: dict[str, Any]) -> Any:
    """A column for each level, and a line of what the machine does."""
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("level", justify="left")
    for level in range(1, len(fields["usage"]) + 1):
        table.add_column(str(level), justify="right")
    name = "cross_entropy" if "cross_entropy" in fields else "residual_norm"
    table.add_row(name.replace("_", " "), *(f"{value:.3f}" for value in fields[name]))
    table.add_row("codes in use", *(f"{share:.0%}" for share in fields["usage"]))
    table.add_row("perplexity", *(f"{value:.0f}" for value in fields["perplexity"]))
    used = f" ({fields['mfu']:.0%} of the device)" if "mfu" in fields else ""
    machine = (
        f"loss {fields['loss']:.3f}  {fields['clips_per_s']:.0f} clips/s  data wait {fields['data_wait']:.0%}  "
        f"{fields['memory_mb'] / 1e3:.1f} GB  {fields['tflops']:.3g} TFLOP/s{used}"
    )
    return Group(table, machine)
