"""`bridle eval`: one frozen model, one data set, one protocol -> one result with stable keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from bridle.errors import DataError, UsageError, nearest
from bridle.evaluate.codebook import CodebookHealth
from bridle.evaluate.features import Patches, Vectors, each_file, extract_patches, extract_vectors
from bridle.evaluate.probe import ProbeResult, probe, probe_attentive
from bridle.evaluate.splits import group_names
from bridle.infer import Failures, Pool, require_codes
from bridle.model import Bridle
from bridle.storage import Location

TASKS = ("folder",)
PROTOCOLS = ("knn", "linear", "attentive", "codes")
POOLS = (*get_args(Pool), "attentive")
FOLDS = 5


def evaluate(
    model: Bridle,
    data: Location,
    *,
    task: str = "folder",
    protocol: str = "knn",
    pool: str | None = None,
    folds: int | None = None,
    test_share: float | None = None,
    group_by: str | None = None,
    seed: int = 0,
    on_event: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Judge the frozen encoder by a probe, or the codebooks by their use.

    Args:
        data: a folder of class folders with media, or shards with labels.
        protocol: `knn`, `linear`, `attentive` (accuracy), or `codes`.
        pool: `mean` (default) or `segments`; `attentive` with `linear` is the attentive probe.
        folds: cross-validation, 5 when neither this nor `test_share` is given.
        test_share: one split with about this share in test.
        group_by: regular expression over the original paths, see `splits.group_names`.
        seed: of splits, the attentive probe and the interval; the model's own is in `checkpoint`.
        on_event: told `progress` and `warning`.

    Returns:
        `{task, protocol, checkpoint, metric, value, ci95, n_train, n_test, seed}`; for probes also `pool`, `folds`,
        `chance`, `classes`, `per_fold`, `group_by`; for codes `per_level`; always `skipped` (files left out).
        With folds `n_train` is the smallest train split and `n_test` all clips, each tested once.

    Raises:
        UsageError: an unknown task, protocol or pooling, or a model without codes.
        DataError: another modality, fewer than two classes, a class too small for the folds, nothing readable.
    """
    _check_choice("--task", task, TASKS)
    _check_choice("--protocol", protocol, PROTOCOLS)
    if pool is not None:
        _check_choice("--pool", pool, POOLS)
    if group_by:
        group_names([], group_by)  # a wrong expression is refused before the work, not after
    common = {"task": task, "protocol": protocol, "checkpoint": str(model.source)}
    if protocol == "codes":
        return common | _codes(model, data, seed, on_event)
    if pool == "attentive":
        if protocol == "knn":
            raise UsageError("--pool attentive is trained with the classifier", "use it with --protocol linear")
        protocol = "attentive"
    elif protocol == "attentive" and pool is not None:
        raise UsageError(f"--protocol attentive pools by itself, --pool {pool} would be without effect")
    options: dict[str, Any] = {"folds": folds or FOLDS, "test_share": test_share, "seed": seed}
    result, found, pool = _probe(model, data, protocol, pool, group_by, options, on_event)
    return common | {
        "metric": "accuracy",
        "value": result.value,
        "ci95": list(result.ci95),
        "n_train": min(fold["n_train"] for fold in result.per_fold),
        "n_test": sum(fold["n_test"] for fold in result.per_fold),
        "seed": seed,
        "pool": pool,
        "folds": len(result.per_fold),
        "group_by": group_by,
        "chance": result.chance,
        "classes": result.classes,
        "per_fold": result.per_fold,
        "skipped": [{"file": path, "reason": reason} for path, reason in found.skipped.items()],
    }


def _probe(
    model: Bridle,
    data: Location,
    protocol: str,
    pool: str | None,
    group_by: str | None,
    options: dict[str, Any],
    on_event: Callable[..., None] | None,
) -> tuple[ProbeResult, Vectors | Patches, str]:
    if protocol == "attentive":
        patches = extract_patches(model, data, on_event=on_event)
        groups = _groups(patches, data, group_by)
        result = probe_attentive(patches.h_FND, patches.valid_FN, patches.coords_FN3, patches.labels, groups, **options)
        return result, patches, "attentive"
    how: Pool = "segments" if pool == "segments" else "mean"
    vectors = extract_vectors(model, data, how, on_event=on_event)
    groups = _groups(vectors, data, group_by)
    return (
        probe(vectors.x_FD, vectors.labels, groups, "knn" if protocol == "knn" else "linear", **options),
        vectors,
        how,
    )


def _groups(found: Vectors | Patches, data: Location, group_by: str | None) -> list[str] | None:
    """Checks that there is something to tell apart, then names the groups."""
    classes = set(found.labels)
    if len(classes) < 2:
        raise DataError(
            f"{data} has one class, '{found.labels[0]}': a probe needs at least two",
            "lay the files out as DATA/CLASS/file, or shard them with --labels",
        )
    return group_names(found.paths, group_by) if group_by else None


def _codes(model: Bridle, data: Location, seed: int, on_event: Callable[..., None] | None) -> dict[str, Any]:
    """Codebook health; the value is the share of codes used by the worst level.

    That is a count over the whole data set and no estimate, so its interval is the value itself.
    """
    require_codes(model)
    health = CodebookHealth(model.config.quantizer.levels, model.config.quantizer.codes)
    failures, files = Failures(on_event), 0
    for encoded in each_file(model, data, model.tokenize_detailed, failures, on_event=on_event):
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


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value} is not known", nearest(value, known))
