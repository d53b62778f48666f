"""What every output has in common: whole or not at all, one process at a time, one wording for what hinders."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from bridle.checkpoint import files
from bridle.errors import EnvironmentFault, UsageError
from bridle.export.folder import MARK, new_folder
from bridle.outputs import (
    LOCK,
    alone,
    claim,
    disk_errors,
    exists,
    interrupted,
    put_in_place,
    same_settings,
    staging,
    write_text,
    written,
)

SOURCE = Path(__file__).parents[3]
# What is said in one place alone: a pattern of the sentence, and where it stands.
WORDINGS = {
    r"already exists|exists already|\{\w+\} exists\b": ["bridle/outputs/claim.py"],
    r"being written by another|another process is": ["bridle/outputs/claim.py"],
    r"was started with \{": ["bridle/outputs/claim.py"],
    r"its command was interrupted|holds a set that was": ["bridle/outputs/claim.py"],
    r"the disk is full|no space left": ["bridle/outputs/claim.py", "bridle_cli/main.py"],  # the latter: wherever else
}


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), written(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (new := tmp_path / ".new").mkdir()
    (out := tmp_path / "out").mkdir()
    (out / "old").touch()
    (new / "new").touch()
    rename = os.rename

    def refused(source: Path, target: Path) -> None:
        if source == new:
            raise OSError(errno.EACCES, "denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(OSError):
        put_in_place(new, out)
    assert (out / "old").exists() and sorted(one.name for one in tmp_path.iterdir()) == [".new", "out"]
    monkeypatch.undo()
    put_in_place(new, out)
    assert [one.name for one in out.iterdir()] == ["new"] and [one.name for one in tmp_path.iterdir()] == ["out"]


def test_what_is_neither_file_nor_folder_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    (new := tmp_path / ".new").mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        write_text(pipe, "x")
    with pytest.raises(OSError, match="not a folder"):
        put_in_place(new, pipe)
    assert pipe.is_fifo() and sorted(one.name for one in tmp_path.iterdir()) == [".new", "pipe"]


def test_a_folder_whose_files_are_not_on_the_disk_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (new := tmp_path / ".new").mkdir()
    (new / "weights").write_bytes(b"half")
    (tmp_path / "out").mkdir()

    def full(handle: int) -> None:
        if os.path.samestat(os.fstat(handle), os.stat(new / "weights")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        put_in_place(new, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_folder_survives_its_replacement_being_killed_at_any_rename(tmp_path: Path, renames: int) -> None:
    out = tmp_path / "out"
    with new_folder(out, overwrite=False) as folder:
        (folder / MARK).write_text("old")
    if not (killed := os.fork()):
        done, rename = iter([True] * renames), os.rename
        os.rename = lambda *names: rename(*names) if next(done, False) else os._exit(9)
        with new_folder(out, overwrite=True) as folder:
            (folder / MARK).write_text("new")
            if renames == 2:
                shutil.rmtree = lambda *_, **__: os._exit(9)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    with pytest.raises(UsageError, match="already exists"), new_folder(out, overwrite=False):
        pass
    assert (out / MARK).read_text() == ("new" if renames == 2 else "old")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_the_lock_goes_with_its_process_though_a_child_outlives_it(tmp_path: Path) -> None:
    lock, out = tmp_path / "lock", tmp_path / "out"
    read, write = os.pipe()
    if not (owner := os.fork()):
        with alone(lock, out):
            if not (child := os.fork()):
                time.sleep(60)
            os.write(write, child.to_bytes(4, "big"))
            time.sleep(60)
        os._exit(0)
    child = int.from_bytes(os.read(read, 4), "big")
    try:
        with pytest.raises(UsageError, match="written by another process"), alone(lock, out):
            pass
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        with alone(lock, out):
            os.kill(child, 0)  # it is there
    finally:
        os.kill(child, signal.SIGKILL)


def test_another_lock_of_this_process_is_refused_too(tmp_path: Path) -> None:
    with alone(tmp_path / "lock", tmp_path), pytest.raises(UsageError), alone(tmp_path / "lock", tmp_path):
        pass


def test_what_was_begun_is_refused_as_interrupted_or_as_running(tmp_path: Path) -> None:
    out, folder = tmp_path / "deep" / "out", tmp_path / "deep" / ".out"
    with staging(folder, out):
        with pytest.raises(UsageError, match="written by another process"):
            raise interrupted(out, folder)
        (folder / "half").touch()
    with pytest.raises(UsageError, match="interrupted; 3 parts are done"):
        raise interrupted(out, folder, "3 parts are done")
    assert sorted(one.name for one in folder.iterdir()) == ["half", LOCK]


def test_folders_made_for_an_output_that_came_to_nothing_go(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "deeper" / ".out"
    with pytest.raises(EnvironmentFault, match="the disk is full"), staging(folder, folder.with_name("out")):
        shutil.rmtree(folder)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not any(tmp_path.iterdir())


def test_a_signal_before_anything_was_written_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(*_: object) -> None:
        raise KeyboardInterrupt

    for place in ("sync", "refuse_links", "_let_go_in_children"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            calls = iter([signalled])  # once
            real = getattr(claim, place)
            patched.setattr(claim, place, lambda *paths, real=real, calls=calls: next(calls, real)(*paths))
            with staging(tmp_path / "deep" / ".out", tmp_path / "deep" / "out"):
                pass
        assert not any(tmp_path.iterdir()), place


def test_other_settings_are_named() -> None:
    same_settings({"levels": 4}, {"levels": 4}, Path("x"))
    with pytest.raises(UsageError, match=r"x was started with levels 4, not None\."):
        same_settings({"levels": 4}, {}, Path("x"))


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EACCES, "no")]
)
def test_what_the_disk_refuses_is_said_in_our_words(number: int, said: str) -> None:
    with pytest.raises(EnvironmentFault, match=rf"x cannot be written: {said}\.") as caught, disk_errors(Path("x")):
        raise OSError(number, "no")
    assert ("Free some space" in caught.value.hint) == (number != errno.EACCES)


def test_weights_on_a_full_disk_are_the_same_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"), disk_errors(tmp_path):
        files.write_tensors({"x": torch.zeros(2)}, tmp_path / "weights")


def test_each_sentence_has_one_place() -> None:
    assert "already exists." in exists(Path("x")).message
    for pattern, places in WORDINGS.items():
        strings = re.compile(rf"f?\"[^\"\n]*(?:{pattern})[^\"\n]*\"")
        found = {
            path.relative_to(SOURCE).as_posix()
            for package in ("bridle", "bridle_cli")
            for path in (SOURCE / package).rglob("*.py")
            for line in path.read_text("utf-8").splitlines()
            if strings.search(line) and '"""' not in line
        }
        assert sorted(found) == places, pattern
