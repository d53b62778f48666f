"""From a messy folder to shards: nothing lost, nothing half-written, the same bytes on every run."""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import signal
import tarfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

import forks
import numpy as np
import pytest
import standins
from PIL import Image
from standins import content_of

from bridle import media, progress
from bridle.archive import Manifest, TarWriter, read_manifest
from bridle.decoding import server, transcode
from bridle.decoding.pool import Workers
from bridle.decoding.server import Failure, Report, Task
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.inputs import find_sets
from bridle.schema import MediaInfo, Modality
from bridle.sharding import Options, Split, shard, verify
from bridle.stream import iterate

build = importlib.import_module("bridle.sharding.build")

STRANGE = ["a b.wav", "dots.in.name.wav", "ünïcode 声.wav", "new\nline.wav", os.fsdecode(b"bad\xff\xfebytes.WAV")]


def write_sound(path: Path, seconds: float = 0.2, value: int = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.arange(round(seconds * 8000)) % 50 * value % 9973).astype("<i2").tobytes())


@pytest.fixture(scope="session")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good sounds under hard names, and everything that is to be refused or left out."""
    raw = tmp_path_factory.mktemp("messy") / "raw"
    for number, name in enumerate(STRANGE):
        write_sound(raw / "strange" / name, value=number + 1)
    write_sound(raw / "one" / "same.wav", value=11)
    write_sound(raw / "two" / "same.wav", value=12)
    write_sound(raw / "unlabelled.wav", value=13)
    Image.new("RGB", (9, 9)).save(raw / "two" / "picture.png")
    os.rename(raw / "two" / "picture.png", raw / "two" / "picture.wav")
    (raw / "one" / "empty.wav").touch()
    (raw / "one" / "text.wav").write_text("not a sound")
    (raw / "one" / "cut.wav").write_bytes((raw / "one" / "same.wav").read_bytes()[:20])
    (raw / "one" / "notes.txt").write_text("ignored")
    (raw / ".hidden").mkdir()
    write_sound(raw / ".hidden" / "no.wav")
    (raw / "one" / "loop").symlink_to(raw)
    (raw / "one" / "self.wav").symlink_to(raw / "one" / "self.wav")
    (raw / "one" / "gone.wav").symlink_to(raw / "nowhere.wav")
    (raw / "a-link-to-two").symlink_to(raw / "two")
    return raw


def index_of(folder: Path) -> str:
    (index,) = folder.glob("index-*.npy")
    return index.name


@pytest.fixture
def few(tmp_path: Path) -> Path:
    for name in ("x/a.wav", "x/b.wav", "y/c.wav"):
        write_sound(tmp_path / "few" / name, value=len(name))
    return tmp_path / "few"


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                assert member.name not in found
                found[member.name] = tar.extractfile(member).read()
    return found


def metas(folder: Path) -> dict[str, dict]:
    """Original path -> JSON, with the media's bytes."""
    content = members(folder)
    found = {}
    for name, text in content.items():
        if name.endswith(".json"):
            meta = json.loads(text)
            found[meta["path"]] = meta | {"content": content[name.replace("json", meta["suffix"])]}
    return found


