"""Training as a user meets it: phases in turn, what is frozen stays frozen, a killed run goes on as if nothing were."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import pytest
import standins
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bridle import api
from bridle.checkpoint import RunFolder, load_model, newest_run, read_state
from bridle.checkpoint.training_file import save_training
from bridle.config.sections import Config, ScheduleSection
from bridle.errors import DataError, EnvironmentFault, NumericalError, UsageError
from bridle.model import Bridle
from bridle.rng import Draws
from bridle.schema import PatchBatch
from bridle.train import objectives
from bridle.train.objectives import (
    Objective,
    Targets,
    encoder_objective,
    level_weights,
    make_targets,
    tokenizer_objective,
)
from bridle.train.phases import Limits, plan_phases, rate_share

recipe = standins.small_recipe
pytestmark = pytest.mark.usefixtures("one_thread")  # runs are compared bit for bit
MEDIA = Path(__file__).parents[2] / "media"
SMALL = standins.SMALL_RUN


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors")


def test_phases_take_turns_and_leave_a_complete_run(shards: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def watch(kind: str, **fields: object) -> None:
        if kind == "phase":
            seen.append(str(fields["phase"]))

    result = api.pretrain(shards, recipe=recipe("schedule.turns=2"), out=tmp_path / "run", steps=20, on_event=watch)
    assert seen == ["cold", "tokenizer", "encoder", "tokenizer", "encoder"]
    assert {"run", "modality", "preset", "steps", "seconds", "clips", "loss", "usage", "checkpoint"} <= set(result)
    assert result["modality"] == "image"
    assert len(result["usage"]) == 2
    assert read_state(tmp_path / "run")["status"] == "complete"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == result["steps"]
    model = load_model(tmp_path / "run")
    assert model.learned
    assert model.tokenizer.quantizer.frozen


def test_an_encoder_phase_goes_on_or_starts_afresh(shards: Path, tmp_path: Path) -> None:
    sets = ("schedule.turns=1", "schedule.cold=2", "schedule.tokenizer=1", "schedule.encoder=1", "optim.lr=1e-9")
    for name, restart in (("on", "false"), ("afresh", "true")):
        api.pretrain(shards, recipe=recipe(*sets, f"schedule.restart={restart}"), out=tmp_path / name, steps=8)
    start = load_file(tmp_path / "on" / "checkpoints" / "step-00000006" / "model.safetensors")
    moved = {
        name: (weights(tmp_path / name)["encoder.embed.weight"] - start["encoder.embed.weight"]).abs().max().item()
        for name in ("on", "afresh")
    }
    assert moved["on"] < 1e-6  # at that rate nothing moves by itself
    assert moved["afresh"] > 1e-3


def test_the_loss_falls(shards: Path, tmp_path: Path) -> None:
    long = recipe("schedule.turns=0", "optim.batch_size=32", "optim.lr=5e-3")
    api.pretrain(shards, recipe=long, out=tmp_path / "run", steps=60)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["cross_entropy"][0] < rows[0]["cross_entropy"][0] - 0.3


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in RunFolder(run).rows() if "loss" in row]


def start(shards: Path, run: Path, sets: tuple[str, ...], hold_after: int) -> subprocess.Popen[bytes]:
    """A run of 40 steps, held in the row after that step until `go` exists beside it."""
    arguments = ["pretrain", "--shards", shards, "--preset", "image-tiny", "--out", run, "--steps", 40]
    settings = [word for pair in (*SMALL, *sets) for word in ("--set", pair)]
    held = {"HOLD_AFTER": str(hold_after), "HOLD_UNTIL": str(run.parent / "go"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", standins.HELD, *map(str, arguments), *settings]
    return forks.Popen(command, env={**os.environ, **held}, stderr=subprocess.DEVNULL)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)


# in the cold start, the tokenizer phase, the encoder phase, and in the second of two tokenizer phases
@pytest.mark.parametrize(("turns", "step"), [(1, 8), (1, 20), (1, 32), (2, 28)])
def test_a_killed_run_resumes_to_the_same_weights(shards: Path, tmp_path: Path, turns: int, step: int) -> None:
    sets = ("train.checkpoint_every=4", "train.keep=2", f"schedule.turns={turns}")
    whole = api.pretrain(shards, recipe=recipe(*sets), out=tmp_path / "whole", steps=40)
    process = start(shards, tmp_path / "killed", sets, step)
    wait_for(tmp_path / "killed" / "checkpoints" / f"step-{step:08d}", process)
    process.kill()
    process.wait()
    assert read_state(tmp_path / "killed")["status"] == "running"
    result = api.resume(tmp_path / "killed")
    assert result["steps"] == whole["steps"]
    assert read_state(tmp_path / "killed")["status"] == "complete"
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    assert [json.loads(line)["loss"] for line in logs[0]] == pytest.approx(
        [json.loads(line)["loss"] for line in logs[1]]
    )


def test_killed_at_random_steps_of_each_phase_it_ends_with_the_same_bits(shards: Path, tmp_path: Path) -> None:
    sets = ("train.checkpoint_every=1", "train.log_every=1", "schedule.turns=1", "optim.ema=0.9", "mask.per_clip=2")
    sets += ("schedule.cold=1", "schedule.tokenizer=1", "schedule.encoder=1")
    api.pretrain(shards, recipe=recipe(*sets), out=tmp_path / "whole", steps=60)
    run, rng, kills = tmp_path / "killed", random.Random(0), Counter[str]()
    while not run.exists() or read_state(run)["status"] != "complete":
        steps, delay_s = iter(range(rng.randint(0, 2))), rng.uniform(0, 0.01)

        def die(kind: str, steps: Iterator[int] = steps, delay_s: float = delay_s, **fields: object) -> None:
            if kind == "step" and next(steps, None) is None:
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

        process = os.fork()
        if process == 0:
            try:
                if run.exists():
                    api.resume(run, on_event=die)
                else:
                    api.pretrain(shards, recipe=recipe(*sets), out=run, steps=60, on_event=die)
                os._exit(0)
            except BaseException:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code in (0, -signal.SIGKILL)
        kills[RunFolder(run).rows()[-1]["phase"]] += code != 0
    assert min(kills[phase] for phase in ("cold", "tokenizer", "encoder")) >= 3
    first, second = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "whole") == losses(run)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_finishes_the_step_and_saves(shards: Path, tmp_path: Path, number: int, exit_code: int) -> None:
    process = start(shards, tmp_path / "run", ("train.checkpoint_every=4", "schedule.turns=0"), 4)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000004", process)
    process.send_signal(number)
    (tmp_path / "go").touch()
    assert process.wait() == exit_code
    state = read_state(tmp_path / "run")
    assert state["status"] == "interrupted"
    assert api.resume(tmp_path / "run")["steps"] == 40


def test_one_process_trains_a_run(shards: Path, tmp_path: Path) -> None:
    process = start(shards, tmp_path / "runs" / "x", ("train.checkpoint_every=2", "schedule.turns=0"), 2)
    wait_for(tmp_path / "runs" / "x" / "checkpoints" / "step-00000002", process)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UsageError, match="another process"):
            api.resume(tmp_path / "runs" / "x")
        with pytest.raises(UsageError, match="another process"):
            api.pretrain(shards, recipe=recipe(), out=tmp_path / "runs" / "x", steps=2, overwrite=True)
        with pytest.raises(DataError, match="no interrupted run"):
            newest_run(tmp_path / "runs", unfinished=True)
    finally:
        process.kill()
        process.wait()
    assert newest_run(tmp_path / "runs", unfinished=True) == tmp_path / "runs" / "x"
    assert api.resume(tmp_path / "runs" / "x")["steps"] == 40


def test_a_complete_run_stays_complete(shards: Path, tmp_path: Path) -> None:
    whole = api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=4)
    (tmp_path / "other").mkdir()
    api.shard(MEDIA / "image" / "life_by_Aitzol_Berasategi", modality="image", out=tmp_path / "other" / "s", workers=1)
    assert api.resume(tmp_path / "run", shards=tmp_path / "other")["checkpoint"] == whole["checkpoint"]
    assert read_state(tmp_path / "run")["status"] == "complete"


def test_other_shards_are_refused_before_anything_is_touched(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(NumericalError):
        api.pretrain(shards, recipe=recipe("optim.lr=1e30"), out=tmp_path / "run", steps=60)
    before = (tmp_path / "run" / "state.json").read_bytes()
    api.shard(MEDIA / "image" / "life_by_Aitzol_Berasategi", modality="image", out=tmp_path / "other", workers=1)
    with pytest.raises(DataError, match="samples"):
        api.resume(tmp_path / "run", shards=tmp_path / "other")
    assert (tmp_path / "run" / "state.json").read_bytes() == before


def test_what_overwrite_replaces_is_kept_until_the_new_run_has_learned(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=4)
    old = weights(tmp_path / "run")

    def full_disk(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("bridle.checkpoint.run_folder.save_training", full_disk)
        with pytest.raises(OSError, match="No space"):
            api.pretrain(shards, recipe=recipe("train.seed=1"), out=tmp_path / "run", steps=4, overwrite=True)
        with pytest.raises(OSError, match="No space"):
            api.pretrain(shards, recipe=recipe(), out=tmp_path / "new", steps=4)
    assert all(torch.equal(weights(tmp_path / "run")[name], old[name]) for name in old)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    api.pretrain(shards, recipe=recipe("train.seed=1"), out=tmp_path / "run", steps=4, overwrite=True)
    assert not all(torch.equal(weights(tmp_path / "run")[name], old[name]) for name in old)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def damage(file: Path) -> None:
    """One bit, in the middle of the numbers: no format notices that."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
