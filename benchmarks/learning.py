"""Does it learn? Pretrains the tiny presets on real labelled sets and judges them beside the same network untrained.

    python benchmarks/learning.py [DATA] [--out runs/learning] [--modality audio ...] [--seeds 3]

DATA (default ../shared/data) holds `audio_digits`, `image_objects` and `video_motion`, each as CLASS/file. What is in
`--out` already is not done again, so an interrupted run goes on. Writes `results.json` and a Markdown table to `--out`.
Every command is the one a user would type, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Experiment:
    """One data set: how long to train, and the split and probes that mean something on it."""

    data: str
    steps: int
    folds: int
    group_by: str | None
    probes: tuple[tuple[str, ...], ...]


KNN = ("--protocol", "knn", "--pool")
LINEAR = ("--protocol", "linear", "--pool", "segments")
EXPERIMENTS = {
    "audio": Experiment("audio_digits", 2000, 6, r"_([a-z]+)_", ((*KNN, "segments"), LINEAR)),
    "image": Experiment("image_objects", 1600, 5, None, ((*KNN, "segments"), LINEAR)),
    "video": Experiment(
        "video_motion", 2000, 5, r"([^/]+)_\d+\.mp4$", ((*KNN, "mean"), ("--protocol", "linear", "--pool", "mean"))
    ),
}


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--modality", choices=EXPERIMENTS, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for modality in arguments.modality or EXPERIMENTS:
        for seed in range(arguments.seeds):
            results += run(modality, EXPERIMENTS[modality], seed, arguments.data, arguments.out)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    table = as_markdown(results)
    (arguments.out / "results.md").write_text(table)
    print(table)


def run(modality: str, experiment: Experiment, seed: int, data: Path, out: Path) -> list[dict[str, Any]]:
    """One seed of one modality: trained and untrained, every probe, and the health of the codebooks."""
    shards, folder = out / "shards" / experiment.data, out / "runs" / f"{modality}-{seed}"
    if not (shards / "manifest.json").exists():
        bridle("shard", data / experiment.data, "--modality", modality, "--out", shards)
    trained = bridle_once(
        out / f"{modality}-{seed}.json",
        *("pretrain", "--shards", shards, "--preset", f"{modality}-tiny", "--out", folder),
        *("--seed", seed, "--steps", experiment.steps),
    )
    split = ["--folds", experiment.folds] + (["--group-by", experiment.group_by] if experiment.group_by else [])
    rows = []
    for name, checkpoint in (("pretrained", ["--checkpoint", folder]), ("untrained", untrained(folder))):
        for number, probe in enumerate(experiment.probes):
            result = bridle_once(
                out / f"{modality}-{seed}-{name}-{number}.json",
                *("eval", "--task", "folder", "--data", shards, *probe, *split, *checkpoint, "--seed", seed),
            )
            rows.append({"modality": modality, "seed": seed, "encoder": name, **result})
    codes = bridle_once(
        out / f"{modality}-{seed}-codes.json",
        *("eval", "--task", "folder", "--data", shards, "--protocol", "codes", "--checkpoint", folder),
    )
    rows.append({"modality": modality, "seed": seed, "encoder": "pretrained", **codes, "training": trained})
    return rows


def untrained(folder: Path) -> list[Any]:
    """The baseline: the same architecture as that run's, never trained."""
    return ["--checkpoint", "random", "--config", folder / "config.yaml"]


def bridle_once(result: Path, *arguments: Any) -> dict[str, Any]:
    """`bridle` with its result kept in a file; a second call reads the file."""
    if not result.exists() or not result.read_text().strip():
        result.write_text(json.dumps(bridle(*arguments)))
    return json.loads(result.read_text())


def bridle(*arguments: Any) -> dict[str, Any]:
    """Runs one command on one core and returns its JSON."""
    words = [str(argument) for argument in arguments]
    print("$ bridle", *words, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "bridle_cli", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def as_markdown(results: list[dict[str, Any]]) -> str:
    """One row a probe: each seed's accuracy with its interval, pretrained beside untrained."""
    lines = ["| set | probe | untrained, each seed | pretrained, each seed | means |", "|---|---|---|---|---|"]
    probes = dict.fromkeys((r["modality"], r["protocol"], r.get("pool")) for r in results if r["metric"] == "accuracy")
    for modality, protocol, pool in probes:
        cells, means = [], []
        for encoder in ("untrained", "pretrained"):
            key = (modality, protocol, pool, encoder)
            found = [r for r in results if (r["modality"], r["protocol"], r.get("pool"), r["encoder"]) == key]
            cells.append(
                ", ".join(f"{percent(r['value'])} ({percent(r['ci95'][0])}-{percent(r['ci95'][1])})" for r in found)
            )
            means.append(percent(statistics.mean(r["value"] for r in found)))
        name = f"{EXPERIMENTS[modality].data}, {protocol}" + (f", {pool}" if protocol != pool else "")
        lines.append(f"| {name.replace(', ', ' | ', 1)} | {cells[0]} | {cells[1]} | {' -> '.join(means)} |")
    return "\n".join(lines) + "\n"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
