"""Several real processes that train one model: the same losses as one process, and what happens when one is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forks
import pytest
import standins
import torch
from safetensors.torch import load_file

from bridle import api
from bridle.checkpoint import RunFolder, read_state
from bridle.children import python_module

MEDIA = Path(__file__).parents[2] / "media"
SMALL = (
    *standins.SMALL_RUN, "train.log_every=1", "schedule.cold=10", "schedule.tokenizer=10", "schedule.encoder=10",
    "schedule.turns=1", "mask.per_clip=2", "tokenizer.level_weights=energy", "optim.ema=0.9",
)  # fmt: skip


def command(
    shards: Path, run: Path, *more: str, sets: tuple[str, ...] = (), steps: int = 30, preset: str = "image-tiny"
) -> list[str]:
    arguments = ["pretrain", "--shards", shards, "--preset", preset, "--out", run, "--steps", steps, *more]
    small = [pair for pair in SMALL if preset == "image-tiny" or not pair.startswith("patches.")]
    settings = [word for pair in (*small, *sets) for word in ("--set", pair)]
    return [sys.executable, "-m", "bridle_cli", *map(str, arguments), *settings]


def start(words: list[str], **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return forks.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def held(words: list[str], folder: Path, after: int = 12) -> list[str]:
    """The same command, whose first rank goes on beyond that step when `folder / "go"` exists; also what it starts."""
    folder.mkdir(exist_ok=True)
    (folder / "held.py").write_text(standins.HELD)
    python = folder / "python"  # in place of what `children.python_module` names
    before = python_module("bridle_cli")[1:]
    python.write_text(f'#!/bin/sh\nshift {len(before)}\nexec {sys.executable} {folder}/held.py "$@"\n')
    python.chmod(0o755)
    launcher = f"import sys; sys.executable = {str(python)!r}; from bridle_cli.main import main; sys.exit(main())"
    os.environ.update(HOLD_AFTER=str(after), HOLD_UNTIL=str(folder / "go"))
    return [sys.executable, "-c", launcher if "--devices" in words else standins.HELD, *words[3:]]


def together(words: list[str]) -> list[subprocess.Popen[str]]:
    """Two ranks without one that starts them."""
    port, started = str(standins.free_port()), []
    for rank in "01":
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port}
        started.append(start(words, MASTER_ADDR="127.0.0.1", **own))
    return started


def finish(started: subprocess.Popen[str] | list[subprocess.Popen[str]], code: int = 0) -> tuple[str, str]:
    """What the process says, or the first of several does."""
    processes = started if isinstance(started, list) else [started]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    return said[0]


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(RunFolder(run).checkpoints()[-1] / "model.safetensors")


def assert_alike(first: Path, second: Path) -> None:
    """The losses of the cold start to 1e-5, all others to 0.5 %.

    Sums in another order move z by a millionth. At the cold start z is a frozen projection; later a patch between two
    codes gets the other one now and then, on some processors more often than on others, and all that follows moves.
    """
    one, two = rows(first), rows(second)
    assert [row["step"] for row in one] == [row["step"] for row in two] == [*range(1, 31)]
    pairs = [(a["step"], a["loss"], b["loss"]) for a, b in zip(one, two, strict=True)]
    off = [pair for pair in pairs if not near(*pair[1:], 1e-5 if pair[0] <= 10 else 5e-3)]
    assert not off, off


def near(a: float, b: float, relative: float) -> bool:
    return a == pytest.approx(b, rel=relative)


@pytest.fixture(autouse=True)
def nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLD_AFTER", "0")  # what `held` changes is undone
    monkeypatch.setenv("HOLD_UNTIL", "")


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that were started to train, by rank."""
    return [pid for pid in forks.children_of(process.pid) if b"RANK=" in Path(f"/proc/{pid}/environ").read_bytes()]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    finish(start(command(shards, run)))
    return run


