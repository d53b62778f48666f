"""Is what was exported the model? Both see the same patches: of real clips where there are any, else of noise.

Shapes: B clips, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridle.checkpoint import read_state, run_of
from bridle.errors import BridleError, DataError, MediaError, NumericalError
from bridle.export.programs import TokenizerProgram, program_of
from bridle.export.safetensors import noise
from bridle.infer import decoded_as, pool, spread_sources
from bridle.infer.sources import windows_of
from bridle.model import Bridle
from bridle.schema import PatchBatch
from bridle.storage import Location, locate

# Two codes whose distances differ by less (|z| is 1) are equally near for float32, and which one is picked depends on
# the order of a sum: where the pick differed, margins were below 1e-8 (docs/decisions.md).
TIE = 1e-6
MOST_TIES = 1e-3  # of the patches that may be decided by such a tie
CLIPS = 16  # that are looked at, evenly spread over the data
WINDOWS = 2  # of each
Program = Callable[[PatchBatch], Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What features may differ by.

    Attributes:
        difference: largest absolute difference of a feature.
        cosine: smallest mean cosine of patch features; the measure of int8, where single values say little.
    """

    difference: float | None
    cosine: float | None = None


TOLERANCES = {"fp32": Tolerance(1e-4), "fp16": Tolerance(5e-2), "int8": Tolerance(None, 0.95)}


@dataclass(frozen=True, slots=True)
class Material:
    """Batches of several sizes, of how many clips, and where they are from ("noise")."""

    batches: list[PatchBatch]
    clips: int
    origin: str


def material(model: Bridle, data: Location | None, tell: Callable[[str], None]) -> Material:
    """What to compare on: clips of `data`, else of the shards that the model was trained on, else noise.

    Raises:
        DataError: `data` is given and holds nothing that can be read.
    """
    if data is not None:
        return _clips(model, [data])
    with suppress(BridleError, OSError):
        return _clips(model, _own_shards(model))
    tell("checked on noise: the shards of the run cannot be read here; --data PATH names real clips")
    return Material([noise(model)], 2, "noise")


def _own_shards(model: Bridle) -> list[Location]:
    run = run_of(model.source)
    places = [locate(place) for place in read_state(run)["shards"]] if run else []
    if not places or not all(place.exists() for place in places):
        raise DataError("no shards")
    return places


def _clips(model: Bridle, places: list[Location]) -> Material:
    modality, rate_hz = decoded_as(model)
    opened, _ = spread_sources(places, modality, CLIPS)
    views, failed, clips = list[Any](), list[str](), 0
    for source in (open_it() for open_it in opened):
        try:
            found = islice(windows_of(source, model.patcher, modality, rate_hz), WINDOWS)
            views += [view.view for view in found]
            clips += 1
        except MediaError as error:
            failed.append(f"\n  {source.path}: {error.message}")
    if not views:
        raise DataError(f"{places[0]}: nothing could be read{''.join(failed[:5])}", "Name other clips with --data.")
    # One alone, some together, the rest: the number of clips must not matter.
    bounds = [0, 1, 4, len(views)]
    parts = [views[start:stop] for start, stop in pairwise(bounds) if start < min(stop, len(views))]
    return Material([model.patcher(part) for part in parts], clips, ", ".join(map(str, places)))


@torch.inference_mode()
def check(model: Bridle, programs: dict[str, Program], compared: Material, dtype: str) -> dict[str, Any]:
    """Compares all outputs of all programs with the model's own.

    Returns:
        `{features, codes, ties, cosine, tolerance, clips, data}`: the largest absolute difference of features, class
        tokens and means; the share of equal codes, and the number of patches that count as equal because float32
        cannot tell which of two codes is nearer; the mean cosine of patch features; what was allowed, of `features` or
        (int8) of `cosine`. None for what was not exported.

    Raises:
        NumericalError: features differ by more than the tolerance, or any code does.
    """
    allowed = TOLERANCES[dtype]
    difference, cosine, equal, ties = None, None, None, None
    if "encoder" in programs:
        pairs = [(_features(model, batch), programs["encoder"](batch), batch) for batch in compared.batches]
        difference = max(_distance(a, b) for mine, theirs, _ in pairs for a, b in zip(mine, theirs, strict=True))
        if math.isfinite(difference):
            cosines = [F.cosine_similarity(a[0], b[0], dim=-1)[batch.valid_BN] for a, b, batch in pairs]
            cosine = float(torch.cat(cosines).mean())
    if "tokenizer" in programs:
        equal, ties = _codes(model, programs["tokenizer"], compared.batches)
    parity = {
        "features": difference,
        "codes": equal,
        "ties": ties,
        "cosine": cosine,
        "tolerance": {"features": allowed.difference} if allowed.difference else {"cosine": allowed.cosine},
        "clips": compared.clips,
        "data": compared.origin,
    }
    for fault in _faults(difference, cosine, equal, allowed):
        raise NumericalError(f"the exported model differs on {compared.origin}: {fault}", "Nothing was written.")
    return parity


def _faults(difference: float | None, cosine: float | None, equal: float | None, allowed: Tolerance) -> Iterator[str]:
    if difference is not None and difference > (allowed.difference or math.inf):
        yield f"features by up to {difference:.2g}, allowed is {allowed.difference:.2g}"
    if allowed.cosine and difference is not None and not (cosine is not None and cosine >= allowed.cosine):
        yield f"the mean cosine of features is {cosine}, wanted is {allowed.cosine}"
    if equal is not None and equal < 1:
        yield f"{100 * (1 - equal):.3g} % of the codes are others"


def _codes(model: Bridle, program: Program, batches: Sequence[PatchBatch]) -> tuple[float, int]:
    """The share of equal codes, and how many patches differ by a tie alone."""
    own = program_of(model, "tokenizer")
    assert isinstance(own, TokenizerProgram)
    equal, codes, patches, ties = 0, 0, 0, 0
    for batch in batches:
        same_RQ = (model.tokenize(batch) == program(batch)[0])[batch.valid_BN]
        margin_R = own.margin(batch.x_BNP, batch.coords_BN3, batch.valid_BN)[batch.valid_BN]
        tie_R = ~same_RQ.all(-1) & (margin_R < TIE)
        equal += int((same_RQ | tie_R[:, None]).sum())
        ties, codes, patches = ties + int(tie_R.sum()), codes + same_RQ.numel(), patches + len(same_RQ)
    return (equal / codes if ties <= max(1, MOST_TIES * patches) else 1 - ties / patches), ties


def _features(model: Bridle, batch: PatchBatch) -> tuple[Tensor, Tensor, Tensor]:
    features_BND, class_B1D = model.features_and_class(batch)
    return features_BND, class_B1D[:, 0], pool(features_BND, batch.valid_BN, batch.coords_BN3)


def _distance(a: Tensor, b: Tensor) -> float:
    """Infinity for what is no number or of another shape."""
    difference = float((a - b).abs().max()) if a.shape == b.shape else math.inf
    return difference if math.isfinite(difference) else math.inf
