"""Exit codes, messages and streams: what scripts and people rely on, whatever the command."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import forks
import pages
import pytest
from standins import small

import bridle
from bridle import api, errors
from bridle.checkpoint import save_model, snapshot
from bridle_cli.main import main


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Makes `bridle shard x` raise the given exception."""

    def install(error: BaseException) -> None:
        def shard(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(api, "shard", shard)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("out exists", "choose another"), 2),
        (errors.ConfigError("no such key"), 3),
        (errors.DataError("no shards"), 4),
        (errors.MediaError("not a wav"), 4),
        (errors.EnvironmentFault("no GPU"), 5),
        (errors.NumericalError("loss is nan"), 6),
        (OSError(errno.ENOSPC, "No space left on device", "x.tar"), 5),
        (PermissionError(errno.EACCES, "Permission denied", "x.tar"), 5),
        (ModuleNotFoundError("No module named 'av'", name="av"), 5),
        (MemoryError(), 5),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division by zero"), 1),
        (ModuleNotFoundError("No module named 'bridle.x'", name="bridle.x"), 1),
    ],
)
def test_each_kind_of_failure_has_its_code_and_no_traceback(failing, capsys, error, code) -> None:
    failing(error)
    assert main(["shard", "x"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_message_and_hint_are_both_shown(failing, capsys) -> None:
    failing(errors.DataError("no shards below [shards]", "bridle shard RAW --modality audio"))
    main(["shard", "x"])
    assert capsys.readouterr().err == "error: no shards below [shards]\nbridle shard RAW --modality audio\n"


def test_full_disk_names_the_file(failing, capsys) -> None:
    failing(OSError(errno.ENOSPC, "No space left on device", "x.tar"))
    main(["shard", "x"])
    assert "x.tar: the disk is full" in capsys.readouterr().err


def test_debug_shows_the_traceback(failing, capsys) -> None:
    failing(errors.DataError("no shards"))
    assert main(["shard", "x", "--debug"]) == 4
    assert "Traceback" in capsys.readouterr().err


def test_a_file_name_cannot_move_the_cursor(failing, capsys) -> None:
    failing(errors.DataError("bad file a\x1b[2Jb\rc"))
    main(["shard", "x"])
    assert "\x1b" not in (err := capsys.readouterr().err)
    assert "a\\x1b[2Jb\\rc" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shrad"], "did you mean 'shard'"),
        (["shard"], "RAW"),
        (["shard", "x", "--modalty", "audio"], "--modality"),
        (["shard", "x", "--modality", "smell"], "'audio', 'image', 'video'"),
        (["shard", "x", "--max-size", "huge"], "256MB"),
        (["shard", "x", "--max-size", "0"], "not a size"),
        (["shard", "x", "--max-size", "9" * 320], "not a size"),
        (["shard", "x", "--max-size", "\u0663GB"], "not a size"),
        (["tokenize"], "FILE|DIR|SHARDS"),
        (["eval"], "--data"),
        (["eval", "--task", "k40", "--data", "x"], "did you mean 'k400'"),
        (["eval", "--task", "folder", "--data", "x", "--folds", "3", "--test-share", "0.2"], "--test-share"),
        (["eval", "--task", "folder", "--data", "x", "--checkpoint", "runs/x", "--set", "mask.ratio=1"], "--set"),
        (
            ["export", "runs/x", "--format", "onxx", "--out", "y"],
            "'safetensors', 'huggingface', 'onnx', 'torch",
        ),
        (["export", "runs/x", "--out", "y"], "Missing option '--format'. Choose from: safetensors, huggingface"),
        (["export", "runs/x", "--format", "onnx"], "Missing option '--out'"),
        (["export", "runs/x", "--format", "onnx", "--opset", "17", "--out", "y"], "18 to 22"),
        (["pretrain", "--steps", "0"], "--steps"),
        (["pretrain", "--epochs", "nan"], "not a finite number"),
        (["pretrain", "--max-minutes", "inf"], "not a finite number"),
        (["init", "--minutes", "nan"], "not a finite number"),
        (["init", "--out", ""], "the path is empty"),
        (["eval", "--test-share", "nan"], "not a finite number"),
        (["pretrain", "--seed", "99999999999999999999"], "4294967295"),
        (["pretrain", "--steps", "5", "--epochs", "2"], "Use only one of"),
        (["pretrain", "--resume", "runs/x", "--steps", "5"], "--steps"),
        (["config", "show"], "--preset"),
        (["config", "shwo"], "did you mean 'show'"),
        (["config", "validate"], "FILE"),
        (["config", "diff", "audio-tiny"], "'B'"),
        (["config", "show", "--preset", "audio-tiny", "--quiet", "--verbose"], "exclude each other"),
    ],
)
def test_usage_errors_name_what_is_there(capsys, arguments, said) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_no_arguments_print_help_and_fail(capsys) -> None:
    assert main([]) == 2
    assert "Usage: bridle" in capsys.readouterr().err


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bridle, version {bridle.__version__}\n"