def test_resume_takes_the_checkpoint_before_a_damaged_one(shards: Path, tmp_path: Path, name: str) -> None:
    process = start(shards, tmp_path / "run", ("train.checkpoint_every=2", "train.keep=9", "schedule.turns=0"), 4)
    wait_for(tmp_path / "run" / "checkpoints" / "step-00000004", process)
    process.kill()
    process.wait()
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    damage(newest / name)
    said: list[str] = []
    api.resume(tmp_path / "run", dry_run=True)
    assert newest.exists()  # a plan touches nothing
    result = api.resume(tmp_path / "run", on_event=lambda kind, **fields: said.append(fields.get("message", "")))
    assert result["steps"] == 40
    assert any(newest.name in message and "previous checkpoint" in message for message in said)
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        load_file(folder / "model.safetensors")  # the damaged one is not left to be found


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("state.json", {"limits": None}),
        ("state.json", {"limits": {"steps": "x", "epochs": None, "max_minutes": None}}),
        ("state.json", {"shards": None}),
        ("state.json", {"status": "complete", "result": None}),
        ("checkpoints/step-00000004/training.json", {"stream": {}}),
        ("checkpoints/step-00000004/training.json", {"step": "a"}),
    ],
)
def test_a_run_with_wrong_values_is_named(shards: Path, tmp_path: Path, name: str, change: dict[str, object]) -> None:
    api.pretrain(shards, recipe=recipe("train.keep=1"), out=tmp_path / "run", steps=4)
    RunFolder(tmp_path / "run").update(status="interrupted")
    path = tmp_path / "run" / name
    content = json.loads(path.read_text())
    content.pop("sha256_of_the_rest", None)  # as an older version wrote it
    path.write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=f"{path.name}.*{next(iter(change))}|complete without a result"):
        api.resume(tmp_path / "run")


