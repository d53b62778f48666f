"""The model returned by `bridle.load`, for files, arrays and lists of either.

    model = bridle.load("runs/voices")
    vector_D = model.embed("clip.wav")
    vectors_FD = model.embed(["one.wav", "two.wav"])
    codes = model.tokenize(samples, rate_hz=44100)

Shapes: F files, T, H, W grid of a file, D width, S segments.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from bridle.errors import BridleError, MediaError, UsageError
from bridle.infer.encode import BATCH_SIZE, Encoded, Failures, Forward, encode
from bridle.infer.pooling import SEGMENTS, Pool, check_pool, pool
from bridle.infer.tokenize import as_codes, require_codes
from bridle.inputs.sources import Source, check_modality
from bridle.media import clip_of
from bridle.model import Bridle
from bridle.schema import Clip, Codes, Modality, PatchBatch
from bridle.storage import locate

Media = str | os.PathLike[str] | Clip | np.ndarray | Tensor | Image
Several = list[Any] | tuple[Any, ...]  # of `Media`
_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class Pretrained:
    """A trained model that computes features, embeddings and codes of media of any length.

    Media are paths, decoded `Clip`s, or arrays: audio `(samples,)` or with channels, floats from -1 to 1 or integers;
    images uint8 `(height, width, 3)` or Pillow images; video uint8 `(frames, height, width, 3)`. Arrays of audio and
    video need `rate_hz`, samples or frames per second. Lists and tuples are computed in batches, which changes results
    only in the last digits. Long media are processed in windows. Results are on the CPU.

    Attributes:
        model: the network itself, in evaluation mode.
        dtype: of autocast for features, which are returned as float32. Codes are always computed in float32, since
            lower precision changes them.
        batch_size: windows per forward pass.
        workers: decoding threads.

    All methods raise MediaError for a file that cannot be read, DataError for one of another modality and UsageError
    for an invalid array.
    """

    model: Bridle
    dtype: torch.dtype = torch.float32
    batch_size: int = BATCH_SIZE
    workers: int = 0

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)

    @property
    def modality(self) -> Modality:
        return Modality(self.model.modality)

    @property
    def width(self) -> int:
        """D, the length of a feature."""
        return self.model.config.encoder.width

    @overload
    def features(self, media: Media, *, rate_hz: float | None = None) -> Tensor: ...
    @overload
    def features(self, media: Several, *, rate_hz: float | None = None) -> list[Tensor]: ...
    def features(self, media: Media | Several, *, rate_hz: float | None = None) -> Tensor | list[Tensor]:
        """Compute the features of every patch on its grid, `(T, H, W, D)`; for several files a list."""
        return self._each(media, rate_hz, self._features, lambda done: done.outputs[0].unflatten(0, done.grid))

    @overload
    def embed(self, media: Media, how: Pool = "mean", *, rate_hz: float | None = None) -> Tensor: ...
    @overload
    def embed(self, media: Several, how: Pool = "mean", *, rate_hz: float | None = None) -> Tensor: ...
    def embed(self, media: Media | Several, how: Pool = "mean", *, rate_hz: float | None = None) -> Tensor:
        """Compute one vector per file, `(D,)` or for segments `(S * D,)`; for several files one row each, `(F, D)`.

        Args:
            how: "mean" over patches, means of "segments" of time or space, or the "class" token.
        """
        check_pool(how)
        found = self._each(media, rate_hz, self._features, lambda done: pool_encoded(done, how, self.model))
        if isinstance(found, Tensor):
            return found
        return torch.stack(found) if found else torch.empty(0, self.width * (SEGMENTS if how == "segments" else 1))

    @overload
    def tokenize(self, media: Media, *, rate_hz: float | None = None) -> Codes: ...
    @overload
    def tokenize(self, media: Several, *, rate_hz: float | None = None) -> list[Codes]: ...
    def tokenize(self, media: Media | Several, *, rate_hz: float | None = None) -> Codes | list[Codes]:
        """Compute the discrete codes of every patch on its grid, with times; for several files a list."""
        require_codes(self.model)
        return self._each(
            media, rate_hz, lambda batch: (self.model.tokenize(batch),), lambda done: as_codes(done, self.model)
        )

    def _features(self, batch: PatchBatch) -> tuple[Tensor, ...]:
        with torch.autocast(batch.x_BNP.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model.features_and_class(batch)

    def _each(
        self, media: Media | Several, rate_hz: float | None, forward: Forward, finish: Callable[[Encoded], _Answer]
    ) -> _Answer | list[_Answer]:
        """What becomes of one file, or of each of several in their order."""
        several = isinstance(media, list | tuple)
        items: list[Media] = list(media) if several else [media]  # type: ignore[arg-type, list-item]
        names = [f"array {place}" for place in range(len(items))] if several else ["array"]
        sources = [self._source(item, rate_hz, name) for item, name in zip(items, names, strict=True)]
        failures = Failures()
        options: dict[str, Any] = {"batch_size": self.batch_size, "workers": self.workers}
        found = [finish(done) for done in encode(self.model, sources, forward, failures=failures, **options)]
        if failures.reasons:
            raise _unread(failures.reasons, len(sources))
        return found if several else found[0]

    def _source(self, media: Media, rate_hz: float | None, name: str) -> Source:
        if isinstance(media, str | os.PathLike):
            path = os.fsdecode(media)
            if not path or "\0" in path:
                raise UsageError(f"{path!r} is not a path: it {'holds a zero byte' if path else 'is empty'}")
            return Source(path, locate(path))
        if not isinstance(media, Clip):
            try:
                patcher = self.model.patcher
                media = clip_of(
                    media,
                    self.modality,
                    rate_hz,
                    name=name,
                    to_hz=patcher.rate_hz,
                    pixel_rules=patcher.pixel_rules,
                    channel=patcher.channel,
                )
            except BridleError:
                raise
            except Exception as error:  # images that are closed, tensors that are sparse or have no data
                why = str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
                raise UsageError(f"{name}: this {type(media).__name__} cannot be used: {why}") from error
        check_modality({media.modality}, self.modality, media.source or "the clip")
        return Source(media.source or media.key, media)


def _unread(reasons: dict[str, str], files: int) -> MediaError:
    """The first of the files that could not be read, and how many there are."""
    path, reason = next(iter(reasons.items()))
    more = f" (and {len(reasons) - 1} more of {files} files)" if len(reasons) > 1 else ""
    return MediaError(f"{path}: {reason}{more}")


def pool_encoded(encoded: Encoded, how: Pool, model: Bridle) -> Tensor:
    """The features of one whole file -> one vector; `class` is the mean class token of its windows."""
    if how == "class":
        return encoded.outputs[1].mean(0)
    if how == "mean":
        return encoded.outputs[0].float().mean(0)
    h_BND, coords_BN3 = encoded.outputs[0][None], encoded.coords_N3[None]
    valid_BN = coords_BN3.new_ones(coords_BN3.shape[:2]).bool()
    return pool(h_BND, valid_BN, coords_BN3, how, model.patcher.grid)[0]
