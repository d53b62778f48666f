"""Audio read wholly and in windows, against an independent decode by PyAV and against samples known by construction."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from standins import Views

from bridle import api, config, media, progress
from bridle.archive import Manifest, merge_statistics, read_manifest
from bridle.decoding.ahead import decode_piece
from bridle.errors import DataError, MediaError, UsageError
from bridle.infer.encode import Failures, encode
from bridle.inputs.sources import Source, info_of
from bridle.media import audio
from bridle.model import Bridle
from bridle.patches import build_patcher
from bridle.patches.statistics import measure
from bridle.schema import Clip, MediaInfo, Modality
from bridle.sharding import energy_above, notices
from bridle.stream import ClipStream, SampleReader
from bridle_cli.main import main

SECONDS = 8.0
TAG = b"ID3\x03\0\0\0\0\x0f\x76" + bytes(15 * 128 + 0x76)


def sweep(seconds: float, rate_hz: int, hz: float = 200.0) -> np.ndarray:
    """A rising tone with bursts of noise, which codecs spend bits on unevenly: float32 `(S,)`."""
    time_S = np.arange(round(seconds * rate_hz)) / rate_hz
    noise_S = np.random.default_rng(0).normal(0, 0.1, len(time_S)) * (np.sin(7 * time_S) > 0)
    return (0.3 * np.sin(2 * np.pi * (hz * time_S + 60 * time_S**2)) + noise_S).astype(np.float32)


def encoded(codec: str, kind: str, wave_S: np.ndarray, rate_hz: int, bit_rate: int = 0, **options: str) -> bytes:
    """By FFmpeg's encoders, mono."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        if bit_rate:
            stream.bit_rate = bit_rate
        samples_1S = (wave_S * 32767).clip(-32768, 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples_1S, format="s16", layout="mono")
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(stream.format, stream.layout, rate_hz, stream.frame_size or None)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return file.getvalue()


