"""What a step costs by the shapes of its networks: floating-point operations and memory.

Shapes: N tokens, D width; a multiply and an add are two operations. Elementwise work is not counted.
"""

from __future__ import annotations

import resource
import sys

import torch

from bridle.config.sections import EncoderSection
from bridle.model import Bridle
from bridle.train.phases import Kind

_PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}
_BACKWARD = 3  # a step that trains costs this much of its forward pass


def hidden_and_visible(model: Bridle) -> tuple[int, int]:
    """Patches of a full clip that are predicted, and that the encoder sees."""
    t, h, w = model.patcher.grid
    visible = max(1, round(t * h * w * (1 - model.config.mask.ratio)))
    return max(1, round((t * h * w - visible) * model.config.mask.predict)), visible


def clip_flops(model: Bridle, kind: Kind) -> float:
    """Floating-point operations of one full clip in a step of that phase, all its masks included."""
    config = model.config
    e, p, t, q = config.encoder, config.predictor, config.tokenizer, config.quantizer
    patches, (hidden, visible) = (
        model.patcher.grid[0] * model.patcher.grid[1] * model.patcher.grid[2],
        (hidden_and_visible(model)),
    )
    own = e.model_copy(update={"depth": t.depth or e.depth})
    search = 2.0 * patches * q.levels * q.codes * q.width
    tokens = 2.0 * patches * model.patcher.values * e.width + _trunk(own, patches + 1)
    tokens += 2.0 * patches * (e.width * e.width + e.width * q.width) + search
    if kind == "tokenizer":
        estimator = _trunk(e.model_copy(update={"depth": t.estimator_depth}), patches) + 2.0 * patches * e.width**2
        features = 2.0 * patches * model.patcher.values * e.width + _trunk(e, patches + 1)
        return features + _BACKWARD * (tokens + estimator)
    targets = tokens if kind != "cold" else 2.0 * patches * model.patcher.values * q.width + search
    if kind == "joint":
        targets += clip_flops(model, "tokenizer") / config.schedule.joint_every
    encoder = 2.0 * visible * model.patcher.values * e.width + _trunk(e, visible + 1)
    predictor = 2.0 * visible * e.width * p.width + _trunk(p, visible + hidden)
    predictor += 2.0 * hidden * p.width * q.levels * q.codes
    return targets + _BACKWARD * config.mask.per_clip * (encoder + predictor)


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations a second that the maker promises, None for a device not in the list."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


def memory_mb(device: torch.device) -> float:
    """What this process has taken at most so far: of the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # macOS says bytes, Linux kilobytes


def _trunk(shape: EncoderSection, tokens: int) -> float:
    """Blocks: four projections of attention, its two products, the two layers behind."""
    each = 2.0 * (4 + 2 * shape.mlp_ratio) * shape.width**2 + 4.0 * tokens * shape.width
    return shape.depth * tokens * each


def step_bytes(model: Bridle, clips: int) -> float:
    """An estimate: weights, gradients and AdamW's moments, and what the larger of the two kinds of step keeps for its
    backward pass, in float32."""
    config = model.config
    e, p, t, q = config.encoder, config.predictor, config.tokenizer, config.quantizer
    patches = model.patcher.grid[0] * model.patcher.grid[1] * model.patcher.grid[2]
    hidden, visible = hidden_and_visible(model)
    views = clips * config.mask.per_clip
    encoder = _kept(e, views * visible) + 3 * 4 * views * hidden * q.levels * q.codes
    encoder += _kept(p, views * (visible + hidden))
    depth = (t.depth or e.depth) + t.estimator_depth
    tokenizer = _kept(e.model_copy(update={"depth": depth}), clips * patches)
    return 16.0 * sum(p.numel() for p in model.parameters()) + max(encoder, tokenizer)


def _kept(shape: EncoderSection, tokens: int) -> float:
    return tokens * shape.width * shape.depth * (10 + 2 * shape.mlp_ratio) * 4
