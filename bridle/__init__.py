"""BRIDLE: pretrained encoders and discrete tokens of raw audio, images or video (arXiv 2502.02118).

model = bridle.load("runs/voices")
vector_D = model.embed("clip.wav")
codes = bridle.read_codes("clips.codes")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridle.api import load, read_codes

__all__ = ["__version__", "load", "read_codes"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`bridle.load` and so on, imported when they are asked for."""
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'bridle' has no attribute '{name}'")
    from bridle import api

    return getattr(api, name)
