"""What is asked of a model: which protocol, with which pooling, views and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from bridle.errors import UsageError, nearest
from bridle.evaluate.dataset import Division
from bridle.evaluate.finetune import Finetune, load_recipe
from bridle.infer import Pool
from bridle.inputs import Several
from bridle.model import Bridle
from bridle.tasks import Task

PROTOCOLS = ("knn", "linear", "attentive", "finetune", "head", "codes", "codebook")
POOLS = (*get_args(Pool), "attentive")
_SEEDLESS = ("knn", "head", "codebook")
_PLACES = ("segments", "attentive")  # ways to pool for which it matters where a patch lies


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is trained, on what.

    Attributes:
        name: `knn`, `linear` or `attentive` on frozen features, `codes` on codes; `finetune` trains the encoder, too;
            `head` and `codebook` train nothing.
        pool: how a file's patches become one vector, for the first two.
        seeds: of what is trained; several are averaged. The first is that of splits and intervals, too.
        several: clips in time and crops of each that stand for a file, instead of consecutive windows over all of it.
        recipe: of fine-tuning; None: that of the task, else of the modality.

    Raises:
        UsageError: there is no such protocol or pooling, or they do not go together.
    """

    name: str = "knn"
    pool: str | None = None
    seeds: Sequence[int] = (0,)
    several: Several | None = None
    recipe: Finetune | None = None

    def check_division(self, division: Division) -> None:
        """Check that split options have an effect; raises UsageError."""
        options: dict[str, object] = {
            "--folds": division.folds,
            "--test-share": division.test_share,
            "--group-by": division.group_by,
        }
        if self.name == "codebook":  # a head has a test part
            options["--split-file"] = division.split_file
        given = next((name for name, value in options.items() if value is not None), None)
        if given and self.name in ("head", "codebook"):
            raise UsageError(f"--protocol {self.name} does not train: {given} has no effect")

    def settled(self, task: Task | None, model: Bridle) -> Protocol:
        """With the recipe and views of the task, where a whole classifier is tested and nobody named others.

        Raises:
            UsageError: views that this kind of media does not have.
        """
        several, recipe = self.several, self.recipe
        if self.name in ("finetune", "head") and task and task.views != (1, 1):
            several = several or task.views
        if self.name == "finetune":
            recipe = recipe or load_recipe(None, task.name if task else "", model.modality)
        if several:
            model.patcher.check_views(*several)
        return replace(self, several=several, recipe=recipe)

    @property
    def pooled(self) -> str | None:
        """How in the end; None where the protocol has no choice."""
        if self.name in ("knn", "linear"):
            return self.pool or "mean"
        return "attentive" if self.name == "attentive" else None

    def __post_init__(self) -> None:
        _check_choice("--protocol", self.name, PROTOCOLS)
        if self.pool is not None:
            _check_choice("--pool", self.pool, POOLS)
        if self.pool and self.name not in ("knn", "linear"):
            raise UsageError(f"--protocol {self.name} does not pool: --pool {self.pool} has no effect")
        if len(self.seeds) > 1 and self.name in _SEEDLESS:
            raise UsageError(f"--protocol {self.name} is deterministic: --seeds has no effect")
        if self.recipe and self.name != "finetune":
            raise UsageError(f"--protocol {self.name} is not fine-tuning: its recipe has no effect")
        if self.several and (self.name not in ("knn", "linear", "finetune", "head") or self.pooled in _PLACES):
            raise UsageError(
                f"--views with --protocol {self.name}: views need a protocol that averages over a file",
                "Use it with knn or linear (--pool mean or class), finetune or head.",
            )
        if self.pool == "attentive" and self.name == "knn":
            raise UsageError("--pool attentive is trained with a classifier", "Use it with --protocol linear.")


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option}: unknown value '{value}'; {nearest(value, known)}")
