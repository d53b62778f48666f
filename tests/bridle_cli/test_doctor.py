"""What the doctor finds on this machine, and on one where things are broken."""

from __future__ import annotations

import json
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
    assert main(["doctor"]) == 5
    out, err = capsys.readouterr()
    assert "crashed (SIGSEGV)" in out and "no such library" in out and "--force-reinstall" in out
    assert "Something would fail: decodes audio, decodes image" in err


def test_what_is_short_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(doctor, "_LEAST_DISK_GB", 10**9)
    monkeypatch.setattr(doctor, "_LEAST_FILES", 10**9)
    disks = list(doctor._disks())
    assert [one.status for one in disks] == ["warning", "fault"] and "free some space" in disks[0].remedy
    (files,) = [one for one in doctor._limits() if one.check == "open files"]
    assert files.status == "warning" and files.remedy.startswith("ulimit -n")
