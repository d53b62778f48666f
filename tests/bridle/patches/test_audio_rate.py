"""Audio at any sampling rate and of any scale: the same content gives the same patches and codes."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import standins
import torch
from conftest import Inline
from exports import MEDIA, preprocessing
from standins import SMALL, STATISTICS, Views

from bridle import api, config
from bridle.archive import Manifest
from bridle.config.sections import AudioPatches, Config
from bridle.errors import ConfigError
from bridle.export.standalone import preprocess
from bridle.infer.pretrained import Pretrained
from bridle.init_config.patches import energy_shares, proposed_band
from bridle.inputs import find_sets
from bridle.media import decode, probe
from bridle.model import Bridle
from bridle.patches import AudioPatcher, build_patcher
from bridle.patches.spectrogram import MelFilterbank
from bridle.schema import Clip, Modality
from bridle.stream import ClipStream
from bridle.stream.cache import cache_bytes

PATCHES = {
    "modality": "audio", "mel_bins": 32, "frames": 64, "patch_frames": 16, "patch_mels": 16, "normalise": "clip",
    "range_db": 90.0, "roll": False, "gain_db": 0.0,
}  # fmt: skip
BAT_HZ = 384_000


def voice() -> np.ndarray:
    """Three spoken digits, 16 kHz, largest sample 0.5."""
    files = sorted(path for path in (MEDIA / "audio").rglob("*.*") if path.is_file())[::120]
    wave_S = np.concatenate([decode(file, probe(file, file.name)).data.numpy() for file in files])
    return (0.5 * wave_S / np.abs(wave_S).max()).astype(np.float32)


def model_of(**changes: Any) -> Bridle:
    """An untrained model with codes fitted to speech."""
    torch.manual_seed(0)
    model = Bridle(Config.model_validate({"patches": PATCHES | changes, **SMALL}), STATISTICS)
    wave_S = torch.from_numpy(voice())
    batch = model.patcher([view for view, _ in model.patcher.windows(Clip("v", Modality.AUDIO, wave_S, 16000))])
    model.cold_tokenizer.fit(batch.rows(batch.x_BNP))
    return model.eval()


def patcher_of(**changes: Any) -> AudioPatcher:
    patcher = build_patcher(AudioPatches.model_validate(PATCHES | changes), STATISTICS)
    assert isinstance(patcher, AudioPatcher)
    return patcher


def tone(rate_hz: int, hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def codes_of(model: Bridle, file: Path) -> torch.Tensor:
    return Pretrained(model).tokenize(file).codes_THWQ


GAINS = {"times 4": 4.0, "as integers": 32768.0, **{f"-{db} dB": 10 ** (-db / 20) for db in (10, 20, 30, 40, 60, 100)}}


@pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)
def test_the_scale_of_a_recording_changes_no_code(tmp_path: Path, gain: float) -> None:
    wave_S = voice()
    for name, samples in (("base.wav", wave_S), ("scaled.wav", wave_S * np.float32(gain))):
        soundfile.write(tmp_path / name, samples, 16000, subtype="FLOAT")
    model = model_of()
    base, scaled = (codes_of(model, tmp_path / name) for name in ("base.wav", "scaled.wav"))
    assert len(base.unique()) > 4
    assert torch.equal(base, scaled)


def test_models_from_before_keep_their_clipping_and_floor(tmp_path: Path) -> None:
    """Configurations without `range_db`: samples in 16 bits within [-1, 1], energies of at least 1.19e-7."""
    old = patcher_of(range_db=None)
    assert AudioPatches().range_db is None and old.blank().dtype is torch.int16
    loud = torch.tensor([0.5, 3.0, -3.0, 1e-6] * 4000)
    view = old.prepare(Clip("c", Modality.AUDIO, loud, 16000), None)
    assert view[:4].tolist() == [16384, 32767, -32767, 0]
    silent_TM = old.mel(torch.zeros(1, 800))[0]
    assert torch.allclose(silent_TM, torch.full_like(silent_TM, math.log(1.1920929e-7)))


def test_digital_silence_does_not_outweigh_what_is_heard() -> None:
    """Half of the clip is zeros: the other half keeps at least half of the contrast that it has by itself."""
    wave_S = torch.from_numpy(voice())[:8000]
    padded_S = torch.cat([wave_S, torch.zeros(8000)])
    patcher = patcher_of(frames=96)
    alone, half = (patcher([patcher.prepare(Clip("c", Modality.AUDIO, x, 16000), None)]) for x in (wave_S, padded_S))
    heard = half.x_BNP[:, : alone.x_BNP.shape[1]]
    assert heard.std() > 0.5 * alone.x_BNP.std()
    silent = patcher([patcher.blank()])
    assert not silent.x_BNP.any()  # finite, and nothing to tell


def test_energies_are_cut_off_below_the_range() -> None:
    """A tone and another 60 dB below it: 30 dB of range hide the second, 90 keep it."""
    wave_S = torch.from_numpy(tone(16000, 1000.0) + 1e-3 * tone(16000, 5000.0))
    view = [wave_S[:8000]]
    for range_db, seen in ((30.0, False), (90.0, True)):
        patcher = patcher_of(range_db=range_db, patch_mels=32)
        frame_M = patcher(view).x_BNP[0, 0].view(16, 32)[8]
        band = int(torch.argmax(patcher.mel(torch.from_numpy(tone(16000, 5000.0))[None])[0, 8]))
        assert (bool(frame_M[band] > frame_M.min() + 0.5)) is seen


@pytest.mark.parametrize("rate_hz", [2000, 4000, 8000, 11025, 22050, 44100, 96000, 384_000, 500_000])
def test_a_tone_is_in_its_band_at_every_rate(rate_hz: int) -> None:
    """The band whose triangle peaks nearest to the tone, by Kaldi's formula; 98 frames in a second."""
    hz, mels = 0.3 * rate_hz, 32
    patcher = patcher_of(rate_hz=rate_hz)
    log_TM = patcher.mel(torch.from_numpy(tone(rate_hz, hz))[None])[0]
    low, high, at = (1127 * math.log(1 + f / 700) for f in (20, rate_hz / 2, hz))
    expected = (at - low) / (high - low) * (mels + 1) - 1
    assert abs(int(log_TM[40].argmax()) - expected) <= 0.75
    assert len(log_TM) in (98, 99)  # 99 where a hop of 10 ms is not a whole number of samples
    assert patcher.step_s == pytest.approx(0.16, rel=0.005)


