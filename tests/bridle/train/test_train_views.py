"""What a run shows of itself, and what it does when memory is short."""

from __future__ import annotations

import json
import sys
import weakref
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import standins
import torch

from bridle import api
from bridle.checkpoint import RunFolder
from bridle.config.sections import Config
from bridle.errors import ConfigError, EnvironmentFault
from bridle.model import Bridle
from bridle.schema import PatchBatch
from bridle.train import step as steps
from bridle.train.cost import clip_flops, peak_flops
from bridle.train.step import Outcome, Stepper
from bridle_cli.main import main

recipe = standins.small_recipe
pytestmark = pytest.mark.usefixtures("one_thread")
MEDIA = Path(__file__).parents[2] / "media"
VIEWS = list(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def stepper(kind: str = "encoder", clips: int = 8) -> Stepper:
    sections = {"patches": standins.PATCHES["image"], **standins.SMALL}
    model = Bridle(Config.model_validate(sections), standins.STATISTICS)
    model.cold_tokenizer.fit(torch.randn(500, model.patcher.values))
    return Stepper(model, kind, clips)  # type: ignore[arg-type]


def test_metrics_say_how_fast_and_how_long_was_waited(shards: Path, tmp_path: Path) -> None:
    api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=20)
    rows = [row for row in RunFolder(tmp_path / "run").rows() if "loss" in row]
    assert {row["phase"] for row in rows} == {"cold", "tokenizer", "encoder"}
    for row in rows:
        assert 0 <= row["data_wait"] <= 1 and row["memory_mb"] > 50
        assert 0 < row["tflops"] < 10 and "mfu" not in row  # a CPU promises nothing


def test_peaks_are_of_the_very_device() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 NVL") == 835e12
    assert peak_flops("NVIDIA A10G") == 70e12 and peak_flops("NVIDIA A10") == 125e12
    assert peak_flops("NVIDIA GeForce RTX 4090") is None and peak_flops("NVIDIA A1000") is None


def test_flops_by_hand() -> None:
    """16 patches of 48 values, 4 visible, 12 hidden; width 16, 1 block; 3 levels of 8 codes 4 wide."""
    model = stepper().model
    model.config = model.config.model_copy(
        update={"mask": model.config.mask.model_copy(update={"ratio": 0.75, "per_clip": 2})}
    )

    def block(tokens: int) -> int:  # qkv 3, out 1, mlp 4 + 4 matrices of 16 x 16, and attention's two products
        return 2 * tokens * 12 * 16 * 16 + 2 * 2 * tokens * tokens * 16

    search = 2 * 16 * 3 * 8 * 4
    encoder = 2 * 4 * 48 * 16 + block(1 + 4)
    predictor = 2 * 4 * 16 * 16 + block(4 + 12) + 2 * 12 * 16 * (3 * 8)
    assert clip_flops(model, "cold") == 2 * 16 * 48 * 4 + search + 3 * 2 * (encoder + predictor)
    own = 2 * 16 * 48 * 16 + block(17) + 2 * 16 * (16 * 16 + 16 * 4) + search
    assert clip_flops(model, "encoder") == own + 3 * 2 * (encoder + predictor)
    assert 0.4 < clip_flops(model, "encoder", 8) / clip_flops(model, "encoder") < 0.5  # half a clip is half the work


def test_a_profile_names_the_parts_of_each_phase(shards: Path, tmp_path: Path) -> None:
    seen: dict[str, dict[str, Any]] = {}

    def watch(kind: str, **fields: Any) -> None:
        if kind == "profile":
            seen[fields["phase"]] = fields

    turn = ("schedule.cold=1", "schedule.tokenizer=1", "schedule.encoder=1", "schedule.turns=1")
    api.pretrain(shards, recipe=recipe(*turn), out=tmp_path / "run", steps=48, profile=True, on_event=watch)
    assert list(seen) == ["1-cold", "2-tokenizer", "3-encoder"]
    shares = [sum(told["ms"].values()) / told["step_ms"] for told in seen.values()]
    assert 0.5 < max(shares) <= 1.05, shares  # the first phase may have the profiler's own start
    for name, told in seen.items():
        parts = {"data wait", "patches", "tokenizer", "encoder", "backward", "optimizer"}
        assert set(told["ms"]) == parts | (set() if "tokenizer" in name else {"predictor"})
        events = json.loads(Path(told["trace"]).read_text())["traceEvents"]
        assert sum(event.get("name") == "bridle: backward" for event in events) >= 10


