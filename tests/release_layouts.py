"""Stand-ins for the releases of published benchmarks: official names, lists and quirks, a few clips.

Each builder takes the root and `media`, which writes one file of media at a path whose folder is there.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
import wave
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.io import savemat

MEDIA = Path(__file__).parent / "media"

Media = Callable[[Path], None]

SOUNDS = {"/m/09x0r": "Speech", "/m/05zppz": "Male speech, man speaking", "/t/dd00125": 'Chink, "clink"'}
SYNSETS = ("n01440764", "n01443537", "n02119789")
ACTIONS = ("air drumming", "petting animal (not cat)", "zumba")
TEMPLATES = ("Putting [something] on [something]", "Approaching [something] with your camera", "Tearing [something]")
WORDS = ("yes", "no", "bed")


def audioset(root: Path, media: Media, clips: int = 6) -> None:
    """Ids begin with `-`, `_` and `Y`, names come in all known forms, every third row has two labels.

    The last clip of the unbalanced list is not there; one clip of the balanced list is there twice.
    """
    write_csv(root / "class_labels_indices.csv", ("index", "mid", "display_name"), enumerated(SOUNDS.items()))
    forms = ("{}.wav", "Y{}.wav", "{}_30.wav", "{}_30.000.wav", "{}_30000_40000.wav", "Y{}_30_40.wav")
    for name in ("balanced_train", "unbalanced_train", "eval"):
        mids = list(SOUNDS)
        rows = []
        for number in range(clips):
            video = f"{'-_Yx'[number % 4]}{name[:3]}{number:07d}"
            labels = [mids[number % 3]] + [mids[0]] * (number % 3 == 2)
            rows.append(f'{video}, 30.000, 40.000, "{",".join(labels)}"\n')
            if name != "unbalanced_train" or number < clips - 1:
                put(root / "audio" / f"{name}_segments" / forms[number % 6].format(video), media)
        heading = f"# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids={clips}, num_segs={clips}\n"
        columns = "# YTID, start_seconds, end_seconds, positive_labels\n"
        (root / f"{name}_segments.csv").write_text(heading + columns + "".join(rows))
    put(root / "audio" / "unbalanced_train_segments" / "-bal0000000.wav", media)


def esc50(root: Path, media: Media, clips: int = 1) -> None:
    """Three classes, `clips` of each in each fold."""
    rows = []
    for fold in range(1, 6):
        for name, target in (("dog", 0), ("rooster", 1), ("airplane", 47)):
            for clip in range(clips):
                source = f"{fold}{clip:02d}{target:02d}"
                rows.append((f"{fold}-{source}-A-{target}.wav", fold, target, name, "False", source, "A"))
                put(root / "audio" / str(rows[-1][0]), media)
    write_csv(root / "meta/esc50.csv", ("filename", "fold", "target", "category", "esc10", "src_file", "take"), rows)


def speech_commands(root: Path, media: Media, speakers: int = 4, test_set: Path | None = None) -> None:
    """Three words; the last two speakers are val and test. `test_set` is where the separate test set is laid."""
    names = [f"{word}/{speaker:08x}_nohash_0.wav" for word in WORDS for speaker in range(speakers)]
    for name in names:
        put(root / name, media)
    for file, speaker in (("validation_list.txt", speakers - 2), ("testing_list.txt", speakers - 1)):
        listed = [name for name in names if f"/{speaker:08x}_" in name]
        (root / file).write_text("".join(f"{name}\n" for name in listed))
    put(root / "_background_noise_" / "white_noise.wav", noise)
    (root / "_background_noise_" / "README.md").write_text("Noise.\n")
    if test_set:
        for word in ("yes", "no", "_unknown_", "_silence_"):
            put(test_set / "speech_commands_test_set_v0.01" / word / "0000abcd_nohash_0.wav", media)


def imagenet(
    root: Path,
    media: Media,
    clips: int = 2,
    val: Literal["folders", "kaggle", "kit", "map", "index"] = "folders",
) -> None:
    """Three synsets, `clips` of each in each part; `val` says how the validation images are labelled."""
    base = root / "ILSVRC/Data/CLS-LOC" if val == "kaggle" else root
    for synset in SYNSETS:
        for clip in range(clips):
            put(base / "train" / synset / f"{synset}_{clip}.JPEG", media)
    answers = [(f"ILSVRC2012_val_{number + 1:08d}", SYNSETS[-1 - number % 3]) for number in range(3 * clips)]
    for name, synset in answers:
        put(base / "val" / (synset if val == "folders" else "") / f"{name}.JPEG", media)
    if val == "kaggle":
        rows = [(name, f"{synset} 85 1 499 272 ") for name, synset in answers]
        write_csv(root / "LOC_val_solution.csv", ("ImageId", "PredictionString"), rows)
    elif val == "kit":
        kit = root / "ILSVRC2012_devkit_t12/data"
        kit.mkdir(parents=True)
        ids = {synset: 3 - index for index, synset in enumerate(SYNSETS)}  # their own order, not the sorted one
        record = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("num_children", float)]
        synsets = [(number, synset, f"words of {synset}", 0) for synset, number in ids.items()]
        savemat(kit / "meta.mat", {"synsets": np.array([*synsets, (4, "n00001740", "entity", 3)], dtype=record)})
        truth = "".join(f"{ids[synset]}\n" for _, synset in answers)
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    elif val == "map":
        (root / "val_map.txt").write_text("".join(f"{name}.JPEG {synset}\n" for name, synset in answers))
    elif val == "index":
        text = "".join(f"{name}.JPEG {SYNSETS.index(synset)}\n" for name, synset in answers)
        (root / "val.txt").write_text(text)


def kinetics(root: Path, media: Media, clips: int = 2, lists: Literal["csv", "paths"] = "csv") -> None:
    """Three actions, `clips` of each in each part, in class folders; the last of train and all of test are missing."""
    for part in ("train", "val", "test"):
        rows = []
        for number in range(3 * clips):
            label = ACTIONS[number % 3]
            video = f"{'-_x'[number % 3]}{part:-<5}{number:05d}"
            name = f"{part}/{label.replace(' ', '_')}/{video}_{number:06d}_{number + 10:06d}.mp4"
            rows.append((label, video, number, number + 10, part, 0, name))
            if part != "test" and (part, number) != ("train", 3 * clips - 1):
                put(root / name, media)
        if lists == "csv":
            header = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
            write_csv(root / "annotations" / f"{part}.csv", header, (row[:6] for row in rows))
        elif part != "test":
            text = "".join(f"/data/elsewhere/{row[6]} {ACTIONS.index(row[0])}\n" for row in rows)
            (root / f"{part}.csv").write_text(text)
    if lists == "paths":
        write_csv(root / "kinetics_400_labels.csv", ("id", "name"), enumerated((name,) for name in ACTIONS))


def something(root: Path, media: Media, clips: int = 2, short_names: bool = False) -> None:
    """Three templates, `clips` of each in each part; the last of train is not there."""
    folder = root / "labels" if short_names else root
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if short_names else "something-something-v2-"
    names = [template.replace("[", "").replace("]", "") for template in TEMPLATES]
    (folder / f"{prefix}labels.json").write_text(json.dumps({name: str(n) for n, name in enumerate(names)}))
    for part, first in (("train", 1000), ("validation", 2000)):
        records: list[dict[str, Any]] = []
        for number in range(3 * clips):
            template = TEMPLATES[number % 3]
            video = str(first + number)
            things = ["a cup", "a table"][: template.count("[")]
            records.append({"id": video, "label": "words", "template": template, "placeholders": things})
            if (part, number) != ("train", 3 * clips - 1):
                put(root / "20bn-something-something-v2" / f"{video}.webm", media)
        (folder / f"{prefix}{part}.json").write_text(json.dumps(records))


def put(path: Path, media: Media) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    media(path)


def noise(path: Path, seconds: float = 10.5) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        samples = np.random.default_rng(0).integers(-900, 900, round(seconds * 16000), dtype="<i2")
        file.writeframes(samples.tobytes())


def write_csv(file: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as text:
        csv.writer(text, lineterminator="\n").writerows([header, *rows])


def enumerated(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[Any, ...]]:
    return ((number, *row) for number, row in enumerate(rows))


def real(kind: str) -> Callable[[Path], None]:
    """Writes real clips of the sample in turn, whatever the name asked for says they are."""
    files = itertools.cycle(sorted(path for path in (MEDIA / kind).rglob("*") if path.is_file()))
    return lambda path: (path.write_bytes(next(files).read_bytes()), None)[1]


# Of each task: the kind of its media, and how its stand-in is built.
RELEASES: dict[str, tuple[str, Callable[..., None], dict[str, Any]]] = {
    "as20k": ("audio", audioset, {"clips": 12}),
    "as2m": ("audio", audioset, {"clips": 12}),
    "esc50": ("audio", esc50, {"clips": 2}),
    "scv1": ("audio", speech_commands, {"speakers": 12}),
    "scv1-10": ("audio", speech_commands, {"speakers": 12}),
    "scv2": ("audio", speech_commands, {"speakers": 12}),
    "in1k": ("image", imagenet, {"clips": 4, "val": "kit"}),
    "k400": ("video", kinetics, {"clips": 4}),
    "ssv2": ("video", something, {"clips": 4}),
}


def main(out: Path) -> None:
    """All of them with clips of the sample: `python tests/release_layouts.py standins`."""
    for task, (kind, build, options) in RELEASES.items():
        build(out / task, real(kind), **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
