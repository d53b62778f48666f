"""What training is given, by hand: normalised patches, augmentation, corpus statistics, crops that follow the seed."""

from __future__ import annotations

import math

import pytest
import torch
from standins import PATCHES, STATISTICS

from bridle.config.sections import AudioPatches, ImagePatches, VideoPatches
from bridle.patches import build_patcher
from bridle.patches.statistics import clip_moments, summarise
from bridle.rng import Draws
from bridle.schema import Clip, Modality
from bridle.stream.order import Request, sample_seed


def tone(seconds: float, rate_hz: int = 16000, hz: float = 1000.0) -> Clip:
    wave_S = 0.5 * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate_hz)) / rate_hz)
    return Clip("tone", Modality.AUDIO, wave_S, rate_hz)


def colour(*rgb: int) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 16).contiguous()


# --- patches -----------------------------------------------------------------------------------------------------


def test_spectrograms_are_normalised_by_twice_the_deviation_of_the_corpus() -> None:
    """(log-mel + 5) / (2 x 4), as published for audio; each patch is a rectangle of frames and bands, bands fastest."""
    patcher = build_patcher(AudioPatches.model_validate(PATCHES["audio"]), STATISTICS)
    view = patcher.prepare(tone(1.0), None)
    batch = patcher([view])
    mel_TM = patcher.mel(view[None].float() / 32767)[0]
    expected_TM = (mel_TM[:64] + 5) / 8
    assert batch.grid == (4, 2, 1)
    for place, (step, band, _) in enumerate(batch.coords_BN3[0].tolist()):
        wanted = expected_TM[16 * step : 16 * step + 16, 16 * band : 16 * band + 16].flatten()
        assert torch.allclose(batch.x_BNP[0, place], wanted, atol=1e-4)


def test_a_tone_is_in_its_band_and_a_click_in_its_frame() -> None:
    """32 mel bands up to 8 kHz: 1 kHz is in band 10; a sample at .305 s is in frames 29 and 30."""
    patcher = build_patcher(AudioPatches.model_validate(PATCHES["audio"]), STATISTICS)
    mel_TM = patcher.mel(tone(0.5).data[None])[0]
    low, high = 1127 * math.log1p(20 / 700), 1127 * math.log1p(8000 / 700)
    band = (1127 * math.log1p(1000 / 700) - low) / (high - low) * 33 - 1
    assert mel_TM.mean(0).argmax().item() == round(band) == 10
    click_S = torch.zeros(1, 8000)
    click_S[0, 4880] = 1.0  # frame t spans samples 160 t to 160 t + 399
    heard = (patcher.mel(click_S)[0].amax(1) > -15).nonzero()[:, 0].tolist()
    assert heard == [29, 30]
    assert patcher.mel.frames(400) == 1 and patcher.mel.frames(559) == 1 and patcher.mel.frames(560) == 2


def test_gain_is_drawn_evenly_within_its_decibels() -> None:
    config = AudioPatches.model_validate({**PATCHES["audio"], "gain_db": 6.0, "mel_bins": 16})
    patcher = build_patcher(config, {**STATISTICS, "fbank_mean": 0.0, "fbank_std": 0.5})
    view = patcher.prepare(tone(0.7), None)
    loud, plain = patcher([view] * 400, Draws(0, 0, range(400))), patcher([view])
    loudest = plain.x_BNP.argmax()
    gain_db = (loud.x_BNP - plain.x_BNP).flatten(1)[:, loudest] * 10 / math.log(10)  # of the log of a power
    assert gain_db.min() > -6.1 and gain_db.max() < 6.1
    assert gain_db.min() < -5.5 and gain_db.max() > 5.5 and abs(gain_db.mean()) < 0.8


def test_half_of_the_images_are_mirrored_and_rows_stay() -> None:
    patcher = build_patcher(ImagePatches.model_validate({**PATCHES["image"], "crop_scale": 1.0}), STATISTICS)
    ramp = (
        torch.arange(16, dtype=torch.uint8).expand(3, 16, 16) + 10 * torch.arange(3, dtype=torch.uint8)[:, None, None]
    )
    batch, plain = patcher([ramp] * 400, Draws(0, 0, range(400))), patcher([ramp, ramp.flip(-1)])
    same, mirrored = ((batch.x_BNP == one).all((1, 2)) for one in plain.x_BNP)
    assert (same | mirrored).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_patches_of_a_colour_hold_its_channels_one_after_the_other() -> None:
    """255 is (1 - .5) / .25 = 2, 0 is -2; the mean of each channel is its own."""
    statistics = {**STATISTICS, "pixel_mean": [0.5, 0.0, 1.0], "pixel_std": [0.25, 0.5, 1.0]}
    patcher = build_patcher(ImagePatches.model_validate(PATCHES["image"]), statistics)
    batch = patcher([colour(255, 51, 0)])
    assert batch.x_BNP.shape == (1, 16, 48)
    assert batch.x_BNP[0].unflatten(-1, (3, 16)).mean((0, 2)).tolist() == pytest.approx([2.0, 0.4, -1.0], abs=1e-5)


