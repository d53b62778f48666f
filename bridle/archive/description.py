"""The JSON beside the media of a sample: what may be in it. The format: shards/README.md."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from bridle.errors import MediaError
from bridle.schema import Modality

_NUMBERS = ("duration_s", "rate_hz", "channels", "frames", "height", "width")
_MOST = 1e15  # seconds, hertz, frames, pixels


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
        raise MediaError(f"its description is damaged: {wrong if isinstance(meta, dict) else 'not a JSON object'}")
    return meta


def _mistakes(meta: dict[str, Any]) -> Any:
    if meta.get("modality") not in list(Modality):
        yield f"modality {meta.get('modality')!r}"
    for name in ("path", "suffix"):
        if not isinstance(meta.get(name), str) or not meta[name]:
            yield f"{name} {meta.get(name)!r}"
    if not re.fullmatch("[a-z0-9]{1,16}", meta["suffix"]):
        yield f"suffix {meta['suffix'][:20]!r}"
    for name in _NUMBERS:
        value = meta.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= _MOST):
            yield f"{name} that is not a number in range"
    if meta.get("channel") is not None and not (type(meta["channel"]) is int and meta["channel"] > 0):
        yield f"channel {meta['channel']!r}"
    for name in ("decoder", "group"):
        if not isinstance(meta.get(name), str | None):
            yield f"{name} {meta[name]!r}"
    if not re.fullmatch("([0-9a-f]{64})?", meta.get("sha256", "") if isinstance(meta.get("sha256", ""), str) else "?"):
        yield f"sha256 {meta['sha256']!r}"
    several = meta.get("labels", [])
    if not isinstance(several, list):
        yield "labels that are not a list"
    labels = [*several, *([] if meta.get("label") is None else [meta["label"]])]
    if not all(isinstance(one, str) for one in labels):
        yield "a label that is not text"
    try:
        os.fsencode(meta["path"])  # names of files may hold bytes that are no UTF-8; other halves of pairs are damage
        "".join([*labels, meta.get("group") or ""]).encode()
    except UnicodeEncodeError:
        yield "text that is not text"
