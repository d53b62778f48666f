"""Experiments on what is learned: one YAML beside this file each, every run and probe a command that a user would type.

    python benchmarks/learning/run.py                     # lists them
    python benchmarks/learning/run.py presets codebooks   # runs some; "all" runs all
    python benchmarks/learning/run.py presets --only audio --seeds 1

An experiment trains each arm (a list of settings) on a labelled set with some seeds, and probes it beside the same
network untrained. What `--out` holds already is not done again, so an interrupted experiment goes on. Writes
`NAME.json` and `NAME.md` to `--out`. Runs take one core each; start several with different `--only` to use more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class DataSet:
    """A labelled set and the split that means something on it."""

    name: str
    split: tuple[str, ...]
    probes: tuple[tuple[str, str], ...]  # protocol and pooling


SETS = {
    "audio": DataSet(
        "audio_digits",
        ("--folds", "6", "--group-by", r"_([a-z]+)_"),
        (("knn", "segments"), ("linear", "segments")),
    ),
    "image": DataSet("image_objects", ("--folds", "5"), (("knn", "segments"), ("linear", "segments"))),
    "video": DataSet(
        "video_motion",
        ("--folds", "5", "--group-by", r"([^/]+)_\d+\.mp4$"),
        (("knn", "mean"), ("linear", "mean")),
    ),
}


@dataclass(frozen=True, slots=True)
class Experiment:
    """One YAML file.

    Attributes:
        question: what it asks.
        limit: `{modality: options of bridle pretrain that say how long}`; also which modalities take part.
        arms: name -> settings, as `--set` takes them; or `mae`, Hugging Face's (see `others.py`).
        seeds: how many.
    """

    name: str
    question: str
    limit: dict[str, list[Any]]
    arms: dict[str, list[str] | str] = field(default_factory=lambda: {"tiny": []})
    seeds: int = 3


def main() -> None:
    """Runs what is missing, then prints the tables."""
    known = {path.stem: path for path in sorted(HERE.glob("*.yaml"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*known, "all", []], metavar="NAME")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds SET/CLASS/file")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--only", choices=SETS, action="append", help="one modality")
    parser.add_argument("--seeds", type=int, default=None)
    arguments = parser.parse_args()
    experiments = [Experiment(name, **yaml.safe_load(path.read_text())) for name, path in known.items()]
    if not arguments.names:
        for experiment in experiments:
            print(f"{experiment.name:12} {experiment.question}")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for experiment in experiments:
        if experiment.name in arguments.names or "all" in arguments.names:
            rows = run(experiment, arguments)
            (arguments.out / f"{experiment.name}.json").write_text(json.dumps(rows, indent=1) + "\n")
            table = f"**{experiment.question}**\n\n" + as_markdown(rows)
            (arguments.out / f"{experiment.name}.md").write_text(table)
            print(table)


def run(experiment: Experiment, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every modality, seed and arm, and the network that none of them trained."""
    rows = []
    for modality, limit in experiment.limit.items():
        if arguments.only and modality not in arguments.only:
            continue
        shards = arguments.out / "shards" / SETS[modality].name
        if not (shards / "manifest.json").exists():
            bridle("shard", arguments.data / SETS[modality].name, "--modality", modality, "--out", shards)
        for seed in range(arguments.seeds or experiment.seeds):
            for arm, sets in experiment.arms.items():
                folder = arguments.out / f"{experiment.name}-{modality}-{arm}-{seed}"
                row = {"modality": modality, "seed": seed, "arm": arm, "sets": sets}
                if sets == "mae":
                    rows.append(row | other_once("mae", folder, modality, shards, seed, limit))
                    continue
                words = [word for one in sets for word in ("--set", one)]
                trained = bridle_once(
                    Path(f"{folder}.json"),
                    *("pretrain", "--shards", shards, "--preset", f"{modality}-tiny", "--out", folder),
                    *("--overwrite", "--seed", seed, *limit, *words),
                )
                results = judge(folder, modality, shards, seed, ["--checkpoint", folder])
                rows.append(row | {"training": trained | health(folder), "results": results})
            first = arguments.out / f"{experiment.name}-{modality}-{next(iter(experiment.arms))}-{seed}"
            untrained = ["--checkpoint", "random", "--config", first / "config.yaml"]
            results = judge(arguments.out / f"untrained-{modality}-{seed}", modality, shards, seed, untrained)
            floor = {"modality": modality, "seed": seed, "sets": []}
            rows.append(floor | {"arm": "untrained", "results": results})
            raw = arguments.out / f"raw-{modality}-{seed}"
            rows.append(floor | {"arm": "raw values"} | other_once("raw", raw, modality, shards, seed, []))
    return rows


