"""The pages of the documentation as text: their blocks of code, their commands, their links."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import click

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "shards" / "README.md")
)
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAMS = ("bridle ", "make", "pip ", "git ", "ray ", "torchrun ", "python ", "sbatch ")


@dataclass(frozen=True)
class Block:
    """A fenced block, and where it begins."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """What a reader would type: lines after `$ `, or all lines of a block of shell."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if self.language in ("sh", "bash", "console") or (not self.language and self.text.startswith(_PROGRAMS)):
            return [line for line in lines if line.strip() and not line.startswith("#")]
        return []

    @property
    def runs(self) -> bool:
        """Whether it is something to type or to execute."""
        return self.language == "python" or bool(self.commands)


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = (ROOT / page).read_text("utf-8")
    return [Block(page, text.count("\n", 0, found.start()) + 1, *found.groups()) for found in _FENCE.finditer(text)]


def prose(page: str) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", (ROOT / page).read_text("utf-8"))


def links(page: str) -> list[str]:
    """Targets of links and pictures."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    return re.findall(r"\]\(([^()\s]*(?:\([^()]*\))?[^()\s]*)\)", text) + re.findall(r"<(https?://[^>]+)>", text)


def anchors(page: str) -> set[str]:
    """The anchors that hosts of code give to the headings of a page."""
    found: set[str] = set()
    for title in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(next(one for one in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if one not in found))
    return found


def hook(name: str) -> ModuleType:
    """One of the files that fill pages when the site is built."""
    spec = importlib.util.spec_from_file_location(f"hook_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def every_command() -> dict[str, click.Command]:
    """`shard`, `shard info` and so on."""
    return dict(hook("commands").every_command())


def split(command: str) -> tuple[str, list[str]]:
    """`bridle shard info DIR --json` -> `shard info`, what follows."""
    words = shlex.split(command, comments=True)[1:]
    for length in (2, 1):
        path = " ".join(words[:length])
        if path in every_command():
            return path, words[length:]
    raise AssertionError(f"no such command: {command}")


def unknown_options(command: str) -> list[str]:
    """Options of a line of text that its command does not have; placeholders between them are not looked at."""
    path, words = split(command)
    own = every_command()[path]
    known = {name for parameter in own.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
    }
    return [word for word in words if word.startswith("--") and word.split("=")[0] not in known]


def mentioned(page: str) -> Iterator[str]:
    """Commands within the text: `bridle eval --list`."""
    yield from re.findall(r"`(bridle [a-z][^`]*)`", " ".join(prose(page).split()))
