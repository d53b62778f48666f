"""Readers that leave and disks that are full: what of it ends a command, and with which code."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest
from standins import SMALL_RUN

from bridle import api
from bridle.errors import DataError
from bridle_cli.main import main
from bridle_cli.streams import guarded


def broken(how: str) -> TextIO:
    """A stream that nobody reads any more, or on a full disk."""
    if how == "full":
        return open("/dev/full", "w")
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


@pytest.mark.parametrize("how", ["unread", "full"])
@pytest.mark.parametrize(
    ("error", "code"), [(DataError("no shards", "make some"), 4), (KeyboardInterrupt(), 130), (ZeroDivisionError(), 1)]
)
def test_what_cannot_be_told_ends_no_work_and_changes_no_code(how: str, error, code: int, monkeypatch) -> None:
    told = []

    def shard(*_: object, on_event: Any, **__: object) -> None:
        for kind in ("note", "warning", "detail"):
            on_event(kind, message="x" * 10_000)
            told.append(kind)
        on_event("progress", done=1, total=1)
        sys.stderr.write("a library has its say\n")
        raise error

    monkeypatch.setattr(api, "shard", shard)
    monkeypatch.setattr(sys, "stderr", broken(how))
    assert main(["shard", "x", "--verbose", "--debug"]) == code
    assert told == ["note", "warning", "detail"]


@pytest.mark.parametrize(
    "arguments", ["config diff audio-tiny audio-small", "config diff audio-tiny audio-small --json", "--help"]
)
@pytest.mark.parametrize(("how", "code"), [("unread", 0), ("full", 5)])
def test_a_result_that_nobody_takes(arguments: str, how: str, code: int, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", broken(how))
    assert main(arguments.split()) == code
    err = capsys.readouterr().err
    assert err == "" if not code else "cannot be written to stdout: No space left" in err and "--resume" not in err


def test_a_broken_pipe_of_anything_else_is_an_error(monkeypatch, capsys) -> None:
    def doctor() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(api, "doctor", doctor)
    assert main(["doctor"]) == 5
    assert capsys.readouterr().err == "error: Broken pipe\n"


@pytest.mark.parametrize("how", ["unread", "full"])
def test_a_process_keeps_its_code(how: str) -> None:
    with broken(how) as nowhere:
        command = [sys.executable, "-m", "bridle_cli", "config", "diff", "audio-tiny", "nope"]
        assert subprocess.run(command, stdout=nowhere, stderr=nowhere).returncode == 3


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # click writes bytes where stdout is ASCII
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_once(unbuffered: str, encoding: str) -> None:
    with broken("full") as full:
        command = [sys.executable, "-m", "bridle_cli", "--version"]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 5 and done.stderr.startswith("error: The result cannot be written to stdout")
    assert "ignored" not in done.stderr


def test_the_caller_keeps_its_own_stream(monkeypatch) -> None:
    stream = broken("full")
    monkeypatch.setattr(sys, "stdout", stream)
    before = len(os.listdir("/proc/self/fd"))
    assert main(["--version"]) == 5
    assert sys.stdout is stream and os.path.samestat(os.fstat(stream.fileno()), os.stat("/dev/full"))
    assert len(os.listdir("/proc/self/fd")) <= before


class Bare:
    """A caller's stream that can do the least; it fails from the given write on."""

    encoding = "utf-8"

    def __init__(self, fails_at: int = 1000) -> None:
        self.writes, self._fails_at = 0, fails_at

    def write(self, text: str) -> None:
        self.writes += 1
        if self.writes >= self._fails_at:
            raise OSError(errno.EIO, "gone")


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("make", [Bare, closed])
def test_any_stream_of_the_caller_gives_a_code(name: str, make: Callable[[], Any], monkeypatch) -> None:
    monkeypatch.setattr(sys, name, make())
    assert [main(words.split()) for words in ("config diff audio-tiny audio-small", "--help", "shrad")] == [0, 0, 2]


def test_a_stream_that_has_failed_is_given_nothing_more(monkeypatch) -> None:
    stream = Bare(fails_at=1)
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["shrad"]) == 2 and stream.writes == 1


def test_within_a_command_stdout_is_a_text_stream(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with guarded(ends=False):
        assert isinstance(sys.stdout, io.TextIOBase) and not sys.stdout.isatty()
        copy.copy(sys.stdout).write("a")
        with sys.stdout:
            sys.stdout.writelines(["b", "c"])
    assert stream.getvalue() == "abc"


@pytest.mark.usefixtures("one_thread")
def test_a_run_comes_to_its_end_unheard(shards: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    small = [word for one in SMALL_RUN for word in ("--set", one)]
    command = ["pretrain", "--shards", str(shards), "--device", "cpu", "--preset", "image-tiny", "--steps", "3", *small]
    monkeypatch.setattr(sys, "stderr", broken("unread"))
    assert main([*command, "--verbose", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert json.loads((tmp_path / "run" / "state.json").read_text())["status"] == "complete"
