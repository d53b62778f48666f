"""Published benchmarks read from their official layouts; media are placeholders, nothing here decodes."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import release_layouts as layouts
from hypothesis import given
from hypothesis import strategies as st
from release_layouts import ACTIONS, SYNSETS

from bridle.errors import DataError, UsageError
from bridle.schema import Modality
from bridle.tasks import Item, Listing, Task, load_task, read_task, task_names
from bridle.tasks.audioset import youtube_id

BUILDERS: dict[str, Callable[..., None]] = {
    "as2m": layouts.audioset,
    "as20k": layouts.audioset,
    "esc50": layouts.esc50,
    "scv1": layouts.speech_commands,
    "scv1-10": layouts.speech_commands,
    "scv2": layouts.speech_commands,
    "in1k": layouts.imagenet,
    "k400": layouts.kinetics,
    "ssv2": layouts.something,
}


def media(path: Path) -> None:
    path.write_bytes(b"placeholder")


def build(name: str, root: Path, **how: Any) -> Task:
    root.mkdir(parents=True, exist_ok=True)
    BUILDERS[name](root, media, **how)
    return load_task(name)


def read(name: str, root: Path, **how: Any) -> Listing:
    return read_task(build(name, root, **how), root)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")


def add(file: Path, text: str) -> None:
    with open(file, "a", encoding="utf-8") as end:
        end.write(text)


def some(listing: Listing, part: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(item.path, item.labels) for item in listing.items if item.part == part]


# --- definitions


def test_all_tasks_are_defined() -> None:
    assert task_names() == sorted(BUILDERS)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_definition_says_what_a_user_wants_to_know(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert {*task.train, *task.test} <= task.clips.keys()
    assert task.folds == (task.train == task.test)
    assert (task.metric == "map") == task.multi_label
    assert "https://" in task.published and "DIR/" in task.layout and "http" in task.get
    official = re.findall(r"[\w-]+\.(?:csv|json|txt|mat)\b", task.layout)
    assert {*official} <= task.reader.lists  # the layout names no file that is not looked for


def test_the_figures_of_the_releases() -> None:
    assert {name: load_task(name).classes for name in task_names()} == {
        "as20k": 527, "as2m": 527, "esc50": 50, "in1k": 1000, "k400": 400,
        "scv1": 12, "scv1-10": 10, "scv2": 35, "ssv2": 174,
    }  # fmt: skip
    assert load_task("k400").views == (5, 3)
    assert load_task("ssv2").views == (2, 3)
    assert load_task("in1k").views == (1, 1)
    assert load_task("as2m").modality is Modality.AUDIO
    assert sum(load_task("scv2").clips.values()) == 105829


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'k400'"):
        load_task("k40")


def test_a_definition_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="sise"):
        Task.model_validate({**load_task("k400").model_dump(), "sise": 3})


# --- AudioSet


def test_audioset_balanced(tmp_path: Path) -> None:
    listing = read("as20k", tmp_path)
    speech, man, clink = "Speech", "Male speech, man speaking", 'Chink, "clink"'
    assert listing.classes == [speech, man, clink]
    folder = "audio/balanced_train_segments/"
    assert some(listing, "train") == [
        (f"{folder}-bal0000000.wav", (speech,)),
        (f"{folder}-bal0000004_30000_40000.wav", (man,)),
        (f"{folder}Y_bal0000001.wav", (man,)),
        (f"{folder}Y_bal0000005_30_40.wav", (clink, speech)),
        (f"{folder}Ybal0000002_30.wav", (clink, speech)),
        (f"{folder}xbal0000003_30.000.wav", (speech,)),
    ]
    assert len(some(listing, "test")) == 6
    assert listing.missing == {}
    assert listing.notes == [
        "duplicate files of a clip, left out: 1",
        "3 classes, the release has 527: a subset?",
    ]


def test_audioset_in_full_trains_on_both_lists_and_lists_what_is_missing(tmp_path: Path) -> None:
    listing = read("as2m", tmp_path)
    assert Counter(item.part for item in listing.items) == {"train": 11, "test": 6}
    assert listing.missing == {"train": ["_unb0000005"]}


def test_audioset_takes_sound_tracks_and_lists_in_a_folder(tmp_path: Path) -> None:
    build("as20k", tmp_path)
    (tmp_path / "csv").mkdir()
    for file in tmp_path.glob("*.csv"):
        file.rename(tmp_path / "csv" / file.name)
    clip = tmp_path / "audio/balanced_train_segments/-bal0000004_30000_40000.wav"
    clip.rename(clip.with_suffix(".mkv"))
    listing = read_task(load_task("as20k"), tmp_path)
    assert listing.missing == {}
    assert f"{clip.relative_to(tmp_path).with_suffix('.mkv')}" in {item.path for item in listing.items}


def test_rows_of_one_clip_count_once_and_rows_without_a_label_not_at_all(tmp_path: Path) -> None:
    build("as20k", tmp_path)
    file = tmp_path / "balanced_train_segments.csv"
    add(file, '-bal0000000, 30.000, 40.000, "/m/09x0r"\nabcdefghijk, 0.000, 10.000, ""\n')
    listing = read_task(load_task("as20k"), tmp_path)
    assert len(some(listing, "train")) == 6
    assert "train: duplicate rows, left out: 1" in listing.notes
    assert "train: rows without a label, left out: 1" in listing.notes


IDS = st.text("-_Yab0", min_size=11, max_size=11)
FORMS = ("{}", "Y{}", "{}_30", "Y{}_30", "{}_30.000", "{}_30000_40000", "Y{}_30.000_40.000", "{}_30_40")


@given(IDS, st.sampled_from(FORMS))
def test_an_id_is_found_in_every_form_of_a_name(video: str, form: str) -> None:
    assert youtube_id(form.format(video)) == video


@pytest.mark.parametrize("name", ["short", "Xabcdefghijk", "abcdefghijk_30_40_50", "abcdefghijk_mono", "abcdefghijkl"])
def test_other_names_have_no_id(name: str) -> None:
    assert youtube_id(name) is None


# --- ESC-50


def test_esc50(tmp_path: Path) -> None:
    listing = read("esc50", tmp_path)
    assert listing.classes == ["dog", "rooster", "airplane"]
    assert some(listing, "fold2") == [
        ("audio/2-20000-A-0.wav", ("dog",)),
        ("audio/2-20001-A-1.wav", ("rooster",)),
        ("audio/2-20047-A-47.wav", ("airplane",)),
    ]
    assert [item.part for item in listing.items] == sorted(f"fold{fold}" for fold in range(1, 6) for _ in range(3))
    assert listing.notes == ["3 classes, the release has 50: a subset?"]


def test_esc50_a_recording_in_two_folds_is_a_leak(tmp_path: Path) -> None:
    build("esc50", tmp_path)
    edit(tmp_path / "meta/esc50.csv", "False,20000,A", "False,10000,A")
    assert "leak: 1 recording in both fold1 and fold2: 10000" in read_task(load_task("esc50"), tmp_path).notes


def test_esc50_has_five_folds(tmp_path: Path) -> None:
    build("esc50", tmp_path)
    edit(tmp_path / "meta/esc50.csv", "1-10000-A-0.wav,1,", "1-10000-A-0.wav,6,")
    with pytest.raises(DataError, match=r"esc50\.csv, line 2: there is no fold '6'"):
        read_task(load_task("esc50"), tmp_path)


# --- Speech Commands


def test_speech_commands_v2(tmp_path: Path) -> None:
    listing = read("scv2", tmp_path)
    assert len(listing.classes) == 35
    assert some(listing, "train") == [
        (f"{word}/0000000{speaker}_nohash_0.wav", (word,)) for word in ("bed", "no", "yes") for speaker in (0, 1)
    ]
    assert some(listing, "val") == [(f"{word}/00000002_nohash_0.wav", (word,)) for word in ("bed", "no", "yes")]
    assert some(listing, "test") == [(f"{word}/00000003_nohash_0.wav", (word,)) for word in ("bed", "no", "yes")]
    assert listing.notes == [
        "classes without training clips: 32 of 35: backward, bird, cat, dog, down and 27 more",
    ]


def test_speech_commands_v1_makes_unknown_of_other_words_and_silence_of_noise(tmp_path: Path) -> None:
    listing = read("scv1", tmp_path)
    assert listing.classes[:4] == ["_silence_", "_unknown_", "yes", "no"]
    noise = "_background_noise_/white_noise.wav"
    assert [item for item in listing.items if item.labels == ("_silence_",)] == [
        Item(noise, ("_silence_",), "test", (9.0, 10.0)),
        *(Item(noise, ("_silence_",), "train", (float(second), second + 1.0)) for second in range(8)),
        Item(noise, ("_silence_",), "val", (8.0, 9.0)),
    ]
    assert ("bed/00000000_nohash_0.wav", ("_unknown_",)) in some(listing, "train")
    assert ("bed/00000003_nohash_0.wav", ("_unknown_",)) in some(listing, "test")


@pytest.mark.parametrize("beside", [False, True])
def test_speech_commands_v1_takes_the_published_test_set(tmp_path: Path, beside: bool) -> None:
    root = tmp_path / "words"
    listing = read("scv1", root, test_set=tmp_path if beside else root)
    folder = ("../" if beside else "") + "speech_commands_test_set_v0.01"
    assert some(listing, "test") == [
        (f"{folder}/{word}/0000abcd_nohash_0.wav", (word,)) for word in ("_silence_", "_unknown_", "no", "yes")
    ]
    assert all((root / item.path).is_file() for item in listing.items)
    spans = [item.span_s for item in listing.items if item.part == "val" and item.span_s]
    assert spans == [(8.0, 9.0), (9.0, 10.0)]
    assert listing.notes[0] == (
        "testing_list.txt: clips left out, since speech_commands_test_set_v0.01 is the test part: 3"
    )


def test_speech_commands_ten_words(tmp_path: Path) -> None:
    listing = read("scv1-10", tmp_path, test_set=tmp_path)
    assert listing.classes == ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
    assert {item.labels for item in listing.items} == {("yes",), ("no",)}
    assert len(some(listing, "test")) == 2


def test_speech_commands_a_speaker_in_train_and_test_is_a_leak(tmp_path: Path) -> None:
    build("scv2", tmp_path)
    media(tmp_path / "yes/00000003_nohash_1.wav")  # in no list: train
    assert "leak: 1 speaker in both test and train: 00000003" in read_task(load_task("scv2"), tmp_path).notes


def test_speech_commands_noise_that_cannot_be_cut_is_named(tmp_path: Path) -> None:
    build("scv1", tmp_path)
    media(tmp_path / "_background_noise_/pink.wav")
    with pytest.raises(DataError, match=r"pink\.wav is not a WAV"):
        read_task(load_task("scv1"), tmp_path)


# --- ImageNet


@pytest.mark.parametrize("val", ["folders", "kaggle", "kit", "map", "index"])
def test_imagenet_labels_of_val(tmp_path: Path, val: str) -> None:
    listing = read("in1k", tmp_path, val=val)
    base = "ILSVRC/Data/CLS-LOC/" if val == "kaggle" else ""
    assert listing.classes == list(SYNSETS)
    assert some(listing, "train")[:3] == [
        (f"{base}train/n01440764/n01440764_0.JPEG", ("n01440764",)),
        (f"{base}train/n01440764/n01440764_1.JPEG", ("n01440764",)),
        (f"{base}train/n01443537/n01443537_0.JPEG", ("n01443537",)),
    ]
    names = {path.rpartition("/")[2]: labels for path, labels in some(listing, "val")}
    assert names == {f"ILSVRC2012_val_{n + 1:08d}.JPEG": (SYNSETS[2 - n % 3],) for n in range(6)}
    assert listing.notes == ["3 classes, the release has 1000: a subset?"]


def test_imagenet_synsets_without_a_train_folder_are_left_out(tmp_path: Path) -> None:
    build("in1k", tmp_path, val="map")
    add(tmp_path / "val_map.txt", "ILSVRC2012_val_00000007.JPEG n99999999\n")
    assert (
        "val: images whose synset has no folder in train/, left out: 1" in read_task(load_task("in1k"), tmp_path).notes
    )


@pytest.mark.parametrize(
    ("val", "file", "old", "new", "message"),
    [
        ("index", "val.txt", "1.JPEG 2", "1.JPEG 7", r"val\.txt, line 1: '7' is not among the 3 classes"),
        ("map", "val_map.txt", " n0", " x0", r"val_map\.txt, line 1: 'x02119789' is not among the 3 classes"),
        ("map", "val_map.txt", " n0", "n0", r"val_map\.txt, line 1: .* is not `image synset`"),
    ],
)
def test_imagenet_bad_maps(tmp_path: Path, val: str, file: str, old: str, new: str, message: str) -> None:
    build("in1k", tmp_path, val=val)
    edit(tmp_path / file, old, new)
    with pytest.raises(DataError, match=message):
        read_task(load_task("in1k"), tmp_path)


def test_imagenet_damaged_kit_and_no_list(tmp_path: Path) -> None:
    build("in1k", tmp_path, val="kit")
    kit = tmp_path / "ILSVRC2012_devkit_t12/data"
    (kit / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut")
    with pytest.raises(DataError, match=r"meta\.mat has no table of synsets"):
        read_task(load_task("in1k"), tmp_path)
    (kit / "meta.mat").unlink()
    with pytest.raises(DataError, match=r"expected LOC_val_solution\.csv, .*meta\.mat, val_map\.txt or val\.txt"):
        read_task(load_task("in1k"), tmp_path)


# --- Kinetics


def test_kinetics(tmp_path: Path) -> None:
    listing = read("k400", tmp_path)
    assert listing.classes == list(ACTIONS)
    assert some(listing, "train") == [
        ("train/air_drumming/-train00000_000000_000010.mp4", ("air drumming",)),
        ("train/air_drumming/-train00003_000003_000013.mp4", ("air drumming",)),
        ("train/petting_animal_(not_cat)/_train00001_000001_000011.mp4", ("petting animal (not cat)",)),
        ("train/petting_animal_(not_cat)/_train00004_000004_000014.mp4", ("petting animal (not cat)",)),
        ("train/zumba/xtrain00002_000002_000012.mp4", ("zumba",)),
    ]
    assert len(some(listing, "val")) == 6
    assert listing.missing["train"] == ["xtrain00005_000005_000015"]
    assert len(listing.missing["test"]) == 6  # not a part that the task needs


def test_kinetics_variants(tmp_path: Path) -> None:
    """`validate.csv`, flat folders, another container, names without times, a test list without labels."""
    build("k400", tmp_path)
    (tmp_path / "annotations/val.csv").rename(tmp_path / "validate.csv")
    (tmp_path / "annotations/test.csv").write_text("youtube_id,time_start,time_end,split\nabc,1,11,test\n")
    clip = tmp_path / "val/zumba/xval--00002_000002_000012.mp4"
    clip.rename(tmp_path / "val/xval--00002.webm")
    listing = read_task(load_task("k400"), tmp_path)
    assert ("val/xval--00002.webm", ("zumba",)) in some(listing, "val")
    assert "test: rows without a label, left out: 1" in listing.notes


@pytest.mark.parametrize("names", ["kinetics_400_labels.csv", "labels.txt", None])
def test_kinetics_lists_of_paths(tmp_path: Path, names: str | None) -> None:
    build("k400", tmp_path, lists="paths")
    if names != "kinetics_400_labels.csv":
        (tmp_path / "kinetics_400_labels.csv").unlink()
    if names == "labels.txt":
        (tmp_path / names).write_text("\n".join(ACTIONS))
    listing = read_task(load_task("k400"), tmp_path)
    classes = list(ACTIONS) if names else ["0", "1", "2"]
    assert listing.classes == classes
    assert some(listing, "train")[-1] == ("train/zumba/xtrain00002_000002_000012.mp4", (classes[2],))
    assert listing.missing == {"train": ["/data/elsewhere/train/zumba/xtrain00005_000005_000015.mp4"]}


def test_kinetics_a_video_in_train_and_val_is_a_leak(tmp_path: Path) -> None:
    build("k400", tmp_path)
    add(tmp_path / "annotations/val.csv", "zumba,xtrain00002,50,60,val,0\n")
    media(tmp_path / "val/xtrain00002_000050_000060.mp4")
    assert "leak: 1 video in both train and val: xtrain00002" in read_task(load_task("k400"), tmp_path).notes


# --- Something-Something


@pytest.mark.parametrize("short_names", [False, True])
def test_something(tmp_path: Path, short_names: bool) -> None:
    listing = read("ssv2", tmp_path, short_names=short_names)
    putting, approaching, tearing = (
        "Putting something on something",
        "Approaching something with your camera",
        "Tearing something",
    )
    assert listing.classes == [putting, approaching, tearing]
    labels = [putting, approaching, tearing] * 2
    folder = "20bn-something-something-v2"
    assert some(listing, "train") == [(f"{folder}/{1000 + n}.webm", (labels[n],)) for n in range(5)]
    assert some(listing, "val") == [(f"{folder}/{2000 + n}.webm", (labels[n],)) for n in range(6)]
    assert listing.missing == {"train": ["1005"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train", '[{"id": "1"}]', r"train\.json, entry 1: not an object with id and template"),
        ("train", '[\n{"id": "1",,}]', r"train\.json, line 2: Expecting property name"),
        ("train", "{}", r"train\.json holds a JSON dict instead of a list"),
        ("labels", '{"Tearing something": "x"}', r"labels\.json, 'Tearing something': 'x' is not an integer"),
    ],
)
def test_something_bad_json(tmp_path: Path, name: str, text: str, message: str) -> None:
    build("ssv2", tmp_path)
    (tmp_path / f"something-something-v2-{name}.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_task(load_task("ssv2"), tmp_path)


# --- what all share

LISTS = {
    "as20k": "balanced_train_segments.csv",
    "esc50": "meta/esc50.csv",
    "scv2": "testing_list.txt",
    "in1k": "val_map.txt",
    "k400": "annotations/train.csv",
    "ssv2": "something-something-v2-train.json",
}
HOW: dict[str, dict[str, Any]] = {"in1k": {"val": "map"}}


@pytest.mark.parametrize("name", LISTS)
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path, name: str) -> None:
    before = read(name, tmp_path, **HOW.get(name, {}))
    for file in [*tmp_path.rglob("*.csv"), *tmp_path.rglob("*.txt"), *tmp_path.rglob("*.json")]:
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_task(load_task(name), tmp_path) == before


@pytest.mark.parametrize("name", BUILDERS)
def test_a_root_that_is_not_there(tmp_path: Path, name: str) -> None:
    task = load_task(name)
    with pytest.raises(DataError, match=r"gone is missing") as error:
        read_task(task, tmp_path / "gone")
    assert error.value.exit_code == 4
    assert task.layout in error.value.hint and task.get in error.value.hint


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    media(tmp_path / "file")
    with pytest.raises(DataError, match="file is not a folder"):
        read_task(load_task("k400"), tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("as20k", "class_labels_indices.csv, balanced_train_segments.csv, eval_segments.csv"),
        ("esc50", "esc50.csv"),
        ("scv1", "validation_list.txt, testing_list.txt"),
        ("in1k", "train/nXXXXXXXX/*.JPEG"),
        ("k400", "train.csv, val.csv or validate.csv"),
        ("ssv2", "something-something-v2-train.json or train.json"),
    ],
)  # fmt: skip
def test_another_layout_is_told_with_what_was_looked_for_and_found(tmp_path: Path, name: str, files: str) -> None:
    for number in range(12):
        media(tmp_path / f"{number:02d}.dat")
    with pytest.raises(DataError) as error:
        read_task(load_task(name), tmp_path)
    assert f"expected {files}" in error.value.message
    assert "found 00.dat, 01.dat" in error.value.message and "09.dat and 2 more" in error.value.message
    assert load_task(name).layout in error.value.hint


def test_a_list_that_is_missing_beside_others_is_named(tmp_path: Path) -> None:
    build("k400", tmp_path)
    (tmp_path / "annotations/val.csv").unlink()
    with pytest.raises(DataError, match=r"missing: val\.csv or validate\.csv; found annotations, train, val"):
        read_task(load_task("k400"), tmp_path)


UNKNOWN = {
    "as20k": ("/t/dd00125,/m/09x0r", "/t/dd00126", r"balanced_train_segments\.csv, line 6: '/t/dd00126' is not among"),
    "scv2": ("bed/", "bad/", r"testing_list\.txt, line 3: 'bad' is not among the 35 classes; did you mean 'bed'"),
    "in1k": ("n02119789", "fox", r"val_map\.txt, line 1: 'fox' is not among the 3 classes"),
    "k400": ("zumba,xval", "zumbaa,xval", r"val\.csv, line 4: 'zumbaa' is not among .*; did you mean 'zumba'"),
    "ssv2": ("Tearing [", "Tering [", r"train\.json, entry 3: 'Tering something' .* did you mean 'Tearing something'"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_label_that_is_no_class_is_told_with_file_and_line(tmp_path: Path, name: str) -> None:
    build(name, tmp_path, **HOW.get(name, {}))
    old, new, message = UNKNOWN[name]
    edit(tmp_path / ("annotations/val.csv" if name == "k400" else LISTS[name]), old, new)
    with pytest.raises(DataError, match=message):
        read_task(load_task(name), tmp_path)


def test_a_part_without_a_clip_is_refused(tmp_path: Path) -> None:
    build("in1k", tmp_path)
    os.rename(tmp_path / "val", tmp_path / "elsewhere")
    with pytest.raises(DataError, match="has no clip for val of in1k"):
        read_task(load_task("in1k"), tmp_path)


def test_too_many_missing_clips_are_refused_and_counted(tmp_path: Path) -> None:
    task = build("k400", tmp_path)
    for clip in (tmp_path / "val").rglob("*00[1-4].mp4"):
        clip.unlink()
    for clip in (tmp_path / "val").rglob("*01[1-4].mp4"):
        clip.unlink()
    with pytest.raises(DataError) as error:
        read_task(task, tmp_path, max_missing=0.5)
    assert "lacks 4 of the 6 clips listed for val, more than 50%" in error.value.message
    assert "_val--00001_000001_000011" in error.value.message and "7 video files" in error.value.message
    listing = read_task(task, tmp_path, max_missing=0.7)
    assert len(listing.missing["val"]) == 4


def test_a_part_of_which_nothing_is_there_is_refused_even_when_all_may_be_missing(tmp_path: Path) -> None:
    build("k400", tmp_path)
    os.rename(tmp_path / "val", tmp_path / ".val")  # hidden names are not looked at
    with pytest.raises(DataError, match="has no clip for val of k400"):
        read_task(load_task("k400"), tmp_path, max_missing=1.0)


def test_classes_without_a_clip_in_train_are_told(tmp_path: Path) -> None:
    build("k400", tmp_path)
    (tmp_path / "train/zumba/xtrain00002_000002_000012.mp4").unlink()
    assert "classes without training clips: 1 of 3: zumba" in read_task(load_task("k400"), tmp_path).notes


K400 = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (K400 + 'zumba,a,0,10,train\n"zumba,b,0,10,train\n', r"train\.csv, line 3: unexpected end of data"),
        (K400 + '"zumba"x,a,0,10,train\n', r"train\.csv, line 2: ',' expected after"),
        ("label,youtube_id,time_start\n", r"train\.csv, line 1: no column time_end; the header is 'label,youtube_id"),
        (K400 + "\nzumba,a,0,10\n", r"train\.csv, line 3: 4 values instead of 5"),
        (K400 + "zumba,a,0,ten,train\n", r"train\.csv, line 2: 'ten' is not an integer"),
        (K400.encode() + "zumba é,a,0,10,train\n".encode("latin-1"), r"train\.csv, line 2 is not in UTF-8"),
        ((K400 + "zumba,a,0,10,train\n").encode("utf-16"), r"train\.csv, line 1 is not in UTF-8"),
        ("", r"train\.csv is empty"),
        ("a/b.mp4 0\na/b.mp4\n", r"train\.csv, line 2: 'a/b\.mp4' is not `path label`"),
    ],
)
def test_a_damaged_csv_is_told_with_file_and_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    build("k400", tmp_path)
    (tmp_path / "annotations/train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        read_task(load_task("k400"), tmp_path)
    assert error.value.hint


def test_a_row_of_audioset_with_other_values_than_four(tmp_path: Path) -> None:
    build("as20k", tmp_path)
    add(tmp_path / "eval_segments.csv", "abcdefghijk, 0.000, 10.000, /m/09x0r,/m/05zppz\n")
    with pytest.raises(DataError, match=r"eval_segments\.csv, line 10: 5 values instead of 4"):
        read_task(load_task("as20k"), tmp_path)


def test_a_list_in_latin_1_without_columns(tmp_path: Path) -> None:
    build("scv2", tmp_path)
    (tmp_path / "testing_list.txt").write_bytes(b"yes/00000003_nohash_0.wav\ncaf\xe9/0_nohash_0.wav\n")
    with pytest.raises(DataError, match=r"testing_list\.txt, line 2 is not in UTF-8"):
        read_task(load_task("scv2"), tmp_path)


def test_linked_folders_are_entered_once_and_dead_links_count_as_missing(tmp_path: Path) -> None:
    build("ssv2", tmp_path / "real")
    root = tmp_path / "root"
    root.mkdir()
    for entry in (tmp_path / "real").iterdir():
        (root / entry.name).symlink_to(entry)
    (tmp_path / "real/20bn-something-something-v2/again").symlink_to(root)
    (tmp_path / "real/20bn-something-something-v2/1005.webm").symlink_to("nowhere")
    listing = read_task(load_task("ssv2"), root)
    assert len(listing.items) == 11
    assert listing.missing == {"train": ["1005"]}


def test_media_of_another_kind_are_not_taken(tmp_path: Path) -> None:
    build("ssv2", tmp_path)
    for clip in tmp_path.rglob("*.webm"):
        clip.rename(clip.with_suffix(".wav"))
    with pytest.raises(DataError, match=r"lacks 6 of the 6 clips .* looked among 0 video files"):
        read_task(load_task("ssv2"), tmp_path)


def test_labels_are_read_from_json_of_numbers_too(tmp_path: Path) -> None:
    build("ssv2", tmp_path)
    file = tmp_path / "something-something-v2-labels.json"
    file.write_text(json.dumps({name: int(n) for name, n in json.loads(file.read_text()).items()}))
    assert len(read_task(load_task("ssv2"), tmp_path).classes) == 3
