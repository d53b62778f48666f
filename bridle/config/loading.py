"""Presets, files, `--set` and flags -> one checked `Config`.

Every source is flattened to dotted keys (`optim.lr`) that remember where they were written. Later sources win key by
key: preset < `--config` file < `--set` < flag. All mistakes are collected and reported together, each with its source.
"""

from __future__ import annotations

import re
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
from yaml.error import MarkedYAMLError

from bridle.config.adapt import Extent, adapt_patches
from bridle.config.sections import AudioPatches, Config, ImagePatches, VideoPatches
from bridle.errors import ConfigError, nearest

_Section = typing.TypeVar("_Section", bound=BaseModel)
_PATCHES: dict[str, type[BaseModel]] = {"audio": AudioPatches, "image": ImagePatches, "video": VideoPatches}
_PRINT_ONE = "bridle config show --preset NAME prints one."
_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)  # PyYAML's own, of impossible dates, of deep nesting
# Sizes that only fit each other: who sets one by hand keeps the preset's others.
_TOGETHER = ({"size", "patch"}, {"frames", "stride", "tubelet", "patch_frames"}, {"high_hz"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and where it was written: `preset audio-tiny`, `my.yaml:4`, `--set`, `--seed`."""

    value: Any
    origin: str


Settings = dict[str, Setting]


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
    in_file, parent = _read_file(Path(file)) if file is not None else ({}, None)
    if preset and parent and preset != parent:
        raise ConfigError(
            f"{file} extends preset '{parent}', but --preset asks for '{preset}'.", "Leave one of them out."
        )
    preset = preset or parent
    settings = _read_preset(preset) if preset else {}
    fixed = settings.get("patches.modality")
    by_hand, mistakes = in_file, []
    for text in sets:
        parsed, mistake = _parse_set(text)
        by_hand |= parsed
        mistakes += mistake
    for key, value in (flags or {}).items():
        if value is not None:
            by_hand[key] = Setting(value, "--" + key.rpartition(".")[2].replace("_", "-"))
    if extent and settings:
        settings |= _adapt(settings, extent, by_hand)
    settings |= by_hand
    if fixed and (other := settings["patches.modality"]).value != fixed.value:
        mistakes.append(
            f"patches.modality ({other.origin}): is '{other.value}', but preset '{preset}' is for {fixed.value}"
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
    settings, parent = _read_file(file)
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
    changes = adapt_patches(patches, extent)
    for group in _TOGETHER:
        if any(f"patches.{name}" in by_hand for name in group):
            changes = {name: value for name, value in changes.items() if name not in group}
    return {f"patches.{name}": Setting(value, "the corpus") for name, value in changes.items()}


class _Loader(yaml.SafeLoader):
    """YAML where `1e-3` is a number: PyYAML follows YAML 1.1 and wants `1.0e-3`."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Aliases of whole sections may hold themselves, and a few lines of them may stand for gigabytes."""
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            mark = node.start_mark if node else None
            raise MarkedYAMLError(problem="an alias (*name) may stand for one value only", problem_mark=mark)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _read_preset(name: str, below: tuple[str, ...] = ()) -> Settings:
    if name not in presets():
        raise ConfigError(f"There is no preset '{name}'; {nearest(name, presets())}", _PRINT_ONE)
    if name in below:
        raise ConfigError(f"Presets extend each other in a circle: {' -> '.join((*below, name))}.")
    text = (resources.files("bridle.config") / "presets" / f"{name}.yaml").read_text("utf-8")
    own, parent = _read_yaml(text, f"preset {name}", lines=False)
    return (_read_preset(parent, (*below, name)) if parent else {}) | own


def _read_file(path: Path) -> tuple[Settings, str | None]:
    """Of a file, or of the run (or export) in a folder."""
    if path.is_dir():
        if not (path / "config.yaml").exists():
            raise ConfigError(f"{path} is a folder without config.yaml: no run and no export.", _PRINT_ONE)
        path = path / "config.yaml"
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file in UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.", _PRINT_ONE) from None
    return _read_yaml(text, str(path), lines=True)


def _read_yaml(text: str, origin: str, *, lines: bool) -> tuple[Settings, str | None]:
    """Settings of one document and the preset that it extends."""
    try:
        settings = dict(_flatten(_Loader(text), "", origin, lines))
    except _UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{origin}:{mark.line + 1}" if mark and lines else origin
        raise ConfigError(f"{where}: not valid YAML: {_why(error)}.") from None
    parent = settings.pop("extends", None)
    if parent is not None and not isinstance(parent.value, str):
        raise ConfigError(f"extends ({parent.origin}): wanted the name of a preset, got {_show(parent.value)}.")
    if parent is not None and parent.value not in presets():
        raise ConfigError(
            f"extends ({parent.origin}): there is no preset '{parent.value}'; {nearest(parent.value, presets())}",
            _PRINT_ONE,
        )
    return settings, parent.value if parent else None


def _flatten(
    loader: _Loader, prefix: str, origin: str, lines: bool, node: yaml.Node | None = None
) -> Iterator[tuple[str, Setting]]:
    """Leaves of a YAML document under dotted keys; an empty document has none."""
    node = node or loader.get_single_node()
    if node is None:
        return
    where = f"{origin}:{node.start_mark.line + 1}" if lines else origin
    if isinstance(node, yaml.MappingNode):
        if node.tag != "tag:yaml.org,2002:map":
            raise ConfigError(f"{where}: {prefix or 'the file'} has the tag {node.tag}; wanted plain sections.")
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(loader.construct_object(key_node, deep=True)), key_node.start_mark.line + 1
            if key in seen:
                places = f"{origin}:{seen[key]} and {origin}:{line}" if lines else origin
                raise ConfigError(f"{prefix + '.' if prefix else ''}{key} ({places}): is there twice.", "Keep one.")
            seen[key] = line
            yield from _flatten(loader, f"{prefix}.{key}" if prefix else key, origin, lines, value_node)
    elif prefix:
        yield prefix, Setting(loader.construct_object(node, deep=True), where)
    else:
        raise ConfigError(f"{where}: wanted sections with keys (`optim:` and below it `lr: 1e-3`).")


def _parse_set(text: str) -> tuple[Settings, list[str]]:
    """One `section.key=value`; what cannot be read comes back as a mistake."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        return {}, [f"--set {text}: wanted section.key=value, such as optim.lr=1e-3"]
    try:
        loader = _Loader(value)
        node = loader.get_single_node()
        if node is None:
            return {}, [f"--set {text}: the value is missing (null for none)"]
        return dict(_flatten(loader, key, "--set", False, node)), []
    except _UNREADABLE as error:
        return {}, [f"--set {text}: the value is not valid YAML: {_why(error)}"]


def _why(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(getattr(error, "problem", None) or error)


def _check(settings: Settings, mistakes: list[str], preset: str | None) -> Config:
    """Unknown keys first, then pydantic over what is left."""
    modality = settings.get("patches.modality")
    if modality is None:
        raise ConfigError(
            "The configuration names no modality.",
            "Name a --preset, or --shards where the command has that: MODALITY-tiny of their kind is put below it.",
        )
    if str(modality.value) not in _PATCHES:
        raise ConfigError(
            f"patches.modality ({modality.origin}): wanted one of {', '.join(_PATCHES)}, got {_show(modality.value)}."
        )
    known = dict(_leaves(Config, modality.value))
    sections = {key.rpartition(".")[0] for key in known}
    tree: dict[str, Any] = {}
    for key, setting in settings.items():
        if key in known:
            section, _, name = key.rpartition(".")
            tree.setdefault(section, {})[name] = setting.value
        elif typing.get_origin(known.get(key.rpartition(".")[0])) is dict:  # names of the user's own, as in data.mix
            field, _, name = key.rpartition(".")
            section, _, word = field.rpartition(".")
            tree.setdefault(section, {}).setdefault(word, {})[name] = setting.value
        elif key in sections and setting.value is None:  # a heading whose keys are all commented out
            continue
        elif key in sections:
            mistakes.append(
                f"{key} ({setting.origin}): is a section; wanted keys below it, such as {_first(known, key)}"
            )
        else:
            mistakes.append(f"{key} ({setting.origin}): unknown key; {_suggest(key, known)}")
    hint = f"`bridle config show --preset {preset or f'{modality.value}-tiny'}` prints every key and its value."
    return _validated(Config, tree, settings, mistakes, hint)


def load_section(
    kind: type[_Section], heading: str, text: str, origin: str, sets: Iterable[str] = (), *, lines: bool = True
) -> _Section:
    """One section that is no part of a run's configuration: YAML of its keys < `--set heading.key=value`.

    Args:
        origin: what the text is called in messages; with `lines` the number of the line follows.

    Raises:
        ConfigError: naming every mistake at once, each with its source.
    """
    own, parent = _read_yaml(text, origin, lines=lines)
    settings = {f"{heading}.{key}": setting for key, setting in own.items()}
    mistakes = [f"extends ({origin}): only configurations of a run have it"] if parent else []
    for one in sets:
        parsed, mistake = _parse_set(one)
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
    return f"{key} ({origins}): wanted {_wanted(error)}, got {_show(error['input'])}"


def _wanted(error: ErrorDetails) -> str:
    kinds = {
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "none_required": "null",
        "missing": "a value",
    }
    if error["type"] in kinds:
        return kinds[error["type"]]
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"])
    return error["msg"].removeprefix("Input should be ").removeprefix("a valid ")


def _show(value: Any) -> str:
    """A value as a user would write it, with its type where the looks deceive."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value!r} (text)" if isinstance(value, str) else repr(value)
