"""Speed and memory of the data plane, beside the plainest tools that do the same work.

    python benchmarks/data.py [shard-small shard-large decode fbank start dry-run] [--data FOLDER] [--rounds 3] [--json]

shard-*  `bridle shard` without transcoding, beside `tar cf` and `sha256sum` of the same files, all in the page cache.
decode   a whole epoch through `ClipStream`, beside a loop that only calls the decoding library on bytes in memory.
fbank    our filterbank on a batch, beside `torchaudio.compliance.kaldi.fbank` clip by clip.
start    the first batch of 1,000,000 samples in 1,000 tars in a fresh process, from the beginning and from 90 %.
dry-run  the plan of a folder of 100,000 files in a fresh process.

The sides of a comparison take turns in one run; figures are medians. Sharding and starting are timed by the clock;
decoding and features, which are one thread each, by the processor's time, so that other work on the machine does not
decide. FOLDER holds real files: audio_digits (wav), audio_game_voices (ogg), image_objects, photos (jpg) and
video_motion (mp4), each with one folder a class; what is not there is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SAMPLES, SHARDS = 1_000_000, 1_000
DRY_FILES = 100_000
COPIES = 2  # of the small files, so that what is paid once for a set does not hide what is paid for a file
LARGE, LARGE_BYTES = 200, 2_000_000
# In place of a patcher: whole clips as they are decoded.
PLAIN: Any = SimpleNamespace(
    prepare=lambda clip, rng: clip.data,
    window_s=lambda info: None,
    rate_hz=16_000,
    exact=False,
    pixel_rules=None,
    channel=None,
)
_STATISTICS = 1000  # files that sharding measures whatever the size of the set


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: what it is held against, ours, how they compare, and the goal."""

    part: str
    case: str
    reference: str
    ours: str
    result: str
    goal: str


