"""What two models said of the same clips -> the difference of their first metrics, and how it varies over clips.

Both are judged on the same resamplings of the clips: what is hard for both does not blur what lies between them.

Shapes: S seeds, M clips of both, L classes, R resamplings.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from bridle.checkpoint import Tested
from bridle.errors import DataError
from bridle.evaluate.metrics import drawn_counts, drawn_sums, hits, weighted_map

_RESAMPLINGS = 20_000  # of sums, which cost nothing: an interval for many comparisons looks far into the tails
_RESAMPLINGS_MAP = 1000

Clip = tuple[str, int]  # a path, and which of the clips with it: several may be pieces of one file


@dataclass(frozen=True, slots=True)
class Paired:
    """One model against another, on the clips that both were tested on.

    Attributes:
        difference: of the first metric, positive where the other is better than the baseline; 0 to 1.
        drawn_R: the same on resampled clips.
        clips: that both were tested on.
        baseline_only, other_only: clips that one was tested on.
        disagreements: clips that one got right more often than the other; None where clips have several labels.
    """

    difference: float
    drawn_R: np.ndarray
    clips: int
    baseline_only: int
    other_only: int
    disagreements: int | None


class Baseline:
    """What every other model is compared with; what it needs for that is computed once."""

    def __init__(self, tested: Tested) -> None:
        self._tested = tested
        self._at = numbered(tested)
        self._maps: dict[bytes, tuple[list[np.ndarray], np.ndarray]] = {}

    def against(self, other: Tested) -> Paired | None:
        """The other minus this one; None without a common clip.

        Clips are taken in the order of their names, so that no order of the files and no exchange of the two changes
        what is drawn.

        Raises:
            DataError: a clip has other labels there.
        """
        at = numbered(other)
        common = sorted(self._at.keys() & at.keys())
        if not common:
            return None
        mine_M, theirs_M = (np.array([of[clip] for clip in common]) for of in (self._at, at))
        _check_labels(common, _picked(self._tested, mine_M), _picked(other, theirs_M))
        if other.y.ndim == 1:
            difference, drawn_R, disagreements = self._hits_apart(other, mine_M, theirs_M)
        else:
            difference, drawn_R, disagreements = *self._maps_apart(other, mine_M, theirs_M), None
        return Paired(
            difference, drawn_R, len(common), len(self._at) - len(common), len(at) - len(common), disagreements
        )

    def _hits_apart(self, other: Tested, mine_M: np.ndarray, theirs_M: np.ndarray) -> tuple[float, np.ndarray, int]:
        """Of accuracies. Counts are whole numbers, so that a difference of nothing is 0 and no rounding."""
        mine, theirs = _times_right(self._tested, mine_M), _times_right(other, theirs_M)
        seeds = len(self._tested.scores_SML) * len(other.scores_SML)
        apart_M = theirs * len(self._tested.scores_SML) - mine * len(other.scores_SML)
        values, first, counts = np.unique(apart_M, return_index=True, return_counts=True)
        order = np.argsort(first)  # not by value: it is the same with the two exchanged
        drawn_R = drawn_sums(values[order], counts[order], _RESAMPLINGS)
        scale = seeds * len(apart_M)
        return float(apart_M.sum() / scale), drawn_R / scale, int(np.count_nonzero(apart_M))

    def _maps_apart(self, other: Tested, mine_M: np.ndarray, theirs_M: np.ndarray) -> tuple[float, np.ndarray]:
        """Of mean average precisions, the resampled ones around the one of the clips as they are (see `interval`)."""
        key = mine_M.tobytes()
        if key not in self._maps:
            clips = len(mine_M)
            weights = [np.ones((clips, 1), dtype=np.float32), *drawn_counts(clips, _RESAMPLINGS_MAP)]
            self._maps[key] = weights, _mean_maps(self._tested, mine_M, weights)
        weights, mine = self._maps[key]
        apart = _mean_maps(other, theirs_M, weights) - mine
        difference, drawn_R = apart[0], apart[1:]
        return float(difference), drawn_R - drawn_R.mean() + difference


def numbered(tested: Tested) -> dict[Clip, int]:
    """Where each clip is; of those with one path the first is number 0."""
    seen = Counter[str]()
    found = {}
    for row, path in enumerate(tested.paths):
        found[path, seen[path]] = row
        seen[path] += 1
    return found


def _picked(tested: Tested, rows_M: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The classes, and the truth of some clips."""
    return tested.classes, tested.y[torch.from_numpy(rows_M)].numpy()


def _times_right(tested: Tested, rows_M: np.ndarray) -> np.ndarray:
    """With how many of the seeds the right class had the highest score, int `(M,)`."""
    truth_M = tested.y.numpy()[rows_M]
    return np.sum([hits(scores_ML[rows_M], truth_M) for scores_ML in tested.scores_SML.numpy()], axis=0)


def _mean_maps(tested: Tested, rows_M: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """mAP with each weighting, mean of the seeds."""
    truth_ML = tested.y.numpy()[rows_M]
    return np.mean(
        [weighted_map(scores_ML[rows_M], truth_ML, weights) for scores_ML in tested.scores_SML.numpy()], axis=0
    )


def _check_labels(common: list[Clip], mine: tuple[list[str], np.ndarray], theirs: tuple[list[str], np.ndarray]) -> None:
    """By the names of the classes: their numbers depend on what else is in a data set.

    Raises:
        DataError: a clip is of one class here and of another there.
    """
    (my_classes, my_y), (their_classes, their_y) = mine, theirs
    union = list(dict.fromkeys([*my_classes, *their_classes]))
    if my_y.ndim == 1:
        number = {name: at for at, name in enumerate(union)}
        my_y, their_y = (
            np.array([number[name] for name in classes])[y]
            for classes, y in ((my_classes, my_y), (their_classes, their_y))
        )
        wrong_M = my_y != their_y
    else:
        my_y, their_y = _columns(my_classes, my_y, union), _columns(their_classes, their_y, union)
        wrong_M = (my_y != their_y).any(1)
    if wrong_M.any():
        row = int(wrong_M.argmax())
        one, two = (
            " and ".join(repr(union[at]) for at in (np.flatnonzero(y) if y.ndim else [y])) or "no class"
            for y in (my_y[row], their_y[row])
        )
        raise DataError(f"{common[row][0]} is labelled {one} in one run and {two} in the other")


def _columns(classes: list[str], y_ML: np.ndarray, union: list[str]) -> np.ndarray:
    """The truth with a column for each of the classes of both."""
    number = {name: at for at, name in enumerate(union)}
    found = np.zeros((len(y_ML), len(union)), dtype=bool)
    found[:, [number[name] for name in classes]] = y_ML
    return found
