"""Work in parts: how large they are, what is kept of them, who waits for whom; and long sound in little memory."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forks
import pytest
import torch

from bridle.errors import DataError, UsageError
from bridle.infer.embed import check_vectors_output
from bridle.infer.parts import NothingRead, in_parts
from bridle.inputs.listing import Listing
from bridle.media import audio
from bridle.schema import Modality

# rank, where they meet: the second ends long after the others stop to wait
APART = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from bridle import distributed
rank = int(sys.argv[1])
meet = f"file://{sys.argv[2]}"
dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=2))
print(distributed.together(lambda: time.sleep(5 * rank) or "done", hours_apart=True))
dist.destroy_process_group()
"""
# rank, where they meet: each with a disk of its own
ON_MACHINES = """
import os, sys
import torch.distributed as dist
from bridle.infer.parts import in_parts
from bridle.storage import Remote
rank, folder = int(sys.argv[1]), sys.argv[2]
os.environ["BRIDLE_CACHE"] = f"{folder}/{rank}"
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
try:
    in_parts(Remote("memory://bucket/out.x"), {}, 5, lambda numbers: iter(()), None, None, size=2)
except Exception as error:
    print(error)
dist.destroy_process_group()
"""


def joined(path: Path, parts: list[Path]) -> dict[str, int]:
    path.write_text(",".join(str(square) for part in parts for square in json.loads(part.read_text())))
    return {"files": 5}


def work(out: Path, what: str = "squares", *, join: Any = joined, **options: Any) -> Any:
    """Squares of five numbers, two a part."""

    def write(path: Path, span: range, found: Iterator[tuple[int, int]]) -> None:
        path.write_text(json.dumps([square for _, square in found]))

    def compute(numbers: Iterator[int]) -> Any:
        computed.append(0)
        yield from ((number, number**2) for number in numbers if not computed.append(number))

    computed = list[int]()
    result = in_parts(out, {"work": what}, 5, compute, write, join, size=2, **options)
    return result, computed


def test_parts_stay_when_they_cannot_be_joined(tmp_path: Path) -> None:
    def damaged(path: Path, parts: list[Path]) -> None:
        raise DataError("one of the inputs was altered")

    def nothing(path: Path, parts: list[Path]) -> None:
        raise NothingRead("nothing could be read")

    out, parts = tmp_path / "out.x", tmp_path / ".out.x.parts"
    with pytest.raises(DataError, match="altered"):
        work(out, join=damaged)
    assert {"000000", "000001", "000002"} <= {path.name for path in parts.iterdir()}
    assert work(out, resume=True) == ({"files": 5}, [0])  # none was computed again
    assert out.read_text() == "0,1,4,9,16" and not parts.exists()
    with pytest.raises(NothingRead):
        work(out, join=nothing, overwrite=True)
    assert out.exists() and not parts.exists()


@pytest.mark.parametrize("removed", range(8))
def test_killed_while_the_parts_are_removed(tmp_path: Path, removed: int) -> None:
    """Three parts and claims; then, at once, what the work was, what the join said, a lock, and the folder."""
    out, parts = tmp_path / "out.x", tmp_path / ".out.x.parts"
    if not (child := os.fork()):
        counts = iter(range(removed))

        def killed(remove: Any) -> Any:
            return lambda *names, **options: os._exit(9) if next(counts, None) is None else remove(*names, **options)

        def join(path: Path, parts: list[Path]) -> dict[str, int]:
            os.unlink, os.rmdir = killed(os.unlink), killed(os.rmdir)
            return joined(path, parts)

        work(out, join=join)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9 and parts.exists() == (removed < 4)
    with pytest.raises(UsageError, match="exists"):
        work(out)
    if removed < 4:
        with pytest.raises(UsageError, match="was started with"):
            work(out, "cubes", resume=True)
        assert work(out, resume=True) == ({"files": 5}, [])
        assert not parts.exists()
    with pytest.raises(UsageError, match="exists"):  # now it is any file
        work(out, resume=True)
    assert out.read_text() == "0,1,4,9,16"
    assert work(out, overwrite=True)[0] == {"files": 5} and not parts.exists()


def test_large_files_make_small_parts(tmp_path: Path) -> None:
    for folder, size in (("small", 1000), ("hours", 57_600_044), ("days", 1 << 31)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            with open(tmp_path / folder / f"{number}.wav", "wb") as file:
                file.truncate(size)  # holes take no room
    files = [Listing([tmp_path / name], Modality.AUDIO).part_files() for name in ("small", "hours", "days")]
    assert files == [512, 4, 1]
    assert Listing([tmp_path / "hours" / "0.wav"], Modality.AUDIO).part_files() == 4


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "thesis.npz").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_vectors_output(tmp_path / "thesis.npz", resume=False, overwrite=True)


def test_who_ends_early_waits_longer_than_for_a_collective(tmp_path: Path) -> None:
    ranks = [
        forks.Popen([sys.executable, "-c", APART, str(rank), str(tmp_path / "meet")], stdout=-1, text=True)
        for rank in range(2)
    ]
    assert [rank.communicate()[0] for rank in ranks] == ["done\n"] * 2


def test_machines_without_a_common_folder_say_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_MACHINES]
    ranks = [forks.Popen([*command, str(rank), str(tmp_path)], stdout=-1, text=True) for rank in range(2)]
    first, second = (rank.communicate()[0] for rank in ranks)
    assert first.startswith(f"process 1: {tmp_path}/1/building/") and "BRIDLE_CACHE" in first
    assert second == "" and not list(tmp_path.rglob("*.parts"))


def test_an_interruption_is_said_once(tmp_path: Path) -> None:
    code = """
import os, time
import click
from bridle_cli.console import Console
from bridle_cli import main, parts
@click.command()
@click.pass_obj
def command(console):
    parts.run(console, 2, False, lambda **options: print("begun", flush=True) or time.sleep(60))
main._Commands.get_command = lambda *arguments: command
raise SystemExit(main.main(["tokenize"]))
"""
    launched = {"TORCHELASTIC_RUN_ID": "bridle-1"}  # then who started it says it
    for said, more in ((1, {"RANK": "0"}), (0, {"RANK": "1"}), (0, {"RANK": "0", **launched})):
        process = forks.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, env=os.environ | more)
        assert process.stdout and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert (process.returncode, errors.count("Interrupted")) == (130, said), errors


@pytest.mark.parametrize("from_hz", [8000, 11025, 44100, 48000])
def test_long_sound_is_resampled_in_blocks_to_the_same(from_hz: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_S = torch.randn(50_021, generator=torch.Generator().manual_seed(0))
    whole_S = audio.resample(wave_S, from_hz, 16000)
    monkeypatch.setattr(audio, "_RESAMPLED", 4000)
    blocks_S = audio.resample(wave_S, from_hz, 16000)
    assert blocks_S.shape == whole_S.shape and (blocks_S - whole_S).abs().max() < 1e-6
