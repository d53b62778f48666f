"""A folder from elsewhere is data: nothing in it runs, reaches outside it, makes a request, or takes memory unbounded.

Each case is a folder as somebody might send it, and the command that a user would give.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forks
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from standins import small, small_recipe, write_sound

from bridle import api, media
from bridle.archive import load_index, read_npy
from bridle.checkpoint import read_model, read_tested, save_model, snapshot
from bridle.checkpoint.files import read_json, write_json, write_tensors
from bridle.children import python
from bridle.cluster import Cluster
from bridle.errors import DataError, MediaError, UsageError, redacted
from bridle.formats import read_codes, read_vectors
from bridle.formats.array_file import write_arrays
from bridle.infer.parts_folder import begun
from bridle.inputs import find_all_sets
from bridle.outputs import written
from bridle.schema import MediaInfo, Modality
from bridle.sharding.journal import Journal
from bridle.storage import Remote, locate
from bridle_cli.main import main

ROOT = Path(__file__).parents[2]
SECRET = "zip://a::s3://AKIAKEY:SEC/RET@bucket/x"

pytestmark = pytest.mark.timeout(120)  # what waits for a pipe, or loops, fails here


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in range(4):
        write_sound(tmp_path / "raw" / f"{number}.wav", number)
    return tmp_path / "raw"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's, outside the folder that came from elsewhere."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "keep.txt").write_text("mine")
    return tmp_path / "victim" / "keep.txt"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "model"
    place.mkdir()
    save_model(snapshot(small("audio")), place)
    return place


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of images."""
    place = tmp_path_factory.mktemp("run") / "run"
    api.pretrain(shards, recipe=small_recipe(), out=place, steps=2)
    return place


def told(capfd: pytest.CaptureFixture[str], *words: str | Path, code: int) -> str:
    """What a command says that must end with this code."""
    found, said = main([*map(str, words)]), capfd.readouterr()
    assert found == code, said
    assert "Traceback" not in said.err and "bug in bridle" not in said.err
    return said.out + said.err


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2 << 30)  # a hole: it takes no room


# Nothing in it is imported.