def other_once(what: str, name: Path, modality: str, shards: Path, seed: int, limit: list[Any]) -> dict[str, Any]:
    """Training, if any, and probes of what `others.py` knows, at the same length and on the same folds."""
    out = Path(f"{name}.json")
    if not out.exists():
        probes = [word for probe in SETS[modality].probes for word in ("--probe", *probe)]
        words = ["--shards", shards, "--preset", f"{modality}-tiny", "--seed", seed, "--out", out, *limit, *probes]
        run_once([HERE / "others.py", what, *words, *SETS[modality].split])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def judge(name: Path, modality: str, shards: Path, seed: int, checkpoint: list[Any]) -> list[dict[str, Any]]:
    """All probes of one encoder."""
    common = ["eval", "--task", "folder", "--data", shards, *checkpoint, "--seed", seed]
    results = []
    for protocol, pool in SETS[modality].probes:
        words = ["--protocol", protocol, "--pool", pool, *SETS[modality].split]
        results.append(bridle_once(Path(f"{name}-{protocol}.json"), *common, *words))
    return results


def health(run: Path) -> dict[str, float]:
    """The worst that the codebooks were from the tenth percent of each phase to its end."""
    used, perplexity = [], []
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for phase in {row["phase_index"] for row in log}:
        rows = [row for row in log if row["phase_index"] == phase and "usage" in row]
        late = [row for row in rows if row["step"] >= rows[0]["step"] + 0.1 * (rows[-1]["step"] - rows[0]["step"])]
        used += [share for row in late for share in row["usage"]]
        perplexity += [row["perplexity"][0] for row in late]
    return {"used": min(used), "perplexity": min(perplexity)}


def bridle_once(result: Path, *arguments: Any) -> dict[str, Any]:
    """`bridle` with its result kept in a file; a second call reads the file."""
    if not result.exists() or not result.read_text().strip():
        found = bridle(*arguments)
        result.write_text(json.dumps(found))
    return json.loads(result.read_text())


def bridle(*arguments: Any) -> dict[str, Any]:
    """One command and its JSON."""
    found: dict[str, Any] = json.loads(run_once(["-m", "bridle_cli", *arguments, "--json"]))
    return found


def run_once(arguments: list[Any]) -> str:
    """Runs Python with these arguments on one core and returns what it prints."""
    words = [str(argument) for argument in arguments]
    print("$ python", *words, file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """A table a modality, a row an arm: mean over seeds and every seed's accuracy, the codebooks at their worst (see
    `health`), steps and minutes."""
    tables = []
    for modality in dict.fromkeys(row["modality"] for row in rows):
        probes = [f"{protocol}, {pool}" for protocol, pool in SETS[modality].probes]
        head = [SETS[modality].name, *probes, "codes in use", "perplexity, level 1", "steps", "minutes"]
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for arm in dict.fromkeys(
            ["raw values", "untrained", *(row["arm"] for row in rows if row["modality"] == modality)]
        ):
            found = [row for row in rows if (row["modality"], row["arm"]) == (modality, arm)]
            cells = [accuracies([row["results"][number] for row in found]) for number in range(len(probes))]
            training = [row["training"] for row in found if "training" in row]
            if training:
                steps, seconds = (statistics.mean(run[key] for run in training) for key in ("steps", "seconds"))
                used = [f"{100 * min(run['used'] for run in training):.0f} %"] if "used" in training[0] else [""]
                worst = [f"{min(run['perplexity'] for run in training):.0f}"] if "used" in training[0] else [""]
                cells += [*used, *worst, f"{steps:.0f}", f"{seconds / 60:.1f}"]
            else:
                cells += [""] * 4
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def accuracies(results: list[dict[str, Any]]) -> str:
    """`**66.9** (66.0, 68.6, 66.1; ±1.7)`: mean, seeds, half the widest 95 % interval over clips."""
    values = [100 * result["value"] for result in results]
    half = max(50 * (result["ci95"][1] - result["ci95"][0]) for result in results)
    return f"**{statistics.mean(values):.1f}** ({', '.join(f'{value:.1f}' for value in values)}; ±{half:.1f})"


if __name__ == "__main__":
    main()
