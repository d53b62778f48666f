"""`metrics.jsonl`: one JSON object a line, readable while the run continues; also for a tracker."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from bridle import progress
from bridle.checkpoint import read_rows
from bridle.errors import EnvironmentFault
from bridle.outputs import write_text

Tracker = Literal["none", "tensorboard", "wandb"]


class _Sink(Protocol):
    def write(self, step: int, values: dict[str, float]) -> None: ...

    def drop_after(self, step: int) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """Appends rows; after a resume, rows beyond the checkpoint are dropped.

    Args:
        path: of the file.
        tracker: "tensorboard" (event files in `tensorboard/` beside the file) or "wandb" (as its environment says; the
            run has the name of the folder).
        config: of the run, for the tracker.

    Raises:
        EnvironmentFault: the tracker's library is missing, or it cannot start.
    """

    def __init__(
        self,
        path: Path,
        tracker: Tracker = "none",
        config: dict[str, Any] | None = None,
    ) -> None:
        self.path, self._warned = path, False  # a full disk costs rows, not the run
        self._sink = _sink(tracker, path.parent, config or {})

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
            if self._sink:
                self._sink.write(row["step"], dict(_scalars(row)))
        except OSError as error:
            if not self._warned:
                progress.warn(f"{self.path}: {error.strerror or error}: training continues, rows are lost")
            self._warned = True

    def truncate(self, step: int) -> None:
        """Drops the rows after that step, and a last line that a crash cut off."""
        if self._sink:
            self._sink.drop_after(step)
        if not self.path.is_file():
            return
        kept = [line for line, row in read_rows(self.path) if row["step"] <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        """The tracker writes what it still has."""
        if self._sink:
            self._sink.close()


def _scalars(row: dict[str, Any], under: str = "") -> Iterator[tuple[str, float]]:
    """`usage/1`, `usage/2`, ... for a value of each level, `probe/knn` for one of a group."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{under}{name}/")
        elif isinstance(value, list):
            yield from ((f"{under}{name}/{level}", float(one)) for level, one in enumerate(value, start=1))
        elif isinstance(value, int | float) and name != "step":
            yield f"{under}{name}", float(value)


def _sink(tracker: Tracker, folder: Path, config: dict[str, Any]) -> _Sink | None:
    if tracker == "none":
        return None
    try:
        return _TensorBoard(folder / "tensorboard") if tracker == "tensorboard" else _WeightsAndBiases(folder, config)
    except ImportError as error:
        raise EnvironmentFault(
            f"train.tracker={tracker} needs the package {tracker}: {error}", f"pip install 'bridle[{tracker}]'"
        ) from error


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._start: Callable[..., Any] = partial(SummaryWriter, str(folder))
        self._writer = self._start()

    def drop_after(self, step: int) -> None:
        self._writer.close()
        self._writer = self._start(purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found, unused-ignore]

        own = folder / "wandb-id"  # two runs of one name, on two machines or after --overwrite, are two runs there too
        if not own.exists():
            own.write_text(uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(dir=str(folder), name=folder.name, id=own.read_text(), resume="allow", config=config)
        except wandb.errors.Error as error:
            raise EnvironmentFault(
                f"train.tracker=wandb cannot start: {error}", "wandb login, or WANDB_MODE=offline."
            ) from error

    def drop_after(self, step: int) -> None:
        """Steps that it has already it takes no second time."""

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
