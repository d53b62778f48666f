"""Where two configurations differ, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bridle.config.sections import Config


def differences(one: Config, other: Config) -> list[dict[str, Any]]:
    """`{key}` and, where the configuration has such a key (modalities have different ones), its value as `a` and `b`; a
    row for each dotted key that is not the same, in the order of the sections."""
    a, b = (dict(_values(config.model_dump(mode="json"))) for config in (one, other))
    return [
        {"key": key} | ({"a": a[key]} if key in a else {}) | ({"b": b[key]} if key in b else {})
        for key in {**a, **b}
        if key not in a or key not in b or a[key] != b[key]
    ]


def _values(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
