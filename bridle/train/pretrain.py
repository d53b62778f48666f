"""One run from a configuration and some sets of shards: build, train, report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bridle import __version__, distributed, progress
from bridle.archive import Manifest, merge_statistics
from bridle.checkpoint import (
    NewerVersion,
    RunFolder,
    find_checkpoint,
    load_training,
    read_about,
    read_model,
)
from bridle.checkpoint.run_folder import CONFIG
from bridle.config import differences, dump
from bridle.config.sections import Config
from bridle.errors import ConfigError, DataError, Interrupted
from bridle.model import Bridle
from bridle.outputs import write_text
from bridle.patches import Patcher
from bridle.storage import refuse_links
from bridle.stream import ClipStream
from bridle.train.phases import NO_LIMITS, Limits, Phase, plan_phases
from bridle.train.plan import describe
from bridle.train.trainer import Trainer

# What decides speed, memory and what is kept, and nothing that is learned (`part`: see the configuration).
_HARMLESS = (
    "train.log_every", "train.checkpoint_every", "train.keep", "train.tracker", "train.probe_every",
    "train.probe_clips", "train.part", "train.recompute", "train.compile", "train.shard_weights", "data.workers",
    "data.cache_gb",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Ready:
    """All that a run needs but its folder."""

    model: Bridle
    stream: ClipStream
    training: dict[str, Any] | None  # of a run to resume, as it left it
    damaged: list[Path]  # checkpoints that cannot be read
    phases: list[Phase]
    device: str

    def plan(self, out: Path, preset: str) -> dict[str, Any]:
        """The result of a dry run."""
        plan = describe(self.model, self.stream, self.phases, self.device)
        return {"run": str(out), "modality": self.model.modality, "preset": preset, **plan}


def pretrain(
    config: Config,
    manifests: Sequence[Manifest],
    out: Path,
    *,
    preset: str = "",
    limits: Limits = NO_LIMITS,
    device: str = "cpu",
    overwrite: bool = False,
    dry_run: bool = False,
    profile: bool = False,
) -> dict[str, Any]:
    """Pretrain one model and leave a run folder.

    Every process of a run calls it, and all return the same. The first alone writes and reports.

    Args:
        config: the recipe, already adapted to the corpus.
        manifests: sets of one modality.
        out: the run folder.
        limits: at most one; it stretches or shrinks all phases alike.
        profile: traces of some steps of each phase in `out/profile/`; their sums with the event "profile".

    Returns:
        the stable keys of `bridle pretrain --json`; with `dry_run` the plan.

    Raises:
        DataError: fewer clips than processes.
        UsageError: `out` exists.
        ConfigError: the batch is not divisible by the processes, or they were given different recipes or data.
        EnvironmentFault: another process of the run is gone.
    """
    ready = _ready(config, manifests, limits, device)
    if dry_run:
        return ready.plan(out, preset)
    state = {
        "status": "running",
        "modality": ready.model.modality,
        "preset": preset,
        "shards": [str(manifest.place.resolve()) for manifest in manifests],
        "limits": limits._asdict(),
        "launch": distributed.launch_id(),
    }
    run = distributed.first_decides(partial(RunFolder.create, out, dump(config), state, overwrite=overwrite))
    return _run(run, ready, preset, profile, keep=False)


def resume(
    config: Config,
    manifests: Sequence[Manifest],
    out: Path,
    *,
    preset: str = "",
    force: bool = False,
    device: str = "cpu",
    dry_run: bool = False,
    profile: bool = False,
) -> dict[str, Any]:
    """Continue a run from its newest checkpoint, with the limits it was started with; otherwise as `pretrain`.

    Args:
        force: accept settings that differ from those of the run, where they change nothing that is learned.

    Raises:
        DataError: nothing to resume, or the shards are not those of the run.
        ConfigError: as `pretrain`; also where the run was begun with another recipe.
    """
    run = RunFolder(out)
    state = distributed.together(run.state)
    if state["status"] == "complete" and not dry_run:
        progress.warn(f"{out} is complete: nothing to do")
        return dict(state["result"])
    ready = _ready(config, manifests, Limits(**state["limits"]), device, run, force)
    return ready.plan(out, preset) if dry_run else _run(run, ready, preset, profile, keep=True)


def _ready(
    config: Config,
    manifests: Sequence[Manifest],
    limits: Limits,
    device: str,
    run: RunFolder | None = None,
    force: bool = False,
) -> _Ready:
    """Args: run: to resume, if any."""
    set_up = partial(_set_up, config, manifests, run, force, device)
    model, stream, training, damaged = distributed.together(set_up)
    distributed.first_decides(partial(_same_everywhere, distributed.gather_objects(_identity(config, stream, limits))))
    batch = stream.batch_size * distributed.world()
    if batch < config.optim.batch_size:
        progress.warn(f"the batch size is {batch}, not {config.optim.batch_size}: there are no more clips")
    phases = plan_phases(config.schedule, stream.samples / batch, limits)
    return _Ready(model, stream, training, damaged, phases, device)


def _run(run: RunFolder, ready: _Ready, preset: str, profile: bool, *, keep: bool) -> dict[str, Any]:
    with _sole_use(run):
        distributed.first_decides(partial(_begin, run, ready.damaged, dump(ready.model.config)))
        progress.report("start", **describe(ready.model, ready.stream, ready.phases, ready.device))
        make = partial(Trainer, ready.model, ready.stream, ready.phases, run, ready.device, profile)
        return _train(make, run, ready.training, preset, keep=keep)


def _set_up(
    config: Config, manifests: Sequence[Manifest], run: RunFolder | None, force: bool, device: str
) -> tuple[Bridle, ClipStream, dict[str, Any] | None, list[Path]]:
    """Model and stream, of a run to resume as it left them; its training state, and its damaged checkpoints."""
    torch.manual_seed(config.train.seed)
    found = _newest_usable(run) if run else None
    model, training, damaged = found or (Bridle(config, merge_statistics(manifests)), None, [])
    if found:
        _adopt(model, config, force)
    elif run:
        progress.warn(f"{run.path} has no checkpoint: starting again")
    model = model.to(device)
    stream = _open_stream(config, manifests, model.patcher)
    if training:
        stream.load(training["stream"])  # says so if these are other shards, before anything is touched
    return model, stream, training, damaged


@contextmanager
def _sole_use(run: RunFolder) -> Iterator[None]:
    """The lock of the run, which the first process holds for all."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(run.lock())

        distributed.first_decides(enter)
        yield


