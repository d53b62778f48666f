"""`bridle config validate`, `bridle config diff` and `bridle init`, as somebody types them."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Inline

from bridle import api, config
from bridle.archive import merge_extent
from bridle.init_config import choice
from bridle.inputs import find_sets
from bridle_cli.main import main


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of each kind, of a dozen clips."""
    root = tmp_path_factory.mktemp("sets")
    media = Path(__file__).parents[1] / "media"
    for modality in ("audio", "image", "video"):
        files = sorted(path for path in (media / modality).rglob("*.*") if path.is_file())
        for number, path in enumerate(files[:: len(files) // 12][:12]):
            target = root / "raw" / modality / path.parent.name / f"{number}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    with pytest.MonkeyPatch.context() as patch:  # in this process
        patch.setattr(importlib.import_module("bridle.sharding.build"), "Workers", Inline)
        for modality in ("audio", "image", "video"):
            api.shard(root / "raw" / modality, modality=modality, out=root / modality)
    os.mkfifo(root / "pipe")
    return root


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


def test_validate_says_in_a_line_what_a_file_comes_to(tmp_path: Path, capsys) -> None:
    good = write(tmp_path / "good.yaml", "extends: audio-tiny\noptim: {lr: 1e-4}\n")
    assert main(["config", "validate", good, "--set", "mask.ratio=0.5"]) == 0
    assert capsys.readouterr() == (f"{good}: ok, audio-tiny (audio), 2.1 M parameters\n", "")
    assert main(["config", "validate", good, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"file": good, "preset": "audio-tiny", "modality": "audio", "parameters": 2103952}


def test_validate_reports_all_mistakes_of_all_files(tmp_path: Path, capsys) -> None:
    one = write(tmp_path / "one.yaml", "extends: audio-tiny\noptim:\n  lr: fast\nmaks:\n  ratio: 0.5\n")
    two = write(tmp_path / "two.yaml", "extends: audio-tny\n")
    good = write(tmp_path / "good.yaml", "extends: image-tiny\n")
    bare = write(tmp_path / "bare.yaml", "mask: {ratio: most}\n")
    assert main(["config", "validate", one, good, two, str(tmp_path / "three.yaml"), bare]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    for said in (
        f"optim.lr ({one}:3): expected a number",
        f"maks.ratio ({one}:5): unknown key; did you mean 'mask.ratio'",
        f"extends ({two}:1): there is no preset 'audio-tny'; did you mean 'audio-tiny'",
        "three.yaml: No such file",
        f"mask.ratio ({bare}:1): expected a number",
        "the configuration names no modality",
    ):
        assert said in err
    assert "good.yaml" not in err and "Traceback" not in err
    assert err.count("prints every key") == 3 and err.index("prints every key") < err.index(two)


def test_validate_looks_at_the_shards(sets: Path, tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "long.yaml", "extends: audio-tiny\npatches: {frames: 640}\n")
    assert main(["config", "validate", file, "--shards", str(sets / "audio")]) == 0
    out, err = capsys.readouterr()
    assert "12 clips, 12 per step" in out and "steps" in out
    assert "patches.frames 640: more than the clips have" in err
    assert "the batch size is 12, not 64" in err
    assert main(["config", "validate", file, "--shards", str(sets / "image")]) == 4
    assert main(["config", "validate", file, "--shards", str(tmp_path / "none")]) == 4
    assert list(tmp_path.iterdir()) == [Path(file)]


def test_diff_of_presets_files_and_runs(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write(run / "config.yaml", config.dump(config.load("audio-tiny", sets=["optim.lr=0.5", "tokenizer.depth=null"])))
    assert main(["config", "diff", "audio-tiny", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == [
        {"key": "tokenizer.depth", "a": 2, "b": None},
        {"key": "optim.lr", "a": 0.001, "b": 0.5},
    ]
    assert main(["config", "diff", str(run), str(run / "config.yaml")]) == 0
    assert capsys.readouterr() == ("", "no differences\n")
    assert main(["config", "diff", "audio-tiny", "image-tiny"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["patches.modality", "audio", "image"] in rows and ["patches.rate_hz", "16000"] in rows
    for wrong in ("audio-tny", str(tmp_path / "nothing.yaml"), str(tmp_path)):
        assert main(["config", "diff", "audio-tiny", wrong]) == 3
        assert capsys.readouterr().err.startswith("error: ")


def test_a_run_of_an_older_version_gets_no_preset_below_it(tmp_path: Path) -> None:
    small = config.load("audio-small").model_dump(mode="json")
    del small["mask"]
    file = Path(write(tmp_path / "config.yaml", json.dumps(small)))
    assert api.Recipe(file=file).load()[1] == "audio-tiny"
    write(tmp_path / "state.json", "{}")
    for place in (file, tmp_path):
        assert api.Recipe(file=place).load() == (config.load(file=file), "")


def test_a_run_stands_for_its_configuration(tmp_path: Path, capsys) -> None:
    write(tmp_path / "config.yaml", config.dump(config.load("image-tiny", sets=["optim.lr=0.5"])))
    assert main(["config", "show", "--config", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optim"]["lr"] == 0.5


@pytest.mark.parametrize("modality", ["audio", "image", "video"])
def test_init_writes_what_validates_and_keeps_what_the_preset_would_do(
    sets: Path, modality: str, tmp_path: Path, capsys
) -> None:
    file, shards = tmp_path / "new" / "bridle.yaml", str(sets / modality)
    assert main(["init", "--shards", shards, "--out", str(file), "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["preset"] == f"{modality}-tiny" and told["samples"] == 12 and told["step_ms"] == {}
    assert f"bridle pretrain --config {file} --shards {shards}" in err
    loaded = config.load(file=file)
    adapted = config.load(f"{modality}-tiny", extent=merge_extent(find_sets(sets / modality)))
    assert config.differences(adapted, loaded) == [
        {"key": "optim.batch_size", "a": adapted.optim.batch_size, "b": 2}  # of 12 clips
    ]
    lines = file.read_text().splitlines()
    assert "12 clips" in lines[2] and max(map(len, lines)) <= 120
    assert sum(line.lstrip().startswith("#") for line in lines) > 10
    assert main(["config", "validate", str(file), "--shards", shards]) == 0
    out, err = capsys.readouterr()
    assert f"{modality}-tiny" in out and f"{told['steps']} steps" in out and err == ""


def test_init_fits_the_schedule_to_a_time_and_the_file_trains(sets: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(choice, "_TIMED_MINUTES", 0.01)
    monkeypatch.chdir(tmp_path)
    begin = ["init", "--shards", str(sets / "image"), "--minutes", "3", "--device", "cpu"]
    assert main([*begin, "--json", "--verbose"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert "at least one of each phase" in err and "timed steps 2/?" in err
    plan = api.pretrain(sets / "image", recipe=api.Recipe(file=Path("bridle.yaml")), device="cpu", dry_run=True)
    assert told["step_ms"].keys() == {"cold", "tokenizer"} and plan["steps"] == told["steps"]
    seconds = sum(phase["steps"] * told["step_ms"][phase["name"]] for phase in plan["phases"]) / 1000
    assert seconds == pytest.approx(180, rel=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["bridle.yaml"]

    before = Path("bridle.yaml").read_bytes()
    assert main(begin) == 2
    assert "bridle.yaml already exists" in capsys.readouterr().err
    assert Path("bridle.yaml").read_bytes() == before
    assert main(["pretrain", "--config", "bridle.yaml", "--shards", str(sets / "image"), "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--shards", "nowhere"], 4),
        (["--shards", "SETS"], 4),  # of several modalities
        (["--shards", "SETS/audio", "--preset", "image-tiny"], 3),
        (["--shards", "SETS/audio", "--preset", "audio-tny"], 3),
        (["--shards", "SETS/audio", "--out", "."], 2),
        (["--shards", "SETS/audio", "--out", "/proc/bridle.yaml"], 5),
        (["--shards", "SETS/audio", "--out", "SETS/pipe", "--overwrite"], 5),
        (["--shards", "SETS/audio", "--minutes", "0"], 2),
        (["--shards", "SETS/audio", "--minutes", "1e6"], 2),  # more than a year: before steps are timed
    ],
)
def test_init_refuses_and_leaves_nothing(arguments, code, sets: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", *(word.replace("SETS", str(sets)) for word in arguments)]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "Traceback" not in err and "timing" not in err
    assert list(tmp_path.iterdir()) == []


def test_init_keeps_links_and_says_whose_modality_and_what_is_no_folder(
    sets: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = ["init", "--shards", str(sets / "audio"), "--device", "cpu"]
    assert main([*begin, "--preset", "image-tiny"]) == 3
    assert "Preset 'image-tiny' is for image, and these shards are audio" in capsys.readouterr().err
    link, target = Path("link.yaml"), Path("there.yaml")
    link.symlink_to(target)
    assert main([*begin, "--out", "link.yaml"]) == 2 and not target.exists()
    assert "link.yaml already exists" in capsys.readouterr().err
    assert main([*begin, "--out", "link.yaml", "--overwrite"]) == 0
    assert link.is_symlink() and "extends: audio-tiny" in target.read_text()
    assert main([*begin, "--out", "there.yaml/more.yaml"]) == 5
    assert "there.yaml is not a folder" in capsys.readouterr().err


def test_a_gpu_and_more_clips_choose_a_larger_preset() -> None:
    import torch

    gpu = torch.device("cuda")
    chosen = [choice._preset("video", samples, gpu)[0] for samples in (9_999, 10_000, 199_999, 200_000)]
    assert chosen == ["video-tiny", "video-small", "video-small", "video-base"]
    assert choice._preset("video", 200_000, torch.device("cpu"))[0] == "video-tiny"
    assert [choice._batch_size(64, samples) for samples in (1, 3, 12, 63, 64, 255, 256)] == [1, 1, 2, 8, 16, 32, 64]


def test_a_file_without_extends_is_read_as_pretrain_reads_it(sets: Path, tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "p.yaml", "patches: {modality: audio}\noptim: {lr: 2e-3}\n")
    assert main(["config", "validate", file]) == 0
    assert capsys.readouterr().out == f"{file}: ok, audio-tiny (audio), 2.1 M parameters\n"
    assert main(["config", "show", "--config", file]) == 0
    assert capsys.readouterr().out.startswith("extends: audio-tiny\n")
    assert main(["config", "diff", "audio-tiny", file, "--json"]) == 0
    assert [row["key"] for row in json.loads(capsys.readouterr().out)["differences"]] == ["optim.lr"]
    plan = api.pretrain(sets, recipe=api.Recipe(file=Path(file)), device="cpu", dry_run=True)  # beside other sets
    assert (plan["preset"], plan["modality"]) == ("audio-tiny", "audio")
    bare = write(tmp_path / "bare.yaml", "optim: {lr: 2e-3}\n")
    assert main(["config", "validate", bare]) == 3
    assert "--shards" in capsys.readouterr().err
    assert main(["config", "validate", bare, "--shards", str(sets / "image")]) == 0
    assert "ok, image-tiny (image)" in capsys.readouterr().out


def test_a_complete_file_is_known_by_what_it_was_made_from(sets: Path, tmp_path: Path, capsys) -> None:
    assert main(["config", "show", "--preset", "audio-small"]) == 0
    text = capsys.readouterr().out
    for given, preset in ((text, "audio-small"), (text.partition("\n")[2], "")):
        file = Path(write(tmp_path / "big.yaml", given))
        plan = api.pretrain(sets / "audio", recipe=api.Recipe(file=file), device="cpu", dry_run=True)
        assert plan["preset"] == preset and sum(plan["parameters"].values()) > 40e6
        assert f"audio-{'small' if preset else 'custom'}" in plan["run"]
        assert config.differences(api.Recipe(file=file).load()[0], config.load("audio-small")) == []
    assert api.Recipe(preset="audio-tiny", file=file).load()[1] == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: {lr: 1}\nmask: {ratio: 0.5}\noptim: {depth: 2}\n", "optim (FILE:1 and FILE:3): given twice"),
        ("optim:\n  lr: 1\n  lr: 2\n", "optim.lr (FILE:2 and FILE:3): given twice"),
        ("a: &a {b: *a}\n", "FILE:1: not valid YAML: an alias"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\n", "FILE:1: not valid YAML: an alias"),
        ("optim: !mine {lr: 1}\n", "optim (FILE:1): has the tag !mine"),
        ("optim: {lr: !!python/object/apply:os.system [ls]}\n", "FILE:1: not valid YAML: could not determine"),
        ("optim: {lr: 2024-13-45}\n", "FILE:1: not valid YAML: '2024-13-45' is not a valid timestamp"),
        ('mask: {}\noptim: {batch_size: !!int ""}\n', "FILE:2: not valid YAML: '' is not a valid int"),
        ('optim: {lr: !!float ""}\n', "'' is not a valid float"),
        ("data: {cache_gb: !!bool maybe}\n", "'maybe' is not a valid bool"),
        ("data: {cache_gb: !!timestamp abc}\n", "'abc' is not a valid timestamp"),
        ('optim: {!!int "": 1}\n', "'' is not a valid int"),
        (f"optim: {{lr: 1{':1' * 400}.0}}\n", "(805 characters) is not a valid float"),
        (f"optim: {{batch_size: -0x{'f' * 6000}}}\n", "(6,005 characters) is not a valid int"),
        ('optim: {lr: "\\UFFFFFFFF"}\n', "FILE: not valid YAML: Python int too large"),
        ("a: " + "[" * 5000, "nested too deep"),
    ],
)
def test_yaml_that_means_two_things_or_harm_is_refused(text: str, said: str, tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "bad.yaml", text)
    assert main(["config", "show", "--preset", "audio-tiny", "--config", file]) == 3
    out, err = capsys.readouterr()
    assert out == "" and said.replace("FILE", file) in err and len(err) < 500


def test_one_value_may_have_a_name(tmp_path: Path) -> None:
    file = write(tmp_path / "rates.yaml", "extends: audio-tiny\noptim: {lr: &rate 2e-3, tokenizer_lr: *rate}\n")
    assert config.load(file=Path(file)).optim.tokenizer_lr == 2e-3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["diff", "audio-tny", "audio-tiny"], "did you mean 'audio-tiny'"),
        (["diff", "audio-tiny", "."], "is a folder without config.yaml, so neither a run"),
        (["show", "--preset", "qqq"], "known: audio-base"),
        (["show", "--preset", "audio-tiny", "--set", "qqq.zzz=1"], "known: data, encoder, mask"),
    ],
)
def test_messages_are_short_and_name_what_is_near(arguments, said, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["config", *arguments]) == 3
    err = capsys.readouterr().err
    assert said in err and err.count("audio-base") <= 1 and len(err) < 500


def test_a_schedule_without_end_is_a_mistake_of_the_configuration(sets: Path, tmp_path: Path, capsys) -> None:
    file = write(tmp_path / "long.yaml", "extends: audio-tiny\nschedule: {cold: 1e12}\n")
    assert main(["config", "validate", file, "--shards", str(sets / "audio")]) == 3
    assert "steps by schedule (turns, cold" in capsys.readouterr().err


def test_init_speaks_of_one_clip_in_the_singular(sets: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.import_module("bridle.sharding.build"), "Workers", Inline)  # in this process
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copy(min((sets / "raw" / "image").rglob("*.*")), raw)
    api.shard(raw, modality="image", out=tmp_path / "one")
    api.init(tmp_path / "one", out=tmp_path / "bridle.yaml", device="cpu")
    text = " ".join((tmp_path / "bridle.yaml").read_text().replace("#", "").split())
    assert "1 clip of image in 1 set" in text and "Epochs of 1 step" in text
    assert "(the minimum" in text and "fewer than four steps" not in text


def test_a_file_name_stays_in_its_line(tmp_path: Path, capsys) -> None:
    assert main(["config", "validate", write(tmp_path / "a\nb.yaml", "extends: image-tiny\n")]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_init_says_what_it_did_to_the_batch_and_where_bands_are_empty(sets: Path, tmp_path: Path, capsys) -> None:
    shards, out = str(sets / "audio"), str(tmp_path / "bridle.yaml")
    assert main(["init", "--shards", shards, "--out", out, "--device", "cpu", "--preset", "audio-base"]) == 0
    text = " ".join(Path(out).read_text().replace("#", "").split())
    assert "learning rates are still the preset's" in text
    assert "Mel bands end at 8000 Hz" in text and "have a rate of 8000 Hz or less" in text
    assert "upper bands of those are empty" in text
    assert main(["init", "--shards", shards, "--out", out, "--device", "cpu", "--overwrite"]) == 0
    text = " ".join(Path(out).read_text().replace("#", "").split())
    assert "Mel bands end at 4000 Hz" in text and "empty" not in text
    assert main(["init", "--shards", shards, "--out", "-"]) == 2
    assert main(["init", "--shards", shards, "--out", "/proc/x/bridle.yaml", "--device", "cpu"]) == 5
    assert "/proc/x/bridle.yaml cannot be written" in capsys.readouterr().err
    assert main(["init", "--shards", str(tmp_path / "none"), "--out", str(tmp_path / "new" / "bridle.yaml")]) == 4
    assert not (tmp_path / "new").exists()
