"""Metrics against scikit-learn, and against answers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, roc_auc_score, top_k_accuracy_score

from bridle.evaluate.metrics import bootstrap, confusion, hits, interval, metrics, weighted_average_precision


def test_accuracy_top5_and_f1_by_hand() -> None:
    """Seven classes; two of four clips right, a third within five; class 6 is never met and counts for nothing."""
    scores = np.array(
        [
            [9.0, 1, 1, 1, 1, 1, 1],
            [0.0, 9, 1, 1, 1, 1, 1],
            [9.0, 0, 8, 1, 1, 1, 1],
            [9.0, 8, 7, 6, 5, 4, 3],
        ]
    )
    found = metrics(scores, np.array([0, 1, 2, 5]))
    assert list(found) == ["accuracy", "top5", "macro_f1"]
    assert found["accuracy"] == 0.5
    assert found["top5"] == 0.75
    # class 0: precision 1/3, recall 1 -> 1/2; class 1: 1; classes 2 and 5: 0
    assert found["macro_f1"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)


def test_map_is_scikit_learns_on_random_multi_label_data() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((400, 30)) < rng.uniform(0.01, 0.5, 30)
    truth[:, 7] = False  # a class that the test does not have
    scores = np.round(rng.normal(size=(400, 30)) + truth, 1)  # rounded: many are equal
    found = metrics(scores, truth)
    there = np.flatnonzero(truth.any(0))
    assert 7 not in there
    assert found["map"] == pytest.approx(average_precision_score(truth[:, there], scores[:, there]), abs=1e-6)
    assert found["auc"] == pytest.approx(roc_auc_score(truth[:, there], scores[:, there]), abs=1e-6)


def test_dprime_by_hand() -> None:
    """An area of 3/4: the normal quantile is 0.6745."""
    truth = np.array([[True], [False], [False], [True], [False], [False]])
    scores = np.array([[6.0], [5.0], [4.0], [3.0], [2.0], [1.0]])
    found = metrics(scores, truth)
    assert found["auc"] == pytest.approx(6 / 8)
    assert found["dprime"] == pytest.approx(math.sqrt(2) * 0.6744898, abs=1e-5)
    assert found["map"] == pytest.approx((1 + 2 / 4) / 2)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_weighted_average_precision_is_scikit_learns(data: st.DataObject) -> None:
    clips = data.draw(st.integers(1, 12))
    scores = data.draw(arrays.arrays(np.float64, clips, elements=st.integers(-2, 2).map(float)))
    truth = data.draw(arrays.arrays(bool, clips))
    weights = data.draw(arrays.arrays(np.int64, (3, clips), elements=st.integers(0, 3)))
    found = weighted_average_precision(scores, truth, weights.T)
    for weight, value in zip(weights, found, strict=True):
        if (weight * truth).sum() == 0:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(average_precision_score(truth, scores, sample_weight=weight), abs=1e-9)


def test_topk_is_scikit_learns_where_no_scores_are_equal() -> None:
    rng = np.random.default_rng(1)
    scores, truth = rng.normal(size=(200, 12)), rng.integers(0, 12, 200)
    assert hits(scores, truth, 3).mean() == top_k_accuracy_score(truth, scores, k=3, labels=np.arange(12))


def test_confusion_counts_rows_of_truth() -> None:
    scores = np.array([[1.0, 0], [0, 1.0], [0, 1.0]])
    assert confusion(scores, np.array([0, 0, 1])).tolist() == [[1, 1], [0, 1]]


def test_the_interval_is_the_binomial_one() -> None:
    """60 of 100 right: 0.6 +- 1.96 * sqrt(0.6 * 0.4 / 100)."""
    low, high = bootstrap(np.array([1] * 60 + [0] * 40))
    assert low == pytest.approx(0.504, abs=0.015)
    assert high == pytest.approx(0.696, abs=0.015)


def test_the_interval_of_map_holds_its_value_and_narrows_with_more_clips() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for clips in (100, 1600):
        truth = rng.random((clips, 4)) < 0.3
        scores = rng.normal(size=(clips, 4)) + truth
        low, high = interval([scores], truth)
        assert low < metrics(scores, truth)["map"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5  # a quarter, were it exact


def test_scores_that_tell_nothing_have_the_interval_of_the_labels_share() -> None:
    """Every clip has the same score, and most classes lose all of their clips in some resampling."""
    rng = np.random.default_rng(3)
    truth = rng.random((500, 60)) < 0.01
    low, high = interval([np.zeros((500, 60))], truth)
    assert 0 < low <= high < 0.05
