"""Models and runs on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bridle.checkpoint.classifier_file import Head, hash_of, read_classifier, save_classifier
from bridle.checkpoint.model_file import NewerVersion, read_about, read_model, save_model, snapshot
from bridle.checkpoint.results import Tested, add_result, read_results, read_tested, run_of
from bridle.checkpoint.run_folder import (
    RunFolder,
    find_checkpoint,
    list_runs,
    newest_run,
    read_rows,
    run_of_launch,
)
from bridle.checkpoint.saver import Saver
from bridle.checkpoint.training_file import load_training, optimizer_state, restore_optimizer
from bridle.config.sections import Config
from bridle.errors import UsageError
from bridle.model import Bridle


def load_model(
    source: Path | str,
    *,
    device: str = "cpu",
    config: Config | None = None,
    statistics: dict[str, Any] | None = None,
    seed: int = 0,
) -> Bridle:
    """A model in evaluation mode.

    Args:
        source: a run, checkpoint or export folder; `"random"` for the untrained model of a `config`, the baseline.
        statistics: corpus statistics, for `"random"`.

    Raises:
        DataError: there is no usable model.
    """
    if str(source) != "random":
        return read_model(find_checkpoint(Path(source)), device)
    if config is None or statistics is None:
        raise UsageError(
            "an untrained model needs a configuration", "Name a run, or train one: bridle pretrain --shards shards/"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Bridle(config, statistics)
    model.source = "random"
    return model.eval().to(device)


def read_state(run: Path) -> dict[str, Any]:
    """`state.json` of a run: status, preset, shards, result."""
    return RunFolder(run).state()


__all__ = [
    "Head",
    "NewerVersion",
    "RunFolder",
    "Saver",
    "Tested",
    "add_result",
    "find_checkpoint",
    "hash_of",
    "list_runs",
    "load_model",
    "load_training",
    "newest_run",
    "optimizer_state",
    "read_about",
    "read_classifier",
    "read_model",
    "read_results",
    "read_rows",
    "read_state",
    "read_tested",
    "restore_optimizer",
    "run_of",
    "run_of_launch",
    "save_classifier",
    "save_model",
    "snapshot",
]
