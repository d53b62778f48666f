"""What `bridle.load` returns: a trained model that takes paths.

    model = bridle.load("runs/voices")
    vector_D = model.embed("clip.wav")
    codes = model.tokenize("clip.wav")

Shapes: T, H, W grid of a file, D width, S segments.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bridle.errors import MediaError
from bridle.infer.encode import Encoded, Failures, Forward, encode
from bridle.infer.pooling import Pool, pool
from bridle.infer.sources import Source, check_modality
from bridle.infer.tokenize import as_codes, require_codes
from bridle.model import Bridle
from bridle.schema import Clip, Codes, Modality

Media = str | os.PathLike[str] | Clip


@dataclass(slots=True)
class Pretrained:
    """One file (or decoded clip) in, vectors or codes out; of any length, in windows.

    Attributes:
        model: the network itself, in evaluation mode.

    All methods raise MediaError for a file that cannot be read and DataError for one of another modality.
    """

    model: Bridle

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)

    @property
    def modality(self) -> Modality:
        return Modality(self.model.modality)

    def features(self, media: Media) -> Tensor:
        """The encoder's features of every patch on its grid, `(T, H, W, D)`."""
        encoded = self._encode(media, lambda batch: (self.model.features(batch),))
        return encoded.outputs[0].unflatten(0, encoded.grid)

    def embed(self, media: Media, how: Pool = "mean") -> Tensor:
        """One vector: the mean over patches `(D,)`, over segments of time or space, `(S * D,)`, or the class token."""
        encoded = self._encode(media, self.model.features_and_class)
        return pool_encoded(encoded, how, self.model)

    def tokenize(self, media: Media) -> Codes:
        """Discrete codes of every patch on its grid, with times."""
        require_codes(self.model)
        return as_codes(self._encode(media, lambda batch: (self.model.tokenize(batch),)), self.model)

    def _encode(self, media: Media, forward: Forward) -> Encoded:
        if isinstance(media, Clip):
            check_modality({media.modality}, self.modality, media.source or "the clip")
            source = Source(media.source or media.key, media)
        else:
            source = Source(os.fspath(media), Path(media))
        failures = Failures()
        encoded = next(encode(self.model, [source], forward, failures=failures), None)
        if encoded is None:
            raise MediaError(f"{source.path}: {failures.reasons[source.path]}")
        return encoded


def pool_encoded(encoded: Encoded, how: Pool, model: Bridle) -> Tensor:
    """The features of one whole file -> one vector; `class` is the mean class token of its windows."""
    if how == "class":
        return encoded.outputs[1].mean(0)
    if how == "mean":
        return encoded.outputs[0].float().mean(0)
    h_BND, coords_BN3 = encoded.outputs[0][None], encoded.coords_N3[None]
    valid_BN = coords_BN3.new_ones(coords_BN3.shape[:2]).bool()
    return pool(h_BND, valid_BN, coords_BN3, how, model.patcher.grid)[0]
