"""Sharding that is killed, goes on, grows, splits: the same bytes, nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import forks
import numpy as np
import pytest
import standins
from numpy.lib.recfunctions import repack_fields
from PIL import ExifTags, Image
from standins import content_of, write_sound

from bridle import progress
from bridle.archive import ROW, load_index, read_manifest, save_index
from bridle.decoding import server
from bridle.decoding.server import Failure, Report, Task
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.inputs import find_sets
from bridle.sharding import Options, Split, build, describe, journal, shard, verify
from bridle.sharding.plan import place_of
from bridle.stream import iterate
from bridle_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")  # the tests fork


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Forty sounds of eight speakers, two of them broken, one twice."""
    for number in range(40):
        write_sound(tmp_path / "raw" / f"class{number % 3}" / f"{number % 8}_speaker_{number}.wav", number)
    (tmp_path / "raw" / "class0" / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "raw" / "class1" / "empty.wav").touch()
    write_sound(tmp_path / "raw" / "class2" / "copy.wav", 7)
    return tmp_path / "raw"


def paths_in(*folders: Path) -> list[str]:
    """Original paths of all samples, from the tars themselves."""
    found = []
    for folder in folders:
        for tar in sorted(folder.glob("*.tar")):
            with tarfile.open(tar) as file:
                found += [json.loads(file.extractfile(one).read())["path"] for one in file if one.name.endswith("json")]
    return found


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(raw: Path, tmp_path: Path, replaces: bool) -> None:
    options = Options(max_size_bytes=12_000)  # about five sounds a tar
    began = time.monotonic()
    shard(raw, None, tmp_path / "whole" / "set", options=options)
    whole_s = time.monotonic() - began
    expected = content_of(tmp_path / "whole" / "set")
    assert sum(name.endswith(".tar") for name in expected) >= 7
    rng, out = random.Random(0), tmp_path / "set"
    if replaces:
        shard(raw, None, out)
    kills = finished = 0
    while kills < 20:
        untouched = content_of(out)
        process = os.fork()
        if process == 0:
            try:
                resume = not replaces or (out / ".partial" / "journal.sqlite").exists()
                shard(raw, None, out, options=options, resume=resume, overwrite=replaces)
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(rng.uniform(0, whole_s * 0.7))
        os.kill(process, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0:
            finished += 1
            assert content_of(out) == expected
            for path in out.iterdir():  # and from the beginning
                path.unlink()
            if replaces:
                shard(raw, None, out)
            continue
        kills += 1
        if "manifest.json" in content_of(out) and untouched:  # a set that is there is whole: the old one or the new one
            verify(read_manifest(out), decode=0)
    resume = not replaces or (out / ".partial" / "journal.sqlite").exists()  # the last kill may be before
    shard(raw, None, out, options=options, resume=resume, overwrite=replaces)
    assert content_of(out) == expected
    assert not list(out.glob(".*"))


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("way", ["new", "replace", "start over"])
def test_killed_at_each_change_of_the_folder_it_ends_with_the_same_bytes(raw: Path, tmp_path: Path, way: str) -> None:
    """Whatever was killed: the old set or the new one is there, or can be had back; and then the new one is made."""
    replaces = way != "new"
    options = Options(max_size_bytes=40_000)
    shard(raw, None, tmp_path / "whole" / "set", options=options)
    expected = content_of(tmp_path / "whole" / "set")
    for number in range(1000):
        out = tmp_path / str(number) / "set"
        if replaces:
            shard(raw, None, out)
        old = content_of(out)
        process = os.fork()
        if process == 0:
            left = number

            def or_die(real: Callable[..., None]) -> Callable[..., None]:
                def change(*arguments: object, **names: object) -> None:
                    nonlocal left
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
                    real(*arguments, **names)

                return change

            for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
                setattr(os, name, or_die(getattr(os, name)))
            journal.Journal.commit = or_die(journal.Journal.commit)  # type: ignore[method-assign]
            try:
                shard(raw, None, out, options=options, overwrite=replaces)
                os._exit(0)
            except BaseException:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == 0:
            assert content_of(out) == expected and number > 8
            return
        assert code == -signal.SIGKILL
        now = content_of(out)
        if "manifest.json" in now:
            assert now == old or {name: now.get(name) for name in expected} == expected
        if way == "start over":  # the old set comes back before it is replaced once more
            back = dict[str, str]()
            with pytest.raises(KeyboardInterrupt), progress.listening(standins.counting(stop_and(back, out))):
                shard(raw, None, out, options=options, overwrite=True)
            assert back in (old, expected) if number else back == old
            if back:
                verify(read_manifest(out), decode=0)  # and it is whole still, whatever became of the attempt
        finished = now == expected or shard(raw, None, out, options=options, resume=True, overwrite=replaces)
        assert finished and content_of(out) == expected, number
        leftover = [path.name for path in out.glob(".*")]
        assert leftover == [] or (now == expected and shard(raw, None, out, resume=True)["added"] == 0)
    raise AssertionError("it never came to its end")


def stop_and(look: dict[str, str], out: Path) -> Callable[[int, int], None]:
    """Ends a run at its first file, when it has filled `look` with what is there."""

    def stop(done: int, total: int) -> None:
        look.update(content_of(out))
        raise KeyboardInterrupt

    return stop


def test_a_killed_command_leaves_no_process_and_goes_on(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bridle_cli", "shard", str(raw), "--max-size", "12KB", "--workers", "2"]
    out = tmp_path / "set"
    first = forks.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list((out / ".partial").glob("*-000001.tar")) and first.poll() is None:
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    for way in ("--overwrite", "--resume", "--json"):
        inside = forks.run([*command, "--out", str(out), way], capture_output=True, text=True)
        assert inside.returncode == 2 and "another process" in inside.stderr
    first.kill()
    first.wait()
    again = forks.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert again.returncode == 2 and ("--resume" in again.stderr)
    done = forks.run([*command, "--out", str(out), "--resume", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shard(raw, None, tmp_path / "whole" / "set", options=Options(max_size_bytes=12_000), workers=2)
    assert content_of(out) == content_of(tmp_path / "whole" / "set")
    time.sleep(0.5)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert str(raw) not in (process / "cmdline").read_text() or process.name == str(os.getpid())
        except OSError:
            continue


@pytest.mark.usefixtures("inline")
def test_other_options_do_not_go_on_with_a_run(raw: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    options = Options(max_size_bytes=12_000)
    with pytest.raises(KeyboardInterrupt), progress.listening(standins.counting(stop)):
        shard(raw, None, tmp_path / "set", options=options)
    with pytest.raises(UsageError, match="max_size_bytes 12000, not 13000"):
        shard(raw, None, tmp_path / "set", options=Options(max_size_bytes=13_000), resume=True)
    seen: list[tuple[int, int]] = []
    with progress.listening(standins.counting(lambda *at: seen.append(at))):
        shard(raw, None, tmp_path / "set", options=options, resume=True)
    assert 10 <= seen[0][0] <= 20 and seen[-1] == (43, 43)  # what stands in whole tars is not done again


@pytest.mark.usefixtures("inline")
def test_files_that_came_later_are_added(raw: Path, tmp_path: Path) -> None:
    options = Options(max_size_bytes=12_000)
    shard(raw, None, tmp_path / "set", options=options)
    before, samples = content_of(tmp_path / "set"), read_manifest(tmp_path / "set").samples
    unchanged = shard(raw, None, tmp_path / "set", options=options, resume=True)
    assert content_of(tmp_path / "set") == before and unchanged["added"] == 0
    for number in range(100, 110):
        write_sound(raw / "later" / f"{number}.wav", number)
    write_sound(raw / "class0" / "broken.wav", 200)  # mended
    write_sound(raw / "later" / "copy of an old one.wav", 3)
    result = shard(raw, None, tmp_path / "set", options=options, resume=True)
    assert (result["added"], result["samples"], result["rejected"]) == (12, samples + 12, 1)
    after = content_of(tmp_path / "set")
    assert all(after[name] == content for name, content in before.items() if name.endswith(".tar"))
    manifest = read_manifest(tmp_path / "set")
    assert manifest.samples == samples + 12 and "later" in manifest.labels
    assert "later/copy of an old one.wav" in {one["file"] for one in manifest.duplicates}
    assert sorted(paths_in(tmp_path / "set")) == sorted(meta["path"] for meta, _ in iterate([manifest]))
    assert max(Counter(paths_in(tmp_path / "set")).values()) == 1
    verify(manifest)
    assert len(list((tmp_path / "set").glob("index-*.npy"))) == 1
    with pytest.raises(UsageError, match="dedup False, not True"):
        shard(raw, None, tmp_path / "set", options=Options(dedup=True), resume=True)


@pytest.mark.usefixtures("inline")
def test_duplicates_are_told_and_dropped_on_request(raw: Path, tmp_path: Path) -> None:
    result = shard(raw, None, tmp_path / "all")
    (pair,) = read_manifest(tmp_path / "all").duplicates
    assert {pair["file"], pair["of"]} == {"class2/copy.wav", "class1/7_speaker_7.wav"}
    assert (result["samples"], result["duplicates"], result["dropped"]) == (41, 1, 0)
    result = shard(raw, None, tmp_path / "once", options=Options(dedup=True))
    assert (result["samples"], result["duplicates"], result["dropped"]) == (40, 1, 1)
    assert sorted([*paths_in(tmp_path / "once"), pair["file"]]) == sorted(paths_in(tmp_path / "all"))
    before = content_of(tmp_path / "once")
    for _ in range(2):
        shard(raw, None, tmp_path / "once", options=Options(dedup=True), resume=True)
    assert content_of(tmp_path / "once") == before


@pytest.mark.usefixtures("inline")
def test_a_split_keeps_groups_together_and_files_in_their_part(raw: Path, tmp_path: Path) -> None:
    split = Split({"train": 0.6, "val": 0.4}, group_by=r"(\d)_speaker")
    result = shard(raw, None, tmp_path / "set", options=Options(split=split))
    train, val = (paths_in(tmp_path / "set" / part) for part in ("train", "val"))
    assert sorted(train + val) == sorted({*train, *val}) and len(train) + len(val) == result["samples"] == 41
    speakers = [{Path(path).name[0] for path in part if "speaker" in path} for part in (train, val)]
    assert speakers[0] and speakers[1] and not speakers[0] & speakers[1]
    assert {part: one["samples"] for part, one in result["splits"].items()} == {"train": len(train), "val": len(val)}
    assert result["rejected"] == 2
    for number in range(40, 60):
        write_sound(raw / "more" / f"{number % 8}_speaker_{number}.wav", number)
    shard(raw, None, tmp_path / "again", options=Options(split=split))
    assert set(train) <= set(paths_in(tmp_path / "again" / "train"))
    assert set(val) <= set(paths_in(tmp_path / "again" / "val"))
    for shares in ({"train": 0.5, "val": 0.4}, {"train": 1.5, "val": -0.5}, {"tr/ain": 1.0}):
        with pytest.raises(UsageError, match="--split"):
            Split(shares)
    with pytest.raises(UsageError, match="regular expression"):
        Split({"all": 1.0}, "(")
    with pytest.raises(UsageError, match="train, val"):  # without the split that made it
        shard(raw, None, tmp_path / "set", resume=True)
    assert shard(raw, None, tmp_path / "set", options=Options(split=split), resume=True)["added"] == 20


@pytest.mark.usefixtures("inline")
def test_copies_do_not_reach_over_parts(raw: Path, tmp_path: Path) -> None:
    for number in range(40):
        write_sound(raw / "copies" / f"{number}.wav", number)
    split = Split({"train": 0.5, "val": 0.5})
    result = shard(raw, None, tmp_path / "set", options=Options(split=split, dedup=True))
    contents = Counter()
    for part in ("train", "val"):
        contents.update(clip.data.numpy().tobytes() for _, clip in iterate([read_manifest(tmp_path / "set" / part)]))
    assert set(contents.values()) == {1} and result["samples"] == 40 and result["dropped"] == 41
    sides = [{Path(path).stem for path in paths_in(tmp_path / "set" / part)} for part in ("train", "val")]
    assert len(sides[0]) + len(sides[1]) == 40
    for number in range(40):
        write_sound(raw / "later" / f"{number}.wav", number)
    again = shard(raw, None, tmp_path / "set", options=Options(split=split, dedup=True), resume=True)
    assert again["added"] == 0  # whatever their side, they are on one already
    other = Options(split=Split({"train": 0.8, "val": 0.2}), dedup=True)
    with pytest.raises(UsageError, match="split"):  # files would change sides
        shard(raw, None, tmp_path / "set", options=other, resume=True)


@pytest.mark.usefixtures("inline")
def test_a_signal_while_the_manifest_takes_its_place_loses_nothing(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(raw, None, tmp_path / "whole" / "set")
    replace = os.replace

    def signalled(source: Path, target: Path) -> None:
        replace(source, target)
        if target == tmp_path / "set" / "manifest.json":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", signalled)
        shard(raw, None, tmp_path / "set")
    shard(raw, None, tmp_path / "set", options=Options(), resume=True)
    assert content_of(tmp_path / "set") == content_of(tmp_path / "whole" / "set")


@pytest.mark.usefixtures("inline")
def test_what_would_lose_or_double_samples_is_refused(raw: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    options, out = Options(max_size_bytes=12_000), tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), progress.listening(standins.counting(stop)):
        shard(raw, None, out, options=options)
    raw.rename(tmp_path / "away")
    with pytest.raises(DataError, match="does not exist"):  # and not: every file is rejected
        shard(raw, None, out, options=options, resume=True)
    (tmp_path / "away").rename(raw)
    (out / ".partial" / "journal.sqlite").write_bytes(b"damaged" * 1000)
    with pytest.raises(EnvironmentFault, match="journal"):
        shard(raw, None, out, options=options, resume=True)
    shutil.rmtree(out / ".partial")
    shard(raw, None, out, options=options)
    with pytest.raises(UsageError, match="not a folder for several"):  # its samples would stand there twice
        shard(raw, None, out, options=Options(split=Split({"train": 0.5, "val": 0.5})))
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"name": "../../elsewhere"}))
    with pytest.raises(DataError, match="elsewhere"):
        shard(raw, None, out, options=options, resume=True)


@pytest.mark.usefixtures("inline")
def test_a_damaged_index_is_made_again(raw: Path, tmp_path: Path) -> None:
    shard(raw, None, tmp_path / "set")
    (manifest,) = find_sets(tmp_path / "set")
    (path,) = (tmp_path / "set").glob("index-*.npy")
    good, rng = path.read_bytes(), random.Random(0)
    tar = tmp_path / "set" / manifest.shards[0].file
    for number in range(300):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 1, 8))):
            bad[rng.randrange(128 if number % 2 else len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad[: len(bad) // 2] if number % 10 == 0 else bad)
        load_index(manifest.folder, manifest.shards)
        assert path.read_bytes() == good  # to the last bit, checksums included
    np.savez(path.with_suffix(""), np.zeros(3))
    path.with_suffix(".npz").replace(path)
    assert len(list(iterate([manifest]))) == 41
    path.unlink()
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match=f"{tar.name} .* hash"):
        load_index(manifest.folder, manifest.shards)


@pytest.mark.usefixtures("inline")
def test_an_index_of_before_there_were_checksums_is_completed_by_verify(raw: Path, tmp_path: Path) -> None:
    shard(raw, None, tmp_path / "set")
    (manifest,) = find_sets(tmp_path / "set")
    (path,) = (tmp_path / "set").glob("index-*.npy")
    good = path.read_bytes()
    names = [name for name in ROW.names or () if not name.endswith("crc")]
    save_index(manifest.folder, manifest.shards, repack_fields(load_index(manifest.folder, manifest.shards)[names]))
    assert "media_crc" not in (load_index(manifest.folder, manifest.shards).dtype.names or ())
    verify(manifest, decode=0)
    assert path.read_bytes() == good


@pytest.mark.usefixtures("inline")
def test_labels_in_every_form(raw: Path, tmp_path: Path) -> None:
    names = ["class0/0_speaker_0.wav", "class1/1_speaker_1.wav"]
    tables = {
        "a.tsv": "file\tlabel\n" + "".join(f"{name}\tx, y\n" for name in names),
        "b.jsonl": "".join(json.dumps({"path": name, "labels": ["b", "a"]}) + "\n\n" for name in names),
        "c.csv": "path,labels\n" + "".join(f"{name},a;b;a\n" for name in names),
    }
    for table, text in tables.items():
        (tmp_path / table).write_text(text)
        result = shard(raw, None, tmp_path / f"set-{table[0]}", options=Options(labels=tmp_path / table))
        metas = {meta["path"]: meta for meta, _ in iterate(find_sets(tmp_path / f"set-{table[0]}"))}
        assert result["unlabelled"] == 39
        if table == "a.tsv":
            assert [metas[name]["label"] for name in names] == ["x, y"] * 2 and result["labels"] == ["x, y"]
        else:
            assert [metas[name]["labels"] for name in names] == [["a", "b"]] * 2 and result["labels"] == ["a", "b"]
            assert metas[names[0]]["label"] is None
    (raw / "class0" / "0_speaker_0.json").write_text('{"label": "beside"}')
    (raw / "class1" / "1_speaker_1.wav.json").write_text('{"labels": ["p", "q"]}')
    result = shard(raw, None, tmp_path / "set-d", options=Options(labels="sidecar"))
    assert result["labels"] == ["beside", "p", "q"] and result["unlabelled"] == 39
    (raw / "class0" / "0_speaker_0.json").write_text("[1")
    with pytest.raises(DataError, match=r"0_speaker_0\.json"):
        shard(raw, None, tmp_path / "set-e", options=Options(labels="sidecar"))
    (raw / "class0" / "0_speaker_0.json").write_text('{"labels": ["A", null]}')
    with pytest.raises(DataError, match=r"0_speaker_0\.json"):
        shard(raw, None, tmp_path / "set-e", options=Options(labels="sidecar"))
    rows = [{"labels": ["", " q "]}, {"labels": None, "label": " A"}, {"label": " "}]
    text = "".join(json.dumps({"path": f"class0/{n}_speaker_{n}.wav"} | row) + "\n" for n, row in zip((0, 3, 6), rows))
    (tmp_path / "odd.jsonl").write_text(text)
    result = shard(raw, None, tmp_path / "set-g", options=Options(labels=tmp_path / "odd.jsonl"))
    assert result["labels"] == ["A", "q"] and result["unlabelled"] == 39
    (tmp_path / "wide.csv").write_text("path,label\nclass0/0_speaker_0.wav,a\n", "utf-16")
    assert shard(raw, None, tmp_path / "set-w", options=Options(labels=tmp_path / "wide.csv"))["labels"] == ["a"]
    (tmp_path / "two.csv").write_text("path,label\nclass0/0_speaker_0.wav,A\n0_speaker_0.wav , B\n")
    with pytest.raises(DataError, match=r"line 3: '0_speaker_0\.wav' is labelled 'B' and in line 2 'A'"):
        shard(raw, None, tmp_path / "set-h", options=Options(labels=tmp_path / "two.csv"))
    (tmp_path / "bad.jsonl").write_text('{"path": "x.wav", "label": "a"}\n{"label": "b"}\n')
    with pytest.raises(DataError, match="line 2"):
        shard(raw, None, tmp_path / "set-f", options=Options(labels=tmp_path / "bad.jsonl"))


@pytest.mark.usefixtures("inline")
def test_a_file_that_changes_while_it_is_read_is_no_sample(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = raw / "class0" / "0_speaker_0.wav"
    work = server.work

    def meddle(task: Task) -> Report | Failure:
        answer = work(task)
        if os.fsdecode(task.path) == str(changing):
            content = bytearray(changing.read_bytes())
            content[-1] ^= 1
            changing.write_bytes(content)
        return answer

    monkeypatch.setattr(server, "work", meddle)
    shard(raw, None, tmp_path / "set")
    reasons = {one["file"]: one["reason"] for one in read_manifest(tmp_path / "set").rejects}
    assert reasons["class0/0_speaker_0.wav"] == "changed while being read"


@pytest.mark.usefixtures("inline")
def test_headers_can_be_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_MEASURED", 1)  # that is decoded anyway
    (tmp_path / "raw").mkdir()
    first, second = sorted(("one.png", "two.png"), key=lambda name: place_of(name, 0))
    for name in (first, second):
        noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        Image.fromarray(noise).save(tmp_path / "raw" / name, exif=exif)
    cut = tmp_path / "raw" / second
    cut.write_bytes(cut.read_bytes()[:4000])  # the header promises more
    full = shard(tmp_path / "raw", None, tmp_path / "full")
    quick = shard(tmp_path / "raw", None, tmp_path / "quick", options=Options(check="header"))
    assert (quick["samples"], full["samples"]) == (2, 1)
    failures: dict[str, str] = {}
    ((meta, clip),) = iterate(find_sets(tmp_path / "quick"), failures)
    assert (meta["height"], meta["width"]) == tuple(clip.data.shape[1:]) == (48, 64)
    assert list(failures) == [second]


@pytest.mark.usefixtures("inline")
def test_a_set_that_was_moved_grows_under_its_own_name(raw: Path, tmp_path: Path) -> None:
    shard(raw, None, tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    write_sound(raw / "class0" / "later.wav", 99)
    result = shard(raw, None, tmp_path / "new", resume=True)
    assert (result["name"], result["added"], result["absent"]) == ("old", 1, 0)
    assert {path.name.split("-")[0] for path in (tmp_path / "new").glob("*.tar")} == {"old"}


@pytest.mark.usefixtures("inline")
def test_adding_with_other_labels_is_refused_and_from_another_folder_told(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard(raw, None, tmp_path / "set")
    with pytest.raises(UsageError, match="labels 'folder', not None"):
        shard(raw, None, tmp_path / "set", options=Options(labels=None), resume=True)
    write_sound(tmp_path / "elsewhere" / "class0" / "x.wav", 99)
    assert main(["shard", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "set"), "--resume", "--json"]) == 0
    assert "none of the 41 files that were in the set is below" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("inline")
def test_a_damaged_journal_is_named_and_started_over(raw: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    options = Options(max_size_bytes=12_000)
    for damage in (b"no database at all", b""):
        with pytest.raises(KeyboardInterrupt), progress.listening(standins.counting(stop)):
            shard(raw, None, tmp_path / "set", options=options)
        journal = tmp_path / "set" / ".partial" / "journal.sqlite"
        journal.write_bytes(damage * 100 or journal.read_bytes()[: journal.stat().st_size // 2])
        with pytest.raises(EnvironmentFault, match="--overwrite"):
            shard(raw, None, tmp_path / "set", options=options, resume=True)
        assert shard(raw, None, tmp_path / "set", options=options, overwrite=True)["samples"] == 41
        shutil.rmtree(tmp_path / "set")


def test_a_file_never_changes_its_part() -> None:
    """What was validated on once must not be trained on with a later version."""
    split = Split({"train": 0.5, "val": 0.5}, r"^([^_]+)_")
    parts = [
        split.part_of(path) for path in ("a/b.wav", "a/c.wav", "d.flac", "7_speaker.wav", "8_speaker.wav", "é.ogg")
    ]
    assert parts == ["val", "val", "train", "val", "val", "train"]


@pytest.mark.usefixtures("inline")
def test_a_part_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    split = Split({"train": 0.5, "val": 0.5})
    for number in range(20):
        write_sound(tmp_path / "raw" / f"{number}.wav", number)
        if split.part_of(f"{number}.wav") == "val":
            (tmp_path / "raw" / f"{number}.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="belong to set-val can be decoded"):
        shard(tmp_path / "raw", None, tmp_path / "set", options=Options(split=split))


def test_verify_names_what_was_altered_and_info_adds_up(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shard(raw, None, out, options=Options(max_size_bytes=12_000), workers=2)
    manifest = read_manifest(out)
    assert verify(manifest, workers=2)["decoded"] == 41
    found = describe(manifest)
    assert found["labels"] == {"class0": 14, "class1": 13, "class2": 14}
    assert found["hours"] == pytest.approx(41 * 0.05 / 3600, abs=1e-3) and found["rates_hz"] == {8000.0: 41}
    tar = out / manifest.shards[2].file
    content = bytearray(tar.read_bytes())
    content[700] ^= 1  # in the first sample's media
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"-000002\.tar .* hash"):
        verify(manifest)
    failures: dict[str, str] = {}
    read = [meta["path"] for meta, _ in iterate([manifest], failures)]
    assert len(read) == 40 and "was changed" in next(iter(failures.values()))
    content[700] ^= 1
    tar.write_bytes(content)
    index = next(out.glob("index-*.npy"))
    rows = np.load(index)
    rows["media"][5] += 512
    save_index(out, manifest.shards, rows)
    with pytest.raises(DataError, match="index"):
        verify(manifest)
    index.unlink()
    assert len(list(iterate([manifest]))) == 41 and index.exists()  # made again from the tars


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("harm", ["removed", "truncated"])
@pytest.mark.parametrize("when", ["while it runs", "before it is resumed"])
def test_a_finished_tar_that_somebody_harms_is_named(raw: Path, tmp_path: Path, harm: str, when: str) -> None:
    options, out = Options(max_size_bytes=12_000), tmp_path / "set"

    def do(done: int, total: int) -> None:
        tars = sorted((out / ".partial").glob("*.tar"))
        if done == 30 and harm == "removed":
            tars[0].unlink()
        elif done == 30:
            os.truncate(tars[0], 1000)
        if done == 30 and when != "while it runs":
            raise KeyboardInterrupt

    failure = DataError if when == "while it runs" else KeyboardInterrupt
    with pytest.raises(failure) as caught, progress.listening(standins.counting(do)):
        shard(raw, None, out, options=options)
    if when != "while it runs":
        with pytest.raises(DataError) as caught:
            shard(raw, None, out, options=options, resume=True)
    assert harm in caught.value.message and "000000.tar" in caught.value.message  # type: ignore[union-attr]
    assert not (out / "manifest.json").exists()
    shard(raw, None, out, options=options, overwrite=True)
    verify(read_manifest(out))


@pytest.mark.usefixtures("inline")
def test_a_part_of_nothing_but_copies_is_told(tmp_path: Path) -> None:
    for number in range(12):
        write_sound(tmp_path / "copies" / f"{number}.wav", 1)
    split = Split({"train": 0.5, "val": 0.5})
    assert len({split.part_of(f"{number}.wav") for number in range(12)}) == 2
    with pytest.raises(DataError, match="copies of others"):
        shard(tmp_path / "copies", None, tmp_path / "set", options=Options(dedup=True, split=split))


def test_a_description_that_is_damaged_names_its_tar(raw: Path, tmp_path: Path, inline: None) -> None:
    shard(raw, None, tmp_path / "set")
    (tar,) = (tmp_path / "set").glob("*.tar")
    content = tar.read_bytes()
    at = content.index(b'{"path"')
    tar.write_bytes(content[:at] + b"[" + content[at + 1 :])
    for look in (lambda manifest: describe(manifest), lambda manifest: shard(raw, None, tmp_path / "set", resume=True)):
        next((tmp_path / "set").glob("index-*"), tar.parent / "none").unlink(missing_ok=True)
        write_sound(raw / "new.wav", 99)
        with pytest.raises(DataError, match=r"000000\.tar") as caught:
            look(read_manifest(tmp_path / "set"))
        assert "Copy the set again" in caught.value.hint


@pytest.mark.usefixtures("inline")
def test_an_expression_that_groups_nothing_is_refused(raw: Path, tmp_path: Path) -> None:
    def split(expression: str) -> Options:
        return Options(split=Split({"train": 0.5, "val": 0.5}, expression))

    with pytest.raises(UsageError, match="matches none of the 43 files"):
        shard(raw, None, tmp_path / "none", options=split("zzz"))
    assert not (tmp_path / "none").exists()
    assert shard(raw, None, tmp_path / "set", options=split(r"(\d)_speaker"))["ungrouped"] == 3
