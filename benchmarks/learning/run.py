"""Experiments on what is learned: one YAML beside this file each, every run and probe a command that a user would type.

    python benchmarks/learning/run.py                     # lists them
    python benchmarks/learning/run.py presets codebooks   # runs some; "all" runs all
    python benchmarks/learning/run.py codebooks --only audio --arm rq-4x256 --seed 0     # one row of a table

An experiment trains each arm (a list of settings) on a labelled set with some seeds, and probes it beside the same
network untrained and the raw values. What `--out` holds already with the same settings is not done again, so an
interrupted experiment goes on (`--again` does it all again, after the code has changed); each result names the commit
of its code. `NAME.json` and `NAME.md` in `--out` have all that is there. A run takes one core; start several to use
more.
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


FLOORS = {"raw values": "raw", "untrained": "untrained"}


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


@dataclass(frozen=True, slots=True)
class Row:
    """One training, or none, and its probes.

    Attributes:
        sets: of the arm; for one of `FLOORS` its name there.
        limit: of the experiment.
    """

    experiment: str
    modality: str
    arm: str
    seed: int
    sets: list[str] | str
    limit: list[Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What a result must agree with to be this row's."""
        return {"sets": self.sets} if self.arm in FLOORS else {"sets": self.sets, "limit": self.limit}

    @property
    def name(self) -> str:
        """Of its file; all experiments share the floors."""
        words = () if self.arm in FLOORS else (self.experiment,)
        return "-".join((*words, self.modality, self.arm, str(self.seed)))


