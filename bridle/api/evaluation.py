"""Evaluate checkpoints on labelled data, and compare results."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bridle import progress
from bridle.api.models import open_model
from bridle.api.options import Compare, Evaluate, takes
from bridle.api.results import EvalResult, Question, TaskInfo
from bridle.api.session import RUNS, pick_device
from bridle.config.recipe import Recipe
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.outputs import disk_errors, exists
from bridle.storage import Location, locate

if TYPE_CHECKING:
    from bridle.checkpoint import Head
    from bridle.model import Bridle
    from bridle.sharding.labels import Labels
    from bridle.tasks import Task


@takes(Evaluate)
def evaluate(data: str | Path | None = None, *, chosen: Evaluate) -> EvalResult:
    """Evaluate an encoder, its codes (`protocol="codes"`) or codebooks (`"codebook"`), fine-tune it (`"finetune"`), or
    test a fine-tuned classifier (`"head"`); see `bridle.evaluate.evaluate`.

    Args:
        data: media in class folders, or shards; for a published task its release (default: `$BRIDLE_DATA/TASK` or
            `data/TASK`).
    """
    from bridle.evaluate import OWN_DATA, Division, Protocol, load_recipe
    from bridle.evaluate import evaluate as run
    from bridle.tasks import load_task

    task, protocol, checkpoint = chosen.task, chosen.protocol, chosen.checkpoint
    out, device, seed = Path(chosen.out) if chosen.out else None, chosen.device, chosen.seed
    published = None if task == OWN_DATA else load_task(task)  # a name that is none is reported first
    untrained = str(checkpoint) == "random"
    recipe, tuning = _divided(chosen.recipe or Recipe())
    if not untrained and any((recipe.modality, recipe.preset, recipe.file, recipe.sets)):
        raise UsageError(
            "A trained checkpoint has its own configuration.",
            "Leave out --preset, --config, --set and --modality, or use --checkpoint random.",
        )
    seeds = range(seed, seed + chosen.seeds)
    how = Protocol(protocol, chosen.pool, seeds, chosen.views)  # a wrong one is reported before the model is loaded
    if protocol != "finetune" and (chosen.finetune or tuning):
        raise UsageError(f"--protocol {protocol} is not fine-tuning: its recipe has no effect.")
    if protocol == "head" and untrained:
        raise UsageError(
            "An untrained model has no head.", "Set --checkpoint to a folder written by --protocol finetune --out."
        )
    split_file = Path(chosen.split_file) if chosen.split_file else None
    division = Division(chosen.folds, chosen.test_share, split_file, chosen.group_by)
    place = locate(data) if data else _data_of(task)
    if out:
        _check_out(out, protocol == "finetune", chosen.overwrite, checkpoint)
    elif chosen.overwrite:
        raise UsageError("--overwrite has no effect without --out.")
    kept = list[Any]()
    model, head = _classifier(checkpoint, device) if protocol == "head" else (None, None)
    if model is None and untrained:
        model = _untrained(recipe, place, seed, device, task=published, codes=protocol in ("codes", "codebook"))
    model = model or open_model(checkpoint, device)
    if protocol == "finetune":
        name = str(chosen.finetune) if chosen.finetune else None
        how = replace(how, recipe=load_recipe(name, task, model.modality, tuning))
    labels = chosen.labels
    result = run(
        model,
        place,
        task=task,
        protocol=how,
        division=division,
        labels=_labels(labels),
        max_missing=chosen.max_missing,
        workers=chosen.workers,
        head=head,
        keep=kept.append,
    )
    result |= {"data": str(place), "labels": str(labels) if labels and labels != "folder" else None}
    _keep(model, head, out, result, kept)
    return cast(EvalResult, result)


@takes(Compare)
def compare(runs: Sequence[str | Path], chosen: Compare) -> list[Question]:
    """Compare the results of runs, or of folders written by `evaluate(out=...)`, with those of the first.


    Raises:
        UsageError: fewer than two runs, or duplicates.
        DataError: a folder without results, no evaluation in common, or different labels of a clip.
    """
    from bridle.evaluate import compare as run

    return cast(list[Question], run([Path(one) for one in runs], protocol=chosen.protocol, task=chosen.task))


def _divided(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The model's configuration, and what `--set` says of fine-tuning."""
    tuning = [one for one in recipe.sets if one.strip().startswith("finetune.")]
    return replace(recipe, sets=[one for one in recipe.sets if one not in tuning]), tuning


def _labels(labels: str | Path | None) -> Labels:
    if labels is None or labels == "folder":
        return None
    return "sidecar" if labels == "sidecar" else locate(labels)