def stored(wave: np.ndarray, rate_hz: int, **options: Any) -> bytes:
    """By libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, **options)
    return file.getvalue()


def remuxed(content: bytes, kind: str, **options: str) -> bytes:
    """The same packets in another container, or other pages."""
    file = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(file, "w", format=kind, options=options) as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


def vorbis(rate_hz: int = 44100) -> bytes:
    return stored(sweep(SECONDS, rate_hz), rate_hz, format="OGG", subtype="VORBIS")


def by_pyav(content: bytes) -> np.ndarray:
    """All samples, decoded packet by packet in order; packets that are none are passed over."""
    samples = []
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.audio[0]
        planar = av.AudioResampler(format="fltp")
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                continue
            samples += [piece.to_ndarray()[0] for frame in frames for piece in planar.resample(frame)]
    return np.concatenate(samples)


def native(content: bytes, info: MediaInfo, window: tuple[float, float] | None = None) -> np.ndarray:
    """As training reads it, at its own rate."""
    return media.decode(content, info, window=window, rate_hz=int(info.rate_hz or 0)).data.numpy()


KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "mp3-8k": (lambda: encoded("libmp3lame", "mp3", sweep(SECONDS, 16000), 16000, 8000), "mp3"),
    "mp3-32k": (lambda: encoded("libmp3lame", "mp3", sweep(SECONDS, 24000), 24000, 32000), "mp3"),
    "mp3-vbr": (
        lambda: stored(sweep(SECONDS, 16000), 16000, format="MP3", bitrate_mode="VARIABLE", compression_level=0.95),
        "mp3",
    ),
    "mp3-44k": (lambda: stored(sweep(SECONDS, 44100), 44100, format="MP3"), "mp3"),
    "mp3-uncounted": (lambda: encoded("libmp3lame", "mp3", sweep(SECONDS, 22050), 22050, 32000, write_xing="0"), "mp3"),
    "mp2": (lambda: encoded("mp2", "mp2", sweep(SECONDS, 44100), 44100, 64000), "mp3"),
    "mp3-mkv": (lambda: encoded("libmp3lame", "matroska", sweep(SECONDS, 16000), 16000, 16000), "mka"),
    "vorbis": (vorbis, "ogg"),
    "vorbis-long-pages": (lambda: remuxed(vorbis(), "ogg", page_duration="4200000"), "ogg"),
    "vorbis-webm": (lambda: remuxed(vorbis(), "webm"), "webm"),
    "opus": (lambda: encoded("libopus", "ogg", sweep(SECONDS, 48000), 48000, 24000), "opus"),
    "opus-webm": (lambda: encoded("libopus", "webm", sweep(SECONDS, 48000), 48000, 24000), "webm"),
    "flac": (lambda: stored(sweep(SECONDS, 44100), 44100, format="FLAC"), "flac"),
    "alac": (lambda: encoded("alac", "ipod", sweep(SECONDS, 16000), 16000), "m4a"),
    "aac-adts": (lambda: encoded("aac", "adts", sweep(SECONDS, 16000), 16000, 32000), "aac"),
    "aac-m4a": (lambda: encoded("aac", "ipod", sweep(SECONDS, 16000), 16000, 32000), "m4a"),
    "aac-mkv": (lambda: encoded("aac", "matroska", sweep(SECONDS, 44100), 44100, 32000), "mka"),
    "aac-flv": (lambda: encoded("aac", "flv", sweep(SECONDS, 44100), 44100, 32000), "flv"),
    "aac-ts": (lambda: encoded("aac", "mpegts", sweep(SECONDS, 16000), 16000, 32000), "ts"),
    "ac3": (lambda: encoded("ac3", "ac3", sweep(SECONDS, 48000), 48000), "ac3"),
    "wma": (lambda: encoded("wmav2", "asf", sweep(SECONDS, 44100), 44100, 64000), "wma"),
    "g722": (lambda: encoded("g722", "g722", sweep(SECONDS, 16000), 16000), "g722"),
    "ima-wav": (lambda: stored(sweep(SECONDS, 16000), 16000, format="WAV", subtype="IMA_ADPCM"), "wav"),
    "gsm-wav": (lambda: stored(sweep(SECONDS, 8000), 8000, format="WAV", subtype="GSM610"), "wav"),
    "wav24": (lambda: stored(sweep(SECONDS, 44100), 44100, format="WAV", subtype="PCM_24"), "wav"),
    "aiff": (lambda: stored(sweep(SECONDS, 44100), 44100, format="AIFF"), "aiff"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_window_is_the_same_slice_of_the_whole(kind: str) -> None:
    make, suffix = KINDS[kind]
    content = make()
    info = media.check(content, f"a.{suffix}", Modality.AUDIO)
    assert (info.modality, info.suffix, info.duration_s) == (Modality.AUDIO, suffix, pytest.approx(SECONDS, abs=0.15))
    unchecked = media.probe(content, f"a.{suffix}", Modality.AUDIO)
    assert unchecked.decoder == info.decoder and unchecked.duration_s == pytest.approx(info.duration_s, abs=0.15)
    whole_S, rate_hz = native(content, info), int(info.rate_hz or 0)
    assert len(whole_S) == round((info.duration_s or 0) * rate_hz)
    starts_s = [0.0, 0.5, *np.random.default_rng(1).uniform(0, SECONDS - 0.5, 15), 5.1, SECONDS - 0.6, SECONDS - 0.51]
    for start_s in starts_s:
        first, count = round(start_s * rate_hz), round(0.5 * rate_hz)
        window_S = native(content, unchecked, (start_s, 0.5))
        assert np.abs(window_S - whole_S[first : first + count]).max() < 1e-5, start_s


@pytest.mark.parametrize(
    "kind", ["mp3-8k", "mp3-vbr", "mp3-44k", "vorbis", "vorbis-long-pages", "opus-webm", "aac-m4a", "wma"]
)
def test_the_whole_is_what_another_decoder_gives(kind: str) -> None:
    content = KINDS[kind][0]()
    ours_S = native(content, media.check(content, f"a.{KINDS[kind][1]}", Modality.AUDIO))
    theirs_S = by_pyav(content)
    assert abs(len(ours_S) - len(theirs_S)) <= 1
    assert np.abs(ours_S[: len(theirs_S)] - theirs_S[: len(ours_S)]).max() < 1e-4


def test_where_windows_differ_the_check_takes_the_other_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    content = KINDS["vorbis-long-pages"][0]()
    monkeypatch.setattr(audio, "_last_page", lambda raw: 10**9)  # libsndfile seeks into the last page, to another place
    info = media.check(content, "a.ogg")
    assert info.decoder == "ffmpeg" and media.probe(content, "a.ogg").decoder is None
    whole_S = native(content, info)
    assert np.array_equal(native(content, info, (6.5, 1.0)), whole_S[286650:330750])


def uncounted_flac(content: bytes) -> bytes:
    """With the number of samples unknown, as a program writes it that cannot go back to the header."""
    at = 4 + 4 + 13  # the marker, a block's header, and the lower half of this byte begins the 36-bit count
    return content[:at] + bytes([content[at] & 0xF0]) + bytes(4) + content[at + 5 :]


def sized_wav(content: bytes, size: int) -> bytes:
    """With these bytes in its headers instead of the right ones."""
    at = content.index(b"data") + 4
    field = struct.pack("<I", size)
    return content[:4] + field + content[8:at] + field + content[at + 4 :]


PCM_S = (sweep(2.0, 16000) * 32767).round() / 32768
WAV = stored(PCM_S, 16000, format="WAV", subtype="PCM_16")


@pytest.mark.parametrize(
    ("content", "decoder"),
    [
        (WAV, None),
        (sized_wav(WAV, 0), "ffmpeg"),
        (sized_wav(WAV, 0xFFFFFFFF), None),
        (uncounted_flac(stored(PCM_S, 16000, format="FLAC")), "ffmpeg"),
        (TAG + stored(PCM_S, 16000, format="FLAC"), None),
        (stored(PCM_S, 16000, format="FLAC") + b"TAG" + bytes(125), None),
    ],
    ids=["right", "size-0", "size-unknown", "flac-uncounted", "flac-tagged", "flac-tagged-behind"],
)
def test_sizes_that_are_not_known_lose_nothing(content: bytes, decoder: str | None) -> None:
    for info in (media.probe(content, "a.wav"), media.check(content, "a.wav")):
        assert (info.decoder, info.duration_s) == (decoder, 2.0)
        assert np.array_equal(native(content, info), PCM_S.astype(np.float32))
        assert np.array_equal(native(content, info, (1.5, 0.25)), PCM_S[24000:28000].astype(np.float32))
        assert np.array_equal(native(content, info, (1.75, 1.0)), PCM_S[28000:].astype(np.float32))


@pytest.mark.parametrize(
    ("one", "exact"),
    [
        (lambda hz: stored(sweep(2.0, 16000, hz), 16000, format="OGG", subtype="VORBIS"), 0.05),
        (lambda hz: encoded("libopus", "ogg", sweep(2.0, 48000, hz), 48000), 0.0),
        (lambda hz: stored(sweep(2.0, 16000, hz), 16000, format="FLAC"), 0.0),
        (lambda hz: encoded("libmp3lame", "mp3", sweep(2.0, 16000, hz), 16000), 0.15),
        (lambda hz: TAG + encoded("libmp3lame", "mp3", sweep(2.0, 16000, hz), 16000) + b"TAG" + bytes(125), 0.15),
    ],
    ids=["vorbis", "opus", "flac", "mp3", "mp3-tagged"],
)
def test_joined_files_are_read_to_the_end(one: Callable[[float], bytes], exact: float) -> None:
    """Two of 2 s; at each join a codec's own padding may stay."""
    parts = [one(200.0), one(1500.0)]
    content, alone = b"".join(parts), [native(part, media.probe(part, "a")) for part in parts]
    info = media.check(content, "a.ogg")
    assert info.decoder == media.probe(content, "a.ogg").decoder == "ffmpeg"
    assert info.duration_s == pytest.approx(4.0, abs=exact + 1e-9)
    whole_S = native(content, info)
    assert np.corrcoef(whole_S[: len(alone[0])], alone[0])[0, 1] > 0.99
    later_S = whole_S[len(alone[0]) :]
    piece_S = alone[1][len(alone[1]) // 4 :]  # the first decoder's state fades in what comes next
    lags = range(len(alone[1]) // 4, len(later_S) - len(piece_S) + 1)
    assert max(np.corrcoef(later_S[lag:][: len(piece_S)], piece_S)[0, 1] for lag in lags) > 0.99


@pytest.mark.parametrize("seconds", [0.05, 0.467, 0.581, 1.5, 3.0])
def test_a_single_ogg_is_read_by_libsndfile(seconds: float) -> None:
    """Its pages state the samples; FFmpeg adds padding, and the times of a file of one page begin before zero."""
    content = stored(sweep(seconds, 8000), 8000, format="OGG", subtype="VORBIS")
    info = media.check(content, "a.ogg")
    assert (info.decoder, round(8000 * (info.duration_s or 0))) == (None, round(8000 * seconds))
    assert media.probe(content, "a.ogg") == info
    joined = media.check(content + content, "a.ogg")
    assert joined.decoder == "ffmpeg"
    assert media.probe(content + content, "a.ogg").duration_s == pytest.approx(joined.duration_s, abs=0.1)


def test_a_joined_stream_of_another_rate_and_other_channels_keeps_its_speed() -> None:
    fast_S, slow_S = 0.5 * tone(440, 44100), 0.5 * tone(880, 22050)
    content = stored(np.stack([fast_S, fast_S], 1), 44100, format="MP3") + stored(slow_S, 22050, format="MP3")
    info = media.check(content, "a.mp3")
    assert (info.decoder, info.rate_hz, info.channels) == ("ffmpeg", 44100, 2)
    assert info.duration_s == pytest.approx(4.0, abs=0.2)
    spectrum_F = np.abs(np.fft.rfft(native(content, info, (2.6, 1.0))))
    assert spectrum_F.argmax() == 880


@pytest.mark.parametrize("others", [(16000, 2), (8000, 1)], ids=["stereo", "slower"])
def test_joined_oggs_that_differ_are_refused(others: tuple[int, int]) -> None:
    """libsndfile reads the first alone, FFmpeg's demuxer stops at the second."""
    rate_hz, channels = others
    one = stored(sweep(1.0, 16000), 16000, format="OGG", subtype="VORBIS")
    other = stored(np.stack([sweep(1.0, rate_hz)] * channels, 1), rate_hz, format="OGG", subtype="VORBIS")
    with pytest.raises(MediaError, match="only the first can be read; convert it to FLAC"):
        media.probe(one + other, "a.ogg")


def in_channels(channels: int, rate_hz: int = 16000) -> np.ndarray:
    """Another tone in each: `(S, C)`."""
    return np.stack(
        [0.3 * np.sin(2 * np.pi * (300 + 100 * n) * np.arange(rate_hz) / rate_hz) for n in range(channels)], 1
    )


def test_more_channels_than_ffmpeg_has_names_for() -> None:
    wave_SC = in_channels(12)
    content = remuxed(stored(wave_SC, 16000, format="CAF", subtype="PCM_16"), "matroska")
    info = media.check(content, "a.mka")
    stored_SC, _ = audio.channels(content, info, None)
    assert (info.channels, info.duration_s) == (12, 1.0)
    assert np.abs(stored_SC.numpy() - wave_SC).max() < 1e-4


@pytest.mark.parametrize("kind", ["matroska", "ogg"])
def test_channels_are_numbered_as_in_wav_whatever_the_codec(kind: str) -> None:
    """Vorbis stores left, centre, right."""
    left_S, centre_S, right_S = in_channels(3).T
    content = stored(np.stack([left_S, centre_S, right_S], 1), 16000, format="OGG", subtype="VORBIS")
    content = content if kind == "ogg" else remuxed(content, kind)
    info = media.check(content, "a.ogg")
    assert media.probe(content, "a.ogg").decoder == info.decoder
    second_S = native(content, replace(info, channel=2))
    assert np.corrcoef(second_S[: len(right_S)], right_S[: len(second_S)])[0, 1] > 0.99


def test_tags_in_front_do_not_lengthen_a_file() -> None:
    """Without a count libsndfile estimates the length from all bytes, tags too."""
    content = encoded("libmp3lame", "mp3", sweep(2.0, 16000), 16000, write_xing="0")
    for tagged in (TAG + content, TAG + TAG + content):
        info = media.probe(tagged, "a.mp3")
        assert info.duration_s == media.check(tagged, "a.mp3").duration_s == pytest.approx(2.0, abs=0.2)
        assert np.array_equal(native(tagged, info), by_pyav(content))


# What is measured


def of_audio(*channels: np.ndarray, rate_hz: int = 16000) -> dict[str, float]:
    data_SC = torch.from_numpy(np.stack(channels, axis=1).astype(np.float32))
    return measure(Clip("", Modality.AUDIO, data_SC, rate_hz))


def tone(hz: float, rate_hz: int = 16000, seconds: float = 2.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def test_energy_above_a_frequency_is_a_share_of_the_whole() -> None:
    """Amplitudes 1 and 1/2: of five quarters one is at 10 kHz; an offset is no sound."""
    found = of_audio(0.3 + 0.2 * tone(3000, 32000) + 0.1 * tone(10000, 32000), rate_hz=32000)
    shares = [found[f"above_{hz}"] for hz in (1000, 2000, 4000, 8000, 11025, 16000, 192000)]
    assert shares == pytest.approx([1, 1, 0.2, 0.2, 0, 0, 0], abs=1e-3)
    assert "above_1000" not in of_audio(np.zeros(16000))


def test_what_cancels_in_the_mean_of_the_channels() -> None:
    one_S, other_S = tone(1000), tone(1500)
    assert of_audio(one_S, -one_S)["cancelled"] == pytest.approx(1)
    assert of_audio(one_S, -one_S / 2)["cancelled"] == pytest.approx(1 - 0.25 / 1.25)
    for channels in ([one_S], [one_S, one_S], [one_S, other_S], [one_S, 0 * one_S], [0 * one_S, 0 * one_S]):
        assert of_audio(*channels)["cancelled"] == pytest.approx(0, abs=1e-3)
    assert of_audio(one_S, -one_S, 0 * one_S, 0 * one_S)["cancelled"] == pytest.approx(1)


def test_samples_beyond_full_scale() -> None:
    """2 sin x is beyond 1 in two thirds of its period."""
    found = of_audio(2 * tone(997))
    assert found["beyond_full_scale"] == pytest.approx(2 / 3, abs=1e-3) and found["peak"] == pytest.approx(2, abs=1e-3)
    assert of_audio(tone(997))["beyond_full_scale"] == 0


def test_shares_between_the_measured_frequencies_are_interpolated() -> None:
    statistics = {"energy_above_hz": {"1000": 0.8, "2000": 0.4, "4000": 0.0}}
    at = (0, 500, 1000, 1500, 3000, 4000, 9000)
    assert [energy_above(statistics, hz) for hz in at] == pytest.approx([1, 0.9, 0.8, 0.6, 0.2, 0, 0])
    assert energy_above({}, 1000) is None
    assert energy_above({"energy_above_hz": ["1000"]}, 1000) is None


def corpus(folder: Path, **files: np.ndarray) -> Path:
    """A folder of float WAV at 64 kHz."""
    folder.mkdir()
    for name, wave in files.items():
        soundfile.write(folder / f"{name}.wav", wave, 64000, subtype="FLOAT")
    return folder


@pytest.mark.usefixtures("inline")
def test_notices_are_told_by_shard_info_and_pretrain_and_heeded_by_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One loud clip below 8 kHz and one quiet one above: half of the energy, since each clip counts once."""
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path / "bats", low=0.9 * tone(500, 64000), high=0.001 * tone(26000, 64000))
    told = {}
    for command in ("shard bats", "shard info shards/bats", "pretrain --dry-run"):
        assert main([*command.split(), "--json"]) == 0
        out, err = capsys.readouterr()
        told[command] = json.loads(out)
        assert "warning: " in err and "50 % of the energy is above 8000 Hz" in err, command
    assert told["shard bats"]["notices"] == told["shard info shards/bats"]["notices"]
    (notice,) = told["shard bats"]["notices"]
    assert "patches.rate_hz" in notice
    statistics = read_manifest(tmp_path / "shards/bats").statistics
    assert statistics["energy_above_hz"]["22050"] == pytest.approx(0.5, abs=1e-3)
    assert statistics["energy_above_hz"]["32000"] == pytest.approx(0, abs=1e-3)

    assert main("init --shards shards/bats --json".split()) == 0  # proposes a rate that keeps all of it
    assert "energy" not in capsys.readouterr().err
    assert "rate_hz: 64000" in Path("bridle.yaml").read_text()


@pytest.mark.usefixtures("inline")
def test_sets_that_lose_nothing_have_no_notices(tmp_path: Path) -> None:
    low_S = 0.5 * tone(500, 64000)
    made = api.shard(corpus(tmp_path / "raw", a=low_S, b=np.stack([low_S, low_S / 2], 1)), out=tmp_path / "set")
    assert made["notices"] == []
    manifest = read_manifest(tmp_path / "set")
    for name in ("cancelled", "cancelling", "beyond_full_scale", "peak", "energy_above_hz"):  # an older set
        del manifest.statistics[name]
    assert notices(manifest) == []


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    raw = corpus(tmp_path / "raw", a=tone(500, 64000))
    with pytest.raises(UsageError, match="--pixel-range has no effect on audio"):
        api.shard(raw, out=tmp_path / "set", pixel_range=(0, 1), dry_run=True)
    with pytest.raises(UsageError, match="--channel has no effect on image"):
        api.shard(Path(__file__).parents[2] / "media" / "image", out=tmp_path / "set", channel=1, dry_run=True)


def test_full_scale_matters_where_samples_are_clipped() -> None:
    manifest = Manifest("s", Modality.AUDIO, [], 1, 0, statistics={"beyond_full_scale": 0.01, "peak": 3.0})
    exact, corpus = config.load("audio-tiny"), config.load("audio-paper")
    assert notices(manifest, exact) == []
    (notice,) = notices(manifest, corpus)
    assert "1 % of the samples are beyond full scale (peak 3, full scale is 1)" in notice
    assert notices(replace(manifest, options={"transcode": True}), exact) == [notice]


@pytest.mark.usefixtures("inline")
def test_channels_that_cancel_are_told_and_one_can_be_taken(tmp_path: Path) -> None:
    left_S, mono_S = 0.5 * tone(500, 64000), 0.25 * tone(700, 64000)
    raw = corpus(tmp_path / "raw", anti=np.stack([left_S, -left_S], 1), mono=mono_S)
    (notice,) = api.shard(raw, out=tmp_path / "mean", workers=1)["notices"]
    assert "50 % of the energy is lost in their mean (50 % of the clips lose more than half)" in notice
    assert "--channel" in notice

    made = api.shard(raw, out=tmp_path / "second", channel=2, workers=1)
    assert made["notices"] == [] and made["rejects"] == []
    manifest = read_manifest(tmp_path / "second")
    reader = SampleReader([manifest])
    clips = {meta["path"]: reader.clip(sample, meta).data for sample in range(2) for meta in [reader.meta(sample)]}
    assert clips["anti.wav"].abs().max() == pytest.approx(0.5, abs=1e-2)
    expected_S = audio.resample(torch.from_numpy(-left_S).float(), 64000, 16000)
    assert (clips["anti.wav"] - expected_S).abs().max() < 1e-5
    assert clips["mono.wav"].abs().max() == pytest.approx(0.25, abs=1e-2), "one channel is taken as it is"

    with pytest.raises(UsageError, match="channel 2, not None"):
        api.shard(raw, out=tmp_path / "second", resume=True, workers=1)
    with pytest.raises(UsageError, match="channel None, not 2"):
        api.shard(raw, out=tmp_path / "mean", resume=True, channel=2, workers=1)
    (reject,) = api.shard(raw, out=tmp_path / "third", channel=3, workers=1)["rejects"]
    assert reject == {"file": "anti.wav", "reason": "has 2 channels, not the requested channel 3"}


def test_a_model_takes_the_channel_that_its_shards_took(tmp_path: Path) -> None:
    left_S = 0.5 * tone(500, 16000)
    content = stored(np.stack([left_S, -left_S], 1), 16000, format="WAV", subtype="FLOAT")
    patches = config.load("audio-tiny").patches
    for channel, expected in ((None, 0.0), (1, 0.5), (2, 0.5)):
        statistics = {"fbank_mean": 0.0, "fbank_std": 1.0} | ({"channel": channel} if channel else {})
        patcher = build_patcher(patches, statistics)
        for known in (None, media.probe(content, "a.wav")):  # a file, and a sample of a set that takes the mean
            info = info_of(Source("a.wav", content, known), Modality.AUDIO, patcher)
            assert np.abs(native(content, info)).max() == pytest.approx(expected, abs=1e-3)
    with pytest.raises(MediaError, match="has 2 channels"):
        native(content, replace(info, channel=3))


@pytest.mark.usefixtures("inline")
def test_training_takes_the_channel_of_one_set_from_the_others_too(tmp_path: Path) -> None:
    left_S, mono_S = 0.5 * tone(500, 64000), 0.25 * tone(700, 64000)
    raw = corpus(tmp_path / "raw", anti=np.stack([left_S, -left_S], 1), mono=mono_S)
    api.shard(raw, out=tmp_path / "mean", workers=1)
    api.shard(raw, out=tmp_path / "second", channel=2, workers=1)
    manifests = [read_manifest(tmp_path / name) for name in ("mean", "second")]
    patcher = build_patcher(config.load("audio-tiny").patches, merge_statistics(manifests))
    stream = ClipStream(
        manifests, Views(lambda clip, rng: clip.data, lambda info: None, channel=patcher.channel), batch_size=4
    )
    loudest = [round(float(wave_S.abs().max()), 2) for wave_S in next(stream.batches()).tensors]
    assert sorted(loudest) == [0.25, 0.25, 0.5, 0.5]


def test_single_files_whose_channels_cancel_are_told_of() -> None:
    left_S = 0.5 * tone(500, 16000)
    sources = [
        Source(f"{name}.wav", stored(np.stack([left_S, factor * left_S], 1), 16000, format="WAV", subtype="FLOAT"))
        for name, factor in (("anti", -1.0), ("stereo", 0.5))
    ]
    model = Bridle(config.load("audio-tiny"), {"fbank_mean": 0.0, "fbank_std": 1.0})
    told = list[tuple[str, str]]()
    with progress.listening(lambda kind, message: told.append((kind, message))):
        assert len(list(encode(model, sources, lambda batch: (model.features(batch),), failures=Failures()))) == 2
    notice = "channels cancel: 100% of the energy is lost in their mean"
    assert told == [("warning", f"anti.wav: {notice}")]
    pieces = [decode_piece(source, model.patcher, Modality.AUDIO, 0.0)[1] for source in sources]
    assert [piece.notice for piece in pieces] == [notice, ""]


def test_sets_of_different_channels_are_refused() -> None:
    def of(channel: int | None) -> Any:
        statistics = {"fbank_mean": 0.0, "fbank_std": 1.0}
        return SimpleNamespace(samples=1, statistics=statistics, extent={}, spread={}, options={"channel": channel})

    assert merge_statistics([of(None), of(2)])["channel"] == 2
    assert "channel" not in merge_statistics([of(None)])
    with pytest.raises(DataError, match="different channels: 1, 2"):
        merge_statistics([of(1), of(2)])
