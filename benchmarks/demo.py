"""`make demo`: the whole path on the small real sample in `tests/media/`, for audio, images and video.

Runs the commands a user would type, shows each, and ends with one table and one picture under `runs/demo/`:
shards, a pretrained encoder, tokens, an evaluation beside the same encoder untrained, and an export.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from code_maps import draw
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path("tests/media")
OUT = Path("runs/demo")
MINUTES = {"audio": 0.9, "image": 0.6, "video": 0.9}  # of pretraining
# Movement is found after some hundred steps; at 32 pixels there is time for them.
SETS = {"audio": [], "image": [], "video": ["--set", "patches.size=32"]}
# One speaker or photo is never on both sides of a split: "0_george_3.wav" -> george. The images' classes are photos.
GROUPS = {"audio": r"_([a-z]+)_", "image": None, "video": r"([^/]+)_\d+\.mp4$"}


def main() -> None:
    """Runs the demo; a command that fails ends it with that command's exit code."""
    console, started = Console(width=None if sys.stdout.isatty() else 120), time.monotonic()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    rows = [one_modality(modality) for modality in ("audio", "image", "video")]
    picture = OUT / "codes.png"
    draw(ROOT / OUT, ROOT / SAMPLE, ROOT / picture)
    table = Table("modality", "clips", "steps", "codes in use", "tokens of one clip", "kNN trained", "kNN untrained")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"Accuracy with its 95 % interval. Picture: {picture}   ({time.monotonic() - started:.0f} s in all)")


def one_modality(modality: str) -> list[str]:
    """Raw files to export; one row of the table."""
    raw, shards, run = SAMPLE / modality, OUT / "shards" / modality, OUT / modality
    made = bridle("shard", raw, "--modality", modality, "--out", shards)
    trained = bridle("pretrain", "--shards", shards, "--out", run, "--max-minutes", MINUTES[modality], *SETS[modality])
    clip = next(path for path in sorted((ROOT / raw).rglob("*")) if path.suffix in (".wav", ".jpg", ".mp4"))
    codes = bridle("tokenize", clip.relative_to(ROOT), "--checkpoint", run)
    evaluation = ["eval", "--task", "folder", "--data", shards, "--protocol", "knn", "--folds", 3]
    if GROUPS[modality]:
        evaluation += ["--group-by", GROUPS[modality]]
    judged = bridle(*evaluation, "--checkpoint", run)
    untrained = bridle(*evaluation, "--checkpoint", "random", "--config", run / "config.yaml")
    bridle("export", run, "--format", "safetensors", "--out", OUT / "export" / modality)
    time_steps, height, width = codes["grid"]
    return [
        modality,
        str(made["samples"]),
        str(trained["steps"]),
        " ".join(f"{100 * share:.0f}" for share in trained["usage"]) + " %",
        f"{codes['levels']} x {time_steps} x {height} x {width}",
        accuracy(judged),
        accuracy(untrained),
    ]


def bridle(*arguments: Any) -> dict[str, Any]:
    """Runs one command as a user would, its progress on the terminal, and returns its JSON."""
    words = [str(argument) for argument in arguments]
    print("\n$ bridle", shlex.join(words), flush=True)
    command = [sys.executable, "-m", "bridle_cli", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def accuracy(result: dict[str, Any]) -> str:
    low, high = result["ci95"]
    return f"{100 * result['value']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


if __name__ == "__main__":
    main()
