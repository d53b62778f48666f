"""Parts of a corpus by a stable hash: a file stays in its part whatever else comes or goes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bridle.errors import UsageError


@dataclass(frozen=True, slots=True)
class Split:
    """`{"train": 0.9, "val": 0.1}`, and what keeps files together.

    Args:
        shares: part -> share of the groups; they sum to 1.
        group_by: regular expression; files whose match (its first group, if that takes part) is the same are on one
            side. None: every file is a group of its own.

    Raises:
        UsageError: shares that are not positive or do not sum to 1, an expression that cannot be read.
    """

    shares: Mapping[str, float]
    group_by: str | None = None

    def __post_init__(self) -> None:
        if any(not share > 0 for share in self.shares.values()) or abs(sum(self.shares.values()) - 1) > 1e-6:
            text = ",".join(f"{name}={share:g}" for name, share in self.shares.items())
            raise UsageError(f"the shares of --split {text} are not positive or do not sum to 1")
        if any(not re.fullmatch("[A-Za-z0-9_-]+", name) for name in self.shares):
            raise UsageError(f"--split: the names {list(self.shares)} may only hold letters, digits, - and _")
        try:
            re.compile(self.group_by or "")
        except re.error as error:
            raise UsageError(f"--group-by {self.group_by!r} is not a regular expression: {error}") from error

    def part_of(self, path: str, group: str | None = None) -> str:
        """The part of a file; `group`: what a table says must stay together."""
        digest = hashlib.sha256(b"split:" + os.fsencode(self.group_of(path) if group is None else group)).digest()
        place, reached = int.from_bytes(digest[:8], "big") / 2**64, 0.0
        for name, share in self.shares.items():
            reached += share
            if place < reached:
                return name
        return name

    def has_group(self, path: str) -> bool:
        """Whether the expression finds the group of this file."""
        return bool(self.group_by and re.search(self.group_by, path))

    def group_of(self, path: str) -> str:
        """What must stay on one side with this file; the whole path where the expression does not match."""
        match = re.search(self.group_by, path) if self.group_by else None
        if match is None:
            return path
        return match[1] if match.re.groups and match[1] is not None else match[0]