def test_a_failed_replacement_gives_the_old_run_back_as_it_was(shards: Path, tmp_path: Path) -> None:
    api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=4)
    before = (tmp_path / "run" / "state.json").read_bytes()
    bad = tmp_path / "bad"
    api.shard(MEDIA / "image" / "life_by_Aitzol_Berasategi", modality="image", out=bad, workers=1)
    (tar,) = bad.glob("*.tar")
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b"\xff\xd8\xff", b"\x00\x00\x00"))  # no JPEG begins any more
    with pytest.raises(DataError, match="can be decoded"):
        api.pretrain(bad, recipe=recipe(), out=tmp_path / "run", steps=4, overwrite=True)
    assert (tmp_path / "run" / "state.json").read_bytes() == before


def test_a_full_disk_at_the_very_start_loses_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=4)
    before = (tmp_path / "run" / "state.json").read_bytes()

    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "update", full_disk)
    for name in ("run", "new"):
        with pytest.raises(OSError, match="No space"):
            api.pretrain(shards, recipe=recipe(), out=tmp_path / name, steps=4, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "state.json").read_bytes() == before


def test_what_a_kill_at_the_very_start_leaves_can_be_replaced(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=4, overwrite=True)["steps"] == 4


def test_clips_of_a_single_patch_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="single patch"):
        api.pretrain(shards, recipe=recipe("patches.patch=16"), out=tmp_path / "run", steps=4)


