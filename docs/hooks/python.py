"""Fills `docs/reference/python.md` with signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from bridle import api

MARK = re.compile(r"<!-- filled from (bridle\.\S+) -->\n.*")  # and the line for those who read the page elsewhere
_HEADS = ("Args:", "Options:", "Returns:", "Raises:", "Attributes:")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs with the text of every page."""
    return MARK.sub(lambda named: text(named[1]), markdown)


def text(name: str) -> str:
    """`bridle.api`: all of its functions; a class: itself and its methods."""
    if name == "bridle.api":
        return "\n\n".join(_entry(f"api.{one}", getattr(api, one)) for one in api.__all__)
    module, _, last = name.removeprefix("bridle.").rpartition(".")
    found = getattr(importlib.import_module(f"bridle.{module}"), last)
    parts = [_entry(last, found)]
    if inspect.isclass(found):
        methods = [one for one in vars(found) if not one.startswith("_")]
        parts += [_entry(f"{last}.{one}", getattr(found, one)) for one in methods if callable(getattr(found, one))]
    return "\n\n".join(parts)


def _entry(name: str, found: Any) -> str:
    return "\n\n".join(
        [f"### {name}", f"```python\n{signature(name, found)}\n```", *prose(inspect.getdoc(found) or "")]
    )


def signature(name: str, found: Any) -> str:
    """As one would write it: on one line if it fits, else one parameter a line."""
    called, words = inspect.signature(found), list[str]()
    for key, one in called.parameters.items():
        if key == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        kind = "" if one.annotation is one.empty else f": {one.annotation}"
        words.append(f"{key}{kind}" + ("" if one.default is one.empty else f" = {one.default!r}".replace("Posix", "")))
    back = "" if called.return_annotation in (called.empty, None, "None") else f" -> {called.return_annotation}"
    short = f"{name}({', '.join(words)}){back}"
    return short if len(short) <= 88 else f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){back}"


def prose(doc: str) -> Iterator[str]:
    """Paragraphs of a docstring; what stands under `Args:` and its like becomes a list."""
    for paragraph in doc.split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if head in _HEADS:
            yield f"{head}"
            yield "\n".join(_items(inspect.cleandoc(rest), named=head != "Returns:"))
        elif paragraph.startswith("    "):
            yield f"```python\n{inspect.cleandoc(paragraph)}\n```"
        else:
            yield _plain(paragraph)


def _items(block: str, named: bool) -> Iterator[str]:
    """`name: text`, its further lines indented."""
    entries = re.sub(r"\n +", " ", block).splitlines() if named else [" ".join(block.split())]
    for entry in entries:
        name, colon, words = entry.partition(": ")
        yield f"- `{name}`: {_plain(words)}" if named and colon else f"- {_plain(entry)}"


def _plain(words: str) -> str:
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(
        part if part.startswith("`") else re.sub(r"[*_<>\[\]]", lambda m: f"&#{ord(m[0])};", part) for part in parts
    )
