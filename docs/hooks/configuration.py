"""Fills `docs/reference/configuration.md` from `bridle/config`: keys, what they may be, and what each preset sets.

The words beside a key are the comments of `sections.py`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridle import config
from bridle.config import sections

MARK = re.compile(r"<!-- filled from bridle/config/(\S+) -->\n.*")  # and the line for those who read the page elsewhere
SIZES = ("tiny", "small", "base", "large", "paper")
_RENAMED = {"AudioPatches": "patches (audio)", "ImagePatches": "patches (image)", "VideoPatches": "patches (video)"}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs with the text of every page."""
    return MARK.sub(lambda named: keys() if named[1] == "sections.py" else presets(), markdown)


def keys() -> str:
    """A table for each section."""
    named = {type(field.default).__name__: name for name, field in sections.Config.model_fields.items()} | _RENAMED
    said = comments(Path(inspect.getfile(sections)).read_text("utf-8"))
    parts = []
    for class_name, name in sorted(
        named.items(), key=lambda item: list(said).index(item[0]) if item[0] in said else -1
    ):
        section = getattr(sections, class_name, None)
        if section is None or class_name == "PydanticUndefinedType":
            continue
        schema = section.model_json_schema()["properties"]
        rows = [
            f"| `{key}` | {kind(schema[key])} | {_shown(field.default)} | {_cell(_comment(said, section, key))} |"
            for key, field in section.model_fields.items()
        ]
        about = _cell(inspect.getdoc(section) or "")
        parts += [f"### {name}", about, "\n".join(["| key | values | default | |", "|---|---|---|---|", *rows])]
    return "\n\n".join(parts)


def presets() -> str:
    """A table for each modality with the keys in which its presets differ from each other or from the defaults."""
    parts = []
    for modality in ("audio", "image", "video"):
        columns = {size: dict(_flat(config.load(f"{modality}-{size}").model_dump(mode="json"))) for size in SIZES}
        fresh = sections.Config(patches={"modality": modality})  # type: ignore[arg-type]
        default = dict(_flat(fresh.model_dump(mode="json")))
        rows = [
            f"| `{key}` | {' | '.join(_shown(columns[size][key]) for size in SIZES)} |"
            for key in default
            if any(columns[size][key] != default[key] for size in SIZES)
        ]
        head = f"| | {' | '.join(f'{modality}-{size}' for size in SIZES)} |"
        parts += [f"### {modality.capitalize()} presets", "\n".join([head, "|---|" + "---|" * len(SIZES), *rows])]
    return "\n\n".join(parts)


def kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    names = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "null": "`null`"}
    words = names.get(schema.get("type", ""), "names and numbers")
    bounds = {"exclusiveMinimum": ">", "minimum": "at least", "exclusiveMaximum": "<", "maximum": "at most"}
    limits = [f"{word} {schema[key]:.10g}" for key, word in bounds.items() if key in schema]
    return f"{words}, {' and '.join(limits)}" if limits else words


def comments(source: str) -> dict[str, dict[str, str]]:
    """Class -> key -> the comment that stands after the key, or on the lines above it."""
    lines, found = source.splitlines(), dict[str, dict[str, str]]()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
            found[node.name] = {one.target.id: _beside(lines, one) for one in fields}
    return found


def _beside(lines: list[str], node: ast.AnnAssign) -> str:
    end = node.end_lineno or node.lineno
    words = [lines[end - 1][node.end_col_offset or 0 :].strip().removeprefix("#").strip()]
    above = node.lineno - 2
    while lines[above].strip().startswith("#"):
        words.insert(0, lines[above].strip().removeprefix("#").strip())
        above -= 1
    return " ".join(filter(None, words))


def _comment(said: dict[str, dict[str, str]], section: type, key: str) -> str:
    """Its own words, or those of the section that it inherits the key from."""
    return next((said[one.__name__][key] for one in section.__mro__ if said.get(one.__name__, {}).get(key)), "")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    if repr(value) == "PydanticUndefined":
        return ""
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[value] if value is None or isinstance(value, bool) else value if value != {} else '{}'}`"


def _cell(words: str) -> str:
    """One line that a table can hold; only backticks keep their meaning."""
    words = " ".join(words.split())
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(
        part if part.startswith("`") else re.sub(r"[*_<>\[\]|]", lambda m: f"&#{ord(m[0])};", part) for part in parts
    )
