"""What an untrained model needs to know of the data it is tried on: statistics and extent, as `bridle shard` measures,
and for codes some patches.

Shards bring both along; of a folder a part of the files is decoded.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

from bridle.archive import merge_extent, merge_statistics
from bridle.decoding.server import moments_of
from bridle.errors import DataError, MediaError
from bridle.infer.encode import modality_of
from bridle.inputs import find_sets
from bridle.inputs.discover import media_below
from bridle.inputs.listing import spread_sources
from bridle.inputs.sets import is_sharded
from bridle.inputs.sources import windows_of
from bridle.media import probe
from bridle.model import Bridle
from bridle.patches.statistics import Moments, summarise
from bridle.schema import MediaInfo, Modality
from bridle.storage import Location, Remote

_MEASURED = 200  # files of a folder, evenly spread
_FIT_VECTORS_PER_CODE = 128  # as many as pretraining takes
_WINDOW_S = 10.0  # from the beginning of each


def measure(data: Location, modality: Modality) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Corpus statistics and extent (5, 50 and 95 % quantiles) of shards or a folder of media.

    Raises:
        DataError: nothing of that modality, or nothing that can be decoded.
    """
    if is_sharded(data):
        manifests = find_sets(data, modality)
        return merge_statistics(manifests), merge_extent(manifests)
    files = media_below(data, modality)
    step = max(1, len(files) // _MEASURED)
    decoded = [one for file in files[::step] if (one := _measured(data / file)) is not None]
    if not decoded:
        raise DataError(f"none of the {modality} files below {data} can be decoded")
    infos = [info for info, _ in decoded]
    extent = {}
    for name in ("duration_s", "rate_hz", "frames", "short_side"):
        values = [value for info in infos if (value := _value(info, name))]
        if values:
            cuts = statistics.quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
            extent[name] = [cuts[0], cuts[9], cuts[18]]
    measured = summarise((moments for _, moments in decoded), modality)
    if "rate_hz" in extent:
        measured["rate_hz"] = extent["rate_hz"][1]
    return measured, extent


@torch.no_grad()
def fit_cold_codes(model: Bridle, data: Location) -> None:
    """Gives an untrained model the codes that pretraining begins with: k-means codebooks of a random projection, fitted
    on patches of these data.

    Raises:
        DataError: nothing that can be decoded.
    """
    modality = modality_of(model)
    rows, wanted = list[Tensor](), _FIT_VECTORS_PER_CODE * model.config.quantizer.codes
    for opened in spread_sources([data], modality, _MEASURED)[0]:
        try:
            views = [view.view for view in windows_of(opened(), model.patcher, modality)]
        except MediaError:
            continue
        batch = model.patcher(views)
        rows.append(batch.rows(batch.x_BNP))
        if (wanted := wanted - len(rows[-1])) <= 0:
            break
    if not rows:
        raise DataError(f"none of the {modality} files of {data} can be decoded")
    model.cold_tokenizer.fit(torch.cat(rows))


def _measured(path: Location) -> tuple[MediaInfo, Moments] | None:
    try:
        media = path.read_bytes() if isinstance(path, Remote) else path  # the decoders read local files themselves
        info = probe(media, path.name)
        return info, moments_of(media, info, (0.0, _WINDOW_S) if info.duration_s else None, checked=False)
    except (MediaError, OSError):
        return None


def _value(info: MediaInfo, name: str) -> float | None:
    if name == "short_side":
        return float(min(info.height, info.width)) if info.height and info.width else None
    value = getattr(info, name)
    return float(value) if value else None
