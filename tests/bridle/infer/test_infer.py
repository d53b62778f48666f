"""Files of any length to codes and vectors, and the codes file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from standins import small

import bridle
from bridle import progress
from bridle.errors import DataError, MediaError, UsageError
from bridle.infer import Pretrained, tokenize_inputs
from bridle.inputs import sources
from bridle.media import decode, probe
from bridle.model import Bridle
from bridle.schema import Clip, Modality
from bridle.sharding import Options, shard

RATE_HZ = 16000


@pytest.fixture(scope="module")
def audio_model() -> Bridle:
    return small("audio")


def write_noise(path: Path, seconds: float, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))
    soundfile.write(path, wave.astype(np.float32), RATE_HZ, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names and lengths that trip: windows and a half, less than a patch, Unicode, blanks, dots, two of one name."""
    root = tmp_path_factory.mktemp("recordings")
    for seed, (name, seconds) in enumerate(
        {"a/long.wav": 2.0, "b/long.wav": 0.7, "a/größe 1.5.wav": 0.1, "b/one window.wav": 0.655}.items()
    ):
        write_noise(root / name, seconds, seed)
    (root / "a" / "cut.wav").write_bytes(b"RIFF\x00\x00")
    return root


# --- tokenize ----------------------------------------------------------------------------------------------------


def test_long_audio_goes_through_in_windows_with_times(audio_model: Bridle, recordings: Path) -> None:
    (codes,) = tokenize_inputs(audio_model, [recordings / "a" / "long.wav"])
    assert codes.grid == (12, 2, 1)  # 198 frames: three windows of four steps, and what is less than half a step
    assert codes.levels == 3
    assert codes.times_T == pytest.approx([0.16 * step for step in range(12)])
    assert codes.codes_THWQ.dtype == torch.int16
    assert 0 <= int(codes.codes_THWQ.min()) <= int(codes.codes_THWQ.max()) < 8


def test_a_window_has_the_codes_of_the_part_it_covers(audio_model: Bridle, recordings: Path) -> None:
    wave, _ = soundfile.read(recordings / "a" / "long.wav", dtype="float32")
    part = Clip("k", Modality.AUDIO, torch.from_numpy(wave[10240 : 10240 + 10480]), RATE_HZ)  # the second window
    codes = Pretrained(audio_model).tokenize(part)
    (whole,) = tokenize_inputs(audio_model, [recordings / "a" / "long.wav"])
    assert (codes.codes_THWQ == whole.codes_THWQ[4:8]).all()


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 2), (64, 0)])
def test_neither_batches_nor_threads_change_codes_or_order(
    audio_model: Bridle, recordings: Path, batch_size: int, workers: int
) -> None:
    warnings: list[str] = []
    counts: list[tuple[int, int]] = []

    def listen(kind: str, **fields: Any) -> None:
        if kind == "warning":
            warnings.append(fields["message"])
        else:
            counts.append((fields["done"], fields["total"]))

    with progress.listening(listen):
        found = list(tokenize_inputs(audio_model, [recordings], batch_size=batch_size, workers=workers))
    assert [codes.file for codes in found] == ["a/größe 1.5.wav", "a/long.wav", "b/long.wav", "b/one window.wav"]
    assert [codes.grid[0] for codes in found] == [1, 12, 4, 4]
    for codes in found:
        (alone,) = tokenize_inputs(audio_model, [recordings / codes.file])
        assert (alone.codes_THWQ == codes.codes_THWQ).all()
    assert len(warnings) == 1
    assert "a/cut.wav" in warnings[0]
    assert counts[-1] == (5, 5)