def test_a_phase_too_short_to_be_profiled_is_named(shards: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for length in (2, 3):
        api.pretrain(
            shards, recipe=recipe("schedule.turns=0"), out=tmp_path / str(length), steps=length, profile=True,
            on_event=lambda kind, **fields: said.append(kind if kind == "profile" else fields.get("message", "")),
        )  # fmt: skip
    assert said.count("phase 1-cold ended before step 4: not profiled") == 2 and "profile" not in said


def test_tensorboard_has_what_the_log_has(shards: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    api.pretrain(shards, recipe=recipe("train.tracker=tensorboard"), out=tmp_path / "run", steps=8)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows = [row for row in RunFolder(tmp_path / "run").rows() if "loss" in row]
    assert [(one.step, pytest.approx(one.value, abs=1e-5)) for one in events.Scalars("loss")] == [
        (row["step"], row["loss"]) for row in rows
    ]
    assert {"usage/1", "usage/2", "cross_entropy/2", "data_wait"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_missing_has_a_remedy(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentFault, match=name) as caught:
        api.pretrain(shards, recipe=recipe(f"train.tracker={name}"), out=tmp_path / "run", steps=8)
    assert f"bridle[{name}]" in caught.value.hint and not (tmp_path / "run").exists()


def test_a_tracker_forgets_what_a_resumed_run_does_again(shards: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = RunFolder(tmp_path / "run")
    sets = ("train.tracker=tensorboard", "train.checkpoint_every=4", "train.keep=9")
    api.pretrain(shards, recipe=recipe(*sets), out=run.path, steps=12)
    for folder in run.checkpoints():
        if folder.name > "step-00000004":
            run.discard(folder)
    run.update(status="interrupted")
    api.resume(run.path)
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [one.step for one in events.Scalars("loss")] == [row["step"] for row in run.rows() if "loss" in row]


def test_runs_are_listed_with_their_state(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    api.pretrain(shards, recipe=recipe("train.probe_every=4"), out=root / "whole", steps=8)
    for name, status in (("killed", "running"), ("stopped", "interrupted")):
        api.pretrain(shards, recipe=recipe("train.seed=1"), out=root / "deep" / name, steps=4)
        RunFolder(root / "deep" / name).update(status=status)
    with open(root / "deep" / "stopped" / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "probe": 5}\n{"step": 4, "loss": "x"}\n')  # somebody else's, or damaged
    (root / "broken").mkdir()
    (root / "broken" / "state.json").write_text("{")
    assert main(["runs", str(root), "--json"]) == 0
    found = {Path(one["run"]).name: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {name: one["status"] for name, one in found.items()} == {
        "whole": "complete", "killed": "stopped", "stopped": "interrupted", "broken": "damaged"
    }  # fmt: skip
    whole = found["whole"]
    assert (whole["step"], whole["preset"], whole["modality"]) == (8, "image-tiny", "image")
    probes = [(row["probe"]["knn"], row["step"]) for row in RunFolder(root / "whole").rows() if "probe" in row]
    assert (whole["best_probe"], whole["best_step"]) == max(probes) and found["killed"]["best_probe"] is None
    assert whole["bytes"] > 10_000
    with RunFolder(root / "deep" / "killed").lock():
        assert {Path(one["run"]).name: one["status"] for one in api.runs(root)}["killed"] == "running"
    assert main(["runs", str(root)]) == 0
    assert "interrupted" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "nowhere")]) == 4


def test_activations_that_are_computed_again_change_nothing_but_memory(shards: Path, tmp_path: Path) -> None:
    for name in ("false", "true"):
        api.pretrain(shards, recipe=recipe(f"train.recompute={name}"), out=tmp_path / name, steps=8)
    kept, again = (RunFolder(tmp_path / name).rows() for name in ("false", "true"))
    assert [row["loss"] for row in kept] == pytest.approx([row["loss"] for row in again], rel=1e-6)


def test_memory_that_is_full_names_what_would_fit(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Stepper._loss

    def loss(self: Stepper, *arguments: Any) -> torch.Tensor:
        if len(arguments[0].views) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *arguments)

    monkeypatch.setattr(Stepper, "_loss", loss)
    with pytest.raises(EnvironmentFault, match="8 clips at once do not fit") as caught:
        api.pretrain(shards, recipe=recipe(), out=tmp_path / "run", steps=8)
    assert "train.part=4" in caught.value.hint
    said: list[str] = []
    monkeypatch.setattr(steps, "step_bytes", lambda model, clips: 1e6 * clips)
    monkeypatch.setattr(steps, "free_memory", lambda device: 3e6)
    api.pretrain(
        shards, recipe=recipe("train.part=auto", "schedule.turns=0"), out=tmp_path / "run", steps=8,
        on_event=lambda kind, **fields: said.append(fields["message"]) if kind == "note" else None,
    )  # fmt: skip
    assert said == ["cold: 2 of 8 clips fit into memory at once"]
    monkeypatch.undo()
    api.pretrain(shards, recipe=recipe("schedule.turns=0"), out=tmp_path / "whole", steps=8)
    parts, whole = (RunFolder(tmp_path / name).rows() for name in ("run", "whole"))
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], rel=1e-5)


def test_looking_for_the_part_that_fits_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cold", "tokenizer"):
        one = stepper(kind)
        if kind == "tokenizer":
            one.model.tokenizer.train().start([one.model.patcher([one.model.patcher.blank()] * 8)])
        twin = Stepper(deepcopy(one.model), kind, 8)  # type: ignore[arg-type]
        before = {name: value.clone() for name, value in one.model.state_dict().items()}
        one._try(4, again=True)
        assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
        assert len(one.optimizer.state) == len(one.parameters)  # what a real step has in memory
        views = list(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))
        for stepper_ in (one, twin):
            stepper_.set_rate(1.0)
            stepper_.step(views, range(8), 0, 8)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.parameters, twin.parameters, strict=True))
    monkeypatch.setattr(steps, "step_bytes", lambda model, clips: 3e5 * clips)
    monkeypatch.setattr(steps, "free_memory", lambda device: 1e6)
    assert one.fit(8) == one.part == 2  # of a megabyte 0.8 may be taken
    monkeypatch.setattr(steps, "free_memory", lambda device: 1e5)
    with pytest.raises(EnvironmentFault, match="one clip"):
        one.fit(8)


