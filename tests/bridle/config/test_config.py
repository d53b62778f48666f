"""Presets load, later sources win, and every mistake is named with its source in one error."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridle import config
from bridle.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, "utf-8")
    return path


def test_presets_are_three_modalities_in_four_sizes_and_the_papers() -> None:
    kinds, sizes = ("audio", "image", "video"), ("tiny", "small", "base", "large", "paper")
    assert config.presets() == sorted(f"{kind}-{size}" for kind in kinds for size in sizes)


@pytest.mark.parametrize("name", config.presets())
def test_preset_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    loaded = config.load(name)
    assert loaded.patches.modality == name.split("-")[0]
    assert config.load(file=write(tmp_path, config.dump(loaded))) == loaded


@pytest.mark.parametrize(
    ("name", "tokens", "batch", "lr", "ratio"),
    [
        ("audio-paper", 512, 1024, 5e-4, 0.8),
        ("image-paper", 196, 1024, 5e-4, 0.75),
        ("video-paper", 1568, 2048, 1.2e-3, 0.9),
    ],
)
def test_paper_is_the_published_recipe(name: str, tokens: int, batch: int, lr: float, ratio: float) -> None:
    paper = config.load(name)
    patches = paper.patches
    if patches.modality == "audio":
        count = (patches.frames // patches.patch_frames) * (patches.mel_bins // patches.patch_mels)
    else:
        frames = patches.frames // patches.tubelet if patches.modality == "video" else 1
        count = frames * (patches.size // patches.patch) ** 2
    assert count == tokens
    assert (paper.encoder.width, paper.encoder.depth, paper.encoder.heads) == (768, 12, 12)
    assert (paper.optim.batch_size, paper.optim.lr, paper.mask.ratio) == (batch, lr, ratio)
    assert (paper.quantizer.levels, paper.quantizer.codes, paper.quantizer.width) == (4, 256, 256)


@pytest.mark.parametrize("modality", ["audio", "image", "video"])
def test_larger_presets_change_the_encoder_alone_and_small_ones_what_a_step_costs(modality: str) -> None:
    base, large, small = (config.load(f"{modality}-{size}") for size in ("base", "large", "small"))
    assert (large.encoder.width, large.encoder.depth, large.encoder.heads) == (1024, 24, 16)
    assert large.model_copy(update={"encoder": base.encoder}) == base
    assert (small.encoder.width, small.encoder.depth, small.encoder.heads) == (384, 12, 6)
    assert small.mask.per_clip * small.optim.batch_size == base.mask.per_clip * base.optim.batch_size  # masked views
    for same in ("patches", "quantizer", "schedule", "train", "data"):
        assert getattr(small, same) == getattr(base, same)


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, "optim: {lr: 2e-3, batch_size: 7, beta1: 0.5}\n")
    loaded = config.load("audio-tiny", file, ["optim.lr=3e-3", "optim.batch_size=8"], {"optim.lr": 4e-3})
    assert (loaded.optim.lr, loaded.optim.batch_size, loaded.optim.beta1) == (4e-3, 8, 0.5)


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    assert config.load("audio-tiny", flags={"train.seed": None}) == config.load("audio-tiny")


def test_file_extends_a_preset(tmp_path: Path) -> None:
    file = write(tmp_path, "extends: image-tiny\nmask:\n  # ratio: 0.5\noptim:\n  lr: 1e-5\n")
    assert config.load(file=file) == config.load("image-tiny", sets=["optim.lr=0.00001"])


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1E+0", 1.0), (".5e0", 0.5), ("5", 5.0), ("1.e-2", 0.01)])
def test_numbers_with_an_exponent_are_numbers(text: str, value: float) -> None:
    assert config.load("audio-tiny", sets=[f"optim.lr={text}"]).optim.lr == value


def test_null_and_sections_can_be_set() -> None:
    loaded = config.load("audio-tiny", sets=["tokenizer.depth=null", "mask={ratio: 0.6, shape: block}"])
    assert loaded.tokenizer.depth is None
    assert (loaded.mask.ratio, loaded.mask.shape) == (0.6, "block")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("maks.ratio=0.5", ["maks.ratio", "--set", "unknown", "'mask.ratio'"]),
        ("lr=0.5", ["'optim.lr'"]),
        ("optim.lrr=0.5", ["'optim.lr'"]),
        ("mask=0.5", ["mask", "section", "mask.shape"]),
        ("mask.ratio.x=0.5", ["'mask.ratio'"]),
        ("mask.ratio=most", ["mask.ratio", "--set", "a number", "'most'"]),
        ("mask.ratio=1.5", ["mask.ratio", "less than 1", "1.5"]),
        ("mask.shape=cube", ["'random'", "'tube'", "'block'", "'cube'"]),
        ("encoder.depth=true", ["encoder.depth", "an integer", "true"]),
        ("encoder.depth=2.5", ["encoder.depth", "an integer", "2.5"]),
        ("encoder.depth='2'", ["encoder.depth", "an integer", "text"]),
        ("patches.flip=1", ["patches.flip", "true or false", "1"]),
        ("encoder.heads=7", ["encoder", "not a multiple of heads 7"]),
        ("patches.size=33", ["patches", "--set", "not a multiple of patch"]),
        ("patches.roll=true", ["patches.roll", "unknown"]),
        ("patches.modality=audio", ["patches.modality", "image-tiny"]),
        ("mask.ratio", ["mask.ratio", "section.key=value"]),
        ("mask.ratio=", ["mask.ratio", "missing"]),
        ("mask.ratio=[", ["mask.ratio", "YAML"]),
        ("mask={ratio: 0.5, ratio: 0.6}", ["mask.ratio", "--set", "given twice"]),
        ("train.seed=4294967296", ["train.seed", "4294967295"]),
        ("data.mix=null", ["data.mix", "expected names and numbers", "null"]),
        ("nonsense={}", ["nonsense (--set): unknown key"]),
        ("optim.lr={}", ["optim.lr", "a number, got {}"]),
        ('optim={"": {lr: 1}}', ["optim (--set): has an empty key"]),
        (f"optim.lr={[1] * 1000}", ["optim.lr", "got [1, 1, ", "... (3,000 characters)"]),
        (f"optim.batch_size=1{'0' * 4000}", ["optim.batch_size", "(4,001 characters)"]),
        (f"data.workers=0x{'f' * 100}", ["data.workers", "less than or equal to"]),
        ("encoder.width=9007199254740992", ["encoder.width", "less than or equal to 1048576"]),
        ("encoder.mlp_ratio=1e308", ["encoder (--set)", "mlp_ratio 1e+308"]),
        ("encoder.mlp_ratio=1e-300", ["encoder (--set)", "mlp_ratio 1e-300"]),
        ("schedule.cold=1e300", ["schedule.cold", "1e+300"]),
        ("schedule.turns=1001", ["schedule.turns", "1000"]),
    ],
)
def test_each_mistake_says_key_source_and_remedy(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load("image-tiny", sets=[text])
    for part in said:
        assert part in caught.value.message
    assert "bridle config show --preset image-tiny" in caught.value.hint


def test_all_mistakes_come_at_once_with_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path, "optim:\n  lr: fast\n  bta1: 0.9\n")
    with pytest.raises(ConfigError) as caught:
        config.load("audio-tiny", file, ["mask.ratoi=1", "train.seed=-1"], {"data.workers": "two"})
    message = caught.value.message
    assert message.startswith("5 mistakes")
    for part in (f"optim.lr ({file}:2)", f"optim.bta1 ({file}:3)", "mask.ratoi (--set)", "train.seed (--set)"):
        assert part in message
    assert "data.workers (--workers)" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\n", ":2: not valid YAML"),
        ("- 1\n- 2\n", "expected sections"),
        ("just text\n", "expected sections"),
        ("extends: 3\n", "expected the name of a preset"),
        ("extends: audio-tny\n", "did you mean 'audio-tiny'"),
        ("", "names no modality"),
        ("optim: {lr: 0.1}\n", "names no modality"),
        ("patches: {modality: film}\n", "audio, image, video"),
        ("patches: {modality: [audio]}\n", "audio, image, video"),
    ],
)
def test_unusable_file(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        config.load(file=write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: image-tny\n", "extends (FILE:1): there is no preset 'image-tny'; did you mean 'image-tiny'"),
        ("extends: qqq\n", "extends (FILE:1): there is no preset 'qqq'; known: audio-base"),
        ("extends: [image-tiny]\n", "extends (FILE:1): expected the name of a preset"),
        ("extends: image-tiny\npatches: {modality: film}\n", "patches.modality (FILE:2): is 'film'"),
        ("patches: {modality: film, x: 1}\n", "patches.modality (FILE:1): expected one of audio, image, video"),
        (
            "patches: {modality: {film: 1}}\n",
            "patches.modality (FILE:1): expected one of audio, image, video, got {'film'",
        ),
        ("", "patches.modality (missing): the configuration names no modality"),
        ("extends: image-tiny\noptm: {}\n", "optm (FILE:2): unknown key; did you mean 'optim.lr'"),
        ("extends: image-tiny\nmask: !mine {shape: tube}\n", "mask (FILE:2): has the tag !mine"),
        ("extends: image-tiny\nmask: {<<: {shape: tube}}\n", "<< (FILE:2): merge keys are not supported"),
        ("extends: image-tiny\nmask.ratio: 0.5\nmask: {ratio: 0.6}\n", "mask.ratio (FILE:2 and FILE:3): given"),
        ("extends: image-tiny\nmask: {ratio: 0.5}\nmask.ratio: 0.6\n", "mask.ratio (FILE:2 and FILE:3): given"),
    ],
)
def test_no_mistake_hides_another(text: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, text + "optim:\n  lr: fast\n  bta1: 1\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file=file)
    lines, line = caught.value.message.splitlines(), text.count("\n") + 2
    assert lines[0] == "3 mistakes in the configuration:"
    assert sum(said.replace("FILE", str(file)) in one for one in lines) == 1
    assert any(f"optim.lr ({file}:{line}): expected a number" in one for one in lines)
    assert any(f"optim.bta1 ({file}:{line + 1}): unknown key" in one for one in lines)


def test_names_of_sets_may_have_dots_and_come_after_null(tmp_path: Path) -> None:
    file = write(tmp_path, "extends: audio-tiny\ndata: {mix: {v1.0: 3.0, v1_0: 1.0}}\n")
    assert config.load(file=file).data.mix == {"v1.0": 3.0, "v1_0": 1.0}
    assert config.load("audio-tiny", sets=["data.mix=null", "data.mix.a=2"]).data.mix == {"a": 2.0}


def test_empty_sections_change_nothing_and_an_empty_mix_all(tmp_path: Path) -> None:
    assert config.load("audio-tiny", write(tmp_path, "optim: {}\n"), ["mask={}"]) == config.load("audio-tiny")
    file = write(tmp_path, "extends: audio-tiny\ndata: {mix: {a: 1.0}}\n")
    assert config.load(file=file, sets=["data.mix={}"]).data.mix == {}
    assert config.load(file=file, sets=["data.mix={}", "data.mix.b=1", "data.mix={}"]).data.mix == {}


def test_missing_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        config.load("audio-tiny", tmp_path / "nowhere.yaml")
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load("audio-tiny", tmp_path / "noise.yaml")


def test_two_different_presets(tmp_path: Path) -> None:
    file = write(tmp_path, "extends: audio-tiny\n")
    assert config.load("audio-tiny", file) == config.load("audio-tiny")
    with pytest.raises(ConfigError, match=r"extends preset 'audio-tiny', but --preset asks for 'audio-base'"):
        config.load("audio-base", file)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no preset 'vidoe-tiny'; did you mean 'video-tiny'"):
        config.load("vidoe-tiny")


def test_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="laod"):
        config.laod  # noqa: B018


SMALL_IMAGES = {"short_side": [32.0, 32.0, 32.0]}


def test_preset_adapts_to_the_corpus_but_not_what_was_set_by_hand(tmp_path: Path) -> None:
    adapted = config.load("image-paper", extent=SMALL_IMAGES).patches
    assert (adapted.size, adapted.patch) == (32, 4)
    for kept in (
        config.load("image-paper", sets=["patches.size=224"], extent=SMALL_IMAGES),
        config.load("image-paper", write(tmp_path, "patches: {patch: 16}"), extent=SMALL_IMAGES),
    ):
        assert (kept.patches.size, kept.patches.patch) == (224, 16)  # they only fit each other
