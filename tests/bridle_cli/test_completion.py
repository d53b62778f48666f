"""Completion as a shell asks for it, in a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridle_cli.main import main

BIN = Path(sys.executable).parent


def completed(line: str, tmp_path: Path) -> list[str]:
    """What bash offers for the last word of a command line, by the script that the command prints."""
    words = line.split(" ")
    script = f"""
        source <(bridle completion bash)
        compopt() {{ :; }}  # bash has it only while it completes
        COMP_WORDS=({" ".join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}
        _bridle_completion bridle {words[-1]!r} {words[-2]!r}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0 and not told.stderr, told.stderr
    return told.stdout.split()


@pytest.mark.skipif(
    not (shutil.which("bash") and (BIN / "bridle").exists()), reason="needs bash and the installed command"
)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bridle ev", {"eval"}),
        ("bridle eval --pro", {"--protocol"}),
        ("bridle eval --protocol fine", {"finetune"}),
        ("bridle eval --task k4", {"k400"}),
        ("bridle eval --list --task ss", {"ssv2"}),
        ("bridle eval --checkpoint ra", {"random"}),
        ("bridle pretrain --preset audio-t", {"audio-tiny"}),
        ("bridle completion z", {"zsh"}),
        ("bridle config diff audio-ti", {"audio-tiny"}),
    ],
)
def test_what_bash_offers(line: str, offered: set[str], tmp_path: Path) -> None:
    found = completed(line, tmp_path)
    assert {*found} >= offered and len(found) <= 3


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_BRIDLE_COMPLETE" in capsys.readouterr().out
    assert main(["completion", "tcsh"]) == 2
