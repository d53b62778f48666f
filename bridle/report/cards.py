"""What the page shows of single clips: a card with preview, code maps and neighbours, and the map of all clips.

Shapes: F clips, D width, Q levels, K codes.
"""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass, field

from markupsafe import Markup
from torch import Tensor

from bridle.errors import BridleError
from bridle.model import Bridle
from bridle.report.charts import Dot, scatter
from bridle.report.clips import Seen, shown
from bridle.report.code_maps import as_png, code_map, code_ranks, palette
from bridle.report.maps import make_maps

NEIGHBOURS = 5
_KINDS = 40  # labels that get a colour and mark of their own
_BUDGET = 12_000_000  # characters of all previews
_LARGE, _SMALL = (160, 10.0), (80, 4.0)  # side and seconds of a card's preview, and of a neighbour's


@dataclass(slots=True)
class Media:
    """A preview as data URIs; "" for what there is not."""

    still: str = ""
    moving: str = ""
    sound: str = ""
    width: int = 0
    height: int = 0
    length_s: float | None = None


@dataclass(slots=True)
class Near:
    """A neighbour: `same` tells whether it has the label of the clip; None where one has none."""

    number: int
    path: str
    label: str
    cosine: float
    same: bool | None
    media: Media


@dataclass(slots=True)
class Card:
    """One clip. `maps`: for each level the image and how many codes are in it."""

    number: int
    path: str
    label: str
    media: Media
    grid: tuple[int, int, int]
    maps: list[tuple[str, int]] = field(default_factory=list)
    near: list[Near] = field(default_factory=list)


@dataclass(slots=True)
class Atlas:
    """The maps of all clips, and the legend: kind, label, clips."""

    maps: list[tuple[str, Markup]]
    keys: list[tuple[int, str, int]]
    unnamed: int  # clips whose label has no colour


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def make_cards(seen: Seen, model: Bridle, count: int, cosine_FR: Tensor, near_FR: Tensor) -> tuple[list[Card], bool]:
    """A card for each of `count` clips, and whether previews were left out because they were too many."""
    album = _Album(seen)
    colours = [palette(rank_K) for rank_K in code_ranks(model)] if seen.codes else []
    cards = []
    for clip in shown(seen.labels, count):
        media = album.show(clip, *_LARGE)
        card = Card(clip, seen.paths[clip], seen.labels[clip], media, (0, 0, 0))
        if seen.codes:
            codes_THWQ = seen.codes[clip]
            if media.sound and media.length_s:  # the map is of what is heard
                codes_THWQ = codes_THWQ[: max(1, sum(at < media.length_s for at in seen.times[clip]))]
            card.grid = (codes_THWQ.shape[0], codes_THWQ.shape[1], codes_THWQ.shape[2])
            for codes_THW, colours_K3 in zip(codes_THWQ.unbind(-1), colours, strict=True):
                picture = as_png(code_map(codes_THW, colours_K3, spread=seen.spread))
                card.maps.append((data_uri("image/png", picture), len(codes_THW.unique())))
        cards.append(card)
    for card in cards:  # after all cards: they are worth more than neighbours
        for cosine, other in zip(cosine_FR[card.number].tolist(), near_FR[card.number].tolist(), strict=True):
            label = seen.labels[other]
            same = label == card.label if label and card.label else None
            card.near.append(Near(other, seen.paths[other], label, cosine, same, album.show(other, *_SMALL)))
    return cards, album.full


class _Album:
    """Previews until the page is large enough."""

    def __init__(self, seen: Seen) -> None:
        self._seen, self._kept = seen, dict[tuple[int, int], Media]()
        self._room = _BUDGET
        self.full = False

    def show(self, clip: int, side: int, longest_s: float) -> Media:
        kept = self._kept.get((clip, side))
        if kept is None:
            kept = self._kept[clip, side] = self._open(clip, side, longest_s)
        if self._room <= 0:
            self.full = True
            return Media()
        stills = 2 * kept.still if kept.moving else kept.still  # print shows it alone
        self._room -= sum(map(len, (stills, kept.moving, kept.sound)))
        return kept

    def _open(self, clip: int, side: int, longest_s: float) -> Media:
        assert self._seen.again
        if self._room <= 0:
            return Media()
        try:
            found = self._seen.again(clip, side, longest_s)
        except (BridleError, OSError):  # it was there a moment ago
            return Media()
        still, moving, sound = (data_uri(*file) if file else "" for file in (found.still, found.moving, found.sound))
        return Media(still, moving, sound, found.width, found.height, found.length_s)


def make_atlas(seen: Seen) -> Atlas:
    """The clips as dots, coloured by label; the commonest labels have colours."""
    named = [label for label, _ in Counter(label for label in seen.labels if label).most_common(_KINDS)]
    kinds = {label: at for at, label in enumerate(sorted(named))}
    of_clip = [kinds.get(label, -1) for label in seen.labels]
    found = []
    for one in make_maps(seen.vectors_FD):
        dots = [
            Dot(float(x), float(y), kind, f"{path}\n{label}" if label else path, clip)
            for clip, ((x, y), kind, path, label) in enumerate(
                zip(one.places_F2, of_clip, seen.paths, seen.labels, strict=True)
            )
        ]
        found.append((one.name, scatter(one.name, dots, one.x_name, one.y_name)))
    count = Counter(of_clip)
    keys = [(kind, label, count[kind]) for label, kind in kinds.items()]
    return Atlas(found, keys, count[-1])