def test_two_processes_learn_what_one_does(shards: Path, alone: Path, tmp_path: Path) -> None:
    """All three phases: masks, augmentation, codebooks, averages and gradients are those of the joined batch."""
    out, _ = finish(start(command(shards, tmp_path / "run", "--devices", "2", "--json")))
    assert_alike(alone, tmp_path / "run")
    for one, two in zip(rows(alone), rows(tmp_path / "run"), strict=True):
        assert one["usage"] == pytest.approx(two["usage"], abs=0.13)  # one code of eight, where ties matter
    result = json.loads(out)  # once, from the first process
    assert result["clips"] == 30 * 8


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(shards: Path, tmp_path: Path) -> None:
    for name, part in (("whole", "null"), ("parts", "3")):
        finish(start(command(shards, tmp_path / name, sets=("schedule.turns=0", f"train.part={part}"))))
    assert_alike(tmp_path / "whole", tmp_path / "parts")


def test_sounds_of_unequal_length_are_dealt_and_cut_with_no_other_result(tmp_path: Path) -> None:
    """Block masks and a part of the hidden patches: each part pads to its own longest clip."""
    api.shard(MEDIA / "audio", modality="audio", out=tmp_path / "set", workers=1)
    sets = ("mask.shape=block", "mask.predict=0.5", "schedule.turns=0")
    for name, run, more in (("whole", start, []), ("dealt", together, []), ("parts", start, ["train.part=3"])):
        words = command(tmp_path / "set", tmp_path / name, sets=(*sets, *more), preset="audio-tiny")
        finish(run(words))
    assert_alike(tmp_path / "whole", tmp_path / "dealt")
    assert_alike(tmp_path / "whole", tmp_path / "parts")


def test_ranks_with_fewer_clips_take_part_in_every_part(tmp_path: Path) -> None:
    """The tokenizer phase asks the others in each part: a rank that could read few of its clips has as many."""
    script = (
        "import os, sys, bridle.api; sys.path.append(sys.argv[1])\n"
        "import standins, torch\n"
        "from bridle import distributed\n"
        "from bridle.config.sections import Config\n"
        "from bridle.model import Bridle\n"
        "from bridle.train.step import Stepper\n"
        "with distributed.group('cpu'):\n"
        "    torch.manual_seed(0)\n"
        "    sections = {'patches': standins.PATCHES['image'], **standins.SMALL}\n"
        "    model = Bridle(Config.model_validate(sections), standins.STATISTICS)\n"
        "    views = list(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))\n"
        "    model.tokenizer.train().start([model.patcher(views)])\n"
        "    one = Stepper(model, 'tokenizer', 16, part=3)\n"
        "    one.set_rate(1.0)\n"
        "    views = views[: (8, 2)[distributed.rank()]]\n"
        "    outcome = one.step(views, range(len(views)), 0, len(views))\n"
        "    same = distributed.gather_objects(model.tokenizer.quantizer.codebook_QKC.sum().item())\n"
        "    assert outcome.status_4.tolist() == [0, 10, 160, 0] and same[0] == same[1], (outcome, same)\n"
        "os._exit(0)  # as the command line does\n"
    )
    finish(together([sys.executable, "-c", script, str(Path(__file__).parents[2])]))


def test_a_run_of_one_process_goes_on_in_two_and_the_reverse(shards: Path, alone: Path, tmp_path: Path) -> None:
    for name, before, after in (("grows", [], together), ("shrinks", ["--devices", "2"], start)):
        run = tmp_path / name / "run"
        words = command(shards, run, *before, sets=("train.checkpoint_every=4",))
        process = start(held(words, tmp_path / name))
        wait_for(run / "checkpoints" / "step-00000012", process)
        process.send_signal(signal.SIGTERM)
        (tmp_path / name / "go").touch()
        _, err = process.communicate()
        assert process.returncode == 143, err
        assert read_state(run)["status"] == "interrupted"
        finish(after([sys.executable, "-m", "bridle_cli", "pretrain", "--resume", str(run)]))
        assert_alike(alone, run)


