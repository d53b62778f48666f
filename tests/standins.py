"""Small things that several test files make their tests of."""

from __future__ import annotations

import hashlib
import itertools
import socket
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridle import api, progress
from bridle.archive import Manifest
from bridle.config.sections import Config
from bridle.model import Bridle
from bridle.schema import AUDIO_HZ, Clip, MediaInfo
from bridle.stream import Batch, ClipStream

SMALL: dict[str, Any] = {
    "encoder": {"width": 16, "depth": 1, "heads": 2},
    "predictor": {"width": 16, "depth": 1, "heads": 2},
    "quantizer": {"levels": 3, "codes": 8, "width": 4},
}
PATCHES: dict[str, dict[str, Any]] = {
    "audio": {"modality": "audio", "mel_bins": 32, "frames": 64, "patch_frames": 16, "patch_mels": 16},
    "image": {"modality": "image", "size": 16, "patch": 4},
    "video": {"modality": "video", "frames": 4, "stride": 2, "size": 16, "tubelet": 2, "patch": 8},
}
# What `--set` makes of image-tiny for runs of a second.
SMALL_RUN = (
    "patches.size=16", "patches.patch=4", "encoder.width=16", "encoder.depth=1", "encoder.heads=2",
    "predictor.width=16", "predictor.depth=1", "predictor.heads=2", "tokenizer.estimator_depth=1",
    "quantizer.codes=8", "quantizer.levels=2", "quantizer.width=4", "optim.batch_size=8",
    "train.log_every=2", "train.precision=float32", "schedule.cold=16", "schedule.tokenizer=8", "schedule.encoder=16",
)  # fmt: skip
# `bridle`, which trains beyond step $HOLD_AFTER once the file $HOLD_UNTIL exists: what a test does there is never late.
HELD = """
import os, sys, time
from bridle_cli.main import main
from bridle_cli.progress import Progress

def held(progress, kind, **fields):
    call(progress, kind, **fields)
    while kind == "step" and fields["step"] > int(os.environ["HOLD_AFTER"]):
        if os.path.exists(os.environ["HOLD_UNTIL"]):
            break
        time.sleep(0.01)

call, Progress.__call__ = Progress.__call__, held
code = main()
os._exit(code) if "RANK" in os.environ else sys.exit(code)
"""
STATISTICS = {
    "fbank_mean": -5.0,
    "fbank_std": 4.0,
    "pixel_mean": [0.5, 0.5, 0.5],
    "pixel_std": [0.25, 0.25, 0.25],
    "rate_hz": 10.0,
}


def small_recipe(*sets: str) -> api.Recipe:
    """image-tiny, for runs of a second."""
    return api.Recipe(preset="image-tiny", sets=(*SMALL_RUN, *sets))


def small(modality: str, fitted: bool = True, **sections: dict[str, Any]) -> Bridle:
    """A model of a few thousand weights, untrained; `sections` of its configuration replace those of `SMALL`."""
    torch.manual_seed(0)
    model = Bridle(Config.model_validate({"patches": PATCHES[modality], **SMALL, **sections}), STATISTICS)
    if fitted:
        model.cold_tokenizer.fit(torch.randn(500, model.patcher.values))
    return model.eval()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def write_sound(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.random.default_rng(value).integers(-9000, 9000, 400, dtype="<i2").tobytes())


def content_of(folder: Path) -> dict[str, str]:
    """What each file of a set holds, in a form that shows where two of them differ."""
    return {path.name: told(path.name, path.read_bytes()) for path in sorted(folder.glob("[!.]*"))}


def told(name: str, content: bytes) -> str:
    """JSON as it is, the hash of anything else."""
    return content.decode() if name.endswith(".json") else hashlib.sha256(content).hexdigest()


def prepare(clip: Clip, rng: torch.Generator | None) -> Tensor:
    """The clip and one random number: shows which window and which generator it got."""
    return torch.cat([clip.data, torch.rand(1, generator=rng)])


def window_s(info: MediaInfo) -> float | None:
    return 0.1


@dataclass
class Views:
    """Stands in for a patcher of `ClipStream`."""

    prepare: Callable[[Clip, torch.Generator | None], Tensor] = prepare
    window_s: Callable[[MediaInfo], float | None] = window_s
    rate_hz: int = AUDIO_HZ
    exact: bool = False
    pixel_rules: dict[str, Any] | None = None
    channel: int | None = None


def stream_of(manifest: Manifest, **options: int | float) -> ClipStream:
    return ClipStream([manifest], Views(), **({"batch_size": 5, "seed": 3} | options))


def take(stream: ClipStream, batches: int) -> list[Batch]:
    running = stream.batches()
    taken = list(itertools.islice(running, batches))
    running.close()
    return taken


def same(a: list[Batch], b: list[Batch]) -> bool:
    return [x.keys for x in a] == [x.keys for x in b] and all(
        torch.equal(t, u) for x, y in zip(a, b, strict=True) for t, u in zip(x.tensors, y.tensors, strict=True)
    )


def counting(callback: Callable[[int, int], None] | None) -> progress.Listener:
    """Listens to how much is done alone: `callback(done, total)`."""
    return lambda kind, **fields: callback(fields["done"], fields["total"]) if kind == "progress" and callback else None
