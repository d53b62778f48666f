"""BRIDLE from Python: one function a command, each the same as the command of its name.

    api.shard("recordings", modality="audio")
    run = api.pretrain("shards/recordings", recipe=api.Recipe(preset="audio-tiny"))
    codes = list(api.tokenize(["clip.wav"], checkpoint=run["run"]))

Raw media and shards may lie in object storage: `s3://bucket/folder`, as text. Importing this file is cheap; each
function imports what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bridle.config.recipe import Recipe as Recipe  # part of this interface
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.storage import Location, locate

if TYPE_CHECKING:
    from bridle.cluster import Engine
    from bridle.config import Config
    from bridle.infer import Pretrained
    from bridle.model import Bridle
    from bridle.schema import Codes
    from bridle.sharding import Manifest

OnEvent = Callable[..., None]  # on_event(kind, **fields): progress
RUNS = Path("runs")


def shard(
    raw: str | Path,
    *,
    modality: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    labels: str | Path | None = "folder",
    workers: int | None = None,
    engine: Engine = "local",
    max_size_bytes: int = 256_000_000,
    transcode: bool = False,
    check: Literal["full", "header"] = "full",
    dedup: bool = False,
    sound_tracks: bool = False,
    split: Mapping[str, float] | None = None,
    group_by: str | None = None,
    seed: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Turn the media below a folder into tars and a manifest; see `bridle.sharding.shard`.

    Args:
        labels: "folder", "sidecar", the path of a CSV, TSV or JSONL, or None.
        workers: decoding processes; default: one a core, of the cluster if there is one.
        engine: "local", or "ray": the processes run all over a Ray cluster.
        split, group_by: parts and their shares, and what stays together (see `bridle.sharding.Split`).
    """
    from bridle.schema import Modality
    from bridle.sharding import Options, Split
    from bridle.sharding import shard as run

    report = on_event or _silent
    if group_by and not split:
        raise UsageError("--group-by says what a --split keeps together; there is no --split.")
    options = Options(
        labels=labels if labels in ("folder", "sidecar") else locate(labels) if labels else None,  # type: ignore[arg-type]
        max_size_bytes=max_size_bytes,
        transcode=transcode,
        check=check,
        dedup=dedup,
        sound_tracks=sound_tracks,
        seed=seed,
        split=Split(split, group_by) if split else None,
    )
    return run(
        locate(raw),
        Modality(modality) if modality else None,
        locate(out) if out else None,
        name=name,
        options=options,
        workers=workers,
        engine=engine,
        overwrite=overwrite,
        resume=resume,
        dry_run=dry_run,
        progress=lambda done, total: report("progress", done=done, total=total, what="files"),
    )


def shard_info(shards: str | Path) -> list[dict[str, Any]]:
    """What each set at or below a folder holds; see `bridle.sharding.describe`."""
    from bridle.sharding import describe, find_all_sets

    return [describe(manifest) for manifest in find_all_sets(locate(shards))]


def shard_verify(
    shards: str | Path, *, decode: int = 100, workers: int | None = None, on_event: OnEvent | None = None
) -> list[dict[str, Any]]:
    """Compare each set at or below a folder with its manifest; see `bridle.sharding.verify`."""
    from bridle.sharding import find_all_sets, verify

    report, found, wrong = on_event or _silent, [], list[str]()
    for manifest in find_all_sets(locate(shards)):
        try:
            found.append(
                verify(
                    manifest,
                    decode=decode,
                    workers=workers or os.cpu_count() or 1,
                    progress=lambda done, total: report("progress", done=done, total=total, what="tars"),
                )
            )
        except DataError as error:  # the other sets are looked at too
            wrong.append(error.message)
            hint = error.hint
    if wrong:
        raise DataError("\n".join(wrong), hint)
    return found