def _check_out(out: Path, classifier: bool, overwrite: bool, checkpoint: str | Path | None) -> None:
    """Before hours are spent.

    Raises:
        UsageError: it holds a model, or is a run: another one's, or one whose weights a classifier would hide.
            EnvironmentFault: nothing can be written there.
    """
    if (out / "state.json").exists() or (out / "checkpoints").exists():
        if classifier:
            raise UsageError(f"{out} is a run; a classifier written there would replace it", "Choose another --out.")
        own = Path(checkpoint).resolve() if checkpoint else None
        if own is None or out.resolve() not in (own, *own.parents):
            raise UsageError(f"{out} is another run; the result would be taken for its own", "Choose another --out.")
    if classifier and not overwrite and (out / "model.json").exists():
        raise exists(out, "a model")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def _classifier(checkpoint: str | Path | None, device: str) -> tuple[Bridle, Head]:
    from bridle.checkpoint import find_checkpoint, newest_run, read_classifier

    return read_classifier(find_checkpoint(Path(checkpoint) if checkpoint else newest_run(RUNS)), pick_device(device))


def _keep(model: Bridle, head: Head | None, out: Path | None, result: dict[str, Any], kept: list[Any]) -> None:
    """The result, with what was said of each clip, in the run or beside the head, and in `out`; there the classifier,
    too. What cannot be written is reported: the result itself is not lost."""
    from bridle.checkpoint import Head, Tested, add_result, run_of

    tested = next((one for one in kept if isinstance(one, Tested)), None)
    own = Path(model.source) if head else run_of(result["checkpoint"])
    for folder in dict.fromkeys([own, out]):
        try:
            if folder and (aside := add_result(folder, result, tested)):
                progress.warn(f"{folder}: damaged results were moved to {aside.name}")
            if folder and folder == out and result["protocol"] == "finetune":
                made = next((one for one in kept if isinstance(one, Head)), None)
                _keep_classifier(model, made, folder, result)
        except (OSError, EnvironmentFault) as error:
            progress.warn(f"{folder}: the result was not saved: {getattr(error, 'strerror', None) or error}")


def _keep_classifier(model: Bridle, head: Head | None, out: Path, result: dict[str, Any]) -> None:
    from bridle.checkpoint import save_classifier

    if head is None:
        progress.note(f"{out} holds only the result: with several folds there is no single classifier to save")
        return
    facts = {key: result[key] for key in ("checkpoint", "task", "data", "metric", "value", "ci95", "recipe")}
    if facts["checkpoint"] != "random":
        facts["checkpoint"] = str(Path(facts["checkpoint"]).resolve())  # the classifier may be used from another folder
    save_classifier(model, head, out, {"finetuned": facts})


def tasks() -> list[TaskInfo]:
    """List the published benchmarks of `evaluate`, with their expected files and sources."""
    from bridle.tasks import load_task, task_names

    known = [load_task(name).model_dump(mode="json", exclude={"reader"}) for name in task_names()]
    return cast(list[TaskInfo], known)


def _data_of(task: str) -> Path:
    """Where a task's data lie when nobody says.

    Raises:
        UsageError: nowhere: what is wanted, and how to make shards of it.
    """
    from bridle.tasks import load_task

    if task == "folder":
        raise UsageError(
            "--data is missing: name a folder or shards.", "Example: bridle eval --task folder --data shards/NAME"
        )
    wanted = load_task(task)
    places = [Path(root) / task for root in (os.environ.get("BRIDLE_DATA"), "data") if root]
    for place in places:
        if place.exists():
            return place
    raise UsageError(
        f"No data found for {wanted.title} in {' or '.join(map(str, places))}; use --data to set another folder.",
        f"Expected files:\n{wanted.layout}\nAvailable from: {wanted.get}\n"
        f"Evaluate as released: bridle eval --task {task} --data DIR. As shards: bridle shard DIR --task {task}, then "
        f"--data shards/{task}.",
    )


def _untrained(recipe: Recipe, data: Location, seed: int, device: str, *, task: Task | None, codes: bool) -> Bridle:
    """A network that has learned nothing, of the shape that `pretrain` with this recipe on this data begins with; if
    codes are wanted, with those of its cold start."""
    from bridle.checkpoint import load_model
    from bridle.infer import fit_cold_codes, measure
    from bridle.schema import Modality

    if not (recipe.preset or recipe.file):
        raise UsageError("--checkpoint random needs a configuration.", "Add --preset, such as --preset audio-tiny.")
    modality = Modality(recipe.load()[0].patches.modality)
    if task and task.modality is not modality:
        raise DataError(
            f"{task.title} is {task.modality}, and the preset is for {modality}",
            f"Choose one for it, such as --preset {task.modality}-tiny.",
        )
    statistics, extent = measure(data, modality)
    config, _ = recipe.load(extent=extent)
    model = load_model("random", device=pick_device(device), config=config, statistics=statistics, seed=seed)
    if codes:
        fit_cold_codes(model, data)
    return model
