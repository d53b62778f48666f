"""Speed and memory of a training step, beside what a user would pick instead.

    python benchmarks/training.py [image] [video] [memory] [--rounds 9]

image, video: the encoder phase of ViT-S beside `transformers` `ViTMAEForPreTraining` (224 x 224, 75 % hidden) and
`VideoMAEForPreTraining` (16 x 112 x 112, 90 % hidden) with an encoder of the same size. Both sides are in training
mode, with fused AdamW, the same precision and threads, and take turns; figures are medians. Ours is the whole step of
`bridle pretrain`: normalising uint8 pixels, the tokenizer's pass that makes the targets, masks, forward, backward,
clipping, update. Theirs is forward, backward and update on pixels that are normalised already; `--set
train.compile=true` compiles both. With several masks a
clip, one clip of ours is as many masked views.

memory: highest memory of the encoder phase of ViT-B on sound for clips of 256 to 2048 frames, each in a process of its
own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridle import config as configs
from bridle.model import Bridle
from bridle.train.step import Stepper, autocast_dtype

STATISTICS = {"fbank_mean": -6.0, "fbank_std": 4.0, "pixel_mean": [0.45] * 3, "pixel_std": [0.25] * 3, "rate_hz": 25.0}
FRAMES = (256, 512, 1024, 2048)
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of image, video, memory; all when none is named")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clips", type=int, default=16, help="of a step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--set", dest="sets", action="append", default=[], help="as of bridle pretrain")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(peak(int(arguments.peak[0]), int(arguments.peak[1]), arguments)))
        return
    for part in arguments.parts or ("image", "video", "memory"):
        for line in memory(arguments) if part == "memory" else compared(part, arguments):
            print(line, flush=True)


def compared(modality: str, arguments: argparse.Namespace) -> Iterator[str]:
    """Rows of a table."""
    masks = configs.load(f"{modality}-small", sets=arguments.sets).mask.per_clip
    yield "| case | theirs: ms a clip | ours: ms a masked view | theirs / ours | ours: ms a clip | theirs / ours |"
    yield "|---|---|---|---|---|---|"
    sides = {"theirs": their_step(modality, arguments), "ours": our_step(modality, arguments)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(arguments.rounds + 2):
        for side, step in sorted(sides.items(), reverse=bool(number % 2)):
            start = time.perf_counter()
            step()
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            if number >= 2:  # they warm up
                seconds[side].append(time.perf_counter() - start)
    theirs, ours = (1e3 * statistics.median(seconds[side]) / arguments.clips for side in ("theirs", "ours"))
    name = f"{modality}, ViT-S, {arguments.precision}, {arguments.clips} clips, {masks} masks a clip"
    figures = theirs, ours / masks, theirs / ours * masks, ours, theirs / ours
    yield "| {} | {:.0f} | {:.0f} | {:.2f} | {:.0f} | {:.2f} |".format(name, *figures)


def our_step(modality: str, arguments: argparse.Namespace) -> Step:
    """The encoder phase, with the learned tokenizer in force."""
    sets = [f"optim.batch_size={arguments.clips}", f"train.precision={arguments.precision}"]
    sets += ["patches.size=112", "mask.ratio=0.9"] if modality == "video" else []
    config = configs.load(f"{modality}-small", sets=[*sets, *arguments.sets])
    model = prepared(Bridle(config, STATISTICS).to(arguments.device))
    stepper = Stepper(model, "encoder", arguments.clips, autocast_dtype(arguments.precision, model_device(model)))
    stepper.set_rate(1e-3)
    views = [one.clone() for one in views_of(model, arguments.clips)]
    numbers = iter(range(10**9))
    return lambda: stepper.step(views, range(len(views)), next(numbers), len(views))


def prepared(model: Bridle) -> Bridle:
    """With codebooks, as after a tokenizer phase."""
    with torch.no_grad():
        model.tokenizer.train().start([model.patcher(views_of(model, 8))])
    model.tokenizer.quantizer.freeze()
    model.learned.fill_(True)
    return model


def views_of(model: Bridle, clips: int) -> list[Tensor]:
    """Noise of the shape of one clip each: what a step costs does not depend on it."""
    blank = model.patcher.blank()
    low, high = (0, 256) if blank.dtype is torch.uint8 else (-9000, 9000)
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(low, high, blank.shape, dtype=blank.dtype, generator=generator) for _ in range(clips)]


def model_device(model: Bridle) -> torch.device:
    return model.encoder.class_token_D.device


def their_step(modality: str, arguments: argparse.Namespace) -> Step:
    """`transformers`, with its own decoder."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining, ViTMAEConfig, ViTMAEForPreTraining

    size = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    device, dtype = arguments.device, autocast_dtype(arguments.precision, torch.device(arguments.device))
    if modality == "image":
        model = ViTMAEForPreTraining(ViTMAEConfig(**size, image_size=224, mask_ratio=0.75)).to(device)
        given: dict[str, Tensor] = {"pixel_values": torch.randn(arguments.clips, 3, 224, 224, device=device)}
    else:
        model = VideoMAEForPreTraining(VideoMAEConfig(**size, image_size=112, num_frames=16)).to(device)
        hidden = torch.zeros(8 * 49, dtype=torch.bool)
        hidden[torch.randperm(8 * 49)[: round(0.9 * 8 * 49)]] = True
        given = {
            "pixel_values": torch.randn(arguments.clips, 16, 3, 112, 112, device=device),
            "bool_masked_pos": hidden.expand(arguments.clips, -1).to(device),
        }
    if "train.compile=true" in arguments.sets:
        model.compile()
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step() -> None:
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
            loss = model(**given).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def memory(arguments: argparse.Namespace) -> Iterator[str]:
    """Rows of a table, each from a process of its own."""
    clips = 64 if arguments.device != "cpu" else 8
    yield f"| sound, ViT-B, {clips} clips | patches | weights, gradients, moments | highest | beyond the weights |"
    yield "|---|---|---|---|---|"
    for frames in FRAMES:
        command = [sys.executable, __file__, "--peak", str(frames), str(clips), "--device", arguments.device]
        command += ["--precision", arguments.precision, *(f"--set={one}" for one in arguments.sets)]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        figures = found["patches"], found["weights_mb"], found["peak_mb"], found["peak_mb"] - found["weights_mb"]
        yield "| {} frames | {:.0f} | {:.0f} MB | {:.0f} MB | {:.0f} MB |".format(frames, *figures)


def peak(frames: int, clips: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Of three steps."""
    sets = [*arguments.sets, f"patches.frames={frames}", f"train.precision={arguments.precision}"]
    config = configs.load("audio-base", sets=[*sets, f"optim.batch_size={clips}"])
    model = prepared(Bridle(config, STATISTICS).to(arguments.device))
    stepper = Stepper(model, "encoder", clips, autocast_dtype(arguments.precision, model_device(model)))
    stepper.set_rate(1e-3)
    views = views_of(model, clips)
    trained = sum(p.numel() for p in stepper.parameters)
    weights_mb = (4 * sum(p.numel() for p in model.parameters()) + 12 * trained) / 1e6
    if arguments.device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    else:
        torch.cuda.reset_peak_memory_stats()
    for number in range(3):
        stepper.step(views, range(clips), number, clips)
    return {
        "patches": float(model.patcher.grid[0] * model.patcher.grid[1]),
        "weights_mb": weights_mb,
        "peak_mb": high_water_mb() if arguments.device == "cpu" else torch.cuda.max_memory_allocated() / 1e6,
    }


def high_water_mb() -> float:
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3


if __name__ == "__main__":
    main()
