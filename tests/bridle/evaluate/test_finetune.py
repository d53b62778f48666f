"""Fine-tuning: its parts against numbers worked out by hand, then from media to a figure and a classifier that is kept.

The sounds, pictures and videos are the real ones of the sample.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import release_layouts as layouts
import standins
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bridle import api, progress
from bridle.checkpoint import Head, read_classifier, save_classifier
from bridle.config.sections import EncoderSection
from bridle.errors import ConfigError, DataError, EnvironmentFault, MediaError, NumericalError, UsageError
from bridle.evaluate import Division, Protocol, evaluate, load_recipe
from bridle.evaluate.finetune import Finetune, score, tune_and_score
from bridle.evaluate.finetune.augment import hide_bands, mix
from bridle.evaluate.finetune.clips import class_weights, rows_of_steps, views_of
from bridle.evaluate.finetune.recipe import recipe_names
from bridle.evaluate.labels import Truth
from bridle.evaluate.split_warnings import faults
from bridle.evaluate.splits import Split
from bridle.infer import Failures, Pretrained
from bridle.inputs import Source, find_sources
from bridle.media import decode, probe
from bridle.model import Bridle, Classifier, layered_groups, set_drop_path
from bridle.model.encoder import Encoder
from bridle.nn import Block
from bridle.patches.cut import spread
from bridle.schema import Clip, Modality, PatchBatch
from bridle.storage import locate
from bridle_cli.main import main

MEDIA = Path(__file__).parents[2] / "media"
QUICK = {"epochs": 25.0, "batch_size": 8, "lr": 5e-3, "warmup": 0.1, "mixup": 0.0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of two real photos, twelve each: a class is a photo."""
    root = tmp_path_factory.mktemp("photos")
    classes = sorted(path for path in (MEDIA / "image").iterdir() if path.is_dir())[:2]
    for folder in classes:
        (root / folder.name).mkdir()
        for file in sorted(folder.iterdir())[:12]:
            shutil.copy(file, root / folder.name)
    return root


