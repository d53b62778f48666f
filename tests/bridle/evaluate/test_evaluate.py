"""Probes, splits and intervals against answers worked out by hand or by scikit-learn, then the whole of `evaluate`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import standins
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from bridle import progress
from bridle.checkpoint import add_result, read_results
from bridle.config.sections import Config
from bridle.errors import DataError, UsageError
from bridle.evaluate import Division, Protocol, evaluate
from bridle.evaluate.attentive import AttentiveRecipe, pad
from bridle.evaluate.codebook import CodebookHealth
from bridle.evaluate.dataset import Labelled, open_data
from bridle.evaluate.evaluate import truth_of as truth_from
from bridle.evaluate.features import Files, extract_patches, extract_vectors
from bridle.evaluate.knn import knn
from bridle.evaluate.labels import Truth
from bridle.evaluate.linear import linear
from bridle.evaluate.metrics import metrics
from bridle.evaluate.probe import judge, probe_patches, probe_vectors
from bridle.evaluate.splits import Split, group_names, make_splits
from bridle.infer import pool
from bridle.infer.standardise import standardiser
from bridle.model import Bridle
from bridle.patches.cut import coordinates
from bridle.schema import Modality, PatchBatch
from bridle.sharding import Options, shard
from bridle.storage import locate
from bridle.tasks import load_task

PIXELS = {"pixel_mean": [0.5, 0.5, 0.5], "pixel_std": [0.25, 0.25, 0.25]}


@pytest.fixture(scope="module")
def image_model() -> Bridle:
    """Untrained, its cold codebooks fitted on noise."""
    torch.manual_seed(0)
    model = Bridle(
        Config.model_validate(
            {
                "patches": {"modality": "image", "size": 16, "patch": 4},
                "encoder": {"width": 16, "depth": 1, "heads": 2},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
                "quantizer": {"levels": 2, "codes": 8, "width": 4},
            }
        ),
        PIXELS,
    )
    model.cold_tokenizer.fit(torch.randn(500, model.patcher.values))
    return model.eval()


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that any encoder tells apart, ten takes each, and one file that is no image."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 200)):
        (root / name).mkdir()
        for take in range(10):
            pixels = np.clip(level + rng.normal(0, 20, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"photo{take // 2}_{take}.png")
    (root / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache"))


def truth_of(labels: torch.Tensor) -> Truth:
    if labels.ndim == 2:
        return Truth([f"class {number}" for number in range(labels.shape[1])], labels.bool())
    return Truth([f"class {number}" for number in range(int(labels.max()) + 1)], labels)


def grid_patches(grid: tuple[int, int, int], clips: int = 1) -> torch.Tensor:
    return coordinates(grid).expand(clips, -1, -1)


# --- pooling -----------------------------------------------------------------------------------------------------


def test_mean_pooling_ignores_padding() -> None:
    h_BND = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    pooled = pool(h_BND, torch.tensor([[True, True, False]]), grid_patches((3, 1, 1)))
    assert pooled.tolist() == [[2.0, 3.0]]


def test_segments_cut_each_clips_own_extent_in_time() -> None:
    h_BND = torch.arange(8.0).view(1, 8, 1).repeat(2, 1, 1)
    valid_BN = torch.ones(2, 8, dtype=torch.bool)
    valid_BN[1, 6:] = False  # six steps: segments of one and a half
    pooled = pool(h_BND, valid_BN, grid_patches((8, 1, 1), 2), "segments")
    assert pooled[0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert torch.allclose(pooled[1], torch.tensor([0.5 / 1.5, (0.5 + 2) / 1.5, (3 + 2.0) / 1.5, (2 + 5) / 1.5]))


def test_segments_of_a_clip_shorter_than_their_number_repeat() -> None:
    valid_BN = torch.zeros(1, 4, dtype=torch.bool)
    valid_BN[0, :2] = True
    pooled = pool(torch.tensor([[[1.0], [2.0], [9.0], [9.0]]]), valid_BN, grid_patches((4, 1, 1)), "segments")
    assert pooled.tolist() == [[1.0, 1.0, 2.0, 2.0]]


def test_segments_of_an_image_are_its_quadrants() -> None:
    coords = grid_patches((1, 4, 4))
    h_BND = (10 * (coords[..., 1] // 2) + coords[..., 2] // 2).float().unsqueeze(-1)
    pooled = pool(h_BND, torch.ones(1, 16, dtype=torch.bool), coords, "segments")
    assert pooled.tolist() == [[0.0, 1.0, 10.0, 11.0]]


def test_the_full_grid_decides_the_cut_not_the_batch() -> None:
    """A batch of nothing but one-step clips of an audio corpus is still cut in time."""
    coords = grid_patches((1, 4, 1))
    pooled = pool(torch.arange(4.0).view(1, 4, 1), torch.ones(1, 4, dtype=torch.bool), coords, "segments", (8, 4, 1))
    assert pooled.tolist() == [[1.5, 1.5, 1.5, 1.5]]


# --- nearest neighbours ------------------------------------------------------------------------------------------


def test_knn_votes_by_hand() -> None:
    """Four train clips on the axes: z-scoring leaves directions as they are, cosines are 1, 0, -1, 0 from east."""
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    labels = torch.tensor([0, 1, 1, 1])
    east = torch.tensor([[2.0, 0.1]])
    truth = truth_of(labels)
    assert knn(train, truth, east, neighbours=(1,))[0].tolist() == [[1.0, 0.0]]
    # At a cold temperature the nearest outvotes two others; at a hot one numbers count.
    assert knn(train, truth, east, neighbours=(3,), temperature=0.07)[0].argmax(1).tolist() == [0]
    hot = knn(train, truth, east, neighbours=(3,), temperature=100.0)[0]
    assert torch.allclose(hot, torch.tensor([[1 / 3, 2 / 3]]), atol=0.01)


def test_knn_votes_for_every_class_of_a_neighbour() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    truth = truth_of(torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]))
    scores = knn(train, truth, torch.tensor([[2.0, 0.1]]), neighbours=(2,), temperature=100.0)[0]
    assert torch.allclose(scores, torch.tensor([[0.5, 1.0, 0.0]]), atol=0.01)


def test_knn_is_scikit_learns() -> None:
    x, y = blobs(300, 12, 3, 3.0)
    scores, k = knn(x[:200], truth_of(y[:200]), x[200:], neighbours=(7,))
    scale = standardiser(x[:200])
    train, test = (torch.nn.functional.normalize(scale(part), dim=1).numpy() for part in (x[:200], x[200:]))
    theirs = KNeighborsClassifier(7, weights=lambda d: np.exp((1 - d**2 / 2 - 1) / 0.07)).fit(train, y[:200])
    assert k == 7
    assert np.allclose(scores.numpy(), theirs.predict_proba(test), atol=1e-3)


def test_knn_chooses_k_on_train_and_leaves_whole_groups_out() -> None:
    """Every clip is there twice: leaving one out finds its double, leaving the pair out must look further."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    direction = torch.where(labels == 0, -1.0, 1.0).unsqueeze(1) * torch.ones(1, 4)
    noisy = direction + 2.0 * torch.randn(200, 4, generator=generator)
    x = noisy.repeat_interleave(2, dim=0)
    y = labels.repeat_interleave(2)
    assert knn(x, truth_of(y), x[:1])[1] == 1
    assert knn(x, truth_of(y), x[:1], groups_N=np.arange(400) // 2)[1] > 1


def test_constant_dimensions_do_not_decide() -> None:
    train = torch.tensor([[0.0, 5.0], [1.0, 5.0]])
    assert standardiser(train)(torch.tensor([[0.5, 5.1]])).tolist() == [[0.0, 0.0]]


# --- linear ------------------------------------------------------------------------------------------------------


def blobs(clips: int = 600, dims: int = 20, classes: int = 4, spread: float = 1.6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(clips) % classes
    centres = torch.randn(classes, dims, generator=generator)
    return centres[labels] + spread * torch.randn(clips, dims, generator=generator) * torch.logspace(0, 2, dims), labels


def test_linear_equals_scikit_learn() -> None:
    x, y = blobs()
    ours, chosen = linear(x[:400], truth_of(y[:400]), x[400:], settings=(0.1,))
    scaler = StandardScaler().fit(x[:400].double().numpy())
    theirs = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8).fit(scaler.transform(x[:400].double()), y[:400])
    expected = theirs.predict(scaler.transform(x[400:].double()))
    assert chosen == {"C": 0.1}
    assert abs((ours.argmax(1) == y[400:]).float().mean() - (expected == y[400:].numpy()).mean()) <= 0.001


def test_linear_chooses_a_strong_penalty_for_noise() -> None:
    """Many dimensions of noise around one that tells: the weakest penalty overfits."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(160) % 2
    x = torch.randn(160, 300, generator=generator)
    x[:, 0] += 3.0 * y
    assert linear(x[:120], truth_of(y[:120]), x[120:])[1]["C"] < 1.0


def test_descent_comes_to_what_scikit_learn_comes_to() -> None:
    """Accuracy within a point, on features of very unequal scale; for several labels mAP as one against the rest."""
    x, y = blobs(900)
    descended, chosen = linear(x[:600], truth_of(y[:600]), x[600:], solver="sgd")
    solved, _ = linear(x[:600], truth_of(y[:600]), x[600:])
    right = [float((scores.argmax(1) == y[600:]).float().mean()) for scores in (descended, solved)]
    assert set(chosen) == {"rate"} and abs(right[0] - right[1]) <= 0.02
    several = torch.stack([y == 0, y <= 1, y == 3], dim=1)
    scores, _ = linear(x[:600], truth_of(several[:600]), x[600:])
    scaler = StandardScaler().fit(x[:600].numpy())
    theirs = OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=2000)).fit(
        scaler.transform(x[:600]), several[:600].numpy()
    )
    expected = average_precision_score(several[600:].numpy(), theirs.decision_function(scaler.transform(x[600:])))
    assert metrics(scores.numpy(), several[600:].numpy())["map"] == pytest.approx(expected, abs=0.02)


def test_a_class_that_train_lacks_is_never_guessed() -> None:
    x, y = blobs(200, 8, 4, 0.3)
    seen = y[:100] != 2
    scores, _ = linear(x[:100][seen], Truth(list("abcd"), y[:100][seen]), x[100:])
    assert scores.shape == (100, 4) and not (scores.argmax(1) == 2).any()


# --- splits ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(0, 3), st.lists(st.integers(0, 9), min_size=60, max_size=120))
def test_no_group_is_on_both_sides(folds: int, seed: int, groups: list[int]) -> None:
    groups += list(range(10)) * 3  # at least ten groups, three clips of each, every class in every group
    labels = np.arange(len(groups)) % 3
    labels[-30:] = np.repeat(np.arange(3), 10)
    names = np.array([f"speaker {group}" for group in groups])
    splits = make_splits(labels, list(names), folds=folds, seed=seed)
    assert len(splits) == folds
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(groups)))
    for split in splits:
        assert not set(names[split.train]) & set(names[split.test])
        assert len(split.train) + len(split.test) == len(groups)


def test_one_split_is_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1], [80, 20])
    (split,) = make_splits(labels, test_share=0.25, seed=3)
    assert np.bincount(labels[split.test]).tolist() == [20, 5]
    (again,) = make_splits(labels, test_share=0.25, seed=3)
    (other,) = make_splits(labels, test_share=0.25, seed=4)
    assert (split.test == again.test).all()
    assert (split.test != other.test).any()


def test_a_grouped_split_takes_whole_groups_of_about_the_share() -> None:
    groups = np.repeat(np.arange(20), 5)
    (split,) = make_splits(np.arange(100) % 2, groups, test_share=0.25)
    assert 15 <= len(split.test) <= 35
    assert not set(groups[split.train]) & set(groups[split.test])


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0] * 10, None, "at least two"),
        ([0] * 10 + [1] * 3, None, r"fewer clips than the 5 folds in class 'seven' \(3\)"),
        ([0, 1] * 10, [0, 1, 2, 3] * 5, "4 groups do not fill 5 folds"),
        ([0, 1] * 10 + [0] * 3, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] * 2 + [5, 5, 5], None),
        ([0] * 10 + [1] * 10, [0, 1, 2, 3, 4] * 2 + [9] * 10, "class 'seven' occurs in one group only"),
    ],
)
def test_what_cannot_be_split_says_so(labels: list[int], groups: list[int] | None, message: str | None) -> None:
    names = ["six", "seven"][: max(labels) + 1]
    if message is None:
        assert len(make_splits(np.array(labels), groups, names=names)) == 5
        return
    with pytest.raises(DataError, match=message):
        make_splits(np.array(labels), groups, names=names)


def test_groups_come_from_the_first_capture_group_or_the_match() -> None:
    paths = ["7/7_jackson_0.wav", "7/7_theo_1.wav"]
    assert group_names(paths, r"_([a-z]+)_") == ["jackson", "theo"]
    assert group_names(paths, r"[a-z]+(?=_)") == ["jackson", "theo"]
    with pytest.raises(DataError, match=r"does not match '7/odd\.wav'"):
        group_names([*paths, "7/odd.wav"], r"_([a-z]+)_")
    with pytest.raises(UsageError, match="not a regular expression"):
        group_names(paths, "_(")


# --- codebooks ----------------------------------------------------------------------------------------


def test_codebook_health_by_hand() -> None:
    health = CodebookHealth(2, 4)
    health.add(torch.tensor([[0, 3], [0, 3], [-1, -1]]), torch.tensor([[0.5, 0.1], [0.7, 0.3], [9.0, 9.0]]))
    health.add(torch.tensor([[1, 3], [2, 3]]), torch.tensor([[0.5, 0.2], [0.3, 0.2]]))
    first, second = health.report()
    assert first["cur"] == 0.75
    assert first["entropy_bits"] == pytest.approx(1.5)  # one half, a quarter, a quarter
    assert first["perplexity"] == pytest.approx(2**1.5)
    assert first["residual_norm"] == pytest.approx(0.5)
    assert first["residual_energy"] == pytest.approx((0.25 + 0.49 + 0.25 + 0.09) / 4)
    assert (second["cur"], second["entropy_bits"], second["perplexity"]) == (0.25, pytest.approx(0.0), 1.0)


# --- attentive ---------------------------------------------------------------------------------------------------


def moving_dots(clips: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A dot of a random content moves left or right: the bag of patches is the same for both classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(clips) % 2
    h_BTWD = 0.3 * torch.randn(clips, 4, 4, 8, generator=generator)
    for clip, label in enumerate(labels.tolist()):
        for step in range(4):
            h_BTWD[clip, step, step if label else 3 - step] += 2.0
    coords = grid_patches((4, 1, 4), clips)
    return h_BTWD.flatten(1, 2), torch.ones(clips, 16, dtype=torch.bool), coords, labels


def one_split(truth: Truth, share: float = 0.25) -> list[Split]:
    return make_splits(truth.y.numpy(), test_share=share)


def test_the_attentive_probe_sees_order_that_a_mean_forgets() -> None:
    h_BND, valid_BN, coords_BN3, labels = moving_dots()
    truth, recipe = truth_of(labels), AttentiveRecipe(width=32)
    seen = judge(truth, one_split(truth), probe_patches((h_BND, valid_BN, coords_BN3), truth, recipe))
    assert seen.value > 0.9
    assert judge(truth, one_split(truth), probe_vectors(h_BND.mean(1), truth, protocol="linear")).value < 0.7


def test_the_attentive_probe_follows_its_seed_and_does_not_look_at_padding() -> None:
    h_BND, valid_BN, coords_BN3, labels = moving_dots(64)
    truth, recipe = truth_of(labels), AttentiveRecipe(width=16, epochs=2)
    first = judge(truth, one_split(truth), probe_patches((h_BND, valid_BN, coords_BN3), truth, recipe))
    longer = [torch.cat([t, t], dim=1) for t in (h_BND * 1, valid_BN, coords_BN3)]
    longer[0][:, 16:], longer[1][:, 16:] = 1e4, False
    second = judge(truth, one_split(truth), probe_patches((longer[0], longer[1], longer[2]), truth, recipe))
    assert np.allclose(first.scores_SML, second.scores_SML, atol=1e-4)


def test_patches_that_no_memory_holds_are_looked_at_when_they_are_wanted(
    image_model: Bridle, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same probe: the scores differ by the half precision of what is kept."""
    data = shutil.copytree(colours, tmp_path / "colours")
    (data / "dark" / "broken.png").unlink()
    said: list[str] = []
    kept: list[Any] = []

    def listen(kind: str, **fields: str) -> None:
        said.extend([fields["message"]] if kind == "note" else [])

    options: dict[str, Any] = {"protocol": Protocol("attentive"), "division": Division(folds=2)}
    for free_gb in (1e9, 0.0):
        monkeypatch.setattr(sys.modules["bridle.evaluate.evaluate"], "free_gb", lambda free_gb=free_gb: free_gb)
        with progress.listening(listen):
            evaluate(image_model, data, **options, keep=kept.append)
    held, streamed = kept
    assert held.paths == streamed.paths
    assert torch.allclose(held.scores_SML, streamed.scores_SML, atol=0.05)
    assert len(said) == 1 and "computed again in each epoch" in said[0]
    result = evaluate(image_model, colours, **options)
    assert result["n_test"] == 20 and [one["file"] for one in result["skipped"]] == ["dark/broken.png"]


def test_of_very_long_clips_whole_steps_in_time_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows of frequency: every one of them stays."""
    monkeypatch.setattr("bridle.evaluate.attentive._MOST_PATCHES", 20)
    coords_N3 = coordinates((12, 4, 1))
    x, valid_BN, coords_BN3 = pad([(torch.arange(48.0)[:, None], coords_N3), (torch.zeros(4, 1), coords_N3[:4])])
    assert valid_BN.sum(1).tolist() == [16, 4]
    assert coords_BN3[0, :, 1].tolist() == [0, 1, 2, 3] * 4 and coords_BN3[0, ::4, 0].tolist() == [0, 3, 6, 9]
    assert x[0, :4, 0].tolist() == [0, 1, 2, 3] and x[0, 4, 0] == 12


def test_the_attentive_probe_reads_codes_in_their_order() -> None:
    """Code 5 comes before or after code 2: the bag of codes is the same."""
    labels = torch.arange(300) % 2
    codes = torch.randint(6, 16, (300, 8, 2), generator=torch.Generator().manual_seed(0))
    for clip, label in enumerate(labels.tolist()):
        codes[clip, 2, 0], codes[clip, 5, 0] = (5, 2) if label else (2, 5)
    truth = truth_of(labels)
    patches = codes.to(torch.int16), torch.ones(300, 8, dtype=torch.bool), grid_patches((8, 1, 1), 300)
    seen = judge(truth, one_split(truth), probe_patches(patches, truth, AttentiveRecipe(width=32), codes=16))
    assert seen.value > 0.9


# --- probe and evaluate ------------------------------------------------------------------------------------------


def test_folds_test_every_clip_once() -> None:
    x, y = blobs(200, 8, 4, 0.3)
    truth = truth_of(y)
    found = judge(truth, make_splits(y.numpy(), folds=4), probe_vectors(x, truth))
    assert found.tested.tolist() == list(range(200))
    assert found.value == pytest.approx((found.scores_SML[0].argmax(1) == y.numpy()).mean())
    assert sum(fold["n_test"] for fold in found.per_fold) == 200
    right = sum(fold["accuracy"] * fold["n_test"] for fold in found.per_fold)
    assert found.value == pytest.approx(right / 200)  # each score is laid to its own clip
    assert found.ci95[0] <= found.value <= found.ci95[1]
    assert found.chance == 0.25


def test_of_several_seeds_the_mean_counts() -> None:
    h_BND, valid_BN, coords_BN3, labels = moving_dots(80)
    truth, recipe = truth_of(labels), AttentiveRecipe(width=16, epochs=1)
    trial = probe_patches((h_BND, valid_BN, coords_BN3), truth, recipe)
    both = judge(truth, one_split(truth), trial, (0, 1))
    each = [judge(truth, one_split(truth), trial, (seed,)).value for seed in (0, 1)]
    assert both.per_seed == each and both.value == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize(
    ("protocol", "how"),
    [("knn", None), ("linear", "segments"), ("linear", "class"), ("attentive", None), ("codes", None)],
)
def test_evaluate_a_folder(image_model: Bridle, colours: Path, protocol: str, how: str | None) -> None:
    warnings: list[str] = []

    def listen(kind: str, **fields: str) -> None:
        warnings.extend([fields["message"]] if kind == "warning" else [])

    wanted = Protocol(protocol, how, (3,))
    with progress.listening(listen):
        result = evaluate(image_model, colours, protocol=wanted, division=Division(folds=2))
    assert {"task", "protocol", "checkpoint", "metric", "value", "ci95", "n_train", "n_test", "seed"} <= set(result)
    assert (result["task"], result["protocol"], result["metric"]) == ("folder", protocol, "accuracy")
    assert (result["n_train"], result["n_test"], result["seed"]) == (10, 20, 3)
    assert result["value"] > (0.9 if how != "class" else 0.5)
    assert result["classes"] == ["bright", "dark"]
    assert sum(map(sum, result["confusion"])) == 20
    assert sum(result["confusion"][one][one] for one in range(2)) == pytest.approx(20 * result["value"])
    assert [skipped["file"] for skipped in result["skipped"]] == ["dark/broken.png"]
    assert len(warnings) == 1
    assert "dark/broken.png" in warnings[0]
    if protocol == "codes":
        assert result["sequence"]["value"] > 0.5 and len(result["per_level"]) == 2
        assert 0 <= result["per_level"][0]["label_bits"] <= 1 and result["per_level"][0]["bag"] > 0.5


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
@pytest.mark.parametrize("baseline", ["raw values", "untrained network"])
def test_the_figures_are_scikit_learns_on_real_clips(kind: str, baseline: str) -> None:
    """The goal is 0.1 points: here no clip may be told otherwise. Raw values are patches laid side by side."""
    model = standins.small(kind)
    if baseline == "raw values":
        model.features_and_class = lambda batch: (batch.x_BNP, batch.x_BNP[:, :1])  # type: ignore[method-assign]
    media = Path(__file__).parents[2] / "media" / kind
    data = open_data(media, Modality(kind))
    vectors = extract_vectors(model, dataclasses.replace(data, fingerprint=""))
    truth = truth_from(vectors.files, data)
    for protocol in ("knn", "linear"):
        told: dict[str, Any] = {"protocol": Protocol(protocol, "segments"), "division": Division(test_share=0.25)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["bridle.evaluate.evaluate"], "extract_vectors", lambda *_, **__: vectors)
            found = evaluate(model, media, **told)
        split = make_splits(truth.y.numpy(), test_share=0.25)[0]
        x_ND, y_N = vectors.pooled["segments"].double().numpy(), truth.y.numpy()
        keep = x_ND[split.train].std(0) > 1e-6 * x_ND[split.train].std(0).max()
        scaler = StandardScaler().fit(x_ND[split.train][:, keep])
        train, test = (scaler.transform(x_ND[rows][:, keep]) for rows in (split.train, split.test))
        if protocol == "knn":
            train, test = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test))
            theirs: Any = KNeighborsClassifier(found["per_fold"][0]["k"], weights=lambda d: np.exp(-(d**2) / 2 / 0.07))
        else:
            theirs = LogisticRegression(C=found["per_fold"][0]["C"], max_iter=5000, tol=1e-8)
        expected = theirs.fit(train, y_N[split.train]).score(test, y_N[split.test])
        assert found["value"] == pytest.approx(expected, abs=0.001), protocol


def test_evaluate_keeps_groups_together(image_model: Bridle, colours: Path) -> None:
    result = evaluate(image_model, colours, division=Division(group_by=r"(photo\d)", folds=5))
    assert [fold["n_test"] for fold in result["per_fold"]] == [4] * 5
    with pytest.raises(DataError, match="does not match"):
        evaluate(image_model, colours, division=Division(group_by="speaker", folds=5))


def test_shards_give_what_their_folder_gives(image_model: Bridle, colours: Path, tmp_path: Path) -> None:
    shard(colours, out=tmp_path / "set", options=Options(seed=5))
    options = {"protocol": Protocol("linear", "segments", (1,)), "division": Division(group_by=r"(photo\d)")}
    raw, sharded = (evaluate(image_model, data, **options) for data in (colours, tmp_path / "set"))
    assert sharded.pop("skipped") == []  # the broken file was left out of the shards
    assert raw.pop("skipped")
    assert raw == sharded


def test_features_are_kept_for_these_weights_and_files(
    image_model: Bridle, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "colours"
    shutil.copytree(colours, data)
    seen: list[int] = []
    real = Bridle.features_and_class

    def watched(self: Bridle, batch: PatchBatch) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(batch.lengths))
        return real(self, batch)

    monkeypatch.setattr(Bridle, "features_and_class", watched)
    first = evaluate(image_model, data)
    assert seen
    seen.clear()
    assert evaluate(image_model, data) == first and not seen
    assert evaluate(image_model, data, protocol=Protocol("linear", "segments"))["n_test"] == 20 and not seen
    for cached in (tmp_path / "cache" / "features").iterdir():
        cached.write_bytes(b"damaged")
    assert evaluate(image_model, data) == first and seen
    for change in (
        lambda: os.utime(data / "dark" / "photo0_0.png", (1, 1)),
        lambda: (data / "dark" / "photo1_2.png").rename(data / "bright" / "photo1_02.png"),
        lambda: image_model.encoder.class_token_D.data.add_(1e-3),
    ):
        change()
        seen.clear()
        evaluate(image_model, data)
        assert seen


def test_features_of_remote_files_are_not_kept(image_model: Bridle, colours: Path, tmp_path: Path) -> None:
    """A listing does not say whether a file changed: what was kept could be of another one of that name."""
    storage = fsspec.filesystem("memory")
    storage.put(str(colours), "/bucket/colours", recursive=True)
    try:
        result = evaluate(image_model, locate("memory://bucket/colours"), division=Division(folds=2))
    finally:
        storage.rm("/bucket", recursive=True)
    assert result["value"] == evaluate(image_model, colours, division=Division(folds=2))["value"]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1  # of the folder on this machine


def test_files_without_any_class_are_named(image_model: Bridle) -> None:
    with pytest.raises(DataError, match="no class; a probe needs at least two"):
        truth_from(Files(["a", "b"], [(), ()], ["", ""]), Labelled(lambda read: iter(()), 2, "", load_task("as20k")))


def test_parts_say_what_is_for_training(image_model: Bridle, colours: Path, tmp_path: Path) -> None:
    """Folders, sets of shards, and a table; what is for neither stays out."""
    data = tmp_path / "data"
    for number, file in enumerate(sorted(colours.glob("*/photo*.png"))):
        part = ("train", "train", "test", "val")[number % 4]
        (data / part / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, data / part / file.parent.name / file.name)
    folder = evaluate(image_model, data)
    assert (folder["folds"], folder["n_train"], folder["n_test"]) == (1, 10, 5)
    for part in ("train", "test", "val"):
        shard(data / part, out=tmp_path / "sets" / part)
    sets = evaluate(image_model, tmp_path / "sets")
    shard(data, out=tmp_path / "one")
    one = evaluate(image_model, tmp_path / "one")
    assert folder["value"] == sets["value"] == one["value"]
    table = tmp_path / "split.csv"
    paths = sorted(str(path.relative_to(colours)) for path in colours.glob("*/photo*.png"))
    rows = [f"{path},{'test' if number % 2 else 'train'}" for number, path in enumerate(paths)]
    table.write_text("path,part\r\n" + "\r\n".join(rows) + "\r\n")
    assert evaluate(image_model, colours, division=Division(split_file=table))["n_test"] == 10
    assert evaluate(image_model, data, division=Division(folds=2))["folds"] == 2  # what is asked for counts
    some = evaluate(image_model, data, division=Division(split_file=_table(tmp_path, data)))
    assert (some["folds"], some["n_train"], some["n_test"]) == (1, 4, 4)  # files that are not named take no part


def _table(folder: Path, data: Path) -> Path:
    """Of each class two files for training and two for testing, from wherever they lie."""
    rows = ["path,part"]
    for name in ("bright", "dark"):
        files = sorted(path.relative_to(data).as_posix() for path in data.glob(f"*/{name}/*.png"))
        rows += [f"{file},{part}" for file, part in zip(files, ("train", "train", "test", "test"), strict=False)]
    table = folder / "some.csv"
    table.write_text("\n".join(rows))
    return table


def test_labels_of_a_folder_from_a_table_or_beside(image_model: Bridle, colours: Path, tmp_path: Path) -> None:
    """Several a file: mAP, as shards of the same files have it."""
    flat = tmp_path / "flat"
    flat.mkdir()
    table = ["path,labels"]
    for file in sorted(colours.glob("*/photo*.png")):
        labels = [file.parent.name, *(["even"] if int(file.stem[-1]) % 2 == 0 else [])]
        shutil.copy(file, flat / f"{file.parent.name}_{file.name}")
        (flat / f"{file.parent.name}_{file.stem}.json").write_text(json.dumps({"labels": labels}))
        table.append(f"{file.parent.name}_{file.name},{';'.join(labels)}")
    (tmp_path / "labels.csv").write_text("\n".join(table))
    division = Division(test_share=0.5)
    found = [
        evaluate(image_model, flat, division=division, labels=labels) for labels in ("sidecar", tmp_path / "labels.csv")
    ]
    shard(flat, out=tmp_path / "set", options=Options(labels="sidecar"))
    found.append(evaluate(image_model, tmp_path / "set", division=division))
    assert [one["metric"] for one in found] == ["map"] * 3 and found[0]["classes"] == ["bright", "dark", "even"]
    assert found[0]["value"] == found[1]["value"] == found[2]["value"]
    assert found[0]["chance"] == pytest.approx(sum((5, 5, 5)) / 30, abs=0.2)
    with pytest.raises(UsageError, match="has its own labels"):
        evaluate(image_model, tmp_path / "set", labels="sidecar")
    (tmp_path / "labels.csv").write_text("path,label\nnowhere.png,a\n")
    with pytest.raises(DataError, match="matches none of the 20 files"):
        evaluate(image_model, flat, labels=tmp_path / "labels.csv")


def test_chance_is_of_the_classes_that_are_tested() -> None:
    y_NL = torch.zeros(40, 10, dtype=torch.bool)
    y_NL[torch.arange(40), torch.arange(40) % 2] = True
    truth = Truth([str(n) for n in range(10)], y_NL)
    split = [Split(np.arange(20), np.arange(20, 40))]
    scores = torch.rand(20, 10, generator=torch.Generator().manual_seed(0))
    assert judge(truth, split, lambda split, seed: (scores, {})).chance == 0.5


@pytest.mark.parametrize(
    ("protocol", "options", "message"),
    [
        (("knn", None, (0, 1)), {}, "--seeds has no effect"),
        (("codebook",), {"folds": 3}, "--folds has no effect"),
        (("codebook",), {"group_by": "(.)"}, "--group-by has no effect"),
    ],
)
def test_what_would_be_without_effect(
    image_model: Bridle, colours: Path, protocol: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(image_model, colours, protocol=Protocol(*protocol), division=Division(**options))


def test_copies_on_both_sides_are_told(image_model: Bridle, colours: Path, tmp_path: Path) -> None:
    """In folders and in shards, under whatever name; other files of the same size are none."""
    for number, file in enumerate(sorted(colours.glob("*/photo*.png"))):
        folder = tmp_path / "data" / ("test" if number % 2 else "train") / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    said: list[str] = []

    def listen(kind: str, **fields: str) -> None:
        said.extend([fields["message"]] if kind == "warning" else [])

    with progress.listening(listen):
        evaluate(image_model, tmp_path / "data")
    assert said == []
    copied = sorted((tmp_path / "data" / "train" / "dark").iterdir())[:2]
    for file in copied:
        shutil.copy(file, tmp_path / "data" / "test" / "dark" / f"again_{file.name}")
    with progress.listening(listen):
        evaluate(image_model, tmp_path / "data")
    shard(tmp_path / "data", out=tmp_path / "set")
    with progress.listening(listen):
        evaluate(image_model, tmp_path / "set")
    assert len(said) == 2 and all("copies: 2 test files are also training files" in one for one in said)


def test_results_that_are_damaged_are_put_aside(tmp_path: Path) -> None:
    """And what JSON cannot say is null."""
    add_result(tmp_path, {"task": "a", "value": math.nan, "ci95": (0.0, math.inf)})
    assert json.loads((tmp_path / "results.json").read_text()) == [{"task": "a", "value": None, "ci95": [0.0, None]}]
    (tmp_path / "results.json").write_text("[{")
    with pytest.raises(DataError, match=r"results\.json is damaged"):
        read_results(tmp_path)
    assert add_result(tmp_path, {"task": "b", "test_share": 0.2}) == tmp_path / "results.json.damaged"
    add_result(tmp_path, {"task": "b", "test_share": 0.5})
    assert [one["test_share"] for one in read_results(tmp_path)] == [0.2, 0.5]
    assert (tmp_path / "results.json.damaged").read_text() == "[{"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,part\na,train\n", "has the columns 'name,part'"),
        ("path,part\na.png\n", "line 2"),
        ("path,part\na.png,train\na.png,test\n", "line 3: a.png is already in train"),
        ("path,part\na.png,train,7\n", "line 2: expected 2 values"),
        ("path,part\nbright/photo0_0.png,fold1\n", "fold1 alone: at least two"),
        ("path,part\na.png,train\n", "matches none of the 20 files"),
        ("path,part\nbright/photo0_0.png,train\ndark/photo0_0.png,holdout\n", "'holdout' is not a part"),
        ("path,part\nbright/photo0_0.png,train\ndark/photo0_0.png,train\n", "no readable clip in val"),
        ("path,part\nbright/photo0_0.png,train\ndark/photo0_0.png,fold1\n", "has folds and other parts"),
    ],
)
def test_a_split_file_that_is_none_is_named(
    image_model: Bridle, colours: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(DataError, match=rf"split\.csv.*{message}"):
        evaluate(image_model, colours, division=Division(split_file=tmp_path / "split.csv"))


def test_files_of_several_classes_are_judged_by_map(image_model: Bridle, colours: Path, tmp_path: Path) -> None:
    lines = ["path,labels"]
    for path in sorted(colours.glob("*/photo*.png")):
        take = int(path.stem[5])
        lines.append(f"{path.relative_to(colours)},{path.parent.name}{';even' if take % 2 == 0 else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    shard(colours, out=tmp_path / "set", options=Options(labels=tmp_path / "labels.csv"))
    for protocol in ("knn", "linear", "attentive", "codes"):
        result = evaluate(image_model, tmp_path / "set", protocol=Protocol(protocol), division=Division(folds=2))
        assert result["metric"] == "map" and result["classes"] == ["bright", "dark", "even"]
        assert set(result["metrics"]) == {"map", "auc", "dprime"} and result["ci95"][0] <= result["value"]
        assert result["value"] > result["chance"] == pytest.approx((10 + 10 + 12) / 60)
        assert "confusion" not in result


def test_evaluate_the_codebook(image_model: Bridle, colours: Path) -> None:
    result = evaluate(image_model, colours, protocol=Protocol("codebook"))
    assert result["metric"] == "cur"
    assert result["n_test"] == 20
    assert result["patches"] == 20 * 16
    assert [level["level"] for level in result["per_level"]] == [1, 2]
    assert result["value"] == min(level["cur"] for level in result["per_level"])
    assert result["per_level"][1]["residual_norm"] < result["per_level"][0]["residual_norm"]


def test_evaluate_says_what_is_wrong(image_model: Bridle, colours: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown value"):
        Protocol("kn")
    with pytest.raises(UsageError, match="trained with a classifier"):
        Protocol("knn", "attentive")
    with pytest.raises(UsageError, match="does not pool"):
        Protocol("codes", "mean")
    with pytest.raises(UsageError, match="--folds and --test-share"):
        Division(folds=3, test_share=0.2)
    with pytest.raises(UsageError, match="There is no task 'k40'; did you mean 'k400'"):
        evaluate(image_model, colours, task="k40")
    with pytest.raises(DataError, match="Kinetics-400 is video, but the checkpoint was trained on image"):
        evaluate(image_model, colours, task="k400")
    with pytest.raises(DataError, match="one class, 'dark'"):
        evaluate(image_model, _only(colours / "dark", tmp_path))
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (8, 8)).save(flat / "a.png")
    with pytest.raises(DataError, match=r"none of the 1 files has a label"):
        evaluate(image_model, flat)
    (flat / "a.png").write_bytes(b"no image")
    broken = tmp_path / "broken" / "class"
    broken.mkdir(parents=True)
    (broken / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"nothing could be read\n.*class/a\.png"):
        evaluate(image_model, broken.parent)


def _only(folder: Path, tmp_path: Path) -> Path:
    """A data set that holds that one class."""
    root = tmp_path / "one"
    root.mkdir()
    (root / folder.name).symlink_to(folder, target_is_directory=True)
    return root


def test_vectors_are_pooled_patches(image_model: Bridle, colours: Path) -> None:
    data = open_data(colours, Modality.IMAGE)
    vectors, patches = extract_vectors(image_model, data), extract_patches(image_model, data)
    assert patches is not None
    assert vectors.files.paths == patches.files.paths
    assert vectors.files.labels == [("bright",)] * 10 + [("dark",)] * 10
    mean_FD = torch.stack([h_ND.float().mean(0) for h_ND, _ in patches.rows])
    assert torch.allclose(vectors.pooled["mean"], mean_FD, atol=2e-3)
    assert vectors.pooled["segments"].shape == (20, 4 * 16) and vectors.pooled["class"].shape == (20, 16)