@pytest.mark.parametrize("rate_hz", [2000, 4000, 8000, 22050, 48000, 384_000, 500_000])
def test_no_band_is_empty(rate_hz: int) -> None:
    mel_FM = MelFilterbank(rate_hz, 128).mel_FM
    assert bool((mel_FM > 0).any(0).all())


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["patches.rate_hz=1999"], "greater than or equal to 2000"),
        (["patches.rate_hz=500001"], "less than or equal to 500000"),
        (["patches.rate_hz=4000", "patches.high_hz=2500"], "high_hz 2500 is not between low_hz 20 and 2000"),
        (["patches.rate_hz=4000", "patches.low_hz=2000"], "is not between low_hz 2000 and 2000"),
        (["patches.rate_hz=48000", "patches.normalise=corpus"], "choose clip"),
    ],
)
def test_what_no_rate_can_be_is_refused(sets: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.load("audio-tiny", sets=sets)


@pytest.mark.parametrize(("rate_hz", "high_hz"), [(4000, 0.0), (8000, 0.0), (16000, 4000.0), (48000, 4000.0)])
def test_bands_end_where_recordings_do_at_any_rate(rate_hz: int, high_hz: float) -> None:
    """Recordings of 8 kHz hold nothing above 4 kHz."""
    extent = {"duration_s": [1.0, 2.0, 3.0], "rate_hz": [8000.0] * 3}
    found = config.load("audio-tiny", sets=[f"patches.rate_hz={rate_hz}"], extent=extent).patches
    assert isinstance(found, AudioPatches) and (found.rate_hz, found.high_hz) == (rate_hz, high_hz)


@pytest.fixture(scope="module")
def bats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of eight recordings at 384 kHz whose sound is all above 30 kHz, each 1 s with two pulses."""
    root = tmp_path_factory.mktemp("bats")
    (root / "raw").mkdir()
    for number in range(8):
        wave_S = 1e-4 * np.random.default_rng(number).standard_normal(BAT_HZ).astype(np.float32)
        for start in (number * 20_000, 200_000 + number * 10_000):
            wave_S[start : start + 20_000] += np.hanning(20_000) * tone(BAT_HZ, 30_000.0 + 3000 * number)[:20_000]
        soundfile.write(root / "raw" / f"{number}.wav", wave_S, BAT_HZ)
    with pytest.MonkeyPatch.context() as patch:  # in this process
        patch.setattr(import_module("bridle.sharding.build"), "Workers", Inline)
        api.shard(root / "raw", out=root / "shards")
    return root


def small_sets(**changes: Any) -> list[str]:
    """audio-tiny, for runs of a second."""
    small = {f"{section}.{key}": value for section, keys in SMALL.items() for key, value in keys.items()}
    patches = {f"patches.{key}": value for key, value in (PATCHES | changes).items() if key != "modality"}
    rest = {
        "tokenizer.estimator_depth": 1, "optim.batch_size": 4, "train.log_every": 1, "train.precision": "float32",
        "schedule.cold": 2, "schedule.tokenizer": 1, "tokenizer.depth": 1, "train.probe_every": 0,
    }  # fmt: skip
    return [f"{key}={value}" for key, value in (small | patches | rest).items()]


def test_a_run_at_384_khz_hears_what_16_khz_cannot(bats: Path) -> None:
    out, file = bats / "run", bats / "raw" / "7.wav"
    recipe = api.Recipe(preset="audio-tiny", sets=tuple(small_sets(rate_hz=BAT_HZ)))
    assert api.pretrain(bats / "shards", recipe=recipe, out=out, steps=3, device="cpu")["steps"] == 3
    model = api.load(out)
    assert model.embed(file).isfinite().all()
    wave_S, _ = soundfile.read(file, dtype="float32")
    codes = model.tokenize(file)
    assert torch.equal(model.tokenize(wave_S, rate_hz=BAT_HZ).codes_THWQ, codes.codes_THWQ)
    assert codes.times_T == pytest.approx([0.16 * step for step in range(len(codes.times_T))], abs=1e-6)

    def loud_frames(patcher: AudioPatcher) -> int:
        view = patcher.windows(decode(file, probe(file, file.name), rate_hz=patcher.rate_hz))[0][0]
        power_T = patcher.mel(view.float()[None])[0].exp().sum(-1)
        return int((power_T > 0.1 * power_T.max()).sum())

    # The pulse in this window takes 52 ms: 3 to 7 frames; without its band there is the noise alone.
    assert 3 <= loud_frames(patcher_of(rate_hz=BAT_HZ)) <= 7
    assert loud_frames(patcher_of()) > 50


@pytest.mark.parametrize(("workers", "cache_gb"), [(0, 0.0), (2, 1.0)])
def test_the_stream_decodes_at_the_rate_of_the_run(bats: Path, workers: int, cache_gb: float) -> None:
    """Every window is a piece of the file's own samples, to the bit; cached in twice the memory of 16 bits."""
    patcher, manifests = patcher_of(rate_hz=BAT_HZ), find_sets(bats / "shards")

    def prepare(clip: Clip, rng: torch.Generator | None) -> torch.Tensor:
        return torch.cat([clip.data, torch.tensor([round(clip.start_s * BAT_HZ)])])

    views = Views(prepare, patcher.window_s, patcher.rate_hz, patcher.exact)
    stream = ClipStream(manifests, views, batch_size=4, workers=workers, cache_gb=cache_gb)
    assert stream.cached is bool(cache_gb)
    sources = [soundfile.read(file, dtype="float32")[0] for file in sorted((bats / "raw").iterdir())]
    batches = stream.batches()
    for batch in itertools.islice(batches, 4):
        for *window_S, start in (view.numpy() for view in batch.tensors):
            assert len(window_S) == round(0.655 * BAT_HZ)
            assert any(np.array_equal(wave_S[int(start) :][: len(window_S)], window_S) for wave_S in sources)
    batches.close()
    assert cache_bytes(manifests[0].decoded_bytes, BAT_HZ, True) == 8 * BAT_HZ * 4
    # 12.3 MB; at 16 kHz and in 16 bits they would be 0.26.
    assert not ClipStream(manifests, views, batch_size=4, cache_gb=0.01).cached


NEAREST = {(44101, 16000): (328, 119), (48000, 44101): (357, 328)}  # of ratios with large terms, as in decoding


@pytest.mark.parametrize(
    "rates",
    [(44100, 16000), (8000, 16000), (16000, 384_000), (312_500, 16000), (22050, 96000), (500_000, 2000), *NEAREST],
    ids=str,
)
def test_exports_resample_as_torchaudio_does(rates: tuple[int, int]) -> None:
    import torchaudio

    from_hz, to_hz = NEAREST.get(rates, rates)
    for samples in (1, 7, 4001):
        wave_S = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
        expected = torchaudio.transforms.Resample(from_hz, to_hz, dtype=torch.float32)(torch.from_numpy(wave_S)).numpy()
        found = preprocess.resample(wave_S, *rates)
        assert len(found) == len(expected) == -(-samples * to_hz // from_hz)
        assert np.abs(found - expected).max() < 3e-6
    assert len(preprocess.resample(np.zeros(0, np.float32), *rates)) == 0


@pytest.mark.parametrize("rate_hz", [2000, 16000, 22050, 96000])
@pytest.mark.parametrize("changes", [{}, {"range_db": None}, {"low_hz": 300.0, "high_hz": 900.0}])
def test_exported_preprocessing_makes_the_same_patches_at_any_rate(
    tmp_path: Path, rate_hz: int, changes: dict[str, Any]
) -> None:
    """A file at 44.1 kHz: the library decodes and resamples it, `preprocess.py` gets its samples."""
    wave_S = preprocess.resample(voice(), 16000, 44100)
    soundfile.write(tmp_path / "clip.wav", wave_S, 44100, subtype="FLOAT")
    model = model_of(rate_hz=rate_hz, **changes)
    clip = decode(tmp_path / "clip.wav", probe(tmp_path / "clip.wav", "clip.wav"), rate_hz=rate_hz)
    batch = model.patcher([view for view, _ in model.patcher.windows(clip)])
    folder = preprocessing(model, tmp_path)
    found = preprocess.inputs(wave_S, folder, rate_hz=44100)
    assert found["patches"].shape == tuple(batch.x_BNP.shape) and batch.x_BNP.abs().max() > 1
    # Bands without energy show the last bits of float32, and such a bit can be a whole step of 16 bits.
    assert np.abs(found["patches"] - batch.x_BNP.numpy()).max() < (0.05 if "range_db" in changes else 1e-2)
    assert np.array_equal(found["valid"], batch.valid_BN.numpy())
    plain = preprocess.inputs(clip.data.numpy(), folder)
    assert np.abs(plain["patches"] - batch.x_BNP.numpy()).max() < 2e-4


SHARES = {"1000": 1.0, "8000": 0.995, "16000": 0.99, "22050": 0.98, "48000": 0.06, "96000": 0.01, "192000": 0.0}


@pytest.mark.parametrize(
    ("recorded_hz", "shares", "expected"),
    [
        (384_000, SHARES, {"rate_hz": 192_000, "low_hz": 8000.0, "normalise": "clip"}),
        (44_100, {"8000": 0.3, "16000": 0.1, "22050": 0.0}, {"rate_hz": 44_100, "low_hz": 20.0, "normalise": "clip"}),
        (96_000, {"8000": 0.2, "16000": 0.04, "22050": 0.02}, {"rate_hz": 32_000, "low_hz": 20.0, "normalise": "clip"}),
        (44_100, {"8000": 0.02, "16000": 0.01}, {}),
        (44_100, {}, {}),
        (16_000, {"4000": 0.2, "8000": 0.0}, {}),
        (4_000, {}, {"rate_hz": 4000, "low_hz": 20.0, "normalise": "clip"}),
        (500, {}, {"rate_hz": 2000, "low_hz": 20.0, "normalise": "clip"}),
    ],
)
def test_the_proposed_rate_keeps_the_energy(
    recorded_hz: float, shares: dict[str, float], expected: dict[str, Any]
) -> None:
    extent = {"duration_s": [1.0, 2.0, 3.0], "rate_hz": [recorded_hz] * 3}
    assert proposed_band(AudioPatches(), extent, shares) == expected


def test_shares_of_several_sets_count_their_samples() -> None:
    def manifest(samples: int, **statistics: Any) -> Manifest:
        return Manifest("s", Modality.AUDIO, [], samples, 0, statistics=statistics)

    one = manifest(30, energy_above_hz={"8000": 0.5, "16000": 0.2})
    two = manifest(10, energy_above_hz={"8000": 0.1, "16000": 0.0})
    assert energy_shares([one, two, manifest(99)]) == pytest.approx({"8000": 0.4, "16000": 0.15})
    assert energy_shares([manifest(9)]) == energy_shares([manifest(9, energy_above_hz={"a": 1, "8000": "b"})]) == {}


def test_init_proposes_the_rate_of_bats_and_the_file_trains(bats: Path, tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    for file in (bats / "shards").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["statistics"]["energy_above_hz"] = SHARES
    (folder / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "bridle.yaml"
    for preset in ("audio-tiny", "audio-base"):
        api.init(folder, out=out, preset=preset, device="cpu", overwrite=True)
        patches = config.load(file=out).patches
        assert isinstance(patches, AudioPatches)
        assert (patches.rate_hz, patches.low_hz, patches.normalise) == (192_000, 8000.0, "clip")
        text = " ".join(out.read_text().replace("#", "").split())
        assert "nothing above 96,000 Hz is used" in text and "6 % above 48,000 Hz, 1 % above 96,000 Hz" in text


def test_models_from_before_keep_their_fingerprint() -> None:
    """It is in the header of every index and codes file: the hash is that of the keys that they had."""
    model = standins.small("audio")
    patches = model.config.patches.model_dump(mode="json")
    assert (patches.pop("low_hz"), patches.pop("range_db")) == (20.0, None)
    digest = hashlib.sha256(json.dumps([patches, model.statistics], sort_keys=True).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes())
    assert model.fingerprint() == digest.hexdigest()
    other = standins.small("audio", patches={**standins.PATCHES["audio"], "low_hz": 40.0})
    other.load_state_dict(model.state_dict())
    assert other.fingerprint() != model.fingerprint()
