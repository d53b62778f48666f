"""Published benchmarks from their release to a figure: small real media in the official layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import release_layouts as layouts
import standins

from bridle import api, progress
from bridle.errors import DataError, UsageError
from bridle.evaluate import Protocol, evaluate
from bridle.evaluate.dataset import open_data
from bridle.schema import Modality
from bridle.tasks import load_task
from bridle_cli.main import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("task", sorted(layouts.RELEASES))
def test_a_release_is_judged_as_it_lies(task: str, tmp_path: Path) -> None:
    kind, build, options = layouts.RELEASES[task]
    build(tmp_path / task, layouts.real(kind), **options)
    notes: list[str] = []

    def listen(event: str, **fields: Any) -> None:
        notes.extend([fields["message"]] if event == "note" else [])

    model = standins.small(kind)
    with progress.listening(listen):
        results = [
            evaluate(model, tmp_path / task, task=task, protocol=Protocol(protocol))
            for protocol in ("knn", "linear", "codes")
        ]
    for result in results:
        assert result["task"] == task and 0 <= result["value"] <= 1
        assert result["ci95"][0] <= result["value"] <= result["ci95"][1]
        assert result["n_train"] > 0 and result["n_test"] > 0 and result["skipped"] == []
    metric = "map" if task.startswith("as") else "accuracy"
    assert {result["metric"] for result in results} == {metric}
    assert any("the release has" in note for note in notes) == (not task.startswith("scv"))
    if task == "esc50":
        assert results[0]["folds"] == 5 and results[0]["n_test"] == 5 * 3 * 2
    if task in ("as2m", "k400", "ssv2"):
        assert sum(results[0]["missing"].values()) > 0


@pytest.mark.parametrize("task", ["as20k", "esc50", "in1k", "k400", "ssv2"])
def test_shards_of_a_release_are_judged_as_the_release(task: str, tmp_path: Path) -> None:
    kind, build, options = layouts.RELEASES[task]
    build(tmp_path / "release", layouts.real(kind), **options)
    said: list[str] = []
    made = api.shard(
        tmp_path / "release", task=task, out=tmp_path / "sets", workers=1,
        on_event=lambda event, **fields: said.append(fields.get("message", "")),
    )  # fmt: skip
    raw, sharded = (evaluate(standins.small(kind), tmp_path / name, task=task) for name in ("release", "sets"))
    assert made["name"] == task and set(made["splits"]) <= {"train", "val", "test", *(f"fold{n}" for n in range(1, 6))}
    for key in ("value", "ci95", "n_train", "n_test", "folds", "metric"):
        assert raw[key] == sharded[key], key
    assert sorted(raw["classes"]) == sharded["classes"]  # shards do not keep the order of the release
    assert any("listed clips are missing" in one for one in said) == (sum(raw["missing"].values()) > 0)


def test_a_release_that_is_cut_into_pieces_is_not_sharded(tmp_path: Path) -> None:
    layouts.speech_commands(tmp_path / "scv1", layouts.real("audio"), speakers=12)
    with pytest.raises(DataError, match="a segment of a file") as caught:
        api.shard(tmp_path / "scv1", task="scv1", out=tmp_path / "sets")
    assert "bridle eval --task scv1 --data" in caught.value.hint and not (tmp_path / "sets").exists()
    with pytest.raises(UsageError, match="--task sets labels and splits itself"):
        api.shard(tmp_path / "scv1", task="scv1", labels=None)


def test_silence_is_cut_out_of_the_noise(tmp_path: Path) -> None:
    """Ten pieces of a second of one recording are ten clips, each with the features of its own second."""
    layouts.speech_commands(tmp_path / "scv1", layouts.real("audio"), speakers=12)
    result = evaluate(standins.small("audio"), tmp_path / "scv1", task="scv1")
    assert result["classes"][:2] == ["_silence_", "_unknown_"]
    silence = sum(result["confusion"][0])
    assert silence == 1  # of ten pieces eight are for training, one for validation
    assert result["n_train"] == 3 * 10 + 8


def test_where_the_data_of_a_task_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIDLE_DATA", str(tmp_path / "all"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"No data found for Kinetics-400 in .*all/k400 or data/k400") as caught:
        api.evaluate(task="k400", checkpoint="random", recipe=api.Recipe(preset="video-tiny"))
    assert "train.csv" in caught.value.hint and "https://" in caught.value.hint
    assert main(["eval", "--task", "ssv2", "--checkpoint", "random", "--preset", "video-tiny"]) == 2
    assert "something-something-v2" in capsys.readouterr().err
    layouts.imagenet(tmp_path / "all" / "in1k", layouts.real("image"), clips=3)
    words = ["eval", "--task", "in1k", "--checkpoint", "random", "--preset", "image-tiny", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == str(tmp_path / "all" / "in1k") and found["n_train"] == 9
    layouts.put(tmp_path / "other" / "test" / "photo.png", layouts.real("image"))
    words = ["eval", "--task", "in1k", "--data", str(tmp_path / "other"), "--checkpoint", "random"]
    assert main([*words, "--preset", "image-tiny"]) == 4
    assert "expected train/nXXXXXXXX/*.JPEG" in capsys.readouterr().err


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(task in out for task in (*layouts.RELEASES, "scv2")) and "527" in out and "mAP" in out
    assert main(["eval", "--json", "--list"]) == 0
    listed = {one["name"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed["k400"]["views"] == [5, 3] and listed["esc50"]["folds"] is True


def test_too_many_missing_clips_are_refused_and_may_be_allowed(tmp_path: Path) -> None:
    layouts.kinetics(tmp_path / "k400", layouts.real("video"), clips=4)
    for video in sorted((tmp_path / "k400" / "train").rglob("*.mp4"))[3:]:
        video.unlink()
    model = standins.small("video")
    with pytest.raises(DataError, match=r"lacks 9 of the 12 clips listed for train"):
        evaluate(model, tmp_path / "k400", task="k400")
    assert evaluate(model, tmp_path / "k400", task="k400", max_missing=0.9)["n_train"] == 3


def test_results_are_kept_in_the_run(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.pretrain(shards, recipe=standins.small_recipe(), out=run, steps=4)
    for protocol, seed in (("knn", 0), ("linear", 0), ("knn", 0), ("knn", 1)):
        api.evaluate(shards, protocol=protocol, folds=2, seed=seed, checkpoint=run)
    kept = json.loads((run / "results.json").read_text())
    assert [(one["protocol"], one["seed"]) for one in kept] == [("linear", 0), ("knn", 0), ("knn", 1)]
    assert kept[0]["data"] == str(shards) and kept[0]["checkpoint"].endswith("step-00000004")


def test_clips_that_change_their_fold_are_other_data(tmp_path: Path) -> None:
    """What is kept of features says which part a clip is for."""
    layouts.esc50(tmp_path, layouts.real("audio"), clips=2)
    marks = [open_data(tmp_path, Modality.AUDIO, load_task("esc50")).fingerprint]
    table = tmp_path / "meta" / "esc50.csv"
    lines = table.read_text().splitlines()
    columns = lines[1].split(",")
    columns[1] = "2" if columns[1] != "2" else "3"
    table.write_text("\n".join([lines[0], ",".join(columns), *lines[2:]]) + "\n")
    marks.append(open_data(tmp_path, Modality.AUDIO, load_task("esc50")).fingerprint)
    assert marks[0] != marks[1]
