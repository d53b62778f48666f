"""BRIDLE: raw audio, images or video in; a pretrained encoder and discrete tokens out (arXiv 2502.02118).

model = bridle.load("runs/voices")
vector_D = model.embed("clip.wav")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridle.api import load

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`bridle.load`, imported when it is asked for."""
    if name != "load":
        raise AttributeError(f"module 'bridle' has no attribute '{name}'")
    from bridle.api import load

    return load
