"""Create, check and compare configurations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bridle import progress
from bridle.api.options import Init, Validate, takes
from bridle.api.results import Difference, InitResult, Validated
from bridle.api.session import pick_device
from bridle.config.recipe import Recipe
from bridle.errors import ConfigError, UsageError, nearest

if TYPE_CHECKING:
    from bridle.config import Config


@takes(Init)
def init(shards: str | Path = "shards", *, chosen: Init) -> InitResult:
    """Write a commented configuration for the sets of shards at or below `shards`.

    Raises:
        UsageError: `out` exists.
    """
    from bridle.init_config import choose, commented
    from bridle.inputs import find_sets
    from bridle.outputs import disk_errors, exists, write_text
    from bridle.schema import Modality
    from bridle.sharding import notices_together
    from bridle.storage import locate

    out, modality, minutes = Path(chosen.out), chosen.modality, chosen.minutes
    if out.is_dir() or (os.path.lexists(out) and not chosen.overwrite):
        raise UsageError(f"{out} is a folder.", "Choose another --out.") if out.is_dir() else exists(out)
    manifests = find_sets(locate(shards), Modality(modality) if modality else None)
    choice = choose(manifests, preset=chosen.preset, minutes=minutes, device=pick_device(chosen.device))
    for message in notices_together(manifests, choice.full):
        progress.warn(message)
    text = commented(choice, manifests, str(shards), minutes)
    target = Path(os.path.realpath(out))  # a link keeps being one
    with disk_errors(out):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    return {
        "config": str(out),
        "modality": str(manifests[0].modality),
        "preset": choice.preset,
        "samples": choice.samples,
        "steps": choice.steps,
        "memory_mb": round(choice.needed / 1e6),
        "step_ms": {kind: round(1000 * seconds, 2) for kind, seconds in choice.step_s.items()},
    }


@takes(Validate)
def config_validate(files: Sequence[str | Path], chosen: Validate) -> list[Validated]:
    """Load and check configurations as `pretrain` does, with `shards` also against the data.


    Raises:
        ConfigError: every mistake of every file.
        DataError: no shards that fit.
    """
    found, failed = [], list[tuple[str | Path, ConfigError]]()
    for file in files:
        try:
            found.append(_validate(Path(file), chosen.preset, chosen.sets, chosen.shards))
        except ConfigError as error:
            failed.append((file, error))
    if failed:
        messages = [why.message if str(file) in why.message else f"{file}: {why.message}" for file, why in failed]
        *lines, hint = [part for message, (_, why) in zip(messages, failed) for part in (message, why.hint)]
        raise ConfigError("\n".join(filter(None, lines)), hint)
    return found


def _validate(file: Path, preset: str | None, sets: Sequence[str], shards: str | Path | None) -> Validated:
    from bridle.api.training import pretrain

    recipe = Recipe(preset=preset, file=file, sets=sets)
    if shards is None:
        config, name = recipe.load()
        return {
            "file": str(file),
            "preset": name,
            "modality": config.patches.modality,
            "parameters": _parameters(config),
        }
    _compare_with(recipe, shards, lambda message: progress.warn(f"{file}: {message}"))
    plan = pretrain(shards, recipe=recipe, dry_run=True)
    return {
        "file": str(file),
        "preset": plan["preset"],
        "modality": plan["modality"],
        "parameters": sum(plan["parameters"].values()),
        "samples": plan["samples"],
        "batch_size": plan["batch_size"],
        "steps": plan["steps"],
        "memory_mb": plan["memory_mb"],
    }


def _parameters(config: Config) -> int:
    """What `bridle pretrain` would train."""
    from bridle.model import weightless

    return sum(one.numel() for one in weightless(config).parameters())


def _compare_with(recipe: Recipe, shards: str | Path, warn: Any) -> None:
    """Says where sizes set by hand are larger than the clips: a preset alone would have shrunk."""
    from bridle.api.training import prepare
    from bridle.archive import merge_extent
    from bridle.config.adapt import adapt_patches
    from bridle.storage import locate

    config, _, manifests = prepare(locate(shards), recipe)
    extent, patches = merge_extent(manifests), config.patches.model_dump()
    changes = {name: value for name, value in adapt_patches(patches, extent).items() if value != patches[name]}
    if changes:
        now = ", ".join(f"patches.{name} {patches[name]}" for name in changes)
        better = " ".join(f"patches.{name}={value}" for name, value in changes.items())
        sizes = ", ".join(f"{name} {values[0]:g} to {values[2]:g}" for name, values in extent.items())
        warn(f"{now}: more than the clips have ({sizes}); a preset would take {better}")


def config_diff(a: str | Path, b: str | Path) -> list[Difference]:
    """List the keys in which two configurations differ, as `{key, a, b}`.

    Args:
        a, b: a preset, a YAML file, a run or an export.
    """
    from bridle.config import differences

    return cast(list[Difference], differences(_named(a), _named(b)))


def _named(name: str | Path) -> Config:
    from bridle import config

    if str(name) in config.presets():
        return config.load(str(name))
    if not Path(name).exists():
        close = nearest(str(name), config.presets())
        raise ConfigError(f"{name} is neither a preset nor a file or run; {close}")
    return Recipe(file=Path(name)).load()[0]
