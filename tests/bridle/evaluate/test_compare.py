"""Runs side by side: differences and intervals against answers worked out by hand, then what people do with folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standins
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import average_precision_score

from bridle import api, checkpoint
from bridle.checkpoint import add_result, read_results
from bridle.errors import DataError, UsageError
from bridle.evaluate.metrics import metrics, percentiles
from bridle.evaluate.paired import Baseline
from bridle_cli.main import main

ASKED = {"task": "folder", "protocol": "knn", "pool": "mean", "metric": "accuracy", "folds": 5, "group_by": None}


def judged(right: Sequence[Sequence[bool]], paths: Sequence[str] = (), classes: str = "ab") -> checkpoint.Tested:
    """Of two classes in turn; which clips each seed has right."""
    clips = len(right[0])
    y = torch.tensor([classes.index("ab"[row % 2]) for row in range(clips)])
    guess_SM = torch.where(torch.tensor(right), y, 1 - y)
    names = list(paths or (f"{'ab'[row % 2]}/{row:04}.wav" for row in range(clips)))
    return checkpoint.Tested(names, list(classes), y, torch.nn.functional.one_hot(guess_SM, 2).float())


def keep(folder: Path, tested: checkpoint.Tested | None, **changes: Any) -> Path:
    """A folder with one more result."""
    value = 0.5
    if tested:
        value = float(np.mean([next(iter(metrics(s.numpy(), tested.y.numpy()).values())) for s in tested.scores_SML]))
    result = {**ASKED, "data": "digits", "checkpoint": "random", "seed": 0, "n_train": 8, "n_test": 10}
    add_result(folder, {**result, "value": value, "ci95": [value - 0.1, value + 0.1], **changes}, tested)
    return folder


def rows_of(*runs: Path, **options: str) -> list[dict[str, Any]]:
    (question,) = api.compare(runs, **options)
    rows: list[dict[str, Any]] = question["rows"]
    return rows


def several(clips: int = 60, classes: int = 5, seed: int = 0, gap: float = 1.0, seeds: int = 1) -> checkpoint.Tested:
    """The same truth for every `seed`, other scores."""
    y = torch.from_numpy(np.random.default_rng(99).random((clips, classes)) < 0.2)
    noise = np.random.default_rng(seed).normal(size=(seeds, clips, classes))
    names = [f"clip {row:03}" for row in range(clips)]
    return checkpoint.Tested(names, list("abcdefgh"[:classes]), y, (torch.from_numpy(noise) + gap * y).float())


# --- differences and their intervals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "difference", "mark"),
    [([True, False] * 20, [True, False] * 20, 0.0, "="), ([False] * 40, [True] * 40, 1.0, "+"),
     ([True] * 40, [False] * 40, -1.0, "-")],
)  # fmt: skip
def test_all_alike_and_all_other(
    tmp_path: Path, one: list[bool], two: list[bool], difference: float, mark: str
) -> None:
    first, second = rows_of(keep(tmp_path / "a", judged([one])), keep(tmp_path / "b", judged([two])))
    assert (first["difference"], first["difference_ci"], first["mark"]) == (None, None, None)
    assert second["difference"] == difference and second["difference_ci"] == [difference, difference]
    assert second["mark"] == mark and second["clips"] == 40


def test_the_interval_is_the_binomial_one() -> None:
    """20 of 100 clips are better and none worse: each resampling has Binomial(100, 0.2) of them."""
    base = [False] * 100
    pair = Baseline(judged([base])).against(judged([[True] * 20 + [False] * 80]))
    assert pair and pair.difference == 0.2 and pair.disagreements == 20
    for confidence in (0.95, 0.99):
        expected = binom.ppf([(1 - confidence) / 2, (1 + confidence) / 2], 100, 0.2) / 100
        assert percentiles(pair.drawn_R, confidence) == pytest.approx(expected, abs=0.0101)
    assert pair.drawn_R.std() == pytest.approx(0.04, rel=0.03)


def test_what_is_hard_for_both_does_not_widen_the_interval() -> None:
    """Half of 400 clips are wrong for both, 8 better for one: alone each has +- 5 points, the difference +- 1.4."""
    base = [row % 2 == 0 for row in range(400)]
    better = [right or row < 16 for row, right in enumerate(base)]
    pair = Baseline(judged([base])).against(judged([better]))
    low, high = percentiles(pair.drawn_R)
    assert pair.difference == 0.02 and low > 0 and high - low < 0.03


def test_with_more_runs_each_interval_is_wider(tmp_path: Path) -> None:
    """Four others: 98.75 % each."""
    base = keep(tmp_path / "base", judged([[False] * 200]))
    others = [keep(tmp_path / str(number), judged([[True] * 40 + [False] * 160])) for number in range(4)]
    (question,) = api.compare([base, *others])
    assert question["confidence"] == pytest.approx(0.9875)
    expected = binom.ppf([0.00625, 0.99375], 200, 0.2) / 200
    assert all(row["difference_ci"] == pytest.approx(expected, abs=0.0051) for row in question["rows"][1:])
    (alone,) = api.compare([base, others[0]])
    assert alone["confidence"] == 0.95
    assert np.ptp(alone["rows"][1]["difference_ci"]) < np.ptp(question["rows"][1]["difference_ci"])


def test_seeds_are_averaged() -> None:
    """Right with two of three seeds against one of two: 1/6 for each clip, whichever is drawn."""
    pair = Baseline(judged([[True] * 30, [False] * 30])).against(judged([[True] * 30, [True] * 30, [False] * 30]))
    assert pair and pair.difference == pytest.approx(1 / 6)
    assert pair.drawn_R == pytest.approx(np.full(len(pair.drawn_R), 1 / 6))


def test_several_labels_the_difference_is_scikit_learns() -> None:
    one, two = several(seed=0, gap=0.5, seeds=2), several(seed=1, gap=2.0)
    pair = Baseline(one).against(two)

    def mean_ap(tested: checkpoint.Tested) -> float:
        found = [average_precision_score(tested.y.numpy(), scores.numpy()) for scores in tested.scores_SML]
        return float(np.mean(found))

    assert pair and pair.difference == pytest.approx(mean_ap(two) - mean_ap(one), abs=1e-6)
    low, high = percentiles(pair.drawn_R)
    assert low < pair.difference < high and pair.disagreements is None
    same = Baseline(one).against(one)
    assert same and same.difference == 0 and not same.drawn_R.any()


def test_the_interval_of_map_has_the_width_of_repeated_tests() -> None:
    """Its half width is about 1.96 times the spread of the difference over test sets that are drawn anew."""
    rng = np.random.default_rng(0)
    found, widths = [], []
    for trial in range(60):
        y = torch.from_numpy(rng.random((200, 6)) < 0.15)
        common = rng.normal(size=(200, 6))
        scores = [torch.from_numpy(common + 0.7 * rng.normal(size=(200, 6))) + gap * y for gap in (1.5, 2.0)]
        names = [str(row) for row in range(200)]
        one, two = (checkpoint.Tested(names, list("abcdef"), y, score[None].float()) for score in scores)
        pair = Baseline(one).against(two)
        assert pair
        found.append(pair.difference)
        if trial < 5:
            low, high = percentiles(pair.drawn_R)
            widths.append((high - low) / 2 / 1.96)
    assert np.mean(widths) == pytest.approx(np.std(found), rel=0.3)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_other_way_round_it_is_the_negative_and_order_does_not_matter(data: st.DataObject) -> None:
    clips = data.draw(st.integers(1, 12))
    seeds = st.lists(st.lists(st.booleans(), min_size=clips, max_size=clips), min_size=1, max_size=3)
    one, two = judged(data.draw(seeds)), judged(data.draw(seeds))
    order = data.draw(st.permutations(range(clips)))
    shuffled = checkpoint.Tested([two.paths[row] for row in order], two.classes, two.y[order], two.scores_SML[:, order])
    there, back, mixed = (Baseline(a).against(b) for a, b in ((one, two), (two, one), (one, shuffled)))
    assert there and back and mixed
    assert there.difference == -back.difference == mixed.difference
    assert np.array_equal(there.drawn_R, -back.drawn_R) and np.array_equal(there.drawn_R, mixed.drawn_R)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(24)), st.permutations(range(3)), st.integers(0, 5))
def test_several_labels_the_other_way_round_and_in_another_order(
    order: list[int], columns: list[int], seed: int
) -> None:
    one, two = several(24, 3, seed, 0.5), several(24, 3, seed + 10, seeds=2)
    shuffled = checkpoint.Tested(
        [two.paths[row] for row in order],
        [two.classes[column] for column in columns],
        two.y[order][:, columns],
        two.scores_SML[:, order][:, :, columns],
    )
    there, back, mixed = (Baseline(a).against(b) for a, b in ((one, two), (two, one), (one, shuffled)))
    assert there and back and mixed
    assert there.difference == -back.difference == pytest.approx(mixed.difference)
    assert np.allclose(there.drawn_R, -back.drawn_R, atol=1e-12)
    assert np.allclose(there.drawn_R, mixed.drawn_R, atol=1e-12)


# --- which clips and results belong together ---------------------------------------------------------------------


def test_pieces_of_one_file_are_matched_in_their_order() -> None:
    """Five pieces of x.wav, of which the other lacks the last; the others of each folder are left out."""
    one = judged([[True, False, True, False, True, True]], ["x.wav"] * 5 + ["y.wav"])
    two = judged([[True, True, True, True, False]], ["x.wav"] * 4 + ["z.wav"])
    pair = Baseline(one).against(two)
    assert pair and (pair.clips, pair.baseline_only, pair.other_only) == (4, 2, 1)
    assert pair.difference == 0.5


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    right = [[True] * 12]
    a = keep(tmp_path / "a", judged(right))
    assert rows_of(a, keep(tmp_path / "b", judged(right, classes="ba")))[1]["difference_ci"] == [0, 0]
    wrong = judged(right)
    wrong.y[3] = 0
    with pytest.raises(
        DataError, match=r"a and .*c were tested on different labels: b/0003.wav is labelled 'b' in one run and"
    ):
        api.compare([a, keep(tmp_path / "c", wrong)])


def test_a_class_that_only_one_set_knows_matters_where_a_clip_has_it() -> None:
    one = several(20, 3)
    wider = checkpoint.Tested(
        one.paths,
        [*one.classes, "z"],
        torch.cat([one.y, torch.zeros(20, 1, dtype=torch.bool)], 1),
        torch.cat([one.scores_SML, torch.zeros(1, 20, 1)], 2),
    )
    pair = Baseline(one).against(wider)
    assert pair and pair.difference == 0
    wider.y[7, 3] = True
    with pytest.raises(DataError, match=r"clip 007 is labelled .* and 'z' in the other|clip 007 is of no class .* 'z'"):
        Baseline(one).against(wider)


def test_the_newest_result_of_a_folder_counts_whatever_its_seed(tmp_path: Path) -> None:
    a = keep(tmp_path / "a", judged([[False] * 20]))
    b = keep(tmp_path / "b", judged([[False] * 20]), seed=1)
    keep(b, judged([[True] * 20]), seed=0)
    rows = rows_of(a, b)
    assert (rows[1]["difference"], rows[1]["seed"]) == (1.0, 0)
    keep(b, judged([[False] * 20]), seed=1)
    rows = rows_of(a, b)
    assert (rows[1]["difference"], rows[1]["seed"], len(rows)) == (0.0, 1, 2)


def test_data_are_the_same_by_their_clips_not_by_their_spelling(tmp_path: Path) -> None:
    birds = [f"bird {row}" for row in range(10)]
    a = keep(tmp_path / "a", judged([[False] * 10]), data="raw/digits")
    keep(a, judged([[False] * 10], birds), data="birds")
    b = keep(tmp_path / "b", judged([[True] * 10], birds), data="shards/birds")
    notes: list[str] = []
    found = api.compare([a, b], on_event=lambda kind, message: notes.append(message))
    assert [(one["data"], one["rows"][1]["data"], one["rows"][1]["mark"]) for one in found] == [
        ("birds", "shards/birds", "+")
    ]
    assert notes == [f"{a}: left out, no counterpart: folder knn mean accuracy 5 folds on raw/digits"]
    keep(b, judged([[True] * 10]), data="shards/digits")
    keep(a, judged([[True] * 10], birds), data="shards/birds")  # newer than that of "birds", and the same clips
    notes.clear()
    found = api.compare([a, b], on_event=lambda kind, message: notes.append(message))
    assert [(one["data"], one["rows"][1]["mark"]) for one in found] == [("shards/birds", "="), ("raw/digits", "+")]
    assert notes == []


def test_clips_of_one_alone_are_told(tmp_path: Path) -> None:
    a = keep(tmp_path / "a", judged([[False] * 20]))
    other = judged([[True] * 20])
    other.paths[:2] = ["b/new.wav", "b/newer.wav"]
    (question,) = api.compare([a, keep(tmp_path / "b", other)])
    row = question["rows"][1]
    assert question["clips"] == 20 and row["clips"] == 18 and row["mark"] == "+"
    assert "2 clips of " in row["note"] and "the difference is over the other 18" in row["note"]


def test_a_mark_that_few_clips_make_is_told(tmp_path: Path) -> None:
    a = keep(tmp_path / "a", judged([[False] * 50]))
    row = rows_of(a, keep(tmp_path / "b", judged([[True] * 6 + [False] * 44])))[1]
    assert row["mark"] == "+" and row["note"] == "6 clips differ: too few for a good interval"


def test_no_common_clip_is_told_and_not_marked(tmp_path: Path) -> None:
    a = keep(tmp_path / "a", judged([[True] * 10]))
    b = keep(tmp_path / "b", judged([[True] * 10], [f"bird {row}" for row in range(10)]), data="birds")
    row = rows_of(a, b)[1]
    assert row["mark"] is None and row["difference"] is None and row["value"] == 1.0
    assert "no clip was tested by both" in row["note"] and "a/0000.wav" in row["note"] and "bird 0" in row["note"]


def test_what_has_no_clips_is_shown_without_a_mark(tmp_path: Path) -> None:
    """A result of before, a damaged one, one that is gone; the third run is compared all the same."""
    good, other = judged([[True] * 20]), judged([[False] * 20])
    a, d = keep(tmp_path / "a", good), keep(tmp_path / "d", other)
    old, damaged, gone = (keep(tmp_path / name, None if name == "old" else good) for name in ("old", "damaged", "gone"))
    next((damaged / "results").iterdir()).write_bytes(b"no tensors")
    next((gone / "results").iterdir()).unlink()
    (question,) = api.compare([a, old, damaged, gone, d])
    assert [row["mark"] for row in question["rows"]] == [None, None, None, None, "-"]
    assert question["confidence"] == 0.95  # one comparison was made
    notes = [row["note"] for row in question["rows"]]
    assert notes[0] is None and notes[4] is None and "were not stored" in notes[1]
    assert all("cannot be read" in note and ".safetensors" in note for note in notes[2:4])
    (question,) = api.compare([damaged, a])
    assert [row["mark"] for row in question["rows"]] == [None, None] and question["clips"] == 10
    assert question["rows"][0]["note"] and question["rows"][1]["note"] is None


@pytest.mark.parametrize(
    "parts",
    [
        {"scores_SML": torch.zeros(1, 9, 2)},
        {"scores_SML": torch.zeros(10, 2)},
        {"scores_SML": torch.zeros(0, 10, 2)},
        {"y": torch.full((10,), 2)},
        {"y": torch.zeros(10)},
        {"y": torch.zeros(10, 3, dtype=torch.bool)},
        {"paths": list(range(10))},
    ],
)
def test_a_file_of_clips_whose_parts_do_not_fit_is_damaged(tmp_path: Path, parts: dict[str, Any]) -> None:
    good = judged([[True] * 10])
    whole = {"paths": good.paths, "classes": good.classes, "y": good.y, "scores_SML": good.scores_SML}
    a, b = keep(tmp_path / "a", good), keep(tmp_path / "b", None)
    (one,) = read_results(b)
    add_result(b, one, checkpoint.Tested(**(whole | parts)))
    row = rows_of(a, b)[1]
    assert row["mark"] is None and "cannot be read" in row["note"]


def test_other_labels_than_the_metrics_are_no_comparison(tmp_path: Path) -> None:
    a, b = keep(tmp_path / "a", several(), metric="map"), keep(tmp_path / "b", judged([[True] * 60]), metric="map")
    assert rows_of(a, b)[1]["note"] == "map is not compared clip by clip"


def test_codebooks_are_shown_without_a_mark(tmp_path: Path) -> None:
    asked = {"protocol": "codebook", "pool": None, "metric": "cur", "folds": None}
    a, b = (keep(tmp_path / name, None, value=value, **asked) for name, value in (("a", 0.5), ("b", 0.75)))
    rows = rows_of(a, b)
    assert [(row["value"], row["mark"], row["note"]) for row in rows] == [(0.5, None, None), (0.75, None, None)]
    c = keep(tmp_path / "c", None, data="birds", **asked)
    assert rows_of(a, c)[1]["note"] == f"{a} used digits, {c} birds"


def test_questions_are_kept_apart_and_may_be_picked(tmp_path: Path) -> None:
    right = judged([[True] * 10])
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        for changes in ({}, {"protocol": "linear"}, {"folds": 3}, {"task": "esc50"}, {"pool": "segments"}):
            keep(folder, right, **changes)
    keep(a, right, group_by="(x)")
    keep(b, right, group_by="(y)")
    asked = [(one["task"], one["protocol"], one["pool"], one["folds"], one["group_by"]) for one in api.compare([a, b])]
    assert sorted(asked, key=str) == sorted(
        [("folder", "knn", "mean", 5, None), ("folder", "linear", "mean", 5, None), ("folder", "knn", "mean", 3, None),
         ("esc50", "knn", "mean", 5, None), ("folder", "knn", "segments", 5, None)], key=str
    )  # fmt: skip
    assert len(api.compare([a, b], protocol="linear")) == 1
    assert [one["task"] for one in api.compare([a, b], task="esc50")] == ["esc50"]


# --- bad input ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    right = judged([[True] * 10])
    keep(Path("a"), right)
    keep(Path("b"), right, protocol="linear")
    Path("none").mkdir()
    Path("torn").mkdir()
    Path("torn/results.json").write_text('[{"task": "folder"}, 7')
    Path("odd").mkdir()
    Path("odd/results.json").write_text('[{"task": "folder"}, 7, {"task": 1, "value": "x"}]')
    for words, code, message in (
        ([], 2, "at least two runs, got 0"),
        (["a"], 2, "at least two runs, got 1"),
        (["a", "./a"], 2, "a is given twice"),
        (["a", "none"], 4, "none/results.json does not exist"),
        (["a", "none"], 4, "bridle eval --checkpoint none"),
        (["a", "torn"], 4, "torn/results.json is damaged"),
        (["a", "odd"], 4, "odd/results.json holds no results"),
        (
            ["a", "b"],
            4,
            "no evaluation in common:\na: folder knn mean accuracy 5 folds on digits\nb: folder linear mean",
        ),
        (["a", "b", "--protocol", "codes"], 4, "in common with --protocol codes:\na: folder knn"),
        (["a", "b", "--task", "k400", "--json"], 4, "in common with --task k400:\na: folder knn"),
    ):
        assert main(["compare", *words]) == code
        out, err = capsys.readouterr()
        assert out == "" and message in err
    with pytest.raises(UsageError, match=r"link is given twice, as a\."):
        Path("link").symlink_to("a", target_is_directory=True)
        api.compare(["a", "link"])


# --- as people use it --------------------------------------------------------------------------------------------


def test_a_run_beside_an_untrained_model(
    shards: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained and judged from shards, the untrained one from the folder that they are of: the clips are the same."""
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache"))
    run, untrained = tmp_path / "run", tmp_path / "untrained"
    api.pretrain(shards, recipe=standins.small_recipe(), out=run, steps=4)
    small = [word for one in standins.SMALL_RUN for word in ("--set", one)]
    random = ["--checkpoint", "random", "--preset", "image-tiny", *small, "--out", str(untrained)]
    judge = ["eval", "--quiet"]
    for protocol in ("knn", "linear"):
        words = [*judge, "--folds", "2", "--protocol", protocol]
        assert main([*words, "--data", str(shards), "--checkpoint", str(run)]) == 0
        assert main([*words, "--data", str(sample / "image"), *random]) == 0
    assert main([*judge, "--protocol", "codebook", "--data", str(shards), "--checkpoint", str(run)]) == 0
    capsys.readouterr()
    assert main(["compare", str(untrained), str(run)]) == 0
    out, err = capsys.readouterr()
    assert out.count("value %") == 2 and "folder / linear / mean / accuracy: 120 clips of" in out and "2 folds" in out
    assert err.count("over clips, not training seeds") == 1
    assert f"{run}: left out, no counterpart: folder codebook cur on {shards}" in err
    assert main(["compare", str(untrained), str(run), "--protocol", "knn", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    question = json.loads(line)
    assert {"task", "protocol", "pool", "metric", "folds", "group_by", "clips", "rows"} <= set(question)
    first, second = question["rows"]
    shown = {"run", "checkpoint", "value", "ci95", "n_train", "seed", "difference", "difference_ci", "mark"}
    assert shown <= set(first) and shown <= set(second)
    assert (first["run"], first["checkpoint"], first["mark"]) == (str(untrained), "random", None)
    assert second["clips"] == 120 and second["mark"] in "+-="
    assert second["difference"] == pytest.approx(second["value"] - first["value"])
    assert second["difference_ci"][0] <= second["difference"] <= second["difference_ci"][1]


def test_tables_say_what_the_objects_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, better = [False] * 60 + [True] * 40, [False] * 30 + [True] * 70
    keep(Path("base"), judged([base]), group_by="_([a-z]+)_")
    keep(Path("better"), judged([better]), group_by="_([a-z]+)_")
    keep(Path("old"), None, group_by="_([a-z]+)_", value=0.612, ci95=[0.512, 0.712])
    assert main(["compare", "base", "better", "old"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert "folder / knn / mean / accuracy: 100 clips of digits, 5 folds grouped by _([a-z]+)_" in out
    assert ["base", "40.0", "30.0", "to", "50.0", "-", "-"] in lines
    (row,) = [line for line in lines if line and line[0] == "better"]
    assert row[:6] == ["better", "70.0", "60.0", "to", "80.0", "+30.0"] and row[-1] == "+"
    assert ["old", "61.2", "51.2", "to", "71.2", "-", "-"] in lines
    assert (
        "old: results of each clip were not stored" in err
        and "+ better than base" in err
        and "its 95 % interval" in out
    )
