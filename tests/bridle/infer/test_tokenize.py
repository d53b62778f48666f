"""`bridle tokenize --out`: in parts, interrupted and shared, with the same bytes as in one go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
import torch
import webdataset
from standins import free_port, small, write_sound

import bridle
from bridle import api
from bridle.checkpoint import save_model, snapshot
from bridle.errors import BridleError, DataError, EnvironmentFault, UsageError
from bridle.infer import Failures, encode
from bridle.infer import tokenize as tokens
from bridle.inputs import Source, find_sets
from bridle.schema import Modality
from bridle.sharding import Options, shard, verify
from bridle_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")  # decoding processes are forked
FILES = 21
HELD = """
import os, sys, time
from bridle.infer import tokenize
from bridle.formats.codes import compact
tokenize.write_tokens.__kwdefaults__["part_files"] = 4
add, free = compact.CodesWriter.add, iter(range({free}))
def held(*arguments):
    while next(free, None) is None and not os.path.exists({go!r}):
        time.sleep(0.01)
    add(*arguments)
compact.CodesWriter.add = held
from bridle_cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(snapshot(small("audio")), folder)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 sounds of three classes, and one that is none."""
    folder = tmp_path_factory.mktemp("raw")
    for value in range(FILES):
        write_sound(folder / f"class{value % 3}" / f"{value:02}.wav", value + 1)
    (folder / "class1" / "10-broken.wav").write_bytes(b"RIFF\0\0")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tokens.write_tokens.__kwdefaults__, "part_files", 4)


@pytest.fixture(scope="module")
def whole(checkpoint: Path, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "whole.codes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tokens.write_tokens.__kwdefaults__, "part_files", 4)
        api.write_codes([raw], out, checkpoint=checkpoint, workers=0)
    return out.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- one go --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["codes", "parquet", "npz", "safetensors"])
def test_every_form_holds_what_is_printed(checkpoint: Path, raw: Path, tmp_path: Path, form: str) -> None:
    out, events = tmp_path / "new" / f"c.{form}", list[tuple[int, int]]()

    def listen(kind: str, **fields: Any) -> None:
        if kind == "progress":
            events.append((fields["done"], fields["total"]))

    result = api.write_codes([raw], out, checkpoint=checkpoint, on_event=listen)
    printed = list(api.tokenize([raw], checkpoint=checkpoint))
    assert list(result) == ["out", "files", "levels", "patches", "bytes", "skipped", "seconds", "failures"]
    assert (result["files"], result["levels"], result["skipped"]) == (FILES, 3, 1)
    assert result["failures"][0]["file"] == "class1/10-broken.wav" and result["failures"][0]["reason"]
    assert result["bytes"] == out.stat().st_size and result["out"] == str(out)
    assert events[-1] == (FILES + 1, FILES + 1) and events == sorted(set(events))
    assert names(out.parent) == [out.name]  # no parts, nothing temporary
    for codes, record in zip(bridle.read_codes(out), printed, strict=True):
        assert (codes.file, list(codes.grid)) == (record["file"], record["grid"])
        assert codes.times_T == pytest.approx(record["times"], abs=1e-9)
        assert codes.codes_THWQ.movedim(-1, 0).tolist() == record["codes"]


def test_the_first_levels_are_those_of_all(checkpoint: Path, raw: Path, tmp_path: Path) -> None:
    api.write_codes([raw], tmp_path / "all.codes", checkpoint=checkpoint)
    assert api.write_codes([raw], tmp_path / "two.codes", checkpoint=checkpoint, levels=2)["levels"] == 2
    for two, three in zip(
        bridle.read_codes(tmp_path / "two.codes"), bridle.read_codes(tmp_path / "all.codes", levels=2), strict=True
    ):
        assert torch.equal(two.codes_THWQ, three.codes_THWQ) and two.levels == 2
    printed = next(api.tokenize([raw], checkpoint=checkpoint, levels=1))
    assert (printed["levels"], len(printed["codes"])) == (1, 1)
    for wrong in (
        lambda: api.write_codes([raw], tmp_path / "x.codes", checkpoint=checkpoint, levels=4),
        lambda: list(api.tokenize([raw], checkpoint=checkpoint, levels=4)),
    ):
        with pytest.raises(UsageError, match="3 levels, not 4"):
            wrong()
    assert names(tmp_path) == ["all.codes", "two.codes"]


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_that_decode_change_nothing(
    checkpoint: Path, raw: Path, tmp_path: Path, whole: bytes, workers: int
) -> None:
    api.write_codes([raw], out := tmp_path / "c.codes", checkpoint=checkpoint, workers=workers)
    assert out.read_bytes() == whole


def test_shards_and_their_folder_have_the_same_codes(checkpoint: Path, raw: Path, tmp_path: Path) -> None:
    shard(raw, Modality.AUDIO, tmp_path / "set")
    for place, workers in ((raw, 0), (tmp_path / "set", 0), (tmp_path / "set", 2)):
        api.write_codes([place], tmp_path / f"{place.name}{workers}.codes", checkpoint=checkpoint, workers=workers)
    read = {path.stem: {codes.file: codes for codes in bridle.read_codes(path)} for path in tmp_path.glob("*.codes")}
    assert read["set0"].keys() == read["set2"].keys() == read[f"{raw.name}0"].keys()
    assert (tmp_path / "set0.codes").read_bytes() == (tmp_path / "set2.codes").read_bytes()
    for file, codes in read["set0"].items():
        assert torch.equal(codes.codes_THWQ, read[f"{raw.name}0"][file].codes_THWQ)


def test_a_decoding_process_that_is_killed_costs_no_finished_part(
    checkpoint: Path, raw: Path, tmp_path: Path, whole: bytes
) -> None:
    out = tmp_path / "c.codes"

    def kill(kind: str, **fields: Any) -> None:
        if kind == "progress" and fields["done"] == 6:
            for child in forks.children():
                os.kill(child, signal.SIGKILL)

    with pytest.raises(EnvironmentFault, match="decoding process was killed"):
        api.write_codes([raw], out, checkpoint=checkpoint, workers=1, on_event=kill)
    assert (tmp_path / ".c.codes.parts" / "000000").exists()
    api.write_codes([raw], out, checkpoint=checkpoint, workers=1, resume=True)
    assert out.read_bytes() == whole


# --- interrupted -----------------------------------------------------------------------------------------------------


def run(arguments: list[str], free: int, go: Path = Path("never"), **environment: str) -> subprocess.Popen[str]:
    """The command, which writes the codes of so many files and then waits until `go` exists."""
    command = [sys.executable, "-c", HELD.format(free=free, go=str(go)), "tokenize", *arguments]
    return forks.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | environment)  # fmt: skip


def wait_for(done: Callable[[], bool]) -> None:
    while not done():  # pytest bounds the time
        time.sleep(0.02)


def test_a_killed_command_goes_on_with_the_same_bytes(
    checkpoint: Path, raw: Path, tmp_path: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out, parts = tmp_path / "c.codes", tmp_path / ".c.codes.parts"
    arguments = [str(raw), "--checkpoint", str(checkpoint), "--out", str(out), "--workers", "1"]
    killed = run(arguments, free=10)
    wait_for(lambda: (parts / "000001").exists())
    killed.kill()
    killed.communicate()
    assert not out.exists() and not (parts / "000005").exists()
    before = (parts / "000000").stat().st_mtime_ns

    assert main(["tokenize", *arguments]) == 2
    said = capsys.readouterr().err
    assert "is unfinished: its command was interrupted" in said and "--resume" in said and "--overwrite" in said
    written: list[int] = []

    def listen(kind: str, **fields: Any) -> None:
        if kind == "parts":
            written.append((parts / "000000").stat().st_mtime_ns)

    api.write_codes([raw], out, checkpoint=checkpoint, resume=True, on_event=listen)
    assert written == [before]  # what was there is not computed again
    assert out.read_bytes() == whole
    assert names(tmp_path) == ["c.codes"]


@pytest.fixture
def unfinished(checkpoint: Path, raw: Path, tmp_path: Path) -> Path:
    """What is left of a command that was stopped after its first part."""

    def stop(kind: str, **fields: Any) -> None:
        if kind == "progress" and fields["done"] > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.write_codes([raw], tmp_path / "c.codes", checkpoint=checkpoint, on_event=stop)
    assert names(tmp_path) == [".c.codes.parts"]
    return tmp_path / "c.codes"


def test_other_work_is_not_resumed_and_says_what_differs(
    checkpoint: Path, raw: Path, unfinished: Path, tmp_path_factory: pytest.TempPathFactory, whole: bytes
) -> None:
    elsewhere = tmp_path_factory.mktemp("else")
    other = small("audio")
    with torch.no_grad():
        other.tokenizer.quantizer.codebook_QKC.add_(0.1)
    (elsewhere / "model").mkdir()
    save_model(snapshot(other), elsewhere / "model")
    shutil.copytree(raw, elsewhere / "raw")
    write_sound(elsewhere / "raw" / "class0" / "more.wav", 3)

    def go_on(inputs: list[Path], model: Path = checkpoint, **options: Any) -> None:
        api.write_codes(inputs, unfinished, checkpoint=model, resume=True, **options)

    for said, wrong in (
        ("with model", lambda: go_on([raw], elsewhere / "model")),
        ("with inputs", lambda: go_on([elsewhere / "raw"])),
        ("with levels 3, not 2", lambda: go_on([raw], levels=2)),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            wrong()
        assert "--overwrite" in caught.value.hint
    kept = (raw / "class0" / "00.wav").stat()
    os.utime(raw / "class0" / "00.wav", ns=(0, 1))
    with pytest.raises(UsageError, match="with content of the files"):
        go_on([raw])
    os.utime(raw / "class0" / "00.wav", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    go_on([raw])
    assert unfinished.read_bytes() == whole


def test_overwrite_starts_again(checkpoint: Path, raw: Path, unfinished: Path) -> None:
    api.write_codes([raw], unfinished, checkpoint=checkpoint, levels=1, overwrite=True)
    assert {codes.levels for codes in bridle.read_codes(unfinished)} == {1}
    before = unfinished.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        api.write_codes([raw], unfinished, checkpoint=checkpoint)
    with pytest.raises(UsageError, match="3 levels, not 9"):
        api.write_codes([raw], unfinished, checkpoint=checkpoint, levels=9, overwrite=True)
    assert unfinished.read_bytes() == before
    assert names(unfinished.parent) == ["c.codes"]


def test_a_damaged_part_is_noticed(checkpoint: Path, raw: Path, unfinished: Path) -> None:
    part = unfinished.with_name(".c.codes.parts") / "000000"
    part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a finished part cannot be used: .*parts/000000 is cut") as caught:
        api.write_codes([raw], unfinished, checkpoint=checkpoint, resume=True)
    assert caught.value.hint.startswith("Remove it and continue with --resume")
    part.unlink()
    assert api.write_codes([raw], unfinished, checkpoint=checkpoint, resume=True)["files"] == FILES


def test_interrupted_by_hand_says_how_to_go_on(checkpoint: Path, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.codes"
    process = run([str(raw), "--checkpoint", str(checkpoint), "--out", str(out), "--workers", "2"], free=10)
    wait_for(lambda: (tmp_path / ".c.codes.parts" / "000001").exists())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said


def test_two_commands_do_not_write_one_output(checkpoint: Path, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.codes"
    tried: list[int] = []

    def listen(kind: str, **fields: Any) -> None:
        if kind == "parts":
            for options in ({"resume": True}, {"overwrite": True}):
                if not (child := os.fork()):
                    try:
                        api.write_codes([raw], out, checkpoint=checkpoint, workers=0, **options)
                    except UsageError as error:
                        os._exit(2 if error.message == f"{out} is being written by another process." else 3)
                    os._exit(0)
                tried.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    api.write_codes([raw], out, checkpoint=checkpoint, workers=0, on_event=listen)
    assert tried == [2, 2]
    assert len(bridle.read_codes(out)) == FILES


# --- shared ----------------------------------------------------------------------------------------------------------


def beside(rank: int, port: int) -> dict[str, str]:
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}


def test_two_processes_share_the_parts(checkpoint: Path, raw: Path, tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "c.codes"
    arguments = [str(raw), "--checkpoint", str(checkpoint), "--out", str(out), "--workers", "1", "--json"]
    go, port = tmp_path / "go", free_port()
    ranks = [run(arguments, 0, go, **beside(rank, port)) for rank in range(2)]

    def both_write() -> bool:
        assert all(rank.poll() is None for rank in ranks), [rank.communicate() for rank in ranks]
        return len({path.name.rpartition(".")[2] for path in tmp_path.glob(".c.codes.parts/.00000*")}) == 2

    wait_for(both_write)
    go.touch()
    said = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert not (tmp_path / ".c.codes.parts" / "claims").exists()
    assert [bool(stdout) for stdout, _ in said] == [True, False]
    assert json.loads(said[0][0])["files"] == FILES
    assert out.read_bytes() == whole


def test_devices_start_processes_and_one_says_what_is_wrong(
    checkpoint: Path, raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tokenize", str(raw), "--checkpoint", str(checkpoint), "--devices", "2"]
    assert main(arguments) == 2
    assert "--out" in capfd.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "c.txt")]) == 2
    assert capfd.readouterr().err.count("is not a format of codes") == 1


# --- beside the media ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets, the first of several tars and with a sample that was altered since."""
    folder = tmp_path_factory.mktemp("sharded")
    shard(raw, Modality.AUDIO, folder / "a", options=Options(max_size_bytes=60_000))
    shard(raw / "class2", Modality.AUDIO, folder / "b", options=Options(check="header"))
    tar = sorted((folder / "a").glob("*.tar"))[0]
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1
    tar.write_bytes(content)
    return folder


