"""Decoders on media that the tests make themselves, so that the right answer is known."""

from __future__ import annotations

import io
import math
import struct
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from bridle import media
from bridle.errors import MediaError
from bridle.media import audio, video
from bridle.patches.statistics import corpus_statistics
from bridle.schema import Clip, Modality


def tone(hz: float = 440.0, seconds: float = 1.0, rate_hz: int = 16000) -> np.ndarray:
    return (0.5 * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def sound_file(wave: np.ndarray, rate_hz: int, **options: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, **options)
    return file.getvalue()


def loudest_hz(clip: Clip) -> float:
    spectrum = torch.fft.rfft(clip.data * torch.hann_window(len(clip.data))).abs()
    return spectrum.argmax().item() * clip.rate_hz / len(clip.data)


def picture_file(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decode_picture(content: bytes) -> torch.Tensor:
    return media.decode(content, media.check(content, "x")).data


def film(frames: int = 20, fps: int = 10, codec: str = "mpeg4", kind: str = "mp4", width: int = 64) -> bytes:
    """Frame t is one shade of grey, 10 t."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, 32, "yuv420p", 1_000_000
        for t in range(frames):
            image = np.full((32, width, 3), 10 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def ffmpeg_sound(codec: str, kind: str, rate_hz: int = 16000) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        samples = (tone(rate_hz=rate_hz) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(stream.format, "mono", rate_hz, stream.frame_size or None)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ({"format": "WAV", "subtype": "PCM_24"}, "wav"),
        ({"format": "WAV", "subtype": "FLOAT"}, "wav"),
        ({"format": "FLAC"}, "flac"),
        ({"format": "OGG", "subtype": "VORBIS"}, "ogg"),
        ({"format": "MP3"}, "mp3"),
        ({"format": "AIFF"}, "aiff"),
    ],
)
@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_sound_becomes_16_khz_mono(options: dict[str, str], suffix: str, rate_hz: int) -> None:
    content = sound_file(np.stack([tone(rate_hz=rate_hz)] * 2, axis=1), rate_hz, **options)
    info = media.check(content, "named.mp4")
    assert (info.modality, info.suffix, info.channels, info.rate_hz) == (Modality.AUDIO, suffix, 2, rate_hz)
    clip = media.decode(content, info)
    assert clip.data.dtype == torch.float32 and clip.rate_hz == 16000
    assert len(clip.data) == pytest.approx(16000, abs=1500)  # MP3 pads
    assert loudest_hz(clip) == pytest.approx(440, abs=2)


@pytest.mark.parametrize(("codec", "kind", "suffix"), [("aac", "ipod", "m4a"), ("g722", "g722", "g722")])
def test_ffmpeg_reads_what_libsndfile_does_not(codec: str, kind: str, suffix: str) -> None:
    content = ffmpeg_sound(codec, kind)
    info = media.check(content, f"a.{suffix}")
    assert (info.modality, info.suffix) == (Modality.AUDIO, suffix)
    assert loudest_hz(media.decode(content, info)) == pytest.approx(440, abs=3)
    part = media.decode(content, info, window=(0.25, 0.5))
    assert len(part.data) == 8000 and part.start_s == 0.25


def test_channels_are_averaged() -> None:
    content = sound_file(np.stack([tone(), -tone()], axis=1), 16000, format="WAV", subtype="FLOAT")
    assert media.decode(content, media.probe(content, "a.wav")).data.abs().max() == 0


def test_a_window_is_the_same_part_of_the_whole() -> None:
    content = sound_file(np.random.default_rng(0).uniform(-1, 1, 32000), 16000, format="FLAC")
    info = media.probe(content, "a.flac")
    whole = media.decode(content, info).data
    assert torch.equal(media.decode(content, info, window=(0.5, 0.25)).data, whole[8000:12000])
    assert len(media.decode(content, info, window=(1.9, 1.0)).data) == 1600  # cut at the end
    with pytest.raises(MediaError, match="no samples at 5"):
        media.decode(content, info, window=(5.0, 1.0))


@pytest.mark.parametrize("from_hz", [11127, 44101, 16001, 7919])
def test_odd_rates_are_resampled_without_a_giant_filter_bank(from_hz: int) -> None:
    wave = audio.resample(torch.from_numpy(tone(1000, 2.0, from_hz)), from_hz, 16000)
    clip = Clip("", Modality.AUDIO, wave, 16000)
    assert len(wave) == pytest.approx(32000, abs=20)
    assert loudest_hz(clip) == pytest.approx(1000, abs=1)


def test_transparency_palette_depth_and_colour_space() -> None:
    red = Image.new("RGBA", (8, 6), (255, 0, 0, 0))
    assert decode_picture(picture_file(red, "PNG")).unique().tolist() == [255]  # transparent: the white below
    palette = Image.new("RGB", (8, 6), (0, 128, 255)).quantize(4)
    assert decode_picture(picture_file(palette, "GIF"))[:, 0, 0].tolist() == [0, 128, 255]
    deep = Image.fromarray(np.full((6, 8), 32896, np.uint16))
    assert decode_picture(picture_file(deep, "PNG")).unique().tolist() == [128]
    inks = Image.new("CMYK", (8, 6), (0, 255, 255, 0))
    red_ish = decode_picture(picture_file(inks, "JPEG", quality=95))[:, 3, 3].tolist()
    assert red_ish[0] > 240 and max(red_ish[1:]) < 20
    assert decode_picture(picture_file(Image.new("L", (8, 6), 7), "PPM")).shape == (3, 6, 8)


def test_exif_turns_the_picture_upright() -> None:
    array = np.zeros((40, 80, 3), np.uint8)
    array[:, :40] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: white on top
    content = picture_file(Image.fromarray(array), "JPEG", exif=exif, quality=95)
    info = media.check(content, "a.jpg")
    assert (info.height, info.width) == (80, 40)
    upright = media.decode(content, info).data
    assert upright.shape == (3, 80, 40)
    assert upright[:, 10].float().mean() > 250 and upright[:, 70].float().mean() < 5


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 6), (shade, 0, 0)) for shade in (200, 50)]
    content = picture_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(content)[0].unique().tolist() == [200]


@pytest.mark.parametrize("width", [48, 64])  # decord refuses 48
def test_video_frames_come_in_order_and_in_windows(width: int) -> None:
    content = film(width=width)
    info = media.check(content, "a.mp4")
    assert (info.modality, info.suffix, info.frames) == (Modality.VIDEO, "mp4", 20)
    assert (info.height, info.width, info.rate_hz, info.duration_s) == (32, width, 10.0, 2.0)
    clip = media.decode(content, info)
    assert clip.data.shape == (20, 3, 32, width) and clip.data.dtype == torch.uint8
    shades = clip.data.float().mean((1, 2, 3))
    assert torch.allclose(shades, 10.0 * torch.arange(20), atol=4)
    part = media.decode(content, info, window=(0.5, 0.7))
    assert part.start_s == 0.5 and len(part.data) == 7
    assert torch.allclose(part.data.float().mean((1, 2, 3)), shades[5:12], atol=1)


def test_ffmpeg_stands_in_for_decord(monkeypatch: pytest.MonkeyPatch) -> None:
    content = film(frames=24)
    with_decord = [media.decode(content, media.probe(content, "a.mp4"), window=one) for one in (None, (0.8, 1.0))]
    monkeypatch.setattr(video, "decord", None)
    for expected, window in zip(with_decord, (None, (0.8, 1.0)), strict=True):
        clip = media.decode(content, media.check(content, "a.mp4"), window=window)
        assert clip.data.shape == expected.data.shape
        assert (clip.data.float() - expected.data.float()).abs().max() <= 3


def test_content_decides_what_a_file_is() -> None:
    assert media.probe(picture_file(Image.new("RGB", (8, 6)), "PNG"), "photo.jpg").suffix == "png"
    assert media.probe(ffmpeg_sound("aac", "mp4"), "music.mp4").modality is Modality.AUDIO
    assert media.probe(film(kind="avi"), "film.mp4").suffix == "avi"
    assert media.detect("A B.c.FLAC") is Modality.AUDIO
    assert media.detect("README") is None and media.detect(".wav") is None


def huge_png() -> bytes:
    """A header that announces 400 megapixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    pixels = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + pixels


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.wav", b"", "empty"),
        ("text.png", b"this is text\n", "no known"),
        ("text.wav", b"this is text\n" * 100, "no known"),
        ("text.mp4", b"this is text\n" * 100, "no known"),
        ("vector.svg", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "no known"),
        ("huge.png", huge_png(), "megapixels|pixels"),
        ("nothing.wav", sound_file(np.zeros(0, np.float32), 16000, format="WAV"), "no samples"),
        ("nan.wav", sound_file(np.full(99, np.nan, np.float32), 16000, format="WAV", subtype="FLOAT"), "finite"),
        ("cut.jpg", picture_file(Image.fromarray(NOISE), "JPEG")[:-1500], "cannot be decoded"),
        ("cut.png", picture_file(Image.fromarray(NOISE), "PNG")[:-3000], "cannot be decoded"),
        ("cut.mp4", film()[:700], "no known|cannot|no frames"),
    ],
)
def test_what_cannot_be_decoded_says_why(name: str, content: bytes, said: str) -> None:
    with pytest.raises(MediaError, match=said) as caught:
        media.check(content, name)
    assert "\n" not in caught.value.message


