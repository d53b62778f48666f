"""One step of each phase: who moves and who stands still, at which rate, by how much; and the phases of a short run."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import standins
import torch
from safetensors.torch import load_file
from standins import small
from torch import Tensor

from bridle import api
from bridle.model import Bridle
from bridle.rng import Draws
from bridle.train import objectives
from bridle.train.objectives import tokenizer_objective
from bridle.train.step import Stepper, build_optimizer, set_trainable

pytestmark = pytest.mark.usefixtures("one_thread")
VIEWS = list(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def stepper(kind: str, learned: bool = False, rate: float = 1.0, **sections: Any) -> Stepper:
    """Ready for its first step; `learned`: the learned tokenizer is the one in force."""
    model = small("image", **sections)
    if kind in ("tokenizer", "joint") or learned:
        model.tokenizer.train().start([model.patcher(VIEWS)])
    if learned:
        model.tokenizer.quantizer.freeze()
    model.learned.fill_(learned or kind == "joint")
    one = Stepper(model, kind, len(VIEWS))  # type: ignore[arg-type]
    one.set_rate(rate)
    return one


def state(model: Bridle) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model: Bridle, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def below(model: Bridle, *parts: str) -> set[str]:
    return {name for name in model.state_dict() if name.startswith(parts)}


QUANTIZER = {f"tokenizer.quantizer.{name}" for name in ("codebook_QKC", "count_QK", "sum_QKC", "updates")}
TRAINED = {
    "encoder": ("encoder.", "predictor."),
    "tokenizer": ("tokenizer.encoder.", "tokenizer.project.", "tokenizer.centre.", "estimator.", "target_norm."),
}


@pytest.mark.parametrize(
    ("kind", "learned"), [("cold", False), ("encoder", True), ("tokenizer", False), ("tokenizer", True)]
)
def test_a_phase_moves_all_of_its_own_and_nothing_else(kind: str, learned: bool) -> None:
    """Bit by bit: weights, codebooks and running averages of the other side stand still."""
    one = stepper(kind, learned)
    if learned and kind == "tokenizer":  # a second turn: the phase begins with codebooks of its own
        one.model.tokenizer.train().start([one.model.patcher(VIEWS)])
    before = state(one.model)
    assert one.step(VIEWS, range(8), 0, 8).sound
    own = below(one.model, *TRAINED["tokenizer" if kind == "tokenizer" else "encoder"])
    # The centring before the quantizer takes away what the last bias adds: its gradient is zero.
    expected = own | QUANTIZER if kind == "tokenizer" else own
    assert moved(one.model, before) - {"tokenizer.project.2.bias"} == expected - {"tokenizer.project.2.bias"}


def test_a_joint_step_moves_both_sides_and_another_the_encoder_alone() -> None:
    one = stepper("joint")
    before = state(one.model)
    one.step(VIEWS, range(8), 0, 8, tokenizer=True)
    both = below(one.model, *TRAINED["encoder"], *TRAINED["tokenizer"]) | QUANTIZER
    assert moved(one.model, before) >= both - {"tokenizer.project.2.bias"}
    before = state(one.model)
    one.step(VIEWS, range(8), 1, 8, tokenizer=False)
    # Codebooks and the averages that centre z follow every batch that they make targets of.
    following = QUANTIZER | {"tokenizer.centre.running_mean", "tokenizer.centre.running_var"}
    assert moved(one.model, before) - following == below(one.model, *TRAINED["encoder"])


def test_a_joint_step_adds_a_fifth_of_the_tokenizer_loss() -> None:
    one = stepper("joint", optim={"clip_norm": 1e9})
    alone = deepcopy(one.model)
    tokenizer_objective(alone, alone.patcher(VIEWS, Draws(0, 0, range(8)))).loss.backward()
    one.step(VIEWS, range(8), 0, 8, tokenizer=True)
    for name in ("estimator.head.weight", "tokenizer.encoder.embed.weight"):
        mine, whole = (dict(model.named_parameters())[name].grad for model in (one.model, alone))
        assert mine is not None and whole is not None and float(whole.norm()) > 0
        assert torch.allclose(mine, 0.2 * whole, rtol=1e-4, atol=1e-7)


def test_an_encoder_step_predicts_codes_of_the_tokenizer_in_force() -> None:
    for learned in (False, True):
        one = stepper("encoder", learned=learned)
        model = one.model
        (part,) = one._parts(VIEWS, range(8), 0)
        assert part.targets is not None
        tokenizer = model.tokenizer if learned else model.cold_tokenizer
        batch = model.patcher(VIEWS, Draws(0, 0, range(8)))
        codes_BNQ = batch.padded(tokenizer(batch).codes_NQ, -1)
        index_BM1 = part.targets.mask.masked_BM[..., None].expand(-1, -1, 3)
        assert torch.equal(part.targets.code_BMQ, codes_BNQ.gather(1, index_BM1))


def test_masks_and_augmentation_follow_from_seed_step_and_place() -> None:
    """Another step or seed, another mask; the same clip in another place of the step, too. All else equal, equal."""

    def drawn(number: int = 0, seed: int = 0, first: int = 0) -> tuple[Tensor, Tensor]:
        one = stepper("cold", train={"seed": seed})
        (part,) = one._parts(VIEWS, range(first, first + 8), number)
        assert part.targets is not None and part.batch is not None
        return part.targets.mask.masked_BM.sort(1).values, part.batch.x_BNP

    mask_BM, x_BNP = drawn()
    for again, equal in ((drawn(), True), (drawn(number=1), False), (drawn(seed=1), False), (drawn(first=8), False)):
        assert torch.equal(again[0], mask_BM) is equal and torch.equal(again[1], x_BNP) is equal
    one = stepper("cold", mask={"per_clip": 2, "ratio": 0.5})
    (part,) = one._parts(VIEWS, range(8), 0)
    assert part.targets is not None
    first, second = part.targets.mask.masked_BM.sort(1).values.split(8)  # the first mask of all clips, then the second
    assert not (first == second).all(1).any()


# --- optimizer ---------------------------------------------------------------------------------------------------


def test_weight_decay_is_of_matrices_only() -> None:
    """Without a gradient AdamW leaves 1 - rate x decay of what is decayed: .95 here, and of the rest all."""
    model = small("image", optim={"weight_decay": 0.5, "lr": 0.1, "tokenizer_lr": 0.2})
    optimizer = build_optimizer(set_trainable(model, "joint"), model.config.optim)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        rate = 0.1 if name.startswith(("encoder", "predictor")) else 0.2
        kept = 1 - 0.5 * rate if name.endswith("weight") and "norm" not in name else 1.0
        assert torch.allclose(p, kept * before[name], atol=1e-7), name


def test_adamw_has_the_papers_betas() -> None:
    """After gradients 1 and 3 the step is the mean over the root of the mean square, both corrected for their start:
    m = (.9 * .1 + .1 * 3) / (1 - .81), v = (.95 * .05 + .05 * 9) / (1 - .9025)."""
    model = small("image", optim={"lr": 0.1, "weight_decay": 0.0})
    optimizer = build_optimizer(set_trainable(model, "cold"), model.config.optim)
    p = model.encoder.class_token_D
    for gradient in (1.0, 3.0):
        before = p.detach().clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
    m, v = (0.9 * 0.1 + 0.1 * 3) / (1 - 0.81), (0.95 * 0.05 + 0.05 * 9) / (1 - 0.9025)
    assert torch.allclose(before - p, torch.tensor(0.1 * m / math.sqrt(v)), rtol=1e-4)


def test_long_gradients_are_shortened_to_clip_norm() -> None:
    def norm(clip_norm: float) -> tuple[float, Tensor]:
        one = stepper("cold", optim={"clip_norm": clip_norm})
        one.step(VIEWS, range(8), 0, 8)
        whole = torch.cat([p.grad.flatten() for p in one.parameters if p.grad is not None])
        return float(whole.norm()), whole

    free, gradient = norm(1e9)
    assert free > 0.1
    short, shortened = norm(0.01)
    assert short == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(shortened, gradient * 0.01 / free, rtol=1e-3, atol=1e-9)  # all of it alike


def test_each_side_has_its_own_rate() -> None:
    one = stepper("joint", optim={"lr": 0.02, "tokenizer_lr": 0.004})
    assert one.set_rate(0.5) == pytest.approx(0.01)
    rate = {id(p): group["lr"] for group in one.optimizer.param_groups for p in group["params"]}
    for name, p in one.model.named_parameters():
        assert rate[id(p)] == pytest.approx(0.01 if name.startswith(("encoder", "predictor")) else 0.002), name


def test_gradients_of_one_step_do_not_stay_for_the_next() -> None:
    one = stepper("cold", rate=0.0)
    first, second = list[Tensor](), list[Tensor]()
    for found in (first, second):  # at a rate of zero nothing moves: the same step again
        one.step(VIEWS, range(8), 0, 8)
        found.extend(p.grad.clone() for p in one.parameters if p.grad is not None)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(first, second, strict=True))


# --- a short run -------------------------------------------------------------------------------------------------

# Four steps a phase, a checkpoint and a row of the log after each.
SETS = (
    "schedule.cold=1", "schedule.tokenizer=1", "schedule.encoder=1", "train.log_every=1", "train.checkpoint_every=1",
    "train.keep=99", "optim.warmup=0.25", "optim.lr=0.01", "optim.tokenizer_lr=0.004", "optim.ema=0.15",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("method") / "run"
    api.pretrain(shards, recipe=standins.small_recipe(*SETS), out=out, steps=12)
    return out


@pytest.fixture(scope="module")
def checkpoints(run: Path) -> list[dict[str, Tensor]]:
    """The weights before the first step and after each of the twelve."""
    return [load_file(folder / "model.safetensors") for folder in sorted((run / "checkpoints").iterdir())]


def test_the_rate_warms_up_and_falls_as_a_cosine_in_each_phase(run: Path) -> None:
    """A step's rate is that of its middle: 1/8, 3/8, 5/8, 7/8 of a phase, of which the first quarter warms up."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "lr" in row]
    share = [0.5, *[0.5 * (1 + math.cos(math.pi * angle / 180)) for angle in (30, 90, 150)]]
    assert share[1:] == pytest.approx([0.9330, 0.5, 0.0670], abs=1e-4)
    for phase, peak in (("cold", 0.01), ("tokenizer", 0.004), ("encoder", 0.01)):
        found = [row["lr"] for row in rows if row["phase"] == phase]
        assert found == pytest.approx([peak * one for one in share], rel=1e-3), phase  # the log rounds


