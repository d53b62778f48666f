"""The networks of the method: where positions enter, what padding and hidden patches may say, what is averaged.

Positions are the only thing that tells patches apart: permuting patches together with their coordinates permutes the
output and changes nothing else; permuting coordinates alone does change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from standins import small
from torch import Tensor

from bridle.model import Bridle, draw_mask
from bridle.nn import Block, GridPositions, Standardise
from bridle.patches.cut import coordinates
from bridle.rng import Draws
from bridle.schema import PatchBatch

AXES = {"audio": (0, 1), "image": (1, 2), "video": (0, 1, 2)}
GRID = (3, 2, 4)
ORDER = torch.randperm(24, generator=torch.Generator().manual_seed(0))


def full_batch(model: Bridle, clips: int = 2) -> PatchBatch:
    """Noise in a grid whose three axes differ in length."""
    coords_N3 = coordinates(GRID)
    generator = torch.Generator().manual_seed(1)
    x_BNP = torch.randn(clips, len(coords_N3), model.patcher.values, generator=generator)
    valid_BN = torch.ones(x_BNP.shape[:2], dtype=torch.bool)
    return PatchBatch(x_BNP, coords_N3.expand(clips, -1, -1), valid_BN, [24] * clips, GRID)


def reordered(batch: PatchBatch, values: bool, places: bool) -> PatchBatch:
    x_BNP = batch.x_BNP[:, ORDER] if values else batch.x_BNP
    coords_BN3 = batch.coords_BN3[:, ORDER] if places else batch.coords_BN3
    return PatchBatch(x_BNP, coords_BN3, batch.valid_BN, batch.lengths, batch.grid)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, atol=1e-5))


def encoder_of(model: Bridle) -> Callable[[PatchBatch], Tensor]:
    return lambda batch: model.encoder(batch.x_BNP, batch.coords_BN3)[:, 1:]


def tokenizer_of(model: Bridle) -> Callable[[PatchBatch], Tensor]:
    return lambda batch: batch.padded(model.tokenizer._embed(batch))


def estimator_of(model: Bridle) -> Callable[[PatchBatch], Tensor]:
    """The first values of each patch stand for its `z_q`."""
    width = model.config.quantizer.width
    return lambda batch: batch.padded(model.estimator(batch.rows(batch.x_BNP[..., :width]), batch))


@pytest.mark.parametrize("modality", AXES)
@pytest.mark.parametrize("network", [encoder_of, tokenizer_of, estimator_of])
@torch.inference_mode()
def test_positions_follow_the_coordinates(
    network: Callable[[Bridle], Callable[[PatchBatch], Tensor]], modality: str
) -> None:
    model = small(modality)
    batch, run = full_batch(model), network(model)
    plain_BNX = run(batch)
    assert close(run(reordered(batch, values=True, places=True)), plain_BNX[:, ORDER])
    assert not close(run(reordered(batch, values=False, places=True)), plain_BNX)
    assert not close(run(reordered(batch, values=True, places=False)), plain_BNX[:, ORDER])
    for axis in range(3):  # an axis counts exactly where the modality has it
        moved_BN3 = batch.coords_BN3.clone()
        moved_BN3[:, 0, axis] += 1
        moved = PatchBatch(batch.x_BNP, moved_BN3, batch.valid_BN, batch.lengths, batch.grid)
        assert close(run(moved), plain_BNX) is (axis not in AXES[modality])


def predicted(model: Bridle, h_BVD: Tensor, visible_BV3: Tensor, masked_BM3: Tensor) -> Tensor:
    return model.predictor(h_BVD, visible_BV3, masked_BM3)


@pytest.mark.parametrize("modality", AXES)
@torch.inference_mode()
def test_the_predictor_knows_hidden_patches_by_their_coordinates_alone(modality: str) -> None:
    model = small(modality)
    coords_BN3 = coordinates(GRID)[ORDER][None]
    visible_BV3, masked_BM3 = coords_BN3[:, :6], coords_BN3[:, 6:]
    h_BVD = torch.randn(1, 6, model.config.encoder.width, generator=torch.Generator().manual_seed(2))
    plain_BMQK = predicted(model, h_BVD, visible_BV3, masked_BM3)
    assert plain_BMQK.shape == (1, 18, 3, 8)
    assert close(predicted(model, h_BVD, visible_BV3, masked_BM3.flip(1)), plain_BMQK.flip(1))
    assert close(predicted(model, h_BVD.flip(1), visible_BV3.flip(1), masked_BM3), plain_BMQK)
    assert not close(predicted(model, h_BVD, visible_BV3.flip(1), masked_BM3), plain_BMQK)
    assert not close(predicted(model, h_BVD.flip(1), visible_BV3, masked_BM3), plain_BMQK)
    (distinct,) = {len(logits_MQK.flatten(1).unique(dim=0)) for logits_MQK in plain_BMQK}
    places = masked_BM3[0][:, list(AXES[modality])].unique(dim=0)
    assert distinct == len(places)  # one answer a place


def test_positions_by_hand() -> None:
    """Width 9 for two axes: two frequencies each, 1 and 10000^(-1/2); sines, then cosines; the odd channel is zero."""
    found = GridPositions(9, (1, 2))(torch.tensor([[[5, 2, 3]]]))[0, 0]
    expected = [f(place * rate) for place in (2, 3) for f in (math.sin, math.cos) for rate in (1, 0.01)]
    assert found.tolist() == pytest.approx([*expected, 0.0], abs=1e-6)


def test_the_class_token_is_first_and_has_no_place() -> None:
    """Without attention each token goes its own way: the first output follows from the class token alone."""
    model = small("image")
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.attention.out.weight.zero_()
        batch = full_batch(model)
        first, other = (model.encoder(x_BNP, batch.coords_BN3) for x_BNP in (batch.x_BNP, -batch.x_BNP))
        assert close(first[:, 0], other[:, 0]) and not close(first[:, 1:], other[:, 1:])
        assert first.mean(-1).abs().max() < 1e-5 and (first.var(-1, correction=0) - 1).abs().max() < 1e-2  # normalised
        model.encoder.class_token_D.neg_()
        assert not close(model.encoder(batch.x_BNP, batch.coords_BN3)[:, 0], first[:, 0])


def test_attention_and_block_by_the_formula() -> None:
    """softmax(q k' / sqrt(E)) v for each head, padding left out; x + attention(norm(x)), then x + mlp(norm(x))."""
    torch.manual_seed(0)
    block, x_BND = Block(8, 2).eval(), torch.randn(2, 5, 8)
    valid_BN = torch.tensor([[True] * 5, [True, True, True, False, False]])
    with torch.no_grad():
        block.norm1.weight.uniform_(0.5, 2)
        found = block(x_BND, valid_BN)
        for clip, length in enumerate((5, 3)):
            x_ND = x_BND[clip, :length]
            q, k, v = block.attention.qkv(block.norm1(x_ND)).split(8, dim=-1)
            heads = []
            for columns in (slice(0, 4), slice(4, 8)):
                weight = (q[:, columns] @ k[:, columns].T / math.sqrt(4)).exp()
                heads.append(weight / weight.sum(1, keepdim=True) @ v[:, columns])
            x_ND = x_ND + block.attention.out(torch.cat(heads, dim=1))
            first, gelu, second = block.mlp
            assert close(found[clip, :length], x_ND + second(gelu(first(block.norm2(x_ND)))))


@torch.inference_mode()
def test_padding_says_nothing_to_any_network() -> None:
    """Slots of padding hold numbers that would be seen anywhere; a clip alone gives what it gives beside a longer."""
    model = small("audio")
    coords_BN3 = coordinates((4, 2, 1)).expand(2, -1, -1)
    valid_BN = coords_BN3[..., 0] < torch.tensor([4, 2])[:, None]
    x_BNP = torch.randn(2, 8, model.patcher.values, generator=torch.Generator().manual_seed(0))
    batch = PatchBatch(x_BNP, coords_BN3, valid_BN, [8, 4], (4, 2, 1))
    x_BNP[1, 4:] = 1e4
    alone = PatchBatch(x_BNP[1:, :4], coords_BN3[1:, :4], valid_BN[1:, :4], [4], (2, 2, 1))
    assert close(model.features(batch)[1, :4], model.features(alone)[0])
    assert model.features(batch)[1, 4:].abs().max() == 0
    assert close(model.tokenizer._embed(batch)[8:], model.tokenizer._embed(alone))
    z_RC = torch.randn(12, model.config.quantizer.width)
    assert close(model.estimator(z_RC, batch)[8:], model.estimator(z_RC[8:], alone))
    assert (model.tokenize(batch)[1, 4:] == -1).all()
    mask = draw_mask(batch, "random", 0.75, Draws(0, 0, range(2)))  # 2 and 6 of the long clip, 1 and 3 of the short
    mask_alone = draw_mask(alone, "random", 0.75, Draws(0, 0, [1]))
    assert torch.equal(mask.visible_BV[1:, :1], mask_alone.visible_BV)
    logits_BMQK = model.predict(model.encode_visible(batch, mask), batch, mask)
    assert close(logits_BMQK[1, :3], model.predict(model.encode_visible(alone, mask_alone), alone, mask_alone)[0])


@torch.inference_mode()
def test_the_encoder_sees_visible_patches_and_the_tokenizer_all() -> None:
    model = small("image", mask={"ratio": 0.5})
    batch = full_batch(model)
    mask = draw_mask(batch, "random", 0.5, Draws(0, 0, range(2)))
    h_BVD = model.encode_visible(batch, mask)
    z_RC = model.tokenizer._embed(batch)
    for row, index_M in enumerate(mask.masked_BM):
        batch.x_BNP[row, index_M] += 3.0
    assert torch.equal(model.encode_visible(batch, mask), h_BVD)
    changed_BN = (model.tokenizer._embed(batch) - z_RC).abs().amax(-1).view(2, -1) > 1e-6
    assert changed_BN.all()  # also where the patch itself is as before: z is contextual


# --- averages ----------------------------------------------------------------------------------------------------


def test_the_encoders_average_after_two_steps() -> None:
    """Keeps min(ema, (1 + n) / (10 + n)) of itself at step n: 1/10 and then, since 2/11 is more, .15."""
    model, yes = small("image", optim={"ema": 0.15}), torch.tensor(True)
    assert model.average is not None
    weight, mean = model.encoder.embed.weight.data, model.average.embed.weight
    expected = mean.detach().clone()
    for step, (value, keeps) in enumerate(((1.0, 0.1), (3.0, 0.15))):
        weight.fill_(value)
        model.follow(step, yes)
        expected = keeps * expected + (1 - keeps) * value
        assert torch.allclose(mean, expected)
    model.follow(2, torch.tensor(False))  # a step that changed nothing
    assert torch.allclose(mean, expected)
    assert all(torch.equal(a, b) for a, b in zip(model.average.buffers(), model.encoder.buffers(), strict=True))


@torch.inference_mode()
def test_features_come_from_the_average_and_predictions_from_the_encoder() -> None:
    model = small("image", optim={"ema": 0.9})
    batch = full_batch(model)
    mask = draw_mask(batch, "random", 0.5, Draws(0, 0, range(2)))
    features, visible = model.features(batch), model.encode_visible(batch, mask)
    model.encoder.embed.weight.mul_(2)
    assert torch.equal(model.features(batch), features)
    assert not close(model.encode_visible(batch, mask), visible)


def test_standardising_by_hand() -> None:
    """Training: mean 0, deviation 1 of the batch in each channel. Otherwise running averages, which move a tenth."""
    norm, yes = Standardise(2), torch.tensor(True)
    first, second = torch.tensor([[1.0, 10.0], [5.0, 10.0]]), torch.tensor([[5.0, 0.0], [5.0, 4.0]])
    assert torch.allclose(norm(first), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), atol=1e-4)
    norm.update(yes)
    # Means 3 and 10, variances (of n - 1) 8 and 0; the averages began at 0 and 1.
    assert norm.running_mean.tolist() == pytest.approx([0.3, 1.0])
    assert norm.running_var.tolist() == pytest.approx([0.9 + 0.8, 0.9])
    norm(second)
    norm.update(torch.tensor(False))  # forgotten
    norm(second)
    norm.update(yes)  # means 5 and 2, variances 0 and 8
    assert norm.running_mean.tolist() == pytest.approx([0.27 + 0.5, 0.9 + 0.2])
    assert norm.running_var.tolist() == pytest.approx([1.53, 0.81 + 0.8])
    x_RC = torch.tensor([[1.0, 2.0]])
    expected = [(1 - 0.77) / math.sqrt(1.53), (2 - 1.1) / math.sqrt(1.61)]
    assert norm.eval()(x_RC)[0].tolist() == pytest.approx(expected, abs=1e-4)
    norm.update(yes)  # nothing was seen in training mode since
    assert norm.running_mean.tolist() == pytest.approx([0.77, 1.1])


def test_parts_of_a_batch_move_the_averages_as_the_whole() -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    whole, parts = Standardise(4), Standardise(4)
    whole(rows)
    for part in rows.split([7, 3, 20]):
        parts(part)
    for norm in (whole, parts):
        norm.update(torch.tensor(True))
    assert torch.allclose(whole.running_mean, parts.running_mean, atol=1e-5)
    assert torch.allclose(whole.running_var, parts.running_var, atol=1e-5)


def test_z_has_mean_0_and_deviation_1_over_the_batch() -> None:
    model = small("image").train()
    z_RC = model.tokenizer._embed(full_batch(model))
    assert z_RC.shape == (48, 4) and z_RC.mean(0).abs().max() < 1e-5
    assert torch.allclose(z_RC.var(0, correction=0), torch.ones(4), atol=1e-3)
    plain = small("image", tokenizer={"standardise": False}).train()
    batch, (first, _, second) = full_batch(plain), plain.tokenizer.project
    h_RD = plain.tokenizer.encoder(batch.x_BNP, batch.coords_BN3)[:, 1:].flatten(0, 1)
    assert close(plain.tokenizer._embed(batch), second(first(h_RD).tanh()))  # Linear, tanh, Linear