def test_a_missing_file_and_a_too_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match="cannot be read"):
        media.probe(tmp_path / "absent.wav", "absent.wav")
    (tmp_path / "a.wav").write_bytes(bytes(100))
    monkeypatch.setattr(sys.modules[media.check.__module__], "MAX_BYTES", 10)
    with pytest.raises(MediaError, match="GiB"):
        media.probe(tmp_path / "a.wav", "a.wav")


def test_statistics_ignore_digital_silence_and_know_flat_colours() -> None:
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    spoken = Clip("", Modality.AUDIO, noise, 16000)
    silent = Clip("", Modality.AUDIO, torch.zeros(64000), 16000)
    short = Clip("", Modality.AUDIO, torch.zeros(100), 16000)
    alone = corpus_statistics([spoken], Modality.AUDIO)
    assert corpus_statistics([spoken, silent, short], Modality.AUDIO) == alone
    assert corpus_statistics([silent, short], Modality.AUDIO) == {"fbank_mean": 0.0, "fbank_std": 1.0}
    flat = Clip("", Modality.IMAGE, torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 4, 4))
    measured = corpus_statistics([flat], Modality.IMAGE)
    assert measured["pixel_mean"] == pytest.approx([0.0, 0.2, 1.0])
    assert measured["pixel_std"] == pytest.approx([1e-3] * 3)