def test_random_crops_have_the_areas_and_sides_that_are_asked_for() -> None:
    """Pixels say where they come from: a fifth to all of the area, sides 3:4 to 4:3, anywhere in the image."""
    side = 250
    place = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([place.expand(side, side), place[:, None].expand(side, side), torch.zeros(side, side)]).byte()
    patcher = build_patcher(ImagePatches(size=64, patch=16, crop_scale=0.2), STATISTICS)
    clip, rng = Clip("i", Modality.IMAGE, image), torch.Generator().manual_seed(0)
    views = torch.stack([patcher.prepare(clip, rng) for _ in range(300)])[:, :2].flatten(2).float()
    first, last = views.amin(-1), views.amax(-1)  # (column, row); resizing takes half a pixel of 64 at either end
    width, height = ((last - first) * 64 / 63 / side).unbind(1)
    area, aspect = width * height, width / height
    assert area.min() > 0.17 and area.min() < 0.25 and area.max() > 0.9
    assert area.mean().item() == pytest.approx(0.6, abs=0.05)  # evenly drawn; the widest ones are cut to the image
    assert aspect.min() > 0.71 and aspect.max() < 1.4 and aspect.min() < 0.8 and aspect.max() > 1.25
    small = area < 0.4
    assert (first[small].amin(0) < 20).all() and (last[small].amax(0) > 230).all()


def test_a_window_of_sound_is_any_part_of_it_wrapped_around() -> None:
    """Every sample of the window once, in order up to one seam; windows begin anywhere, the middle without a draw."""
    patcher = build_patcher(AudioPatches.model_validate(PATCHES["audio"]), STATISTICS)
    length = patcher.samples  # of 20000
    clip, rng = Clip("a", Modality.AUDIO, torch.arange(20000) / 32767, 16000), torch.Generator().manual_seed(0)
    firsts, seams = [], []
    for _ in range(100):
        view = patcher.prepare(clip, rng)
        steps = view.int().diff()
        assert len(view) == length and int((steps != 1).sum()) <= 1
        firsts.append(int(view.min()))
        seams.append(int(view[0]) - firsts[-1])
        assert int(view.max()) == firsts[-1] + length - 1
    spare = 20000 - length
    assert min(firsts) < 0.05 * spare and max(firsts) > 0.95 * spare
    assert min(seams) < 0.05 * length and max(seams) > 0.95 * length
    assert patcher.prepare(clip, None).tolist() == list(range(spare // 2, spare // 2 + length))


def test_motion_is_enlarged_around_the_mean_of_each_tubelet() -> None:
    """Frames of 0, 51, 102, 255 (of 255) in tubelets of two: (0, .2) and (.4, 1) become (-.1, .3) and (.1, 1.3)."""
    config = VideoPatches.model_validate({**PATCHES["video"], "motion_gain": 2.0})
    patcher = build_patcher(config, {**STATISTICS, "pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3})
    batch = patcher([torch.stack([colour(*[level] * 3) for level in (0, 51, 102, 255)])])
    first, second = batch.x_BNP[0, 0], batch.x_BNP[0, 4]  # patch (time, row, column) (0, 0, 0) and (1, 0, 0)
    assert batch.coords_BN3[0, 4].tolist() == [1, 0, 0]
    assert sorted({round(value, 4) for value in first.tolist()}) == [-0.1, 0.3]
    assert sorted({round(value, 4) for value in second.tolist()}) == [0.1, 1.3]


# --- statistics and seeds ----------------------------------------------------------------------------------------


def test_pixel_statistics_by_hand() -> None:
    """Clips count alike whatever their size: values 0 and 1 in the one, .2 throughout in the other."""
    halves = torch.cat([torch.zeros(3, 4, 2), torch.full((3, 4, 2), 255)], dim=2).to(torch.uint8)
    plain = torch.full((3, 20, 30), 51, dtype=torch.uint8)
    clips = [Clip("", Modality.IMAGE, data) for data in (halves, plain)]
    found = summarise(map(clip_moments, clips), Modality.IMAGE)
    mean = (0.5 + 0.2) / 2
    deviation = math.sqrt((0.5 + 0.04) / 2 - mean**2)
    assert found["pixel_mean"] == pytest.approx([mean] * 3, abs=1e-6)
    assert found["pixel_std"] == pytest.approx([deviation] * 3, abs=1e-6)


def test_a_crop_follows_from_seed_epoch_and_sample() -> None:
    seeds = {sample_seed(seed, Request(epoch, index)) for seed in range(5) for epoch in range(5) for index in range(20)}
    assert len(seeds) == 500 and all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(3, Request(1, 7)) == sample_seed(3, Request(1, 7))
