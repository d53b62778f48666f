"""How fast `bridle eval` extracts features, beside the encoder's bare forward on the same batches.

    python benchmarks/extraction.py [audio] [image] [video] [--preset small] [--clips 64] [--rounds 7]

bare: the encoder alone, on patches that are ready. extraction: from decoded clips to pooled vectors, with the windows,
spectrograms or pixels, copies and pooling. with decoding: from the files. All take turns; figures are medians, and the
ratios are what counts. The clips are those of tests/media, again and again.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bridle import config as configs
from bridle.evaluate.dataset import Labelled
from bridle.evaluate.features import extract_vectors
from bridle.inputs import Source
from bridle.media import decode, probe
from bridle.model import Bridle
from bridle.schema import PatchBatch

MEDIA = Path(__file__).parent.parent / "tests" / "media"
STATISTICS = {"fbank_mean": -6.0, "fbank_std": 4.0, "pixel_mean": [0.45] * 3, "pixel_std": [0.25] * 3, "rate_hz": 12.0}
BATCH = 64  # as extraction takes them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of audio, image, video; all when none is named")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1, help="threads that decode ahead")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print("| clips | bare: windows/s | extraction | with decoding |\n|---|---|---|---|")
    for modality in arguments.parts or ("audio", "image", "video"):
        print(row(modality, arguments), flush=True)


def row(modality: str, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    model = Bridle(configs.load(f"{modality}-{arguments.preset}"), STATISTICS).eval().to(arguments.device)
    sources = list(itertools.islice(some(modality), arguments.clips))
    decoded = [Source(path, clip, labels=("a",)) for path, clip in ((one.path, of(one)) for one in sources)]
    views = [view for one in decoded for view, _ in model.patcher.windows(one.data)]  # type: ignore[arg-type]
    batches = [model.patcher(views[start : start + BATCH]) for start in range(0, len(views), BATCH)]
    sides: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(model, batches),
        "extraction": lambda: extract_vectors(model, labelled(decoded)),
        "with decoding": lambda: extract_vectors(model, labelled(sources), workers=arguments.workers),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(arguments.rounds + 1):
        for side, work in sorted(sides.items(), reverse=bool(number % 2)):
            start = time.perf_counter()
            work()
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            if number:  # the first one warms up
                seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(taken) for side, taken in seconds.items()}
    shares = [f"{100 * medians['bare'] / medians[side]:.0f} %" for side in ("extraction", "with decoding")]
    name = f"{modality}-{arguments.preset}, {batches[0].x_BNP.shape[1]} patches"
    return f"| {name} | {len(views) / medians['bare']:.1f} | {' | '.join(shares)} |"


@torch.inference_mode()
def bare(model: Bridle, batches: list[PatchBatch]) -> None:
    encoder = model.average or model.encoder
    for batch in batches:
        encoder(batch.x_BNP, batch.coords_BN3, batch.mask_BN)


def labelled(sources: list[Source]) -> Labelled:
    return Labelled(lambda read: iter(sources), len(sources), "")  # without a fingerprint there is no cache


def some(modality: str) -> Iterator[Source]:
    """Files of the sample, without end, each under a name of its own."""
    files = sorted(path for path in (MEDIA / modality).rglob("*") if path.is_file())
    for number, file in enumerate(itertools.cycle(files)):
        yield Source(f"{number:06}", file, labels=("a",))


def of(source: Source) -> Any:
    """The clip, decoded as extraction does."""
    info = probe(source.data, source.data.name)  # type: ignore[union-attr, arg-type]
    return decode(source.data, info, source=source.path, rate_hz=16000)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
