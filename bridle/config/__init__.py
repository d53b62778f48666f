"""The recipe of a run: typed sections, presets, and the one order in which values override each other.

`sections` needs pydantic and `loading` PyYAML; both are imported when first asked for, so that `bridle --help` is not
kept waiting.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridle.config.compare import differences
    from bridle.config.loading import dump, ground, load, presets
    from bridle.config.sections import Config

__all__ = ["MOST_SEED", "Config", "differences", "dump", "ground", "load", "presets"]

MOST_SEED = 2**32 - 1  # scikit-learn takes no larger ones

_HOME = {
    "Config": "sections",
    "differences": "compare",
    "dump": "loading",
    "ground": "loading",
    "load": "loading",
    "presets": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bridle.config' has no attribute '{name}'")
    return getattr(importlib.import_module(f"bridle.config.{_HOME[name]}"), name)