def _begin(run: RunFolder, damaged: Sequence[Path], config_yaml: str) -> None:
    refuse_links(*run.path.iterdir())
    run.sweep()
    write_text(run.path / CONFIG, config_yaml)
    for checkpoint in damaged:
        run.discard(checkpoint)
    run.update(status="running")


def _adopt(model: Bridle, config: Config, force: bool) -> None:
    """The settings to continue with, if they are those of the run or may be others.

    Raises:
        ConfigError: naming the keys.
    """
    changed = sorted(differences(model.config, config), key=lambda row: row["key"])
    listed = ", ".join(f"{row['key']} ({row.get('a')}, now {row.get('b')})" for row in changed)
    if any(row["key"] not in _HARMLESS for row in changed):
        raise ConfigError(
            f"the run was started with other settings: {listed}",
            f"Only these may change on --resume, with --force: {', '.join(_HARMLESS)}. Else start a new run.",
        )
    if changed and not force:
        raise ConfigError(
            f"the run was started with other settings: {listed}", "They do not affect training: use --force."
        )
    model.config = config


def _identity(config: Config, stream: ClipStream, limits: Limits) -> dict[str, Any]:
    """What must be the same in all processes of a run."""
    return {
        "version": __version__,
        "config": config.model_dump(mode="json"),
        "shards": stream.state(),
        "length": limits._asdict(),
    }


def _same_everywhere(identities: Sequence[dict[str, Any]]) -> None:
    """Check that all ranks have the same settings; raises ConfigError naming the first key that differs."""
    for rank, identity in enumerate(identities):
        for key in identity:
            if identity[key] != identities[0][key]:
                raise ConfigError(
                    f"rank {rank} has another {difference(identities[0][key], identity[key], key)} than rank 0",
                    "Start all processes with one command, one configuration and the same shards.",
                )


