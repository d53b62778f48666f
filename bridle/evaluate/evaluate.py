"""`bridle eval`: one model, one data set, one protocol -> one result with stable keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from bridle import progress
from bridle.checkpoint import Head, Tested
from bridle.errors import DataError
from bridle.evaluate.attentive import ragged
from bridle.evaluate.classifiers import finetuning, of_head
from bridle.evaluate.codebook import CodebookHealth
from bridle.evaluate.codes import Codes, extract_codes
from bridle.evaluate.dataset import LABELS_HINT, Division, Labelled, divide, open_data
from bridle.evaluate.features import (
    Files,
    each_file,
    extract_patches,
    extract_vectors,
    listed,
    look_at_patches,
)
from bridle.evaluate.labels import Truth
from bridle.evaluate.metrics import confusion
from bridle.evaluate.probe import Judgement, Trial, judge, probe_patches, probe_vectors
from bridle.evaluate.protocol import Protocol
from bridle.evaluate.split_warnings import copies, faults, unmatched
from bridle.evaluate.splits import Groups, Split
from bridle.infer import Failures, require_codes
from bridle.memory import free_memory
from bridle.model import Bridle
from bridle.schema import Modality
from bridle.sharding.labels import Labels
from bridle.storage import Location
from bridle.tasks import load_task

OWN_DATA = "folder"  # the task whose data are the user's own
_SHARE = 0.5  # of the free memory, for features of all patches
_NAMED = 1000  # of the missing files of a part
_MOST_CLASSES = 100  # of a confusion matrix that is worth keeping


def evaluate(
    model: Bridle,
    data: Location,
    *,
    task: str = OWN_DATA,
    protocol: Protocol | None = None,
    division: Division | None = None,
    labels: Labels = None,
    max_missing: float = 0.5,
    workers: int = 0,
    head: Head | None = None,
    keep: Callable[[Tested | Head], None] | None = None,
) -> dict[str, Any]:
    """Judge the frozen encoder by a probe, or the codes by theirs, or the codebooks by their use; or fine-tune it.

    Args:
        data: a folder of class folders with media, or shards with labels; with a task also its release.
        task: `folder`, or the name of a published benchmark (see `bridle.tasks`).
        labels: of the files of a folder, if it is not the folder that holds them: a table, or "sidecar".
        max_missing: largest fraction of a part's listed files that may be missing.
        workers: threads that decode ahead.
        head: for the protocol of that name: what fine-tuning made.
        keep: given what was said of each tested clip, which the result only sums up; and of fine-tuning on a single
            split what it made with the first seed.

    Returns:
        `{task, protocol, checkpoint, metric, value, ci95, n_train, n_test, seed}`; for probes also `metrics`, `pool`,
        `folds`, `chance`, `classes`, `per_fold`, `per_seed`, `group_by`, `confusion` (up to 100 classes), `missing`;
        for codes `sequence` and `per_level`; always `skipped` (files left out). With folds `n_train` is the smallest
        train split and `n_test` all clips, each tested once.

    Raises:
        UsageError: an unknown task, or a model without codes.
        DataError: another modality, a release with gaps, fewer than two classes, a class too small for the folds,
            nothing readable.
    """
    protocol, division = protocol or Protocol(), division or Division()
    protocol.check_division(division)
    published = None if task == OWN_DATA else load_task(task)
    found = open_data(data, Modality(model.modality), published, labels=labels, max_missing=max_missing)
    for note in found.notes:
        progress.report("warning" if note.startswith("leak") else "note", message=note)
    for part, gone in found.missing.items():
        progress.warn(f"{part}: listed but missing: {len(gone)}, such as {', '.join(gone[:3])}")
    protocol = protocol.settled(published, model)
    common: dict[str, Any] = {"task": task, "protocol": protocol.name, "checkpoint": str(model.source)}
    if protocol.name == "codebook":
        return common | _codebook(model, found, protocol.seeds[0], workers)
    codes: Codes | None = None
    made = list[Head]()
    trial_of: Callable[[Truth, Groups | None], Trial]
    if protocol.name == "codes":
        codes = extract_codes(model, found, workers=workers)
        files, trial_of = codes.files, codes.bag_trial
    elif protocol.name == "finetune":
        files, trial_of = finetuning(model, found, protocol, workers, made)
    elif head:
        files, trial_of = of_head(model, found, protocol, head, workers)
    else:
        files, trial_of = _features(model, found, protocol, workers)
    truth = truth_of(files, found)
    splits, groups = divide(files.paths, files.parts, truth, division, published, protocol.seeds[0], head is None)
    if head:  # what would be for training is not read
        splits = [replace(split, train=split.train[:0]) for split in splits]
    messages = *unmatched(files.paths, division), *faults(splits, truth, groups), copies(found, files.paths, splits)
    for message in messages:
        if message:
            progress.warn(message)
    judged = judge(truth, splits, trial_of(truth, groups), protocol.seeds)
    if keep:
        for one in made if len(splits) == 1 else ():
            keep(one)
        paths, y = [files.paths[at] for at in judged.tested], truth[judged.tested].y
        keep(Tested(paths, truth.classes, y, torch.from_numpy(judged.scores_SML)))
    about = _result(judged, truth, splits, found, files, protocol, division)
    return common | about | (codes.report(truth, splits, groups, protocol.seeds) if codes else {})


def _features(
    model: Bridle, data: Labelled, protocol: Protocol, workers: int
) -> tuple[Files, Callable[[Truth, Groups | None], Trial]]:
    """The files, and the probe of their features."""
    if protocol.pooled == "attentive":
        patches = extract_patches(model, data, most_gb=_SHARE * free_gb(), workers=workers)
        if patches:
            held = ragged(patches.rows)
            return patches.files, lambda truth, groups: probe_patches(held, truth)
        progress.note("the features of all patches do not fit into memory; they are computed again in each epoch")
        sources, files, failures = listed(data)
        look = look_at_patches(model, sources, failures, workers)
        return files, lambda truth, groups: probe_patches(look, truth)
    vectors = extract_vectors(model, data, several=protocol.several, workers=workers)
    x_FD, solver = vectors.pooled[protocol.pooled or "mean"], "knn" if protocol.name == "knn" else "linear"
    return vectors.files, lambda truth, groups: probe_vectors(x_FD, truth, groups, solver)


def truth_of(files: Files, data: Labelled) -> Truth:
    """The labels as numbers; several a file where the task or any file says so.

    Raises:
        DataError: a label that the task does not have, or fewer than two classes.
    """
    multi = data.task.multi_label if data.task else any(len(labels) != 1 for labels in files.labels)
    if data.classes:
        known = set(data.classes)
        for path, labels in zip(files.paths, files.labels, strict=True):
            if wrong := [label for label in labels if label not in known]:
                raise DataError(f"{path} has the label {wrong[0]!r}, which is not one of the {len(known)} classes")
    if not multi and (
        wrong_path := next((p for p, n in zip(files.paths, files.labels, strict=True) if len(n) != 1), None)
    ):
        raise DataError(f"{wrong_path} has several labels or none; the task needs one")
    truth = Truth.of(files.labels, data.classes, multi=multi)
    if len(truth.classes) < 2:
        only = f"one class, '{truth.classes[0]}'" if truth.classes else "no class"
        raise DataError(f"{only}; a probe needs at least two", LABELS_HINT)
    return truth


def _result(
    judged: Judgement,
    truth: Truth,
    splits: Sequence[Split],
    data: Labelled,
    files: Files,
    protocol: Protocol,
    division: Division,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "metric": judged.metric,
        "value": judged.value,
        "ci95": list(judged.ci95),
        "n_train": min(fold["n_train"] for fold in judged.per_fold),
        "n_test": len(judged.tested),
        "seed": protocol.seeds[0],
        "metrics": judged.metrics,
        "pool": protocol.pooled,
        "recipe": protocol.recipe.model_dump() if protocol.recipe else None,
        "views": list(protocol.several or ()) or None,
        "folds": len(splits),
        "group_by": division.group_by,
        "test_share": division.test_share,
        "split_file": str(division.split_file) if division.split_file else None,
        "seeds": len(protocol.seeds),
        "chance": judged.chance,
        "classes": truth.classes,
        "per_fold": judged.per_fold,
        "per_seed": judged.per_seed,
        "missing": {part: len(gone) for part, gone in data.missing.items()},
        "missing_files": {part: gone[:_NAMED] for part, gone in data.missing.items()},
        "skipped": [{"file": path, "reason": reason} for path, reason in files.skipped.items()],
    }
    if not truth.multi and len(truth.classes) <= _MOST_CLASSES:
        result["confusion"] = confusion(judged.scores_SML[0], truth[judged.tested].y.numpy()).tolist()
    return result


def _codebook(model: Bridle, data: Labelled, seed: int, workers: int) -> dict[str, Any]:
    """Codebook health; the value is the share of codes used by the worst level.

    That is a count over the whole data set and no estimate, so its interval is the value itself.
    """
    require_codes(model)
    health = CodebookHealth(model.config.quantizer.levels, model.config.quantizer.codes)
    failures, files = Failures(), 0
    for encoded in each_file(model, data, model.tokenize_detailed, failures, labelled=False, workers=workers):
        health.add(*encoded.outputs)
        files += 1
    levels = health.report()
    worst = min(level["cur"] for level in levels)
    return {
        "metric": "cur",
        "value": worst,
        "ci95": [worst, worst],
        "n_train": 0,
        "n_test": files,
        "seed": seed,
        "patches": health.patches,
        "per_level": levels,
        "skipped": [{"file": path, "reason": reason} for path, reason in failures.reasons.items()],
    }


def free_gb() -> float:
    """Memory that this process may still take."""
    return free_memory(torch.device("cpu")) / 1e9
