"""How fast tokens are made: many files beside the tokenizer's bare forward, and one clip beside `import torch`.

    python benchmarks/tokenizing.py [batch] [start] [threads] [--model audio-small ...] [--clips 64] [--rounds 5]

batch: the tokenizer alone on patches that are ready; the same with patches made (spectrograms, normalising); from
decoded clips (windows, copies); the whole of `bridle tokenize FOLDER --out FILE` inside a process that has loaded the
model, with processes that decode. start: the command for one clip of ten seconds, process start included, beside
`python -c "import torch"` plus the bare forward.
threads: the same files decoded ahead by threads and by processes. Sides take turns; figures are medians, and ratios
are what counts. Weights are random: the speed does not know.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from bridle import api
from bridle import config as configs
from bridle.checkpoint import save_model, snapshot
from bridle.infer import Failures, How, encode, encode_listed, modality_of, write_tokens
from bridle.infer.encode import BATCH_SIZE
from bridle.inputs import Listing
from bridle.inputs.sources import Source, windows_of
from bridle.media import decode, probe
from bridle.model import Bridle
from bridle.schema import PatchBatch

STATISTICS = {"fbank_mean": -6.0, "fbank_std": 4.0, "pixel_mean": [0.45] * 3, "pixel_std": [0.25] * 3, "rate_hz": 12.0}
MEDIA = Path(__file__).parent.parent / "tests" / "media"
RATE_HZ, CLIP_S = 16000, 10.0
Sides = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of batch, start, threads; all when none is named")
    parser.add_argument("--model", action="append", help="presets; default: audio-tiny, audio-small, image-small")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for part in arguments.parts or ("batch", "threads", "start"):
        for preset in arguments.model or ("audio-tiny", "audio-small", "image-small"):
            with tempfile.TemporaryDirectory() as folder:
                PARTS[part](preset, Path(folder), arguments)


def batch(preset: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Bare, from clips, from files to a file."""
    model, files = made(preset, folder, arguments)
    rate_hz = model.patcher.rate_hz
    clips = []
    for number in range(len(files)):
        source = files.source(number)
        info = probe(source.data, source.path)  # type: ignore[arg-type]
        clips.append(Source(source.path, decode(source.data, info, rate_hz=rate_hz)))  # type: ignore[arg-type]
    views = [view.view for one in clips for view in windows_of(one, model.patcher, info.modality)]
    batches = [model.patcher(views[start : start + BATCH_SIZE]) for start in range(0, len(views), BATCH_SIZE)]

    def to_file() -> None:
        how = How(workers=arguments.workers)
        inputs = [folder / "media"]
        write_tokens(model, inputs, folder / "c.codes", how, overwrite=True)

    def with_patches() -> None:
        for start in range(0, len(views), BATCH_SIZE):
            bare(model, [model.patcher(views[start : start + BATCH_SIZE])])

    sides: Sides = {
        "bare": lambda: bare(model, batches),
        "patches": with_patches,
        "clips": lambda: list(encode(model, clips, lambda batch: (model.tokenize(batch),), failures=Failures())),
        "files": to_file,
    }
    for what, clock in (("time", time.perf_counter), ("processor time", processor_s)):
        medians = race(sides, arguments, clock)
        share = {side: f"{100 * medians['bare'] / taken:.0f} %" for side, taken in medians.items()}
        print(
            f"batch {preset}, {what}: {len(views)} windows of {batches[0].x_BNP.shape[1]} patches, bare "
            f"{len(views) / medians['bare']:.1f} windows/s; with patches made {share['patches']}, from clips "
            f"{share['clips']}, files to .codes {share['files']}",
            flush=True,
        )


def threads(preset: str, folder: Path, arguments: argparse.Namespace) -> None:
    """The same work with either kind of decoder ahead."""
    model, files = made(preset, folder, arguments)
    workers, numbers = arguments.workers, range(len(files))

    def forward(patches: PatchBatch) -> tuple[torch.Tensor]:
        return (model.tokenize(patches),)

    def with_threads() -> None:
        sources = (files.source(number) for number in numbers)
        list(encode(model, sources, forward, failures=Failures(), workers=workers))

    def with_processes() -> None:
        list(encode_listed(model, files, numbers, forward, failures=Failures(), workers=workers))

    medians = race({"threads": with_threads, "processes": with_processes}, arguments)
    print(f"threads {preset}: {workers} processes take {medians['processes'] / medians['threads']:.2f} of the time of "
          f"{workers} threads", flush=True)  # fmt: skip


def start(preset: str, folder: Path, arguments: argparse.Namespace) -> None:
    """One clip, from the shell."""
    arguments.clips = 1
    model, files = made(preset, folder, arguments)
    source = files.source(0)
    views = [view.view for view in windows_of(source, model.patcher, modality_of(model))]
    batches = [model.patcher(views)]
    command = [sys.executable, "-m", "bridle_cli", "tokenize", str(source.data), "--checkpoint", str(folder / "model")]
    sides: Sides = {
        "torch": lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True),
        "bare": lambda: bare(model, batches),
        "command": lambda: subprocess.run([*command, "--json"], check=True, capture_output=True),
        "bridle": lambda: subprocess.run([sys.executable, "-c", "import bridle"], check=True),
        "python": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
    }
    for what, clock in (("time", time.perf_counter), ("processor time", processor_s)):
        seconds = race(sides, arguments, clock)
        least = seconds["torch"] + seconds["bare"]
        print(
            f"start {preset}, {what}: import torch {seconds['torch']:.2f} s, bare forward {seconds['bare']:.3f} s, the "
            f"command {seconds['command']:.2f} s: {seconds['command'] / least:.2f} x; import bridle "
            f"{seconds['bridle'] - seconds['python']:.3f} s",
            flush=True,
        )


def made(preset: str, folder: Path, arguments: argparse.Namespace) -> tuple[Bridle, Listing]:
    """A model with codebooks, on disk too, and the files it is tried on."""
    torch.manual_seed(0)
    model = Bridle(configs.load(preset), STATISTICS).eval()
    for tokenizer in (model.tokenizer, model.cold_tokenizer):
        tokenizer.quantizer.initialised.fill_(True)
    model.learned.fill_(True)
    (folder / "model").mkdir()
    save_model(snapshot(model), folder / "model")
    model = api.load(folder / "model", device=arguments.device).model
    modality = modality_of(model)
    media = folder / "media"
    media.mkdir()
    noise = np.random.default_rng(0)
    for number in range(arguments.clips):
        if preset.startswith("audio"):
            wave = 0.1 * noise.standard_normal(round(CLIP_S * RATE_HZ))
            soundfile.write(media / f"{number:04}.flac", wave.astype(np.float32), RATE_HZ)
        else:
            picture = noise.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(picture).resize((640, 480)).save(media / f"{number:04}.jpg")
    return model, Listing([media], modality)


@torch.inference_mode()
def bare(model: Bridle, batches: list[PatchBatch]) -> None:
    for batch in batches:
        model.quantize(batch)


def processor_s() -> float:
    """Of this process and those it has waited for: what a busy machine leaves as it is."""
    return sum(os.times()[:4])


def race(
    sides: Sides, arguments: argparse.Namespace, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each; they take turns, and the first turn warms up."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(arguments.rounds + 1):
        for side, work in sorted(sides.items(), reverse=bool(number % 2)):
            began = clock()
            work()
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            if number:
                seconds[side].append(clock() - began)
    return {side: statistics.median(taken) for side, taken in seconds.items()}


PARTS = {"batch": batch, "start": start, "threads": threads}

if __name__ == "__main__":
    main()
