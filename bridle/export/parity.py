"""Is what was exported the model? Both see the same patches: of real clips where there are any, else of noise.

Shapes: B clips, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridle import progress
from bridle.errors import BridleError, DataError, MediaError, NumericalError
from bridle.export.programs import TokenizerProgram, program_of
from bridle.export.subject import Subject
from bridle.infer import modality_of, pool
from bridle.inputs import spread_sources
from bridle.inputs.sources import Member, Source, fetched, info_of
from bridle.media import decode, decoded_bytes, read_bytes
from bridle.model import Bridle
from bridle.patches.cut import coordinates
from bridle.schema import Clip, PatchBatch
from bridle.storage import Location, Remote

# Two codes whose distances differ by less (|z| is 1) are equally near for float32, and which one is picked depends on
# the order of a sum: where the pick differed, margins were below 1e-8 (docs/decisions.md).
TIE = 1e-6
MOST_TIES = 1e-3  # of the patches that may be decided by such a tie
CLIPS = 16  # that are looked at, evenly spread over the data
WINDOWS = 2  # of each
_WHOLE_BYTES = 500_000_000  # decoded: of larger videos only the beginning is
Program = Callable[[PatchBatch], Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What features may differ by.

    Attributes:
        difference: largest absolute difference of a feature; logits may differ by ten times that.
        cosine: smallest mean cosine of patch features, and of logits; the measure where single values say little.
    """

    difference: float | None
    cosine: float | None = None


# Of weights that are kept so while the encoder computes in float32 (int8: in integers).
TOLERANCES = {
    "fp32": Tolerance(1e-4),
    "fp16": Tolerance(5e-2),
    "bf16": Tolerance(None, 0.99),
    "int8": Tolerance(None, 0.95),
}
_LOGITS = 10.0


@dataclass(frozen=True, slots=True)
class Medium:
    """One clip as a user has it, and what the patcher makes of its first windows.

    Attributes:
        given: the file, of audio the samples; None: a video that is too large.
    """

    given: bytes | Tensor | None
    views: list[Tensor]


@dataclass(frozen=True, slots=True)
class Material:
    """Batches of several sizes, and where their clips are from ("noise", which has no media)."""

    batches: list[PatchBatch]
    clips: int
    origin: str
    media: list[Medium] = field(default_factory=list)


def material(subject: Subject, data: Location | None) -> Material:
    """What to compare on: clips of `data`, else of the shards that the model was trained on, else noise.

    Raises:
        DataError: `data` is given and holds nothing that can be read.
    """
    model = subject.model
    if data is not None:
        return _clips(model, [data])
    if places := subject.shards():
        with suppress(BridleError, OSError):
            return _clips(model, places)
    progress.warn("checked on noise, since the run's shards cannot be read here; use --data PATH for real clips")
    return Material([noise(model)], 2, "noise")


def _clips(model: Bridle, places: list[Location]) -> Material:
    opened, _ = spread_sources(places, modality_of(model), CLIPS)
    media, failed = list[Medium](), list[str]()
    for source in (open_it() for open_it in opened):
        try:
            media.append(_read(source, model))
        except MediaError as error:
            failed.append(f"\n  {source.path}: {error.message}")
    views = [view for medium in media for view in medium.views]
    if not views:
        raise DataError(f"{places[0]}: nothing could be read{''.join(failed[:5])}", "Name other clips with --data.")
    # One alone, some together, the rest: the number of clips must not matter.
    bounds = [0, 1, 4, len(views)]
    parts = [views[start:stop] for start, stop in pairwise(bounds) if start < min(stop, len(views))]
    return Material([model.patcher(part) for part in parts], len(media), ", ".join(map(str, places)), media)


def _read(source: Source, model: Bridle) -> Medium:
    """Decoded with what an export has, too: Pillow and PyAV.

    Raises:
        MediaError: it cannot be decoded.
    """
    if isinstance(source.data, MediaError):
        raise source.data
    patcher = model.patcher
    source = fetched(source)
    assert not isinstance(source.data, Clip | MediaError | Member | Remote)
    info, raw = info_of(source, modality_of(model), patcher), read_bytes(source.data)
    window_s = patcher.window_s(info)
    part = None
    if window_s and not (info.frames and decoded_bytes(info) <= _WHOLE_BYTES):
        part = 0.0, 2 * WINDOWS * window_s  # more than is compared: the last may be cut
    rules, to_hz = patcher.pixel_rules, patcher.rate_hz
    clip = decode(raw, info, source=source.path, rate_hz=to_hz, window=part, checked=False, pixel_rules=rules)
    views = [view for view, _ in patcher.windows(clip)][:WINDOWS]
    sound = clip.data if clip.data.ndim == 1 else None
    return Medium(sound if part else raw, views)