def names_of(weights: dict[str, Tensor], *parts: str) -> set[str]:
    return {name for name in weights if name.startswith(parts)}


def test_every_step_of_a_run_moves_what_its_phase_trains(checkpoints: list[dict[str, Tensor]]) -> None:
    assert len(checkpoints) == 13
    for step, (before, after) in enumerate(pairwise(checkpoints)):
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        trained = TRAINED["tokenizer" if 4 <= step < 8 else "encoder"]
        others = {name for name in changed if not name.startswith((*trained, "tokenizer.quantizer."))}
        if step == 0:  # the cold tokenizer is fitted before the first step, and stands still from then on
            assert names_of(others, "cold_tokenizer.") == others - names_of(others, "average.")
        elif step < 4 or step >= 8:
            assert others == names_of(after, "average.") - names_of(after, "average.positions")
            assert not names_of(changed, "tokenizer.")
        else:
            assert others == ({"learned"} if step == 7 else set())  # in force from the end of its phase
            assert changed >= QUANTIZER
        head = (after["predictor.head.weight"] - before["predictor.head.weight"]).abs().max()
        assert bool(head > 0.1) is (step == 8)  # a new head for new codebooks; a step moves a weight by .01 at most
        assert names_of(changed, *trained) >= names_of(after, *trained) - {"tokenizer.project.2.bias"}


