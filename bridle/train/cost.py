"""What a step costs by the shapes of its networks: floating-point operations and memory.

Shapes: N tokens, D width; a multiply and an add are two operations. Elementwise work is not counted.
"""

from __future__ import annotations

import math
import re

from bridle import distributed
from bridle.config.sections import EncoderSection
from bridle.model import Bridle
from bridle.train.phases import Kind

# Dense bfloat16 operations a second by the makers' data sheets; a name stands for itself, longer ones come first.
_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "A10": 125e12,
}
_BACKWARD = 3  # a step that trains costs this much of its forward pass


def full_clip(model: Bridle) -> int:
    """Patches of a clip that fills its window."""
    return math.prod(model.patcher.grid)


def hidden_and_visible(model: Bridle, patches: float) -> tuple[int, int]:
    """Patches of such a clip that are predicted, and that the encoder sees."""
    visible = max(1, round(patches * (1 - model.config.mask.ratio)))
    return max(1, round((patches - visible) * model.config.mask.predict)), visible


def clip_flops(model: Bridle, kind: Kind, patches: float | None = None) -> float:
    """Floating-point operations of one clip in a step of that phase, all its masks included.

    Args:
        patches: valid ones, padding is no work worth counting; default: of a full clip.
    """
    config = model.config
    e, p, t, q = config.encoder, config.predictor, config.tokenizer, config.quantizer
    patches = full_clip(model) if patches is None else patches
    hidden, visible = hidden_and_visible(model, patches)
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
        targets += clip_flops(model, "tokenizer", patches) / config.schedule.joint_every
    encoder = 2.0 * visible * model.patcher.values * e.width + _trunk(e, visible + 1)
    predictor = 2.0 * visible * e.width * p.width + _trunk(p, visible + hidden)
    predictor += 2.0 * hidden * p.width * q.levels * q.codes
    return targets + _BACKWARD * config.mask.per_clip * (encoder + predictor)


def peak_flops(name: str) -> float | None:
    """Dense bfloat16 operations a second that the maker of a device promises, None for one not in the list."""
    return next((peak for part, peak in _PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


def step_bytes(model: Bridle, clips: int) -> float:
    """An estimate: weights, gradients and AdamW's moments, and what the larger of the two kinds of step keeps for its
    backward pass, in float32."""
    config = model.config
    e, p, t, q = config.encoder, config.predictor, config.tokenizer, config.quantizer
    patches, again = full_clip(model), config.train.recompute
    hidden, visible = hidden_and_visible(model, patches)
    views = clips * config.mask.per_clip
    encoder = _kept(e, views * visible, again) + 3 * 4 * views * hidden * q.levels * q.codes
    encoder += _kept(p, views * (visible + hidden), again)
    depth = (t.depth or e.depth) + t.estimator_depth
    tokenizer = _kept(e.model_copy(update={"depth": depth}), clips * patches, again)
    ranks = distributed.world() if config.train.shard_weights else 1
    given = 4.0 * clips * patches * model.patcher.values
    return 16.0 * sum(p.numel() for p in model.parameters()) / ranks + given + max(encoder, tokenizer)


def _trunk(shape: EncoderSection, tokens: float) -> float:
    """Blocks: four projections of attention, its two products, the two layers behind."""
    each = 2.0 * (4 + 2 * shape.mlp_ratio) * shape.width**2 + 4.0 * tokens * shape.width
    return shape.depth * tokens * each


def _kept(shape: EncoderSection, tokens: int, recompute: bool) -> float:
    """Bytes of activations; computed again they are those of one block, and what went into each of the others."""
    of_block = 10 + 2 * shape.mlp_ratio
    return 4 * tokens * shape.width * (shape.depth + of_block if recompute else shape.depth * of_block)
