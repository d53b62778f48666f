"""The training loop: phases in turn, a checkpoint every few steps, resumable at each of them.

What a step draws at random (masks, augmentation) follows from the seed and the step's number, and the stream's order
from its cursor; so a checkpoint needs no generator states.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from bridle import distributed, progress
from bridle.checkpoint import RunFolder, Saver, optimizer_state, restore_optimizer, snapshot
from bridle.errors import DataError, EnvironmentFault, NumericalError, first_line
from bridle.memory import is_out_of_memory, memory_mb
from bridle.model import Bridle
from bridle.rng import key_of
from bridle.schema import PatchBatch
from bridle.stream import Batch, ClipStream
from bridle.train.cost import clip_flops, peak_flops
from bridle.train.data_checks import material_warnings
from bridle.train.log import MetricsLog
from bridle.train.meter import Meter
from bridle.train.online_probe import OnlineProbe
from bridle.train.phases import Phase, rate_share
from bridle.train.profiler import Profiler, part_of_step
from bridle.train.step import REASONS, Outcome, Stepper, autocast_dtype
from bridle.train.stop import Stop
from bridle.train.training_warnings import Watch

_FIT_VECTORS_PER_CODE = 128  # patches that the cold start's whitening and k-means look at
_FIT_BATCHES = 64
_SETTLE_EVERY = 10  # steps after which a signal to stop is heard of at the latest
_BAD_STEPS = 10  # steps in a row that cannot be made before the run is given up
_REMEDY = "Lower --set optim.lr, or use --set train.precision=float32; for clips that are too short: --set patches...."


class Trainer:
    """Trains one model on one stream.

    Args:
        model: on its device.
        stream: training views.
        phases: see `plan_phases`.
        run: where checkpoints and metrics go.
        profile: look at where the time of some steps of each phase goes.
    """

    def __init__(
        self,
        model: Bridle,
        stream: ClipStream,
        phases: list[Phase],
        run: RunFolder,
        device: str,
        profile: bool = False,
    ) -> None:
        self.model, self.stream, self.phases, self.run = model, stream, phases, run
        self.config, self.device = model.config, torch.device(device)
        self.first = distributed.rank() == 0  # it alone writes
        self.dealt = self.config.train.shard_weights and distributed.world() > 1
        self.dtype = autocast_dtype(self.config.train.precision, self.device)
        self.profiler = Profiler(run.path / "profile", self.device) if profile and self.first else None
        self.saver = Saver(run, self.config.train.keep)
        tracker = self.config.train.tracker if self.first else "none"
        self.log = MetricsLog(run.metrics, tracker, self.config.model_dump(mode="json"))
        self.watch = Watch(self.config.quantizer.codes)
        self.probe: OnlineProbe | None = None
        self.phase_index, self.phase_step, self.step, self.clips = 0, 0, 0, 0
        self.phase_seconds = self.seconds = 0.0
        self.last: dict[str, Any] = {}
        self.meter = Meter()
        self._metered: dict[str, Any] | None = None  # what it was at the checkpoint to resume from
        self.bad_steps = self.skipped = 0
        self.why = ""  # of the last of them
        self.learned = False  # in this phase
        # Of steps that the device may not have done yet: the step, where the stream was before it, what it came to.
        self._outcomes: list[tuple[int, dict[str, int], Outcome]] = []
        self.stop = Stop()

    def train(self, resume_from: dict[str, Any] | None = None) -> None:
        """Runs all phases from where the run stands.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with everything saved.
            NumericalError: too many steps in a row without a finite gradient.
        """
        optimizer_tensors = self._restore(resume_from) if resume_from else None
        batches = self.stream.batches() if resume_from else None
        with self.stop.listening(), closing(self.saver), closing(self.log):
            if not resume_from:
                if self.first:
                    self.log.truncate(0)
                self._save(None, must=True)
            while self.phase_index < len(self.phases):
                if optimizer_tensors is None and self.phase_step == 0:
                    self._enter(self.phases[self.phase_index])
                batches = batches or self.stream.batches()
                self._run_phase(self.phases[self.phase_index], batches, optimizer_tensors)
                optimizer_tensors = None

    def _run_phase(self, phase: Phase, batches: Iterator[Batch], optimizer_tensors: dict[str, Tensor] | None) -> None:
        stepper = self._stepper(phase)
        if optimizer_tensors:
            restore_optimizer(stepper.optimizer, optimizer_tensors)
        progress.report("phase", phase=phase.kind, index=self.phase_index, phases=len(self.phases))
        if self.profiler:
            self.profiler.enter(self.phase_index, phase.kind)
        self.meter, mark, self.learned = Meter(), time.monotonic(), self.phase_step > 0
        if self._metered:
            self.meter.load(self._metered, self.device)
            self._metered = None
        while (fraction := phase.fraction(self.phase_step, self.phase_seconds)) < 1.0:
            # The middle of the step: neither the first step nor the last is lost to a rate of zero.
            middle = min(1.0, fraction + 0.5 / phase.steps) if phase.steps else max(fraction, 1e-4)
            rate = stepper.set_rate(rate_share(middle, self.config.optim.warmup))
            began, place = time.monotonic(), self.stream.state()
            batch = self._next(batches, stepper)
            self.meter.waited_s += time.monotonic() - began
            outcome = self._make(stepper, batch)
            if phase.kind != "tokenizer":
                # Encoders that start afresh have averages of their own.
                self.model.follow(self.phase_step if self.config.schedule.restart else self.step, outcome.sound)
            now = time.monotonic()
            if phase.seconds is not None:
                now = distributed.number_of_first(now - mark) + mark  # all ranks end a phase with the same step
            self.phase_seconds, self.seconds, mark = self.phase_seconds + now - mark, self.seconds + now - mark, now
            self.step, self.phase_step = self.step + 1, self.phase_step + 1
            self.meter.add(outcome)
            self._outcomes.append((self.step, place, outcome))
            if self.profiler:
                began = time.monotonic()
                self.profiler.step()  # may write a trace, which is no part of the run
                spent = time.monotonic() - began
                mark, self.meter.since = mark + spent, self.meter.since + spent
            self._after_step(phase, stepper, rate)
        if self.profiler:
            self.profiler.leave()
        if not self.learned:
            why = f"all steps of the {phase.kind} phase were skipped; the last because {self.why}"
            raise NumericalError(why, _REMEDY)
        if self.dealt:
            self._gather()
        self._leave(phase)
        self._save(None, must=self.phase_index == len(self.phases))

    def _stepper(self, phase: Phase) -> Stepper:
        part, clips = self.config.train.part, self.stream.batch_size
        if isinstance(part, int):
            return Stepper(self.model, phase.kind, clips * distributed.world(), self.dtype, part)
        stepper = Stepper(self.model, phase.kind, clips * distributed.world(), self.dtype)
        if part == "auto":
            found = stepper.fit(clips)
            progress.note(f"{phase.kind}: {found} of {clips} clips fit into memory at once")
        return stepper

    def _after_step(self, phase: Phase, stepper: Stepper, rate: float) -> None:
        """What is due now: reading, reporting, a look, a checkpoint, the end."""
        over = phase.fraction(self.phase_step, self.phase_seconds) >= 1
        report, save = self._due(self.config.train.log_every) or over, self._due(self.config.train.checkpoint_every)
        alone_asked = self.stop.asked and distributed.world() == 1  # several ranks must ask after the same step
        if report or save or alone_asked or self.device.type == "cpu" or self._due(_SETTLE_EVERY):
            self._settle(stepper)
        if report:
            self._report(phase, rate)
        if self._due(self.config.train.probe_every):
            self._look(phase)
        if save or self.stop.agreed:
            self._save(stepper, must=bool(self.stop.agreed))
        self.stop.raise_agreed()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _next(self, batches: Iterator[Batch], stepper: Stepper) -> Batch:
        """The next batch; when shards, storage or decoders fail, what was learned is saved first.

        Of several ranks the others wait for this one: it takes part with nothing in a last step, after which all stop.
        """
        if not self.stop.failure:
            try:
                with part_of_step("data wait"):
                    return next(batches)
            except (DataError, EnvironmentFault) as error:
                if distributed.world() == 1:
                    if self.phase_step:
                        self._settle(stepper)
                        self._save(stepper, must=True)
                    raise
                self.stop.fail(error)
        return Batch([], [], [])

    def _make(self, stepper: Stepper, batch: Batch) -> Outcome:
        # Codebooks that could not be started leave no targets, and joint training would wait for them in vain.
        tokenizer = self.phase_step % self.config.schedule.joint_every == 0 or not self.model.ready
        try:
            return stepper.step(
                batch.tensors, batch.places, self.step, len(batch.keys), tokenizer=tokenizer, stop=self.stop.asked
            )
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            why = first_line(error)
        raise self._too_large(stepper, why)

    def _too_large(self, stepper: Stepper, why: str) -> EnvironmentFault:
        """What to do about a step that did not fit; its tensors are gone by now."""
        size = stepper.part or self.stream.batch_size
        fits = max(1, size // 2)
        if distributed.world() == 1:  # the others may be in the midst of a step
            fits = stepper.fit(fits)
        return EnvironmentFault(
            f"{size} clips at once do not fit into device memory: {why}",
            f"Use micro-batches, with the same result: --set train.part={fits}, or --batch-size auto. "
            "--set train.recompute=true trades time for memory.",
        )

    def _settle(self, stepper: Stepper) -> None:
        """Reads what became of the steps since the last time; counts and names those that changed nothing.

        Raises:
            NumericalError: too many of them in a row; a checkpoint has been written.
        """
        statuses = torch.stack([outcome.status_4 for *_, outcome in self._outcomes]).tolist() if self._outcomes else []
        for (step, place, _), (verdict, clips, _, stop) in zip(self._outcomes, statuses, strict=True):
            self.stop.hear(stop)
            if self.stop.failed:  # no step was made since then: as if none had been tried
                self.phase_step, self.step = self.phase_step - (self.step - step + 1), step - 1
                self.stream.load(place)
                break
            self.clips += int(clips)
            self.learned = self.learned or not verdict
            self.bad_steps = self.bad_steps + 1 if verdict else 0
            if verdict:
                self.why, self.skipped = REASONS[int(verdict)], self.skipped + 1
                progress.warn(f"step {step}: skipped, {self.why}")
        self._outcomes.clear()
        if self.bad_steps >= _BAD_STEPS:
            self._save(stepper, must=True)
            raise NumericalError(
                f"{self.bad_steps} steps in a row were skipped; the last because {self.why}. "
                f"The weights before them are in {self.run.checkpoints()[-1]}",
                _REMEDY,
            )

    def _enter(self, phase: Phase) -> None:
        """What a phase needs before its first step."""
        self.saver.wait()  # decoding processes are forked now, and no thread may be at work meanwhile
        batches = self._first_patches() if self.phase_index == 0 or phase.kind in ("tokenizer", "joint") else []
        if self.phase_index == 0 and distributed.rank() == 0:
            channels, codes = self.model.patcher.channels, self.config.quantizer.codes
            for message in material_warnings(self.stream.reader, batches, channels, codes):
                progress.warn(message)
        if phase.kind == "cold":
            rows = [distributed.gather_rows(batch.rows(batch.x_BNP)) for batch in batches]
            self.model.cold_tokenizer.fit(torch.cat(rows))
        if phase.kind in ("tokenizer", "joint"):
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                self.model.tokenizer.train().start(batches)
        if phase.kind == "joint":
            self.model.learned.fill_(True)
        if phase.kind == "encoder":
            with torch.random.fork_rng(devices=[]):  # what it draws must not depend on the phases before
                torch.manual_seed(key_of(self.config.train.seed, self.step, "encoder"))
                if self.config.schedule.restart:
                    self.model.restart_encoder()
                else:
                    self.model.predictor.renew_head()

    def _leave(self, phase: Phase) -> None:
        if phase.kind in ("tokenizer", "joint"):
            self.model.tokenizer.quantizer.freeze()
            self.model.learned.fill_(True)
        self.phase_index, self.phase_step, self.phase_seconds = self.phase_index + 1, 0, 0.0

    def _gather(self) -> None:
        """A model with all of its weights on every rank: what happens between phases is not for parts of them."""
        weights = snapshot(self.model).weights
        self.model = Bridle(self.config, self.model.statistics)
        self.model.load_state_dict(weights)
        self.model.to(self.device)

    def _first_patches(self) -> list[PatchBatch]:
        """Unchanged clips for the start of the codebooks, from the next batches; the stream then goes back."""
        start, batches = self.stream.state(), list[PatchBatch]()
        wanted = _FIT_VECTORS_PER_CODE * self.config.quantizer.codes
        for batch in self.stream.batches():
            batches.append(self.model.patcher(batch.tensors) if batch.tensors else self.model.patcher.nothing())
            wanted -= int(distributed.sum_over_ranks(torch.tensor(sum(batches[-1].lengths), device=self.device)))
            if wanted <= 0 or len(batches) == _FIT_BATCHES:
                break
        self.stream.load(start)
        return batches

    def _report(self, phase: Phase, rate: float) -> None:
        if not (read := self.meter.read()):
            return
        row: dict[str, Any] = {"step": self.step, "phase": phase.kind, "phase_index": self.phase_index, **read}
        row["lr"] = rate
        tflops = row["clips_per_s"] * clip_flops(self.model, phase.kind, read["patches_per_clip"]) / 1e12
        row |= {"tflops": tflops, "memory_mb": memory_mb(self.device)}
        if self.device.type == "cuda" and (peak := peak_flops(torch.cuda.get_device_name(self.device))):
            row["mfu"] = 1e12 * tflops / (peak * distributed.world())
        row["residual_norm" if phase.kind == "tokenizer" else "cross_entropy"] = row.pop("per_level")
        self.last = {**self.last, **row}
        if self.first:
            self.log.write({**row, "seconds": round(self.seconds, 2)})
        done = phase.fraction(self.phase_step, self.phase_seconds)
        for message in self.watch.warnings(row, done, self.phase_step):
            progress.warn(f"step {self.step}: {message}")
        progress.report("step", **row, done=self._done(), eta_s=self._eta_s(), skipped=self.skipped)

    def _look(self, phase: Phase) -> None:
        """The online probe, logged beside the losses; the other ranks wait with the next step."""
        if not (self.first or self.dealt):  # who holds a part of the weights is asked for it
            return
        self.probe = self.probe or OnlineProbe(self.stream.reader, self.model.patcher, self.config.train.probe_clips)
        if not self.probe.views:
            return
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            seen = self.probe.judge(self.model, learning=phase.kind == "tokenizer")
        if self.first:
            self.log.write({"step": self.step, "phase": phase.kind, "phase_index": self.phase_index, "probe": seen})
        progress.report("probe", step=self.step, clips=len(self.probe.views), **seen)

    def _done(self) -> float:
        """Share of the whole run that is done."""
        lengths = [phase.seconds or float(phase.steps or 0) for phase in self.phases]
        phase = self.phases[self.phase_index]
        here = lengths[self.phase_index] * phase.fraction(self.phase_step, self.phase_seconds)
        return (sum(lengths[: self.phase_index]) + here) / sum(lengths)

    def _eta_s(self) -> float:
        done = self._done()
        return self.seconds * (1 - done) / max(done, 1e-9)

    def _save(self, stepper: Stepper | None, *, must: bool = False) -> None:
        """A checkpoint; with the optimizer's moments in the midst of a phase. Every rank must call it."""
        metered = self.meter.state() if stepper else None
        if not (self.first or self.dealt):
            return
        shot, optimizer = snapshot(self.model), optimizer_state(stepper.optimizer) if stepper else {}
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
            "meter": metered,
            "optimizer": optimizer,
        }
        if self.first:
            self.saver.save(shot, training, self.step, must=must)

    def _restore(self, training: dict[str, Any]) -> dict[str, Tensor] | None:
        for name in ("step", "phase_index", "phase_step", "phase_seconds", "seconds", "clips", "last"):
            setattr(self, name, training[name])
        self.skipped, self._metered = training.get("skipped", 0), training.get("meter")
        self.stream.load(training["stream"])
        if self.first:
            self.log.truncate(self.step)
        return training["optimizer"] or None
