"""What an older version leaves on disk, made by the commands of a checkout of it.

    git worktree add --detach ../older COMMIT
    python tests/old/make.py ../older /srv/old

Everything runs within the new folder, so that runs and sets name each other by relative paths. Outputs keep the full
paths of what they were made of: hence a folder that names no machine, moved to tests/old/COMMIT at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MEDIA = Path(__file__).resolve().parent.parent / "media"
MICRO = ["train.checkpoint_every=10", "train.keep=1", "train.probe_every=0", "train.log_every=2"]
MICRO += ["encoder.width=16", "encoder.depth=1", "encoder.heads=2", "predictor.width=16", "predictor.depth=1"]
MICRO += ["predictor.heads=2", "tokenizer.depth=1", "quantizer.codes=16", "quantizer.width=8", "quantizer.levels=2"]
SET = [part for setting in MICRO for part in ("--set", setting)]


def main(checkout: str, target: str) -> None:
    out = Path(target)
    out.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(checkout).resolve()), "CUDA_VISIBLE_DEVICES": ""}

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "bridle_cli", *arguments]

    def run(*arguments: str, keep: str = "") -> None:
        options = ("--json",) if keep else ("--quiet",)
        done = subprocess.run(
            command(*arguments, *options), cwd=out, env=environment, stdout=subprocess.PIPE, check=True
        )
        if keep:
            (out / "json").mkdir(exist_ok=True)
            (out / "json" / keep).write_bytes(done.stdout)

    def interrupt(left: str, *arguments: str) -> None:
        """Ends the command as soon as there is something that the pattern matches."""
        process = subprocess.Popen(command(*arguments, "--quiet"), cwd=out, env=environment)
        while process.poll() is None and not list(out.glob(left)):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        process.wait()

    for kind in ("audio", "image", "video"):
        for number in range(3 if kind == "video" else 8):
            files = sorted((MEDIA / kind).glob("*/*"), key=lambda file: (file.stat().st_size, file.name))
            classes = sorted({file.parent.name for file in files})[:2]
            chosen = [file for file in files if file.parent.name == classes[number % 2]][number // 2]
            (out / "raw" / kind / chosen.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(chosen, out / "raw" / kind / chosen.parent.name)
        run("shard", f"raw/{kind}", "--out", f"shards/{kind}", keep=f"shard-{kind}.json")
        recipe = ("--preset", f"{kind}-tiny", "--steps", "20", "--batch-size", "4", *SET)
        run("pretrain", "--shards", f"shards/{kind}", "--out", f"runs/{kind}", *recipe, keep=f"pretrain-{kind}.json")
        run("tokenize", f"shards/{kind}", "--checkpoint", f"runs/{kind}", "--out", f"{kind}.codes")
    model = ("--checkpoint", "runs/audio")
    for suffix in (".parquet", ".npz", ".safetensors", ""):
        run("tokenize", "shards/audio", *model, "--out", "audio" + suffix if suffix else "with-codes/audio")
    run("tokenize", "shards/audio", *model, keep="codes.jsonl")
    for suffix in (".parquet", ".npz", ".safetensors"):
        run("embed", "shards/audio", *model, "--out", f"vectors{suffix}", keep="embed.json")
    run("embed", "shards/audio", *model, "--per", "step", "--out", "steps.npz")
    run("eval", "--data", "shards/audio", *model, "--folds", "2", keep="eval.json")
    run("eval", "--data", "shards/audio", *model, "--folds", "2", "--out", "other")
    run("eval", "--data", "shards/audio", *model, "--test-share", "0.5", "--protocol", "finetune", "--set",
        "finetune.epochs=1", "--out", "tuned")  # fmt: skip
    run("compare", "runs/audio", "other", keep="compare.json")
    run("shard", "info", "shards/audio", keep="info.json")
    (out / "settings.yaml").write_bytes(
        subprocess.check_output(command("config", "show", "--preset", "image-tiny"), cwd=out, env=environment)
    )
    interrupt("runs/stopped/checkpoints/*", "pretrain", "--shards", "shards/audio", "--preset", "audio-tiny", "--out",
              "runs/stopped", "--steps", "300", "--batch-size", "4", *SET)  # fmt: skip
    interrupt(".*part*/work.json", "embed", "raw/audio", *model, "--out", "unfinished.npz")

    for name, form in {"safetensors": "safetensors", "hf": "huggingface"}.items():
        run("export", "runs/audio", "--format", form, "--out", f"exports/{name}", keep=f"export-{name}.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
