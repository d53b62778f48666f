"""YAML and `--set` -> settings under dotted keys (`optim.lr`) that remember where they were written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.error import MarkedYAMLError

from bridle.errors import ConfigError

_UNREADABLE = (yaml.YAMLError, ValueError, OverflowError, RecursionError)  # also of "\UFFFFFFFF" and deep nesting
_LONGEST = 100  # characters of what is shown of a value


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and where it was written: `preset audio-tiny`, `my.yaml:4`, `--set`, `--seed`."""

    value: Any
    origin: str


Settings = dict[str, Setting]


def read(text: str, origin: str, *, lines: bool) -> tuple[Settings, list[str]]:
    """Settings of one document, and the mistakes after which the rest can still be read.

    Args:
        origin: what the text is called in messages; with `lines` the number of the line follows.

    Raises:
        ConfigError: it is no YAML, or has no sections.
    """
    mistakes: list[str] = []
    try:
        settings = _flatten(_Loader(text), origin, lines, mistakes)
    except _UNREADABLE as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{origin}:{mark.line + 1}" if mark and lines else origin
        raise ConfigError(f"{where}: not valid YAML: {_why(error)}.") from None
    return settings, mistakes


def parse_set(text: str) -> tuple[Settings, list[str]]:
    """One `section.key=value`; what cannot be read comes back as a mistake."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        return {}, [f"--set {_cut(text)}: expected section.key=value, such as optim.lr=1e-3"]
    try:
        loader = _Loader(value)
        node = loader.get_single_node()
        if node is None:
            return {}, [f"--set {_cut(text)}: the value is missing (null for none)"]
        mistakes: list[str] = []
        return _flatten(loader, "--set", False, mistakes, key, node), mistakes
    except _UNREADABLE as error:
        return {}, [f"--set {_cut(text)}: the value is not valid YAML: {_why(error)}"]


def _why(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(getattr(error, "problem", None) or error)


def show(value: Any) -> str:
    """A value as a user would write it, with its type where the looks deceive."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{_cut(repr(value))} (text)" if isinstance(value, str) else _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


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

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML looks into what a tag promises (`!!int ""`, `!!bool maybe`) without asking whether it is there."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # Python writes none of more than 4300 digits, which it reads as hexadecimal
        except (ValueError, LookupError, AttributeError, ArithmeticError):
            problem = f"{_cut(repr(node.value))} is not a valid {node.tag.rpartition(':')[2]}"
            raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        return value


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _flatten(
    loader: _Loader, origin: str, lines: bool, mistakes: list[str], prefix: str = "", node: yaml.Node | None = None
) -> Settings:
    """Leaves of a YAML document under dotted keys, `{}` among them; an empty document has none."""
    node = node or loader.get_single_node()
    settings: Settings = {}
    if node is None:
        return settings
    where = f"{origin}:{node.start_mark.line + 1}" if lines else origin
    if not isinstance(node, yaml.MappingNode):
        if not prefix:
            raise ConfigError(f"{where}: expected sections with keys (`optim:` and below it `lr: 1e-3`).")
        return {prefix: Setting(loader.construct_object(node, deep=True), where)}
    if node.tag != "tag:yaml.org,2002:map":
        mistakes.append(f"{prefix or 'the file'} ({where}): has the tag {node.tag}; expected plain sections")
    if prefix and not node.value:
        return {prefix: Setting({}, where)}
    seen: dict[str, str] = {}
    for key_node, value_node in node.value:
        line = f"{origin}:{key_node.start_mark.line + 1}" if lines else origin
        if key_node.tag == "tag:yaml.org,2002:merge":
            mistakes.append(f"<< ({line}): merge keys are not supported; write the values out")
            continue
        name = str(loader.construct_object(key_node, deep=True))
        if not name:
            mistakes.append(f"{prefix or 'the file'} ({line}): has an empty key")
            continue
        key = f"{prefix}.{name}" if prefix else name
        inside = _flatten(loader, origin, lines, mistakes, key, value_node)
        places = {one: setting.origin for one, setting in inside.items()} | {key: line}
        if twice := [one for one in (key, *inside) if one in seen]:  # also as `optim: {lr: 1}` and `optim.lr: 2`
            both = " and ".join(dict.fromkeys((seen[twice[0]], places[twice[0]])))
            mistakes.append(f"{twice[0]} ({both}): given twice; keep one")
        seen |= places
        settings |= inside
    return settings
