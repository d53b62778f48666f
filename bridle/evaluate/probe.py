"""Frozen features + labels -> metrics with their interval, over folds or one split, one seed or several.

Shapes: N clips, M tested clips, D dimensions, L classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridle.evaluate.attentive import AttentiveRecipe, Look, Patches, attentive, held
from bridle.evaluate.knn import knn
from bridle.evaluate.labels import Truth
from bridle.evaluate.linear import linear
from bridle.evaluate.metrics import interval, metrics
from bridle.evaluate.splits import Groups, Split

Trial = Callable[
    [Split, int], tuple[Tensor, dict[str, Any]]
]  # split, seed -> scores of the test clips, what was chosen


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well a classifier did.

    Attributes:
        metrics: over every tested clip, 0 to 1, mean of the seeds; the first one counts.
        ci95: bootstrap interval of that one over clips.
        per_fold: for each fold of the first seed the first metric, `n_train`, `n_test` and what was chosen on train.
        per_seed: the first metric with each seed.
        tested: which clips were tested, in the order of the scores.
        scores_SML: of each seed.
        chance: share of the largest class among the tested clips; with several classes a clip the mean share of a
            class, which is the mAP of scores by chance.
    """

    metrics: dict[str, float]
    ci95: tuple[float, float]
    per_fold: list[dict[str, Any]]
    per_seed: list[float]
    tested: np.ndarray
    scores_SML: np.ndarray
    chance: float

    @property
    def metric(self) -> str:
        """The name of the first metric."""
        return next(iter(self.metrics))

    @property
    def value(self) -> float:
        return self.metrics[self.metric]


def judge(truth: Truth, splits: Sequence[Split], trial: Trial, seeds: Sequence[int] = (0,)) -> Judgement:
    """Train and test on every split with every seed; no clip may be tested twice.

    Of several seeds the metrics are averaged, not the scores: that would be an ensemble. A clip whose scores are nan
    could not be read, and does not count.
    """
    tested = np.concatenate([split.test for split in splits])
    order = np.argsort(tested)
    runs, per_fold = [], list[dict[str, Any]]()
    for seed in seeds:
        parts = []
        for split in splits:
            scores, chosen = trial(split, seed)
            parts.append(scores.float().numpy())
            if seed == seeds[0]:
                came = ~np.isnan(parts[-1]).any(1)
                found = metrics(parts[-1][came], truth[split.test[came]].y.numpy())
                name, value = next(iter(found.items()))
                per_fold.append({name: value, "n_train": len(split.train), "n_test": int(came.sum()), **chosen})
        runs.append(np.concatenate(parts)[order])
    came = ~np.isnan(np.stack(runs)).any((0, 2))
    tested, runs = tested[order][came], [scores_ML[came] for scores_ML in runs]
    y_M = truth.y[torch.from_numpy(tested)].numpy()
    each = [metrics(scores_ML, y_M) for scores_ML in runs]
    mean = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    # mAP is over the classes that have a test clip.
    chance = y_M[:, y_M.any(0)].mean() if truth.multi else np.bincount(y_M).max() / len(y_M)
    first = next(iter(mean))
    return Judgement(
        mean,
        interval(runs, y_M, seed=seeds[0]),
        per_fold,
        [one[first] for one in each],
        tested,
        np.stack(runs),
        float(chance),
    )


def probe_vectors(x_ND: Tensor, truth: Truth, groups: Groups | None = None, protocol: str = "knn") -> Trial:
    """Nearest neighbours or logistic regression on one vector a clip.

    Args:
        groups: what must not be on both sides of an inner split (speakers, photos); None: any clip may be.
    """
    x_ND = x_ND.detach().float().cpu()
    numbers = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]

    def trial(split: Split, seed: int) -> tuple[Tensor, dict[str, Any]]:
        train, test = torch.from_numpy(split.train), torch.from_numpy(split.test)
        inner = None if numbers is None else numbers[split.train]
        if protocol == "knn":
            scores, k = knn(x_ND[train], truth[train], x_ND[test], groups_N=inner)
            return scores, {"k": k}
        return linear(x_ND[train], truth[train], x_ND[test], groups_N=inner, seed=seed)

    return trial


def probe_patches(
    patches: Patches | Look, truth: Truth, recipe: AttentiveRecipe | None = None, *, codes: int = 0
) -> Trial:
    """The attentive probe on all patches of every clip, in memory or looked at when they are wanted.

    Args:
        codes: K, where the patches are codes.
    """
    look = held(patches) if isinstance(patches, tuple) else patches

    def trial(split: Split, seed: int) -> tuple[Tensor, dict[str, Any]]:
        train, test = torch.from_numpy(split.train), torch.from_numpy(split.test)
        return attentive(look, train, truth[split.train], test, codes=codes, seed=seed, recipe=recipe), {}

    return trial
