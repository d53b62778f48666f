"""Decoders on media that the tests make themselves, so that the right answer is known."""

from __future__ import annotations

import io
import math
import re
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from bridle import media
from bridle.errors import MediaError
from bridle.media import audio, limits, video
from bridle.media.pixels import even_clock
from bridle.patches.statistics import clip_moments, summarise
from bridle.schema import Clip, MediaInfo, Modality


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


def film(
    frames: int = 20,
    fps: int = 10,
    codec: str = "mpeg4",
    kind: str = "mp4",
    width: int = 64,
    height: int = 32,
    *,
    ticks: list[int] | None = None,
    sound: str = "",
    corner: bool = False,
) -> bytes:
    """Frame t is one shade of grey, 10 t up to 240 and round again, shown at tick t or `ticks[t]`.

    `corner`: with white at the top left.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.bit_rate = width, height, 1_000_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        track = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for t, tick in enumerate(ticks or range(frames)):
            picture = np.full((height, width, 3), 10 * (t % 25), np.uint8)
            if corner:
                picture[: height // 2, : width // 2] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None:
            mux_tone(container, track, 48000)
    return file.getvalue()


def mux_tone(container: av.container.OutputContainer, stream: av.AudioStream, rate_hz: int, seconds: float = 1) -> None:
    """440 Hz."""
    samples = (tone(seconds=seconds, rate_hz=rate_hz) * 32767).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(stream.format, "mono", rate_hz, stream.frame_size or None)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode())


def shades(clip: Clip) -> torch.Tensor:
    """Number of each frame of a `film`."""
    return (clip.data.float().mean((1, 2, 3)) / 10).round().long()


def ffmpeg_sound(codec: str, kind: str, rate_hz: int = 16000, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        mux_tone(container, container.add_stream(codec, rate=rate_hz, layout="mono"), rate_hz, seconds)
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
        ({"format": "WAV", "subtype": "GSM610"}, "wav"),
    ],
)
@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_sound_becomes_16_khz_mono(options: dict[str, str], suffix: str, rate_hz: int) -> None:
    channels = 1 if options.get("subtype") == "GSM610" else 2
    content = sound_file(np.stack([tone(rate_hz=rate_hz)] * channels, axis=1), rate_hz, **options)
    info = media.check(content, "named.mp4")
    assert (info.modality, info.suffix, info.channels, info.rate_hz) == (Modality.AUDIO, suffix, channels, rate_hz)
    clip = media.decode(content, info)
    assert clip.data.dtype == torch.float32 and clip.rate_hz == 16000
    assert len(clip.data) == pytest.approx(16000, abs=1500)  # MP3 pads
    assert loudest_hz(clip) == pytest.approx(440, abs=2)


def test_headerless_gsm_goes_by_its_name() -> None:
    content = sound_file(tone(rate_hz=8000), 8000, format="RAW", subtype="GSM610")
    info = media.check(content, "a.gsm")
    assert (info.modality, info.suffix, info.rate_hz) == (Modality.AUDIO, "gsm", 8000)
    assert loudest_hz(media.decode(content, info)) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(
    ("codec", "kind", "suffix", "sound"),
    [
        ("libx264", "mp4", "mp4", "aac"),
        ("mpeg4", "mov", "mov", "aac"),
        ("libx264", "matroska", "mkv", "aac"),
        ("libvpx", "webm", "webm", "libopus"),
        ("mpeg4", "avi", "avi", "pcm_s16le"),
    ],
)
def test_the_sound_track_of_a_video(codec: str, kind: str, suffix: str, sound: str) -> None:
    content = film(codec=codec, kind=kind, sound=sound)
    seen = media.check(content, f"a.{suffix}")
    assert (seen.modality, seen.suffix, seen.frames) == (Modality.VIDEO, suffix, 20)
    assert torch.equal(shades(media.decode(content, seen)), torch.arange(20))
    heard = media.check(content, f"a.{suffix}", Modality.AUDIO)
    assert (heard.modality, heard.suffix, heard.rate_hz) == (Modality.AUDIO, suffix, 48000)
    assert heard.height is None and heard.duration_s == pytest.approx(1.0, abs=0.05)
    assert loudest_hz(media.decode(content, heard)) == pytest.approx(440, abs=3)


def test_a_silent_film_has_no_sound_track() -> None:
    with pytest.raises(MediaError, match="without audio"):
        media.check(film(), "a.mp4", Modality.AUDIO)


def test_videos_are_files_of_sound_only_when_asked_for() -> None:
    assert [media.detect(f"a.{suffix}") for suffix in ("mp4", "wav")] == [Modality.VIDEO, Modality.AUDIO]
    assert {media.detect(f"a.{suffix}", sound_tracks=True) for suffix in ("mp4", "webm", "wav")} == {Modality.AUDIO}
    assert media.detect("a.png", sound_tracks=True) is Modality.IMAGE


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_image_format_gives_the_same_picture(kind: str) -> None:
    picture = np.zeros((30, 41, 3), np.uint8)  # odd width
    picture[:, 20:] = (240, 240, 240)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    content = picture_file(Image.fromarray(picture), kind, **options)
    info = media.check(content, "a.bin")
    assert (info.modality, info.height, info.width) == (Modality.IMAGE, 30, 41)
    expected = torch.from_numpy(picture).permute(2, 0, 1).float()
    assert (media.decode(content, info).data.float() - expected).abs().max() <= 6


def test_depth_of_16_bits_in_png_and_tiff() -> None:
    grey = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    for kind in ("PNG", "TIFF"):
        decoded = decode_picture(picture_file(Image.fromarray(grey), kind))
        assert (decoded[0].float() - torch.from_numpy(grey / 257.0)).abs().max() <= 1


def test_half_transparent_palettes_and_grey_lie_over_white() -> None:
    veil = Image.new("LA", (8, 6), (0, 128))
    assert decode_picture(picture_file(veil, "PNG")).unique().tolist() == [127]
    palette = Image.new("P", (8, 6), 3)
    palette.putpalette([10, 20, 30] * 4)
    assert decode_picture(picture_file(palette, "PNG", transparency=3)).unique().tolist() == [255]
    inks = Image.new("CMYK", (8, 6), (255, 0, 0, 0))
    assert decode_picture(picture_file(inks, "TIFF"))[:, 0, 0].tolist() == [0, 255, 255]


def test_exif_counts_in_png_webp_and_tiff_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    for kind in ("PNG", "WEBP", "TIFF"):
        content = picture_file(Image.new("RGB", (20, 10)), kind, exif=exif)
        assert (media.check(content, "a").height, media.check(content, "a").width) == (20, 10), kind


def test_of_several_pages_the_first_counts() -> None:
    pages = [Image.new("RGB", (8, 6), (9, 9, 9)), Image.new("L", (4000, 3000))]
    content = picture_file(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert decode_picture(content).shape == (3, 6, 8)


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
    assert torch.equal(shades(clip), torch.arange(20))
    part = media.decode(content, info, window=(0.5, 0.7))
    assert part.start_s == 0.5 and torch.equal(shades(part), torch.arange(5, 12))


def with_both(content: bytes, name: str, window: tuple[float, float] | None = None) -> tuple[MediaInfo, Clip]:
    """What the default decoder gives, after comparing it with FFmpeg alone."""
    info = media.check(content, name)
    clip = media.decode(content, info, window=window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "decord", None)
        again = media.decode(content, media.check(content, name), window=window)
    assert again.data.shape == clip.data.shape and again.start_s == pytest.approx(clip.start_s)
    assert again.rate_hz == pytest.approx(clip.rate_hz)
    assert (again.data.float() - clip.data.float()).abs().max() <= 3
    return info, clip


VIDEOS = [  # codec, container, suffix; FFmpeg gives no times in presentation order for H.264 in AVI
    ("libx264", "mp4", "mp4"), ("libx265", "mp4", "mp4"), ("libsvtav1", "mp4", "mp4"), ("mpeg4", "mov", "mov"),
    ("libx264", "matroska", "mkv"), ("libvpx", "webm", "webm"), ("libvpx-vp9", "webm", "webm"),
    ("mpeg4", "avi", "avi"), ("libx264", "avi", "avi"), ("libx264", "mpegts", "ts"), ("mpeg2video", "mpegts", "ts"),
    ("mpeg1video", "mpeg", "mpg"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "kind", "suffix"), VIDEOS)
def test_both_decoders_give_the_same_frames(codec: str, kind: str, suffix: str) -> None:
    content = film(frames=24, fps=25, codec=codec, kind=kind, height=64)
    info, whole = with_both(content, f"a.{suffix}")
    assert (info.suffix, info.frames, info.rate_hz, info.duration_s) == (suffix, 24, 25.0, 0.96)
    assert torch.equal(shades(whole), torch.arange(24))
    assert torch.equal(shades(with_both(content, f"a.{suffix}", (0.4, 0.2))[1]), torch.arange(10, 15))


@pytest.mark.parametrize(("codec", "kind"), [("libx264", "mp4"), ("libx264", "mpegts"), ("libx264", "avi")])
def test_a_late_window_is_sought(codec: str, kind: str) -> None:
    content = film(frames=90, codec=codec, kind=kind)
    content_shades = shades(with_both(content, "a")[1])
    part = with_both(content, "a", (7.5, 0.5))[1]
    assert part.start_s == 7.5 and torch.equal(shades(part), content_shades[75:80])


@pytest.mark.parametrize(("codec", "kind"), [("libx264", "mp4"), ("libvpx", "webm"), ("libx264", "matroska")])
def test_frames_of_uneven_rate_are_placed_by_time(codec: str, kind: str) -> None:
    content = film(codec=codec, kind=kind, ticks=[*range(10), *range(10, 30, 2)])  # 10 a second, then 5
    info, whole = with_both(content, "a")
    assert info.frames == len(whole.data) == 20 and info.rate_hz == pytest.approx(19 / 2.8, abs=0.01)
    assert info.duration_s == pytest.approx(3.0, abs=0.1)
    _, early = with_both(content, "a", (0.0, 1.0))
    assert shades(early).min() == 0 and shades(early).max() in (9, 10) and len(early.data) == 7
    _, late = with_both(content, "a", (2.0, 0.8))  # frame 15 appears at 2.0 s, 19 at 2.8 s
    assert shades(late).min() in (14, 15) and shades(late).max() in (18, 19) and len(late.data) == 5
    assert torch.equal(whole.data[round(2.0 * info.rate_hz) :][:5], late.data)


def test_an_even_clock_shows_what_was_on_the_screen() -> None:
    fps, shown = even_clock(np.array([0.0, 1.0, 2.0, 6.0, 8.0]), 1.0)
    assert fps == 0.5 and shown.tolist() == [1, 2, 2, 3, 4]
    jitter = np.arange(50) / 30 + np.random.default_rng(0).uniform(-0.01, 0.01, 50)
    assert even_clock(jitter, 30.0)[0] == 30.0
    for damaged in ([0.0, math.nan, 1.0], [0.0, 2.0, 1.0], [5.0, 5.0, 5.0], [0.0, 1e300, 1.7e308], [7.0], []):
        fps, shown = even_clock(np.array(damaged), 25.0)
        assert fps == 25.0 and shown.tolist() == list(range(len(damaged)))


def turned(content: bytes, degrees: int) -> bytes:
    """With the display matrix of a phone that was held sideways."""
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]  # clockwise
    a, b, c, d = (value * 65536 for value in matrix)
    at = content.index(b"tkhd") + 4 + 40
    return content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + 36 :]


@pytest.mark.parametrize(("degrees", "corner"), [(90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_turned_videos_stand_upright(degrees: int, corner: tuple[int, int]) -> None:
    content = film(frames=5, codec="libx264", corner=True)
    files = {"a.mp4": turned(content, degrees), "a.mov": turned(film(5, kind="mov", corner=True), degrees)}
    files["a.mkv"] = remux(files["a.mp4"], "matroska")
    for name, file in files.items():
        info, clip = with_both(file, name)
        assert (info.height, info.width) == ((32, 64) if degrees == 180 else (64, 32)), name
        header = media.probe(file, name)
        assert (header.height, header.width) == (info.height, info.width)
        rows = slice(4) if corner[0] == 0 else slice(-4, None)
        columns = slice(4) if corner[1] == 0 else slice(-4, None)
        assert clip.data[0][:, rows, columns].min() > 240 and clip.data[0].float().mean() < 80, name


def remux(content: bytes, kind: str) -> bytes:
    """The same packets, display matrix and all, in another container."""
    file = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(file, "w", format=kind) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return file.getvalue()


def test_frames_that_an_edit_list_hides_stay_hidden() -> None:
    content = film()
    at, clock = content.index(b"elst") + 12, content.index(b"mdhd") + 16
    ticks = struct.unpack(">I", content[clock : clock + 4])[0]
    content = content[:at] + struct.pack(">Ii", 1500, ticks // 2) + content[at + 8 :]
    info, clip = with_both(content, "a.mp4")
    assert info.frames == 15 and torch.equal(shades(clip), torch.arange(5, 20))


@pytest.mark.parametrize(("width", "height"), [(33, 17), (64, 31), (62, 34), (50, 50), (16, 16), (2, 2), (130, 98)])
def test_odd_sizes(width: int, height: int) -> None:
    info, clip = with_both(film(frames=5, width=width, height=height), "a.mp4")
    assert (info.height, info.width) == clip.data.shape[2:] == (height, width)
    assert torch.equal(shades(clip), torch.arange(5))


@pytest.mark.parametrize("kind", ["mp4", "matroska", "webm", "avi"])
def test_a_film_of_one_frame(kind: str) -> None:
    content = film(frames=1, codec="libvpx" if kind == "webm" else "mpeg4", kind=kind)
    info, clip = with_both(content, "a")
    assert (info.frames, info.duration_s, len(clip.data)) == (1, 0.1, 1)


def test_pictures_that_change_their_size_keep_the_first() -> None:
    parts = [film(frames=3, codec="mjpeg", kind="avi", width=width) for width in (64, 96)]
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as target:
        with av.open(io.BytesIO(parts[0])) as source:
            stream = target.add_stream_from_template(source.streams.video[0])
        for number, part in enumerate(parts):
            with av.open(io.BytesIO(part)) as source:
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        packet.pts, packet.dts = packet.pts + 3 * number, packet.dts + 3 * number
                        target.mux(packet)
    _, clip = with_both(file.getvalue(), "a.avi")
    assert clip.data.shape == (6, 3, 32, 64) and shades(clip).tolist() == [0, 1, 2] * 2


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


def riff(rate_hz: int, channels: int) -> bytes:
    """A WAV of 1000 bytes of samples, with any rate and number of channels."""
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * channels & 0xFFFFFFFF, channels, 8)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 1000) + bytes(1000)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def huge_gif() -> bytes:
    """A canvas of 65535 x 65535, one pixel drawn."""
    return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + picture_file(Image.new("L", (1, 1)), "GIF")[13:]


def huge_film() -> bytes:
    """Motion JPEG in an AVI, whose pictures announce 30000 x 30000 each."""
    content = film(frames=2, codec="mjpeg", kind="avi")
    return re.sub(rb"(\xff\xc0..\x08)....", rb"\1" + struct.pack(">HH", 30000, 30000), content, flags=re.DOTALL)


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.wav", b"", "empty"),
        ("text.png", b"this is text\n", "unknown"),
        ("text.wav", b"this is text\n" * 100, "unknown"),
        ("text.mp4", b"this is text\n" * 100, "unknown"),
        ("vector.svg", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "unknown"),
        ("huge.png", huge_png(), "megapixels|pixels"),
        ("huge.gif", huge_gif(), "megapixels|pixels"),
        ("huge.avi", huge_film(), "cannot be decoded|no frames"),
        ("channels.wav", riff(16000, 200), "200 channels"),
        ("slow.wav", riff(3, 1), "rate of 3 Hz"),
        ("fast.wav", riff(2_000_000_000, 1), "2000000000 Hz"),
        ("nothing.wav", sound_file(np.zeros(0, np.float32), 16000, format="WAV"), "no samples"),
        ("nan.wav", sound_file(np.full(99, np.nan, np.float32), 16000, format="WAV", subtype="FLOAT"), "finite"),
        ("cut.jpg", picture_file(Image.fromarray(NOISE), "JPEG")[:-1500], "cannot be decoded"),
        ("cut.png", picture_file(Image.fromarray(NOISE), "PNG")[:-3000], "cannot be decoded"),
        ("cut.mp4", film()[:700], "unknown|cannot|no frames"),
    ],
)
def test_what_cannot_be_decoded_says_why(name: str, content: bytes, said: str) -> None:
    with pytest.raises(MediaError, match=said) as caught:
        media.check(content, name)
    assert "\n" not in caught.value.message


def test_ffmpeg_refuses_frames_larger_than_their_header_says(monkeypatch: pytest.MonkeyPatch) -> None:
    content = film(codec="mjpeg", kind="avi")
    monkeypatch.setattr(video, "decord", None)
    assert media.check(content, "a.avi").frames == 20
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)  # a frame has 2048
    with pytest.raises(MediaError, match="cannot be decoded"):
        media.check(content, "a.avi")


def peak_bytes(work: Callable[[], object]) -> int:
    """What NumPy and Python take at once; decoders' own buffers are not seen."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def hours() -> bytes:
    """Two hours of silence in 60 kB."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format="FLAC") as sound:
        for _ in range(12):
            sound.write(np.zeros(4_800_000, np.int16))
    return file.getvalue()


def test_hours_of_silence_in_a_small_file_are_measured_in_little_memory(hours: bytes) -> None:
    assert len(hours) < 1_000_000
    assert peak_bytes(lambda: media.check(hours, "a.flac")) < 10_000_000
    info = media.probe(hours, "a.flac")
    assert info.duration_s == 7200
    assert peak_bytes(lambda: media.decode(hours, info, window=(7000.0, 2.0))) < 10_000_000


def test_a_clip_that_memory_cannot_hold_is_refused(hours: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_DECODED_BYTES", 20_000_000)
    info = media.probe(hours, "a.flac")
    for known in (info, replace(info, duration_s=None)):  # by what the header says, and by what comes out
        with pytest.raises(MediaError, match="decode it in windows"):
            media.decode(hours, known)
        with pytest.raises(MediaError, match="decode it in windows"):
            media.decode(hours, known, window=(0.0, 7000.0))
    assert len(media.decode(hours, info, window=(10.0, 1.0)).data) == 16000
    content = film(codec="libx264")
    seen = media.check(content, "a.mp4")
    monkeypatch.setattr(limits, "MAX_DECODED_BYTES", 10 * 3 * 64 * 32)
    for shown in (seen, replace(seen, frames=None, duration_s=None)):
        with pytest.raises(MediaError, match="decode it in windows"):
            media.decode(content, shown)
    assert len(media.decode(content, seen, window=(1.0, 0.5)).data) == 5


@pytest.mark.parametrize("decoder", ["decord", "ffmpeg"])
def test_a_window_of_a_long_film_takes_the_memory_of_the_window(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = film(frames=400, codec="libx264", width=256, height=128)  # 39 MB decoded
    info = media.check(content, "a.mp4")
    if decoder == "ffmpeg":
        monkeypatch.setattr(video, "decord", None)
    assert peak_bytes(lambda: media.decode(content, info, window=(30.0, 0.5))) < 5_000_000
    assert peak_bytes(lambda: media.check(content, "a.mp4")) < 10_000_000


def test_a_missing_file_and_a_too_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match="cannot be read"):
        media.probe(tmp_path / "absent.wav", "absent.wav")
    (tmp_path / "a.wav").write_bytes(bytes(100))
    monkeypatch.setattr(sys.modules[media.check.__module__], "MAX_BYTES", 10)
    with pytest.raises(MediaError, match="GiB"):
        media.probe(tmp_path / "a.wav", "a.wav")


def corpus_statistics(clips: list[Clip], modality: Modality) -> dict[str, Any]:
    return summarise(map(clip_moments, clips), modality)


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
    "text.png": "unknown",
    "vector.svg": "unknown",
    "multipage.tif": "3 x float 64 bits",
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    pixels = np.full((8, 8), 0.5, dtype=np.float32)
    pixels[3, 3] = bad
    Image.fromarray(pixels).save(tmp_path / "bad.tif")
    with pytest.raises(MediaError, match="not finite"):
        media.check(tmp_path / "bad.tif", "bad.tif")


def test_a_picture_that_is_larger_than_its_description_says_is_refused() -> None:
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "JPEG", quality=90)
    assert len(content.getvalue()) > 400_000
    info = MediaInfo(Modality.IMAGE, "jpg", height=10, width=10, channels=3)
    with pytest.raises(MediaError, match="900x900 is larger"):
        media.decode(content.getvalue(), info, max_pixels=500_000)
