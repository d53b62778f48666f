"""Every protocol on a pretrained encoder and on the same one untrained: the tables of docs/evaluation.md.

    python benchmarks/evaluation.py DATA audio=RUN image=RUN video=RUN [--only knn] [--out results/]

DATA holds audio_digits, image_objects and video_motion; RUN is a run on the one of its kind, such as
`benchmarks/learning/run.py presets` makes. One split each: a speaker that was never heard, a fifth of the photos, clips
of photos that were never seen. Results are kept in `--out`, and what is there is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bridle import api
from bridle.checkpoint import read_results

SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "audio": ("audio_digits", {"test_share": 1 / 6, "group_by": r"_([a-z]+)_"}),
    "image": ("image_objects", {"test_share": 0.2}),
    "video": ("video_motion", {"test_share": 0.2, "group_by": r"([^/]+)_\d+\.mp4$"}),
}
PROTOCOLS = ("knn", "linear", "attentive", "finetune", "codes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", nargs="+", metavar="MODALITY=RUN")
    parser.add_argument("--only", action="append", choices=PROTOCOLS, help="one protocol; may come several times")
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    for text in arguments.runs:
        modality, _, run = text.partition("=")
        name, split = SETS[modality]
        folders = [arguments.out / f"{modality}-{kind}" for kind in ("untrained", "pretrained")]
        for protocol in arguments.only or PROTOCOLS:
            for folder, untrained in zip(folders, (True, False), strict=True):
                if not any(one["protocol"] == protocol for one in read_results(folder)):
                    judge(Path(run), untrained, arguments.data / name, protocol, folder, split)
        print("\n".join(table(name, folders)), flush=True)


def judge(run: Path, untrained: bool, data: Path, protocol: str, folder: Path, split: dict[str, Any]) -> None:
    """One figure, kept in the folder."""
    model: dict[str, Any] = {"checkpoint": run}
    if untrained:
        model = {"checkpoint": "random", "recipe": api.Recipe(file=run / "config.yaml")}
    api.evaluate(data, protocol=protocol, out=folder, **model, **split)


def table(name: str, folders: list[Path]) -> list[str]:
    """Rows of the protocols that both have."""
    lines = ["", f"| {name} | untrained | pretrained | difference | |", "|---|---|---|---|---|"]
    for question in sorted(api.compare(folders), key=lambda one: PROTOCOLS.index(one["protocol"])):
        before, after = question["rows"]
        low, high = (100 * end for end in after["difference_ci"])
        difference = f"{100 * after['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
        told = " ".join(dict.fromkeys(filter(None, (question["protocol"], question["pool"]))))
        lines.append(f"| {told} | {percent(before)} | {percent(after)} | {difference} | {after['mark']} |")
        if question["protocol"] == "codes":
            pair = [read_results(folder) for folder in folders]
            found = [next(one["sequence"] for one in each if one["protocol"] == "codes") for each in pair]
            lines.append(f"| codes, in their order | {percent(found[0])} | {percent(found[1])} | | |")
    return lines


def percent(row: dict[str, Any]) -> str:
    low, high = (100 * end for end in row["ci95"])
    return f"{100 * row['value']:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
