"""Frozen features + labels -> accuracy with its interval, over folds or one split.

Shapes: N clips, D dimensions; B clips, N patches for the attentive probe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bridle.evaluate.attentive import AttentiveRecipe, attentive
from bridle.evaluate.intervals import bootstrap
from bridle.evaluate.knn import knn
from bridle.evaluate.linear import linear
from bridle.evaluate.splits import Groups, Split, make_splits

Labels = Tensor | np.ndarray | Sequence[int] | Sequence[str]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How well a probe did.

    Attributes:
        value: accuracy over every tested clip, 0 to 1.
        ci95: bootstrap interval of `value` over clips.
        per_fold: for each fold `value`, `n_train`, `n_test` and what was chosen on train (`k` or `C`).
        predictions: class of each clip, -1 where it was not tested (one split only).
        classes: class names in the order of the predictions' numbers.
        chance: share of the largest class among tested clips.
    """

    value: float
    ci95: tuple[float, float]
    per_fold: list[dict[str, Any]]
    predictions: np.ndarray
    classes: list[str]
    chance: float


def probe(
    features_ND: Tensor,
    labels: Labels,
    groups: Groups | None = None,
    protocol: Literal["knn", "linear"] = "knn",
    *,
    folds: int = 5,
    test_share: float | None = None,
    splits: Sequence[Split] | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Judge one vector a clip by nearest neighbours or logistic regression.

    Args:
        features_ND: one vector a clip.
        labels: class of each clip, numbers or names.
        groups: what must not be on both sides of a split (speakers, photos); None: any clip may be.
        protocol: `knn` or `linear`.
        folds, test_share, splits: k folds, or one split of that share, or splits of your own.
    """
    x_ND = features_ND.detach().float().cpu()

    def run(split: Split, y_N: Tensor) -> tuple[np.ndarray, dict[str, Any]]:
        train, test = torch.from_numpy(split.train), torch.from_numpy(split.test)
        inner = None if groups is None else _numbers(groups)[split.train]
        if protocol == "knn":
            guess, k = knn(x_ND[train], y_N[train], x_ND[test], groups_N=inner)
            return guess.numpy(), {"k": k}
        guess_N, penalty = linear(x_ND[train], y_N[train], x_ND[test], groups_N=inner, seed=seed)
        return guess_N, {"C": penalty}

    return _judge(labels, groups, run, folds=folds, test_share=test_share, splits=splits, seed=seed)


def probe_attentive(
    features_BND: Tensor,
    valid_BN: Tensor,
    coords_BN3: Tensor,
    labels: Labels,
    groups: Groups | None = None,
    *,
    folds: int = 5,
    test_share: float | None = None,
    splits: Sequence[Split] | None = None,
    seed: int = 0,
    recipe: AttentiveRecipe | None = None,
) -> ProbeResult:
    """Judge patch features by the attentive probe; arguments as in `probe`, runs on the features' device."""

    def run(split: Split, y_N: Tensor) -> tuple[np.ndarray, dict[str, Any]]:
        train, test = ([t[torch.from_numpy(rows).to(t.device)] for t in (features_BND, valid_BN, coords_BN3)]
                       for rows in (split.train, split.test))  # fmt: skip
        known = y_N[torch.from_numpy(split.train)].to(features_BND.device)
        guess = attentive(train[0], train[1], train[2], known, (test[0], test[1], test[2]), seed=seed, recipe=recipe)
        return guess.cpu().numpy(), {}

    return _judge(labels, groups, run, folds=folds, test_share=test_share, splits=splits, seed=seed)


def _judge(
    labels: Labels,
    groups: Groups | None,
    run: Callable[[Split, Tensor], tuple[np.ndarray, dict[str, Any]]],
    *,
    folds: int,
    test_share: float | None,
    splits: Sequence[Split] | None,
    seed: int,
) -> ProbeResult:
    classes, y_N = np.unique(labels.cpu().numpy() if isinstance(labels, Tensor) else labels, return_inverse=True)
    names = [str(name) for name in classes]
    if splits is None:
        splits = make_splits(y_N, groups, folds=folds, test_share=test_share, seed=seed, names=names)
    predictions = np.full(len(y_N), -1)
    per_fold: list[dict[str, Any]] = []
    for split in splits:
        guess, chosen = run(split, torch.from_numpy(y_N))
        predictions[split.test] = guess
        value = float((guess == y_N[split.test]).mean())
        per_fold.append({"value": value, "n_train": len(split.train), "n_test": len(split.test), **chosen})
    tested = predictions >= 0
    correct = (predictions == y_N)[tested]
    chance = np.bincount(y_N[tested]).max() / tested.sum()
    return ProbeResult(
        float(correct.mean()), bootstrap(correct, seed=seed), per_fold, predictions, names, float(chance)
    )


def _numbers(groups: Groups) -> np.ndarray:
    return np.unique(np.asarray(groups), return_inverse=True)[1]
