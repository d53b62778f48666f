"""Scores of test clips -> the figures that papers report, by scikit-learn, and the 95 % interval of the first of them.

Shapes: M test clips, L classes, R resamplings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, roc_auc_score

RESAMPLINGS = 2000
_RESAMPLINGS_MAP = 300  # every one of them costs M x L
_CHUNK = 16  # resamplings of a class at once


def metrics(scores_ML: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Everything that is said of such scores; the first is the one that counts.

    Args:
        scores_ML: the higher, the likelier; only their order within a clip, or with several labels a clip within a
            class, matters.
        truth: the class of each clip, int `(M,)`, or which of the classes it is of, bool `(M, L)`.

    Returns:
        One class a clip. `accuracy`: share of clips whose highest score is right; `top5`, from six classes on;
        `macro_f1`: mean F1 of the classes that occur in the test or were guessed.
        Several. `map`: mean over classes of the average precision; `auc`: likewise of the area under the ROC curve;
        `dprime`: sqrt(2) times the normal quantile of that area (Hershey et al., arXiv 1609.09430). Classes without
        a test clip count in none of them.
    """
    if truth.ndim == 2:
        return _multi_label(scores_ML, truth)
    guess_M = scores_ML.argmax(1)
    found = {"accuracy": float((guess_M == truth).mean())}
    if scores_ML.shape[1] > 5:
        found["top5"] = float(hits(scores_ML, truth, 5).mean())
    return found | {"macro_f1": float(f1_score(truth, guess_M, average="macro", zero_division=0))}


def hits(scores_ML: np.ndarray, truth_M: np.ndarray, k: int = 1) -> np.ndarray:
    """Whether the right class is among the `k` highest scores, bool `(M,)`; equal scores count by their order."""
    if k == 1:
        return scores_ML.argmax(1) == truth_M
    top_Mk = np.argsort(-scores_ML, axis=1, kind="stable")[:, :k]
    return (top_Mk == truth_M[:, None]).any(1)


def confusion(scores_ML: np.ndarray, truth_M: np.ndarray) -> np.ndarray:
    """How often clips of class i (row) were taken for class j, int `(L, L)`."""
    return confusion_matrix(truth_M, scores_ML.argmax(1), labels=np.arange(scores_ML.shape[1]))


def interval(scores: Sequence[np.ndarray], truth: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the first metric, resampling test clips with replacement.

    Clips are what is resampled even when splits are grouped, so the interval speaks of other clips of the same
    speakers or photos; it does not hold the spread over speakers, nor over training seeds.

    Args:
        scores: `(M, L)` of one run or of several; then it is the interval of their mean.
    """
    if truth.ndim == 1:
        return bootstrap(np.mean([hits(scores_ML, truth) for scores_ML in scores], axis=0), seed=seed)
    drawn_R = np.mean([_resampled_map(scores_ML, truth, seed) for scores_ML in scores], axis=0)
    low, high = np.quantile(drawn_R, [0.025, 0.975])
    return float(low), float(high)


def bootstrap(score_M: np.ndarray, *, seed: int = 0, resamplings: int = RESAMPLINGS) -> tuple[float, float]:
    """95 % percentile interval of the mean of some numbers, one a clip (1 right, 0 wrong)."""
    score_M = np.asarray(score_M, dtype=np.float64)
    assert score_M.size, "an interval needs at least one tested clip"
    values, counts = np.unique(score_M, return_counts=True)
    # Drawing how often each distinct score comes up is the same as drawing clips, without an R x M table.
    drawn = np.random.default_rng(seed).multinomial(score_M.size, counts / score_M.size, size=resamplings)
    low, high = np.quantile(drawn @ values / score_M.size, [0.025, 0.975])
    return float(low), float(high)


def _multi_label(scores_ML: np.ndarray, truth_ML: np.ndarray) -> dict[str, float]:
    some = truth_ML.any(0)
    mean_ap = float(np.mean([average_precision_score(truth_ML[:, c], scores_ML[:, c]) for c in np.flatnonzero(some)]))
    both = np.flatnonzero(some & ~truth_ML.all(0))  # the area needs a clip that is not of the class, too
    if not both.size:
        return {"map": mean_ap, "auc": math.nan, "dprime": math.nan}
    area = float(np.mean([roc_auc_score(truth_ML[:, c], scores_ML[:, c]) for c in both]))
    return {"map": mean_ap, "auc": area, "dprime": math.sqrt(2) * float(norm.ppf(area))}


def _resampled_map(scores_ML: np.ndarray, truth_ML: np.ndarray, seed: int) -> np.ndarray:
    """mAP of R resamplings `(R,)`: each clip counts as often as it was drawn; classes that lost all their clips in a
    resampling do not count in it."""
    clips = len(scores_ML)
    count_RM = np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=_RESAMPLINGS_MAP)
    total_R, classes_R = np.zeros(_RESAMPLINGS_MAP), np.zeros(_RESAMPLINGS_MAP)
    for c in np.flatnonzero(truth_ML.any(0)):
        for begin in range(0, _RESAMPLINGS_MAP, _CHUNK):
            rows = slice(begin, begin + _CHUNK)
            ap_R = weighted_average_precision(scores_ML[:, c], truth_ML[:, c], count_RM[rows])
            there_R = ~np.isnan(ap_R)
            total_R[rows] += np.where(there_R, ap_R, 0)
            classes_R[rows] += there_R
    return total_R / np.maximum(classes_R, 1)


def weighted_average_precision(score_M: np.ndarray, truth_M: np.ndarray, weight_RM: np.ndarray) -> np.ndarray:
    """Average precision with each clip counted `weight_RM` times, `(R,)`; nan without any positive.

    The same as scikit-learn's with `sample_weight`, for many weights with one sort.
    """
    order_M = np.argsort(-score_M, kind="stable")
    last_M = np.flatnonzero(np.r_[np.diff(score_M[order_M]) != 0, True])  # equal scores are one threshold
    weight_RM = weight_RM[:, order_M].astype(np.float64)
    hit_RT = np.cumsum(weight_RM * truth_M[order_M], axis=1)[:, last_M]
    seen_RT = np.cumsum(weight_RM, axis=1)[:, last_M]
    precision_RT = np.divide(hit_RT, seen_RT, out=np.zeros_like(hit_RT), where=seen_RT > 0)
    gained_RT = np.diff(hit_RT, axis=1, prepend=0.0)
    return (gained_RT * precision_RT).sum(1) / np.where(hit_RT[:, -1] > 0, hit_RT[:, -1], np.nan)