@functools.cache
def batch_of(kind: str, clips: int = 4) -> tuple[Bridle, PatchBatch]:
    """Real clips as the small model of their kind sees them; sounds differ in length."""
    model = standins.small(kind)
    files = sorted(path for path in (MEDIA / kind).rglob("*") if path.is_file())[::7][:clips]
    views = []
    for file in files:
        info = probe(file, file.name)
        views.append(model.patcher.prepare(decode(file, info, rate_hz=16000), None))
    if kind == "audio":
        views = [view[: len(view) // (1 + at)] for at, view in enumerate(views)]
    return model, model.patcher(views)


# The network


def test_drop_path_is_whole_clips_and_leaves_the_expectation() -> None:
    torch.manual_seed(0)
    block = Block(8, 2)
    x_BND = torch.randn(4000, 1, 8).expand(-1, 3, -1) * 0 + torch.randn(1, 3, 8)
    block.eval()
    with torch.no_grad():
        plain = block(x_BND[:1])
        block.drop_path = 0.4
        assert torch.equal(block(x_BND[:1]), plain)  # in evaluation there is nothing to drop
        block.train()
        block.mlp[2].weight.zero_()
        block.mlp[2].bias.zero_()
        branch = block.attention(block.norm1(x_BND[:1]), None)
        moved = block(x_BND) - x_BND
    dropped_B = (moved == 0).flatten(1).all(1)
    assert 0.36 < dropped_B.float().mean() < 0.44
    torch.testing.assert_close(moved[~dropped_B][:1], branch / 0.6)


def test_drop_path_grows_with_depth() -> None:
    encoder = Encoder(4, (1, 2), EncoderSection(width=8, depth=3, heads=2))
    set_drop_path(encoder, 0.2)
    assert [block.drop_path for block in encoder.blocks] == pytest.approx([0.0, 0.1, 0.2])


def test_each_layer_learns_slower_than_the_one_above() -> None:
    classifier = Classifier(Encoder(4, (1, 2), EncoderSection(width=8, depth=2, heads=2)), 3)
    share: dict[int, float] = {}
    decay: dict[int, float] = {}
    for group in layered_groups(classifier, 0.5, 0.05):
        for parameter in group["params"]:
            share[id(parameter)], decay[id(parameter)] = group["share"], group["weight_decay"]
    expected = {"embed": 0.125, "class_token_D": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "norm": 1.0}
    for name, parameter in classifier.named_parameters():
        plain = name.removeprefix("encoder.")
        wanted = next((value for part, value in expected.items() if plain.startswith(part)), 1.0)
        assert share[id(parameter)] == wanted, name
        assert decay[id(parameter)] == (0.05 if name.endswith("weight") and "norm" not in name else 0.0), name
    assert len(share) == len(list(classifier.parameters()))


def test_a_classifier_pools_valid_patches_only() -> None:
    model, batch = batch_of("audio")
    classifier = Classifier(model.encoder, 3).eval()
    with torch.no_grad():
        together = classifier(batch)
        for row, length in enumerate(batch.lengths):
            h_ND = model.features(batch)[row, :length]
            torch.testing.assert_close(together[row], classifier.head(classifier.norm(h_ND.mean(0))), atol=1e-5, rtol=0)


# What is done to patches and labels


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
@pytest.mark.parametrize(("axis", "shares"), [(0, (0.5, 0.0)), (1, (0.0, 0.5))])
def test_hidden_bands_are_bands(kind: str, axis: int, shares: tuple[float, float]) -> None:
    """Of each clip's own extent, contiguous, not bound to patches, nothing else touched."""
    model, batch = batch_of(kind)
    patcher = model.patcher
    size, per_step = patcher.patch[axis], batch.grid[1] * batch.grid[2]
    for seed in range(20):
        hidden = hide_bands(batch, patcher, *shares, np.random.default_rng(seed))
        for row, length in enumerate(batch.lengths):
            changed_NP = (hidden.x_BNP[row] != batch.x_BNP[row]) & (batch.x_BNP[row] != 0)
            assert (hidden.x_BNP[row][changed_NP] == 0).all()
            extent = (length // per_step if axis == 0 else batch.grid[1]) * size
            lines = set()
            for n, p in changed_NP.nonzero().tolist():
                within = p // math.prod(patcher.patch[axis + 1 :]) % size
                lines.add(int(batch.coords_BN3[row, n, axis]) * size + within)
            assert len(lines) <= math.ceil(0.5 * extent)
            assert not lines or max(lines) < extent
            if kind != "audio":  # a sound may have lines of the mean value already
                assert not lines or max(lines) - min(lines) + 1 == len(lines)


def test_mixup_by_hand() -> None:
    model, batch = batch_of("audio")
    shares_BL = torch.eye(4)
    mixed, said_BL = mix(batch, shares_BL, model.patcher.axes, (1.0, 0.8), (0.0, 1.0), np.random.default_rng(1))
    own_B = said_BL.diagonal()
    assert ((own_B >= 0) & (own_B <= 1)).all() and own_B.std() > 0.05
    torch.testing.assert_close(said_BL.sum(1), torch.ones(4))
    for row in range(4):
        w, before = float(own_B[row]), (row - 1) % 4
        assert float(said_BL[row, before]) == pytest.approx(1 - w, abs=1e-6)
        torch.testing.assert_close(mixed.x_BNP[row], w * batch.x_BNP[row] + (1 - w) * batch.x_BNP[before])
        assert mixed.lengths[row] == max(batch.lengths[row], batch.lengths[before])
        assert int(mixed.valid_BN[row].sum()) == mixed.lengths[row] and mixed.valid_BN[row, : mixed.lengths[row]].all()


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
def test_cutmix_labels_go_by_the_patches_that_were_exchanged(kind: str) -> None:
    model, batch = batch_of(kind)
    shares_BL, boxes = torch.eye(4), 0
    for seed in range(30):
        mixed, said_BL = mix(batch, shares_BL, model.patcher.axes, (0, 1), (1.0, 1.0), np.random.default_rng(seed))
        for row, length in enumerate(batch.lengths):
            other = batch.x_BNP[(row - 1) % 4]
            taken_N = (mixed.x_BNP[row] != batch.x_BNP[row]).any(-1)
            assert torch.equal(mixed.x_BNP[row][taken_N], other[taken_N])
            assert float(said_BL[row, (row - 1) % 4]) >= int(taken_N.sum()) / length - 1e-6
            if taken_N.any():
                boxes += 1
                coords = batch.coords_BN3[row][taken_N]
                for axis in model.patcher.axes[-2:]:  # a box: what lies between its edges is in it
                    assert len(coords[:, axis].unique()) == int(coords[:, axis].max() - coords[:, axis].min()) + 1
        assert mixed.lengths == batch.lengths and torch.equal(mixed.valid_BN, batch.valid_BN)
    assert boxes > 20


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_shares_of_classes_always_add_up(seed: int, mixup: float, rest: float) -> None:
    model, batch = batch_of("image")
    shares_BL = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    mixed, said_BL = mix(
        batch, shares_BL, model.patcher.axes, (mixup, 0.8), ((1 - mixup) * rest, 1.0), np.random.default_rng(seed)
    )
    torch.testing.assert_close(said_BL.sum(1), torch.ones(4))
    assert (said_BL >= -1e-6).all() and mixed.x_BNP.isfinite().all()


# Which clips, and how they are seen


def test_weights_of_balanced_classes_by_hand() -> None:
    single = Truth(["a", "b"], torch.tensor([0, 0, 0, 1]))
    assert class_weights(single).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    several = Truth(["a", "b"], torch.tensor([[1, 0], [1, 1], [0, 0]]).bool())  # two of a, one of b, one of nothing
    assert class_weights(several).tolist() == pytest.approx([0.5 / 2.5, 1.5 / 2.5, 0.5 / 2.5])


def test_every_clip_once_an_epoch_or_every_class_equally_often() -> None:
    truth = Truth(["a", "b"], torch.tensor([0] * 9 + [1]))
    rows = np.concatenate(list(rows_of_steps(truth, 4, 5, balanced=False, seed=0)))
    assert len(rows) == 20 and np.bincount(rows, minlength=10).tolist() == [2] * 10
    rows = np.concatenate(list(rows_of_steps(truth, 4, 500, balanced=True, seed=0)))
    assert 0.45 < (rows == 9).mean() < 0.55
    assert [len(one) for one in rows_of_steps(truth, 64, 3, balanced=False, seed=0)] == [10, 10, 10]


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
def test_training_views_follow_from_the_seed_alone(kind: str, tmp_path: Path) -> None:
    model = standins.small(kind)
    sources = list(find_sources([MEDIA / kind], Modality(kind))[0])[::20][:5]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    sources.append(Source("broken.wav", broken))
    order = [np.array([0, 1, 5]), np.array([2, 3, 4]), np.array([1, 0, 2])]
    runs = [list(views_of(sources, model, iter(order), seed, workers)) for seed, workers in ((0, 0), (0, 2), (1, 0))]
    assert isinstance(runs[0][0][2][1], MediaError)
    same, other = [], []
    for one, two, three in zip(*(chain(*run) for run in runs), strict=True):
        if isinstance(one[1], torch.Tensor):
            same.append(torch.equal(one[1], two[1]))
            other.append(one[1].shape == three[1].shape and torch.equal(one[1], three[1]))
    assert all(same) and not all(other)
    first, later = runs[0][0][0][1], runs[0][2][1][1]
    assert first.shape != later.shape or not torch.equal(first, later)  # another view in another epoch


# Several views at test


def test_spread_by_hand() -> None:
    assert spread(10, 1) == [5] and spread(10, 2) == [0, 10] and spread(10, 3) == [0, 5, 10]
    assert spread(50, 5) == [0, 12, 25, 38, 50] and spread(0, 3) == [0, 0, 0]


def test_five_clips_three_crops_by_hand() -> None:
    """40 frames, windows of 4 frames at stride 2 (7 frames): from 0, 8, 16, 25, 33; 16 x 32 pixels: from 0, 8, 16."""
    patcher = standins.small("video").patcher
    data = torch.zeros(40, 3, 16, 32, dtype=torch.uint8)
    data[:, 0] = torch.arange(40)[:, None, None]
    data[:, 1] = torch.arange(32)[None, None, :]
    found = patcher.several(Clip("c", Modality.VIDEO, data, rate_hz=10.0), 5, 3)
    assert len(found) == 15
    starts = [int(view[0, 0, 0, 0]) for view, _ in found]
    assert starts == [s for s in (0, 8, 16, 25, 33) for _ in range(3)]
    assert [round(start_s, 6) for _, start_s in found] == [s / 10 for s in starts]
    assert [int(view[0, 1, 0, 0]) for view, _ in found] == [0, 8, 16] * 5
    assert [view[:, 0, 0, 0].tolist() for view, _ in found[:1]] == [[0, 2, 4, 6]]
    tall = patcher.several(Clip("c", Modality.VIDEO, data.transpose(2, 3), rate_hz=10.0), 1, 3)
    assert [int(view[0, 1, 0, 0]) for view, _ in tall] == [0, 8, 16]


def test_sound_is_spread_to_its_ends() -> None:
    patcher = standins.small("audio").patcher
    wave_S = torch.arange(3 * 16000).float() / 50000
    views = patcher.several(Clip("c", Modality.AUDIO, wave_S, rate_hz=16000), 3, 1)
    spare = len(wave_S) - patcher.samples
    assert [round(start_s * 16000) for _, start_s in views] == [0, round(spare / 2), spare]
    assert int(views[-1][0][-1]) == round(float(wave_S[-1]) * 32767)


def test_views_that_a_kind_of_media_does_not_have() -> None:
    for kind, views in (("audio", (5, 3)), ("image", (5, 1))):
        with pytest.raises(UsageError, match="this modality has no"):
            standins.small(kind).patcher.check_views(*views)
    for kind, views in (("audio", (5, 1)), ("image", (1, 3)), ("video", (5, 3))):
        standins.small(kind).patcher.check_views(*views)


def test_probabilities_are_averaged_over_views() -> None:
    """Of a real video: the mean of fifteen softmaxes, of which each is worked out from its own frames and pixels."""
    model = standins.small("video")
    torch.manual_seed(0)
    classifier = Classifier(model.encoder, 5).eval()
    torch.nn.init.normal_(classifier.head.weight, std=0.3)
    file = next((MEDIA / "video").rglob("*.mp4"))
    clip = decode(file, probe(file, file.name))
    wide = Clip("c", Modality.VIDEO, clip.data[:, :, ::2].contiguous(), clip.rate_hz, source="c")  # 2 : 1
    failures = Failures()
    found = score(model, classifier, [Source("c", wide)], False, several=(5, 3), failures=failures)
    expected = []
    side, width = wide.data.shape[-2:]
    for n in range(5):
        start = round(n * (len(wide.data) - 7) / 4)
        for left in (0, round((width - side) / 2), width - side):
            cube = wide.data[start : start + 7 : 2, :, :, left : left + side]
            one = Clip("v", Modality.VIDEO, cube, clip.rate_hz)
            with torch.no_grad():
                expected.append(classifier(model.patcher([model.patcher.prepare(one, None)])).softmax(-1)[0])
    torch.testing.assert_close(found[0], torch.stack(expected).mean(0), atol=1e-5, rtol=0)
    alone = score(model, classifier, [Source("c", wide)], False, several=(1, 1), failures=failures)
    assert not torch.allclose(alone, found, atol=1e-4)


def test_long_videos_are_decoded_view_by_view(monkeypatch: pytest.MonkeyPatch) -> None:
    model = standins.small("video")
    classifier = Classifier(model.encoder, 5).eval()
    file = next((MEDIA / "video").rglob("*.mp4"))
    source = [Source("c", file)]
    whole = score(model, classifier, source, False, several=(3, 1), failures=Failures())
    monkeypatch.setattr("bridle.inputs.sources._CHUNK_BYTES", 1000)
    pieces = score(model, classifier, source, False, several=(3, 1), failures=Failures())
    torch.testing.assert_close(whole, pieces, atol=2e-2, rtol=0)  # starts are rounded to frames elsewhere


def test_frozen_features_over_views(photos: Path) -> None:
    """Vectors are means over the views' patches."""
    model = standins.small("image")
    plain, wide = (
        evaluate(model, photos, protocol=Protocol("knn", several=views), division=Division(folds=2))
        for views in (None, (1, 3))
    )
    assert plain["views"] is None and wide["views"] == [1, 3] and plain["n_test"] == wide["n_test"] == 24


# Recipes


def test_recipes_can_all_be_read() -> None:
    assert {"audio", "image", "video", "as2m", "as20k", "esc50", "in1k", "k400"} <= {*recipe_names()}
    for name in recipe_names():
        assert load_recipe(name, "", "audio").layer_decay <= 1
    published = {"as2m": 2e-4, "as20k": 4e-4, "esc50": 2e-3, "in1k": 5e-4, "k400": 7.5e-4}
    for name, rate in published.items():
        assert load_recipe(None, name, "audio").lr == rate  # a task's own, without being named
    assert load_recipe(None, "k400", "video").augment and not load_recipe(None, "ssv2", "video").augment
    assert load_recipe(None, "scv2", "audio") == load_recipe("audio", "", "video")


def test_mistakes_in_recipes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'esc50'"):
        load_recipe("esc5", "", "audio")
    with pytest.raises(ConfigError, match=r"finetune\.lrr \(--set\): unknown key; did you mean 'finetune\.lr'"):
        load_recipe(None, "", "audio", ["finetune.lrr=1"])
    own = tmp_path / "mine.yaml"
    own.write_text("epochs: 3\nmixup: 0.8\ncutmix: 0.4\nlr: fast\n")
    with pytest.raises(ConfigError, match=r"finetune\.lr \(.*mine\.yaml:4\): expected a number, got 'fast'"):
        load_recipe(str(own), "", "audio")
    own.write_text("epochs: 3\nmixup: 0.8\ncutmix: 0.4\n")
    with pytest.raises(ConfigError, match="more than 1"):
        load_recipe(str(own), "", "audio")
    assert load_recipe(str(own), "", "audio", ["finetune.cutmix=0.2"]).cutmix == 0.2


# From media to a figure


def test_fine_tuning_learns_and_leaves_the_model_alone(photos: Path) -> None:
    model = standins.small("image")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept: list[Any] = []
    how = Protocol("finetune", recipe=Finetune(**QUICK))
    found = evaluate(model, photos, protocol=how, division=Division(test_share=0.25), keep=kept.append)
    assert found["value"] == 1.0 and found["n_train"] == 18 and found["n_test"] == 6
    assert found["recipe"]["lr"] == 5e-3 and found["views"] is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    head = next(one for one in kept if isinstance(one, Head))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(head.classifier.encoder.parameters(), model.encoder.parameters(), strict=True)
    )
    again = evaluate(model, photos, protocol=how, division=Division(test_share=0.25), workers=2)
    assert again == found


@pytest.mark.parametrize(
    "more",
    [
        {"mixup": 0.5, "cutmix": 0.5, "mask_time": 0.3, "mask_rows": 0.3, "drop_path": 0.2, "ema": 0.9},
        {"balanced": True, "pool": "class", "layer_decay": 1.0},
    ],
)
def test_all_of_it_together(photos: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """Each part is at work and the training pictures are learned all the same."""
    data = tmp_path / "data"
    for part in ("train", "test"):
        shutil.copytree(photos, data / part)
    recipe = Finetune(**(QUICK | {"epochs": 40.0, "lr": 1e-2} | more))
    found = evaluate(standins.small("image"), data, protocol=Protocol("finetune", recipe=recipe))
    assert found["n_train"] == found["n_test"] == 24 and found["value"] > 0.8


def test_folds_and_seeds(photos: Path) -> None:
    how = Protocol("finetune", seeds=(0, 1), recipe=Finetune(**(QUICK | {"epochs": 1.0})))
    kept: list[Any] = []
    found = evaluate(standins.small("image"), photos, protocol=how, division=Division(folds=2), keep=kept.append)
    assert len(found["per_seed"]) == 2 and found["folds"] == 2 and found["n_test"] == 24
    assert [type(one).__name__ for one in kept] == ["Tested"]  # of two folds there is no one classifier
    assert kept[0].scores_SML.shape == (2, 24, 2)


def test_what_cannot_be_read_is_left_out_and_listed(photos: Path, tmp_path: Path) -> None:
    """In train and in test; the figure is of the others."""
    data = tmp_path / "data"
    for part in ("train", "test"):
        shutil.copytree(photos, data / part)
        (next((data / part).iterdir()) / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    warned: list[str] = []

    def listen(kind: str, **fields: Any) -> None:
        warned.extend([fields["message"]] if kind == "warning" else [])

    how = Protocol("finetune", recipe=Finetune(**QUICK))
    with progress.listening(listen):
        found = evaluate(standins.small("image"), data, protocol=how)
    assert found["n_test"] == 24 and len(found["skipped"]) == 2 and sum("skipped" in one for one in warned) == 2
    assert found["value"] > 0.9  # the same pictures in train and test
    for file in data.rglob("*.*"):
        file.write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    with pytest.raises(DataError, match="nothing could be read"):
        evaluate(standins.small("image"), data, protocol=how)


def test_what_left_and_right_tell_apart_is_not_mirrored(tmp_path: Path) -> None:
    """Bright on the left or on the right: learned without mirroring, guessed with it."""
    rng = np.random.default_rng(0)
    for name, side in (("left", slice(0, 12)), ("right", slice(12, 24))):
        for part, clips in (("train", 16), ("test", 16)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(clips):
                pixels = rng.integers(0, 120, (24, 24, 3), dtype=np.uint8)
                pixels[:, side] += 120
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    told = {}
    for augment in (False, True):
        how = Protocol("finetune", recipe=Finetune(**(QUICK | {"augment": augment})))
        told[augment] = evaluate(standins.small("image"), tmp_path, protocol=how)["value"]
    assert told[False] > 0.9 and told[True] < 0.8


def test_a_loss_that_is_not_finite_stops(photos: Path) -> None:
    how = Protocol("finetune", recipe=Finetune(**(QUICK | {"lr": 1e30, "clip_norm": 1e30, "warmup": 0.0})))
    with pytest.raises(NumericalError, match="not finite at step"):
        evaluate(standins.small("image"), photos, protocol=how, division=Division(test_share=0.25))


def test_several_labels_a_clip_from_shards(tmp_path: Path) -> None:
    """Sounds of a release in shards, with the members read in any order: mAP, balanced classes."""
    layouts.audioset(tmp_path / "release", layouts.real("audio"), clips=12)
    api.shard(tmp_path / "release", task="as20k", out=tmp_path / "sets", workers=1)
    recipe = load_recipe("as2m", "", "audio", ["finetune.epochs=1", "finetune.batch_size=4"])
    assert recipe.balanced
    raw, sharded = (
        evaluate(standins.small("audio"), tmp_path / name, task="as20k", protocol=Protocol("finetune", recipe=recipe))
        for name in ("release", "sets")
    )
    assert raw["metric"] == "map" and raw["n_test"] == sharded["n_test"] > 0 and not raw["skipped"]


def test_kinetics_is_tested_over_five_clips_of_three_crops(tmp_path: Path) -> None:
    layouts.kinetics(tmp_path / "k400", layouts.real("video"), clips=4)
    recipe = load_recipe(None, "k400", "video", ["finetune.epochs=1", "finetune.batch_size=4"])
    found = evaluate(
        standins.small("video"), tmp_path / "k400", task="k400", protocol=Protocol("finetune", recipe=recipe)
    )
    assert found["views"] == [5, 3] and found["recipe"]["lr"] == 7.5e-4


# The classifier that is kept


@pytest.fixture(scope="module")
def tuned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the command, from an untrained model that was saved as an export is."""
    root = tmp_path_factory.mktemp("tuned")
    out = root / "classifier"
    words = ["eval", "--data", str(photos), "--checkpoint", "random", "--preset", "image-tiny", "--json", "--quiet"]
    words += ["--protocol", "finetune", "--test-share", "0.25", "--set", "finetune.epochs=3", "--out", str(out)]
    for one in ("finetune.lr=3e-3", "encoder.width=16", "encoder.depth=1", "encoder.heads=2"):
        words += ["--set", one]
    assert main(words) == 0
    return out


def test_a_kept_classifier_is_a_model_and_a_head(tuned: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"model.safetensors", "model.json", "head.safetensors", "results.json"} <= {p.name for p in tuned.iterdir()}
    model, head = read_classifier(tuned)
    about = json.loads((tuned / "model.json").read_text())
    result = json.loads((tuned / "results.json").read_text())[0]
    assert head.classes == result["classes"] and about["finetuned"]["value"] == result["value"]
    assert Pretrained(model).embed(next(photos.rglob("*.*"))).shape == (16,)
    assert main(["eval", "--data", str(photos), "--protocol", "head", "--checkpoint", str(tuned), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["n_test"] == 24 and judged["n_train"] == 0 and judged["protocol"] == "head"
    # The layer on top and the encoder below came back: what was tested then is told as it was.
    tested = api_tested(tuned, result)
    again = api_tested(tuned, json.loads((tuned / "results.json").read_text())[-1]) if judged.get("clips") else None
    assert again is None or tested
    assert main(["eval", "--data", str(photos), "--protocol", "knn", "--checkpoint", str(tuned), "--folds", "2"]) == 0


def api_tested(folder: Path, result: dict[str, Any]) -> Any:
    from bridle.checkpoint import read_tested

    return read_tested(folder, result)


def test_a_kept_classifier_says_what_it_said(tuned: Path, photos: Path) -> None:
    result = json.loads((tuned / "results.json").read_text())[0]
    tested = api_tested(tuned, result)
    model, head = read_classifier(tuned)
    sources = {source.path: source for source in find_sources([locate(photos)], Modality.IMAGE)[0]}
    again = score(model, head.classifier, [sources[path] for path in tested.paths], False, failures=Failures())
    torch.testing.assert_close(again, tested.scores_SML[0], atol=1e-5, rtol=0)


def test_a_head_for_other_classes_is_refused(tuned: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("photo one", "photo two"):
        shutil.copytree(next(path for path in sorted(photos.iterdir())), tmp_path / "data" / name)
    with pytest.raises(DataError, match=r"has the label 'photo .*', which is not one of the 2 classes"):
        api.evaluate(tmp_path / "data", protocol="head", checkpoint=tuned)
    layouts.imagenet(tmp_path / "in1k", layouts.real("image"), clips=4, val="kit")
    with pytest.raises(DataError, match="the head has 2 classes, the data have") as caught:
        api.evaluate(tmp_path / "in1k", task="in1k", protocol="head", checkpoint=tuned)
    assert "--protocol finetune" in caught.value.hint


def test_a_model_without_a_head_is_refused(tuned: Path, photos: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tuned, bare)
    about = json.loads((bare / "model.json").read_text())
    del about["classifier"], about["sha256_of_the_rest"]
    (bare / "model.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="was never fine-tuned"):
        api.evaluate(photos, protocol="head", checkpoint=bare)
    damaged = tmp_path / "damaged"
    shutil.copytree(tuned, damaged)
    (damaged / "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"head\.safetensors"):
        api.evaluate(photos, protocol="head", checkpoint=damaged)
    with pytest.raises(UsageError, match="untrained model has no head"):
        api.evaluate(photos, protocol="head", checkpoint="random", recipe=api.Recipe(preset="image-tiny"))


def test_a_multi_label_head_scores_each_class_by_itself(tmp_path: Path) -> None:
    model = standins.small("audio")
    classifier = Classifier(model.encoder, 3).eval()
    save_classifier(model, Head(classifier, ["a", "b", "c"], True), tmp_path / "head", {})
    _, head = read_classifier(tmp_path / "head")
    assert head.multi_label and head.classes == ["a", "b", "c"]
    file = next((MEDIA / "audio").rglob("*.wav"))
    said = score(model, head.classifier, [Source("c", file)], True, failures=Failures())
    assert said.shape == (1, 3) and 0.3 < float(said[0, 0]) < 0.7  # a sigmoid of nearly nothing, no share of a sum


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "codes", "--views", "1x3"], "--views with --protocol codes"),
        (["--protocol", "linear", "--pool", "segments", "--views", "1x3"], "--views with --protocol linear"),
        (["--protocol", "knn", "--views", "3"], "expected CLIPSxCROPS"),
        (["--protocol", "knn", "--views", "5x1"], "has no clips to choose from"),
        (["--protocol", "knn", "--finetune", "audio"], "is not fine-tuning"),
        (["--protocol", "linear", "--set", "finetune.lr=1"], "is not fine-tuning"),
        (["--protocol", "finetune", "--finetune", "nothing"], "no recipe or file 'nothing'"),
    ],
)
def test_options_without_effect_are_refused(
    tuned: Path, photos: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--data", str(photos), "--checkpoint", str(tuned), *words]) == 2
    assert message in capsys.readouterr().err


def test_an_output_that_holds_a_model_is_not_overwritten(
    tuned: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--data", str(photos), "--checkpoint", str(tuned), "--protocol", "finetune", "--out", str(tuned)]
    assert main(words) == 2
    assert "already exists and holds a model" in capsys.readouterr().err


def test_an_output_is_tried_before_hours_are_spent(tuned: Path, photos: Path, tmp_path: Path) -> None:
    """A run, whose weights a classifier would hide, and what cannot be written."""
    options: dict[str, Any] = {"protocol": "finetune", "checkpoint": tuned, "test_share": 0.25}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="is a run"):
        api.evaluate(photos, out=tmp_path / "run", overwrite=True, **options)
    (tmp_path / "file").write_text("")
    for protocol in ("finetune", "knn"):
        with pytest.raises(EnvironmentFault, match="file cannot be written"):
            api.evaluate(photos, out=tmp_path / "file", **(options | {"protocol": protocol}))


def test_a_result_is_not_put_into_the_run_of_another_model(tuned: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="is another run"):
        api.evaluate(photos, checkpoint=tuned, out=tmp_path / "other", folds=2)


def test_a_head_needs_nothing_to_train_on(tuned: Path, photos: Path, tmp_path: Path) -> None:
    """A table with lines for testing alone; what it names in vain and what it does not name is told."""
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    table = tmp_path / "split.csv"
    table.write_text("path,part\n" + "\n".join(f"{file},test" for file in (*files[::2], "gone.jpg")))
    said: list[str] = []

    def listen(kind: str, **fields: Any) -> None:
        said.extend([fields["message"]] if kind == "warning" else [])

    found = api.evaluate(photos, protocol="head", checkpoint=tuned, split_file=table, on_event=listen)
    assert (found["n_train"], found["n_test"]) == (0, 12)
    assert any("lines that match no readable file: 1, such as gone.jpg" in one for one in said)
    assert any("files that are not listed, left out: 12" in one for one in said)


def test_a_head_tells_whether_it_knows_the_clips(tuned: Path, photos: Path) -> None:
    said: list[str] = []

    def listen(kind: str, **fields: Any) -> None:
        said.extend([fields["message"]] if kind == "warning" else [])

    found = api.evaluate(photos, protocol="head", checkpoint=tuned, on_event=listen)
    assert any("18 of 24 clips have the names of clips the head was trained on" in one for one in said)
    kept = [one for one in json.loads((tuned / "results.json").read_text()) if one["protocol"] == "head"]
    assert found["n_train"] == 0 and kept


def test_a_head_of_several_classes_is_not_for_clips_of_one(tuned: Path, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.jsonl"
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    classes = sorted(path.name for path in photos.iterdir())
    rows = [{"path": file, "labels": classes if n % 2 else classes[:1]} for n, file in enumerate(files)]
    table.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="one class per clip, the data have any number"):
        api.evaluate(photos, protocol="head", checkpoint=tuned, labels=table)


def test_an_epoch_is_every_clip_once(photos: Path) -> None:
    """24 clips in batches of 20: three epochs are 72 clips, not 120."""
    model, seen = standins.small("image"), []
    sources = list(find_sources([locate(photos)], Modality.IMAGE)[0])
    truth = Truth(["a", "b"], torch.tensor([0] * 12 + [1] * 12))

    def listen(kind: str, **fields: Any) -> None:
        seen.extend([fields["total"]] if kind == "progress" else [])

    recipe = Finetune(**(QUICK | {"epochs": 3.0, "batch_size": 20}))
    with progress.listening(listen):
        tune_and_score(model, sources, truth, sources[:2], recipe, failures=Failures())
    assert seen == [4] * 4  # 3 * 24 / 20 is 3.6


# What is wrong with splits


def test_faults_of_splits() -> None:
    truth = Truth(["a", "b", "c"], torch.tensor([0, 1, 2, 0]))
    split = Split(np.array([0, 1]), np.array([2, 3]))
    assert faults([split], truth, None) == ["classes with test clips but no training clips: 1: c"]
    found = faults([split], truth, ["x", "y", "z", "x"])
    assert len(found) == 2 and "1 groups, such as 'x', are in both" in found[0]
    assert faults([Split(np.array([0, 1, 2]), np.array([3]))], truth, None) == []


def test_tune_and_score_marks_what_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    model = standins.small("image")
    sources = list(find_sources([locate(photos)], Modality.IMAGE)[0])
    truth = Truth(["a", "b"], torch.tensor([0] * 12 + [1] * 12))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    tested = [sources[0], Source("broken.png", broken), sources[-1]]
    failures = Failures()
    tuned = tune_and_score(model, sources, truth, tested, Finetune(**QUICK), failures=failures)
    assert tuned.scores_ML.isnan().any(1).tolist() == [False, True, False] and list(failures.reasons) == ["broken.png"]
