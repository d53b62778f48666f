"""The training loop: phases in turn, a checkpoint every few steps, resumable at each of them.

What a step draws at random (masks, augmentation) follows from the seed and the step's number, and the stream's order
from its cursor; so a checkpoint needs no generator states.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bridle.checkpoint import RunFolder, optimizer_state, restore_optimizer
from bridle.config.sections import OptimSection
from bridle.errors import DataError, Interrupted, NumericalError
from bridle.model import Bridle
from bridle.schema import PatchBatch
from bridle.stream import Batch, ClipStream
from bridle.train.log import MetricsLog
from bridle.train.material import material_warnings
from bridle.train.meter import Meter
from bridle.train.objectives import Objective, encoder_objective, tokenizer_objective
from bridle.train.online_probe import OnlineProbe
from bridle.train.phases import Kind, Phase, rate_share
from bridle.train.watch import Watch

OnEvent = Callable[..., None]
_FIT_VECTORS_PER_CODE = 128  # patches that the cold start's whitening and k-means look at
_FIT_BATCHES = 64
_BAD_STEPS = 10  # steps in a row that cannot be made before the run is given up
_REMEDY = "Lower --set optim.lr, or use --set train.precision=float32; clips that are too short: --set patches...."


class Trainer:
    """Trains one model on one stream.

    Args:
        model: on its device.
        stream: training views.
        phases: see `plan_phases`.
        run: where checkpoints and metrics go.
        on_event: told "phase", "step", "warning" (see `bridle.train.pretrain`).
    """

    def __init__(
        self, model: Bridle, stream: ClipStream, phases: list[Phase], run: RunFolder, device: str, on_event: OnEvent
    ) -> None:
        self.model, self.stream, self.phases, self.run, self.on_event = model, stream, phases, run, on_event
        self.config, self.device = model.config, torch.device(device)
        self.dtype = autocast_dtype(self.config.train.precision, self.device)
        self.log, self.watch = MetricsLog(run.metrics), Watch(self.config.quantizer.codes)
        self.probe: OnlineProbe | None = None
        self.phase_index, self.phase_step, self.step, self.clips = 0, 0, 0, 0
        self.phase_seconds = self.seconds = 0.0
        self.last: dict[str, Any] = {}
        self.bad_steps = self.skipped = 0
        self._stop = 0

    def train(self, resume_from: dict[str, Any] | None = None) -> None:
        """Runs all phases from where the run stands.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with everything saved.
            NumericalError: too many steps in a row without a finite gradient.
        """
        optimizer_tensors = self._restore(resume_from) if resume_from else None
        batches = self.stream.batches() if resume_from else None
        if not resume_from:
            self._save({})  # a run killed before its first checkpoint can be resumed too
        with self._signals():
            while self.phase_index < len(self.phases):
                if optimizer_tensors is None and self.phase_step == 0:
                    self._enter(self.phases[self.phase_index])
                batches = batches or self.stream.batches()
                self._run_phase(self.phases[self.phase_index], batches, optimizer_tensors)
                optimizer_tensors = None

    def _run_phase(self, phase: Phase, batches: Iterator[Batch], optimizer_tensors: dict[str, Tensor] | None) -> None:
        optimizer = build_optimizer(set_trainable(self.model, phase.kind), self.config.optim)
        if optimizer_tensors:
            restore_optimizer(optimizer, optimizer_tensors)
        self.on_event("phase", phase=phase.kind, index=self.phase_index, phases=len(self.phases))
        meter, mark, learned = Meter(), time.monotonic(), self.phase_step > 0
        while (fraction := phase.fraction(self.phase_step, self.phase_seconds)) < 1.0:
            # The middle of the step: neither the first step nor the last is lost to a rate of zero.
            middle = min(1.0, fraction + 0.5 / phase.steps) if phase.steps else max(fraction, 1e-4)
            share = rate_share(middle, self.config.optim.warmup)
            for group in optimizer.param_groups:
                group["lr"] = share * group["peak_lr"]
            batch = self._next(batches, optimizer)
            objective, why = self._step(phase, batch.tensors, optimizer)
            if objective is not None and phase.kind != "tokenizer":
                # Encoders that start afresh have averages of their own.
                self.model.follow(self.phase_step if self.config.schedule.restart else self.step)
            now = time.monotonic()
            self.phase_seconds, self.seconds, mark = self.phase_seconds + now - mark, self.seconds + now - mark, now
            self.step, self.phase_step, self.clips = self.step + 1, self.phase_step + 1, self.clips + len(batch.keys)
            if objective is not None:
                meter.add(objective, len(batch.keys))
                learned, self.bad_steps = True, 0
            else:
                self._skip(why, optimizer)
            if self.step % self.config.train.log_every == 0 or phase.fraction(self.phase_step, self.phase_seconds) >= 1:
                self._report(phase, meter, optimizer.param_groups[0]["lr"])
            if (every := self.config.train.probe_every) and self.step % every == 0:
                self._look(phase)
            if self._stop or self.step % self.config.train.checkpoint_every == 0:
                self._save(optimizer_state(optimizer))
                if self._stop:
                    raise Interrupted(self._stop)
        if not learned:
            raise NumericalError(f"all steps of the {phase.kind} phase were skipped, at last because {why}", _REMEDY)
        self._leave(phase)
        self._save({})

    def _next(self, batches: Iterator[Batch], optimizer: torch.optim.Optimizer) -> Batch:
        """The next batch; when the shards fail, what was learned is saved first."""
        try:
            return next(batches)
        except DataError:
            if self.phase_step:
                self._save(optimizer_state(optimizer))
            raise

    def _step(
        self, phase: Phase, views: list[Tensor], optimizer: torch.optim.Optimizer
    ) -> tuple[Objective | None, str]:
        """Forward, backward, update; a step that cannot be made changes nothing and says why."""
        batch = self.model.patcher(views, self._generator(1))
        if not bool(torch.isfinite(batch.x_BNP).all()):
            return None, "the media hold values that are not finite"
        if not batch.dense and int(batch.valid_BN.sum(1).max()) < 2:
            return None, "each clip of the batch is a single patch: there is nothing to hide"
        learning = [] if phase.kind in ("cold", "encoder") else [self.model.tokenizer, self.model.target_norm]
        before = [buffer.clone() for module in learning for buffer in module.buffers()]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            objective = self._objective(phase, batch)
        optimizer.zero_grad(set_to_none=True)
        objective.loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip_norm)
        if bool(torch.isfinite(norm + objective.loss.detach())):
            optimizer.step()
            return objective, ""
        for buffer, value in zip((b for module in learning for b in module.buffers()), before, strict=True):
            buffer.copy_(value)  # codebooks and running averages took it in while they were asked
        return None, "the loss or its gradient is not finite"

    def _objective(self, phase: Phase, batch: PatchBatch) -> Objective:
        rng = self._generator(2)
        if phase.kind == "tokenizer":
            return tokenizer_objective(self.model, batch)
        if phase.kind != "joint":
            return encoder_objective(self.model, batch, rng)
        schedule = self.config.schedule
        extra: Tensor | float = 0.0
        # A first step that was skipped leaves no codebooks behind, and all codes would be alike.
        if self.phase_step % schedule.joint_every == 0 or not self.model.ready:
            extra = schedule.joint_weight * tokenizer_objective(self.model, batch).loss
        self.model.tokenizer.eval()  # making targets must not move codebooks a second time
        objective = encoder_objective(self.model, batch, rng)
        self.model.tokenizer.train()
        objective.loss = objective.loss + extra
        return objective

    def _skip(self, why: str, optimizer: torch.optim.Optimizer) -> None:
        """Counts a step that changed nothing.

        Raises:
            NumericalError: too many of them in a row; a checkpoint has been written.
        """
        self.bad_steps, self.skipped = self.bad_steps + 1, self.skipped + 1
        self.on_event("warning", message=f"step {self.step}: skipped, {why}")
        if self.bad_steps >= _BAD_STEPS:
            raise NumericalError(
                f"{self.bad_steps} steps in a row were skipped, at last because {why}. "
                f"The weights before them are in {self._save(optimizer_state(optimizer))}",
                _REMEDY,
            )

    def _enter(self, phase: Phase) -> None:
        """What a phase needs before its first step."""
        if self.phase_index == 0:
            batches = self._first_patches()
            channels, codes = self.model.patcher.channels, self.config.quantizer.codes
            for message in material_warnings(self.stream.reader, batches, channels, codes):
                self.on_event("warning", message=message)
            if phase.kind == "cold":
                self.model.cold_tokenizer.fit(torch.cat([batch.x_BNP[batch.valid_BN] for batch in batches]))
        if phase.kind in ("tokenizer", "joint"):
            self.model.tokenizer.quantizer.reset()
        if phase.kind == "joint":
            self.model.learned.fill_(True)
        if phase.kind == "encoder":
            with torch.random.fork_rng(devices=[]):  # what it draws must not depend on the phases before
                torch.manual_seed(self._generator(3).initial_seed())
                if self.config.schedule.restart:
                    self.model.restart_encoder()
                else:
                    self.model.predictor.renew_head()

    def _leave(self, phase: Phase) -> None:
        if phase.kind in ("tokenizer", "joint"):
            self.model.tokenizer.quantizer.freeze()
            self.model.learned.fill_(True)
        self.phase_index, self.phase_step, self.phase_seconds = self.phase_index + 1, 0, 0.0

    def _first_patches(self) -> list[PatchBatch]:
        """Unchanged clips for the start of the codebooks, from the first batches; the stream then starts over."""
        start, batches = self.stream.state(), list[PatchBatch]()
        wanted = _FIT_VECTORS_PER_CODE * self.config.quantizer.codes
        for batch in self.stream.batches():
            batches.append(self.model.patcher(batch.tensors))
            wanted -= int(batches[-1].valid_BN.sum())
            if wanted <= 0 or len(batches) == _FIT_BATCHES:
                break
        self.stream.load(start)
        return batches

    def _report(self, phase: Phase, meter: Meter, rate: float) -> None:
        if not meter.steps:
            return
        row = {"step": self.step, "phase": phase.kind, "phase_index": self.phase_index, **meter.read(), "lr": rate}
        row["residual_norm" if phase.kind == "tokenizer" else "cross_entropy"] = row.pop("per_level")
        self.last = {**self.last, **row}
        self.log.write({**row, "seconds": round(self.seconds, 2)})
        done = phase.fraction(self.phase_step, self.phase_seconds)
        for message in self.watch.warnings(row, done, self.phase_step):
            self.on_event("warning", message=f"step {self.step}: {message}")
        self.on_event("step", **row, done=self._done(), eta_s=self._eta_s(), skipped=self.skipped)

    def _look(self, phase: Phase) -> None:
        """The online probe, logged beside the losses."""
        self.probe = self.probe or OnlineProbe(self.stream.reader, self.model.patcher, self.config.train.probe_clips)
        if not self.probe.views:
            return
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            seen = self.probe.judge(self.model, learning=phase.kind == "tokenizer")
        self.log.write({"step": self.step, "phase": phase.kind, "phase_index": self.phase_index, "probe": seen})
        self.on_event("probe", step=self.step, clips=len(self.probe.views), **seen)

    def _done(self) -> float:
        """Share of the whole run that is done."""
        lengths = [phase.seconds or float(phase.steps or 0) for phase in self.phases]
        phase = self.phases[self.phase_index]
        here = lengths[self.phase_index] * phase.fraction(self.phase_step, self.phase_seconds)
        return (sum(lengths[: self.phase_index]) + here) / sum(lengths)

    def _eta_s(self) -> float:
        done = self._done()
        return self.seconds * (1 - done) / max(done, 1e-9)

    def _generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.config.train.seed * 1_000_003 + self.step) * 4 + purpose)

    def _save(self, optimizer: dict[str, Tensor]) -> str:
        training = {
            "step": self.step,
            "phase_index": self.phase_index,
            "phase_step": self.phase_step,
            "phase_seconds": self.phase_seconds,
            "seconds": self.seconds,
            "clips": self.clips,
            "skipped": self.skipped,
            "last": self.last,
            "stream": self.stream.state(),
            "optimizer": optimizer,
        }
        return str(self.run.save(self.model, training, self.step, self.config.train.keep))

    def _restore(self, training: dict[str, Any]) -> dict[str, Tensor] | None:
        for name in ("step", "phase_index", "phase_step", "phase_seconds", "seconds", "clips", "last"):
            setattr(self, name, training[name])
        self.skipped = training.get("skipped", 0)
        self.stream.load(training["stream"])
        self.log.truncate(self.step)
        return training["optimizer"] or None

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM finish the step first; a second SIGINT does not wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = number

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


Part = Literal["encoder", "tokenizer"]


def set_trainable(model: Bridle, kind: Kind) -> dict[Part, list[nn.Module]]:
    """Gradients and training mode for the modules a phase trains, and for nothing else; returns those modules."""
    parts: dict[Part, list[nn.Module]] = {}
    if kind != "tokenizer":
        parts["encoder"] = [model.encoder, model.predictor]
    if kind in ("tokenizer", "joint"):
        parts["tokenizer"] = [model.tokenizer, model.estimator, model.target_norm]
    model.requires_grad_(False).eval()
    for module in chain(*parts.values()):
        module.requires_grad_(True).train()
    return parts


def build_optimizer(parts: dict[Part, list[nn.Module]], optim: OptimSection) -> torch.optim.AdamW:
    """AdamW with each part's own peak rate ("peak_lr"); biases, norms, single tokens and codebooks are not decayed."""
    groups = []
    for part, modules in parts.items():
        parameters = [p for module in modules for p in module.parameters()]
        peak = optim.tokenizer_lr if part == "tokenizer" else optim.lr
        for matrices, decay in ((True, optim.weight_decay), (False, 0.0)):
            chosen = [p for p in parameters if (p.dim() == 2) is matrices]
            groups.append({"params": chosen, "weight_decay": decay, "peak_lr": peak})
    return torch.optim.AdamW(groups, lr=0.0, betas=(optim.beta1, optim.beta2), fused=True)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes in it, None for float32."""
    if precision == "float32":
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else None