def test_others_may_read_the_weights(shards: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=2)
    finally:
        os.umask(before)
    files = list((tmp_path / "run").rglob("*.safetensors"))
    assert files and all(file.stat().st_mode & 0o777 == 0o644 for file in files)


def test_what_is_not_finite_is_skipped_and_then_given_up(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match="finite"):
        api.pretrain(shards, recipe=recipe("optim.lr=1e30"), out=tmp_path / "run", steps=60)
    assert read_state(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize("bad", [10, 19])  # in the middle of the tokenizer phase, and its last step
def test_a_step_that_is_not_finite_changes_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    calls: list[dict[str, torch.Tensor]] = []

    def sometimes(model: Bridle, batch: PatchBatch) -> Objective:
        calls.append({name: value.clone() for name, value in model.state_dict().items()})
        if len(calls) == bad:
            batch = replace(batch, x_BNP=batch.x_BNP * 3e38)  # overflows inside the network
        return tokenizer_objective(model, batch)

    monkeypatch.setattr(objectives, "tokenizer_objective", sometimes)
    said: list[str] = []
    result = api.pretrain(
        shards,
        recipe=recipe("schedule.cold=1", "schedule.tokenizer=19", "schedule.encoder=0"),
        out=tmp_path / "run",
        steps=20,
        on_event=lambda kind, **fields: said.append(str(fields)) if kind == "warning" else None,
    )
    assert len(calls) == 19 and result["skipped_steps"] == 1
    assert any("not finite" in text for text in said)
    state = calls[bad] if bad < 19 else load_model(tmp_path / "run").state_dict()
    for name, value in calls[bad - 1].items():
        if not name.endswith("frozen") and name != "learned":
            assert torch.equal(value, state[name]), name
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert min(result["usage"]) > 0.2


def test_a_run_that_is_given_up_leaves_its_weights(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def later(model: Bridle, batch: PatchBatch, targets: Targets, weight_Q: torch.Tensor) -> Objective:
        nonlocal calls
        calls += 1
        objective = encoder_objective(model, batch, targets, weight_Q)
        if calls > 7:
            objective.loss = objective.loss * math.nan
        return objective

    monkeypatch.setattr(objectives, "encoder_objective", later)
    with pytest.raises(NumericalError, match="step-00000017") as caught:
        api.pretrain(shards, recipe=recipe("schedule.turns=0"), out=tmp_path / "run", steps=60)
    assert caught.value.exit_code == 6
    monkeypatch.setattr(objectives, "encoder_objective", encoder_objective)
    assert api.resume(tmp_path / "run")["skipped_steps"] == 10  # counted across the resume


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_cut_costs_no_steps(tmp_path: Path, workers: int) -> None:
    api.shard(MEDIA / "image", modality="image", out=tmp_path / "photos", workers=1, max_size_bytes=100_000)
    tars = sorted((tmp_path / "photos").glob("*.tar"))
    assert len(tars) > 3
    whole = {tar: tar.read_bytes() for tar in tars}

    def cut(kind: str, **fields: object) -> None:
        if kind == "step" and fields["step"] == 4:
            for tar in tars:
                os.truncate(tar, 1000)  # a removed one could still be read while it is open

    wanted = recipe("schedule.turns=0", f"data.workers={workers}", "data.cache_gb=0", "optim.batch_size=4")
    with pytest.raises(DataError, match=r"photos-\d+\.tar") as caught:
        api.pretrain(tmp_path / "photos", recipe=wanted, out=tmp_path / "run", steps=400, on_event=cut)
    assert "\n  File" not in str(caught.value) and "--resume" in caught.value.hint
    for tar, content in whole.items():
        tar.write_bytes(content)
    assert RunFolder(tmp_path / "run").checkpoints()[-1].name >= "step-00000004"
    assert api.resume(tmp_path / "run")["steps"] == 400


def test_a_decoding_process_that_is_killed_costs_no_steps(shards: Path, tmp_path: Path) -> None:
    def kill(kind: str, **fields: object) -> None:
        if kind == "step" and fields["step"] == 6:
            for worker in multiprocessing.active_children():
                worker.kill()

    wanted = recipe("schedule.turns=0", "data.workers=1", "data.cache_gb=0")
    with pytest.raises(EnvironmentFault, match="decoding process was killed"):
        api.pretrain(shards, recipe=wanted, out=tmp_path / "run", steps=400, on_event=kill)
    assert RunFolder(tmp_path / "run").checkpoints()[-1].name >= "step-00000006"
    assert read_state(tmp_path / "run")["status"] == "failed"
    assert api.resume(tmp_path / "run")["steps"] == 400


def test_resume_without_a_name_takes_the_run_that_waits(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NumericalError):
        api.pretrain(shards, recipe=recipe("optim.lr=1e30"), out="runs/waits", steps=60)
    api.pretrain(shards, recipe=recipe(), out="runs/done", steps=4)
    with pytest.raises(NumericalError):
        api.resume()
    assert read_state(Path("runs/done"))["status"] == "complete"


def test_an_output_that_exists_is_kept(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError):
            api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=2, overwrite=overwrite)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_named(shards: Path, tmp_path: Path) -> None:
    api.pretrain(shards, recipe=recipe("schedule.turns=0"), out=tmp_path / "run", steps=4)
    file = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=str(file.parent)):
        load_model(tmp_path / "run")


