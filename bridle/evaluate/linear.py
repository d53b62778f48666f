"""Linear probe: multinomial logistic regression on z-scored features, scikit-learn's own solver.

Shapes: N train clips, M test clips, D dimensions.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from bridle.errors import DataError
from bridle.evaluate.splits import Split, make_splits
from bridle.evaluate.standardise import standardiser

PENALTIES = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C: inverse strength of the L2 penalty
FALLBACK = 0.1  # where train is too small to be split again
INNER_SHARE = 0.2
_INNER_MOST = 5000  # clips the choice of C looks at: it needs the order of four accuracies, not their last digit
_ITERATIONS = 300


def linear(
    train_ND: Tensor,
    labels_N: Tensor,
    test_MD: Tensor,
    *,
    groups_N: np.ndarray | None = None,
    seed: int = 0,
    penalties: tuple[float, ...] = PENALTIES,
) -> tuple[np.ndarray, float]:
    """Class of each test clip by logistic regression; C is the one that does best on an inner split of train.

    Returns:
        Predictions `(M,)` and C.
    """
    scale = standardiser(train_ND)
    x_ND, y_N = scale(train_ND).numpy(), labels_N.numpy()
    best = penalties[0]
    if len(penalties) > 1:
        inner = _inner_split(y_N, groups_N, seed)
        best = _choose(x_ND, y_N, inner, penalties) if inner else FALLBACK
    model = _solver(best)
    _fit(model, x_ND, y_N)
    return model.predict(scale(test_MD).numpy()), best


def _choose(x_ND: np.ndarray, y_N: np.ndarray, inner: Split, penalties: tuple[float, ...]) -> float:
    """The C of the highest accuracy, the strongest penalty of equals; each fit starts from the last one."""
    model = _solver(penalties[0], warm=True)
    scores = []
    for penalty in sorted(penalties):
        model.set_params(C=penalty)
        _fit(model, x_ND[inner.train], y_N[inner.train])
        scores.append(model.score(x_ND[inner.test], y_N[inner.test]))
    return sorted(penalties)[int(np.argmax(scores))]


def _inner_split(y_N: np.ndarray, groups_N: np.ndarray | None, seed: int) -> Split | None:
    labels = np.unique(y_N, return_inverse=True)[1]
    try:
        split = make_splits(labels, groups_N, test_share=INNER_SHARE, seed=seed)[0]
    except (DataError, ValueError):
        return None
    drawn = np.random.default_rng(seed).permutation(split.train)[:_INNER_MOST]
    train = np.sort(drawn)
    return Split(train, split.test) if len(np.unique(y_N[train])) > 1 else None


def _solver(penalty: float, warm: bool = False) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=_ITERATIONS, warm_start=warm)


def _fit(model: LogisticRegression, x_ND: np.ndarray, y_N: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # at weak penalties the last iterations change no prediction
        model.fit(x_ND, y_N)