def samples_of(folder: Path) -> Iterator[dict[str, Any]]:
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    yield from webdataset.WebDataset(tars, shardshuffle=False).decode()


def test_codes_stand_beside_the_media(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    out = tmp_path / "with"
    result = api.write_codes([sharded], out, checkpoint=checkpoint, workers=0)
    assert (result["skipped"], result["files"]) == (1, FILES - 1 + 7)
    expected = {codes.file: codes for codes in tokens.tokenize_inputs(load(checkpoint), [sharded])}
    for before, after in zip(find_sets(sharded), find_sets(out), strict=True):
        assert after.folder.name == before.folder.name and after.name == before.name
        assert len(after.shards) == len(before.shards) and after.labels == before.labels
        assert after.options["codes"]["levels"] == 3 and after.options["codes"]["codes"] == 8
        verify(after, decode=3)
        gone = {one["file"] for one in after.rejects}
        keys = [one["__key__"] for one in samples_of(before.folder) if one["json"]["path"] not in gone]
        found = list(samples_of(after.folder))
        assert [one["__key__"] for one in found] == keys
        for sample in found:
            codes = expected[f"{after.folder.name}/{sample['json']['path']}"]
            assert (sample["codes.npy"] == codes.codes_THWQ.movedim(-1, 0).numpy()).all()
            assert sample["codes.npy"].dtype == np.uint8
            assert sample["json"]["codes"] == {"grid": list(codes.grid), "times": pytest.approx(codes.times_T)}
    rejected = [one for manifest in find_sets(out) for one in manifest.rejects if "was changed" in one["reason"]]
    assert len(rejected) == 1
    assert {codes.file for codes in bridle.read_codes(out)} == expected.keys()
    assert len(expected) == result["files"]
    assert {codes.levels for codes in bridle.read_codes(out, levels=2)} == {2}
    with pytest.raises(DataError, match="without codes"):
        bridle.read_codes(sharded / "b")
    with pytest.raises(UsageError, match="started with codes"):  # or samples without codes would come among them
        shard(sharded, Modality.AUDIO, out / "b", options=Options(check="header"), resume=True)
    # and once more from there: a set like any other
    again = api.write_codes([out], tmp_path / "again.codes", checkpoint=checkpoint)
    assert again["files"] == result["files"]


def load(checkpoint: Path) -> Any:
    return bridle.load(checkpoint).model


def test_sets_with_codes_lose_no_index(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    api.write_codes([sharded / "b"], out := tmp_path / "b", checkpoint=checkpoint)
    (index,) = out.glob("index-*.npy")
    content = index.read_bytes()
    index.unlink()
    assert next(api.tokenize([out], checkpoint=checkpoint))["file"]
    assert index.read_bytes() == content  # made again from the tars: codes are not taken for media


def test_a_folder_that_holds_a_set_and_its_copy_is_refused(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    shutil.copytree(sharded / "b", tmp_path / "sets" / "b")
    for source, copy in (("b", "b-with-codes"), ("b-with-codes", "once-more")):
        api.write_codes([tmp_path / "sets" / source], tmp_path / "sets" / copy, checkpoint=checkpoint, overwrite=True)
        for use in (api.pretrain, api.evaluate):
            options = {"dry_run": True} if use is api.pretrain else {"checkpoint": checkpoint}
            with pytest.raises(DataError, match=r"sets/b and .*-codes hold the same clips"):
                use(tmp_path / "sets", **options)
        (named,) = find_sets(tmp_path / "sets" / copy)  # then it is a set like any
        assert named.samples == 7
    shutil.rmtree(tmp_path / "sets" / "b")
    with pytest.raises(DataError, match=r"-codes and .*/once-more hold the same"):
        find_sets(tmp_path / "sets")


@pytest.mark.parametrize(
    ("out", "inputs", "said"),
    [
        ("with", ["raw"], "bridle shard"),
        ("with", ["set", "set"], "several inputs"),
        ("with", ["set/first.tar"], "not a set of shards"),
        ("set", ["set"], "contain one another"),
        ("set/inside", ["set"], "contain one another"),
        ("mine", ["set"], "mine/thesis.txt was not made from"),
        ("s3://bucket/with", ["set"], "object storage"),
    ],
)
def test_places_where_codes_cannot_stand(
    checkpoint: Path, raw: Path, sharded: Path, tmp_path: Path, out: str, inputs: list[str], said: str
) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    shutil.copytree(sharded / "b", tmp_path / "set")
    next((tmp_path / "set").glob("*.tar")).rename(tmp_path / "set" / "first.tar") if "tar" in inputs[0] else None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    before = sorted(map(str, tmp_path.rglob("*")))
    target = out if "://" in out else tmp_path / out
    with pytest.raises(BridleError) as caught:
        api.write_codes([tmp_path / one for one in inputs], target, checkpoint=checkpoint, overwrite=True)
    assert said in str(caught.value)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_archives_of_others_are_not_removed(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    api.write_codes([sharded / "b"], out := tmp_path / "with", checkpoint=checkpoint)
    for place in (out / "backup" / "thesis.tar", out / "thesis.tar", out / "index-mine.npy"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"years of work")
        with pytest.raises(UsageError, match=f"{place} was not made from"):
            api.write_codes([sharded / "b"], out, checkpoint=checkpoint, overwrite=True)
        assert place.read_bytes() == b"years of work"
        place.unlink()
    (out / "backup").rmdir()
    api.write_codes([sharded / "b"], out, checkpoint=checkpoint, overwrite=True)


def test_media_that_the_input_has_not_are_not_removed(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    """Nor such as lie beside codes: they may be the only ones."""
    shutil.copytree(sharded / "b", tmp_path / "foreign" / "b")
    api.write_codes([sharded / "a"], tmp_path / "other", checkpoint=checkpoint)
    api.write_codes([sharded], tmp_path / "more", checkpoint=checkpoint)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out, kept in (("foreign", "foreign/b"), ("other", "other"), ("more", "more/a")):
        with pytest.raises(UsageError, match=f"{tmp_path / kept}/.* was not made from {sharded}/b"):
            api.write_codes([sharded / "b"], tmp_path / out, checkpoint=checkpoint, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_set_with_codes_is_replaced_whole(checkpoint: Path, sharded: Path, tmp_path: Path) -> None:
    api.write_codes([sharded / "b"], out := tmp_path / "with", checkpoint=checkpoint)
    with pytest.raises(UsageError, match="exists"):
        api.write_codes([sharded], out, checkpoint=checkpoint)
    api.write_codes([sharded], out, checkpoint=checkpoint, levels=1, overwrite=True)
    assert {codes.levels for codes in bridle.read_codes(out)} == {1}
    assert names(tmp_path) == ["with"] and names(out) == ["a", "b"]
    (tar,) = (out / "b").glob("*.tar")
    with tarfile.open(tar) as content:
        assert len(content.getnames()) == 3 * 7


def test_files_of_one_name_stay_two_with_a_reason_each(checkpoint: Path, tmp_path: Path) -> None:
    for name, content in (("a", b"RIFF"), ("b", b"")):
        for number in range(7):
            write_sound(tmp_path / "raw" / name / f"{number}.wav", number + 7 * (name == "b"))
        shard(tmp_path / "raw" / name, Modality.AUDIO, tmp_path / "sets" / name, options=Options(check="header"))
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.wav").write_bytes(content)
    read = [codes.file for codes in tokens.tokenize_inputs(load(checkpoint), [tmp_path / "sets"])]
    assert len({*read}) == len(read) == 14 and {name.split("/")[0] for name in read} == {"a", "b"}
    write_sound(tmp_path / "a" / "good.wav", 1)
    both = [Source("x.wav", tmp_path / name / "x.wav", number=number) for number, name in enumerate("ab")]
    failures = Failures()
    assert not list(encode(load(checkpoint), both, lambda batch: (batch.x_BNP,), failures=failures))
    assert len({*failures.numbered.values()}) == 2


def test_what_is_no_readable_file_is_listed(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_sound(tmp_path / "raw" / "m.wav", 1)
    (tmp_path / "raw" / "gone.wav").symlink_to("nowhere")
    (tmp_path / "raw" / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "raw" / "pipe.wav")  # to open it would take forever
    result = api.write_codes([tmp_path / "raw"], tmp_path / "c.codes", checkpoint=checkpoint, workers=1)
    assert (result["files"], result["skipped"]) == (1, 2)
    assert result["failures"] == [
        {"file": "gone.wav", "reason": "a broken link"},
        {"file": "pipe.wav", "reason": "not a regular file"},
    ]


# --- bad input -------------------------------------------------------------------------------------------------------


def test_nothing_is_left_where_nothing_could_be_read(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.wav").write_text("text")
    with pytest.raises(DataError, match=r"nothing could be read\n  a\.wav"):
        api.write_codes([tmp_path / "raw"], tmp_path / "new" / "c.codes", checkpoint=checkpoint)
    with pytest.raises(DataError, match="does not exist"):
        api.write_codes([tmp_path / "gone"], tmp_path / "c.codes", checkpoint=checkpoint)
    assert names(tmp_path) == ["raw"]


def test_an_output_that_cannot_be_written(checkpoint: Path, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.codes").mkdir()
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        api.write_codes([raw], tmp_path / "file" / "c.codes", checkpoint=checkpoint)
    with pytest.raises(UsageError, match="is a folder"):
        api.write_codes([raw], tmp_path / "folder.codes", checkpoint=checkpoint, overwrite=True)
    assert names(tmp_path) == ["file", "folder.codes"]


def test_one_sound_loads_no_library_that_it_does_not_need(checkpoint: Path, raw: Path) -> None:
    """Each of them costs as much as tokenizing a minute."""
    code = "import sys; from bridle_cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, "tokenize", str(raw / "class0" / "00.wav"), "--checkpoint", str(checkpoint)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "torch" in loaded and json.loads(done.stdout.splitlines()[0])["levels"] == 3
    heavy = {"torchvision", "sklearn", "decord", "av", "torch._dynamo", "torch.distributed.fsdp", "pyarrow", "ray",
             "webdataset", "transformers", "sympy", "pandas"}  # fmt: skip
    assert loaded & heavy == set()
