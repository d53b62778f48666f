"""A checkpoint and labelled data -> how much its features and codes are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridle.api.session import OnEvent, open_model, pick_device, silent
from bridle.config.recipe import Recipe
from bridle.errors import UsageError
from bridle.storage import Location, locate

if TYPE_CHECKING:
    from bridle.model import Bridle


def evaluate(
    data: str | Path,
    *,
    task: str = "folder",
    protocol: str = "knn",
    pool: str | None = None,
    folds: int | None = None,
    test_share: float | None = None,
    group_by: str | None = None,
    checkpoint: str | Path | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Judge a frozen encoder, or its codebooks (`protocol="codes"`); see `bridle.evaluate.evaluate`.

    Args:
        checkpoint: as for `load`; `"random"`: an untrained model of the recipe's shape, the baseline that everything
            is compared with.
        seed: of splits and probes, and of the untrained model's weights.
    """
    from bridle.evaluate import evaluate as run

    if folds is not None and test_share is not None:
        raise UsageError("--folds and --test-share are two ways to split", "Use one of them.")
    untrained = str(checkpoint) == "random"
    if recipe and not untrained and any((recipe.modality, recipe.preset, recipe.file, recipe.sets)):
        raise UsageError(
            "A trained checkpoint brings its own configuration.",
            "Leave out --preset, --config, --set and --modality, or use --checkpoint random.",
        )
    return run(
        _untrained(recipe or Recipe(), locate(data), seed, device) if untrained else open_model(checkpoint, device),
        locate(data),
        task=task,
        protocol=protocol,
        pool=pool,
        folds=folds,
        test_share=test_share,
        group_by=group_by,
        seed=seed,
        on_event=on_event or silent,
    )


def _untrained(recipe: Recipe, data: Location, seed: int, device: str) -> Bridle:
    """A network that has learned nothing, of the shape that `pretrain` with this recipe on this data begins with."""
    from bridle.checkpoint import load_model
    from bridle.infer import measure
    from bridle.schema import Modality

    if not (recipe.preset or recipe.file):
        raise UsageError("--checkpoint random needs to know its shape.", "Add --preset, such as --preset audio-tiny.")
    modality = Modality(recipe.load()[0].patches.modality)
    statistics, extent = measure(data, modality)
    config, _ = recipe.load(extent=extent)
    return load_model("random", device=pick_device(device), config=config, statistics=statistics, seed=seed)
