"""Presets, files, `--set` and flags -> one checked `Config`.

Every source becomes settings under dotted keys (see `document.py`). Later sources win key by key: preset < `--config`
file < `--set` < flag. All mistakes are collected and reported together, each with its source.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import ErrorDetails

from bridle.config.adapt import Extent, adapt_patches
from bridle.config.document import Setting, Settings, parse_set, read, show
from bridle.config.sections import AudioPatches, Config, ImagePatches, VideoPatches
from bridle.errors import ConfigError, closest, nearest
from bridle.storage import read_text

_Section = typing.TypeVar("_Section", bound=BaseModel)
_PATCHES: dict[str, type[BaseModel]] = {"audio": AudioPatches, "image": ImagePatches, "video": VideoPatches}
_MOST_BYTES = 1 << 20  # of a file: reading YAML takes hundreds of times that
_PRINT_ONE = "bridle config show --preset NAME prints one."
# Sizes that only fit each other: who sets one by hand keeps the preset's others.
_TOGETHER = ({"size", "patch"}, {"frames", "stride", "tubelet", "patch_frames"}, {"high_hz"})


def presets() -> list[str]:
    """Names of all presets, sorted."""
    folder = resources.files("bridle.config") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(
    preset: str | None = None,
    file: Path | None = None,
    sets: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
    extent: Extent | None = None,
) -> Config:
    """The configuration after preset < corpus < file < `--set` < flag.

    Args:
        preset: a name of `presets()`; `None` takes the one that the file extends.
        file: YAML with the same sections as a preset; it may say `extends: PRESET`. A run stands for its `config.yaml`.
        sets: `section.key=value`, values as YAML.
        flags: values of command-line flags by dotted key; `None` values are left out.
        extent: of the corpus; the preset's sizes shrink to it where nobody set them by hand (see `adapt.py`).

    Raises:
        ConfigError: naming every mistake at once, each with its source.
    """
    by_hand, parent, mistakes = _read_file(Path(file)) if file is not None else ({}, None, [])
    if preset and parent and preset != parent:
        mistakes.append(f"{file} extends preset '{parent}', but --preset asks for '{preset}': use only one of them")
    preset = preset or parent
    settings = _read_preset(preset) if preset else {}
    fixed = settings.get("patches.modality")
    for text in sets:
        parsed, mistake = parse_set(text)
        by_hand = {key: one for key, one in by_hand.items() if key not in parsed} | parsed  # the last comes last
        mistakes += mistake
    for key, value in (flags or {}).items():
        if value is not None:
            by_hand[key] = Setting(value, "--" + key.rpartition(".")[2].replace("_", "-"))
    if extent and settings:
        settings |= _adapt(settings, extent, by_hand)
    settings |= by_hand
    if fixed and (other := settings["patches.modality"]).value != fixed.value:
        mistakes.append(
            f"patches.modality ({other.origin}): is {show(other.value)}, but preset '{preset}' is for {fixed.value}"
        )
        settings["patches.modality"] = fixed
    return _check(settings, mistakes, preset)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a configuration file stands on.

    Attributes:
        preset: that it extends, else MODALITY-tiny of the modality it names; None without either.
        alone: it extends none and has every key itself (or is a run's): a preset below it would change nothing.
    """

    preset: str | None
    alone: bool


def ground(file: Path) -> Ground:
    """Of a file, or of the run or export in a folder."""
    file = Path(file)
    settings, parent, _ = _read_file(file)  # `load` tells of mistakes
    modality = settings.get("patches.modality")
    if parent or modality is None or str(modality.value) not in _PATCHES:
        return Ground(parent, False)
    every = {key for key, kind in _leaves(Config, str(modality.value)) if typing.get_origin(kind) is not dict}
    # A run or export of an older version lacks newer keys: it has our defaults there, which are how it was trained.
    beside = [(file.parent / one).exists() for one in ("state.json", "model.json")]
    alone = file.is_dir() or (file.name == "config.yaml" and any(beside)) or every <= settings.keys()
    return Ground(None if alone else f"{modality.value}-tiny", alone)


