"""Results on stdout, everything else on stderr; plain when nobody looks."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from bridle_cli import progress as progress_module
from bridle_cli.console import Console, duration, printable
from bridle_cli.progress import PretrainProgress, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_has_no_nan_and_takes_paths_and_arrays(capsys) -> None:
    import numpy as np

    Console().record(
        {"a": float("nan"), "b": Path("x"), "c": np.arange(2), "d": (np.float32(0.5), True), "e": "\udce4"}
    )
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"a": None, "b": "x", "c": [0, 1], "d": [0.5, True], "e": "\udce4"}


def test_table_keeps_long_names_and_brackets_and_has_no_colour_in_a_pipe(capsys) -> None:
    name = "[bold]" + 100 * "x" + ".wav"
    Console().table(["file", "level"], [[name, 1]])
    out, err = capsys.readouterr()
    assert name in out
    assert "\x1b" not in out
    assert err == ""


def test_newline_in_a_name_stays_in_its_row(capsys) -> None:
    Console().table(None, [["file", "a\nb"]])
    assert capsys.readouterr().out.strip() == "file  a\\nb"


def test_quiet_keeps_warnings(capsys) -> None:
    console = Console()
    console.quiet = True
    console.note("by the way")
    console.warn("look here")
    assert capsys.readouterr() == ("", "warning: look here\n")


@pytest.mark.parametrize(("no_color", "painted"), [(None, True), ("1", False)])
def test_colour_on_a_terminal_unless_no_color(monkeypatch, no_color, painted) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    Console().warn("look here")
    assert ("\x1b[33m" in sys.stderr.getvalue()) is painted


def test_progress_in_a_pipe_is_a_line_now_and_then(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    with Progress(Console()) as progress:
        for done in range(1, 41):
            clock[0] += 1.0
            progress("progress", done=done, total=1000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"files {done}/1000" for done in (10, 20, 30, 40)]


def test_progress_says_the_last_one_at_once(capsys) -> None:
    with Progress(Console()) as progress:
        progress("progress", done=1, total=2)
        progress("progress", done=2, total=2)
    assert capsys.readouterr().err == "files 2/2\n"


def test_pretraining_shows_phase_loss_speed_usage_and_time(capsys) -> None:
    with PretrainProgress(Console()) as progress:
        progress("run", path="runs/x")
        assert progress.run is None  # nothing there yet that could be resumed
        progress("start", phases=[{}, {}], samples=3000, parameters={"encoder": 1_000_000, "predictor": 250_000}, lr=1)
        progress("step", phase="tokenizer", phase_index=1, step=25, done=1.0, loss=0.51234, clips_per_s=321.4,
                 eta_s=75.2, usage=[1.0, 0.955], lr=1e-3)  # fmt: skip
        progress("warning", message="3 clips could not be read")
        progress("something new", field=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert progress.run == "runs/x"
    assert err.splitlines() == [
        "runs/x: 3000 clips, 1.2 M parameters, 2 phases",
        "2/2 tokenizer step 25  100 %  loss 0.512  321 clips/s  codes in use 100 96 %  1:15 left",
        "warning: 3 clips could not be read",
    ]


def test_progress_draws_bars_on_a_terminal(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    with Progress(Console()) as progress:
        progress("progress", done=3, total=4, what="files")
    shown = sys.stderr.getvalue()
    assert "3/4" in shown
    assert "files" in shown


def test_quiet_shows_no_progress(capsys) -> None:
    console = Console()
    console.quiet = True
    with Progress(console) as progress:
        progress("progress", done=2, total=2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (3723, "1:02:03")])
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


def test_printable_keeps_letters_of_all_languages() -> None:
    assert printable("größe 音\t\x07") == "größe 音\\t\\x07"
