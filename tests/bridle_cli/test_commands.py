"""What each command hands to the library and prints of its answer; the library itself is played by fakes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from bridle import api
from bridle_cli.main import main


class Fake:
    """Stands in for one function of the api and keeps how it was called."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __call__(self, *arguments: object, **options: object) -> object:
        self.arguments, self.options = arguments, options
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    def install(name: str, answer: object) -> Fake:
        double = Fake(answer)
        monkeypatch.setattr(api, name, double)
        return double

    return install


RUN = {"run": "runs/x", "modality": "audio", "preset": "audio-tiny", "steps": 4, "seconds": 1.5, "clips": 512,
       "loss": 3.25, "usage": [1.0, 0.5], "checkpoint": "runs/x/checkpoints/step-4"}  # fmt: skip


def test_pretrain_hands_over_every_option(fake, capsys) -> None:
    double = fake("pretrain", RUN)
    code = main(
        "pretrain --shards s --modality audio --preset audio-small --config c.yaml --set a=1 --set b=2 --out runs/x "
        "--max-minutes 1.5 --seed 3 --workers 2 --device cpu --overwrite --dry-run --json".split()
    )
    assert code == 0
    assert double.arguments == (Path("s"),)
    double.options.pop("on_event")
    assert double.options == {
        "recipe": api.Recipe("audio", "audio-small", Path("c.yaml"), ("a=1", "b=2"), 3, 2),
        "out": Path("runs/x"),
        "steps": None,
        "epochs": None,
        "max_minutes": 1.5,
        "device": "cpu",
        "overwrite": True,
        "dry_run": True,
        "profile": False,
        "restarted": False,
    }
    assert json.loads(capsys.readouterr().out) == RUN


def test_several_devices_are_several_processes_of_the_same_command(fake, monkeypatch) -> None:
    double = fake("launch", 143)
    assert main(["pretrain", "--shards", "s", "--devices", "2", "--quiet"]) == 143
    assert double.arguments == (["pretrain", "--shards", "s", "--devices", "2", "--quiet"], 2)
    monkeypatch.setenv("RANK", "1")  # one of them
    double = fake("pretrain", RUN)
    assert main(["pretrain", "--shards", "s", "--devices", "2", "--restarted"]) == 0
    assert double.options["restarted"]


@pytest.mark.parametrize("code", [130, 143])
def test_who_started_several_processes_says_that_they_were_interrupted(fake, capsys, code) -> None:
    fake("launch", code)
    assert main(["tokenize", "x", "--out", "x.codes", "--devices", "2"]) == code
    said = capsys.readouterr().err
    assert said.count("Interrupted.") == said.count("--resume") == 1


def test_pretrain_takes_the_shards_folder_by_default(fake) -> None:
    double = fake("pretrain", RUN)
    assert main(["pretrain"]) == 0
    assert double.arguments == (Path("shards"),)


@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        (["--resume", "runs/x"], Path("runs/x")),
        (["--resume", "--device", "cpu"], None),
        (["--out", "o", "--resume"], Path("o")),
    ],
)
def test_resume_with_and_without_a_name(fake, arguments, run) -> None:
    double = fake("resume", RUN)
    assert main(["pretrain", *arguments]) == 0
    assert double.arguments == (run,)


def test_resume_takes_settings(fake) -> None:
    double = fake("resume", RUN)
    words = "pretrain --resume x --set train.keep=3 --workers 2 --batch-size auto --force".split()
    assert main(words) == 0
    assert list(double.options["sets"]) == ["train.keep=3", "train.part=auto", "data.workers=2"]
    assert double.options["force"] is True
    assert main(["pretrain", "--resume", "x", "--batch-size", "some"]) == 2


def test_interrupted_pretraining_says_how_to_go_on(monkeypatch, capsys) -> None:
    def pretrain(*_: object, on_event, **__: object) -> None:
        on_event("run", path="runs/x")
        on_event("start", phases=[], samples=1, parameters={})
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "pretrain", pretrain)
    assert main(["pretrain"]) == 130
    assert "bridle pretrain --resume runs/x" in capsys.readouterr().err


CODES = {"file": "a.wav", "levels": 2, "grid": [2, 1, 2], "codes": [[[[1, 2]], [[3, 4]]], [[[5, 6]], [[7, 8]]]],
         "times": [0.0, 0.5]}  # fmt: skip


def test_tokenize_prints_one_object_a_line(fake, capsys) -> None:
    double = fake("tokenize", [CODES, CODES])
    assert main(["tokenize", "a.wav", "b", "--checkpoint", "runs/x", "--json"]) == 0
    assert double.arguments == ((Path("a.wav"), Path("b")),)
    assert double.options["checkpoint"] == "runs/x"
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [CODES, CODES]