def main() -> None:
    """Prints one row a measurement as soon as it is there; with `--json` all of them at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of real files, see above")
    parser.add_argument(
        "--temp", type=Path, help="where 3 GB can be written; kept there is the simulated set of `start`"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, *values = arguments.child
        print(json.dumps({"first-batch": first_batch, "plan": plan}[name](*values)))
        return
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    rows = []
    if not arguments.json:
        print("| part | case | reference | ours | result | goal |", "|---|---|---|---|---|---|", sep="\n", flush=True)
    for part in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=arguments.temp) as folder:
            for row in PARTS[part](arguments, Path(folder)):
                rows.append(asdict(row))
                if not arguments.json:
                    print(f"| {' | '.join(rows[-1].values())} |", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))


def medians(sides: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each side; they take turns, and the first turn warms up."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, run in sides.items():
            start = clock()
            run()
            if number:
                seconds[side].append(clock() - start)
    return {side: statistics.median(values) for side, values in seconds.items()}


# shard


def measure_shard_small(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Thousands of real recordings of some kilobytes."""
    digits = arguments.data / "audio_digits"
    if digits.exists():
        raw = small_files(digits, folder / "small")
        case = f"{len(list(raw.iterdir()))} sounds of 9 kB"
        yield from shard_rows(case, raw, 3 * _STATISTICS // 2, folder, arguments.rounds)


def measure_shard_large(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """As many bytes as a tar or two hold."""
    case = f"{LARGE} sounds of {LARGE_BYTES / 1e6:g} MB"
    yield from shard_rows(case, large_files(folder / "large"), 1, folder, arguments.rounds)


def shard_rows(case: str, raw: Path, head: int, folder: Path, rounds: int) -> Iterator[Row]:
    """Whole times, and the rate beyond what is paid once for a set: starting processes and the corpus statistics.

    Args:
        case: what lies in `raw`.
        raw: folder of files.
        head: so many files that all of what is paid once is paid for them.
        folder: to work in.
        rounds: turns of each side.
    """
    some = folder / "head"
    some.mkdir()
    for path in sorted(raw.iterdir())[:head]:
        os.link(path, some / path.name)
    for check, workers in (("header", 1), ("header", 2), ("full", 2)):
        yield shard_row(case, raw, some, check, workers, folder, rounds)


def shard_row(case: str, raw: Path, head: Path, check: str, workers: int, folder: Path, rounds: int) -> Row:
    """Sharding of `raw`, and of its first few files, beside tar and sha256sum of both."""
    sides: dict[str, Callable[[], Any]] = {}
    for name, files in (("whole", raw), ("head", head)):
        sides[f"tar {name}"] = lambda files=files: tar_and_hash(files, folder / "plain.tar")
        sides[f"ours {name}"] = lambda files=files: shard_all(files, folder / "set", check, workers)
    taken = medians(sides, rounds, time.perf_counter)
    plain, ours = taken["tar whole"], taken["ours whole"]
    beyond = (plain - taken["tar head"]) / (ours - taken["ours head"])
    return Row(
        "shard",
        f"{case}, --check {check}, {workers} worker{'s' * (workers > 1)}",
        f"tar + sha256sum {plain:.2f} s",
        f"{ours:.2f} s, of it {taken['ours head']:.2f} s for the first {len(list(head.iterdir()))}",
        f"{plain / ours:.0%} of the rate, {beyond:.0%} beyond the first",
        "70 % (header)",
    )


def shard_all(raw: Path, out: Path, check: str, workers: int) -> None:
    from bridle.sharding import shard
    from bridle.sharding.options import Options

    shard(raw, out=out, options=Options(check=check), workers=workers, overwrite=True)  # type: ignore[arg-type]


def tar_and_hash(raw: Path, tar: Path) -> None:
    """What a careful person would do by hand: one archive, and a hash of each file."""
    subprocess.run(["tar", "cf", tar, "-C", raw.parent, raw.name], check=True)
    find = subprocess.Popen(["find", raw, "-type", "f", "-print0"], stdout=subprocess.PIPE)
    subprocess.run(["xargs", "-0", "sha256sum"], stdin=find.stdout, stdout=subprocess.DEVNULL, check=True)
    find.wait()


def small_files(source: Path, folder: Path) -> Path:
    """Real recordings, each several times with another last sample, so that no two files are the same."""
    folder.mkdir()
    for path in sorted(source.rglob("*.wav")):
        content = path.read_bytes()
        for copy in range(COPIES):
            (folder / f"{path.stem}-{copy}.wav").write_bytes(content[:-2] + copy.to_bytes(2, "little"))
    return folder


def large_files(folder: Path) -> Path:
    """A minute of 16 kHz noise each."""
    import soundfile

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(LARGE):
        wave = rng.integers(-3000, 3000, LARGE_BYTES // 2, dtype=np.int16)
        soundfile.write(folder / f"{number:04d}.wav", wave, 16000)
    return folder


# decode


def measure_decode(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Through the stream: index, order, read, description, checksum, decode, batch. Beside it: decode."""
    import torch

    torch.set_num_threads(1)
    data = arguments.data
    kinds = [
        ("wav 8 kHz, 0.4 s (resampled)", sorted((data / "audio_digits").rglob("*.wav"))[::3], bare_audio),
        ("ogg, 1 s (resampled)", sorted((data / "audio_game_voices").rglob("*.ogg"))[:600], bare_audio),
        ("flac 16 kHz, 10 s", flac_files(folder / "flac"), bare_audio),
        ("jpg 32 x 32", sorted((data / "image_objects").rglob("*.jpg"))[::5], bare_image),
        ("jpg 640 x 480", sorted((data / "photos").rglob("*.jpg")) * 40, bare_image),
        ("mp4 112 x 112, 24 frames", sorted((data / "video_motion").rglob("*.mp4"))[::8], bare_video),
    ]
    for number, (case, files, bare) in enumerate(kinds):
        if files:
            yield decode_row(case, files, bare, folder / str(number), arguments.rounds)


def decode_row(case: str, files: list[Path], bare: Callable[[bytes], Any], folder: Path, rounds: int) -> Row:
    """One epoch of each side a turn."""
    from bridle.inputs import find_sets
    from bridle.stream import ClipStream

    raw = folder / "raw"
    raw.mkdir(parents=True)
    for number, path in enumerate(files):
        os.symlink(path.resolve(), raw / f"{number:05d}{path.suffix}")
    shard_all(raw, folder / "set", "full", 2)
    contents = [path.read_bytes() for path in files]
    stream = ClipStream(find_sets(folder / "set"), PLAIN, batch_size=50)
    assert stream.samples == len(contents)
    batches = stream.batches()

    def ours() -> None:
        for _ in range(0, stream.samples, stream.batch_size):
            next(batches)
        assert not stream.failures

    def plain(kept: int) -> None:
        batch = []
        for one in contents:
            batch.append(bare(one))
            if len(batch) >= kept:
                batch.clear()

    sides = {"dropped": lambda: plain(1), "kept": lambda: plain(stream.batch_size), "ours": ours}
    taken = medians(sides, rounds, time.process_time)
    steps = len(range(0, stream.samples, stream.batch_size)) * stream.batch_size / stream.samples
    dropped, kept = (1e6 * taken[side] / len(files) for side in ("dropped", "kept"))
    mine = 1e6 * taken["ours"] / steps / len(files)
    return Row(
        "decode",
        f"{len(files)} x {case}",
        f"bare {dropped:.0f} us a clip; {kept:.0f} us when {stream.batch_size} clips are kept, as a batch does",
        f"{mine:.0f} us",
        f"{dropped / mine:.0%}; {kept / mine:.0%} of the loop that keeps them",
        "90 %",
    )


def bare_audio(raw: bytes) -> Any:
    """The two libraries' calls that give 16 kHz."""
    import soundfile
    import torch
    import torchaudio.functional

    wave, rate_hz = soundfile.read(io.BytesIO(raw), dtype="float32", always_2d=True)
    wave_S = torch.from_numpy(wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1))
    return torchaudio.functional.resample(wave_S, rate_hz, 16000)


def bare_image(raw: bytes) -> Any:
    import torch
    import torchvision.io as vision

    return vision.decode_jpeg(torch.frombuffer(bytearray(raw), dtype=torch.uint8), mode=vision.ImageReadMode.RGB)


def bare_video(raw: bytes) -> Any:
    import decord

    reader = decord.VideoReader(io.BytesIO(raw), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


def flac_files(folder: Path) -> list[Path]:
    """Ten seconds of coloured noise each, about as compressible as speech."""
    import soundfile

    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.flac" for number in range(100)]
    for path in paths:
        wave = np.convolve(rng.standard_normal(160_000), np.hanning(32))[:160_000]
        soundfile.write(path, 0.02 * wave, 16000, subtype="PCM_16")
    return paths


# fbank


def measure_fbank(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Same numbers, same thread."""
    import torch
    from torchaudio.compliance.kaldi import fbank

    from bridle.patches.spectrogram import MelFilterbank

    torch.set_num_threads(1)
    ours = MelFilterbank()
    for length_s, clips in ((0.5, 128), (1.0, 64), (2.0, 64), (10.0, 16)):
        wave_BS = 0.1 * torch.randn(clips, round(16000 * length_s), generator=torch.Generator().manual_seed(0))

        def theirs(wave_BS: torch.Tensor = wave_BS) -> torch.Tensor:
            settings = {"htk_compat": True, "use_energy": False, "window_type": "hanning", "dither": 0.0}
            return torch.stack([fbank(wave_S[None], num_mel_bins=128, **settings) for wave_S in wave_BS])

        assert (ours(wave_BS) - theirs()).abs().max() < 1e-2
        sides = {"theirs": theirs, "ours": lambda wave_BS=wave_BS: ours(wave_BS)}
        taken = medians(sides, 3 * arguments.rounds, time.process_time)
        each = {side: 1e3 * seconds / clips for side, seconds in taken.items()}
        yield Row(
            "fbank",
            f"{clips} clips of {length_s:g} s, 128 bands",
            f"kaldi.fbank {each['theirs']:.2f} ms a clip",
            f"{each['ours']:.2f} ms",
            f"{each['theirs'] / each['ours']:.1f} x",
            "5 x",
        )


# start


def measure_start(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Clock and memory of fresh processes."""
    made = (arguments.temp or folder) / f"simulated-{SAMPLES}-{SHARDS}"
    if not (made / "manifest.json").exists():
        simulate(made)
    for case, position in (("from the beginning", 0), ("from 90 % of the epoch", round(0.9 * SAMPLES))):
        for workers in (0, 1):
            runs = [child("first-batch", made, position, workers) for _ in range(arguments.rounds)]
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            yield Row(
                "start",
                f"{SAMPLES} samples in {SHARDS} tars, {case}, {workers} workers",
                "",
                f"{middle['import_s']:.1f} s to import, then {middle['first_s']:.2f} s to the first batch",
                f"{middle['first_s']:.2f} s; {middle['peak_mb']:.0f} MB, worker {middle['worker_mb']:.0f} MB",
                "5 s, 1000 MB",
            )


def simulate(folder: Path) -> None:
    """Real tars, index and manifest of a million hundredths of a second."""
    import soundfile

    from bridle.archive import TarWriter, save_index
    from bridle.archive.manifest import FILE, Manifest
    from bridle.schema import Modality

    folder.mkdir(parents=True)
    file = io.BytesIO()
    soundfile.write(file, np.zeros(160, np.int16), 16000, format="WAV")
    rows: list[np.ndarray] = []
    writer = TarWriter(folder, "simulated", 10**9, on_close=lambda shard, rows_N: rows.append(rows_N))
    meta = {"modality": "audio", "suffix": "wav", "duration_s": 0.01, "rate_hz": 16000.0, "channels": 1}
    for number in range(SAMPLES):
        writer.add(f"{number:024x}", "wav", file.getvalue(), {"path": f"{number // 1000}/{number}.wav", **meta})
        if (number + 1) % (SAMPLES // SHARDS) == 0:
            writer.close()
    rows_N = np.concatenate(rows)
    save_index(folder, writer.shards, rows_N)
    manifest = Manifest(
        name="simulated",
        modality=Modality.AUDIO,
        shards=writer.shards,
        samples=SAMPLES,
        bytes=sum(shard.bytes for shard in writer.shards),
        statistics={"fbank_mean": 0.0, "fbank_std": 1.0},
        extent={"duration_s": [0.01] * 3, "rate_hz": [16000.0] * 3},
        decoded_bytes=320 * SAMPLES,
    )
    (folder / FILE).write_text(manifest.to_json())


def first_batch(folder: str, position: str, workers: str) -> dict[str, float]:
    """What a training process does before its first step, as far as data goes."""
    start = time.perf_counter()
    from bridle.config.sections import DataSection
    from bridle.inputs import find_sets
    from bridle.stream import ClipStream

    imported = time.perf_counter()
    stream = ClipStream(
        find_sets(Path(folder)),
        PLAIN,
        batch_size=64,
        workers=int(workers),
        cache_gb=DataSection().cache_gb,
    )
    stream.load({"epoch": 0, "position": int(position), "samples": SAMPLES})
    batches = stream.batches()
    assert len(next(batches).tensors) == 64
    done = time.perf_counter()
    for _ in range(20):
        next(batches)
    return {
        "import_s": imported - start,
        "first_s": done - imported,
        "peak_mb": memory_mb("self", "VmHWM"),
        "worker_mb": max((memory_mb(process, "VmHWM") for process in children()), default=0.0),
    }


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def memory_mb(process: str, field: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) / 1e3


def child(name: str, *values: object) -> dict[str, float]:
    """A part of this script in a process of its own."""
    command = [sys.executable, __file__, "--child", name, *map(str, values)]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return answer


# dry-run


def measure_dry_run(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Clock and memory of fresh processes."""
    raw = folder / "raw"
    raw.mkdir()
    for number in range(DRY_FILES):
        (raw / f"{number:06d}.wav").write_bytes(b"RIFF")
    runs = [child("plan", raw) for _ in range(arguments.rounds)]
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    yield Row(
        "dry-run",
        f"{DRY_FILES} files in one folder",
        f"{middle['before_mb']:.0f} MB after import",
        f"{middle['seconds']:.2f} s",
        f"{middle['peak_mb']:.0f} MB at most",
        "",
    )


def plan(raw: str) -> dict[str, float]:
    """`bridle shard --dry-run`."""
    from bridle.sharding import shard

    before, start = memory_mb("self", "VmRSS"), time.perf_counter()
    found = shard(Path(raw), dry_run=True)
    assert found["candidates"] == DRY_FILES
    return {
        "seconds": time.perf_counter() - start,
        "before_mb": before,
        "peak_mb": memory_mb("self", "VmHWM"),
    }


PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Row]]] = {
    "shard-small": measure_shard_small,
    "shard-large": measure_shard_large,
    "decode": measure_decode,
    "fbank": measure_fbank,
    "start": measure_start,
    "dry-run": measure_dry_run,
}


if __name__ == "__main__":
    main()