@pytest.mark.parametrize(
    ("text", "size"), [("256MB", 256_000_000), ("1GiB", 2**30), ("1.5kb", 1500), ("4096", 4096), ("2 GB", 2 * 10**9)]
)
def test_sizes(monkeypatch, text, size) -> None:
    seen = {}

    def shard(raw: Path, **options: object) -> None:
        seen.update(options)
        raise click.Abort

    monkeypatch.setattr(api, "shard", shard)
    assert main(["shard", "x", "--max-size", text]) == 130
    assert seen["max_size_bytes"] == size


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bridle_cli", *arguments], text=True, capture_output=True, **options)


def test_full_stdout_is_an_environment_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bridle_cli", "config", "show", "--preset", "audio-tiny"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert "stdout" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "bridle_cli", "config", "show", "--preset", "audio-tiny"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_config_show_prints_yaml_that_reads_back(tmp_path, capsys) -> None:
    from bridle import config

    assert main(["config", "show", "--preset", "video-tiny", "--set", "optim.lr=1e-5"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (tmp_path / "mine.yaml").write_text(out)
    assert config.load(file=tmp_path / "mine.yaml") == config.load("video-tiny", sets=["optim.lr=1e-5"])


def test_config_show_json_is_one_object(capsys) -> None:
    assert main(["config", "show", "--preset", "audio-tiny", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["patches"]["modality"] == "audio"


def test_config_mistakes_leave_with_3(capsys) -> None:
    assert main(["config", "show", "--preset", "audio-tiny", "--set", "maks.ratio=1"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean 'mask.ratio'" in err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_takes_what_nobody_hears(closed: str, tmp_path: Path) -> None:
    for arguments, code in (("config show --preset audio-tiny", 0), ("runs nosuch", 4), ("runs", 0), ("shrad", 2)):
        command = f"{sys.executable} -m bridle_cli {arguments} {closed}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code and "bug" not in done.stderr and "Traceback" not in done.stderr


def test_runs_of_a_folder_that_is_not_there(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "nosuch"]) == 4
    assert "nosuch is not a folder" in capsys.readouterr().err
    assert main(["runs"]) == 0


@pytest.mark.parametrize("path", pages.every_command())
def test_help_promises_only_options_that_are_there(path: str) -> None:
    """Its own, or those of commands that it names."""
    every = pages.every_command()
    text = every[path].get_help(click.Context(every[path], info_name=path))
    named = [one for name, one in every.items() if name == path or re.search(rf"\bbridle {name}\b", text)]
    known = {name for one in named for option in one.params for name in (*option.opts, *option.secondary_opts)}
    assert {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)} - known <= {"--help"}


HELD = """
import sys, time
from bridle_cli.main import main
from bridle_cli.progress import Progress

def hold(progress, kind, **fields):
    if kind == "progress" and fields["done"]:
        print("begun", flush=True)
        time.sleep(60)

Progress.__call__ = hold
sys.exit(main())
"""


@pytest.mark.parametrize(
    "words",
    ["shard {media} --modality image --out {out}", "tokenize {media} --checkpoint {model} --workers 1 --out {out}.npz"],
)
def test_a_command_that_is_told_to_end_takes_back_what_is_half_done(words: str, sample: Path, tmp_path: Path) -> None:
    """SIGTERM meets it in its first files."""
    (model := tmp_path / "model").mkdir()
    (place := tmp_path / "place").mkdir()
    save_model(snapshot(small("image")), model)
    command = words.format(media=sample / "image", model=model, out=place / "out").split()
    process = forks.Popen([sys.executable, "-c", HELD, *command], stdout=-1, stderr=-1, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    process.terminate()
    _, said = process.communicate()
    assert (process.returncode, said) == (143, "error: Interrupted.\n")
    assert not list(place.iterdir())


def test_signals_stay_as_the_caller_has_them(monkeypatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["bridle", "doctor"])
    seen: list[Any] = []

    def doctor() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))
        raise errors.EnvironmentFault("no GPU")

    monkeypatch.setattr(api, "doctor", doctor)
    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler, heard in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGTERM, handler)
            assert main() == 5 and signal.getsignal(signal.SIGTERM) == handler
            assert (seen.pop() != handler) == heard
    finally:
        signal.signal(signal.SIGTERM, before)
    thread = threading.Thread(target=lambda: seen.append(main()))
    thread.start()
    thread.join()
    assert seen == [before, 5]
