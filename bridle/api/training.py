"""Start and resume training runs, and list them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bridle import progress
from bridle.api.options import Pretrain, takes
from bridle.api.results import RunListed, RunResult
from bridle.api.session import RUNS, pick_device
from bridle.config.recipe import Recipe
from bridle.errors import ConfigError, DataError
from bridle.storage import Location, locate, recorded

if TYPE_CHECKING:
    from bridle.archive import Manifest
    from bridle.config import Config


@takes(Pretrain)
def pretrain(shards: str | Path = "shards", *, chosen: Pretrain) -> RunResult:
    """Pretrain an encoder and its codebooks on every set below `shards`; see `bridle.train.pretrain`.

    Processes started by `torchrun` train together.

    Args:
        shards: a set, or a folder of sets.
        recipe: where the configuration comes from, or the configuration itself; default: MODALITY-tiny.
        restarted: continue the run of an earlier process with the same call, if there is one.
    """
    from bridle import distributed
    from bridle.checkpoint import run_of_launch
    from bridle.sharding import notices_together
    from bridle.train import Limits
    from bridle.train import pretrain as run

    with distributed.group(picked := pick_device(chosen.device)):
        config, preset, manifests = distributed.together(lambda: prepare(locate(shards), chosen.recipe or Recipe()))
        name = f"{_set_name(manifests, locate(shards))}-{preset or 'custom'}"
        root = Path(chosen.out) if chosen.out else RUNS
        begun = distributed.first_decides(
            lambda: run_of_launch(root, distributed.launch_id()) if chosen.restarted else None  # nobody else's
        )
        if begun:
            own = [f"train.tracker={config.train.tracker}"]  # the user has named it just now
            return resume(begun, shards=shards, sets=own, device=chosen.device, profile=chosen.profile)
        folder = distributed.first_decides(lambda: Path(chosen.out) if chosen.out else _free_run(name))
        progress.report("run", path=str(folder))
        for message in _read(config, preset, manifests):
            progress.detail(message)
        for message in notices_together(manifests, config):
            progress.warn(message)
        result = run(
            config,
            manifests,
            folder,
            preset=preset,
            limits=Limits(chosen.steps, chosen.epochs, chosen.max_minutes),
            device=picked,
            overwrite=chosen.overwrite,
            dry_run=chosen.dry_run,
            profile=chosen.profile,
        )
        return cast(RunResult, result)


@progress.heard
def launch(
    command: Sequence[str], devices: int, *, restarts: int = 3, on_event: progress.Listener | None = None
) -> int:
    """Run a command with several processes on this machine; returns its exit code.

    If a process is killed, all are restarted with `--restarted`.
    """
    from bridle.launch import launch as start

    return start(command, devices, restarts)


@progress.heard
def resume(
    run: str | Path | None = None,
    *,
    shards: str | Path | None = None,
    sets: Sequence[str] = (),
    force: bool = False,
    device: str = "auto",
    dry_run: bool = False,
    profile: bool = False,
    on_event: progress.Listener | None = None,
) -> RunResult:
    """Continue an interrupted run from its last checkpoint, with its own configuration and length.

    Args:
        run: run folder; default: the newest that is not complete.
        shards: new location of the shards, if they moved.
        sets: `section.key=value` overrides, with `force`, of keys that do not affect training.
    """
    from bridle import distributed
    from bridle.checkpoint import newest_run
    from bridle.train import resume as train

    with distributed.group(picked := pick_device(device)):
        folder = distributed.first_decides(lambda: Path(run) if run else newest_run(RUNS, unfinished=True))
        progress.report("run", path=str(folder))
        loaded, manifests, preset = distributed.together(lambda: _found(folder, shards, sets))
        result = train(
            loaded,
            manifests,
            folder,
            preset=preset,
            force=force,
            device=picked,
            dry_run=dry_run,
            profile=profile,
        )
        return cast(RunResult, result)


def runs(root: str | Path = RUNS) -> list[RunListed]:
    """List the runs in a folder and their progress; see `bridle.checkpoint.list_runs`.

    Raises:
        DataError: `root` is not a folder (a missing default `runs` is not an error).
    """
    from bridle.checkpoint import list_runs

    if Path(root) != RUNS and not Path(root).is_dir():
        raise DataError(f"{root} is not a folder.", "Name a folder of runs (default: runs/).")
    return cast(list[RunListed], list_runs(Path(root)))


def prepare(shards: Location, recipe: Recipe | Config) -> tuple[Config, str, list[Manifest]]:
    """Configuration, its preset and the sets of its modality; a recipe adapts to them, a configuration stays."""
    from bridle.archive import merge_extent
    from bridle.config import ground
    from bridle.inputs import find_sets
    from bridle.schema import Modality

    if not isinstance(recipe, Recipe):
        return recipe, "", find_sets(shards, Modality(recipe.patches.modality))
    modality = recipe.modality
    below = ground(recipe.file) if recipe.file else None
    if recipe.preset or (below and (below.preset or below.alone)):
        modality = recipe.load()[0].patches.modality
    manifests = find_sets(shards, Modality(modality) if modality else None)
    config, preset = recipe.load(str(manifests[0].modality), merge_extent(manifests))
    return config, preset, manifests


def _read(config: Config, preset: str, manifests: Sequence[Manifest]) -> list[str]:
    """Which sets, and what is not as in the preset."""
    from bridle.config import differences, load

    lines = [
        f"reads {one.place}: {one.samples} clips, {one.bytes / 1e6:.1f} MB, tars: {len(one.shards)}"
        for one in manifests
    ]
    changed = [f"{row['key']} {row.get('b')}" for row in differences(load(preset), config)] if preset else []
    return [*lines, f"not as in the preset {preset}: {', '.join(changed) or 'nothing'}"] if preset else lines


def _found(folder: Path, shards: str | Path | None, sets: Sequence[str]) -> tuple[Config, list[Manifest], str]:
    """Configuration, sets and preset of a run.

    Raises:
        DataError: it is no run, or its shards are gone.
    """
    from bridle import config
    from bridle.checkpoint import read_state
    from bridle.inputs import find_sets
    from bridle.schema import Modality

    state = read_state(folder)
    if (file := folder / "config.yaml").exists() and not file.is_file():
        raise DataError(f"{file} is not a regular file")
    loaded = config.load(file=file, sets=sets)
    if loaded.train.tracker == "wandb" and not any(one.startswith("train.tracker=") for one in sets):
        raise ConfigError(
            f"{file} has train.tracker=wandb, which sends figures to your account",
            "If it is your run: --set train.tracker=wandb. To send nothing: --set train.tracker=none --force.",
        )
    places: list[Location] = (
        [locate(shards)] if shards else [recorded(place, folder, "--shards") for place in state["shards"]]
    )
    for place in places:
        if not place.exists():
            raise DataError(f"The shards of {folder} are gone: {place}", "Set their new location with --shards.")
    modality = Modality(loaded.patches.modality)
    return loaded, [found for place in places for found in find_sets(place, modality)], state["preset"]


def _set_name(manifests: Sequence[Manifest], shards: Location) -> str:
    return manifests[0].name if len(manifests) == 1 else shards.resolve().name


def _free_run(name: str) -> Path:
    """`runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3` ... that is not taken."""
    candidate, number = RUNS / name, 2
    while candidate.exists():
        candidate, number = RUNS / f"{name}-{number}", number + 1
    return candidate