def test_a_full_disk_costs_a_checkpoint_and_no_training(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, tries = list[str](), 0

    def sometimes(training: dict[str, object], folder: Path) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            (folder / "training.json").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_training(training, folder)

    monkeypatch.setattr("bridle.checkpoint.run_folder.save_training", sometimes)
    wanted = recipe("schedule.turns=0", "train.checkpoint_every=4", "train.keep=9")
    result = api.pretrain(
        shards, recipe=wanted, out=tmp_path / "run", steps=12,
        on_event=lambda kind, **fields: said.append(fields["message"]) if kind == "warning" else None,
    )  # fmt: skip
    assert result["steps"] == 12
    assert [folder.name for folder in RunFolder(tmp_path / "run").checkpoints()] == [
        "step-00000000", "step-00000004", "step-00000012"
    ]  # fmt: skip
    assert any("No space left" in message and "continues" in message for message in said)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {
        folder.name for folder in RunFolder(tmp_path / "run").checkpoints()
    }


def test_a_model_of_the_version_before_is_read(shards: Path, tmp_path: Path) -> None:
    api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=10)
    folder = RunFolder(tmp_path / "run").checkpoints()[-1]
    tensors = load_file(folder / "model.safetensors")
    for name in ("tokenizer.centre", "target_norm"):
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(3)
    save_file(tensors, folder / "model.safetensors")
    about = json.loads((folder / "model.json").read_text()) | {"version": 1}
    del about["sha256"], about["sha256_of_the_rest"]
    (folder / "model.json").write_text(json.dumps(about))
    assert load_model(folder).ready
    (folder / "model.json").write_text(json.dumps(about | {"version": 3}))
    with pytest.raises(DataError, match="version 3"):
        load_model(folder)


