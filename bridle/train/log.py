"""`metrics.jsonl`: one JSON object a line, readable while the run goes on; the same for a tracker, if one is wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from bridle.checkpoint import write_atomically
from bridle.errors import EnvironmentFault

Tracker = Literal["none", "tensorboard", "wandb"]


class _Sink(Protocol):
    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """Appends rows; after a resume, rows beyond the checkpoint are dropped.

    Args:
        path: of the file.
        tracker: "tensorboard" (event files in `tensorboard/` beside the file) or "wandb" (as its environment says; the
            run has the name of the folder).
        config: of the run, for the tracker.

    Raises:
        EnvironmentFault: the tracker's library is missing.
    """

    def __init__(self, path: Path, tracker: Tracker = "none", config: dict[str, Any] | None = None) -> None:
        self.path = path
        self._sink = _sink(tracker, path.parent, config or {})

    def write(self, row: dict[str, Any]) -> None:
        """Appends one line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
        if self._sink:
            self._sink.write(row["step"], dict(_scalars(row)))

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
        return _TensorBoard(folder) if tracker == "tensorboard" else _WeightsAndBiases(folder, config)
    except ImportError as error:
        raise EnvironmentFault(
            f"train.tracker={tracker} needs the package {tracker}: {error}", f"pip install 'bridle[{tracker}]'"
        ) from error


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found, unused-ignore]

        self._run = wandb.init(dir=str(folder), name=folder.name, id=folder.name, resume="allow", config=config)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
