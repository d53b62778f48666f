"""The JSON beside the media of a sample: what may be in it. The format: shards/README.md."""

from __future__ import annotations

import json
import math
from typing import Any

from bridle.errors import MediaError
from bridle.schema import Modality

_NUMBERS = ("duration_s", "rate_hz", "channels", "frames", "height", "width")
_SUFFIX_LENGTH = 16


def parse_description(content: bytes) -> dict[str, Any]:
    """The description, checked: a set may come from anywhere.

    Raises:
        MediaError: it is damaged.
    """
    try:
        meta = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MediaError(f"its description is damaged: {error}") from error
    if not isinstance(meta, dict) or (wrong := next(_mistakes(meta), "")):
        raise MediaError(f"its description is damaged: {wrong if isinstance(meta, dict) else 'no JSON object'}")
    return meta


def _mistakes(meta: dict[str, Any]) -> Any:
    if meta.get("modality") not in list(Modality):
        yield f"modality {meta.get('modality')!r}"
    for name in ("path", "suffix"):
        if not isinstance(meta.get(name), str) or not meta[name]:
            yield f"{name} {meta.get(name)!r}"
    if len(meta["suffix"]) > _SUFFIX_LENGTH:
        yield "a suffix of that length"
    for name in _NUMBERS:
        value = meta.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
            yield f"{name} {value!r}"
    if not isinstance(meta.get("label"), str | None):
        yield "a label that is no text"
    several = meta.get("labels", [])
    if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
        yield "labels that are no list of texts"