def test_dry_run_writes_nothing(shards: Path, tmp_path: Path) -> None:
    plan = api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=10, dry_run=True)
    assert not (tmp_path / "run").exists()
    assert plan["steps"] == sum(phase["steps"] for phase in plan["phases"])
    assert plan["patches"] == 16


def test_a_corpus_smaller_than_a_batch_trains(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    one = next((MEDIA / "image").rglob("*.jpg"))
    (raw / "only.jpg").write_bytes(one.read_bytes())
    api.shard(raw, modality="image", out=tmp_path / "shards", workers=1)
    result = api.pretrain(tmp_path / "shards", recipe=recipe(), out=tmp_path / "run", steps=6)
    assert result["loss"] == result["loss"]


def test_phases_and_rates_by_hand() -> None:
    schedule = ScheduleSection(turns=1, cold=100, tokenizer=25, encoder=75)
    assert [(p.kind, p.steps) for p in plan_phases(schedule, 2.0)] == [
        ("cold", 200),
        ("tokenizer", 50),
        ("encoder", 150),
    ]
    assert [p.steps for p in plan_phases(schedule, 2.0, Limits(steps=40))] == [20, 5, 15]
    assert [p.steps for p in plan_phases(schedule, 2.0, Limits(steps=3))] == [1, 1, 1]
    assert [p.seconds for p in plan_phases(schedule, 2.0, Limits(max_minutes=2))] == [60.0, 15.0, 45.0]
    for limit in ({"steps": 0}, {"steps": 10**23}, {"epochs": math.nan}, {"epochs": 1e308}, {"max_minutes": math.inf}):
        with pytest.raises(UsageError, match="expected more than 0 and at most"):
            plan_phases(schedule, 2.0, Limits(**limit))
    assert rate_share(0.05, 0.1) == pytest.approx(0.5)
    assert rate_share(0.1, 0.1) == pytest.approx(1.0)
    assert rate_share(0.55, 0.1) == pytest.approx(0.5)
    assert rate_share(1.0, 0.1) == pytest.approx(0.0)


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 300), turns=st.integers(0, 4), shares=st.tuples(*[st.floats(0.5, 100)] * 3))
def test_as_many_steps_as_asked_for(steps: int, turns: int, shares: tuple[float, float, float]) -> None:
    cold, tokenizer, encoder = shares
    schedule = ScheduleSection(turns=turns, cold=cold, tokenizer=tokenizer, encoder=encoder)
    phases = plan_phases(schedule, 2.0, Limits(steps=steps))
    assert sum(phase.steps or 0 for phase in phases) == steps
    assert len(phases) == min(steps, 1 + 2 * turns)


def test_level_weights_by_hand() -> None:
    # |z| = 1, residuals .6 and .5: level 1 takes .64 of the energy away, level 2 .36 - .25 = .11
    weight = level_weights(torch.tensor([0.64, 0.11]), "energy")
    assert weight.tolist() == pytest.approx([0.64 / 0.75, 0.11 / 0.75])
    assert level_weights(torch.tensor([0.64, 0.11]), "uniform").tolist() == [0.5, 0.5]


def test_masks_of_a_clip_share_one_pass_of_the_tokenizer_and_hidden_patches_are_not_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = {
        "patches": standins.PATCHES["image"],
        **standins.SMALL,
        "mask": {"shape": "random", "ratio": 0.75, "per_clip": 3},
    }
    model = Bridle(Config.model_validate(sections), standins.STATISTICS)
    model.cold_tokenizer.fit(torch.randn(500, model.patcher.values))
    batch = model.patcher([torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8) for _ in range(2)])
    tokenized, encoded = list[int](), list[tuple[int, ...]]()
    model.cold_tokenizer.register_forward_hook(lambda *_: tokenized.append(1))
    model.encoder.register_forward_pre_hook(lambda module, inputs: encoded.append(tuple(inputs[0].shape[:2])))
    targets = make_targets(model, batch, Draws(0, 0, range(6)))
    encoder_objective(model, batch, targets, torch.ones(model.config.quantizer.levels)).loss.backward()
    assert len(tokenized) == 1
    assert encoded == [(2 * 3, 4)]  # three masks of two clips, four of sixteen patches to be seen


