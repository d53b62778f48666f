"""One step of a phase: forward and backward over the parts of a batch, gradients joined over ranks, one update.

Nothing here waits for the device: whether a step can be made is decided on it, and the update of a step that cannot is
the identity there. However a batch is split over ranks and cut into parts, the gradient is that of the whole, but for
`Standardise`, which sees one part at a time (of all ranks). Every rank has the same number of parts, be they empty,
since each of them may ask the others.

Of a step in parts only one part's patches are in memory: they are cut twice, first for what the whole step must know.

Shapes: B clips, Q levels, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from bridle import distributed
from bridle.config.sections import OptimSection
from bridle.errors import EnvironmentFault
from bridle.memory import free_memory
from bridle.model import Bridle
from bridle.nn import Block, Blocks
from bridle.rng import Draws
from bridle.schema import PatchBatch
from bridle.train.cost import step_bytes
from bridle.train.objectives import Losses, Objective, Targets, level_weights, make_targets
from bridle.train.phases import Kind
from bridle.train.profiler import part_of_step
from bridle.train.stop import FAILED

_SHARE_OF_FREE = 0.8  # that an estimate may take of the memory that is free
_SHARE_OF_FREE_GPU = 0.95  # that a try may take: memory comes in blocks, and those of the next steps have other sizes
SOUND, NO_MEDIA, BAD_MEDIA, NOTHING_HIDDEN, BAD_LOSS = range(5)
REASONS = (
    "",
    "none of its clips could be read",
    "the media hold non-finite values",
    "each clip of the batch is a single patch: nothing can be masked",
    "the loss or its gradient is not finite",
)


@dataclass(slots=True)
class Outcome:
    """What a step came to, still on the device.

    Attributes:
        status_4: index into `REASONS`, clips, their patches, the signal to stop by or 0; the same on every rank.
        loss, per_level_Q, count_QK: of this rank's clips alone, in shares of the whole step's means.
    """

    status_4: Tensor
    loss: Tensor
    per_level_Q: Tensor
    count_QK: Tensor

    @property
    def sound(self) -> Tensor:
        """Whether the step changed anything, bool `()`."""
        return self.status_4[0] == SOUND


@dataclass(slots=True)
class _Part:
    """Clips that are computed at once.

    Attributes:
        batch: their patches; None: to be cut anew when it is their turn.
        patches: how many of them are valid.
        bad: whether they hold values that are not finite.
    """

    views: Sequence[Tensor]
    places: Sequence[int]
    batch: PatchBatch | None = None
    targets: Targets | None = None
    patches: int = 0
    bad: Tensor | float = 0.0


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
        self._set_blocks()
        self.losses: nn.Module = Losses(model)
        sides = set_trainable(model, kind)
        if model.config.train.shard_weights and distributed.world() > 1:
            networks: list[nn.Module | None] = [model.encoder, model.average, model.predictor, model.estimator]
            networks += [model.tokenizer.encoder, model.tokenizer.project]
            distributed.shard_weights([one for one in networks if one is not None], Block)
        else:
            some_unused = kind == "joint" or not model.ready  # joint steps use the tokenizer now and then
            self.losses = distributed.join_gradients(self.losses, some_unused=some_unused)
        self.optimizer = build_optimizer(sides, model.config.optim)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def _set_blocks(self) -> None:
        train = self.model.config.train
        for module in self.model.modules():
            if isinstance(module, Blocks):
                module.recompute = train.recompute
            if isinstance(module, Block) and train.compile and module._compiled_call_impl is None:
                module.compile()

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
            views: this rank's clips, fewer than its share or none where they could not be read.
            places: of these among all clips of the step.
            number: of the step, which all that is drawn follows from.
            clips: of this rank that count.
            tokenizer: in joint mode, whether this step trains the tokenizer too.
            stop: what this rank was told to stop by (see `Stop`); all ranks hear of it, and of a failure make no step.
        """
        parts = self._parts(views, places, number)
        share_2, weight_Q, status_4 = self._whole(parts, clips, stop)
        outcome = Outcome(status_4, *(torch.zeros((), device=self.device) for _ in range(3)))
        self.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            with distributed.without_joining(self.losses, part is not parts[-1]):
                loss = self._loss(part, number, share_2, weight_Q, tokenizer, outcome)
                with part_of_step("backward"):
                    # Gradients are averaged over the ranks, and the shares of all of them add up to one.
                    (loss * distributed.world()).backward()
        with part_of_step("optimizer"):
            self._update(outcome)
        return outcome

    def fit(self, most: int) -> int:
        """The largest part, halved from `most`, that fits into the memory of every rank; also sets it.

        Where networks are sharded over the ranks, and on a CPU, which kills instead of refusing, an estimate decides;
        elsewhere a try.

        Raises:
            EnvironmentFault: not even one clip fits.
        """
        size = most
        while not distributed.least(self._fits(size, most)):
            if size == 1:
                raise EnvironmentFault(
                    "one clip does not fit into device memory",
                    "Use a smaller preset, smaller clips (--set patches....) or --set train.recompute=true.",
                )
            size = -(-size // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.part = size
        return size

    def _fits(self, size: int, most: int) -> bool:
        if self.device.type == "cpu" or distributed.are_dealt(self.parameters):
            return step_bytes(self.model, size) <= _SHARE_OF_FREE * free_memory(self.device)
        torch.cuda.reset_peak_memory_stats()
        try:
            with distributed.alone():  # the others may have no memory left, and would not answer
                self._try(size, again=size < most)
        except torch.OutOfMemoryError:
            return False
        used, all_of_it = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(self.device).total_memory
        return used <= _SHARE_OF_FREE_GPU * all_of_it

    def _try(self, size: int, again: bool) -> None:
        """Steps of that many blank clips which change nothing, with all that a real one has in memory.

        Args:
            again: one more part follows, while there are gradients already.
        """
        views = [self.model.patcher.blank()] * size
        bad = Outcome(torch.full((4,), float(NO_MEDIA), device=self.device), *torch.zeros(3, device=self.device))
        for _ in range(1 + again):
            part = self._looked_at(_Part(views, range(size)), 0)
            share_2, weight_Q, _ = self._whole([part], 0, 0)
            with distributed.without_joining(self.losses, True):
                self._loss(part, 0, share_2, weight_Q, True, replace(bad)).backward()
        self._update(replace(bad))
        self.optimizer.zero_grad(set_to_none=True)

    def _update(self, outcome: Outcome) -> None:
        """What the gradients ask for, if all of them are finite."""
        status_4 = outcome.status_4
        norm = nn.utils.clip_grad_norm_(self.parameters, self.model.config.optim.clip_norm)
        finite = (distributed.whole(norm) + distributed.sum_over_ranks(outcome.loss.clone())).isfinite()
        status_4[0] = torch.where((status_4[0] == SOUND) & ~finite, float(BAD_LOSS), status_4[0])
        self.model.settle(outcome.sound)
        self.optimizer.found_inf = (~outcome.sound).float()  # type: ignore[attr-defined]  # the fused AdamW's own switch
        with distributed.beside_dealt(self.model.config.train.shard_weights):
            self.optimizer.step()

    def _parts(self, views: Sequence[Tensor], places: Sequence[int], number: int) -> list[_Part]:
        share = self.clips // distributed.world()
        size = self.part or share
        spans = [slice(start, start + size) for start in range(0, share, size)]
        return [self._looked_at(_Part(views[span], places[span]), number, keep=len(spans) == 1) for span in spans]

    def _looked_at(self, part: _Part, number: int, *, keep: bool = True) -> _Part:
        """The part with the number of its patches, the targets they give and, to `keep`, the patches themselves."""
        seed, masks = self.model.config.train.seed, self.model.config.mask.per_clip
        batch = self._cut(part, number)
        part.batch = batch if keep else None
        part.patches, part.bad = sum(batch.lengths), (~batch.x_BNP.sum().isfinite()).float()
        if self.kind != "tokenizer" and self.model.ready:
            places = part.places or [0]
            of_masks = [place + mask * self.clips for mask in range(masks) for place in places]
            with part_of_step("tokenizer"), self._autocast():
                part.targets = make_targets(self.model, batch, Draws(seed, number, of_masks, self.device))
        return part

    def _cut(self, part: _Part, number: int) -> PatchBatch:
        """In float32: codes are to be those that the same clip has when it is tokenized later."""
        with part_of_step("patches"):
            if not part.views:
                return self.model.patcher.nothing()
            draws = Draws(self.model.config.train.seed, number, part.places, self.device)
            return self.model.patcher(list(part.views), draws)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _whole(self, parts: list[_Part], clips: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """What needs all parts of all ranks, in one all-reduce.

        Returns:
            one over the number of patches that each loss is a mean of `(2,)` (encoder, tokenizer); the weights of the
            levels; what the outcome tells so far.
        """
        counts = [float(clips), float(sum(part.patches for part in parts)), float(stop)]
        bad, hidden = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        energy_Q = torch.zeros(self.model.config.quantizer.levels, device=self.device)
        for part in parts:
            bad = bad + part.bad
            if part.targets:
                hidden, energy_Q = hidden + part.targets.hidden, energy_Q + part.targets.energy_Q
        on_device = torch.tensor(counts).to(self.device, non_blocking=True)
        joined = distributed.sum_over_ranks(torch.cat([on_device, torch.stack([bad, hidden]), energy_Q]))
        valid, bad, hidden = joined[1], joined[3], joined[4]
        verdict = torch.where(bad > 0, float(BAD_MEDIA), float(SOUND))
        if all(part.targets for part in parts):
            verdict = torch.where((bad == 0) & (hidden == 0), float(NOTHING_HIDDEN), verdict)
        verdict = torch.where((valid == 0) | (joined[2] >= FAILED), float(NO_MEDIA), verdict)
        weight_Q = level_weights(joined[5:] / valid.clamp(min=1), self.model.config.tokenizer.level_weights)
        share_2 = torch.stack([hidden, valid]).clamp(min=1).reciprocal()
        return share_2, weight_Q, torch.cat([verdict[None], joined[:3]])

    def _loss(
        self, part: _Part, number: int, share_2: Tensor, weight_Q: Tensor, tokenizer: bool, outcome: Outcome
    ) -> Tensor:
        """This part's share of the loss of the whole step, added to what is logged."""
        batch, targets = part.batch or self._cut(part, number), part.targets
        with self._autocast():
            trains = self.kind == "tokenizer" or (self.kind == "joint" and tokenizer)
            encoder, tokens = self.losses(batch, targets, weight_Q, trains)
        loss = torch.zeros((), device=self.device)
        if encoder and targets:
            encoder_share = share_2[0] * targets.hidden
            loss = encoder.loss * encoder_share
            _add(outcome, encoder, encoder_share)
        if tokens:
            token_share = share_2[1] * part.patches
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


Side = Literal["encoder", "tokenizer"]


def set_trainable(model: Bridle, kind: Kind) -> dict[Side, list[nn.Module]]:
    """Gradients and training mode for the modules a phase trains, and for nothing else; returns those modules."""
    sides: dict[Side, list[nn.Module]] = {}
    if kind != "tokenizer":
        sides["encoder"] = [model.encoder, model.predictor]
    if kind in ("tokenizer", "joint"):
        sides["tokenizer"] = [model.tokenizer, model.estimator, model.target_norm]
    model.requires_grad_(False).eval()
    for module in chain(*sides.values()):
        module.requires_grad_(True).train()
    return sides


def build_optimizer(sides: dict[Side, list[nn.Module]], optim: OptimSection) -> torch.optim.AdamW:
    """AdamW with each side's own peak rate ("peak_lr"); biases, norms, single tokens and codebooks are not decayed."""
    groups = []
    for side, modules in sides.items():
        parameters = [p for module in modules for p in module.parameters()]
        peak = optim.tokenizer_lr if side == "tokenizer" else optim.lr
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