def dump(config: Config, preset: str = "") -> str:
    """YAML that `load` reads back to an equal configuration; with `preset` it says what it was made from."""
    head = f"extends: {preset}\n" if preset else ""
    return head + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _adapt(settings: Settings, extent: Extent, by_hand: Settings) -> Settings:
    """What the corpus changes in the preset's patches, without the groups of which the user set a part."""
    patches = {key.removeprefix("patches."): s.value for key, s in settings.items() if key.startswith("patches.")}
    for name in ("rate_hz", "normalise"):  # on which the others depend; `_check` reports a wrong type
        if (own := by_hand.get(f"patches.{name}")) and type(own.value) is type(patches.get(name)):
            patches[name] = own.value
    changes = adapt_patches(patches, extent)
    for group in _TOGETHER:
        if any(f"patches.{name}" in by_hand for name in group):
            changes = {name: value for name, value in changes.items() if name not in group}
    return {f"patches.{name}": Setting(value, "the corpus") for name, value in changes.items()}


def _read_preset(name: str, below: tuple[str, ...] = ()) -> Settings:
    if name not in presets():
        raise ConfigError(f"There is no preset '{name}'; {nearest(name, presets())}", _PRINT_ONE)
    if name in below:
        raise ConfigError(f"Presets extend each other in a circle: {' -> '.join((*below, name))}.")
    text = (resources.files("bridle.config") / "presets" / f"{name}.yaml").read_text("utf-8")
    own, parent, _ = _read_yaml(text, f"preset {name}", lines=False)
    return (_read_preset(parent, (*below, name)) if parent else {}) | own


def _read_file(path: Path) -> tuple[Settings, str | None, list[str]]:
    """Of a file, or of the run (or export) in a folder."""
    if path.is_dir():
        if not (path / "config.yaml").exists():
            raise ConfigError(f"{path} is a folder without config.yaml, so neither a run nor an export.", _PRINT_ONE)
        path = path / "config.yaml"
    try:
        text = read_text(path, most_bytes=_MOST_BYTES)
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file in UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.", _PRINT_ONE) from None
    return _read_yaml(text, str(path), lines=True)


def _read_yaml(text: str, origin: str, *, lines: bool) -> tuple[Settings, str | None, list[str]]:
    """Settings of one document, the preset that it extends ("" if that cannot be told), and its mistakes."""
    settings, mistakes = read(text, origin, lines=lines)
    parent = settings.pop("extends", None)
    if parent is None or parent.value in presets():
        return settings, parent.value if parent else None, mistakes
    if not isinstance(parent.value, str):
        mistakes.append(f"extends ({parent.origin}): expected the name of a preset, got {show(parent.value)}")
        return settings, "", mistakes
    mistakes.append(
        f"extends ({parent.origin}): there is no preset '{parent.value}'; {nearest(parent.value, presets())}"
    )
    return settings, closest(parent.value, presets()) or "", mistakes  # the rest is looked at as if that had been meant


def _check(settings: Settings, mistakes: list[str], preset: str | None) -> Config:
    """Unknown keys first, then pydantic over what is left; all but the patches where their kind is not known."""
    modality = settings.get("patches.modality")
    usable = modality is not None and str(modality.value) in _PATCHES
    assumed: str = modality.value if modality and usable else next(iter(_PATCHES))
    if not usable:
        for key, setting in settings.items():
            if key.startswith("patches.modality."):
                modality = Setting({key.removeprefix("patches.modality."): setting.value}, setting.origin)
        if modality or preset != "":  # else `extends` is wrong, which is said
            mistakes.append(_no_modality(modality))
        settings = {key: setting for key, setting in settings.items() if not key.startswith("patches.")}
        settings["patches.modality"] = Setting(assumed, "")
    known = dict(_leaves(Config, assumed))
    sections = {key.rpartition(".")[0] for key in known}
    named = [key for key, kind in known.items() if typing.get_origin(kind) is dict]  # names of the user's own: data.mix
    tree: dict[str, Any] = {}
    for key, setting in settings.items():
        if key in known:
            section, _, name = key.rpartition(".")
            tree.setdefault(section, {})[name] = setting.value
        elif owner := next((one for one in named if key.startswith(f"{one}.")), None):
            section, _, word = owner.rpartition(".")
            held = tree.setdefault(section, {}).get(word)
            names = held if isinstance(held, dict) else {}  # it may have been set to something else before
            tree[section][word] = names | {key.removeprefix(f"{owner}."): setting.value}
        elif key in sections and setting.value in (None, {}):  # a heading whose keys are all commented out
            continue
        elif key in sections:
            mistakes.append(
                f"{key} ({setting.origin}): is a section; expected keys below it, such as {_first(known, key)}"
            )
        else:
            mistakes.append(f"{key} ({setting.origin}): unknown key; {_suggest(key, known)}")
    hint = f"`bridle config show --preset {preset or f'{assumed}-tiny'}` prints every key and its value."
    return _validated(Config, tree, settings, mistakes, hint)