def test_long_media_are_decoded_piece_by_piece(
    audio_model: Bridle, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_noise(recordings.parent / "long" / "minutes.wav", 9.3)
    (whole,) = tokenize_inputs(audio_model, [path])
    decoded: list[float] = []
    decode = sources.decode

    def spy(*args: Any, **options: Any) -> Clip:
        clip = decode(*args, **options)
        decoded.append(len(clip.data) / RATE_HZ)
        return clip

    monkeypatch.setattr(sources, "decode", spy)
    monkeypatch.setattr(sources, "_CHUNK_BYTES", RATE_HZ * 4 * 3)  # three seconds
    (pieces,) = tokenize_inputs(audio_model, [path])
    assert len(decoded) >= 4
    assert max(decoded) < 3.1
    assert pieces.times_T == pytest.approx(whole.times_T)
    assert (pieces.codes_THWQ == whole.codes_THWQ).all()


def test_an_image_has_one_time_and_its_grid(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (codes,) = tokenize_inputs(small("image"), [tmp_path])
    assert (codes.file, codes.grid, codes.times_T) == ("red.png", (1, 4, 4), [0.0])


def test_video_steps_follow_the_clips_own_rate() -> None:
    model = Pretrained(small("video"))
    frames = torch.randint(0, 256, (20, 3, 24, 24), dtype=torch.uint8)
    codes = model.tokenize(Clip("k", Modality.VIDEO, frames, 5.0))
    assert codes.grid == (5, 2, 2)  # two windows of eight frames, and one tubelet of the four that are left
    assert codes.times_T == pytest.approx([0.0, 0.8, 1.6, 2.4, 3.2])
    short = model.tokenize(Clip("k", Modality.VIDEO, frames[:4], 5.0))
    assert short.times_T == pytest.approx([0.0, 0.4])  # sampled more densely than every second frame


# --- bad input ---------------------------------------------------------------------------------------------------


def test_equal_names_below_two_folders_stay_apart(audio_model: Bridle, recordings: Path) -> None:
    one = [codes.file for codes in tokenize_inputs(audio_model, [recordings / "b"])]
    assert one == ["long.wav", "one window.wav"]
    two = [codes.file for codes in tokenize_inputs(audio_model, [recordings / "a", recordings / "b"])]
    assert str(recordings / "a" / "long.wav") in two
    assert len(set(two)) == len(two) == 4


def test_tars_named_one_by_one_are_read_once(audio_model: Bridle, recordings: Path, tmp_path: Path) -> None:
    shard(recordings, Modality.AUDIO, tmp_path / "set", options=Options(max_size_bytes=1))
    tars = sorted((tmp_path / "set").glob("*.tar"))
    assert len(tars) > 1
    assert len(list(tokenize_inputs(audio_model, tars))) == len(list(tokenize_inputs(audio_model, [tmp_path / "set"])))


def test_another_modality_names_both(audio_model: Bridle, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for where in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(DataError, match=r"(?s)(audio.*image|image.*audio)"):
            list(tokenize_inputs(audio_model, [where]))


def test_nothing_readable_is_an_error_that_lists(audio_model: Bridle, tmp_path: Path) -> None:
    (tmp_path / "zero.wav").touch()
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(DataError, match=r"(?s)nothing could be read.*text\.wav.*zero\.wav"):
        list(tokenize_inputs(audio_model, [tmp_path]))
    with pytest.raises(DataError, match="does not exist"):
        list(tokenize_inputs(audio_model, [tmp_path / "gone"]))
    with pytest.raises(UsageError):
        list(tokenize_inputs(audio_model, []))


def test_unknown_videos_are_kept_from_decoders_that_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(tmp_path / "clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 32, 32
        for step in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * step, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    def crash(*_: object) -> None:
        raise SystemExit("decord dies on some damaged files and takes the process along")

    monkeypatch.setattr("bridle.media.video._decord_batches", crash)
    (codes,) = tokenize_inputs(small("video"), [tmp_path])
    assert codes.grid == (2, 2, 2)
    assert codes.times_T == pytest.approx([0.0, 0.4])


def test_a_set_of_headers_is_read_without_decoders_that_crash(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "good.avi").symlink_to(shared_data / "odd" / "cinepak.avi")
    shard(tmp_path / "raw", Modality.VIDEO, tmp_path / "set", options=Options(check="header"))

    def crash(*_: object) -> None:
        raise SystemExit("decord dies on some damaged files and takes the process along")

    monkeypatch.setattr("bridle.media.video._decord_batches", crash)
    assert len(list(tokenize_inputs(small("video"), [tmp_path / "set"]))) == 1


def test_a_sample_that_was_altered_is_skipped_and_told(audio_model: Bridle, recordings: Path, tmp_path: Path) -> None:
    samples = shard(recordings, None, tmp_path / "set")["samples"]
    (tar,) = (tmp_path / "set").glob("*.tar")
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1  # in the first sample's media
    tar.write_bytes(content)
    said: list[str] = []
    with progress.listening(lambda kind, **fields: said.append(str(fields))):
        found = list(tokenize_inputs(audio_model, [tmp_path / "set"]))
    assert len(found) == samples - 1
    assert any("was changed" in text for text in said)


def test_an_untrained_model_has_no_codes(recordings: Path) -> None:
    with pytest.raises(UsageError, match="no codes"):
        list(tokenize_inputs(model := small("audio", fitted=False), [recordings]))
    model.source = "runs/x/checkpoints/step-00000001"
    with pytest.raises(UsageError, match=r"--resume \S*runs/x$"):  # not a new run
        list(tokenize_inputs(model, [recordings]))


# --- Pretrained --------------------------------------------------------------------------------------------------


def test_embed_is_the_mean_of_features(audio_model: Bridle, recordings: Path) -> None:
    model = Pretrained(audio_model)
    features = model.features(recordings / "a" / "long.wav")
    assert features.shape == (12, 2, 1, 16)
    assert torch.allclose(model.embed(str(recordings / "a" / "long.wav")), features.mean((0, 1, 2)), atol=1e-5)
    segments = model.embed(recordings / "a" / "long.wav", "segments")
    assert torch.allclose(segments[:16], features[:3].mean((0, 1, 2)), atol=1e-5)
    with pytest.raises(MediaError, match=r"cut\.wav"):
        model.embed(recordings / "a" / "cut.wav")
    with pytest.raises(DataError, match=r"image.*audio"):
        model.embed(Clip("k", Modality.IMAGE, torch.zeros(3, 8, 8, dtype=torch.uint8)))


def test_a_list_gives_what_its_files_give_and_names_the_one_that_cannot_be_read(
    audio_model: Bridle, recordings: Path
) -> None:
    model = Pretrained(audio_model, batch_size=3, workers=2)
    files = [recordings / "a" / "long.wav", recordings / "b" / "one window.wav", recordings / "b" / "long.wav"]
    vectors_FD = model.embed(files)
    assert vectors_FD.shape == (3, model.width)
    assert torch.allclose(vectors_FD, torch.stack([model.embed(file) for file in files]), atol=1e-6)
    assert [codes.file for codes in model.tokenize(files)] == [str(file) for file in files]
    assert [grid.shape[0] for grid in model.features((*files[1:],))] == [4, 4]
    assert model.embed([]).shape == (0, model.width) and model.tokenize([]) == []
    with pytest.raises(MediaError, match=r"cut\.wav"):
        model.embed([*files, recordings / "a" / "cut.wav"])


def test_half_precision_moves_features_a_little_and_codes_not_at_all(audio_model: Bridle, recordings: Path) -> None:
    exact, half = Pretrained(audio_model), Pretrained(audio_model, torch.bfloat16)
    path = recordings / "a" / "long.wav"
    features, rounded = exact.features(path), half.features(path)
    assert rounded.dtype == torch.float32
    assert 1e-6 < (features - rounded).abs().max() < 0.1
    assert torch.equal(exact.tokenize(path).codes_THWQ, half.tokenize(path).codes_THWQ)


def test_arrays_give_what_their_files_give(audio_model: Bridle, recordings: Path, tmp_path: Path) -> None:
    model, path = Pretrained(audio_model), recordings / "a" / "long.wav"
    wave_S, rate_hz = soundfile.read(path, dtype="float32")
    whole = model.embed(path)
    assert torch.equal(model.embed(wave_S, rate_hz=rate_hz), whole)
    assert torch.equal(model.embed(torch.from_numpy(wave_S), rate_hz=rate_hz), whole)
    assert torch.equal(model.embed(np.stack([wave_S, wave_S]), rate_hz=rate_hz), whole)
    assert torch.equal(model.embed(np.stack([wave_S, wave_S], 1), rate_hz=rate_hz), whole)
    soundfile.write(tmp_path / "slow.wav", wave_S, 22050, subtype="PCM_16")
    integers, slow_hz = soundfile.read(tmp_path / "slow.wav", dtype="int16")
    assert torch.allclose(model.embed(integers, rate_hz=slow_hz), model.embed(tmp_path / "slow.wav"), atol=1e-6)
    assert torch.allclose(model.embed([wave_S, path], rate_hz=rate_hz), whole.expand(2, -1), atol=1e-6)
    for rate in (np.int64(rate_hz), np.float32(rate_hz), Fraction(rate_hz)):
        assert torch.equal(model.embed(wave_S, rate_hz=rate), whole)


def test_a_model_of_one_channel_takes_it_from_arrays_as_from_files(
    audio_model: Bridle, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_model.patcher, "channel", 2)
    wave_S, rate_hz = soundfile.read(recordings / "a" / "long.wav", dtype="float32")
    both_SC = np.stack([wave_S[::-1], wave_S], 1)
    soundfile.write(tmp_path / "both.wav", both_SC, rate_hz, subtype="FLOAT")
    model = Pretrained(audio_model)
    whole = model.embed(wave_S, rate_hz=rate_hz)
    for media in (both_SC, both_SC.T, tmp_path / "both.wav"):
        assert torch.equal(model.embed(media, rate_hz=rate_hz), whole)
    monkeypatch.setattr(audio_model.patcher, "channel", 3)
    with pytest.raises(UsageError, match="has 2 channels, but the model uses channel 3"):
        model.embed(both_SC, rate_hz=rate_hz)


def test_a_waveform_in_another_byte_order_is_the_same(audio_model: Bridle) -> None:
    wave_S = np.random.default_rng(0).uniform(-0.5, 0.5, 9000).astype(np.float32)
    model = Pretrained(audio_model)
    assert torch.equal(model.embed(wave_S.astype(">f4"), rate_hz=RATE_HZ), model.embed(wave_S, rate_hz=RATE_HZ))


def test_nothing_has_vectors_of_the_right_width(audio_model: Bridle) -> None:
    assert Pretrained(audio_model).embed([], "segments").shape == (0, 4 * 16)
    with pytest.raises(UsageError, match="unknown value 'bogus'"):
        Pretrained(audio_model).embed([], "bogus")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="zero byte"):
        Pretrained(audio_model).embed("a\0b.wav")
    with pytest.raises(UsageError, match="'' is not a path"):
        Pretrained(audio_model).embed("")
    with pytest.raises(UsageError, match="unknown value 'None'"):
        Pretrained(audio_model).embed([], None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"device": "nonsense"},
        {"device": None},
        {"dtype": "int8"},
        {"dtype": ["fp32"]},
        {"batch_size": 1.5},
        {"checkpoint": 3},
        {"checkpoint": ""},
        {"checkpoint": "s3://bucket/run"},
    ],
)
def test_what_load_does_not_know_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        bridle.load(**{"checkpoint": "runs/none", **options})


def test_pictures_and_frames_in_memory_give_what_their_files_give(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    model = Pretrained(small("image"))
    whole = model.embed(tmp_path / "photo.png")
    for one in (
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
        Image.open(tmp_path / "photo.png"),
        pixels[::-1][::-1],
    ):
        assert torch.equal(model.embed(one), whole)
    grey = Image.fromarray(pixels[..., 0])
    assert torch.equal(model.embed(pixels[..., 0]), model.embed(grey))
    video, sample = (
        Pretrained(small("video")),
        sorted((Path(__file__).parents[2] / "media" / "video").rglob("*.mp4"))[0],
    )
    clip = decode(sample, probe(sample, sample.name))
    frames_THW3 = clip.data.permute(0, 2, 3, 1).numpy()
    assert torch.equal(video.embed(frames_THW3, rate_hz=clip.rate_hz), video.embed(clip))


def closed() -> Image.Image:
    picture = Image.new("RGB", (60, 40))
    picture.close()
    return picture


@pytest.mark.parametrize(
    ("modality", "array", "rate_hz", "said"),
    [
        ("audio", np.zeros(9000, np.float32), None, "needs its rate in samples per second"),
        ("audio", np.zeros(9000, np.float32), float("inf"), "got inf"),
        ("audio", np.zeros(9000, np.float32), "16000", "got '16000'"),
        ("audio", np.zeros(9000, np.float32), True, "got True"),
        ("audio", np.array(["a", "b"]), 16000, "an array of <U1"),
        ("audio", torch.zeros(9000).to_sparse(), 16000, "this Tensor cannot be used"),
        ("audio", torch.zeros(9000, device="meta"), 16000, "this Tensor cannot be used: .* meta"),
        ("image", closed(), None, "this Image cannot be used: .*closed"),
        ("audio", None, None, "neither a path nor an array"),
        ("video", np.zeros((40, 60, 3), np.uint8), 25.0, "one frame is not a video"),
        ("video", Image.new("RGB", (60, 40)), 25.0, "an image is not video"),
        ("audio", np.zeros((500, 600), np.float32), 16000, r"got \(500, 600\)"),
        ("audio", np.zeros(9000, np.uint8), 16000, "got uint8"),
        ("audio", np.full(9000, np.nan), 16000, "not all finite"),
        ("audio", np.zeros(0, np.float32), 16000, "is empty"),
        ("audio", {"samples": 1}, 16000, "neither a path nor an array, but dict"),
        ("image", np.zeros((40, 60, 3), np.float32), None, "got float32"),
        ("image", np.zeros((40, 60, 4), np.uint8), None, r"got \(40, 60, 4\)"),
        ("video", np.zeros((9, 40, 60, 3), np.uint8), None, "needs its rate in frames per second"),
        ("video", np.zeros((40, 60), np.uint8), 25.0, r"got \(40, 60\)"),
    ],
)
def test_what_cannot_be_such_media_is_refused(modality: str, array: Any, rate_hz: float | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Pretrained(small(modality)).embed(array, rate_hz=rate_hz)
    with pytest.raises(UsageError, match="array 1: "):
        Pretrained(small(modality)).embed([Clip("k", Modality(modality), torch.zeros(1)), array], rate_hz=rate_hz)
