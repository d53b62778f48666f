"""Scores of test clips -> the figures that papers report, by scikit-learn, and the 95 % interval of the first of them.

Shapes: M test clips, L classes, R resamplings, P clips of a class, T thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csc_matrix
from scipy.stats import norm
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, roc_auc_score

RESAMPLINGS = 2000
_RESAMPLINGS_MAP = 300  # every one of them costs M x L
_PART = 250  # resamplings at once


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
    once = np.ones((len(truth), 1), dtype=np.float32)
    drawn = [once, *drawn_counts(len(truth), _RESAMPLINGS_MAP, seed)]
    value, *resampled = np.mean([weighted_map(scores_ML, truth, drawn) for scores_ML in scores], axis=0)
    # A clip that is drawn twice ranks beside itself, which lifts every resampled precision, the more the rarer the
    # class: the spread of the resamplings is right, their centre is not.
    return percentiles(np.asarray(resampled) - np.mean(resampled) + value)


def bootstrap(score_M: np.ndarray, *, seed: int = 0, resamplings: int = RESAMPLINGS) -> tuple[float, float]:
    """95 % percentile interval of the mean of some numbers, one a clip (1 right, 0 wrong)."""
    score_M = np.asarray(score_M, dtype=np.float64)
    assert score_M.size, "an interval needs at least one tested clip"
    values, counts = np.unique(score_M, return_counts=True)
    return percentiles(drawn_sums(values, counts, resamplings, seed) / score_M.size)


def percentiles(drawn_R: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The interval that leaves out equal shares of the resamplings at both ends."""
    low, high = np.quantile(drawn_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def drawn_sums(values: np.ndarray, counts: np.ndarray, resamplings: int, seed: int = 0) -> np.ndarray:
    """Sums `(R,)` over as many clips as there are, drawn with replacement, of which `counts` have each of the values.

    Drawing how often each distinct value comes up is the same as drawing clips, without an R x M table.
    """
    clips = int(counts.sum())
    return np.random.default_rng(seed).multinomial(clips, counts / clips, size=resamplings) @ values


def drawn_counts(clips: int, resamplings: int, seed: int = 0) -> list[np.ndarray]:
    """How often each clip is drawn in each of the resamplings, float32, in parts `(M, up to 250)` of them."""
    rng = np.random.default_rng(seed)
    parts = [min(_PART, resamplings - begin) for begin in range(0, resamplings, _PART)]
    even = np.full(clips, 1 / clips)
    return [np.ascontiguousarray(rng.multinomial(clips, even, size=part).T, dtype=np.float32) for part in parts]


def _multi_label(scores_ML: np.ndarray, truth_ML: np.ndarray) -> dict[str, float]:
    some = truth_ML.any(0)
    mean_ap = float(np.mean([average_precision_score(truth_ML[:, c], scores_ML[:, c]) for c in np.flatnonzero(some)]))
    both = np.flatnonzero(some & ~truth_ML.all(0))  # the area needs a clip that is not of the class, too
    if not both.size:
        return {"map": mean_ap, "auc": math.nan, "dprime": math.nan}
    area = float(np.mean([roc_auc_score(truth_ML[:, c], scores_ML[:, c]) for c in both]))
    return {"map": mean_ap, "auc": area, "dprime": math.sqrt(2) * float(norm.ppf(area))}


def weighted_map(scores_ML: np.ndarray, truth_ML: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """mAP `(R,)` with each clip counted as often as the R columns of the weights say.

    Classes that lose all their clips by a weighting do not count in it.

    Args:
        weights: parts `(M, R')` of the columns, as of `drawn_counts`.
    """
    classes = np.flatnonzero(truth_ML.any(0))
    found = []
    for weight_MR in weights:
        total_R, classes_R = np.zeros(weight_MR.shape[1]), np.zeros(weight_MR.shape[1])
        for c in classes:
            ap_R = weighted_average_precision(scores_ML[:, c], truth_ML[:, c], weight_MR)
            there_R = ~np.isnan(ap_R)
            total_R += np.where(there_R, ap_R, 0)
            classes_R += there_R
        found.append(total_R / np.maximum(classes_R, 1))
    return np.concatenate(found)


def weighted_average_precision(score_M: np.ndarray, truth_M: np.ndarray, weight_MR: np.ndarray) -> np.ndarray:
    """Average precision with each clip counted `weight_MR` times, `(R,)`; nan without any positive.

    The same as scikit-learn's with `sample_weight`, for many weights at once. Only the scores of positives are
    thresholds, since recall grows at no other: sums over the clips between two of them are all that is needed.
    """
    weight_MR = np.ascontiguousarray(weight_MR, dtype=np.float32)  # sums of counts are exact up to 16 million clips
    level_T, first_P = np.unique(-score_M[truth_M], return_inverse=True)  # the highest score first
    first_M = np.searchsorted(level_T, -score_M)  # the first threshold that the clip reaches; T: none
    gained_TR = _sum_by(first_P, weight_MR[truth_M], len(level_T))
    seen_TR = np.cumsum(_sum_by(first_M, weight_MR, len(level_T) + 1)[:-1], axis=0, dtype=np.float64)
    hit_TR = np.cumsum(gained_TR, axis=0, dtype=np.float64)
    precision_TR = np.divide(hit_TR, seen_TR, out=np.zeros_like(hit_TR), where=seen_TR > 0)
    all_R = gained_TR.sum(0, dtype=np.float64)
    return (gained_TR * precision_TR).sum(0) / np.where(all_R > 0, all_R, np.nan)


def _sum_by(group_M: np.ndarray, weight_MR: np.ndarray, groups: int) -> np.ndarray:
    """Sums of the rows of each group, `(groups, R)`."""
    clips = len(group_M)
    member = csc_matrix((np.ones(clips, dtype=np.float32), group_M, np.arange(clips + 1)), shape=(groups, clips))
    return member @ weight_MR