def test_the_average_follows_the_steps_of_a_run(checkpoints: list[dict[str, Tensor]]) -> None:
    """After step n it keeps min(.15, (1 + n) / (10 + n)) of itself; in the tokenizer phase it rests."""
    for name in ("embed.weight", "blocks.0.mlp.0.weight", "class_token_D"):
        mean = checkpoints[0][f"average.{name}"]
        for step, weights in enumerate(checkpoints[1:]):
            if not 4 <= step < 8:
                keeps = min(0.15, (1 + step) / (10 + step))
                mean = keeps * mean + (1 - keeps) * weights[f"encoder.{name}"]
            assert torch.allclose(weights[f"average.{name}"], mean, atol=1e-6), (name, step)


def test_joint_mode_trains_the_tokenizer_every_fourth_step(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    encoder, tokenizer = objectives.encoder_objective, objectives.tokenizer_objective
    count = 0

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return encoder(*arguments)

    def noted(*arguments: Any) -> Any:
        steps.append(count - 1)  # the encoder's objective of the same step came before
        return tokenizer(*arguments)

    monkeypatch.setattr(objectives, "encoder_objective", counted)
    monkeypatch.setattr(objectives, "tokenizer_objective", noted)
    api.pretrain(shards, recipe=standins.small_recipe("schedule.mode=joint"), out=tmp_path / "run", steps=10)
    assert count == 10 and steps == [0, 4, 8]