def _no_modality(given: Setting | None) -> str:
    if given:
        return f"patches.modality ({given.origin}): expected one of {', '.join(_PATCHES)}, got {show(given.value)}"
    return (
        "patches.modality (missing): the configuration names no modality; name a --preset, or --shards where the "
        "command has that: MODALITY-tiny of their kind is put below it"
    )


def load_section(
    kind: type[_Section], heading: str, text: str, origin: str, sets: Iterable[str] = (), *, lines: bool = True
) -> _Section:
    """One section that is no part of a run's configuration: YAML of its keys < `--set heading.key=value`.

    Args:
        origin: what the text is called in messages; with `lines` the number of the line follows.

    Raises:
        ConfigError: naming every mistake at once, each with its source.
    """
    own, parent, mistakes = _read_yaml(text, origin, lines=lines)
    settings = {f"{heading}.{key}": setting for key, setting in own.items()}
    mistakes += [f"extends ({origin}): only configurations of a run have it"] if parent else []
    for one in sets:
        parsed, mistake = parse_set(one)
        settings |= parsed
        mistakes += mistake
    known = {f"{heading}.{name}": None for name in kind.model_fields}
    mistakes += [
        f"{key} ({s.origin}): unknown key; {nearest(key, known)}" for key, s in settings.items() if key not in known
    ]
    tree = {heading: {key.partition(".")[2]: s.value for key, s in settings.items() if key in known}}
    root = create_model("_", **{heading: (kind, ...)})  # type: ignore[call-overload]
    hint = f"Keys of {heading}: {', '.join(kind.model_fields)}."
    return typing.cast(_Section, getattr(_validated(root, tree, settings, mistakes, hint), heading))


def _validated(
    kind: type[_Section], tree: dict[str, Any], settings: Settings, mistakes: list[str], hint: str
) -> _Section:
    """What pydantic makes of it; raises everything found in one error."""
    try:
        checked = kind.model_validate(tree, strict=True)
    except ValidationError as failed:
        mistakes = mistakes + [_explain(error, settings) for error in failed.errors(include_url=False)]
    if len(mistakes) == 1:
        raise ConfigError(f"Configuration: {mistakes[0]}", hint)
    if mistakes:
        raise ConfigError(f"{len(mistakes)} mistakes in the configuration:\n  " + "\n  ".join(mistakes), hint)
    return checked


def _leaves(model: type[BaseModel], modality: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of every value that the modality has, with their annotations."""
    for name, field in model.model_fields.items():
        kind = _PATCHES[modality] if name == "patches" else field.annotation
        if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
            yield from _leaves(kind, modality, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _first(known: Mapping[str, Any], section: str) -> str:
    return next(key for key in known if key.startswith(section + "."))


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    """The nearest known key: in the same section if that exists, by its word if the section was left out."""
    section, _, word = key.rpartition(".")
    same_word = [name for name in known if name.rpartition(".")[2] == word]
    if same_word and not section:
        return f"did you mean '{same_word[0]}'?"
    if inside := [name for name in known if name.startswith(section + ".")]:
        return nearest(key, inside)
    close = nearest(key, known)
    return close if close.startswith("did") else nearest(section or key, {name.partition(".")[0] for name in known})


def _explain(error: ErrorDetails, settings: Settings) -> str:
    """One line for one of pydantic's complaints: key, source, what was wanted and what came."""
    path = [str(part) for part in error["loc"]]
    if path[0] == "patches" and len(path) > 1 and path[1] in _PATCHES:
        del path[1]  # pydantic adds the tag of the union
    key = ".".join(path)
    inside = [name for name in settings if name == key or name.startswith(key + ".")]
    written = [name for name in inside if not settings[name].origin.startswith("preset ")] or inside
    origins = ", ".join(dict.fromkeys(settings[name].origin for name in written)) or "missing"
    if error["type"] == "value_error":  # our own check over several keys of a section
        return f"{key} ({origins}): {error['ctx']['error']}"
    return f"{key} ({origins}): expected {_wanted(error)}, got {show(error['input'])}"


def _wanted(error: ErrorDetails) -> str:
    kinds = {
        "int_type": "an integer",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "none_required": "null",
        "dict_type": "names and numbers below it",
        "missing": "a value",
    }
    if error["type"] in kinds:
        return kinds[error["type"]]
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"])
    return error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
