"""Results on stdout, everything else on stderr; plain when nobody looks."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridle_cli import progress as progress_module
from bridle_cli.console import Console, duration, printable
from bridle_cli.main import main
from bridle_cli.progress import PretrainProgress, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_results_for_a_file_do_not_go_above_the_bars() -> None:
    code = """
from bridle_cli.console import Console
from bridle_cli.progress import Progress
console = Console(["--json"])
with Progress(console) as progress:
    progress("progress", done=1, total=2)
    console.record({"file": "clip.wav"})
"""
    terminal, end = pty.openpty()
    environment = {"TERM": "xterm", **{name: os.environ[name] for name in os.environ if name != "TERM"}}
    done = subprocess.run([sys.executable, "-c", code], stdout=-1, stderr=end, env=environment, check=True)
    os.close(end)
    assert done.stdout == b'{"file": "clip.wav"}\n'
    assert b"1/2" in os.read(terminal, 10_000)
    os.close(terminal)


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
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
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


def test_verbose_shows_every_event_details_and_how_long_each_stage_took(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    for verbose in (False, True):
        console = Console()
        console.verbose, clock[0] = verbose, 0.0
        with Progress(console) as progress:
            progress("detail", message="reads a set")
            for done in (1, 2, 3):
                clock[0] += 1.0
                progress("progress", done=done, total=None, what="files")
            progress("progress", done=1, total=None, what="tars")
            clock[0] += 2.0
    assert capsys.readouterr().err.splitlines() == [
        "reads a set", "files 1/?", "files 2/?", "files 3/?", "tars 1/?",
        "before that: 1.00 s", "files: 2.00 s", "tars: 2.00 s",
    ]  # fmt: skip


def test_verbose_changes_every_command_and_says_with_what(capsys) -> None:
    assert main(["config", "show", "--preset", "audio-tiny"]) == 0
    plain = capsys.readouterr()
    assert main(["config", "show", "--preset", "audio-tiny", "--verbose"]) == 0
    told = capsys.readouterr()
    assert told.out == plain.out and plain.err == ""
    assert re.search(r"^bridle \S+, Python 3\.\S+, .*\d\.\d\d s, \d+ MB at most$", told.err, re.MULTILINE)
    assert main(["config", "show", "--preset", "audio-tny", "--verbose"]) == 3  # and when something goes wrong
    assert "Python 3." in capsys.readouterr().err


SHOW = """
import sys
from bridle_cli.console import Console
from bridle_cli.progress import Progress
console = Console()
console.warn("look here")
console.table(["file"], [["a.wav"]])
with Progress(console) as progress:
    for done in range(1, 4):
        progress("progress", done=done, total=3, what="files")
"""
MOVES = re.compile(r"\x1b\[[0-9;?]*[A-HJKSThl]|\r(?!\n)")  # of the cursor; colours end in m
LINES = ["warning: look here", "file", "a.wav", "files 3/3"]


def seen(where: str, **environment: str) -> str:
    """What a child writes to a terminal (80 columns wide) or a pipe."""
    names = ("NO_COLOR", "FORCE_COLOR", "TERM", "JPY_PARENT_PID", "COLORTERM", "CI")
    env = {name: value for name, value in os.environ.items() if name not in names} | environment
    child = [sys.executable, "-c", SHOW]
    if where == "pipe":
        return subprocess.run(child, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    ours, its = pty.openpty()
    with subprocess.Popen(child, env=env, stdout=its, stderr=its, stdin=its):
        os.close(its)
        parts = []
        while True:
            try:
                parts.append(os.read(ours, 4096))
            except OSError:  # so a terminal's end is said on Linux
                break
            if not parts[-1]:
                break
    os.close(ours)
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("where", "environment", "coloured", "moves"),
    [
        ("terminal", {"TERM": "xterm-256color"}, True, True),
        ("terminal", {"TERM": "xterm-256color", "NO_COLOR": "1"}, False, True),
        ("terminal", {"TERM": "dumb"}, False, False),
        ("terminal", {"TERM": "xterm-color", "FORCE_COLOR": "1", "JPY_PARENT_PID": "1"}, False, False),  # !bridle
        ("pipe", {"TERM": "xterm-256color"}, False, False),
        ("pipe", {"CI": "true"}, False, False),
        ("pipe", {"TERM": "xterm-256color", "FORCE_COLOR": "1"}, True, False),
        ("pipe", {"TERM": "xterm-256color", "FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ("pipe", {"TERM": "xterm-256color", "FORCE_COLOR": "0"}, False, False),
        ("terminal", {"TERM": "xterm-256color", "FORCE_COLOR": "0"}, False, True),
    ],
)
def test_what_terminals_pipes_and_notebooks_get(where, environment, coloured, moves) -> None:
    text = seen(where, **environment)
    assert bool(re.search(r"\x1b\[(\d+;)*3\dm", text)) is coloured
    assert bool(MOVES.search(text)) is moves
    if not moves:
        bare = re.sub(r"\x1b\[[\d;]*m", "", text).replace("─", "").splitlines()
        assert [line.strip() for line in bare if line.strip()] == LINES
    if environment.get("NO_COLOR") != "1" and not coloured and not moves:
        assert "\x1b" not in text
