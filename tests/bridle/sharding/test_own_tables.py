"""Labels as people have them: tables of spreadsheets and programs, and names that differ from the files' a little."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import unicodedata
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import webdataset

from bridle import api
from bridle.archive import TarReader, describe_sample, load_index, read_manifest, tar_of
from bridle.errors import DataError, UsageError
from bridle.sharding.labels import read_labels
from bridle_cli.main import main

pytestmark = pytest.mark.usefixtures("inline")

TABLE = "filename,diagnosis,patient\na,flu,p1\nb,cold,p2\nc,flu,p1\nd,cold,p3\ne,flu,p4\nf,cold,p2\n"


def make_raw(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names, start=1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes([number, number // 2, 0, number]) * 400)
    return folder


def samples(folder: Path) -> dict[str, dict[str, Any]]:
    """The descriptions in a set, by the path of the file."""
    manifest = read_manifest(folder)
    rows = load_index(folder, manifest.shards)
    told = [describe_sample(TarReader(), tar_of(folder, manifest.shards[int(row["tar"])]), row) for row in rows]
    return {one["path"]: one for one in told}


def labels(folder: Path) -> dict[str, str | None]:
    return {path: one["label"] for path, one in samples(folder).items()}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "raw", [f"ward/{name}.wav" for name in "abcdef"])


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_columns_are_named_and_groups_stay_together(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = write(tmp_path / "cases.csv", TABLE), tmp_path / "out"
    split = ["--split", "train=0.5,val=0.5", "--json"]
    named = ["--labels", str(table), "--path-column", "filename", "--label-column", "Diagnosis"]
    assert main(["shard", str(raw), "--out", str(out), *named, "--group-by", "column:patient", *split]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["labels"], result["unmatched"], result["ungrouped"]) == (6, ["cold", "flu"], 0, 0)
    parts = {part: samples(out / part) for part in ("train", "val")}
    assert all(parts.values())
    found = {path: (one["label"], one["group"], part) for part, of in parts.items() for path, one in of.items()}
    rows = [line.split(",") for line in TABLE.splitlines()[1:]]
    assert {path: one[:2] for path, one in found.items()} == {
        f"ward/{name}.wav": (label, group) for name, label, group in rows
    }
    assert len({(group, part) for _, group, part in found.values()}) == 4  # each of the four patients is in one part
    assert read_manifest(out / "train").options["group_column"] == "patient"

    make_raw(raw, ["ward/g.wav"])
    write(table, TABLE + "g,flu,p3\n")
    assert main(["shard", str(raw), "--out", str(out), *named, "--group-column", "patient", *split, "--resume"]) == 0
    part = next(part for path, (_, _, part) in found.items() if path == "ward/d.wav")
    assert samples(out / part)["ward/g.wav"]["group"] == "p3"
    write(table, TABLE.replace("b,cold,p2", "b,cold,p1"))
    assert main(["shard", str(raw), "--out", str(out), *named, "--group-column", "patient", *split, "--resume"]) == 4
    assert "'ward/b.wav' into the group 'p1'; in the set it is in 'p2'" in capsys.readouterr().err


def test_a_refused_table_is_answered_with_the_options_to_use(raw: Path, tmp_path: Path) -> None:
    for text, said in [
        (TABLE, "add --path-column filename --label-column diagnosis --group-column patient"),
        ("id;a;the case\nx;1;a.wav\ny;2;b.wav\nx;1;c.wav\n", "--path-column 'the case' --label-column id"),
        ("a.wav,flu\nb.wav,cold\n", "first line is data"),
        ("x,y\n1,2\n", "--path-column and --label-column"),
        ("path,label,path\na,1,a\n", "two columns"),
    ]:
        table = write(tmp_path / "cases.csv", text)
        with pytest.raises(DataError) as failure:
            api.shard(raw, out=tmp_path / "out", labels=table, workers=1)
        assert said in str(failure.value)
    table.write_bytes(b"PK\x03\x04\x14\0\x06\0")
    with pytest.raises(DataError, match="not a text file"):
        api.shard(raw, out=tmp_path / "out", labels=table)
    write(table, "path,label,patient\na,flu,\n")
    with pytest.raises(DataError, match="no value in column 'patient'"):
        api.shard(raw, out=tmp_path / "out", labels=table, group_column="patient")
    write(table, TABLE)
    with pytest.raises(DataError, match="no column 'diagnose': did you mean 'diagnosis'"):
        api.shard(raw, out=tmp_path / "out", labels=table, label_column="diagnose")
    with pytest.raises(UsageError, match="--labels TABLE"):
        api.shard(raw, out=tmp_path / "out", label_column="diagnosis")


SPREADSHEETS = {
    "semicolons and Windows-1252": ("cp1252", "\r\n", ";", ""),
    "UTF-8 with a mark": ("utf-8-sig", "\r\n", ",", ""),
    "Unicode text of Excel": ("utf-16", "\r\n", "\t", ""),
    "a line that names the delimiter": ("utf-8", "\n", ";", "sep=;\n"),
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_spreadsheets(tmp_path: Path, kind: str) -> None:
    encoding, end, comma, first = SPREADSHEETS[kind]
    rows = [("path", "label", "note"), ("a.wav", "Vögel, groß", 'he said "a; b"'), ("é.wav", "Käfer", ""), ("", "", "")]
    with open(tmp_path / "labels.csv", "w", encoding=encoding, newline="") as file:
        file.write(first)
        csv.writer(file, delimiter=comma, lineterminator=end).writerows(rows)
    raw = make_raw(tmp_path / "raw", ["a.wav", "é.wav"])
    result = api.shard(raw, out=tmp_path / "out", labels=tmp_path / "labels.csv", workers=1)
    assert labels(tmp_path / "out") == {"a.wav": "Vögel, groß", "é.wav": "Käfer"}
    assert [("Windows-1252, e.g. 'Vögel, groß'" in note) for note in result["notes"]] == [True] * (encoding == "cp1252")


def test_names_that_differ_in_form_alone(tmp_path: Path) -> None:
    files = [
        unicodedata.normalize("NFD", "vögel/é 1.wav"), "x/UPPER.WAV", "x/lower.wav", "x/deep/below.wav",
        "y/whole.v1.wav", "x/bare.wav", "x/twice.wav", "y/twice.wav", "x/away.flac.wav", "y/exact.wav", "y/Exact.wav",
    ]  # fmt: skip
    raw = make_raw(tmp_path / "raw", files)
    named = [
        unicodedata.normalize("NFC", "vögel/é 1.wav"), "x/upper.wav", "X\\LOWER.wav", str(raw / "x/deep/below.wav"),
        "y/whole.v1", "./bare.wav", "twice", "nowhere/bare.wav", "raw/x/away.flac.wav", "y/Exact.wav", "y/exact.wav",
    ]  # fmt: skip
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((name, f"label {n}") for n, name in enumerate(named))])
    assert read_labels(tmp_path / "labels.csv", files, raw)[0][files[0]] == "label 0"  # so reads bridle eval
    (tmp_path / "link").symlink_to(tmp_path)
    linked = tmp_path / "link" / "raw"
    with open(tmp_path / "labels.csv", "a", newline="") as file:
        csv.writer(file).writerow((linked / "x" / "upper.WAV", "label 1"))  # again, and the same
    result = api.shard(linked, out=tmp_path / "out", labels=tmp_path / "labels.csv", workers=1)
    wanted = {file: f"label {number}" for number, file in enumerate(files[:6])} | {files[6]: None, files[7]: None}
    assert labels(tmp_path / "out") == wanted | {files[8]: "label 8", files[9]: "label 10", files[10]: "label 9"}
    assert result["unmatched"] == 2
    (note,) = result["notes"]
    assert "1 lines" in note and "'twice' fits 'x/twice.wav' and 'y/twice.wav'" in note


def test_lines_that_disagree(raw: Path, tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.csv", "path,label,patient\nward/a.wav,flu,p1\nb,cold,p2\nWARD\\A.wav,flu,p1\na,cold,p1\n"
    )
    with pytest.raises(DataError, match=r"line 5: 'a' is labelled 'cold' .*in line 2 'flu'"):
        api.shard(raw, out=tmp_path / "out", labels=table)
    write(table, "path,label,patient\na,flu,p1\na.wav,flu,p2\n")
    assert api.shard(raw, out=tmp_path / "one", labels=table)["unmatched"] == 0  # the same label twice is one
    with pytest.raises(DataError, match=r"line 3: 'a.wav' is labelled 'flu' of 'p2' and in line 2 'flu' of 'p1'"):
        api.shard(raw, out=tmp_path / "out", labels=table, group_column="patient")
    write(table, "path,label\nD:\\scans\\a.wav,flu\n")
    with pytest.raises(DataError, match=r"matches none of the 6 files; it lists 'D:\\\\scans\\\\a.wav', a file is"):
        api.shard(raw, out=tmp_path / "out", labels=table)


RAVEN = (
    "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
    "1\tSpectrogram 1\t1\t0.5\t1.2\t300\t4000\trobin\n"
)
SEGMENTS = {
    "seg.csv": "path,label,start,end\nrec1.wav,robin,0.5,1.2\nrec1.wav,wren,3.0,4.2\n",
    "raven.txt": RAVEN,
    "audacity.txt": "0.500000\t1.200000\trobin\n3.000000\t4.200000\twren\n",
    "birdnet.csv": "Start (s),End (s),Scientific name,Common name,Confidence,File\n0.0,3.0,E. r.,robin,0.9,rec1.wav\n",
    "onsets.tsv": "filename\tonset\toffset\tevent_label\nrec1.wav\t0.5\t1.2\trobin\n",
    "clips.csv": "path,label,start_s,duration_s\nrec1.wav,robin,0.5,0.7\n",
    "events.jsonl": '{"path": "rec1.wav", "label": "robin", "start": 0.5, "end": 1.2}\n',
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_tables_of_segments_are_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw, table = make_raw(tmp_path / "raw", ["rec1.wav"]), write(tmp_path / name, SEGMENTS[name])
    assert main(["shard", str(raw), "--out", str(tmp_path / "out"), "--labels", str(table)]) == 4
    told = capsys.readouterr().err
    assert f"{name} is a table of segments" in told and "whole files" in told and "ffmpeg -ss START" in told
    assert not (tmp_path / "out").exists()


def test_times_of_whole_files_are_ignored_on_demand(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", ["rec1.wav"])
    table = write(tmp_path / "seg.csv", SEGMENTS["clips.csv"])
    api.shard(raw, out=tmp_path / "out", labels=table, label_column="label", workers=1)
    assert labels(tmp_path / "out") == {"rec1.wav": "robin"}
    write(table, SEGMENTS["seg.csv"])  # two events of one recording are never one label
    with pytest.raises(DataError, match="line 3"):
        api.shard(raw, out=tmp_path / "other", labels=table, label_column="label", workers=1)
    write(table, "path,label,duration,end_date\nrec1.wav,wren,4.2,2020\n")  # facts about files, no segments
    api.shard(raw, out=tmp_path / "facts", labels=table, workers=1)
    assert labels(tmp_path / "facts") == {"rec1.wav": "wren"}


# --- tars of other programs, and folders of nothing ------------------------------------------------------------------


def test_tars_of_another_program(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said is done: the files come out, and their labels with them."""
    folder = tmp_path / "their sets"
    folder.mkdir()
    for shard in range(2):
        with webdataset.TarWriter(
            str(tmp_path / "their sets" / f"x-{shard}.tar").replace(" sets/", " sets/")
        ) as writer:
            for number in range(3):  # the same keys in both, as many programs write them
                content = (raw / "ward" / f"{'abcdef'[3 * shard + number]}.wav").read_bytes()
                writer.write({"__key__": f"{number:04d}", "wav": content, "cls": number, "json": {"caption": "x"}})
    for command in (
        ["shard", str(folder)],
        ["shard", str(folder / "x-0.tar")],
        ["shard", "info", str(folder)],
        ["shard", "info", str(folder / "x-1.tar")],
        ["pretrain", "--shards", str(folder), "--out", str(tmp_path / "run")],
    ):
        assert main(command) == 4, command
        told = capsys.readouterr().err
        assert "archives of other programs" in told and "tar -xf" in told and "--labels sidecar" in told
    subprocess.run(["sh", "-c", told.split("then shard them: ")[1].splitlines()[0]], check=True)
    result = api.shard(folder / "media", labels="sidecar", out=tmp_path / "out", workers=1)
    assert (result["samples"], result["labels"], result["unlabelled"]) == (6, ["0", "1", "2"], 0)

    make_raw(folder, ["beside.wav"])
    shutil.rmtree(folder / "media")
    assert "2 below" in api.shard(folder, out=tmp_path / "beside", workers=1)["notes"][0]
    (tmp_path / "out" / "manifest.json").unlink()
    assert main(["shard", "info", str(tmp_path / "out")]) == 4
    assert "its manifest.json is missing" in capsys.readouterr().err


def test_a_folder_in_which_nothing_decodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(120):
        (tmp_path / "raw").mkdir(exist_ok=True)
        content = b"" if number < 100 else b"text"
        (tmp_path / "raw" / f"{number:03d}.wav").write_bytes(content)
    assert main(["shard", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--json"]) == 4
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert (result["samples"], result["shards"], result["rejected"], result["candidates"]) == (0, 0, 120, 120)
    assert [one["file"] for one in result["rejects"]] == [f"{number:03d}.wav" for number in range(120)]
    assert all(one["reason"] for one in result["rejects"])
    assert "none of the 120 audio files" in said.err
    assert re.search(r"^100: .*\('000.wav', '001.wav', '002.wav', ...\)$", said.err, re.MULTILINE)
    assert re.search(r"^20: .*'100.wav'", said.err, re.MULTILINE)
    assert not (tmp_path / "out").exists()