@pytest.fixture
def planted(raw: Path, tmp_path: Path) -> Path:
    """Media beside modules that leave a mark when they are imported."""
    for name in ("soundfile", "numpy", "av", "bridle", "runpy", "torch", "click"):
        (raw / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n")
    return raw


def as_installed() -> dict[str, str]:
    """The environment of a user: this library is found wherever the current folder may be."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_module_in_the_data_folder_is_never_imported(planted: Path, tmp_path: Path) -> None:
    (planted / "bridle.py").unlink()  # `python -m` imports this very package from there, before any line of ours
    command = [sys.executable, "-m", "bridle_cli", "shard", ".", "--out", str(tmp_path / "set"), "--json"]
    done = subprocess.run(command, cwd=planted, env=as_installed(), capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["samples"] == 4, done.stderr
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_every_process_of_ours_starts_in_one_way(planted: Path, tmp_path: Path) -> None:
    code = "import bridle, soundfile, numpy; print(bridle.__file__, sys.argv[1:])"
    done = subprocess.run(python(code, "-x"), cwd=planted, env=as_installed(), capture_output=True, text=True)
    assert done.stdout.split() == [str(ROOT / "bridle" / "__init__.py"), "['-x']"], done.stderr
    assert not (tmp_path / "ran").exists()
    starts = [
        path.name
        for package in ("bridle", "bridle_cli")
        for path in (ROOT / package).rglob("*.py")
        if "sys.executable" in path.read_text("utf-8")
    ]
    assert starts == ["children.py"]


def test_processes_that_train_together_import_nothing_from_there(planted: Path, tmp_path: Path) -> None:
    code = "from bridle.launch import launch; sys.exit(launch(['--version'], 1, 0))"
    done = subprocess.run(python(code), cwd=planted, env=as_installed(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("bridle, version"), done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_cluster_is_not_told_to_import_from_there(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts the folder in which it is connected on the path of all of its processes."""
    connected: list[str] = []
    worker = SimpleNamespace(worker=SimpleNamespace(print_to_stdstream=None))
    ray: Any = SimpleNamespace(is_initialized=bool, shutdown=bool, _private=worker)
    ray.init = lambda **_: connected.append(os.getcwd())
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.chdir(planted)
    with Cluster():
        assert connected == ["/"] and os.getcwd() == str(planted)


# It names nothing outside itself.


def left_behind(out: Path, **notes: Any) -> Path:
    """The hidden folder of an unfinished set whose journal says this."""
    (out / ".partial").mkdir(parents=True)
    journal = Journal(out / ".partial" / "journal.sqlite")
    for name, value in notes.items():
        journal.note(name, value)
    journal.commit()
    journal.close()
    return out


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("name", ["../victim/keep.txt", "{victim}", "..", ".partial/../../victim/keep.txt"])
def test_a_journal_from_elsewhere_removes_nothing_outside(
    raw: Path, victim: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name = name.format(victim=victim)
    out = left_behind(raw.parent / "set", manifest="{}", index=name, replaces=[name])
    assert "samples" in told(capfd, "shard", raw, "--out", out, "--overwrite", code=0)
    assert victim.read_text() == "mine"


@pytest.fixture
def unfinished(raw: Path, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """The journal of a set that was interrupted, `unfinished` beside the raw folder."""
    with monkeypatch.context() as killed:
        killed.setattr(importlib.import_module("bridle.sharding.build").Build, "write", lambda *_: 1 / 0)
        killed.setattr(importlib.import_module("bridle.sharding.publish"), "_worth_keeping", lambda _: True)
        with pytest.raises(ZeroDivisionError):
            api.shard(raw, out=raw.parent / "unfinished")
    return sqlite3.connect(raw.parent / "unfinished" / ".partial" / "journal.sqlite", isolation_level=None)


ENDLESS = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM c) SELECT randomblob(8), 'x' FROM c"


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE TRIGGER more AFTER INSERT ON note BEGIN INSERT INTO grouping SELECT * FROM ({ENDLESS}); END",
        f"DROP TABLE grouping; CREATE VIEW grouping AS SELECT 1 AS path, name FROM ({ENDLESS.replace('8', 'x')})",
        "CREATE INDEX more ON note (hex(zeroblob(1 + length(value))))",
        "DROP TABLE grouping; CREATE TABLE grouping (path BLOB, name TEXT, more AS (zeroblob(500000000)) STORED)",
    ],
)
def test_a_journal_from_elsewhere_runs_nothing(
    unfinished: sqlite3.Connection, raw: Path, statement: str, capfd: pytest.CaptureFixture[str]
) -> None:
    unfinished.executescript(statement)
    unfinished.close()
    out = raw.parent / "unfinished"
    assert "not that of a journal" in told(capfd, "shard", raw, "--out", out, "--resume", code=5)
    assert "samples" in told(capfd, "shard", raw, "--out", out, "--overwrite", code=0)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("path", [b"../mine.wav", b"a/../../mine.wav", b"{mine}", 17, b""])
def test_a_journal_from_elsewhere_packs_nothing_outside(
    unfinished: sqlite3.Connection, raw: Path, path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    write_sound(mine := raw.parent / "mine.wav", 9)
    path = os.fsencode(mine) if path == b"{mine}" else path
    unfinished.execute("INSERT INTO file (place, path, label) VALUES (x'ff', ?, 'null')", (path,))
    unfinished.close()
    said = told(capfd, "shard", raw, "--out", raw.parent / "unfinished", "--resume", code=5)
    assert "not below the raw folder" in said


@pytest.mark.parametrize("make", [pipe, zeros])
def test_media_are_regular_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="regular file"):
        media.read_bytes(tmp_path / "a.wav")