def test_a_joint_run_has_codebooks_before_its_first_step(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first step that cannot be made must not leave the encoder without targets."""
    started: list[bool] = []

    def objective(model: Bridle, batch: PatchBatch) -> Objective:
        started.append(bool(model.tokenizer.quantizer.initialised))
        found = tokenizer_objective(model, batch)
        if len(started) == 1:
            found.loss = found.loss * float("nan")
        return found

    monkeypatch.setattr(objectives, "tokenizer_objective", objective)
    wanted = recipe("schedule.mode=joint", "schedule.joint_every=4")
    result = api.pretrain(shards, recipe=wanted, out=tmp_path / "run", steps=8)
    assert started == [True, True]  # at steps 0 and 4
    assert result["skipped_steps"] == 1 and min(result["usage"]) > 0.2


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("training.json", lambda text: text.replace('"phase_index": 1', '"phase_index": 9')),
        ("model.json", lambda text: text.replace('"step": 8', '"step": 4')),
        ("model.json", None),
        ("training.json", lambda text: "[" * 100_000),
    ],
)
def test_damage_that_still_reads_is_found_and_the_checkpoint_before_is_used(
    shards: Path, tmp_path: Path, name: str, damage: Callable[[str], str] | None
) -> None:
    run, warnings = tmp_path / "run", list[str]()
    api.pretrain(shards, recipe=recipe("schedule.turns=0", "train.checkpoint_every=4"), out=run, steps=8)
    before = RunFolder(run).rows()
    RunFolder(run).update(status="interrupted")
    (run / "checkpoints" / "step-strange").mkdir()
    file = run / "checkpoints" / "step-00000008" / name
    text = file.read_text()
    if damage:
        assert damage(text) != text
        file.write_text(damage(text))
    else:
        file.unlink()
    api.resume(run, on_event=lambda kind, **fields: warnings.append(fields["message"]) if kind == "warning" else None)
    assert any("step-00000008" in one and "trying the previous checkpoint" in one for one in warnings)
    assert [row["loss"] for row in RunFolder(run).rows()] == [row["loss"] for row in before]


def test_a_checkpoint_of_a_newer_version_is_refused_and_kept(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.pretrain(shards, recipe=recipe("schedule.turns=0", "train.checkpoint_every=4"), out=run, steps=8)
    RunFolder(run).update(status="interrupted")
    about = run / "checkpoints" / "step-00000008" / "model.json"
    content = {key: value for key, value in json.loads(about.read_text()).items() if not key.startswith("sha256_of")}
    about.write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(DataError, match="version 99"):
        api.resume(run)
    assert about.exists()


def test_a_run_that_was_ended_before_its_first_checkpoint_is_begun_again(shards: Path, tmp_path: Path) -> None:
    for name in ("whole", "stillborn"):
        api.pretrain(shards, recipe=recipe(), out=tmp_path / name, steps=20)
    run = RunFolder(tmp_path / "stillborn")
    for folder in run.checkpoints():
        run.discard(folder)
    run.metrics.unlink()
    run.update(status="running")
    assert api.resume(run.path)["steps"] == 20
    assert [row["loss"] for row in run.rows()] == [row["loss"] for row in RunFolder(tmp_path / "whole").rows()]


def test_a_run_killed_while_it_was_made_is_overwritten(tmp_path: Path) -> None:
    state = {
        "status": "running",
        "preset": "",
        "shards": [],
        "limits": dict.fromkeys(("steps", "epochs", "max_minutes")),
    }
    if not (killed := os.fork()):
        os.replace = lambda *_: os._exit(9)
        RunFolder.create(tmp_path / "run", "", state, overwrite=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    run = RunFolder.create(tmp_path / "run", "", state, overwrite=True)
    (run.path / ".metrics.jsonl.0f.partial").touch()  # as another one would leave it
    run.sweep()
    assert {one.name for one in run.path.iterdir()} == {"state.json", "config.yaml", "checkpoints"}


def test_rows_that_cannot_be_written_cost_no_steps(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder where the file should be: no row can be written, whoever asks."""
    warnings: list[str] = []

    def watch(kind: str, **fields: Any) -> None:
        if kind == "start":
            (tmp_path / "run" / "metrics.jsonl").mkdir()
        if kind == "warning":
            warnings.append(fields["message"])

    assert api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=12, on_event=watch)["steps"] == 12
    assert len([one for one in warnings if "metrics.jsonl" in one]) == 1