def test_statistics_are_those_of_all_values_together() -> None:
    from torchaudio.compliance.kaldi import fbank

    clips = [torch.randn(8000 * n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (1, 3)]
    settings = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "num_mel_bins": 128, "dither": 0.0}
    expected = torch.cat([fbank(wave[None], sample_frequency=16000, frame_shift=10, **settings) for wave in clips])
    measured = corpus_statistics([Clip("", Modality.AUDIO, wave, 16000) for wave in clips], Modality.AUDIO)
    assert measured["fbank_mean"] == pytest.approx(expected.double().mean().item(), abs=1e-3)
    assert measured["fbank_std"] == pytest.approx(expected.double().std().item(), abs=1e-3)


ODD = {  # what each odd file is: modality, suffix and a measured size; or a reason
    "anim.gif": ("image", "gif", (1280, 2184)),
    "gray.pgm": ("image", "ppm", (288, 384)),
    "cinepak.avi": ("video", "avi", 68),
    "mpeg1_es.mpeg": ("video", "mpeg", 79),
    "drum.aiff": ("audio", "aiff", 0.489),
    "cut.mp3": ("audio", "mp3", 1.021),
    "pcm24_48k_stereo.wav": ("audio", "wav", 2.0),
    "silence10.wav": ("audio", "wav", 10.0),
    "speech.g722": ("audio", "g722", 1.404),
    "speech.gsm": ("audio", "gsm", 1.42),
    "speech.m4a": ("audio", "m4a", 4.9),
    "vorbis_128kHz.ogg": ("audio", "ogg", 5.538),
    "empty.wav": "empty",
    "text.png": "no known",
    "vector.svg": "no known",
    "multipage.tif": "no known",
    "png_168Mpx.png": "megapixels",
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_files(shared_data: Path, name: str) -> None:
    expected = ODD[name]
    if isinstance(expected, str):
        with pytest.raises(MediaError, match=expected):
            media.check(shared_data / "odd" / name, name)
        return
    info = media.check(shared_data / "odd" / name, name)
    size = {"image": (info.height, info.width), "video": info.frames, "audio": info.duration_s}[info.modality]
    assert (info.modality, info.suffix) == expected[:2]
    assert size == (expected[2] if info.modality == "image" else pytest.approx(expected[2], abs=0.03))
    clip = media.decode(shared_data / "odd" / name, info)
    assert clip.data.numel() == pytest.approx(media.decoded_bytes(info) / (2 if info.modality == "audio" else 1), abs=2)
