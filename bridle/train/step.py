"""One step of a phase: forward and backward over the parts of a batch, gradients joined over ranks, one update.

Nothing here waits for the device: whether a step can be made is decided on it, and the update of a step that cannot is
the identity there. However a batch is dealt to ranks and cut into parts, the gradient is that of the whole, but for
`Standardise`, which sees one part at a time (of all ranks).

Shapes: B clips, Q levels, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bridle import distributed
from bridle.config.sections import OptimSection
from bridle.draws import Draws
from bridle.errors import EnvironmentFault
from bridle.model import Bridle
from bridle.nn import Block
from bridle.schema import PatchBatch
from bridle.train.objectives import Losses, Objective, Targets, level_weights, make_targets
from bridle.train.phases import Kind
from bridle.train.profiler import part_of_step

_SHARE_OF_FREE = 0.8  # of the memory that is free
SOUND, BAD_MEDIA, NOTHING_HIDDEN, BAD_LOSS = range(4)
REASONS = (
    "",
    "the media hold values that are not finite",
    "each clip of the batch is a single patch: there is nothing to hide",
    "the loss or its gradient is not finite",
)


@dataclass(slots=True)
class Outcome:
    """What a step came to, still on the device.

    Attributes:
        told_3: index into `REASONS`, clips, the signal to stop by or 0; the same on every rank.
        loss, per_level_Q, count_QK: of this rank's clips alone, in shares of the whole step's means.
    """

    told_3: Tensor
    loss: Tensor
    per_level_Q: Tensor
    count_QK: Tensor

    @property
    def sound(self) -> Tensor:
        """Whether the step changed anything, bool `()`."""
        return self.told_3[0] == SOUND


@dataclass(slots=True)
class _Part:
    """Clips that are computed at once."""

    batch: PatchBatch
    targets: Targets | None


class Stepper:
    """Makes the steps of one phase.

    Args:
        model: on its device.
        kind: of the phase.
        clips: of a whole step, on all ranks together.
        dtype: of autocast, None for float32.
        part: clips that are computed at once; None for all that this rank has of a step.
    """

    def __init__(
        self, model: Bridle, kind: Kind, clips: int, dtype: torch.dtype | None = None, part: int | None = None
    ) -> None:
        self.model, self.kind, self.clips, self.dtype, self.part = model, kind, clips, dtype, part
        self.device = model.encoder.class_token_D.device
        self.losses: nn.Module = Losses(model)
        parts = set_trainable(model, kind)
        if model.config.train.shard_weights and distributed.world() > 1:
            networks: list[nn.Module | None] = [model.encoder, model.average, model.predictor, model.estimator]
            networks += [model.tokenizer.encoder, model.tokenizer.project]
            distributed.shard_weights([one for one in networks if one is not None], Block)
        else:
            some_unused = kind == "joint" or not model.ready  # joint steps use the tokenizer now and then
            self.losses = distributed.join_gradients(self.losses, some_unused=some_unused)
        self.optimizer = build_optimizer(parts, model.config.optim)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def set_rate(self, share: float) -> float:
        """Learning rates as a share of their peaks; returns the first."""
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak_lr"]
        return float(self.optimizer.param_groups[0]["lr"])

    def step(
        self,
        views: Sequence[Tensor],
        places: Sequence[int],
        number: int,
        clips: int,
        *,
        tokenizer: bool = True,
        stop: int = 0,
    ) -> Outcome:
        """Forward, backward, update; a step that cannot be made changes nothing.

        Args:
            views: this rank's clips, at least one.
            places: of these among all clips of the step.
            number: of the step, which all that is drawn follows from.
            clips: of this rank that count.
            tokenizer: in joint mode, whether this step trains the tokenizer too.
            stop: the signal that this rank was told to stop by; all ranks hear of it.
        """
        parts = self._parts(views, places, number)
        share_2, weight_Q, told_3 = self._whole(parts, clips, stop)
        outcome = Outcome(told_3, *(torch.zeros((), device=self.device) for _ in range(3)))
        self.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            with distributed.without_joining(self.losses, part is not parts[-1]):
                loss = self._loss(part, share_2, weight_Q, tokenizer, outcome)
                with part_of_step("backward"):
                    # Gradients are averaged over the ranks, and the shares of all of them add up to one.
                    (loss * distributed.world()).backward()
        with part_of_step("optimizer"):
            self._update(outcome)
        return outcome

    def fit(self, most: int, memory: Callable[[int], float]) -> int:
        """The largest part, halved from `most`, whose forward and backward pass fit into memory; also sets it.

        Args:
            memory: bytes that a part is estimated to need, for devices that kill instead of refusing (a CPU).

        Raises:
            EnvironmentFault: not even one clip fits.
        """
        size = most
        while True:
            try:
                if self.device.type == "cpu" and memory(size) > _SHARE_OF_FREE * available_memory():
                    raise torch.OutOfMemoryError
                self._try(size)
                break
            except torch.OutOfMemoryError:
                if size == 1:
                    raise EnvironmentFault(
                        "the memory of the device is too small for one clip",
                        "A smaller preset, or smaller clips: --set patches....; --set train.recompute=true takes less.",
                    ) from None
                size = -(-size // 2)
                torch.cuda.empty_cache()
        self.part = distributed.least(size)
        return self.part

    def _try(self, size: int) -> None:
        """A step of that many blank clips which changes nothing."""
        self.part = size
        (part,) = self._parts([self.model.patcher.blank()] * size, range(size), 0)
        share_2, weight_Q, told_3 = self._whole([part], 0, 0)
        outcome = Outcome(told_3, *(torch.zeros((), device=self.device) for _ in range(3)))
        with distributed.without_joining(self.losses, True):
            self._loss(part, share_2, weight_Q, True, outcome).backward()
        self.model.settle(torch.tensor(False, device=self.device))
        self.optimizer.zero_grad(set_to_none=True)

    def _update(self, outcome: Outcome) -> None:
        """What the gradients ask for, if all of them are finite."""
        told_3 = outcome.told_3
        norm = nn.utils.clip_grad_norm_(self.parameters, self.model.config.optim.clip_norm)
        finite = (distributed.whole(norm) + distributed.sum_over_ranks(outcome.loss.clone())).isfinite()
        told_3[0] = torch.where((told_3[0] == SOUND) & ~finite, float(BAD_LOSS), told_3[0])
        self.model.settle(outcome.sound)
        self.optimizer.found_inf = (~outcome.sound).float()  # type: ignore[attr-defined]  # the fused AdamW's own switch
        with distributed.beside_dealt(self.model.config.train.shard_weights):
            self.optimizer.step()

    def _parts(self, views: Sequence[Tensor], places: Sequence[int], number: int) -> list[_Part]:
        seed, masks = self.model.config.train.seed, self.model.config.mask.per_clip
        size, parts = self.part or len(views), list[_Part]()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            for start in range(0, len(views), size):
                here = places[start : start + size]
                draws = Draws(seed, number, here, self.device)
                with part_of_step("host to device"):
                    batch = self.model.patcher(list(views[start : start + size]), draws)
                targets = None
                if self.kind != "tokenizer" and self.model.ready:
                    of_masks = [place + mask * self.clips for mask in range(masks) for place in here]
                    with part_of_step("tokenizer"):
                        targets = make_targets(self.model, batch, Draws(seed, number, of_masks, self.device))
                parts.append(_Part(batch, targets))
        return parts

    def _whole(self, parts: list[_Part], clips: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """What needs all parts of all ranks, in one all-reduce.

        Returns:
            one over the number of patches that each loss is a mean of `(2,)` (encoder, tokenizer); the weights of the
            levels; what the outcome tells so far.
        """
        said = [float(clips), float(stop), float(sum(sum(part.batch.lengths) for part in parts))]
        bad, hidden = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        energy_Q = torch.zeros(self.model.config.quantizer.levels, device=self.device)
        for part in parts:
            bad = bad + (~part.batch.x_BNP.sum().isfinite()).float()
            if part.targets:
                hidden, energy_Q = hidden + part.targets.hidden, energy_Q + part.targets.energy_Q
        on_device = torch.tensor(said).to(self.device, non_blocking=True)
        joined = distributed.sum_over_ranks(torch.cat([on_device, torch.stack([bad, hidden]), energy_Q]))
        clips_all, stop_all, valid, bad, hidden = joined[:5].unbind()
        verdict = torch.where(bad > 0, float(BAD_MEDIA), float(SOUND))
        if all(part.targets for part in parts):
            verdict = torch.where((bad == 0) & (hidden == 0), float(NOTHING_HIDDEN), verdict)
        weight_Q = level_weights(joined[5:] / valid, self.model.config.tokenizer.level_weights)
        share_2 = torch.stack([hidden, valid]).clamp(min=1).reciprocal()
        return share_2, weight_Q, torch.stack([verdict, clips_all, stop_all])

    def _loss(self, part: _Part, share_2: Tensor, weight_Q: Tensor, tokenizer: bool, outcome: Outcome) -> Tensor:
        """This part's share of the loss of the whole step, added to what is logged."""
        targets, trains = part.targets, self.kind == "tokenizer" or (self.kind == "joint" and tokenizer)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            encoder, tokens = self.losses(targets, weight_Q, part.batch if trains else None)
        loss = torch.zeros((), device=self.device)
        if encoder and targets:
            encoder_share = share_2[0] * targets.hidden
            loss = encoder.loss * encoder_share
            _add(outcome, encoder, encoder_share)
        if tokens:
            token_share = share_2[1] * sum(part.batch.lengths)
            extra = tokens.loss * token_share
            if self.kind == "joint":
                return loss + self.model.config.schedule.joint_weight * extra
            _add(outcome, tokens, token_share)
            loss = extra
        return loss


def _add(outcome: Outcome, objective: Objective, share: Tensor) -> None:
    outcome.loss = outcome.loss + objective.loss.detach() * share
    outcome.per_level_Q = outcome.per_level_Q + objective.per_level_Q * share
    outcome.count_QK = outcome.count_QK + objective.count_QK


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


def available_memory() -> float:
    """Bytes that a process may still take without others being moved out (Linux; elsewhere: no limit)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * float(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration, ValueError):
        return math.inf


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
