"""Clips -> patches: Kaldi's numbers, one cut for all modalities, padding that is masked and never learned."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torchaudio
import torchaudio.compliance.kaldi as kaldi
import torchvision.transforms.v2.functional as vision

from bridle.config.sections import AudioPatches, ImagePatches, VideoPatches
from bridle.patches import build_patcher
from bridle.patches.cut import coordinates, cut
from bridle.patches.image import resize
from bridle.patches.spectrogram import MelFilterbank, mel_banks
from bridle.rng import Draws
from bridle.schema import Clip, Modality, PatchBatch

STATISTICS = {"fbank_mean": -4.0, "fbank_std": 4.0, "pixel_mean": [0.5] * 3, "pixel_std": [0.25] * 3, "rate_hz": 10.0}


def audio(samples: int, seed: int = 0) -> Clip:
    wave = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return Clip("a", Modality.AUDIO, wave, 16000)


def video(frames: int, height: int = 48, width: int = 64) -> Clip:
    data = torch.arange(frames).view(-1, 1, 1, 1).expand(-1, 3, height, width).to(torch.uint8)
    return Clip("v", Modality.VIDEO, data, 10.0)


@pytest.mark.parametrize(("mels", "samples"), [(128, 16000), (64, 4321), (80, 400)])
def test_fbank_equals_kaldi(mels: int, samples: int) -> None:
    wave = torch.stack([audio(samples, seed).data for seed in range(3)])
    ours = MelFilterbank(16000, mels)(wave)
    for row, mine in zip(wave, ours, strict=True):
        kaldi = torchaudio.compliance.kaldi.fbank(
            row[None], htk_compat=True, sample_frequency=16000, use_energy=False, window_type="hanning",
            num_mel_bins=mels, dither=0.0, frame_shift=10,
        )  # fmt: skip
        assert mine.shape == kaldi.shape
        assert (mine - kaldi).abs().max() < 1e-3


def test_cut_by_hand() -> None:
    x = torch.arange(16).view(1, 1, 1, 4, 4)
    patches = cut(x, (1, 2, 2))
    assert patches[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert coordinates((1, 2, 2)).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    # Two channels, two times, two rows: a patch holds its channels one after the other, and time is slowest.
    x = torch.arange(8).view(1, 2, 2, 2, 1)
    assert cut(x, (1, 1, 1))[0].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert cut(x, (2, 1, 1))[0].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert coordinates((2, 2, 1)).tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]


def test_short_audio_is_masked_not_learned() -> None:
    patcher = build_patcher(AudioPatches(frames=64, mel_bins=64, patch_frames=8, patch_mels=16), STATISTICS)
    long, short = audio(16000), audio(16000 * 3 // 10)
    views = [patcher.prepare(clip, None) for clip in (long, short)]
    batch = patcher(views)
    assert batch.grid == (8, 4, 1)
    # 0.3 s are 28 frames: three whole patches of eight and a half full fourth one
    assert batch.valid_BN.view(2, 8, 4).all(2).sum(1).tolist() == [8, 4]
    assert not batch.dense
    assert batch.x_BNP[1][~batch.valid_BN[1]].abs().max() == 0
    # alone or beside a longer clip, a short clip gives the same patches
    alone = patcher(views[1:])
    assert alone.dense
    assert torch.allclose(alone.x_BNP[0], batch.x_BNP[1][batch.valid_BN[1]], atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 399, 400])
def test_audio_shorter_than_a_window_is_one_step(samples: int) -> None:
    patcher = build_patcher(AudioPatches(frames=64, mel_bins=64, patch_frames=8, normalise="clip"), STATISTICS)
    batch = patcher([patcher.prepare(audio(samples), torch.Generator())])
    assert batch.grid[0] == 1
    assert batch.x_BNP.isfinite().all()


def test_clip_normalisation_counts_real_frames_only() -> None:
    patcher = build_patcher(
        AudioPatches(frames=64, mel_bins=64, patch_frames=8, patch_mels=16, normalise="clip"), STATISTICS
    )
    views = [patcher.prepare(clip, None) for clip in (audio(16000), audio(patcher.mel.samples(16)))]
    batch = patcher(views)
    for row in range(2):
        real = batch.x_BNP[row][batch.valid_BN[row]]
        assert real.mean().abs() < 1e-3
        assert real.var(unbiased=False).item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("normalise", ["clip", "corpus"])
def test_the_company_of_a_clip_does_not_change_its_patches(normalise: str) -> None:
    """Lengths that end anywhere in a patch, beside a long clip and alone; also where networks compute in bfloat16."""
    config = AudioPatches(frames=64, mel_bins=64, patch_frames=16, normalise=normalise)  # type: ignore[arg-type]
    patcher = build_patcher(config, STATISTICS)
    views = [patcher.prepare(audio(patcher.mel.samples(frames)), None) for frames in (64, 5, 20, 23, 24, 31, 39)]
    together = patcher(views)
    with torch.autocast("cpu", torch.bfloat16):
        alone = [patcher([view]) for view in views]
    for row, batch in enumerate(alone):
        assert batch.x_BNP.dtype is torch.float32 and batch.lengths[0] == together.lengths[row]
        assert torch.equal(together.rows(together.x_BNP)[_rows_of(together, row)], batch.rows(batch.x_BNP))


def _rows_of(batch: PatchBatch, row: int) -> slice:
    begin = sum(batch.lengths[:row])
    return slice(begin, begin + batch.lengths[row])


def test_loudness_does_not_matter_after_clip_normalisation() -> None:
    patcher = build_patcher(AudioPatches(frames=64, mel_bins=64, patch_frames=8, normalise="clip"), STATISTICS)
    clip = audio(8000)
    quiet = Clip("q", Modality.AUDIO, clip.data * 0.1, 16000)
    batch = patcher([patcher.prepare(one, None) for one in (clip, quiet)])
    assert (batch.x_BNP[0] - batch.x_BNP[1]).abs().max() < 0.02  # what int16 takes from the quiet one


def test_windows_cover_long_audio_without_gaps() -> None:
    patcher = build_patcher(AudioPatches(frames=64, mel_bins=64, patch_frames=8, patch_mels=16), STATISTICS)
    clip = audio(16000 * 5)
    windows = patcher.windows(clip)
    starts = [start for _, start in windows]
    assert starts == pytest.approx([0.64 * i for i in range(len(starts))])
    whole = patcher.mel(clip.data[None])[0]
    parts = torch.cat([patcher.mel(view.float()[None] / 32767)[0][:64] for view, _ in windows])
    assert abs(len(parts) - len(whole)) < 8
    n = min(len(parts), len(whole))
    assert (parts[:n] - whole[:n]).abs().median() < 0.02


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 200), (1, 1), (300, 40)])
def test_images_of_any_size_become_one_grid(height: int, width: int) -> None:
    patcher = build_patcher(ImagePatches(size=32, patch=4), STATISTICS)
    clip = Clip("i", Modality.IMAGE, torch.randint(0, 255, (3, height, width), dtype=torch.uint8))
    views = [patcher.prepare(clip, rng) for rng in (None, torch.Generator().manual_seed(1))]
    batch = patcher(views, Draws(0, 0, range(len(views))))
    assert batch.grid == (1, 8, 8)
    assert batch.x_BNP.shape == (2, 64, 48)
    assert batch.dense


def test_pixels_are_normalised_by_the_corpus() -> None:
    patcher = build_patcher(ImagePatches(size=4, patch=4), STATISTICS)
    white = Clip("w", Modality.IMAGE, torch.full((3, 4, 4), 255, dtype=torch.uint8))
    assert patcher([patcher.prepare(white, None)]).x_BNP.unique().tolist() == [2.0]  # (1 - .5) / .25


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (8, 4), (16, 8), (100, 8)])
def test_videos_with_few_frames_are_padded(frames: int, steps: int) -> None:
    patcher = build_patcher(VideoPatches(frames=16, stride=4, size=32, tubelet=2, patch=16), STATISTICS)
    batch = patcher([patcher.prepare(video(frames), None), patcher.prepare(video(100), None)])
    assert batch.grid == (8, 2, 2)
    assert batch.valid_BN[0].sum() == steps * 4


def test_video_frames_follow_the_stride() -> None:
    patcher = build_patcher(VideoPatches(frames=4, stride=3, size=16, tubelet=1, patch=16), STATISTICS)
    view = patcher.prepare(video(40, 16, 16), torch.Generator().manual_seed(0))
    numbers = view[:, 0, 0, 0].int()
    assert numbers.diff().tolist() == [3, 3, 3]
    assert [start for _, start in patcher.windows(video(24, 16, 16))] == pytest.approx([0.0, 1.2])


def test_the_same_generator_gives_the_same_view() -> None:
    for patcher, clip in (
        (build_patcher(AudioPatches(frames=16), STATISTICS), audio(16000)),
        (build_patcher(ImagePatches(size=32), STATISTICS), Clip("i", Modality.IMAGE, video(1).data[0])),
        (build_patcher(VideoPatches(size=32), STATISTICS), video(80)),
    ):
        first, second = (patcher.prepare(clip, torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [(3, 40, 30), (3, 640, 480), (5, 3, 100, 100), (2, 4, 3, 33, 21)])
def test_resizing_is_torchvisions_to_the_bit(shape: tuple[int, ...]) -> None:
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    channels_last = x.movedim(-3, -1).contiguous().movedim(-1, -3)
    integers = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")  # elsewhere torchvision rounds floats
    for view in (x, x[..., 3:-2, 5:], channels_last):
        for size in (16, 32, 224):
            ours, theirs = resize(view, size), vision.resize(view, [size, size], antialias=True)
            assert torch.equal(ours, theirs) if integers else (ours.int() - theirs.int()).abs().max() <= 1


def test_resizing_gives_the_same_pixels_on_every_cpu() -> None:
    x = torch.arange(3 * 61 * 47).mul(2654435761).div(4096, rounding_mode="floor").remainder(256).view(3, 61, 47)
    digest = hashlib.sha256(resize(x.to(torch.uint8), 32).contiguous().numpy().tobytes()).hexdigest()
    assert digest == "8c74135618176d3cfd043740d08492aa625ea59a056628049bbec20b04afc5c3"


@pytest.mark.parametrize(("bins", "fft", "rate_hz", "high_hz"), [(128, 512, 16000, 0.0), (80, 1024, 32000, 7600.0)])
def test_mel_banks_are_torchaudios_to_the_bit(bins: int, fft: int, rate_hz: int, high_hz: float) -> None:
    theirs, _ = kaldi.get_mel_banks(bins, fft, float(rate_hz), 20.0, high_hz, 100.0, -500.0, 1.0)
    assert torch.equal(mel_banks(bins, fft, rate_hz, high_hz), theirs)
