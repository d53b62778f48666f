"""A checkpoint and labelled data -> how much its features and codes are worth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridle.api.session import OnEvent, open_model, pick_device, silent
from bridle.config.recipe import Recipe
from bridle.errors import EnvironmentFault, UsageError
from bridle.storage import Location, locate

if TYPE_CHECKING:
    from bridle.model import Bridle


def evaluate(
    data: str | Path | None = None,
    *,
    task: str = "folder",
    protocol: str = "knn",
    pool: str | None = None,
    folds: int | None = None,
    test_share: float | None = None,
    split_file: str | Path | None = None,
    group_by: str | None = None,
    checkpoint: str | Path | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    seeds: int = 1,
    max_missing: float = 0.5,
    workers: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Judge a frozen encoder, its codes (`protocol="codes"`) or its codebooks (`"codebook"`); see
    `bridle.evaluate.evaluate`.

    Args:
        data: media in class folders, or shards; of a published task its release, by default what lies in
            `$BRIDLE_DATA/TASK` or `data/TASK`.
        folds, test_share, split_file, group_by: see `bridle.evaluate.Division`.
        checkpoint: as for `load`; `"random"`: an untrained model of the recipe's shape, the baseline that everything
            is compared with.
        seed: of splits and probes, and of the untrained model's weights.
        out: a folder that keeps the result, as the run of the checkpoint does; an untrained model has no other.
        seeds: how many probes are trained, with this seed and the next ones; figures are means.
    """
    from bridle.checkpoint import Tested, add_result, run_of
    from bridle.evaluate import OWN_DATA, Division, Protocol
    from bridle.evaluate import evaluate as run
    from bridle.tasks import load_task

    if task != OWN_DATA:
        load_task(task)  # a name that is none is told first
    untrained = str(checkpoint) == "random"
    if recipe and not untrained and any((recipe.modality, recipe.preset, recipe.file, recipe.sets)):
        raise UsageError(
            "A trained checkpoint brings its own configuration.",
            "Leave out --preset, --config, --set and --modality, or use --checkpoint random.",
        )
    how = Protocol(protocol, pool, range(seed, seed + seeds))
    division = Division(folds, test_share, Path(split_file) if split_file else None, group_by)
    place = locate(data) if data else _data_of(task)
    report = on_event or silent
    tested: list[Tested] = []
    result = run(
        _untrained(recipe or Recipe(), place, seed, device) if untrained else open_model(checkpoint, device),
        place,
        task=task,
        protocol=how,
        division=division,
        max_missing=max_missing,
        workers=workers,
        on_event=report,
        keep=tested.append,
    )
    result["data"] = str(place)
    for folder in dict.fromkeys([run_of(result["checkpoint"]), Path(out) if out else None]):
        try:
            if folder:
                add_result(folder, result, tested[0] if tested else None)
        except (OSError, EnvironmentFault) as error:
            report("warning", message=f"{folder}: the result is not kept: {getattr(error, 'strerror', None) or error}")
    return result


def compare(
    runs: Sequence[str | Path],
    *,
    protocol: str | None = None,
    task: str | None = None,
    on_event: OnEvent | None = None,
) -> list[dict[str, Any]]:
    """The kept results of several runs, or of other folders that `evaluate(out=...)` wrote, each against the first; see
    `bridle.evaluate.compare` for what is returned.

    Args:
        protocol, task: only results of these.
        on_event: told as `note` what has no counterpart.

    Raises:
        UsageError: fewer than two runs, or one twice.
        DataError: a folder without results, no question in common, or a clip with other labels in another folder.
    """
    from bridle.evaluate import compare as run

    report = on_event or silent
    folders = [Path(one) for one in runs]
    return run(folders, protocol=protocol, task=task, on_note=lambda text: report("note", message=text))


def tasks() -> list[dict[str, Any]]:
    """The published benchmarks that `evaluate` knows: what each wants, and where it is to be had."""
    from bridle.tasks import load_task, task_names

    return [load_task(name).model_dump(mode="json", exclude={"reader"}) for name in task_names()]


def _data_of(task: str) -> Path:
    """Where a task's data lie when nobody says.

    Raises:
        UsageError: nowhere: what is wanted, and how to make shards of it.
    """
    from bridle.tasks import load_task

    if task == "folder":
        raise UsageError("--data: which folder or shards?", "bridle eval --task folder --data shards/NAME")
    wanted = load_task(task)
    places = [Path(root) / task for root in (os.environ.get("BRIDLE_DATA"), "data") if root]
    for place in places:
        if place.exists():
            return place
    raise UsageError(
        f"There are no data for {wanted.title}: looked in {' and '.join(map(str, places))}; --data says another place.",
        f"Wanted, with these files:\n{wanted.layout}\nTo be had: {wanted.get}",
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
