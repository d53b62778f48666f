"""One run from a configuration and some sets of shards: build, train, report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bridle import distributed
from bridle.checkpoint import RunFolder, find_checkpoint, load_training, read_model
from bridle.config import dump
from bridle.config.sections import Config
from bridle.errors import DataError, Interrupted, NumericalError
from bridle.model import Bridle
from bridle.patches import Patcher
from bridle.sharding import Manifest, merge_statistics
from bridle.stream import ClipStream
from bridle.train.phases import Phase, plan_phases
from bridle.train.trainer import OnEvent, Trainer, autocast_dtype


def pretrain(
    config: Config,
    manifests: Sequence[Manifest],
    out: Path,
    *,
    preset: str = "",
    resume: bool = False,
    steps: int | None = None,
    epochs: float | None = None,
    max_minutes: float | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    dry_run: bool = False,
    on_event: OnEvent = lambda kind, **fields: None,
) -> dict[str, Any]:
    """Pretrains one model and leaves a run folder.

    Args:
        config: the recipe, already adapted to the corpus.
        manifests: sets of one modality.
        out: the run folder.
        resume: go on from the newest checkpoint in `out`, with the limits it was started with.
        steps, epochs, max_minutes: stretch or shrink all phases alike.
        on_event: called with "start", "phase", "step", "warning" and "end" and their fields.

    Returns:
        the stable keys of `bridle pretrain --json`; with `dry_run` the plan.

    Raises:
        DataError: nothing to resume, or the shards are not those of the run.
        UsageError: `out` exists.
    """
    limits: dict[str, Any] = {"steps": steps, "epochs": epochs, "max_minutes": max_minutes}
    run, training, damaged = RunFolder(out), None, list[Path]()
    torch.manual_seed(config.train.seed)
    if resume:
        state = run.state()
        if state["status"] == "complete" and not dry_run:
            on_event("warning", message=f"{out} is complete: there is nothing left to do")
            return dict(state["result"])
        limits = state["limits"]
        model, training, damaged = _newest_usable(run, on_event)
    else:
        model = Bridle(config, merge_statistics(manifests))
    model = model.to(device)
    stream = _open_stream(config, manifests, model.patcher)
    if training:
        stream.load(training["stream"])  # says so if these are other shards, before anything is touched
    phases = plan_phases(config.schedule, stream.samples / stream.batch_size, **limits)
    plan = describe(model, stream, phases, device, config)
    if dry_run:
        return {"run": str(out), "modality": model.modality, "preset": preset, **plan}
    if not resume:
        state = {
            "status": "running",
            "modality": model.modality,
            "preset": preset,
            "shards": [str(manifest.place.resolve()) for manifest in manifests],
            "limits": limits,
        }
        run = RunFolder.create(out, dump(config), state, overwrite=overwrite)
    with run.lock():
        for checkpoint in damaged:
            run.discard(checkpoint)
        run.update(status="running")
        on_event("start", **plan)
        return _train(Trainer(model, stream, phases, run, device, on_event), training, preset)


def _open_stream(config: Config, manifests: Sequence[Manifest], patcher: Patcher) -> ClipStream:
    """The training stream.

    Raises:
        DataError: the sets do not match their manifests, or their clips are too small to hide a part of.
    """
    if math.prod(patcher.grid) < 2:
        raise DataError(
            f"the clips are so small that each is a single patch of {' x '.join(map(str, patcher.patch))}: "
            "there is nothing to hide and nothing to predict from",
            "Larger media, or smaller patches: --set patches.patch=... (sound: patches.patch_frames).",
        )
    return ClipStream(
        manifests,
        patcher.prepare,
        patcher.window_s,
        batch_size=config.optim.batch_size,
        seed=config.train.seed,
        workers=config.data.workers,
        cache_gb=config.data.cache_gb,
        mix=config.data.mix,
        rank=distributed.rank(),
        world=distributed.world(),
    )


def _newest_usable(run: RunFolder, on_event: OnEvent) -> tuple[Bridle, dict[str, Any], list[Path]]:
    """Model and training state of the newest checkpoint that can be read, and the damaged ones after it.

    Raises:
        DataError: there is none.
    """
    first: DataError | None = None
    damaged: list[Path] = []
    for folder in reversed(run.checkpoints()):
        try:
            return read_model(folder), load_training(folder), damaged
        except DataError as error:
            damaged.append(folder)
            first = first or error
            on_event("warning", message=f"{error.message}; trying the checkpoint before")
    raise first or DataError(f"{run.path} holds no checkpoint to go on from.", "Start it again with --overwrite.")


def _train(trainer: Trainer, training: dict[str, Any] | None, preset: str) -> dict[str, Any]:
    run, started = trainer.run, time.monotonic()
    try:
        trainer.train(training)
    except Interrupted:
        run.update(status="interrupted")
        raise
    except Exception as error:
        taken_back = training is None and not isinstance(error, NumericalError) and run.give_up()
        if not taken_back:
            with suppress(OSError):  # a full disk has been named already
                run.update(status="failed")
        raise
    result = {
        "run": str(run.path),
        "modality": trainer.model.modality,
        "preset": preset,
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "clips": trainer.clips,
        "loss": trainer.last.get("loss"),
        "cross_entropy": trainer.last.get("cross_entropy"),
        "usage": trainer.last.get("usage"),
        "perplexity": trainer.last.get("perplexity"),
        "skipped_steps": trainer.skipped,
        "failed_clips": trainer.stream.failures,
        "checkpoint": str(find_checkpoint(run.path)),
    }
    run.update(status="complete", result=result)
    trainer.on_event("end", **result, wall_s=time.monotonic() - started)
    return result


def describe(model: Bridle, stream: ClipStream, phases: list[Phase], device: str, config: Config) -> dict[str, Any]:
    """What the run will do: inputs, shapes, parameters, memory, batch, rates, phases."""
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    patches = model.patcher.grid[0] * model.patcher.grid[1] * model.patcher.grid[2]
    visible = max(1, round(patches * (1 - config.mask.ratio)))
    return {
        "samples": stream.samples,
        "clips_in_memory": stream.cached,
        "grid": list(model.patcher.grid),
        "patch": list(model.patcher.patch),
        "patches": patches,
        "visible": visible,
        "parameters": {name: count for name, count in size.items() if count},
        "memory_mb": _estimate_memory_mb(config, patches, visible, sum(size.values()), stream.batch_size),
        "batch_size": stream.batch_size,
        "masks_per_clip": config.mask.per_clip,
        "lr": config.optim.lr,
        "tokenizer_lr": config.optim.tokenizer_lr,
        "device": device,
        "precision": "bfloat16" if autocast_dtype(config.train.precision, torch.device(device)) else "float32",
        "steps": sum(phase.steps or 0 for phase in phases) or None,
        "phases": [{"name": phase.kind, "steps": phase.steps, "seconds": phase.seconds} for phase in phases],
    }


def _estimate_memory_mb(config: Config, patches: int, visible: int, parameters: int, batch: int) -> int:
    """Weights, gradients and AdamW's moments, and what the larger of the two kinds of step keeps for its backward."""

    def activations(tokens: int, width: int, depth: int, mlp_ratio: float) -> float:
        return tokens * width * depth * (10 + 2 * mlp_ratio) * 4

    e, p, t = config.encoder, config.predictor, config.tokenizer
    views = batch * config.mask.per_clip
    masked = patches - visible
    logits = 3 * 4 * views * masked * config.quantizer.levels * config.quantizer.codes
    encoder = activations(views * visible, e.width, e.depth, e.mlp_ratio) + logits
    encoder += activations(views * patches, p.width, p.depth, p.mlp_ratio)
    depth = (t.depth or e.depth) + t.estimator_depth
    tokenizer = activations(batch * patches, e.width, depth, e.mlp_ratio)
    return round((16 * parameters + max(encoder, tokenizer)) / 1e6)