def test_a_messy_folder_gives_every_good_file_once_and_a_reason_for_each_other(messy: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "sets" / "messy"
    with progress.listening(standins.counting(lambda *at: seen.append(at))):
        result = shard(messy, None, out, workers=2, options=Options(max_size_bytes=20_000))
    again = shard(
        messy, Modality.AUDIO, tmp_path / "again", name="messy", workers=1, options=Options(max_size_bytes=20_000)
    )

    samples = metas(out)
    assert sorted(samples) == sorted(
        ["unlabelled.wav", "one/same.wav", "two/same.wav", *(f"strange/{n}" for n in STRANGE)]
    )
    for path, sample in samples.items():
        assert sample["content"] == (messy / path).read_bytes()
        assert (sample["modality"], sample["suffix"], sample["rate_hz"]) == ("audio", "wav", 8000.0)
        assert sample["duration_s"] == pytest.approx(0.2)
    assert {path: sample["label"] for path, sample in samples.items() if "strange" not in path} == {
        "unlabelled.wav": None, "one/same.wav": "one", "two/same.wav": "two"
    }  # fmt: skip

    reasons = {reject["file"]: reject["reason"] for reject in result["rejects"]}
    assert sorted(reasons) == sorted(
        ["one/empty.wav", "one/text.wav", "one/cut.wav", "one/gone.wav", "one/self.wav", "two/picture.wav"]
    )
    assert "empty" in reasons["one/empty.wav"] and "image, not audio" in reasons["two/picture.wav"]
    assert (result["samples"], result["rejected"], result["ignored"], result["unlabelled"]) == (8, 6, 1, 1)
    assert seen[0] == (0, 12) and seen[-1] == (12, 12)

    manifest = read_manifest(out)
    verify(manifest)
    assert len(manifest.shards) == result["shards"] > 1
    assert all(one.bytes <= 20_000 for one in manifest.shards)
    assert manifest.labels == ["one", "strange", "two"] and manifest.bytes == result["bytes"]
    assert manifest.extent["duration_s"] == pytest.approx([0.2] * 3) and manifest.decoded_bytes == 8 * 6400
    assert manifest.statistics["fbank_std"] > 0.1

    assert again["samples"] == 8
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((out / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("modality", list(Modality))
def test_webdataset_reads_the_sample(sample: Path, tmp_path: Path, modality: Modality) -> None:
    import webdataset

    result = shard(sample / modality, modality, tmp_path / "set", workers=2)
    assert result["rejected"] == 0 and result["shards"] == 1
    raw = {path.relative_to(sample / modality).as_posix(): path for path in (sample / modality).rglob("*.*")}
    url = str(tmp_path / "set" / "set-000000.tar")
    read = list(webdataset.WebDataset(url, shardshuffle=False))
    assert len(read) == result["samples"] == len(raw)
    for one in read:
        meta = json.loads(one["json"])
        assert one[meta["suffix"]] == raw[meta["path"]].read_bytes()
        assert meta["label"] == raw[meta["path"]].parent.name
    assert [found.modality for found in find_sets(tmp_path)] == [modality]


class Crash:
    """Ends the process that unpickles it."""

    bytes = 0

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return os.abort, ()


def test_a_crash_and_a_hang_cost_one_file_each(few: Path) -> None:
    def task(name: str, timeout_s: float = 60.0) -> Task:
        return Task(os.fsencode(few / name), Modality.AUDIO, timeout_s, 0)

    tasks = [
        task("x/a.wav"),
        Crash(),
        task("x/b.wav", 1e-6),
        task("x/b.wav"),
        Crash(),
        task("y/c.wav"),
        task("none.wav"),
    ]
    with Workers(Modality.AUDIO, 2) as workers:
        good, crash, hang, *rest, missing = workers.map(tasks)
    assert isinstance(good, Report) and good.info.duration_s == pytest.approx(0.2)
    assert crash == Failure("the decoder crashed (SIGABRT)")
    assert hang == Failure("the decoder hung and was stopped")
    assert [type(one) for one in rest] == [Report, Failure, Report]
    assert "cannot be read" in missing.reason


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes of others in /proc")
def test_a_process_killed_between_two_files_costs_none(few: Path) -> None:
    tasks = [Task.of(few / name, Modality.AUDIO) for name in ("x/a.wav", "none.wav", "y/c.wav")]
    with Workers(Modality.AUDIO, 1) as workers:
        before = list(workers.map(tasks))
        nurse = workers._nurse.pid
        (child_of_nurse,) = Path(f"/proc/{nurse}/task/{nurse}/children").read_text().split()
        while forks.state(int(child_of_nurse)) != "S":  # until it waits
            time.sleep(0.005)
        os.kill(int(child_of_nurse), signal.SIGKILL)
        assert list(workers.map(tasks)) == before
    assert [type(one) for one in before] == [Report, Failure, Report]


def test_a_cut_avi_counts_as_far_as_it_decodes(shared_data: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("truncated.avi", "cinepak.avi", "mpeg1_es.mpeg", "vector.svg", "text.png"):
        (raw / name).symlink_to(shared_data / "odd" / name)
    result = shard(raw, Modality.VIDEO, tmp_path / "set", workers=1)
    assert (result["samples"], result["rejected"], result["ignored"]) == (3, 0, 2)


@pytest.mark.usefixtures("inline")
def test_outputs_are_replaced_only_on_request_and_only_our_own(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard(few, None, out, options=Options(max_size_bytes=4000))
    (out / "mine.txt").write_text("keep")
    before = members(out)
    with pytest.raises(UsageError) as caught:
        shard(few, None, out)
    assert "--overwrite" in caught.value.hint
    (few / "x/a.wav").unlink()
    result = shard(few, None, out, overwrite=True)
    assert result["samples"] == 2 and len(before) == 6
    assert sorted(path.name for path in out.iterdir()) == [index_of(out), "manifest.json", "mine.txt", "out-000000.tar"]
    assert (out / "mine.txt").read_text() == "keep"
    with pytest.raises(UsageError, match="not a set of shards"):
        shard(few, None, few, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        shard(few, None, out / "mine.txt")


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(done: int, total: int) -> None:
    if done == 2:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("cause", ["full disk", "Ctrl-C"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_everything_as_it_was(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str, exists: bool
) -> None:
    out = tmp_path / "deep" / "out"
    if exists:
        shard(few, None, out)
    before = content_of(out)
    if cause == "full disk":
        monkeypatch.setattr(TarWriter, "_write", no_space)
    listening = progress.listening(standins.counting(interrupted if cause == "Ctrl-C" else None))
    with pytest.raises(KeyboardInterrupt if cause == "Ctrl-C" else EnvironmentFault) as caught, listening:
        shard(few, None, out, overwrite=True)
    if cause != "Ctrl-C":
        assert str(out) in caught.value.message and "the disk is full" in caught.value.message
    assert content_of(out) == before
    assert (tmp_path / "deep").exists() == exists


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("culprit", ["manifest", "000001.tar", "index"])
def test_a_set_that_cannot_be_moved_into_place_waits(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool, culprit: str
) -> None:
    out, one_each = tmp_path / "out", Options(max_size_bytes=1)
    if exists:
        shard(few, None, out)
    before = content_of(out)
    with monkeypatch.context() as broken:
        for name in ("rename", "replace"):
            real = getattr(os, name)
            broken.setattr(
                os, name, lambda a, b, real=real: no_space() if culprit in str(a) and "out" in str(b) else real(a, b)
            )
        with pytest.raises((EnvironmentFault, UsageError)):
            shard(few, None, out, options=one_each, overwrite=True)
    assert content_of(out) == before
    with pytest.raises(UsageError, match=r"interrupted|already"):
        shard(few, None, out, options=one_each)
    shard(few, None, out, options=one_each, resume=True)
    shard(few, None, tmp_path / "whole" / "out", options=one_each)
    assert content_of(out) == content_of(tmp_path / "whole" / "out")


def test_dry_run_decodes_and_writes_nothing(messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "Workers", None)
    result = shard(messy, None, tmp_path / "out", dry_run=True)
    assert (result["samples"], result["shards"], result["dry_run"]) == (12, 1, True)
    assert not (tmp_path / "out").exists()


def test_folders_without_one_kind_of_media(few: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").touch()
    Image.new("RGB", (4, 4)).save(few / "p.png")
    for raw, modality, said in [
        (tmp_path / "absent", None, "does not exist"),
        (few / "x/a.wav", None, "is a file"),
        (tmp_path / "none", None, "no audio, image or video"),
        (few, Modality.VIDEO, "no video files .* 3 audio, 1 image"),
        (few, None, "3 audio, 1 image"),
    ]:
        with pytest.raises(DataError, match=said) as caught:
            shard(raw, modality, tmp_path / "out")
    assert "--modality" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("inline")
def test_nothing_that_decodes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp3").write_text("text")
    with pytest.raises(DataError, match=r"(?s)none of the 1 audio files .*1: unknown .*'a.mp3'"):
        shard(tmp_path / "raw", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("inline")
def test_labels_from_a_table(few: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text('\ufeffFilename,Label\nx/a.wav,"first, one"\nc.wav,second\nx/lost.wav,third\n', encoding="utf-8")
    result = shard(few, None, tmp_path / "out", options=Options(labels=table))
    assert {path: meta["label"] for path, meta in metas(tmp_path / "out").items()} == {
        "x/a.wav": "first, one", "x/b.wav": None, "y/c.wav": "second"
    }  # fmt: skip
    assert (result["labels"], result["unlabelled"], result["unmatched"]) == (["first, one", "second"], 1, 1)
    for text, said in [
        ("file,class\nx/a.wav,1\n", "path,label"),
        ("path,label\nx/a.wav\n", "line 2"),
        ("path,label\nx/a.wav,1\nx/a.wav,2\n", "line 3"),
        ("path,label\nelse.wav,1\n", "matches none"),
        ("path,label\n", "matches none"),
        ('path,label\nx/a.wav,"one\ny/c.wav,two\n', "end of data"),
    ]:
        table.write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=said):
            shard(few, None, tmp_path / "out2", options=Options(labels=table))


@pytest.mark.usefixtures("inline")
def test_a_table_labels_all_parts_of_a_split(tmp_path: Path) -> None:
    for path in ("a/one.wav", "b/one.wav", "a/two.wav", "b/three.wav", "c/four.wav"):
        write_sound(tmp_path / "raw" / path)
    table = tmp_path / "labels.csv"
    table.write_text("path,label\none.wav,first\ntwo.wav,second\nc/four.wav,\nlost.wav,x\n")
    options = Options(labels=table, split=Split({"train": 0.5, "val": 0.5}))
    result = shard(tmp_path / "raw", None, tmp_path / "out", options=options)
    labels = {path: meta["label"] for part in ("train", "val") for path, meta in metas(tmp_path / "out" / part).items()}
    # `one.wav` names two files wherever they went, `four.wav` has an empty label, and one line of four names nothing
    assert labels == dict.fromkeys(["a/one.wav", "b/one.wav", "b/three.wav", "c/four.wav"]) | {"a/two.wav": "second"}
    assert result["unmatched"] == 2


@pytest.mark.usefixtures("inline")
def test_transcode_makes_small_media(sample: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(2):
        (raw / "image").mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (600, 400), (0, 200, 0, 255)).save(raw / "image" / f"{number}.png")
    (raw / "video").symlink_to(sample / "video" / "zoom_in")
    write_sound(raw / "audio" / "a.wav", seconds=0.5)
    expected = {"audio": ("flac", 0.5, None), "image": ("jpg", None, 256), "video": ("mp4", 2.0, 64)}
    for kind, (suffix, duration_s, height) in expected.items():
        shard(raw / kind, Modality(kind), tmp_path / kind, options=Options(transcode=True))
        for meta in metas(tmp_path / kind).values():
            assert (meta["suffix"], meta["duration_s"], meta["height"]) == (suffix, duration_s, height)
            info = server.media.check(meta["content"], f"x.{suffix}")
            assert isinstance(info, MediaInfo) and (info.suffix, info.height) == (suffix, height)


@pytest.mark.usefixtures("inline")
def test_a_manifest_that_disagrees_is_named(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard(few, None, out)
    tar, manifest = out / "out-000000.tar", out / "manifest.json"
    good, text = tar.read_bytes(), manifest.read_text()

    def said(pattern: str, check: Callable[[], object] = lambda: find_sets(out)) -> None:
        with pytest.raises(DataError, match=pattern):
            check()

    tar.write_bytes(good[:-512])
    said(r"out-000000\.tar .* bytes, the manifest says")
    tar.unlink()
    said(r"out-000000\.tar .* cannot be read")
    tar.write_bytes(good[:600] + bytes([good[600] ^ 1]) + good[601:])
    find_sets(out)
    said(r"out-000000\.tar .* hash", lambda: verify(read_manifest(out)))
    for change, pattern in [
        ({"version": 2}, "version 2"),
        ({"samples": 4}, "is inconsistent"),
        ({"modality": "smell"}, "damaged"),
        ({"shards": [{"file": "../../etc/passwd", "samples": 3, "bytes": 1, "sha256": ""}]}, "outside"),
    ]:
        manifest.write_text(json.dumps(json.loads(text) | change))
        said(pattern)
    manifest.write_text(text[:50])
    said("not JSON")
    manifest.write_text("{}")
    said("is not a manifest")


def make_set(folder: Path, modality: Modality) -> None:
    folder.mkdir(parents=True)
    audio = modality is Modality.AUDIO
    statistics = {"fbank_mean": -4.0, "fbank_std": 4.0} if audio else {"pixel_mean": [0.5] * 3, "pixel_std": [0.2] * 3}
    extent = {name: [1.0, 1.0, 1.0] for name in ("duration_s", "rate_hz", "frames", "short_side")}
    manifest = Manifest(folder.name, modality, [], 0, 0, statistics=statistics, extent=extent)
    (folder / "manifest.json").write_text(manifest.to_json())


def test_find_sets_of_several_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_sets(tmp_path, Modality.AUDIO)
    assert "bridle shard RAW --modality audio" in caught.value.hint
    make_set(tmp_path / "b", Modality.AUDIO)
    make_set(tmp_path / "a" / "deep", Modality.AUDIO)
    assert [one.name for one in find_sets(tmp_path)] == ["deep", "b"]
    make_set(tmp_path / "c", Modality.VIDEO)
    with pytest.raises(DataError, match="several modalities") as caught:
        find_sets(tmp_path)
    assert "--modality" in caught.value.hint
    assert [one.name for one in find_sets(tmp_path, Modality.VIDEO)] == ["c"]
    with pytest.raises(DataError, match="no image shards"):
        find_sets(tmp_path, Modality.IMAGE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples", "many"),
        ("shards", [{"file": 3}]),
        ("shards", [{"file": "a.tar", "samples": 0, "bytes": 0, "sha256": ""}] * 2),
        ("modality", "smell"),
        ("modality", "image"),
        ("statistics", {}),
        ("statistics", {"fbank_mean": "a", "fbank_std": None}),
        ("statistics", {"fbank_mean": float("nan"), "fbank_std": 1.0}),
        ("statistics", {"fbank_mean": 0.0, "fbank_std": 0.0}),
        ("extent", {"duration_s": [1.0], "rate_hz": [1.0]}),
        ("extent", {"duration_s": [0.0] * 3, "rate_hz": [8000.0] * 3}),
        ("version", True),
    ],
)
def test_a_manifest_of_wrong_types_is_named(tmp_path: Path, key: str, value: object) -> None:
    make_set(tmp_path / "set", Modality.AUDIO)
    path = tmp_path / "set" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DataError, match=r"manifest\.json"):
        find_sets(tmp_path)


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"name": "an app"}'])
def test_a_manifest_beside_an_index_is_ours_whatever_it_says(tmp_path: Path, content: str) -> None:
    make_set(tmp_path / "good", Modality.AUDIO)
    make_set(tmp_path / "lost", Modality.AUDIO)
    (tmp_path / "lost" / "index-0123.npy").touch()
    (tmp_path / "lost" / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"lost/manifest\.json"):
        find_sets(tmp_path)
    next((tmp_path / "lost").glob("index-*")).unlink()
    assert [found.folder.name for found in find_sets(tmp_path)] == ["good"]  # somebody else's


def test_a_tar_stands_for_itself(few: Path, tmp_path: Path) -> None:
    shard(few, Modality.AUDIO, tmp_path / "set", options=Options(max_size_bytes=1))
    manifest = read_manifest(tmp_path / "set")
    assert len(manifest.shards) > 1
    for one in manifest.shards:
        (part,) = find_sets(tmp_path / "set" / one.file)
        assert (part.samples, [found.file for found in part.shards]) == (one.samples, [one.file])
        assert len(list(iterate([part]))) == one.samples
    assert len(list((tmp_path / "set").glob("index-*"))) == 1  # the set's own
    (tmp_path / "set" / "other.tar").touch()
    with pytest.raises(DataError, match="not one of the tars"):
        find_sets(tmp_path / "set" / "other.tar")


@pytest.mark.usefixtures("inline")
def test_what_cannot_be_stored_smaller_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    Image.new("RGB", (70_000, 10)).save(tmp_path / "raw" / "long.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "raw" / "good.png")
    result = shard(tmp_path / "raw", None, tmp_path / "set", options=Options(transcode=True))
    assert result["samples"] == 1
    (reject,) = result["rejects"]
    assert reject["file"] == "long.png" and "transcoded" in reject["reason"]


def test_a_split_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(UsageError, match="not positive"):
        Split({"a": float("nan"), "b": 0.5})
    split = Split({"a": 0.5, "b": 0.5}, r"spk(\d+)|solo")
    assert [split.group_of(name) for name in ("spk7_1", "solo_3", "other")] == ["7", "solo", "other"]


def test_transcoded_videos_have_the_same_bytes_each_time(shared_data: Path) -> None:
    path = sorted((shared_data / "video_motion").rglob("*.mp4"))[900]  # one of which x264's macroblock tree made many
    raw = path.read_bytes()
    info = media.check(raw, path.name, Modality.VIDEO)
    rng = random.Random(0)
    litter, made = [], set()
    for _ in range(30):
        litter.append(rng.randbytes(rng.randrange(200_000)))  # what x264 read was what lay in memory
        made.add(transcode.transcode(raw, info)[1])
    assert len(made) == 1