@torch.inference_mode()
def check(subject: Subject, programs: Mapping[str, Program], compared: Material, allowed: Tolerance) -> dict[str, Any]:
    """Compares all outputs of all programs with the model's own.

    Returns:
        `{features, codes, ties, cosine, logits, tolerance, clips, data}`: the largest absolute difference of features,
        class tokens and means; the share of equal codes, and the number of patches that count as equal because float32
        cannot tell which of two codes is nearer; the mean cosine of patch features; the largest difference of a
        classifier's logits; what was allowed, of `features` or of `cosine`. None for what was not exported.

    Raises:
        NumericalError: features or logits differ by more than the tolerance, or any code does.
    """
    found: dict[str, Any] = dict.fromkeys(("features", "codes", "ties", "cosine", "logits"))
    faults = list[str]()
    if "encoder" in programs:
        pairs = [(_own(subject, batch), programs["encoder"](batch), batch) for batch in compared.batches]
        found["features"] = max(
            distance(a, b) for mine, theirs, _ in pairs for a, b in zip(mine[:3], theirs[:3], strict=True)
        )
        if math.isfinite(found["features"]):
            found["cosine"] = _cosine([(a[0][batch.valid_BN], b[0][batch.valid_BN]) for a, b, batch in pairs])
        faults += _faults("features", found["features"], found["cosine"], allowed, 1.0)
        if subject.head:
            logits = [(a[3], b[3]) if len(b) > 3 else (a[3], a[3][:0]) for a, b, _ in pairs]
            found["logits"] = max(distance(a, b) for a, b in logits)
            cosine = _cosine(logits) if math.isfinite(found["logits"]) else None
            faults += _faults("logits", found["logits"], cosine, allowed, _LOGITS)
    if "tokenizer" in programs:
        equal, found["ties"] = _codes(subject.model, programs["tokenizer"], compared.batches)
        found["codes"] = equal
        faults += [f"{100 * (1 - equal):.3g} % of the codes differ"] if equal < 1 else []
    if faults:
        raise differs(f"the exported model differs on {compared.origin}: {faults[0]}", allowed == TOLERANCES["fp32"])
    measure = {"features": allowed.difference} if allowed.difference else {"cosine": allowed.cosine}
    tolerance = measure if "encoder" in programs else None
    return {**found, "tolerance": tolerance, "clips": compared.clips, "data": compared.origin}


def differs(message: str, full: bool) -> NumericalError:
    """What is to be raised then; `full`: the weights are kept in float32."""
    less = "" if full else " --dtype fp32 is exact."
    return NumericalError(message, f"Nothing was written.{less} Please report it with the output of bridle doctor.")


def _faults(what: str, difference: float, cosine: float | None, allowed: Tolerance, times: float) -> Iterator[str]:
    most = times * (allowed.difference or math.inf)
    if not math.isfinite(difference):
        yield f"not all {what} are finite numbers"
    elif difference > most:
        yield f"{what} by up to {difference:.2g}, at most {most:.2g} is allowed"
    if allowed.cosine and not (cosine is not None and cosine >= allowed.cosine):
        yield f"the mean cosine of {what} is {cosine}, below {allowed.cosine}"


def _cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    return float(torch.cat([F.cosine_similarity(a, b, dim=-1) for a, b in pairs]).mean())


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
    share = equal / codes
    return (share if ties <= max(1, MOST_TIES * patches) else min(share, 1 - ties / patches)), ties


def _own(subject: Subject, batch: PatchBatch) -> list[Tensor]:
    """Features, class token, mean, and logits where there is a head."""
    features_BND, class_B1D = subject.model.features_and_class(batch)
    found = [features_BND, class_B1D[:, 0], pool(features_BND, batch.valid_BN, batch.coords_BN3)]
    return [*found, subject.head.classifier(batch)] if subject.head else found


def distance(a: Tensor, b: Tensor) -> float:
    """Infinity for what is no number or of another shape."""
    difference = float((a - b).abs().max()) if a.shape == b.shape else math.inf
    return difference if math.isfinite(difference) else math.inf


def noise(model: Bridle) -> PatchBatch:
    """Two full clips of noise, one of them half padding."""
    patcher = model.patcher
    coords_N3 = coordinates(patcher.grid)
    x_BNP = torch.randn(2, len(coords_N3), patcher.values, generator=torch.Generator().manual_seed(0))
    valid_BN = torch.ones(x_BNP.shape[:2], dtype=torch.bool)
    valid_BN[1] = coords_N3[:, 0] <= patcher.grid[0] // 2
    lengths = valid_BN.sum(1).tolist()
    return PatchBatch(x_BNP * valid_BN[..., None], coords_N3.expand(2, -1, -1), valid_BN, lengths, patcher.grid)
