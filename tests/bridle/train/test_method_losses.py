"""Both losses of the method against numbers worked out by hand: value, sign, gradient, and what never counts.

Networks are replaced by constants where a number is to be followed by hand; everything else is the model's own.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from standins import small
from torch import Tensor, nn

from bridle.model import Bridle, Mask
from bridle.patches.cut import coordinates
from bridle.quantize import Quantized
from bridle.rng import Draws
from bridle.schema import PatchBatch
from bridle.train.objectives import Targets, encoder_objective, make_targets, tokenizer_objective

LEVELS, CODES, WIDTH = 3, 8, 16  # of the small models
HALF, QUARTER = math.log(2), math.log(4)  # cross-entropy of a code that is given 1/2, 1/4


class Constant(nn.Module):
    """Gives the same answer whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *inputs: Any) -> Any:
        return self.answer


def batch_of(steps: tuple[int, ...], values: int = 256, seed: int = 0) -> PatchBatch:
    """Audio patches in a grid of 4 x 2; clips have that many steps of time, the rest is padding."""
    grid = (4, 2, 1)
    coords_BN3 = coordinates(grid).expand(len(steps), -1, -1)
    valid_BN = coords_BN3[..., 0] < torch.tensor(steps)[:, None]
    x_BNP = torch.randn(len(steps), 8, values, generator=torch.Generator().manual_seed(seed)) * valid_BN[..., None]
    return PatchBatch(x_BNP, coords_BN3, valid_BN, valid_BN.sum(1).tolist(), grid)


# --- encoder phase -----------------------------------------------------------------------------------------------


def fixed_guesses(model: Bridle) -> Tensor:
    """Every hidden patch gets the same guess `(Q, K)`, returned as probabilities: 1/2 for code 0 at level 1, 1/4 for
    code 1 at level 2, 1/2 for code 7 at level 3; the other codes of a level share the rest."""
    p_QK = torch.tensor([[1 / 2 if k == 0 else 1 / 14 for k in range(8)]] * LEVELS)
    p_QK[1] = torch.tensor([1 / 4 if k == 1 else 3 / 28 for k in range(8)])
    p_QK[2] = torch.tensor([1 / 2 if k == 7 else 1 / 14 for k in range(8)])
    with torch.no_grad():
        model.predictor.head.weight.zero_()
        model.predictor.head.bias.copy_(p_QK.log().flatten())
    return p_QK


def targets_of(code_BMQ: Tensor, valid_BM: Tensor | None = None) -> Targets:
    """Hides the last patches of each clip; the others are visible."""
    clips, hidden = code_BMQ.shape[:2]
    visible_BV = torch.arange(8 - hidden).expand(clips, -1)
    masked_BM = torch.arange(8 - hidden, 8).expand(clips, -1)
    seen_BV = None if valid_BM is None else torch.ones_like(visible_BV, dtype=torch.bool)
    mask = Mask(visible_BV, seen_BV, masked_BM, valid_BM)
    count = (code_BMQ[..., 0] >= 0).sum()
    return Targets(mask, code_BMQ, torch.zeros(LEVELS), torch.zeros(LEVELS, CODES), count)


def test_cross_entropy_is_the_mean_over_hidden_patches_and_levels() -> None:
    model = small("audio")
    fixed_guesses(model)
    # Two hidden patches. Level 1: both are code 0, ln 2 each. Level 2: both are code 1, ln 4. Level 3: one is code 7,
    # ln 2, the other code 0, ln 14.
    targets = targets_of(torch.tensor([[[0, 1, 7], [0, 1, 0]]]))
    found = encoder_objective(model, batch_of((4,)), targets, torch.full((LEVELS,), 1 / LEVELS))
    expected = [HALF, QUARTER, (HALF + math.log(14)) / 2]
    assert found.per_level_Q.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.loss.item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_cross_entropy_weighs_levels() -> None:
    model = small("audio")
    fixed_guesses(model)
    targets = targets_of(torch.tensor([[[0, 1, 7]]]))
    found = encoder_objective(model, batch_of((4,)), targets, torch.tensor([0.7, 0.2, 0.1]))
    assert found.loss.item() == pytest.approx(0.7 * HALF + 0.2 * QUARTER + 0.1 * HALF, rel=1e-5)
    assert found.per_level_Q.tolist() == pytest.approx([HALF, QUARTER, HALF], rel=1e-5)  # logged as they are


