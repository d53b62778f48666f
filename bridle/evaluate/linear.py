"""Linear probe: one layer on z-scored features.

Small sets with one class per clip: multinomial logistic regression by scikit-learn's L-BFGS, its penalty chosen on an
inner split of train. Large ones, and several classes a clip: stochastic gradient descent, its learning rate chosen
there, all rates trained side by side (as in DINOv2, arXiv 2304.07193).

Shapes: N train clips, M test clips, B clips of a step, D dimensions, L classes, S learning rates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from bridle.errors import DataError
from bridle.evaluate.labels import Truth
from bridle.evaluate.metrics import metrics
from bridle.evaluate.splits import Split, make_splits
from bridle.infer.standardise import standardiser

PENALTIES = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C: inverse strength of the L2 penalty
FALLBACK = 0.1  # where train is too small to be split again
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FALLBACK_RATE = 0.1
INNER_SHARE = 0.2
_INNER_MOST = 5000  # clips the choice of C looks at: it needs the order of four accuracies, not their last digit
_ITERATIONS = 300
_LBFGS_MOST = 2e9  # N * D * L beyond which L-BFGS takes many minutes
_BATCH = 256
_EPOCHS = 30
_LEAST_STEPS = 1000
_MOMENTUM = 0.9


def linear(
    train_ND: Tensor,
    truth_N: Truth,
    test_MD: Tensor,
    *,
    groups_N: np.ndarray | None = None,
    seed: int = 0,
    solver: str | None = None,
    settings: tuple[float, ...] | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Scores of each test clip by a linear layer; penalty or rate are those that do best on an inner split of train.

    Args:
        groups_N: groups of the train clips, which the inner split keeps together.
        solver: `lbfgs` or `sgd`; None: by the size of the set.
        settings: penalties or rates to choose from.

    Returns:
        Scores `(M, L)`, and what was chosen: `{"C": ...}` or `{"rate": ...}`.
    """
    scale = standardiser(train_ND)
    x_ND, test_MD = scale(train_ND), scale(test_MD)
    small = train_ND.numel() * len(truth_N.classes) <= _LBFGS_MOST
    inner = _inner_split(truth_N, groups_N, seed)
    if solver == "lbfgs" or (solver is None and small and not truth_N.multi):
        y_N = truth_N.y.numpy()
        penalty = _choose_penalty(x_ND.numpy(), y_N, inner, settings or PENALTIES)
        model = _fit(LogisticRegression(C=penalty, max_iter=_ITERATIONS), x_ND.numpy(), y_N)
        scores_ML = np.full((len(test_MD), len(truth_N.classes)), -np.inf)
        scores_ML[:, model.classes_] = model.predict_log_proba(test_MD.numpy())  # a class may be missing in train
        return torch.from_numpy(scores_ML).float(), {"C": penalty}
    rate = _choose_rate(x_ND, truth_N, inner, settings or RATES, seed)
    return _descend(x_ND, truth_N, test_MD, (rate,), seed)[0], {"rate": rate}


def _inner_split(truth_N: Truth, groups_N: np.ndarray | None, seed: int) -> Split | None:
    """A part of train to choose on, stratified where a clip has one class; None where train is too small."""
    y_N = np.zeros(len(truth_N), dtype=int) if truth_N.multi else np.unique(truth_N.y.numpy(), return_inverse=True)[1]
    try:
        split = make_splits(y_N, groups_N, test_share=INNER_SHARE, seed=seed, stratified=not truth_N.multi)[0]
    except (DataError, ValueError):
        return None
    train = np.sort(np.random.default_rng(seed).permutation(split.train)[:_INNER_MOST])
    return Split(train, split.test) if truth_N.multi or len(np.unique(y_N[train])) > 1 else None


def _choose_penalty(x_ND: np.ndarray, y_N: np.ndarray, inner: Split | None, penalties: tuple[float, ...]) -> float:
    """The C of the highest accuracy, the strongest penalty of equals; each fit starts from the last one."""
    if len(penalties) == 1 or inner is None:
        return penalties[0] if len(penalties) == 1 else FALLBACK
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    scores = []
    for penalty in sorted(penalties):
        _fit(model.set_params(C=penalty), x_ND[inner.train], y_N[inner.train])
        scores.append(model.score(x_ND[inner.test], y_N[inner.test]))
    return sorted(penalties)[int(np.argmax(scores))]


def _fit(model: LogisticRegression, x_ND: np.ndarray, y_N: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        # At weak penalties the last iterations change no prediction.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x_ND, y_N)


def _choose_rate(x_ND: Tensor, truth_N: Truth, inner: Split | None, rates: tuple[float, ...], seed: int) -> float:
    """The rate of the best metric on the inner test, the lowest of equals."""
    if len(rates) == 1 or inner is None:
        return rates[0] if len(rates) == 1 else FALLBACK_RATE
    train, test = torch.from_numpy(inner.train), torch.from_numpy(inner.test)
    scores = _descend(x_ND[train], truth_N[train], x_ND[test], tuple(sorted(rates)), seed)
    quality = [next(iter(metrics(scores_ML.numpy(), truth_N[test].y.numpy()).values())) for scores_ML in scores]
    return sorted(rates)[int(np.nanargmax(quality))]


def _descend(x_ND: Tensor, truth_N: Truth, test_MD: Tensor, rates: tuple[float, ...], seed: int) -> list[Tensor]:
    """A layer for each rate, all on the same batches; scores of the test clips by each."""
    generator = torch.Generator().manual_seed(seed)
    steps = max(_LEAST_STEPS, _EPOCHS * math.ceil(len(x_ND) / _BATCH))
    peak_S11 = torch.tensor(rates)[:, None, None]
    weight_SDL = torch.zeros(len(rates), x_ND.shape[1] + 1, len(truth_N.classes))  # the last row is the bias
    momentum_SDL = torch.zeros_like(weight_SDL)
    for step, rows_B in enumerate(_batches(len(x_ND), steps, generator)):
        x_BD = torch.nn.functional.pad(x_ND[rows_B], (0, 1), value=1.0)
        scores_SBL = x_BD @ weight_SDL
        p_SBL = scores_SBL.sigmoid() if truth_N.multi else scores_SBL.softmax(-1)
        gradient_SDL = x_BD.T @ (p_SBL - truth_N.shares(rows_B)) / len(rows_B)
        momentum_SDL.mul_(_MOMENTUM).add_(gradient_SDL)
        weight_SDL -= 0.5 * (1 + math.cos(math.pi * step / steps)) * peak_S11 * momentum_SDL
    return list(torch.nn.functional.pad(test_MD, (0, 1), value=1.0) @ weight_SDL)


def _batches(clips: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of every step, each clip once an epoch."""
    while True:
        for rows_B in torch.randperm(clips, generator=generator).split(_BATCH):
            if not steps:
                return
            steps -= 1
            yield rows_B