def test_tokenize_prints_a_row_a_level_in_reading_order(fake, capsys) -> None:
    fake("tokenize", [CODES])
    assert main(["tokenize", "a.wav"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[-2:] == [["a.wav", "2x1x2", "1", "1", "2", "3", "4"], ["2", "5", "6", "7", "8"]]


def test_tokenize_to_a_file_prints_no_codes(fake, capsys) -> None:
    double = fake("write_codes", {"out": "c.npz", "files": 2})
    assert main(["tokenize", "a.wav", "--out", "c.npz", "--overwrite", "--json"]) == 0
    assert double.arguments == ((Path("a.wav"),), Path("c.npz"))
    assert double.options["overwrite"] is True
    assert json.loads(capsys.readouterr().out) == {"out": "c.npz", "files": 2}


OPENER = """#!/bin/sh
echo "$1" >> opened
echo "no method available for opening" >&2; echo "noise"
case "$1" in *lost*) exit 3;; *stays*) exec sleep 5;; esac
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other openers")
def test_search_opens_what_it_found_and_says_what_could_not_be_opened(fake, tmp_path, monkeypatch, capfd) -> None:
    hits = [{"file": f"{name}.wav", "similarity": 0.5, "start_s": 0.0, "path": f"/m/{name}.wav"} for name in "ab"]
    hits[:0] = [hits[0] | {"path": path} for path in ("/m/lost.wav", "/m/stays.wav", None)]
    fake("search", [{"query": "a.wav", "hits": hits}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "xdg-open").write_text(OPENER)
    (tmp_path / "xdg-open").chmod(0o755)
    words = ["search", "a.wav", "--index", "v.npz", "--json", "--open"]
    assert main([*words, "4"]) == 0
    out, err = capfd.readouterr()
    assert (tmp_path / "opened").read_text().split() == ["/m/lost.wav", "/m/stays.wav", "/m/a.wav"]
    assert len(out.splitlines()) == 1 and json.loads(out)["hits"] == hits  # the opener's noise is not ours
    assert err.splitlines() == [
        "opens /m/lost.wav",
        "warning: /m/lost.wav could not be opened: xdg-open found no program for it, or it failed (exit code 3)",
        "opens /m/stays.wav",
        "warning: a.wav is not a separate file on this disk",
        "opens /m/a.wav",
    ]
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert main([*words, "1"]) == 0
    assert "could not be opened: xdg-open: No such file" in capfd.readouterr().err


RESULT = {"task": "folder", "protocol": "linear", "checkpoint": "runs/x", "metric": "accuracy", "value": 0.5,
          "ci95": [0.4, 0.6], "n_train": 80, "n_test": 20, "seed": 1}  # fmt: skip


def test_eval_hands_over_every_option(fake, capsys) -> None:
    double = fake("evaluate", RESULT)
    code = main(
        "eval --task folder --data d --protocol linear --pool segments --folds 4 --group-by _(.)_ --checkpoint random "
        "--preset audio-tiny --seed 1 --seeds 3 --max-missing 0.2 --workers 2 --device cpu --json "
        "--views 5x3 --finetune esc50 --out o --overwrite --labels l.csv".split()
    )
    assert code == 0
    assert double.arguments == (Path("d"),)
    double.options.pop("on_event")
    assert double.options == {
        "task": "folder",
        "protocol": "linear",
        "pool": "segments",
        "folds": 4,
        "test_share": None,
        "split_file": None,
        "group_by": "_(.)_",
        "checkpoint": "random",
        "recipe": api.Recipe(preset="audio-tiny"),
        "seed": 1,
        "seeds": 3,
        "labels": "l.csv",
        "views": (5, 3),
        "finetune": "esc50",
        "out": Path("o"),
        "overwrite": True,
        "max_missing": 0.2,
        "workers": 2,
        "device": "cpu",
    }
    assert json.loads(capsys.readouterr().out) == RESULT


def test_export_hands_over_every_option(fake, capsys) -> None:
    answer = {"format": "safetensors", "out": "e", "files": ["model.safetensors"], "parity": 0.0}
    double = fake("export", answer)
    given = "--format onnx --out e --part encoder --dtype int8 --opset 18 --data clips --overwrite --json"
    assert main(["export", "runs/x", *given.split()]) == 0
    assert double.arguments == (Path("runs/x"),)
    double.options.pop("on_event")
    assert double.options == {
        "format": "onnx",
        "out": Path("e"),
        "part": "encoder",
        "dtype": "int8",
        "opset": 18,
        "data": Path("clips"),
        "overwrite": True,
    }
    assert json.loads(capsys.readouterr().out) == answer
