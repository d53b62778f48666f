"""Preprocessing with NumPy alone: the patches are those of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from exports import MEDIA, PICTURES, VIDEOS, as_array, clip_of, preprocessing
from PIL import Image
from standins import PATCHES, SMALL, STATISTICS, small

from bridle.config.sections import Config
from bridle.export.standalone import preprocess
from bridle.media import decode, pixels, probe
from bridle.model import Bridle


@pytest.mark.parametrize(
    ("modality", "settings"),
    [
        ("audio", {}),
        ("audio", {"normalise": "clip"}),
        ("audio", {"mel_bins": 64, "frames": 1024, "high_hz": 4000.0}),
        ("image", {}),
        ("image", {"size": 96, "patch": 8}),
        ("video", {"motion_gain": 3.0}),
        ("video", {"frames": 16, "stride": 4, "size": 48}),
    ],
)
def test_preprocessing_without_pytorch_makes_the_same_patches(
    tmp_path: Path, modality: str, settings: dict[str, Any]
) -> None:
    config = Config.model_validate({"patches": {**PATCHES[modality], **settings}, **SMALL})
    model = Bridle(config, STATISTICS)
    folder = preprocessing(model, tmp_path)
    files = sorted(path for path in (MEDIA / modality).rglob("*") if path.is_file())[::13]
    for clip in map(clip_of, [modality] * len(files), files):
        if modality == "audio":  # several windows, of which the last is short
            clip.data = clip.data.repeat(4)
        batch = model.patcher([view for view, _ in model.patcher.windows(clip)])
        found = preprocess.inputs(as_array(clip), folder)
        assert [value.dtype for value in found.values()] == [np.float32, np.int64, bool]
        assert found["patches"].shape == tuple(batch.x_BNP.shape)
        assert np.abs(found["patches"] - batch.x_BNP.numpy()).max() < 1e-4
        assert np.array_equal(found["coords"], batch.coords_BN3.numpy())
        assert np.array_equal(found["valid"], batch.valid_BN.numpy())


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_mode_are_opened_as_the_library_does(tmp_path: Path, name: str) -> None:
    model, file = small("image"), tmp_path / name
    PICTURES[name](file)
    clip = decode(file, probe(file, name))
    wanted = model.patcher([view for view, _ in model.patcher.windows(clip)])
    folder = preprocessing(model, tmp_path)
    for opened in (file, Image.open(file)):
        assert np.array_equal(preprocess.inputs(pixels.picture(opened, None), folder)["patches"], wanted.x_BNP.numpy())
    with Image.open(file) as plain:
        without = preprocess.inputs(np.asarray(plain.convert("RGB")), folder)["patches"]
    assert np.abs(without - wanted.x_BNP.numpy()).max() > 0.1


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_are_opened_as_the_library_does(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    VIDEOS[name](file)
    clip = decode(file, probe(file, name))
    assert np.array_equal(pixels.video(file), as_array(clip))
    with av.open(file) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert plain.shape != as_array(clip).shape or not np.array_equal(plain, as_array(clip))


@pytest.mark.parametrize(
    ("modality", "media", "said"),
    [
        ("audio", np.zeros(900, dtype=np.int16), "float32 .samples,.; got int16"),
        ("audio", np.zeros((900, 2), dtype=np.float32), r"got float32 \(900, 2\)"),
        ("image", np.zeros((20, 20, 3), dtype=np.float32), "uint8 .height, width, 3.; got float32"),
        ("video", np.zeros((20, 20, 3), dtype=np.uint8), "uint8 .time, height, width, 3."),
        ("video", np.zeros((0, 20, 20, 3), dtype=np.uint8), "uint8 .time, height, width, 3."),
    ],
)
def test_preprocessing_says_what_it_wants(tmp_path: Path, modality: str, media: Any, said: str) -> None:
    folder = preprocessing(small(modality), tmp_path)
    with pytest.raises(ValueError, match=said):
        preprocess.inputs(media, folder)


def test_short_clips_have_one_padded_patch(tmp_path: Path) -> None:
    model = small("audio")
    folder = preprocessing(model, tmp_path)
    for samples in (0, 1, 399, 400, 1000):
        clip = clip_of("audio")
        clip.data = clip.data[2000 : 2000 + samples]
        batch = model.patcher([view for view, _ in model.patcher.windows(clip)])
        found = preprocess.inputs(as_array(clip), folder)
        assert np.abs(found["patches"] - batch.x_BNP.numpy()).max() < 1e-4
