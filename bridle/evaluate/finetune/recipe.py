"""How an encoder is fine-tuned: one section, `recipes/NAME.yaml`, `--set finetune.key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from bridle.config.loading import load_section
from bridle.config.sections import Positive, Rate, Section, Share
from bridle.errors import ConfigError, UsageError, nearest
from bridle.model.classifier import HeadPool

HEADING = "finetune"
_RECIPES = resources.files("bridle.evaluate.finetune") / "recipes"


class Finetune(Section):
    """AdamW with warm-up and a cosine to zero over the encoder and a linear layer."""

    epochs: Rate = 30.0
    batch_size: Positive = 64
    lr: Rate = 1e-3  # learning rate of the linear layer
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75  # factor on the learning rate for each layer below
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    warmup: Share = 0.1  # fraction of the steps
    clip_norm: Annotated[float, Field(gt=0.0)] = 3.0
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1  # drop path rate of the last block, 0 in the first
    # Augmentation of pretraining besides random windows and crops: gain of audio, mirrored images and videos. False if
    # left and right matter.
    augment: bool = True
    mixup: Share = 0.5  # probability of mixup (Zhang et al. 2018) ...
    mixup_alpha: Rate = 0.8  # ... with weights from Beta(alpha, alpha)
    cutmix: Share = 0.0  # probability of cutmix (Yun et al. 2019)
    cutmix_alpha: Rate = 1.0
    # SpecAugment (Park et al. 2019): mask up to this fraction of the clip's time, and of its rows (of audio:
    # frequencies).
    mask_time: Share = 0.0
    mask_rows: Share = 0.0
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1  # label smoothing, if clips have one class
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # decay of a moving average of the tested weights; 0: none
    balanced: bool = False  # sample all classes equally often
    pool: HeadPool = "mean"

    @model_validator(mode="after")
    def _one_mix(self) -> Finetune:
        if self.mixup + self.cutmix > 1:
            raise ValueError(
                f"mixup {self.mixup} and cutmix {self.cutmix} are fractions of the clips and add up to more than 1"
            )
        return self


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _RECIPES.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str | None, task: str, modality: str, sets: Sequence[str] = ()) -> Finetune:
    """A recipe by its name or file; without a word that of the task, else that of the modality.

    Args:
        sets: `finetune.key=value` over it.

    Raises:
        UsageError: there is no such recipe. ConfigError: every mistake in it, with its source.
    """
    known = recipe_names()
    chosen = name or (task if task in known else modality)
    if chosen in known:
        text = (_RECIPES / f"{chosen}.yaml").read_text("utf-8")
        return load_section(Finetune, HEADING, text, f"recipe {chosen}", sets, lines=False)
    file = Path(chosen)
    if not file.is_file():
        raise UsageError(
            f"There is no recipe or file '{chosen}'; {nearest(chosen, known)}", f"Recipes: {', '.join(known)}."
        )
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the recipe {file}: {error}.") from error
    return load_section(Finetune, HEADING, text, str(file), sets)
