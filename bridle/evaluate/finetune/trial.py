"""One fine-tuning: train on some clips, score others. A frozen model goes in and stays as it is.

Shapes: B clips of a step, M tested clips, L classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from bridle import progress
from bridle.errors import MediaError, NumericalError
from bridle.evaluate.finetune.augment import hide_bands, mix
from bridle.evaluate.finetune.clips import rows_of_steps, views_of
from bridle.evaluate.finetune.recipe import Finetune
from bridle.evaluate.labels import Truth
from bridle.infer import Failures, encode, nothing_read
from bridle.inputs import Several, Source
from bridle.model import Bridle, Classifier, layered_groups, set_drop_path
from bridle.rng import Draws
from bridle.schema import PatchBatch
from bridle.train.phases import rate_share
from bridle.train.step import autocast_dtype


@dataclass(frozen=True, slots=True)
class Tuned:
    """What fine-tuning made.

    Attributes:
        classifier: in evaluation mode, on the model's device.
        scores_ML: of the tested clips: probabilities, averaged over a clip's windows or views; nan for those that
            cannot be read.
    """

    classifier: Classifier
    scores_ML: Tensor


def tune_and_score(
    model: Bridle,
    train: Sequence[Source],
    truth: Truth,
    test: Sequence[Source],
    recipe: Finetune,
    *,
    seed: int = 0,
    several: Several | None = None,
    workers: int = 0,
    failures: Failures,
) -> Tuned:
    """Fine-tune a copy of the model's encoder and score the tested clips.

    Args:
        train, truth: clips with what they are.
        seed: of the linear layer, order, augmentation and dropped paths.
        several: clips in time and crops that are averaged at test; None: consecutive windows, of all of the clip.
        failures: filled with what cannot be read.

    Raises:
        DataError: none of the clips can be read. NumericalError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        classifier = Classifier(deepcopy(model.average or model.encoder), len(truth.classes), recipe.pool)
        classifier = classifier.to(model.encoder.class_token_D.device).requires_grad_(True)
        classifier = _train(model, classifier, train, truth, recipe, seed, workers, failures)
    classifier.eval().requires_grad_(False)
    scores_ML = score(model, classifier, test, truth.multi, several=several, workers=workers, failures=failures)
    return Tuned(classifier, scores_ML)


def score(
    model: Bridle,
    classifier: Classifier,
    test: Sequence[Source],
    multi: bool,
    *,
    several: Several | None = None,
    workers: int = 0,
    failures: Failures,
) -> Tensor:
    """Probabilities of the classes `(M, L)`, those of a clip averaged over its windows or views; nan: cannot be read.

    Args:
        model: whose patcher cuts the clips.

    Raises:
        DataError: none can be read.
    """

    def forward(batch: PatchBatch) -> tuple[Tensor, ...]:
        scores_BL = classifier(batch)
        return ((scores_BL.sigmoid() if multi else scores_BL.softmax(-1))[:, None],)

    place = {id(source): at for at, source in enumerate(test)}
    rows: dict[int, Tensor] = {}
    for encoded in encode(model, test, forward, failures=failures, workers=workers, several=several):
        rows[place[id(encoded.source)]] = encoded.outputs[0].mean(0)
    if not rows:
        raise nothing_read(failures)
    nothing = torch.full_like(next(iter(rows.values())), math.nan)
    return torch.stack([rows.get(at, nothing) for at in range(len(test))])


def _train(
    model: Bridle,
    classifier: Classifier,
    sources: Sequence[Source],
    truth: Truth,
    recipe: Finetune,
    seed: int,
    workers: int,
    failures: Failures,
) -> Classifier:
    """The classifier after all steps, or the average of its weights."""
    device = model.encoder.class_token_D.device
    steps = max(1, round(recipe.epochs * len(sources) / min(recipe.batch_size, len(sources))))
    groups = layered_groups(classifier, recipe.layer_decay, recipe.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=0.0)
    average = AveragedModel(classifier, avg_fn=_follow(recipe.ema), use_buffers=True) if recipe.ema else None
    dtype = autocast_dtype(model.config.train.precision, device)
    set_drop_path(classifier.encoder, recipe.drop_path)
    classifier.train()
    bad: set[int] = set()
    rows = rows_of_steps(truth, recipe.batch_size, steps, recipe.balanced, seed)
    for step, views in enumerate(views_of(sources, model, rows, seed, workers)):
        for clip, view in views:
            if isinstance(view, MediaError) and clip not in bad:
                bad.add(clip)
                failures.add(sources[clip].path, view.message)
        good = [(place, clip, view) for place, (clip, view) in enumerate(views) if isinstance(view, Tensor)]
        if len(bad) == len(sources):
            raise nothing_read(failures)
        if not good:
            continue
        draws = Draws(seed, step, [place for place, _, _ in good], device) if recipe.augment else None
        batch = model.patcher([view for _, _, view in good], draws)
        shares_BL = truth.shares(torch.tensor([clip for _, clip, _ in good])).to(device)
        batch, shares_BL = _augmented(batch, shares_BL, model, recipe, np.random.default_rng([seed, step]))
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * group["share"] * rate_share((step + 1) / (steps + 1), recipe.warmup)
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            loss = _loss(classifier(batch), shares_BL, truth.multi, recipe.smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(classifier.parameters(), recipe.clip_norm)
        if not norm.isfinite():
            raise NumericalError(
                f"fine-tuning: the loss is not finite at step {step + 1} of {steps}",
                "Use a lower --set finetune.lr=...",
            )
        optimiser.step()
        if average:
            average.update_parameters(classifier)
        progress.report("progress", done=step + 1, total=steps, what="fine-tuning")
    trained: Any = average.module if average else classifier
    set_drop_path(trained.encoder, 0.0)
    return cast(Classifier, trained)


def _augmented(
    batch: PatchBatch, shares_BL: Tensor, model: Bridle, recipe: Finetune, rng: np.random.Generator
) -> tuple[PatchBatch, Tensor]:
    batch = hide_bands(batch, model.patcher, recipe.mask_time, recipe.mask_rows, rng)
    mixup, cutmix = (recipe.mixup, recipe.mixup_alpha), (recipe.cutmix, recipe.cutmix_alpha)
    return mix(batch, shares_BL, model.patcher.axes, mixup, cutmix, rng)


def _loss(scores_BL: Tensor, shares_BL: Tensor, multi: bool, smoothing: float) -> Tensor:
    """Cross-entropy to shares of the classes; with several classes a clip the mean binary one."""
    if multi:
        return F.binary_cross_entropy_with_logits(scores_BL, shares_BL)
    return F.cross_entropy(scores_BL, shares_BL, label_smoothing=smoothing)


def _follow(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The average of weights; while it is young it forgets faster, as it begins with weights that know nothing."""

    def average(mean: Tensor, now: Tensor, updates: Tensor | int) -> Tensor:
        count = float(updates)
        return mean.lerp(now, 1 - min(decay, (1 + count) / (10 + count)))

    return average