def test_a_step_that_is_not_sound_says_why_and_changes_nothing() -> None:
    one = stepper("cold", 2)
    one.set_rate(1.0)
    views = [torch.zeros(3, 16, 16, dtype=torch.uint8)] * 2
    before = [p.clone() for p in one.parameters]
    one.model.patcher.mean.fill_(float("nan"))
    outcome: Outcome = one.step(views, [0, 1], 0, 2)
    assert outcome.status_4.tolist() == [float(steps.BAD_MEDIA), 2.0, 32.0, 0.0] and not outcome.sound
    assert all(torch.equal(p, old) for p, old in zip(one.parameters, before, strict=True))


@pytest.mark.parametrize("kind", ["cold", "tokenizer"])
def test_a_step_without_a_clip_changes_nothing_and_one_of_two_is_a_whole_step(kind: str) -> None:
    """What could not be read counts for nothing: neither in the loss nor in the codebooks."""
    one = stepper(kind, 2)
    one.set_rate(1.0)
    if kind == "tokenizer":
        one.model.tokenizer.train().start([one.model.patcher(list(VIEWS))])
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    outcome = one.step([], [], 0, 0)
    assert steps.REASONS[int(outcome.status_4[0])] == "none of its clips could be read"
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    twin = Stepper(deepcopy(one.model), kind, 1)  # type: ignore[arg-type]
    twin.set_rate(1.0)
    one.part = 1
    found = [each.step(VIEWS[:1], [0], 0, 1) for each in (one, twin)]  # the second part of `one` is empty
    assert found[0].sound and float(found[0].loss) == pytest.approx(float(found[1].loss), rel=1e-6)
    for name, value in one.model.state_dict().items():
        assert torch.allclose(value.double(), twin.model.state_dict()[name].double(), atol=1e-6), name


