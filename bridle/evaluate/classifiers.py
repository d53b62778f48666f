"""Trials of whole classifiers, which read the files themselves: fine-tuning, and a head that is there already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from bridle import progress
from bridle.checkpoint import Head, hash_of
from bridle.errors import DataError
from bridle.evaluate.dataset import Labelled
from bridle.evaluate.features import Files, listed
from bridle.evaluate.finetune import score, tune_and_score
from bridle.evaluate.labels import Truth
from bridle.evaluate.probe import Trial
from bridle.evaluate.protocol import Protocol
from bridle.evaluate.splits import Groups, Split
from bridle.inputs import Source
from bridle.model import Bridle

TrialOf = Callable[[Truth, Groups | None], Trial]


def finetuning(
    model: Bridle, data: Labelled, protocol: Protocol, workers: int, made: list[Head]
) -> tuple[Files, TrialOf]:
    """The files, and a trial that fine-tunes a copy of the model.

    Args:
        made: gets the classifier of the first split and seed.
    """
    recipe = protocol.recipe
    assert recipe is not None
    sources, files, failures = listed(data)
    options: dict[str, Any] = {"several": protocol.several, "workers": workers, "failures": failures}

    def trial_of(truth: Truth, groups: Groups | None) -> Trial:
        def trial(split: Split, seed: int) -> tuple[Tensor, dict[str, Any]]:
            train, test = _some(sources, split.train), _some(sources, split.test)
            tuned = tune_and_score(model, train, truth[split.train], test, recipe, seed=seed, **options)
            if not made:
                trained_on = frozenset(hash_of(source.path) for source in train)
                made.append(Head(tuned.classifier, truth.classes, truth.multi, trained_on))
            return tuned.scores_ML, {}

        return trial

    return files, trial_of


def of_head(model: Bridle, data: Labelled, protocol: Protocol, head: Head, workers: int) -> tuple[Files, TrialOf]:
    """The files, and a trial that trains nothing.

    Raises:
        DataError: the data have other classes than the head.
    """
    if data.classes and set(data.classes) != set(head.classes):
        raise DataError(
            f"the head has {len(head.classes)} classes, the data have {len(data.classes)}"
            + ("" if len(data.classes) != len(head.classes) else " with other names"),
            "Fine-tune on these data: --protocol finetune.",
        )
    data.classes = head.classes
    sources, files, failures = listed(data)
    several = data.task.multi_label if data.task else any(len(labels) != 1 for labels in files.labels)
    if several != head.multi_label:
        kinds = ("one class per clip", "any number of classes per clip")
        raise DataError(
            f"the head predicts {kinds[head.multi_label]}, the data have {kinds[several]}",
            "Fine-tune on these data: --protocol finetune.",
        )
    options: dict[str, Any] = {"several": protocol.several, "workers": workers, "failures": failures}

    def trial(split: Split, seed: int) -> tuple[Tensor, dict[str, Any]]:
        again = sum(hash_of(files.paths[at]) in head.trained_on for at in split.test.tolist())
        if again:
            what = f"{again} of {len(split.test)} clips have the names of clips the head was trained on"
            progress.warn(f"{what}; if they are the same, the result is too optimistic")
        return score(model, head.classifier, _some(sources, split.test), head.multi_label, **options), {}

    return files, lambda truth, groups: trial


def _some(sources: list[Source], rows: np.ndarray) -> list[Source]:
    return [sources[at] for at in rows.tolist()]
