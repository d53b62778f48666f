"""Accuracy with its 95 % interval.

Shapes: N tested clips, R resamplings.
"""

from __future__ import annotations

import numpy as np

RESAMPLINGS = 2000


def bootstrap(correct_N: np.ndarray, *, seed: int = 0, resamplings: int = RESAMPLINGS) -> tuple[float, float]:
    """95 % percentile interval of the mean of `correct_N`, resampling test clips with replacement.

    Clips are what is resampled even when splits are grouped, so the interval speaks of other clips of the same
    speakers or photos; it does not hold the spread over speakers, nor over training seeds.

    Args:
        correct_N: 1 where a tested clip was right, 0 where wrong (any score in between will do).
    """
    score_N = np.asarray(correct_N, dtype=np.float64)
    assert score_N.size, "an interval needs at least one tested clip"
    values, counts = np.unique(score_N, return_counts=True)
    # Drawing how often each distinct score comes up is the same as drawing clips, without an R x N table.
    drawn = np.random.default_rng(seed).multinomial(score_N.size, counts / score_N.size, size=resamplings)
    low, high = np.quantile(drawn @ values / score_N.size, [0.025, 0.975])
    return float(low), float(high)