def difference(one: Any, other: Any, name: str) -> str:
    """`config.optim.lr (0.1, not 0.2)`: the first place where two nested values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(set(one) | set(other)):
            if one.get(key) != other.get(key):
                return difference(one.get(key), other.get(key), f"{name}.{key}")
    return f"{name} ({other}, not {one})"


def _open_stream(config: Config, manifests: Sequence[Manifest], patcher: Patcher) -> ClipStream:
    """The training stream.

    Raises:
        DataError: the sets do not match their manifests, or their clips are too small to hide a part of.
    """
    if math.prod(patcher.grid) < 2:
        raise DataError(
            f"each clip is a single patch of {' x '.join(map(str, patcher.patch))}: "
            "nothing can be masked and predicted",
            "Use larger media, or smaller patches: --set patches.patch=... (audio: patches.patch_frames).",
        )
    return ClipStream(
        manifests,
        patcher,
        batch_size=_dealt(config.optim.batch_size, sum(shard.samples for one in manifests for shard in one.shards)),
        seed=config.train.seed,
        workers=config.data.workers,
        cache_gb=config.data.cache_gb / distributed.local_world(),  # each process has one of its own
        mix=config.data.mix,
        rank=distributed.rank(),
        world=distributed.world(),
    )


def _dealt(batch_size: int, samples: int) -> int:
    """Clips of a step that each process gets.

    Raises:
        ConfigError, DataError: not all get the same, or one gets none.
    """
    world = distributed.world()
    if samples < world:
        raise DataError(f"the shards hold {samples} clips for {world} processes", "Use fewer --devices.")
    if batch_size % world:
        near = max(world, round(batch_size / world) * world)
        raise ConfigError(
            f"optim.batch_size: {batch_size} clips per step is not divisible by {world} processes",
            f"--set optim.batch_size={near}, or another number of --devices.",
        )
    return batch_size // world


def _newest_usable(run: RunFolder) -> tuple[Bridle, dict[str, Any], list[Path]] | None:
    """Model and training state of the newest checkpoint that can be read, and the damaged ones after it; None: the run
    was ended before it had any.

    Raises:
        DataError: all are damaged, or one is of a newer version or cannot be read now (it may be whole).
    """
    first: DataError | None = None
    damaged: list[Path] = []
    for folder in reversed(run.checkpoints(whole=False)):
        try:
            model, training = read_model(folder), load_training(folder)
            if read_about(folder).get("step", training["step"]) != training["step"]:
                raise DataError(f"{folder}: model.json and training.json are from different steps")
            return model, training, damaged
        except NewerVersion:
            raise
        except DataError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                raise
            damaged.append(folder)
            first = first or error
            progress.warn(f"{error.message}; trying the previous checkpoint")
    if first:
        raise first
    return None


def _train(
    make: Callable[[], Trainer], run: RunFolder, training: dict[str, Any] | None, preset: str, *, keep: bool
) -> dict[str, Any]:
    """Trains; a run that fails before it has learned anything leaves nothing, unless it is to `keep`."""
    started, first, trainer = time.monotonic(), distributed.rank() == 0, None
    try:
        trainer = make()
        trainer.train(training)
    except Interrupted:
        if first:
            with suppress(OSError):  # a full disk has been named already
                run.update(status="interrupted")
        raise
    except Exception:
        learned = keep or (trainer is not None and trainer.step > 0)
        if first and (learned or not run.give_up()):
            with suppress(OSError):
                run.update(status="failed")
        raise
    failures = {path: why for one in distributed.gather_objects(trainer.stream.failures) for path, why in one.items()}
    return distributed.first_decides(partial(_finish, trainer, preset, failures, started))


def _finish(trainer: Trainer, preset: str, failures: dict[str, str], started: float) -> dict[str, Any]:
    run = trainer.run
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
        "failed_clips": failures,
        "checkpoint": str(find_checkpoint(run.path)),
    }
    run.update(status="complete", result=result)
    progress.report("end", **result, wall_s=time.monotonic() - started)
    return result
