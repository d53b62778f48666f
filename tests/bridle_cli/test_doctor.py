"""What the doctor finds on this machine, and on one where things are broken."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bridle import doctor
from bridle_cli.main import main


def test_a_sound_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert {"python", "torch", "decodes audio", "decodes image", "decodes video", "CPU", "disk here"} <= {*found}
    assert all(one["status"] in ("ok", "note", "warning") for one in found.values())
    assert found["decodes audio"]["found"].startswith("(16000,)") and "(3, 48, 64)" in found["decodes image"]["found"]
    assert found["decodes video"]["found"].startswith("(24, 3, 48, 64)")


def test_decoders_that_crash_or_complain_are_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    clips = {"audio": crash, "image": "raise ImportError('no such library')\n", "video": doctor._CLIPS["video"]}
    monkeypatch.setattr(doctor, "_CLIPS", clips)
    for others in ("_packages", "_extras"):
        monkeypatch.setattr(doctor, others, list)
    assert main(["doctor"]) == 5
    out, err = capsys.readouterr()
    assert "crashed (SIGSEGV)" in out and "no such library" in out and "--force-reinstall" in out
    assert "Checks failed: decodes audio, decodes image" in err


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a package that is found before the real one: its code and, if given, its version."""

    def make(name: str, code: str, version: str = "") -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
        if version:
            about = tmp_path / f"{name}-{version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            (about / "top_level.txt").write_text(f"{name}\n")

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(tmp_path)
    return make


def test_packages_that_do_not_load_or_fit_are_told(fake: Callable[..., None]) -> None:
    fake("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')\n")
    fake("webdataset", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    fake("soundfile", "print('noise')\n", "9.1")
    found = {one.check: one for one in doctor._packages()}
    assert found["torchvision"].status == found["webdataset"].status == "fault"
    assert "torchvision::nms" in found["torchvision"].found and "SIGSEGV" in found["webdataset"].found
    again = found["torchvision"].remedy.split("'")
    assert again[0] == "pip install --force-reinstall " and again[1].startswith("torch<")
    assert again[3].startswith("torchvision<") and again[5].startswith("torchaudio<")
    assert found["soundfile"].status == "warning" and "9.1, tried with" in found["soundfile"].found
    assert found["soundfile"].remedy.startswith("pip install 'soundfile<1") and found["rich"].status == "ok"


def test_only_found_and_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(importlib.metadata, "requires", missing)
    found = [*doctor._packages(), *doctor._extras()]
    assert [(one.check, one.status) for one in found] == [("python", "ok"), ("bridle", "fault")]
    assert "pip install -e ." in found[1].remedy


def test_an_extra_is_all_of_its_packages(fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_EXTRAS", ("onnx", "parquet", "search"))
    fake("onnxscript", "raise ImportError('cannot import name')\n", "0.7.5")
    fake("pyarrow", "", "1.0")
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "faiss-cpu" else real(name))
    onnx, parquet, search = doctor._extras()
    assert onnx.status == "fault" and "onnxscript 0.7.5 cannot be imported: ImportError: cannot import" in onnx.found
    assert "--force-reinstall 'bridle[onnx]'" in onnx.remedy
    assert (parquet.status, parquet.found[:24]) == ("warning", "pyarrow 1.0, tried with ")
    assert (search.status, search.found) == ("note", "faiss-cpu is missing")


def test_every_extra_for_users_is_looked_at() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    assert {*doctor._EXTRAS} == {*setup["options.extras_require"]} - {"bench", "docs", "test", "dev"}


def test_what_is_short_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(doctor, "_LEAST_DISK_GB", 10**9)
    monkeypatch.setattr(doctor, "_LEAST_FILES", 10**9)
    disks = list(doctor._disks())
    assert [one.status for one in disks] == ["warning", "fault"] and "free some space" in disks[0].remedy
    (files,) = [one for one in doctor._limits() if one.check == "open files"]
    assert files.status == "warning" and files.remedy.startswith("ulimit -n")