def test_padding_never_counts_in_the_cross_entropy() -> None:
    """Three hidden patches in all, of two clips: the mean is over these, neither over slots nor over clips."""
    model = small("audio")
    fixed_guesses(model)
    code_BMQ = torch.tensor([[[0, 1, 7], [0, 1, 7]], [[2, 2, 2], [-1, -1, -1]]])
    targets = targets_of(code_BMQ, code_BMQ[..., 0] >= 0)
    found = encoder_objective(model, batch_of((4, 4)), targets, torch.full((LEVELS,), 1 / LEVELS))
    by_level = [(2 * HALF + math.log(14)) / 3, (2 * QUARTER + math.log(28 / 3)) / 3, (2 * HALF + math.log(14)) / 3]
    assert found.per_level_Q.tolist() == pytest.approx(by_level, rel=1e-5)
    assert found.loss.item() == pytest.approx(sum(by_level) / 3, rel=1e-5)


def test_a_step_along_the_gradient_makes_the_right_code_likelier() -> None:
    """The gradient of a logit is its probability, less one for the right code, over the levels."""
    model = small("audio")
    p_QK = fixed_guesses(model)
    code_BMQ = torch.tensor([[[3, 1, 7]]])
    loss = encoder_objective(model, batch_of((4,)), targets_of(code_BMQ), torch.full((LEVELS,), 1 / LEVELS)).loss
    (gradient,) = torch.autograd.grad(loss, model.predictor.head.bias)
    expected_QK = (p_QK - F.one_hot(code_BMQ[0, 0], CODES)) / LEVELS
    assert torch.allclose(gradient.view(LEVELS, CODES), expected_QK, atol=1e-6)


@pytest.mark.parametrize("predict", [1.0, 0.5])
def test_targets_are_the_codes_of_the_hidden_patches_of_each_mask(predict: float) -> None:
    """Two clips, one of them half padding, three masks each: row m * 2 + b belongs to mask m of clip b."""
    model = small("audio", mask={"ratio": 0.5, "per_clip": 3, "predict": predict})
    batch = batch_of((4, 2))
    codes_BNQ = model.tokenize(batch)
    targets = make_targets(model, batch, Draws(0, 0, range(6)))
    asked = [round(hidden * predict) for hidden in (4, 2)]  # half of 8 patches, half of 4, and of these all or half
    assert targets.code_BMQ.shape == (6, asked[0], LEVELS)
    for row, (code_MQ, index_M) in enumerate(zip(targets.code_BMQ, targets.mask.masked_BM, strict=True)):
        clip = row % 2
        assert torch.equal(code_MQ[: asked[clip]], codes_BNQ[clip][index_M[: asked[clip]]])
        assert (code_MQ[: asked[clip]] >= 0).all() and (code_MQ[asked[clip] :] == -1).all()
    assert int(targets.hidden) == 3 * sum(asked)
    assert targets.count_QK.sum(1).tolist() == [12.0] * LEVELS  # each valid patch once, however many masks
    hidden_sets = {tuple(sorted(row.tolist())) for row in targets.mask.masked_BM[::2]}
    assert len(hidden_sets) > 1  # several masks of a clip are different ones


def test_energy_is_what_each_level_takes_away() -> None:
    """Of 8 + 4 valid patches: |r_{q-1}|^2 - |r_q|^2, with residuals computed here from codes and codebooks."""
    model, batch = small("audio"), batch_of((4, 2))
    targets = make_targets(model, batch, Draws(0, 0, range(2)))
    codes_RQ = model.tokenize(batch)[batch.valid_BN]
    residual_RC = F.normalize(model.cold_tokenizer.projection(batch.x_BNP[batch.valid_BN]), dim=-1)
    for level in range(LEVELS):
        before = residual_RC.square().sum()
        residual_RC = residual_RC - model.cold_tokenizer.quantizer.codebook_QKC[level][codes_RQ[:, level]]
        assert float(targets.energy_Q[level]) == pytest.approx(float(before - residual_RC.square().sum()), rel=1e-4)


# --- tokenizer phase ---------------------------------------------------------------------------------------------


def directions(*angles: float) -> Tensor:
    """Vectors `(R, WIDTH)` in the plane of the first two axes."""
    found = torch.zeros(len(angles), WIDTH)
    for row, angle in enumerate(angles):
        found[row, 0], found[row, 1] = math.cos(angle), math.sin(angle)
    return found


def with_constants(guess_RD: Tensor, feature_RD: Tensor, terms: tuple[float, float] = (0.0, 0.0)) -> Bridle:
    """A model whose estimator says `guess_RD` and whose encoder `feature_RD`; `terms`: commitment and codebook loss."""
    model = small("audio", tokenizer={"standardise": False})
    codes_RQ = torch.zeros(len(guess_RD), LEVELS, dtype=torch.int64)
    norm_RQ = torch.tensor([0.9, 0.5, 0.2]).expand(len(guess_RD), -1)
    commitment, codebook_loss = map(torch.tensor, terms)
    out = Quantized(codes_RQ, torch.zeros(len(guess_RD), 4), commitment, codebook_loss, norm_RQ)
    model.tokenizer = Constant(out)  # type: ignore[assignment]
    model.estimator = Constant(guess_RD)  # type: ignore[assignment]
    model.features = lambda batch: batch.padded(feature_RD, 7.0)  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(("angle", "expected"), [(0.0, 0.0), (math.pi / 3, 0.5), (math.pi / 2, 1.0), (math.pi, 2.0)])
