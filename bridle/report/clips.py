"""A spread of the clips of a run, through its model: vectors, codes, images small enough for a page.

Clips are opened, decoded and seen one by one; what stays of each is small.

Shapes: F clips, N patches, D width, T H W grid of a clip, Q levels, K codes.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from bridle import progress
from bridle.errors import MediaError
from bridle.evaluate.codebook import CodebookHealth
from bridle.evaluate.codes import label_bits
from bridle.evaluate.labels import Truth
from bridle.infer import Encoded, Failures, encode, pool_encoded
from bridle.infer.encode import modality_of
from bridle.inputs import Source, spread_sources
from bridle.inputs.sources import fetched, info_of
from bridle.media import Preview, decode, preview, thumbnail
from bridle.model import Bridle
from bridle.schema import Clip, Modality, PatchBatch
from bridle.storage import Location

MOST = 1000  # clips that are looked at
_LONGEST_S = 60.0  # of one clip
SHEET_SIDE, SHEET_COLUMNS = 40, 32  # of a clip's image on the sheet
_BATCH = 32


@dataclass(slots=True)
class Seen:
    """What stays of each clip that could be read.

    Attributes:
        labels: of each clip, joined where there are several; "" without one.
        vectors: means over patches, `(D,)` each.
        codes: `(T, H, W, Q)` each; empty for a model without codes.
        health: of the codebooks, over these clips; None without codes.
        spread: whether the grid has columns, as of images; see `code_maps.code_map`.
        total: clips there are; `skipped`: those that could not be read, with the reason.
        sheet: all images as one JPEG, `SHEET_COLUMNS` a row.
        again: opens a clip once more, for a preview of that side and length; None before there are clips.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)
    health: CodebookHealth | None = None
    label_bits: list[float | None] = field(default_factory=list)
    spread: bool = False
    total: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    sheet: bytes = b""
    numbers: list[int] = field(default_factory=list)
    again: Callable[[int, int, float], Preview] | None = None

    @property
    def vectors_FD(self) -> Tensor:
        return torch.stack(self.vectors)


def look(model: Bridle, places: Sequence[Location], *, most: int = MOST) -> Seen:
    """At most that many clips, evenly spread over the data.

    Raises:
        DataError: the data do not exist, hold nothing or are of another modality.
    """
    opened, total = spread_sources(places, Modality(model.modality), most)
    failures, waiting = Failures(), deque[tuple[int, Source, Image.Image]]()
    seen = Seen(total=total, spread=2 in model.patcher.axes, skipped=failures.reasons)
    quantizer, pictures = model.config.quantizer, list[Image.Image]()
    if model.ready:
        seen.health = CodebookHealth(quantizer.levels, quantizer.codes)

    def sources() -> Iterator[Source]:
        for number, one in enumerate(opened):
            source, picture = _decoded(one(), model)
            if picture:
                waiting.append((number, source, picture))
            yield source

    for encoded in encode(model, sources(), _forward(model), failures=failures, batch_size=_BATCH):
        number, source, picture = waiting.popleft()
        while source is not encoded.source:  # could be decoded, but not cut
            number, source, picture = waiting.popleft()
        pictures.append(picture)
        seen.numbers.append(number)
        _take(seen, encoded, model)
        progress.report("progress", done=len(seen.paths) + len(failures.reasons), total=len(opened), what="clips")
    seen.sheet = _sheet(pictures)
    if seen.codes and len(set(seen.labels)) > 1 and all(seen.labels):
        truth = Truth.of([(label,) for label in seen.labels], multi=False)
        seen.label_bits = label_bits([codes.flatten(0, 2) for codes in seen.codes], truth, quantizer.codes)

    def again(clip: int, side: int, longest_s: float) -> Preview:
        source, _ = _decoded(opened[seen.numbers[clip]](), model)
        if not isinstance(source.data, Clip):
            raise MediaError("is no longer readable")
        return preview(source.data, side=side, longest_s=longest_s)

    seen.again = again
    return seen


def shown(labels: Sequence[str], count: int) -> list[int]:
    """Which clips to show: of every label in turn, evenly spread; the order is that of the labels."""
    of_label: dict[str, list[int]] = {}
    for clip, label in enumerate(labels):
        of_label.setdefault(label, []).append(clip)
    wanted = min(count, len(labels))
    names = sorted(of_label, key=lambda name: (name == "", name))
    if len(names) >= wanted:  # not the first ones alone
        names = [names[at * len(names) // wanted] for at in range(wanted)]
    taken = dict.fromkeys(names, 0)
    while sum(taken.values()) < wanted:
        for name in names:
            if taken[name] < len(of_label[name]) and sum(taken.values()) < wanted:
                taken[name] += 1
    return [of_label[name][at * len(of_label[name]) // taken[name]] for name in names for at in range(taken[name])]


def _decoded(source: Source, model: Bridle) -> tuple[Source, Image.Image | None]:
    """The source with its clip, or with the reason why there is none, and a small image."""
    patcher = model.patcher
    try:
        if isinstance(source.data, MediaError):
            return source, None
        source = fetched(source)
        info = info_of(source, modality_of(model), patcher)
        long = (info.duration_s or 0.0) > _LONGEST_S
        assert not isinstance(source.data, Clip)
        clip = decode(
            source.data,  # type: ignore[arg-type]
            info,
            source=source.path,
            rate_hz=patcher.rate_hz,
            window=(0.0, _LONGEST_S) if long else None,
            checked=source.checked,
            pixel_rules=patcher.pixel_rules,
        )
        return replace(source, data=clip), thumbnail(clip, SHEET_SIDE)
    except MediaError as error:
        return replace(source, data=error), None


def _forward(model: Bridle) -> Callable[[PatchBatch], tuple[Tensor, ...]]:
    def forward(batch: PatchBatch) -> tuple[Tensor, ...]:
        return (*model.features_and_class(batch), *(model.tokenize_detailed(batch) if model.ready else ()))

    return forward


def _take(seen: Seen, encoded: Encoded, model: Bridle) -> None:
    seen.paths.append(encoded.source.path)
    seen.labels.append("; ".join(encoded.source.labels))
    seen.vectors.append(pool_encoded(encoded, "mean", model))
    seen.times.append(encoded.times_T)
    if seen.health:
        codes_NQ, residual_NQ = encoded.outputs[2:]
        seen.health.add(codes_NQ, residual_NQ)
        seen.codes.append(codes_NQ.to(torch.int32).view(*encoded.grid, -1))


def _sheet(pictures: Sequence[Image.Image]) -> bytes:
    """All images as one, which takes a third of the room that they take one by one."""
    if not pictures:
        return b""
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * SHEET_SIDE, rows * SHEET_SIDE))
    for at, picture in enumerate(pictures):
        sheet.paste(picture, (at % SHEET_COLUMNS * SHEET_SIDE, at // SHEET_COLUMNS * SHEET_SIDE))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=70)
    return file.getvalue()
