"""The quantizer against numbers worked out by hand, and against the laws it must keep for any input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bridle.quantize import (
    Quantized,
    RandomProjection,
    ResidualQuantizer,
    count_codes,
    kmeans,
    nearest_code,
    usage_entropy,
    usage_share,
)


def by_hand() -> ResidualQuantizer:
    """Two levels, two codes, two dimensions, with codebooks that anyone can follow."""
    quantizer = ResidualQuantizer(2, 2, 2, decay=0.5, dead_below=0.0)
    quantizer.codebook_QKC.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-0.5, 0.5], [0.0, -0.5]]]))
    quantizer.count_QK.fill_(2.0)
    quantizer.sum_QKC.copy_(quantizer.codebook_QKC * 2)
    quantizer.initialised.fill_(True)
    quantizer.updates.fill_(1000)  # past the first ones, which forget faster
    return quantizer


def unit_vectors(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def learn(quantizer: ResidualQuantizer, z_NC: torch.Tensor) -> Quantized:
    out = quantizer(z_NC)
    quantizer.update()
    return out


def test_codes_residuals_and_losses_by_hand() -> None:
    quantizer = by_hand().eval()
    # z = (3, 4) / 5 = (.6, .8): nearest first code (0, 1), residual (.6, -.2);
    # |(.6, -.2) - (-.5, .5)|^2 = 1.70 and |(.6, -.2) - (0, -.5)|^2 = .45, so code 1, residual (.6, .3)
    out = quantizer(torch.tensor([[3.0, 4.0]]))
    assert out.codes_NQ.tolist() == [[1, 1]]
    assert out.z_q_NC.tolist()[0] == pytest.approx([0.0, 0.5])
    assert out.residual_norm_NQ.tolist()[0] == pytest.approx([math.sqrt(0.40), math.sqrt(0.45)])
    # |r_0 - e_1|^2 = .36 + .04 = .40 and |r_1 - e_2|^2 = .36 + .09 = .45; their mean
    assert out.commitment.item() == pytest.approx(0.425)


def test_the_moving_average_weighs_by_counts() -> None:
    quantizer = by_hand().train()
    # (1, 0) twice and (0, 1) once. Level 1, code 0: count 2 -> (2 + 2) / 2 = 2, sum (2, 0) -> ((2, 0) + (2, 0)) / 2;
    # code 1: count (2 + 1) / 2 = 1.5, sum ((0, 2) + (0, 1)) / 2 = (0, 1.5)
    learn(quantizer, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert quantizer.count_QK[0].tolist() == [2.0, 1.5]
    assert quantizer.sum_QKC[0].tolist() == [[2.0, 0.0], [0.0, 1.5]]
    # All residuals are zero: nearest is (0, -.5) at .25, not the other at .5. Count (2 + 3) / 2, sum ((0, -1) + 0) / 2.
    assert quantizer.count_QK[1].tolist() == [1.0, 2.5]
    assert quantizer.codebook_QKC[1, 1].tolist() == pytest.approx([0.0, -0.2], abs=1e-4)


def test_the_moving_average_after_two_updates() -> None:
    """Twice (1, 0), then once: codes that are met less give up count and sum alike, and stay where they are."""
    quantizer = by_hand().train()
    quantizer.decay = 0.75
    learn(quantizer, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    # code 0: .75 * 2 + .25 * 2 = 2; code 1: .75 * 2 = 1.5
    assert quantizer.count_QK[0].tolist() == pytest.approx([2.0, 1.5])
    learn(quantizer, torch.tensor([[0.8, 0.6]]))
    # code 0: .75 * 2 + .25 = 1.75, sum .75 * (2, 0) + .25 * (.8, .6); code 1: .75 * 1.5, sum .75 * (0, 1.5)
    assert quantizer.count_QK[0].tolist() == pytest.approx([1.75, 1.125])
    assert quantizer.sum_QKC[0].flatten().tolist() == pytest.approx([1.7, 0.15, 0.0, 1.125])
    assert quantizer.codebook_QKC[0].flatten().tolist() == pytest.approx([1.7 / 1.75, 0.15 / 1.75, 0, 1], abs=1e-4)
    assert quantizer.updates == 1002


@pytest.mark.parametrize("learn_by", ["ema", "gradient"])
def test_a_dead_code_becomes_an_input_with_an_average_codes_count_and_sum(learn_by: str) -> None:
    """Three of four codes are met; the fourth falls below .3 of the mean count. One just above it is left alone."""
    z_NC = torch.eye(4)[[0, 0, 1, 1, 2, 2, 2, 2]]
    quantizer = ResidualQuantizer(1, 4, 4, decay=0.5, dead_below=0.3, learn=learn_by).train()  # type: ignore[arg-type]
    with torch.no_grad():
        quantizer.codebook_QKC.copy_(torch.eye(4)[None])
    quantizer.initialised.fill_(True)
    quantizer.updates.fill_(1000)
    for fourth, alive in ((1.8, True), (1.2, False)):
        quantizer.count_QK.copy_(torch.tensor([[2.0, 2.0, 4.0, fourth]]))
        quantizer.sum_QKC.copy_(quantizer.codebook_QKC.detach() * quantizer.count_QK[..., None])
        learn(quantizer, z_NC)
        # Counts are (2 + 2) / 2, 2, 4 and half the fourth; a mean of (8 + fourth / 2) / 4, of which .3 is .67 and .645.
        mean = (8 + fourth / 2) / 4
        assert quantizer.count_QK[0].tolist() == pytest.approx([2, 2, 4, fourth / 2 if alive else mean])
        assert torch.allclose(quantizer.codebook_QKC[0, :3], torch.eye(4)[:3], atol=1e-3)
        if alive:
            assert quantizer.codebook_QKC[0, 3].tolist() == pytest.approx([0, 0, 0, 1], abs=1e-3)
    newcomer = quantizer.codebook_QKC[0, 3].detach()
    assert (newcomer - z_NC).norm(dim=1).min() < 0.15 and newcomer[3].abs() < 1e-3
    if learn_by == "ema":
        assert torch.allclose(quantizer.sum_QKC[0, 3], newcomer * mean, atol=0.01)


def test_codebooks_start_on_what_the_level_before_left_over() -> None:
    """Four vectors, two levels of two codes: the first finds the two pairs, the second what tells within a pair."""
    z_NC = F.normalize(torch.tensor([[4.0, 0.5, 0], [4.0, -0.5, 0], [-4.0, 0, 0.5], [-4.0, 0, -0.5]]), dim=-1)
    quantizer = ResidualQuantizer(2, 2, 3, kmeans_iterations=10, seed=0).train()
    rows_NC = z_NC.repeat(16, 1)
    out = learn(quantizer, 7 * rows_NC)  # of any length: z is normalised
    pairs = out.codes_NQ[:4, 0].tolist()
    assert pairs[0] == pairs[1] != pairs[2] == pairs[3]
    assert torch.allclose(out.residual_norm_NQ[:, 0], torch.tensor(0.124), atol=1e-3)  # .5 / |(4, .5)|
    assert (out.residual_norm_NQ[:, 1] < out.residual_norm_NQ[:, 0]).float().mean() >= 0.5
    assert out.z_q_NC.norm(dim=-1).max() < 1.1


def test_gradient_reaches_z_straight_through_and_from_every_level() -> None:
    quantizer = by_hand().eval()
    z = torch.tensor([[0.6, 0.8]], requires_grad=True)
    out = quantizer(z)
    (direct,) = torch.autograd.grad(out.z_q_NC.sum(), z, retain_graph=True)
    (through,) = torch.autograd.grad(F.normalize(z, dim=-1).sum(), z)
    assert torch.allclose(direct, through)
    # d/dr of (|r_0 - e_1|^2 + |r_0 - e_1 - e_2|^2) / 2 = (r_0 - e_1) + (r_0 - e_1 - e_2) = (1.2, .1), through |z| = 1
    (commitment,) = torch.autograd.grad(out.commitment, z)
    jacobian = torch.eye(2) - torch.tensor([[0.36, 0.48], [0.48, 0.64]])
    assert commitment[0].tolist() == pytest.approx((jacobian @ torch.tensor([1.2, 0.1])).tolist(), abs=1e-5)


def test_gradient_codebooks_by_hand() -> None:
    quantizer = ResidualQuantizer(2, 2, 2, learn="gradient", dead_below=0.0).train()
    with torch.no_grad():
        quantizer.codebook_QKC.copy_(by_hand().codebook_QKC)
    quantizer.initialised.fill_(True)
    # As above: residual (.6, -.2) after code (0, 1), (.6, .3) after (0, -.5). The loss is their mean square, its
    # gradient for a chosen code minus the residual after it (2 / Q = 1); codes not chosen get none.
    out = quantizer(torch.tensor([[3.0, 4.0]]))
    assert out.codebook_loss.item() == pytest.approx(0.425)
    out.codebook_loss.backward()
    gradient = quantizer.codebook_QKC.grad
    assert gradient is not None
    expected = [[[0.0, 0.0], [-0.6, 0.2]], [[0.0, 0.0], [-0.6, -0.3]]]
    assert torch.allclose(gradient, torch.tensor(expected))
    assert torch.equal(quantizer.codebook_QKC, by_hand().codebook_QKC)  # the optimizer moves it, nothing else


def test_gradient_codebooks_follow_the_data_and_replace_dead_codes() -> None:
    z = unit_vectors(1024, 8)
    quantizer = ResidualQuantizer(2, 16, 8, learn="gradient", decay=0.9).train()
    start = learn(quantizer, z).residual_norm_NQ[:, -1].mean().item()
    with torch.no_grad():
        quantizer.codebook_QKC[0, 4:] = 50.0
    optimizer = torch.optim.SGD([quantizer.codebook_QKC], lr=2.0)
    for _ in range(200):
        optimizer.zero_grad()
        learn(quantizer, z).codebook_loss.backward()
        optimizer.step()
    out = quantizer.eval()(z)
    assert usage_share(count_codes(out.codes_NQ, 16)).min() >= 0.9
    assert out.residual_norm_NQ[:, -1].mean().item() < start
    assert out.codebook_loss.item() == 0.0


def test_one_level_is_plain_vector_quantization() -> None:
    z = unit_vectors(200, 6)
    quantizer = ResidualQuantizer(1, 8, 6).train()
    learn(quantizer, z)
    quantizer.eval()
    codebook = quantizer.codebook_QKC[0]
    plain = torch.cdist(z, codebook).argmin(-1)
    out = quantizer(z)
    assert torch.equal(out.codes_NQ[:, 0], plain)
    assert torch.allclose(out.z_q_NC, codebook[plain], atol=1e-6)


def test_residuals_fall_at_every_level_after_kmeans() -> None:
    z = unit_vectors(4096, 16)
    quantizer = ResidualQuantizer(4, 64, 16).train()
    learn(quantizer, z)
    norms = quantizer.eval()(z).residual_norm_NQ.mean(0)
    assert all(deeper < shallower for shallower, deeper in zip([1.0, *norms.tolist()], norms.tolist(), strict=False))


def test_dead_codes_come_back() -> None:
    z = unit_vectors(512, 8)
    quantizer = ResidualQuantizer(2, 16, 8, decay=0.9, dead_below=0.1).train()
    learn(quantizer, z)
    with torch.no_grad():
        quantizer.codebook_QKC[:, 3:] = 50.0
        quantizer.sum_QKC[:, 3:] = 50.0 * quantizer.count_QK[:, 3:, None]
    for _ in range(60):
        learn(quantizer, z)
    usage = usage_share(count_codes(quantizer.eval()(z).codes_NQ, 16))
    assert usage.min() >= 0.9


def test_frozen_means_frozen_also_after_loading() -> None:
    quantizer = ResidualQuantizer(2, 8, 4).train()
    learn(quantizer, unit_vectors(100, 4))
    quantizer.freeze()
    copy = ResidualQuantizer(2, 8, 4)
    copy.load_state_dict(quantizer.state_dict())
    for frozen in (quantizer, copy.train()):
        before = {name: value.clone() for name, value in frozen.state_dict().items()}
        learn(frozen, unit_vectors(100, 4, seed=9))
        assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_the_same_seed_gives_the_same_bits() -> None:
    def run() -> dict[str, torch.Tensor]:
        quantizer = ResidualQuantizer(3, 16, 8, decay=0.8, dead_below=0.5, seed=3).train()
        for step in range(8):
            learn(quantizer, unit_vectors(64, 8, seed=step))
        return quantizer.state_dict()

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)
    started = []
    for seed in (3, 3, 4):
        quantizer = ResidualQuantizer(1, 16, 8, seed=seed)
        quantizer.start(unit_vectors(64, 8))
        started.append(quantizer.codebook_QKC)
    assert torch.equal(started[0], started[1]) and not torch.equal(started[0], started[2])


def test_autocast_does_not_reach_the_quantizer() -> None:
    z = unit_vectors(2000, 16)
    quantizer = ResidualQuantizer(4, 64, 16).train()
    learn(quantizer, z)
    quantizer.eval()
    plain = quantizer(z).codes_NQ
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(z).codes_NQ, plain)


def test_decode_is_the_sum_of_codes_and_takes_fewer_levels() -> None:
    quantizer = by_hand()
    codes = torch.tensor([[1, 0]])
    assert quantizer.decode(codes).tolist() == [[-0.5, 1.5]]
    assert quantizer.decode(codes[:, :1]).tolist() == [[0.0, 1.0]]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 50), levels=st.integers(1, 4), codes=st.integers(2, 12), width=st.integers(1, 6),
    learn=st.sampled_from(["ema", "gradient"]), scale=st.sampled_from([0.0, 1e-20, 1.0, 1e15]), seed=st.integers(0, 99),
)  # fmt: skip
def test_laws_of_a_training_step(
    n: int, levels: int, codes: int, width: int, learn: str, scale: float, seed: int
) -> None:
    quantizer = ResidualQuantizer(levels, codes, width, learn=learn, seed=seed).train()  # type: ignore[arg-type]
    z_NC = scale * torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        before_QKC = quantizer.codebook_QKC.detach().clone()
        out = quantizer(z_NC)
        quantizer.update()
    sums_NC = sum(before_QKC[q][out.codes_NQ[:, q]] for q in range(levels))
    assert torch.allclose(out.z_q_NC, sums_NC, atol=1e-5), "z_q is the sum of the codes"
    rest_NC = F.normalize(z_NC, dim=-1) - sums_NC
    assert torch.allclose(out.residual_norm_NQ[:, -1], rest_NC.norm(dim=-1), atol=1e-5), "the rest is what is left"
    assert int(out.codes_NQ.min()) >= 0 and int(out.codes_NQ.max()) < codes
    assert out.commitment.isfinite() and quantizer.codebook_QKC.isfinite().all()
    assert (quantizer.count_QK > 0).all(), "no code is dead after a step"


@pytest.mark.parametrize("z", [torch.zeros(5, 4), torch.ones(300, 4), torch.tensor([[1.0, 0, 0, 0]])])
def test_identical_and_too_few_vectors_do_no_harm(z: torch.Tensor) -> None:
    quantizer = ResidualQuantizer(3, 16, 4).train()
    for _ in range(3):
        out = learn(quantizer, z)
    assert out.z_q_NC.isfinite().all()
    assert quantizer.codebook_QKC.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), codes=st.integers(2, 20), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_nearest_code_is_the_nearest(n: int, codes: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, codebook = torch.randn(n, width, generator=generator), torch.randn(codes, width, generator=generator)
    chosen = nearest_code(x, codebook)
    distance = torch.cdist(x, codebook)
    assert torch.allclose(distance.gather(1, chosen[:, None])[:, 0], distance.amin(1), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 80), codes=st.integers(2, 12), seed=st.integers(0, 99))
def test_kmeans_counts_every_vector_once(n: int, codes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres, counts = kmeans(torch.randn(n, 3, generator=generator), codes, 5, generator)
    assert centres.isfinite().all()
    assert counts.sum() == n


def test_young_codebooks_forget_faster() -> None:
    """After n updates the averages keep (1 + n) / (10 + n) of what they were, and never more than `decay`."""
    for updates, keeps in ((0, 0.1), (2, 0.25), (8, 0.5), (1000, 0.9)):
        quantizer = by_hand()
        quantizer.decay = 0.9
        quantizer.updates.fill_(updates)
        learn(quantizer.train(), torch.tensor([[1.0, 0.0]] * 10))
        assert torch.allclose(quantizer.count_QK[0], torch.tensor([2 * keeps + 10 * (1 - keeps), 2 * keeps]))


def test_kmeans_starts_thin_clusters_again() -> None:
    """Far vectors keep centres to themselves, and the crowd goes without, unless thin clusters start again."""
    used = {}
    for share in (0.0, 0.3):
        points = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)) ** 3
        counts = [kmeans(points, 32, 10, torch.Generator().manual_seed(seed), thin_below=share)[1] for seed in range(5)]
        used[share] = usage_entropy(torch.stack(counts)).exp2().mean()
    assert used[0.3] > used[0.0] + 1


def test_kmeans_finds_clusters_that_are_there() -> None:
    """From most random starts: a centre in the mean of each cluster, and its vectors counted."""
    truth, sizes = torch.tensor([[0.0, 0], [10, 0], [0, 10]]), torch.tensor([30, 50, 70])
    noise = 0.1 * torch.randn(150, 2, generator=torch.Generator().manual_seed(1))
    points = truth.repeat_interleave(sizes, 0) + noise
    found = 0
    for seed in range(10):
        centres, counts = kmeans(points, 3, 20, torch.Generator().manual_seed(seed))
        distance, nearest = torch.cdist(truth, centres).min(1)
        if distance.max() < 0.1:
            found += 1
            assert counts[nearest].tolist() == sizes.tolist()
            assert torch.allclose(centres[nearest[0]], points[:30].mean(0), atol=1e-5)
    assert found >= 5


def test_usage_by_hand() -> None:
    # Level 0 uses codes 0 and 1 evenly: 2 of 4, 1 bit. Level 1 uses one code: 0 bits. The padding row does not count.
    count = count_codes(torch.tensor([[0, 3], [1, 3], [0, 3], [1, 3], [-1, -1]]), 4)
    assert count.tolist() == [[2, 2, 0, 0], [0, 0, 0, 4]]
    assert usage_share(count).tolist() == [0.5, 0.25]
    assert usage_entropy(count).tolist() == pytest.approx([1.0, 0.0])


def test_random_projection_levels_the_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=generator) * torch.tensor([30.0, 1.0, 0.1]) + 7
    projection = RandomProjection(3, 3, power=0.5)
    projection.fit(x)
    covariance = torch.cov(projection(x).T)
    assert torch.allclose(covariance, torch.eye(3), atol=0.01)
    assert projection(x).mean(0).abs().max() < 0.01


def test_one_bad_vector_does_not_poison_the_codebooks() -> None:
    quantizer = ResidualQuantizer(2, 8, 4).train()
    z = unit_vectors(100, 4)
    learn(quantizer, z)
    z[3] = float("nan")
    learn(quantizer, z)
    assert quantizer.codebook_QKC.isfinite().all()
    assert quantizer.sum_QKC.isfinite().all()


def test_an_empty_batch_changes_nothing() -> None:
    quantizer = ResidualQuantizer(2, 8, 4).train()
    assert learn(quantizer, torch.zeros(0, 4)).codes_NQ.shape == (0, 2) and not quantizer.initialised
    learn(quantizer, torch.randn(100, 4, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    assert learn(quantizer, torch.zeros(0, 4)).z_q_NC.shape == (0, 4)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_codebooks_that_learn_by_gradient_learn_again_after_a_reset() -> None:
    quantizer = ResidualQuantizer(2, 8, 4, learn="gradient").train()
    z_NC = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    learn(quantizer, z_NC)
    quantizer.freeze()
    quantizer.reset()
    learn(quantizer, z_NC)
    assert quantizer(z_NC).codebook_loss.requires_grad


def test_a_step_that_is_not_sound_leaves_no_trace() -> None:
    quantizer = ResidualQuantizer(2, 8, 4).train()
    learn(quantizer, unit_vectors(100, 4))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(unit_vectors(100, 4, seed=1))
    quantizer.update(torch.tensor(False))
    quantizer.update()  # nothing is remembered of it
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_a_batch_in_parts_moves_the_codebooks_as_the_whole() -> None:
    whole, parts = (ResidualQuantizer(3, 8, 4, decay=0.8, dead_below=0.5, seed=1).train() for _ in range(2))
    for quantizer in (whole, parts):
        learn(quantizer, unit_vectors(200, 4))
    for step in range(1, 6):
        z_NC = unit_vectors(90, 4, seed=step)
        learn(whole, z_NC)
        for part_NC in z_NC.split(40):
            parts(part_NC)
        parts.update()
    assert torch.allclose(whole.codebook_QKC, parts.codebook_QKC, atol=1e-6)
    assert torch.equal(whole.updates, parts.updates)
