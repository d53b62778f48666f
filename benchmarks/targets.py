"""What making the targets costs: the tokenizer's share of an encoder step, by masks a clip.

    python benchmarks/targets.py [--preset audio-tiny ...] [--masks 1 2 8] [--rounds 7] [--threads 1]

On the clips of tests/media. "cold" is the random projection, "learned" the trained tokenizer's network. The step is
whole: augmentation, targets, both networks forward and backward, AdamW. The two are timed in turn, medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bridle import api
from bridle import config as configs
from bridle.archive import merge_extent, merge_statistics
from bridle.inputs import find_sets
from bridle.model import Bridle
from bridle.stream import ClipStream
from bridle.train.step import Stepper, autocast_dtype

MEDIA = Path(__file__).parent.parent / "tests" / "media"


def main() -> None:
    """Prints one row a preset and number of masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["audio-tiny", "image-tiny", "video-tiny"])
    parser.add_argument("--masks", nargs="+", type=int, default=[1, 2, 8])
    parser.add_argument("--clips", type=int, default=16, help="a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| preset | masks a clip | step ms | cold targets | learned targets |", "|---|---|---|---|---|", sep="\n")
    for preset in arguments.preset:
        for masks in arguments.masks:
            step_s, cold_s, learned_s = measure(preset, masks, arguments.clips, arguments.rounds)
            shares = (f"{cold_s / step_s:.1%}", f"{learned_s / (step_s - cold_s + learned_s):.1%}")
            print(f"| {preset} | {masks} | {1000 * step_s:.0f} | {' | '.join(shares)} |", flush=True)


def measure(preset: str, masks: int, clips: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a whole step with the cold start's targets, of these targets, and of the learned tokenizer's."""
    modality = preset.split("-")[0]
    with tempfile.TemporaryDirectory() as folder:
        api.shard(MEDIA / modality, modality=modality, out=Path(folder) / "shards")
        manifests = find_sets(Path(folder) / "shards")
        sets = [f"mask.per_clip={masks}", f"optim.batch_size={clips}"]
        config = configs.load(preset, sets=sets, extent=merge_extent(manifests))
        model = Bridle(config, merge_statistics(manifests))
        stream = ClipStream(manifests, model.patcher, batch_size=clips)
        views = next(stream.batches()).tensors
    batch = model.patcher(views)
    model.cold_tokenizer.fit(batch.rows(batch.x_BNP))
    model.tokenizer.train().start([batch])
    precision = autocast_dtype(config.train.precision, torch.device("cpu"))
    stepper = Stepper(model, "encoder", clips, precision)
    stepper.set_rate(1.0)

    def step() -> None:
        stepper.step(views, range(len(views)), 0, len(views))

    def targets(learned: bool) -> None:
        model.learned.fill_(learned)
        with torch.autocast("cpu", precision, enabled=precision is not None):
            model.tokenize(batch)
        model.learned.fill_(False)

    sides: tuple[Callable[[], None], ...] = (step, lambda: targets(False), lambda: targets(True))
    times: list[list[float]] = [[], [], []]
    for round_number in range(rounds + 1):
        for side, taken in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            if round_number:  # the first warms up
                taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(times[2])


if __name__ == "__main__":
    main()