def test_the_tokenizer_loss_is_one_minus_the_cosine(angle: float, expected: float) -> None:
    """Equal directions 0, orthogonal 1, opposite 2; lengths do not matter."""
    model = with_constants(3.0 * directions(*[angle] * 8), 0.5 * directions(*[0.0] * 8))
    assert tokenizer_objective(model, batch_of((4,))).loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_tokenizer_loss_is_a_mean_over_valid_patches() -> None:
    """One clip of 8 patches, one of 2: nine are right and one is opposite, 2 / 10."""
    model = with_constants(directions(*[0.0] * 9, math.pi), directions(*[0.0] * 10))
    found = tokenizer_objective(model, batch_of((4, 1)))
    assert found.loss.item() == pytest.approx(0.2, abs=1e-6)
    assert found.per_level_Q.tolist() == pytest.approx([0.9, 0.5, 0.2])
    assert found.count_QK[:, 0].tolist() == [10.0] * LEVELS


def test_the_commitment_term_weighs_a_quarter_and_that_of_the_codebooks_one() -> None:
    model = with_constants(*[directions(*[0.0] * 8)] * 2, terms=(0.8, 0.3))
    assert tokenizer_objective(model, batch_of((4,))).loss.item() == pytest.approx(0.25 * 0.8 + 0.3, abs=1e-6)


def test_the_commitment_term_is_a_mean_over_valid_patches_and_levels() -> None:
    """Of a real tokenizer: mean |r_q|^2 after each level, computed here from its codes; codes are not drawn to z."""
    model, batch = small("audio"), batch_of((4, 2))
    model.tokenizer.train().start([batch])
    out = model.tokenizer(batch)
    residual_RC = F.normalize(model.tokenizer._embed(batch), dim=-1)
    squares = []
    for level in range(LEVELS):
        residual_RC = residual_RC - model.tokenizer.quantizer.codebook_QKC[level][out.codes_NQ[:, level]]
        squares.append(residual_RC.square().sum(-1).mean())
    assert len(residual_RC) == 12
    assert out.commitment.item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-5)


# --- who is asked to learn ---------------------------------------------------------------------------------------


def gradients(model: Bridle) -> set[str]:
    """Parts of the model with a gradient other than zero."""
    return {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())
    }


def test_each_loss_reaches_its_own_networks_alone() -> None:
    """Also where all networks may learn at once, as in joint mode: neither loss moves what makes its targets."""
    model, batch = small("audio", optim={"ema": 0.9}), batch_of((4, 2))
    model.train().requires_grad_(True)
    model.tokenizer.start([batch])
    model.learned.fill_(True)
    other = deepcopy(model)
    tokenizer_objective(model, batch).loss.backward()
    assert gradients(model) == {"tokenizer", "estimator"}
    targets = make_targets(other, batch, Draws(0, 0, range(2)))
    encoder_objective(other, batch, targets, torch.full((LEVELS,), 1 / LEVELS)).loss.backward()
    assert gradients(other) == {"encoder", "predictor"}


def test_the_cosine_reaches_the_tokenizers_encoder_through_the_codes() -> None:
    """Straight through: without the commitment term there is a gradient still, in every weight up to the input."""
    model, batch = small("audio", tokenizer={"commitment": 0.0}), batch_of((4, 4))
    model.train().requires_grad_(True)
    model.tokenizer.start([batch])
    tokenizer_objective(model, batch).loss.backward()
    for name, p in [*model.tokenizer.encoder.named_parameters(), *model.tokenizer.project.named_parameters()]:
        assert p.grad is not None, name
    assert float(model.tokenizer.encoder.embed.weight.grad.norm()) > 0  # type: ignore[union-attr]


def test_targets_of_the_estimator_are_standardised_features_of_the_whole_clip() -> None:
    """Mean 0 and deviation 1 in each channel over the valid patches, of the average where there is one."""
    model, batch = small("audio", optim={"ema": 0.5}), batch_of((4, 3))
    assert model.average is not None
    with torch.no_grad():
        model.average.embed.weight.mul_(1.5)
    seen: list[Tensor] = []
    model.target_norm.train().register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    model.tokenizer.train().start([batch])
    tokenizer_objective(model, batch)
    given_RD, target_RD = seen
    features_BND = model.average(batch.x_BNP, batch.coords_BN3, batch.valid_BN)[:, 1:]
    assert torch.allclose(given_RD, features_BND[batch.valid_BN], atol=1e-5)
    assert target_RD.mean(0).abs().max() < 1e-5
    assert torch.allclose(target_RD.var(0, correction=0), torch.ones(WIDTH), atol=1e-3)