def main() -> None:
    """Runs what is missing, then prints the tables."""
    known = {path.stem: path for path in sorted(HERE.glob("*.yaml"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*known, "all", []], metavar="NAME")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds SET/CLASS/file")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--only", choices=SETS, action="append", help="one modality")
    parser.add_argument("--arm", action="append", help="one row of the table")
    parser.add_argument("--seed", type=int, action="append", help="one seed")
    parser.add_argument("--again", action="store_true", help="also what --out holds already")
    arguments = parser.parse_args()
    experiments = [Experiment(name, **yaml.safe_load(path.read_text())) for name, path in known.items()]
    if not arguments.names:
        for experiment in experiments:
            print(f"{experiment.name:12} {experiment.question}")
        return
    chosen = [one for one in experiments if one.name in arguments.names or "all" in arguments.names]
    arms = {arm for one in chosen for arm in (*FLOORS, *one.arms)}
    if unknown := set(arguments.arm or ()) - arms:
        parser.error(f"no arm {', '.join(sorted(unknown))}: choose from {', '.join(sorted(arms))}")
    if (most := max(one.seeds for one in chosen)) <= max(arguments.seed or [0]):
        parser.error(f"seeds are 0 to {most - 1}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for experiment in chosen:
        rows = rows_of(experiment)
        for row in rows:
            asked = ((arguments.only, row.modality), (arguments.arm, row.arm), (arguments.seed, row.seed))
            file = arguments.out / f"{row.name}.json"
            here = all(wanted is None or own in wanted for wanted, own in asked)
            if here and (arguments.again or not is_done(file, row)):
                file.write_text(json.dumps(work_out(row, arguments.data, arguments.out)) + "\n")
        files = [arguments.out / f"{row.name}.json" for row in rows]
        found = [json.loads(file.read_text()) for file, row in zip(files, rows, strict=True) if is_done(file, row)]
        (arguments.out / f"{experiment.name}.json").write_text(json.dumps(found, indent=1) + "\n")
        table = f"**{experiment.question}**\n\n" + as_markdown(found)
        (arguments.out / f"{experiment.name}.md").write_text(table)
        print(table)


def rows_of(experiment: Experiment) -> list[Row]:
    """All of its table, seed by seed."""
    return [
        Row(experiment.name, modality, arm, seed, sets, limit)
        for modality, limit in experiment.limit.items()
        for seed in range(experiment.seeds)
        for arm, sets in {**FLOORS, **experiment.arms}.items()
    ]


def is_done(file: Path, row: Row) -> bool:
    """Whether the file has this row, worked out with these settings."""
    if not file.exists():
        return False
    found = json.loads(file.read_text())
    return all(found.get(key) == value for key, value in row.settings.items())


def commit() -> str:
    """The code that worked it out; with a + where files differ from that."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def work_out(row: Row, data: Path, out: Path) -> dict[str, Any]:
    """Trains and probes: `modality`, `arm`, `seed`, `sets`, `training` (if any) and `results` by probe."""
    data_set = SETS[row.modality]
    shards, preset, run = out / "shards" / data_set.name, f"{row.modality}-tiny", out / row.name
    if not (shards / "manifest.json").exists():
        bridle("shard", data / data_set.name, "--modality", row.modality, "--out", shards)
    found = {"modality": row.modality, "arm": row.arm, "seed": row.seed, "commit": commit(), **row.settings}
    if row.sets in ("raw", "mae"):
        limit = row.limit if row.sets == "mae" else []
        probes = [word for probe in data_set.probes for word in ("--probe", *probe)]
        words = ["--shards", shards, "--preset", preset, "--seed", row.seed, *limit, *probes, *data_set.split]
        return found | json.loads(run_once([HERE / "others.py", row.sets, *words]))
    checkpoint = ["--checkpoint", "random", "--preset", preset]
    if row.sets != "untrained":
        words = [word for one in row.sets for word in ("--set", one)]
        common = ["--shards", shards, "--preset", preset, "--out", run, "--overwrite", "--seed", row.seed]
        found["training"] = bridle("pretrain", *common, *row.limit, *words) | health(run)
        checkpoint = ["--checkpoint", run]
    probe = ["eval", "--task", "folder", "--data", shards, *checkpoint, "--seed", row.seed, *data_set.split]
    found["results"] = [bridle(*probe, "--protocol", name, "--pool", pool) for name, pool in data_set.probes]
    return found


def health(run: Path) -> dict[str, float]:
    """The worst that the codebooks were from the tenth percent of each phase to its end."""
    used, perplexity = [], []
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for phase in {row["phase_index"] for row in log}:
        rows = [row for row in log if row["phase_index"] == phase and "usage" in row]
        late = [row for row in rows if row["step"] >= rows[0]["step"] + 0.1 * (rows[-1]["step"] - rows[0]["step"])]
        used += [share for row in late for share in row["usage"]]
        perplexity += [row["perplexity"][0] for row in late]
    return {"least_used": min(used), "least_perplexity": min(perplexity)}


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
        here = [row for row in rows if row["modality"] == modality]
        for arm in dict.fromkeys(row["arm"] for row in here):
            found = [row for row in here if row["arm"] == arm]
            cells = [accuracies([row["results"][number] for row in found]) for number in range(len(probes))]
            training = [row["training"] for row in found if "training" in row]
            if training:
                steps, seconds = (statistics.mean(run[key] for run in training) for key in ("steps", "seconds"))
                used = (
                    [f"{100 * min(run['least_used'] for run in training):.0f} %"]
                    if "least_used" in training[0]
                    else [""]
                )
                worst = (
                    [f"{min(run['least_perplexity'] for run in training):.0f}"] if "least_used" in training[0] else [""]
                )
                cells += [*used, *worst, f"{steps:.0f}", f"{seconds / 60:.1f}"]
            else:
                cells += [""] * 4
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        commits = ", ".join(sorted({row.get("commit", "unknown") for row in here}))
        tables.append("\n".join(lines) + f"\n\nWorked out at {commits}.")
    return "\n\n".join(tables) + "\n"


def accuracies(results: list[dict[str, Any]]) -> str:
    """`**66.9** (66.0, 68.6, 66.1; ±1.7)`: mean, seeds, half the widest 95 % interval over clips."""
    values = [100 * result["value"] for result in results]
    half = max(50 * (result["ci95"][1] - result["ci95"][0]) for result in results)
    return f"**{statistics.mean(values):.1f}** ({', '.join(f'{value:.1f}' for value in values)}; ±{half:.1f})"


if __name__ == "__main__":
    main()
