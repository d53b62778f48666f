"""What a run will do, for `--dry-run` and the first lines of a log."""

from __future__ import annotations

from typing import Any

import torch

from bridle import distributed
from bridle.model import Bridle
from bridle.stream import ClipStream
from bridle.train.cost import clip_flops, full_clip, hidden_and_visible, step_bytes
from bridle.train.phases import Phase
from bridle.train.step import autocast_dtype


def describe(model: Bridle, stream: ClipStream, phases: list[Phase], device: str) -> dict[str, Any]:
    """Inputs, shapes, parameters, memory, work, batch, rates, phases."""
    config = model.config
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    part = config.train.part if isinstance(config.train.part, int) else stream.batch_size
    clips = stream.batch_size * distributed.world()
    return {
        "samples": stream.samples,
        "clips_in_memory": stream.cached,
        "grid": list(model.patcher.grid),
        "patch": list(model.patcher.patch),
        "patches": full_clip(model),
        "visible": hidden_and_visible(model, full_clip(model))[1],
        "parameters": {name: count for name, count in size.items() if count},
        "memory_mb": round(step_bytes(model, min(stream.batch_size, part)) / 1e6),
        "gflops_per_step": {
            kind: round(clips * clip_flops(model, kind) / 1e9, 1) for kind in dict.fromkeys(one.kind for one in phases)
        },
        "devices": distributed.world(),
        "batch_size": clips,
        "masks_per_clip": config.mask.per_clip,
        "lr": config.optim.lr,
        "tokenizer_lr": config.optim.tokenizer_lr,
        "device": device,
        "precision": "bfloat16" if autocast_dtype(config.train.precision, torch.device(device)) else "float32",
        "steps": sum(phase.steps or 0 for phase in phases) or None,
        "phases": [{"name": phase.kind, "steps": phase.steps, "seconds": phase.seconds} for phase in phases],
    }