def pretrain(
    shards: str | Path = "shards",
    *,
    recipe: Recipe | Config | None = None,
    out: str | Path | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    profile: bool = False,
    restarted: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Pretrain an encoder and its codebooks on every set below `shards`; see `bridle.train.pretrain`.

    Processes that `torchrun` started train together.

    Args:
        shards: a set, or a folder of sets.
        recipe: where the configuration comes from, or the configuration itself; default: MODALITY-tiny.
        out: run folder; default: `runs/SET-PRESET`, numbered when that exists.
        steps, epochs, max_minutes: length of the run; at most one of them.
        profile: where the time of a step goes: traces in `out/profile/`.
        restarted: another process began with the same call and was lost: go on with its run, if it left one.
    """
    from bridle import distributed
    from bridle.checkpoint import run_of_launch
    from bridle.train import pretrain as run

    config, preset, manifests = _prepare(locate(shards), recipe or Recipe())
    name = f"{_set_name(manifests, locate(shards))}-{preset or 'custom'}"
    with distributed.group(picked := pick_device(device)):
        root = Path(out) if out else RUNS
        begun = distributed.first_decides(
            lambda: run_of_launch(root, distributed.launch_id()) if restarted else None  # nobody else's
        )
        if begun:
            return resume(begun, shards=shards, device=device, on_event=on_event)
        folder = distributed.first_decides(lambda: Path(out) if out else _free_run(name))
        report = _report(on_event)
        report("run", path=str(folder))
        return run(
            config,
            manifests,
            folder,
            preset=preset,
            steps=steps,
            epochs=epochs,
            max_minutes=max_minutes,
            device=picked,
            overwrite=overwrite,
            dry_run=dry_run,
            profile=profile,
            on_event=report,
        )


def launch(command: Sequence[str], devices: int, *, restarts: int = 3) -> int:
    """Run a command of the command line as several processes of this machine that train together; its exit code.

    Processes that are killed or lost are started again, all of them, with `--restarted`.
    """
    from bridle import distributed

    return distributed.launch(command, devices, restarts)


def resume(
    run: str | Path | None = None,
    *,
    shards: str | Path | None = None,
    sets: Sequence[str] = (),
    force: bool = False,
    device: str = "auto",
    dry_run: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Go on with an interrupted run from its last checkpoint, with its own configuration and length.

    Args:
        run: run folder; default: the newest that is not complete.
        shards: where the shards lie now, if they moved.
        sets: `section.key=value` over its configuration, with `force`, for keys that change nothing that is learned.
    """
    from bridle import config, distributed
    from bridle.checkpoint import newest_run, read_state
    from bridle.schema import Modality
    from bridle.sharding import find_sets
    from bridle.train import pretrain as train

    with distributed.group(picked := pick_device(device)):
        folder = distributed.first_decides(lambda: Path(run) if run else newest_run(RUNS, unfinished=True))
        report = _report(on_event)
        report("run", path=str(folder))
        state = read_state(folder)
        loaded = config.load(file=folder / "config.yaml", sets=sets)
        places = [locate(shards)] if shards else [locate(place) for place in state["shards"]]
        for place in places:
            if not place.exists():
                raise DataError(f"The shards of {folder} are gone: {place}", "Say where they are now with --shards.")
        manifests = [found for place in places for found in find_sets(place, Modality(loaded.patches.modality))]
        return train(
            loaded,
            manifests,
            folder,
            preset=state["preset"],
            resume=True,
            force=force,
            device=picked,
            dry_run=dry_run,
            on_event=report,
        )


def runs(root: str | Path = RUNS) -> list[dict[str, Any]]:
    """What runs there are, and how far; see `bridle.checkpoint.list_runs`."""
    from bridle.checkpoint import list_runs

    return list_runs(Path(root))


def load(checkpoint: str | Path | None = None, *, device: str = "auto") -> Pretrained:
    """A model that takes paths: `load("runs/voices").embed("clip.wav")`.

    Args:
        checkpoint: a run, checkpoint or export; `None`: the newest run below `runs/`.
    """
    from bridle.infer import Pretrained

    return Pretrained(_model(checkpoint, device))


def tokenize(
    inputs: Sequence[str | Path],
    *,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    engine: Engine = "local",
    device: str = "auto",
    on_event: OnEvent | None = None,
) -> Iterator[dict[str, Any]]:
    """Codes of files, folders and sets of shards, one object a file: `{file, levels, grid, codes, times}`.

    `codes` is nested: levels, then time, rows and columns as in `grid`; `times` are the starts of the time steps in
    seconds.

    Args:
        workers: threads that decode ahead; with `engine="ray"` (a Ray cluster), processes with the model.
    """
    for codes in _codes(inputs, checkpoint, workers, engine, device, on_event)[0]:
        yield {
            "file": codes.file,
            "levels": codes.levels,
            "grid": list(codes.grid),
            "codes": codes.codes_THWQ.movedim(-1, 0).tolist(),
            "times": codes.times_T,
        }


def write_codes(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    engine: Engine = "local",
    device: str = "auto",
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """As `tokenize`, into one `.npz` or `.safetensors` file; its layout is in `bridle.infer.codes_file`."""
    from bridle import infer

    infer.check_output(Path(out), overwrite=overwrite)  # before anything is loaded
    codes, source = _codes(inputs, checkpoint, workers, engine, device, on_event)
    return infer.write_codes(Path(out), codes, source=source, overwrite=overwrite)


def _codes(
    inputs: Sequence[str | Path],
    checkpoint: str | Path | None,
    workers: int,
    engine: Engine,
    device: str,
    on_event: OnEvent | None,
) -> tuple[Iterator[Codes], str]:
    """Codes as they come, and the checkpoint that they are of."""
    from bridle.infer import tokenize_inputs

    model = _model(checkpoint, device if engine == "local" else "cpu")
    places = [locate(item) for item in inputs]
    codes = tokenize_inputs(model, places, workers=workers, engine=engine, device=device, on_event=on_event)
    return codes, str(model.source)


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
        _untrained(recipe or Recipe(), locate(data), seed, device) if untrained else _model(checkpoint, device),
        locate(data),
        task=task,
        protocol=protocol,
        pool=pool,
        folds=folds,
        test_share=test_share,
        group_by=group_by,
        seed=seed,
        on_event=on_event or _silent,
    )


def export(run: str | Path, *, format: str = "safetensors", out: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a run for others to load, and check that it loads back equal; see `bridle.export.export`."""
    from bridle.export import export as write

    return write(Path(run), format=format, out=Path(out), overwrite=overwrite)


def pick_device(name: str) -> str:
    """`auto` -> `cuda` if there is one, else `cpu`.

    Raises:
        EnvironmentFault: `cuda` was asked for and there is none.
    """
    import torch

    from bridle import distributed

    number = distributed.local_rank()
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise EnvironmentFault("--device cuda: PyTorch sees no CUDA device here.", "Use --device cpu or auto.")
    if not available or name == "cpu":
        return "cpu"
    if number >= (there := torch.cuda.device_count()):
        raise EnvironmentFault(f"{number + 1} processes, and {there} CUDA devices on this machine.", "Fewer --devices.")
    return f"cuda:{number}"


def _model(checkpoint: str | Path | None, device: str) -> Bridle:
    """The network of a checkpoint; `None` takes the newest run."""
    from bridle.checkpoint import load_model, newest_run

    return load_model(Path(checkpoint) if checkpoint else newest_run(RUNS), device=pick_device(device))


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


def _prepare(shards: Location, recipe: Recipe | Config) -> tuple[Config, str, list[Manifest]]:
    """Configuration, its preset and the sets of its modality; a recipe adapts to them, a configuration stays."""
    from bridle.config import extends
    from bridle.schema import Modality
    from bridle.sharding import find_sets, merge_extent

    if not isinstance(recipe, Recipe):
        return recipe, "", find_sets(shards, Modality(recipe.patches.modality))
    modality = recipe.modality
    if recipe.preset or (recipe.file and extends(recipe.file)):
        modality = recipe.load()[0].patches.modality
    manifests = find_sets(shards, Modality(modality) if modality else None)
    config, preset = recipe.load(f"{manifests[0].modality}-tiny", merge_extent(manifests))
    return config, preset, manifests


def _set_name(manifests: Sequence[Manifest], shards: Location) -> str:
    return manifests[0].name if len(manifests) == 1 else shards.resolve().name


def _free_run(name: str) -> Path:
    """`runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3` ... that is not taken."""
    candidate, number = RUNS / name, 2
    while candidate.exists():
        candidate, number = RUNS / f"{name}-{number}", number + 1
    return candidate


def _report(on_event: OnEvent | None) -> OnEvent:
    """Of several processes the first speaks for all."""
    from bridle import distributed

    return on_event if on_event and distributed.rank() == 0 else _silent


def _silent(kind: str, **fields: Any) -> None:
    """Progress that nobody watches."""