@pytest.mark.usefixtures("inline")
def test_what_a_resumed_set_replaces_lies_in_its_folder(
    raw: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = raw.parent / "set"
    api.shard(raw, out=out)
    write_sound(raw / "4.wav", 4)
    with monkeypatch.context() as killed:
        killed.setattr(importlib.import_module("bridle.sharding.shard"), "publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            api.shard(raw, out=out, overwrite=True)
    journal = Journal(out / ".partial" / "journal.sqlite")
    journal.note("replaces", ["../victim/keep.txt"])
    journal.commit()
    journal.close()
    assert "'../victim/keep.txt'" in told(capfd, "shard", raw, "--out", out, "--resume", code=5)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("file", ["../a.tar", "/a.tar", "..", ".", "a\0.tar", "b\\a.tar"])
def test_a_manifest_names_tars_beside_it(shards: Path, tmp_path: Path, file: str) -> None:
    content = json.loads((shards / "manifest.json").read_text())
    content["shards"][0]["file"] = file
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="outside its folder"):
        find_all_sets(tmp_path)


@pytest.mark.parametrize("clips", ["../other/x.safetensors", "/x.safetensors", "results/../x", "results/", "x"])
def test_results_name_files_of_their_run(tmp_path: Path, clips: str) -> None:
    for place in (tmp_path / "other" / "x.safetensors", tmp_path / "run" / "x"):
        place.parent.mkdir()
        save_file({"names": torch.tensor([*b'{"paths": ["a"], "classes": ["b"]}'], dtype=torch.uint8)}, place)
    with pytest.raises(DataError, match="is not a file of results/"):
        read_tested(tmp_path / "run", {"clips": clips})


# It is never written to through a link.


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("place", [".partial/lock", ".partial/journal.sqlite", ".partial", ".replaced"])
@pytest.mark.parametrize("option", ["--overwrite", "--resume", "--quiet"])
def test_a_set_is_not_written_through_links(
    raw: Path, victim: Path, place: str, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = left_behind(raw.parent / "set")
    if "/" in place:
        (out / place).unlink(missing_ok=True)
        (out / place).symlink_to(victim)
    else:
        shutil.copytree(out / ".partial", victim.parent, dirs_exist_ok=True)
        shutil.rmtree(out / place, ignore_errors=True)
        (out / place).symlink_to(victim.parent)
    before = {path.name: path.read_bytes() for path in victim.parent.iterdir()}
    said = told(capfd, "shard", raw, "--out", out, option, code=2 if option == "--quiet" and place != ".partial" else 4)
    assert "nothing is written through links" in said or "was interrupted" in said
    assert {path.name: path.read_bytes() for path in victim.parent.iterdir()} == before


@pytest.mark.parametrize("place", ["lock", "work.json", ""])
def test_parts_are_not_written_through_links(tmp_path: Path, victim: Path, place: str) -> None:
    parts = tmp_path / ".v.npz.parts"
    if place:
        parts.mkdir()
        (parts / place).symlink_to(victim)
    else:
        parts.symlink_to(victim.parent)
    refused = pytest.raises(DataError, match="nothing is written through links")
    with refused, begun(tmp_path / "v.npz", {}, resume=False, overwrite=True):
        pass
    assert victim.read_text() == "mine" and [path.name for path in victim.parent.iterdir()] == ["keep.txt"]


@pytest.mark.parametrize("place", ["metrics.jsonl", ".lock", "checkpoints"])
def test_a_run_is_not_written_through_links(
    run: Path, tmp_path: Path, victim: Path, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(run, tmp_path / "mine")
    state = json.loads((mine / "state.json").read_text())
    (mine / "state.json").write_text(json.dumps({**state, "status": "interrupted"}))
    if place == "checkpoints":
        (mine / place).rename(victim.parent / place)
    else:
        (mine / place).unlink(missing_ok=True)
    (mine / place).symlink_to(victim.parent / place if place == "checkpoints" else victim)
    before = sorted(path.relative_to(victim.parent) for path in victim.parent.rglob("*"))
    assert f"{place} is a link to" in told(capfd, "pretrain", "--resume", mine, code=4)
    assert victim.read_text() == "mine"
    assert sorted(path.relative_to(victim.parent) for path in victim.parent.rglob("*")) == before


def test_files_that_are_written_anew_take_the_place_of_links(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "a").symlink_to(victim)
    write_tensors({"x": torch.zeros(2)}, tmp_path / "a")
    (tmp_path / f".b.{os.getpid()}").symlink_to(victim)
    with written(tmp_path / "b") as file:
        file.write(b"theirs")
    assert victim.read_text() == "mine" and not (tmp_path / "a").is_symlink() and not (tmp_path / "b").is_symlink()


# It makes no request.


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that were asked."""
    asked: list[str] = []
    monkeypatch.setattr(Remote, "_ask", lambda remote, request: asked.append(remote.url) or 1 / 0)
    return asked


@pytest.mark.parametrize("place", ["s3://bucket/set", "reference://x", "hf://datasets/a/b", "https://host/x", SECRET])
def test_a_run_from_elsewhere_makes_no_request(
    run: Path, tmp_path: Path, no_network: list[str], place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    theirs = shutil.copytree(run, tmp_path / "theirs")
    state = json.loads((theirs / "state.json").read_text())
    (theirs / "state.json").write_text(json.dumps({**state, "status": "interrupted", "shards": [place]}))
    said = told(capfd, "pretrain", "--resume", theirs, code=4)
    assert redacted(place) in said and f"--shards {redacted(place)}" in said
    said += told(capfd, "report", theirs, "--out", tmp_path / "report.html", code=0)
    assert "--data" in said
    said += told(capfd, "export", theirs, "--format", "safetensors", "--out", tmp_path / "export", code=0)
    assert not no_network and "SEC" not in said


def test_data_that_the_user_names_are_asked_for(run: Path, no_network: list[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        api.report(run, data="s3://bucket/set", out=run / "named.html")
    assert no_network == ["s3://bucket/set"]


def test_a_recipe_from_elsewhere_sends_nothing(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    theirs = shutil.copytree(run, tmp_path / "theirs")
    recipe = (theirs / "config.yaml").read_text().replace("tracker: none", "tracker: wandb")
    (theirs / "config.yaml").write_text(recipe)
    assert "train.tracker=wandb" in told(capfd, "pretrain", "--resume", theirs, code=3)


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\n{address}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {address}\n",
    "dash": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet><Representation id="1"><BaseURL>{address}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("modality", [Modality.VIDEO, Modality.AUDIO])
def test_media_that_list_others_are_no_media(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: Modality, text: str
) -> None:
    """Neither when they are sharded nor as samples of a set from elsewhere, which says that they were checked."""
    shutil.copy(next((sample / "video").rglob("*.mp4")), tmp_path / "mine.mp4")
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for address in ("mine.mp4", f"http://127.0.0.1:{server.getsockname()[1]}/x.mp4"):
            raw = text.format(address=address).encode()
            for suffix in ("mp4", "wav", "mov"):
                with pytest.raises(MediaError):
                    media.check(raw, f"x.{suffix}", modality)
                info = MediaInfo(modality, suffix, 1.0, 24.0, 1, 24, 128, 128)
                with pytest.raises(MediaError):
                    media.decode(raw, info, checked=True)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_every_reader_of_media_opens_nothing_else() -> None:
    for path in (ROOT / "bridle").rglob("*.py"):
        for call in re.findall(r"av\.open\(.*", path.read_text("utf-8")):
            assert "options=" in call or '"w"' in call, f"{path}: {call}"


# Secrets are never repeated.


@pytest.mark.parametrize(
    "words",
    [
        ["shard", SECRET],
        ["shard", "raw", "--out", SECRET],
        ["shard", "raw", "--labels", SECRET],
        ["shard", "info", SECRET],
        ["pretrain", "--shards", SECRET],
        ["pretrain", "--resume", SECRET],
        ["pretrain", "--out", SECRET, "--shards", "none"],
        ["pretrain", "--config", SECRET],
        ["tokenize", SECRET],
        ["tokenize", "a.wav", "--checkpoint", SECRET],
        ["tokenize", "a.wav", "--out", SECRET],
        ["embed", SECRET, "--out", "v.npz"],
        ["search", SECRET, "--index", SECRET],
        ["eval", "--data", SECRET],
        ["report", SECRET],
        ["export", SECRET, "--format", "onnx", "--out", "x"],
        ["runs", SECRET],
        [SECRET],
        ["shard", "raw", f"--{SECRET}"],
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_secrets_are_never_repeated(words: list[str], debug: bool, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words, *["--debug"] * debug]) in (2, 3, 4, 5)
    said = capfd.readouterr()
    if not debug:  # a traceback shows lines of code, and what libraries say
        assert "Traceback" not in said.err
    assert "SEC" not in said.out + said.err and "AKIAKEY" not in said.out + said.err, said


def test_addresses_without_secrets_are_shown_as_they_are() -> None:
    for text in ("s3://bucket/a@b/c:d", "C:/data", "https://host/x", "a@b:c", "file.wav: cannot be read"):
        assert redacted(text) == text
    assert redacted("https://h/x?X-Amz-Signature=abc is") == "https://h/x?*** is"
    assert redacted("s3:/K:S@b/x") == "s3:/***@b/x"
    assert redacted("no 's3://K:S@S/S@b/x' there") == "no 's3://***@b/x' there"
    assert redacted("https://TOKEN@host/x") == "https://***@host/x"
    error = DataError(f"{SECRET} does not exist", f"Try {SECRET}")  # who calls the library prints it himself
    assert "SEC" not in str(error) + error.message + error.hint
    for place in ("s3://K:S/T@b/x", "zip://a::s3://b/x", "https://h/x?sig=1", "s3://user@b/x"):
        with pytest.raises(UsageError) as caught:
            locate(place)
        assert place not in str(caught.value)


@pytest.mark.parametrize("place", ["reference://x", "zip://a", "dir://x", "data://x", "hf://x"])
def test_storage_that_needs_more_than_an_address_is_no_bug(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", "info", place]) in (4, 5)
    assert "bug" not in capfd.readouterr().err


# It is bounded before memory is taken, and read to its end.


def with_header(tar: Path, change: Callable[[bytearray], None]) -> None:
    """Changes the header of the second member, whose checksum is right again."""
    content = bytearray(tar.read_bytes())
    first = tarfile.TarInfo.frombuf(bytes(content[:512]), "ascii", "strict")
    at = 512 + -(-first.size // 512) * 512
    header = content[at : at + 512]
    change(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[at : at + 512] = header
    tar.write_bytes(content)


def negative(header: bytearray) -> None:
    header[124:136] = (-512).to_bytes(12, "big", signed=True)


def long_name(header: bytearray) -> None:
    header[124:136], header[156:157] = b"77777777777\0", b"L"


def sparse(header: bytearray) -> None:
    header[156:157] = b"S"


def attributes(header: bytearray) -> None:
    header[156:157] = b"x"


def resealed(folder: Path) -> None:
    """The manifest agrees with the tar again, and the index is gone."""
    content = json.loads((folder / "manifest.json").read_text())
    for shard in content["shards"]:
        tar = (folder / shard["file"]).read_bytes()
        shard |= {"bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(content))
    for index in folder.glob("index-*.npy"):
        index.unlink()


@pytest.fixture
def sounds(raw: Path, inline: None) -> Path:
    api.shard(raw, out=raw.parent / "set", workers=1)
    return raw.parent / "set"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("change", [negative, long_name, sparse, attributes])
def test_a_tar_whose_header_lies_is_refused_by_name(
    sounds: Path, model: Path, change: Callable[[bytearray], None], capfd: pytest.CaptureFixture[str]
) -> None:
    (tar,) = sounds.glob("*.tar")
    with_header(tar, change)
    resealed(sounds)
    for words in (["shard", "info"], ["shard", "verify"], ["tokenize", "--checkpoint", model]):
        assert tar.name in told(capfd, *words, sounds, code=4)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("change", [negative, "npy"])
def test_codes_in_a_tar_that_lies_are_refused_by_name(sounds: Path, model: Path, change: Any) -> None:
    coded = sounds.parent / "coded"
    api.write_codes([sounds], coded, checkpoint=model)
    assert len(read_codes(coded)) == 4
    (tar,) = coded.glob("*.tar")
    if change == "npy":
        content = tar.read_bytes()
        shape = re.search(rb"'shape': (\(.*?\)), }( *)\n", content)
        assert shape
        huge = b"(1000000, 1000000, 9, 9)"
        spare = len(shape[1]) + len(shape[2]) - len(huge)
        assert spare >= 0
        new = b"'shape': " + huge + b", }" + b" " * spare + b"\n"
        tar.write_bytes(content[: shape.start()] + new + content[shape.end() :])
    else:
        with_header(tar, change)
    resealed(coded)
    with pytest.raises(DataError, match=tar.name):
        read_codes(coded)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("make", [pipe, zeros, large])
def test_labels_beside_the_media_are_small_files(
    raw: Path, make: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    make(raw / "2.json")
    assert "2.json" in told(capfd, "shard", raw, "--labels", "sidecar", "--out", raw.parent / "set", code=4)


@pytest.mark.parametrize("make", [pipe, zeros, large])
def test_descriptions_are_files_of_a_bounded_size(
    run: Path, sounds: Path, model: Path, tmp_path: Path, make: Callable[[Path], None], capfd: Any
) -> None:
    """Where a file says what a folder is, there may be anything."""
    copies = [shutil.copytree(folder, tmp_path / f"of {folder.name}") for folder in (run, sounds, model)]
    files = [copies[0] / "state.json", copies[1] / "manifest.json", copies[2] / "model.json"]
    for file in files:
        file.unlink()
        make(file)
    with pytest.raises(DataError, match=r"state\.json"):
        api.report(copies[0])
    assert "manifest.json" in told(capfd, "shard", "info", copies[1], code=4)
    assert "model.json" in told(capfd, "tokenize", sounds, "--checkpoint", copies[2], code=4)
    (copies[0] / "config.yaml").unlink()
    make(copies[0] / "config.yaml")
    assert "config.yaml" in told(capfd, "config", "show", "--config", copies[0], code=3)


@pytest.mark.parametrize("make", [pipe, zeros])
def test_what_lies_beside_them_is_looked_at_first(
    sounds: Path, model: Path, tmp_path: Path, make: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    theirs = shutil.copytree(model, tmp_path / "theirs")
    (theirs / "model.safetensors").unlink()
    make(theirs / "model.safetensors")
    said = read_json(theirs / "model.json")
    write_json(theirs / "model.json", {**said, "version": 1})  # whose weights have no hash
    assert str(theirs) in told(capfd, "tokenize", sounds, "--checkpoint", theirs, code=4)
    (index,) = sounds.glob("index-*.npy")
    index.unlink()
    make(index)
    told(capfd, "shard", "info", sounds, code=0)  # another index is made
    content = json.loads((sounds / "manifest.json").read_text())
    (tar,) = sounds.glob("*.tar")
    tar.unlink()
    make(tar)
    content["shards"][0]["bytes"] = 0
    (sounds / "manifest.json").write_text(json.dumps(content))
    for command in ("info", "verify"):
        assert tar.name in told(capfd, "shard", command, sounds, code=4)


def peak_mb(call: Callable[[], Any]) -> float:
    """What Python and NumPy take at most, and that the call is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            call()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("read", [read_vectors, read_codes])
def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    place, text = tmp_path / "bomb.npz", io.BytesIO()
    np.save(text, np.frombuffer(b'{"files": [' + b'"", ' * 10_000_000 + b'""]}', np.uint8))
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("header.npy", text.getvalue())
    assert place.stat().st_size < 200_000
    assert peak_mb(lambda: read(place)) < 4


@pytest.mark.parametrize("inputs", [[5], [["media"]], "media", None])
def test_an_index_says_in_words_where_its_files_are(tmp_path: Path, inputs: Any) -> None:
    about = {"format": "bridle-vectors", "version": 1, "model": "", "checkpoint": "", "per": "file", "pool": "mean"}
    arrays = {"vectors": np.zeros((0, 1), "f4"), "times": np.zeros(0), "coords": np.zeros((0, 3), int)}
    header = {**about, "files": [], "inputs": inputs}
    write_arrays(tmp_path / "v.npz", {**arrays, "counts": np.zeros(0, int)}, header, ".npz")
    with pytest.raises(DataError, match="does not say"):
        read_vectors(tmp_path / "v.npz")


def test_a_long_header_is_not_read() -> None:
    """NumPy would refuse it, but reads it first."""
    long = b"\x93NUMPY\x02\0" + (20 << 20).to_bytes(4, "little") + b" " * (20 << 20)
    file = io.BytesIO(long)
    with pytest.raises(ValueError, match="version"):
        read_npy(file, len(long))
    assert file.tell() < 100


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"\x80\x04K\x01."])
def test_an_index_is_an_array(sounds: Path, content: bytes) -> None:
    """Nothing else that NumPy can read; another is made."""
    (index,) = sounds.glob("index-*.npy")
    index.write_bytes(content + hashlib.sha256(content).digest())
    (found,) = find_all_sets(sounds)
    assert len(load_index(sounds, found.shards)) == found.samples


# How many files are in an index, or why none, and the most memory that Arrow took: in a process of its own.
READS = """
import sys
from pathlib import Path
import pyarrow
from bridle.errors import DataError
from bridle.formats import read_vectors
try:
    print(len(read_vectors(Path(sys.argv[1])).files), "file")
except DataError as error:
    print(error.message)
print(pyarrow.default_memory_pool().max_memory())
"""


@pytest.mark.parametrize("which", ["file", "number", "another"])
def test_a_table_does_not_unpack_to_a_large_one(tmp_path: Path, which: str) -> None:
    """In Parquet a page says in a few bytes that of many rows each has the same text."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    about = {"format": "bridle-vectors", "version": 1, "model": "", "checkpoint": "", "per": "file", "pool": "mean"}
    place, rows, text = tmp_path / "v.parquet", 400, "x" * 1_000_000
    columns = {name: arrow.array([0] * rows) for name in ("number", "step", "row", "column", "another")}
    columns |= {"file": arrow.array(["a.wav"] * rows), "time": arrow.array([0.0] * rows)}
    columns["vector"] = arrow.FixedSizeListArray.from_arrays(arrow.array([0.0] * rows), 1)
    columns[which] = arrow.array([text] * rows)
    table = arrow.table(columns).replace_schema_metadata({"bridle": json.dumps({**about, "inputs": []})})
    parquet.write_table(table, place, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert place.stat().st_size < 100_000
    done = forks.run([sys.executable, "-c", READS, str(place)], capture_output=True, text=True, check=True)
    answer, most = done.stdout.splitlines()
    assert re.search(r"number|Non-fixed", answer) if which == "number" else answer == "1 file"
    assert int(most) < 50e6


def test_arrays_have_the_size_that_they_tell(tmp_path: Path) -> None:
    about = {"format": "bridle-codes", "version": 1, "codes": 8, "levels": 1, "files": ["a"]}
    place, header = tmp_path / "c.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i2", "fortran_order": False, "shape": (10**11, 1)})
    arrays = {"times": np.zeros(1), "grids": np.ones((1, 3), np.int32)}
    arrays["header"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(place, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(place, "a") as file:
        file.writestr("codes.npy", header.getvalue() + b"\0\0")
    assert peak_mb(lambda: read_codes(place)) < 4
    whole = io.BytesIO()
    np.save(whole, np.zeros((1, 1), np.int16))
    np.savez(place, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(place, "a") as file:
        file.writestr("codes.npy", whole.getvalue())
    assert [one.file for one in read_codes(place)] == ["a"]


def described(model: Path, to: Path, **sizes: dict[str, int]) -> Path:
    """A copy of a model whose recipe says something else."""
    theirs = shutil.copytree(model, to)
    about = json.loads((theirs / "model.json").read_text())
    del about["sha256_of_the_rest"]
    for section, values in sizes.items():
        about["config"][section] |= values
    (theirs / "model.json").write_text(json.dumps(about))
    return theirs


@pytest.mark.parametrize(
    "sizes",
    [
        {"encoder": {"depth": 1 << 20}},
        {"tokenizer": {"estimator_depth": 1 << 20}},
        {"encoder": {"width": 1 << 14}},
        {"quantizer": {"levels": 1 << 20}},
        {"patches": {"mel_bins": 1 << 18}},
        {"patches": {"patch_frames": 1 << 20, "frames": 1 << 20}},
    ],
)
def test_a_recipe_of_any_size_makes_no_larger_model_than_its_weights(
    model: Path, tmp_path: Path, sizes: dict[str, dict[str, int]]
) -> None:
    theirs = described(model, tmp_path / "theirs", **sizes)
    assert peak_mb(lambda: read_model(theirs)) < 150


def with_weights(model: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    loaded = snapshot(read_model(model))
    change(loaded.weights)
    to.mkdir()
    save_model(loaded, to)
    return to


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    model: Path, raw: Path, value: float, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = snapshot(read_model(model)).weights
    name = next(one for one in weights if one.startswith("encoder.") and one.endswith("weight"))
    theirs = with_weights(model, raw.parent / "theirs", lambda weights: weights[name].view(-1)[-1:].fill_(value))
    for words in (["tokenize", raw], ["embed", raw, "--out", raw.parent / "v.npz"], ["eval", "--data", raw]):
        said = told(capfd, *words, "--checkpoint", theirs, code=4)
        assert f"model.safetensors: {name} is not finite" in said
    assert not (raw.parent / "v.npz").exists()


def test_what_becomes_infinite_in_the_model_is_no_result(
    model: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def grow(weights: dict[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            if name.startswith(("encoder.", "cold_tokenizer.projection")) and weight.is_floating_point():
                weight.fill_(3e38)

    theirs = with_weights(model, raw.parent / "theirs", grow)
    for words in (["tokenize", raw], ["embed", raw, "--out", raw.parent / "v.npz"]):
        assert "not finite" in told(capfd, *words, "--checkpoint", theirs, code=4)


# Opened with another program are media that are there.


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other openers")
def test_search_opens_media_and_says_where_they_lie(
    raw: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/opened\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", str(opener.parent), prepend=os.pathsep)
    monkeypatch.chdir(raw)
    (raw / "0.wav").rename(raw / "--evil.wav")
    api.embed(["."], tmp_path / "v.npz", checkpoint=model)
    (raw / "1.wav").rename(raw / "program.desktop")
    (raw / "1.wav").symlink_to("program.desktop")
    (raw / "2.wav").unlink()
    said = told(capfd, "search", "3.wav", "--index", tmp_path / "v.npz", "--open", "4", code=0)
    opened = (tmp_path / "opened").read_text().splitlines()
    assert sorted(opened) == sorted([str(raw / "--evil.wav"), str(raw / "3.wav")])
    assert all(f"opens {path}" in said.replace("\n", "") for path in opened)
