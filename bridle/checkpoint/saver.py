"""Checkpoints written beside the training: the weights are copied, and a thread brings them to the disk.

A disk that is full, or gone, costs no training: a warning says so, the checkpoint before stays, the next one is tried.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bridle import progress
from bridle.checkpoint.model_file import Snapshot
from bridle.checkpoint.run_folder import RunFolder


class Saver:
    """Writes the checkpoints of one run, one at a time.

    Args:
        run: where they go.
        keep: how many stay.
    """

    def __init__(self, run: RunFolder, keep: int) -> None:
        self._run, self._keep = run, keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, model: Snapshot, training: dict[str, Any], step: int, *, must: bool = False) -> None:
        """Starts writing a checkpoint.

        Args:
            must: waits until it is on the disk.

        Raises:
            OSError: it `must`, and cannot be written.
        """
        self.wait()
        self._writing = self._thread.submit(self._run.save, model, training, step, self._keep)
        if must:
            writing, self._writing = self._writing, None
            writing.result()

    def wait(self) -> None:
        """Until nothing is being written."""
        if not self._writing:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except OSError as error:
            progress.warn(f"{error}: training continues, the last checkpoint is kept")

    def close(self) -> None:
        """Waits, and ends the thread."""
        self.wait()
        self._thread.shutdown()