def test_a_lost_process_costs_the_steps_since_the_last_checkpoint(shards: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = command(shards, run, "--devices", "2", sets=("train.checkpoint_every=4",))
    process = start(held(words, tmp_path))
    wait_for(run / "checkpoints" / "step-00000012", process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    (tmp_path / "go").touch()
    finish(process)
    assert read_state(run)["status"] == "complete"
    assert_alike(alone, run)


def test_torchrun_starts_the_others_again(shards: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = held(command(shards, run, sets=("train.checkpoint_every=4",)), tmp_path)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    process = start([sys.executable, *launcher, str(tmp_path / "held.py"), *words[3:]])
    wait_for(run / "checkpoints" / "step-00000012", process)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    (tmp_path / "go").touch()
    finish(process)
    assert_alike(alone, run)


def test_a_restart_goes_on_with_no_run_but_its_own(shards: Path, tmp_path: Path) -> None:
    """`torchrun` repeats a command that was refused: what was there before must be left alone by the second try too."""
    run = tmp_path / "run"
    api.pretrain(shards, recipe=standins.small_recipe(), out=run, steps=4)
    RunFolder(run).update(status="interrupted")
    before = (run / "state.json").read_bytes()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    _, err = finish(start([sys.executable, *launcher, *command(shards, run)[1:]]), 1)
    assert err.count("already exists") == 2 and (run / "state.json").read_bytes() == before


def test_a_clip_that_cannot_be_decoded_holds_nobody_up(tmp_path: Path) -> None:
    """One clip a process and step: whoever meets the damaged one has none, and all must take the step."""
    api.shard(MEDIA / "image", modality="image", out=tmp_path / "shards", workers=1, check="header")
    (tar,) = (tmp_path / "shards").glob("*.tar")
    content = bytearray(tar.read_bytes())
    at = content.index(b"\xff\xd8\xff")
    content[at : at + 600] = bytes(600)
    tar.write_bytes(content)
    sets = ("optim.batch_size=2", "schedule.turns=0", "data.cache_gb=0")
    out, _ = finish(together(command(tmp_path / "shards", tmp_path / "run", "--json", sets=sets, steps=150)))
    result = json.loads(out)
    assert result["steps"] == 150 and result["skipped_steps"] == 0
    assert len(result["failed_clips"]) == 1 and result["clips"] < 300


@pytest.mark.parametrize(
    ("more", "sets", "code", "says"),
    [
        ((), ("optim.batch_size=9",), 3, "--set optim.batch_size=8"),
        (("--devices", "2"), ("nonsense.key=1",), 3, "nonsense"),
    ],
)
def test_what_is_wrong_is_said_once(
    shards: Path, tmp_path: Path, more: tuple[str, ...], sets: tuple[str, ...], code: int, says: str
) -> None:
    _, err = finish(start(command(shards, tmp_path / "run", *(more or ("--devices", "2")), sets=sets)), code)
    assert err.count("error:") == 1 and says in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_processes_with_different_recipes_are_refused(shards: Path, tmp_path: Path) -> None:
    script = tmp_path / "other.sh"
    words = command(shards, tmp_path / "run")
    script.write_text(f"exec {' '.join(words)} --set optim.lr=0.00$((1 + RANK))\n")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", "sh", str(script)]
    _, err = finish(start([sys.executable, *launcher]), 1)
    assert "another config.optim.lr (0.002, not 0.001)" in err
    assert not (tmp_path / "run").exists()


def test_weights_that_are_dealt_to_two_processes_learn_what_whole_ones_do(
    shards: Path, alone: Path, tmp_path: Path
) -> None:
    """FSDP2, stopped in the midst of each phase; goes on whole, and dealt again."""
    run, dealt = tmp_path / "run", ("train.shard_weights=true", "train.checkpoint_every=2", "train.probe_every=5")
    resume = [sys.executable, "-m", "bridle_cli", "pretrain", "--resume", str(run)]
    for step, begin in ((4, together), (14, lambda words: [start(words)]), (24, together)):
        words = command(shards, run, sets=dealt) if step == 4 else resume
        processes = begin(held(words, tmp_path / str(step), step))
        wait_for(run / "checkpoints" / f"step-{step:08d}", processes[0])
        for process in processes:
            process.send_signal(signal.SIGTERM)
        (tmp_path / str(step) / "go").touch()
        finish(processes, 143)
        assert len(load_file(RunFolder(run).checkpoints()[-1] / "training.safetensors")) > 10  # in the midst
    finish(together(resume))
    assert_alike(alone, run)
    for name, tensor in weights(alone).items():
        assert torch.allclose(tensor.float(), weights(run)[name].float(), atol=2e-3), name


def test_a_signal_to_all_processes_and_to_who_started_them_saves_once(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = forks.Popen(
        command(shards, run, "--devices", "2", sets=("train.checkpoint_every=4",), steps=100_000),
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(run / "checkpoints" / "step-00000008", process)
    for pid in (*ranks_of(process), process.pid):
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert read_state(run)["status"] == "interrupted"
    step = int(RunFolder(run).checkpoints()[-1].name[5:])
    assert step >= 8 and step == rows(run)[-1]["step"]


def test_a_rank_whose_shards_fail_costs_no_step_of_the_others(tmp_path: Path) -> None:
    """Tars are cut while it trains: the cause is said, and resumed with whole ones it is the run without a failure."""
    api.shard(MEDIA / "image", modality="image", out=tmp_path / "set", workers=1, max_size_bytes=100_000)
    sets = ("data.cache_gb=0", "schedule.turns=0", "train.checkpoint_every=1000000")
    process = start(command(tmp_path / "set", tmp_path / "run", "--devices", "2", sets=sets, steps=200))
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    tars = {tar: tar.read_bytes() for tar in sorted((tmp_path / "set").glob("*.tar"))[2:]}
    for tar in tars:
        os.truncate(tar, 1000)
    _, err = finish(process, 4)
    assert "tar" in err and "Traceback" not in err
    reached = int(RunFolder(tmp_path / "run").checkpoints()[-1].name[5:])
    assert 0 < reached < 200
    for tar, content in tars.items():
        tar.write_bytes(content)
    finish(together([sys.executable, "-m", "bridle_cli", "pretrain", "--resume", str(tmp_path / "run")]))
    finish(together(command(tmp_path / "set", tmp_path / "whole", sets=sets, steps=200)))
    for mine, theirs in zip(rows(tmp_path / "run"), rows(tmp_path / "whole"), strict=True):
        assert mine["step"] == theirs["step"] and near(mine["loss"], theirs["loss"], 0.02)
    assert read_state(tmp_path / "run")["result"]["clips"] == read_state(tmp_path / "whole")["result"]["clips"]


def test_what_one_process_alone_meets_is_said_by_the_first(shards: Path, tmp_path: Path) -> None:
    """Processes that were started by hand, one of them with another length, another with a width that is none."""
    for changed, message in (("--steps=12", "length.steps (12, not 30)"), ("--set=encoder.width=33", "process 1: ")):
        processes, port = [], standins.free_port()
        for rank in range(2):
            words = [*command(shards, tmp_path / "run"), *([changed] if rank else [])]
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **own, **meeting}
            processes.append(forks.Popen(words, env=environment, stderr=subprocess.PIPE, text=True))
        said = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [3, 3], said
        assert message in said[0] and "error" not in said[1]


def test_more_devices_than_there_are_is_said_before_any_is_started(shards: Path, tmp_path: Path) -> None:
    _, err = finish(start(command(shards, tmp_path / "run", "--devices", "999")), 5)
    assert "--devices 999" in err and not (tmp_path / "run").exists()