def test_a_signal_to_all_processes_of_a_run_is_one_signal(shards: Path, tmp_path: Path) -> None:
    """To the process that trains and to those that decode for it, twice, as job schedulers send it."""
    sets = (*standins.SMALL_RUN, "data.workers=1", "data.cache_gb=0", "schedule.turns=0", "train.log_every=1")
    words = ["-m", "bridle_cli", "pretrain", "--shards", shards, "--preset", "image-tiny", "--out", tmp_path / "run"]
    words += ["--steps", "100000", *(word for pair in sets for word in ("--set", pair))]
    process = forks.Popen([sys.executable, *map(str, words)], start_new_session=True, stderr=subprocess.PIPE, text=True)
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.exists() or len(rows.read_text().splitlines()) < 5:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    run = RunFolder(tmp_path / "run")
    assert run.state()["status"] == "interrupted" and int(run.checkpoints()[-1].name[5:]) >= 5


def test_a_killed_decoder_of_two_ends_the_run_at_once(shards: Path, tmp_path: Path) -> None:
    """A process of its own: the other decoder must not keep it from ending."""
    sets = (*standins.SMALL_RUN, "data.workers=2", "data.cache_gb=0", "schedule.turns=0", "train.log_every=1")
    words = ["-m", "bridle_cli", "pretrain", "--shards", shards, "--preset", "image-tiny", "--out", tmp_path / "run"]
    words += ["--steps", "100000", *(word for pair in sets for word in ("--set", pair))]
    process = forks.Popen([sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True)
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.exists() or len(rows.read_text().splitlines()) < 5:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    decoders = forks.children_of(process.pid)
    assert len(decoders) >= 2
    os.kill(decoders[-1], signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 5 and "decoding process was killed" in err
    assert int(RunFolder(tmp_path / "run").checkpoints()[-1].name[5:]) >= 5
    assert not any(forks.alive(pid) for pid in decoders)


def test_lines_of_the_log_that_nobody_wrote_do_no_harm(shards: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    api.pretrain(shards, recipe=recipe("schedule.turns=0", "train.checkpoint_every=4"), out=run.path, steps=8)
    before = run.rows()
    run.update(status="interrupted")
    with open(run.metrics, "ab") as file:
        file.write(b'\xff\xfe\n[1]\n5\n{"step": "x"}\n{"step": null}\n' + b"[" * 100_000 + b"\n")
    run.discard(run.checkpoints()[-1])
    api.resume(run.path)
    assert [row["loss"] for row in run.rows()] == [row["loss"] for row in before]


def test_rows_that_span_a_resume_are_those_of_the_run_left_alone(shards: Path, tmp_path: Path) -> None:
    """Every fifth step a row, every fourth a checkpoint: the sums in between are not lost, nor is the use of codes."""
    run = RunFolder(tmp_path / "run")
    sets = ("train.log_every=5", "train.checkpoint_every=4", "train.keep=9", "schedule.turns=0")
    api.pretrain(shards, recipe=recipe(*sets), out=run.path, steps=15)
    before = run.rows()
    run.update(status="interrupted")
    for folder in run.checkpoints():
        if folder.name > "step-00000008":
            run.discard(folder)
    api.resume(run.path)
    timed = {"clips_per_s", "data_wait", "tflops", "memory_mb", "seconds"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in run.rows()] == [
        {k: v for k, v in row.items() if k not in timed} for row in before
    ]