def test_parts_of_unequal_clips_add_up_to_the_whole() -> None:
    """Sounds of 3 to 24 steps, block masks, a third predicted: parts pad and cut differently, and nothing else."""
    sections = {"patches": standins.PATCHES["audio"], **standins.SMALL}
    mask = {"shape": "block", "per_clip": 2, "predict": 0.4}
    config = Config.model_validate({**sections, "mask": mask, "tokenizer": {"level_weights": "energy"}})
    torch.manual_seed(0)
    model = Bridle(config, standins.STATISTICS)
    model.cold_tokenizer.fit(torch.randn(500, model.patcher.values))
    longest = len(model.patcher.blank())
    noise = torch.Generator().manual_seed(0)
    views = [
        torch.randint(-9000, 9000, (longest * part // 8,), dtype=torch.int16, generator=noise)
        for part in (8, 1, 3, 2, 7, 1, 5)
    ]
    found = []
    for part in (None, 3, 2, 1):
        one = Stepper(deepcopy(model), "cold", len(views), part=part)
        outcome = one.step(views, range(len(views)), 0, len(views))
        found.append((float(outcome.loss), [p.grad.clone() for p in one.parameters if p.grad is not None]))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for mine, whole in zip(gradients, found[0][1], strict=True):
            assert float((mine - whole).norm()) <= 1e-4 * float(whole.norm()) + 1e-9


def test_of_a_step_in_parts_one_part_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stepper("cold", 8)
    one.set_rate(1.0)
    one.part = 2
    cut: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    real_cut, real_loss = Stepper._cut, Stepper._loss

    def watched_cut(self: Stepper, *arguments: Any) -> PatchBatch:
        batch = real_cut(self, *arguments)
        cut.append(weakref.ref(batch.x_BNP))
        return batch

    def watched_loss(self: Stepper, *arguments: Any) -> torch.Tensor:
        alive.append(sum(ref() is not None for ref in cut))
        return real_loss(self, *arguments)

    monkeypatch.setattr(Stepper, "_cut", watched_cut)
    monkeypatch.setattr(Stepper, "_loss", watched_loss)
    one.step(VIEWS, range(8), 0, 8)
    assert len(cut) == 8 and len(alive) == 4 and max(alive) <= 1  # that of the part before, until it is replaced


def test_codes_to_predict_are_those_that_the_clip_is_tokenized_to() -> None:
    """Also where networks compute in bfloat16: features and cold codes do not."""
    sections = {"patches": standins.PATCHES["audio"], **standins.SMALL}
    model = Bridle(Config.model_validate({**sections, "mask": {"per_clip": 1}}), standins.STATISTICS)
    model.cold_tokenizer.fit(torch.randn(500, model.patcher.values))
    view = torch.randint(-9000, 9000, model.patcher.blank().shape, dtype=torch.int16)
    model.patcher.config = model.patcher.config.model_copy(update={"gain_db": 0.0})  # as it is tokenized
    (part,) = Stepper(model, "cold", 1, torch.bfloat16)._parts([view], [0], 0)
    assert part.batch is not None and part.batch.x_BNP.dtype is torch.float32
    assert part.targets is not None
    codes_BNQ = model.eval().tokenize(model.patcher([view]))
    assert torch.equal(part.targets.code_BMQ[0], codes_BNQ[0][part.targets.mask.masked_BM[0]])


def test_a_run_goes_on_with_its_own_settings_or_harmless_ones(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.pretrain(shards, recipe=recipe("schedule.turns=0"), out=tmp_path / "whole", steps=20)
    api.pretrain(
        shards, recipe=recipe("schedule.turns=0", "train.checkpoint_every=4", "train.keep=9"), out=run, steps=20
    )
    for folder in RunFolder(run).checkpoints():
        if folder.name > "step-00000008":
            RunFolder(run).discard(folder)
    RunFolder(run).update(status="interrupted")
    with pytest.raises(ConfigError, match=r"optim\.lr \(0\.001, now 0\.01\)"):
        api.resume(run, sets=["optim.lr=0.01"], force=True)
    with pytest.raises(ConfigError, match=r"train\.keep \(9, now 3\)") as caught:
        api.resume(run, sets=["train.keep=3"])
    assert "--force" in caught.value.hint
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("batch_size: 8", "batch_size: 4"))  # by hand
    with pytest.raises(ConfigError, match=r"optim\.batch_size \(8, now 4\)"):
        api.resume(run)
    (run / "config.yaml").write_text(text)
    api.resume(run, sets=["train.keep=1", "train.recompute=true", "train.part=4"], force=True)
    assert len(RunFolder(run).checkpoints()) == 1 and "keep: 1" in (run / "config.yaml").read_text()
    whole, resumed = (RunFolder(tmp_path / name).rows() for name in ("whole", "run"))
    assert [row["loss"] for row in whole] == pytest.approx([row["loss"] for row in resumed], rel=1e-5)
