"""Random access to the samples of some sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bridle import media
from bridle.archive import TarReader, parse_description
from bridle.errors import DataError, MediaError
from bridle.schema import AUDIO_HZ, Clip, MediaInfo, Modality
from bridle.stream.index import Index, ShardSet

_INFO = ("duration_s", "rate_hz", "channels", "frames", "height", "width", "decoder", "channel")


class SampleReader:
    """Reads by sample number, 0 to `len(reader) - 1`, in shard order.

    Args:
        manifests: the sets.
        rate_hz: at which audio is decoded.
        pixel_rules: by which images are decoded; see `media.decode`.
        channel: of audio that names none itself, from 1; None: the mean.

    Raises:
        DataError: when a tar does not match its manifest.
    """

    def __init__(
        self,
        manifests: Sequence[ShardSet],
        rate_hz: int = AUDIO_HZ,
        pixel_rules: Mapping[str, Any] | None = None,
        channel: int | None = None,
    ) -> None:
        self.index, self.rate_hz, self._pixel_rules, self._channel = Index(manifests), rate_hz, pixel_rules, channel
        self._tars = TarReader()

    def __len__(self) -> int:
        return len(self.index)

    def meta(self, sample: int) -> dict[str, Any]:
        """The JSON beside the media: path, label, suffix, duration and so on.

        Raises:
            MediaError: it is damaged.
        """
        return parse_description(self._tars.read(self.index.meta(sample)))

    def content(self, sample: int) -> bytes:
        """The media as stored.

        Raises:
            MediaError: it is not what was written.
        """
        return self._tars.read(self.index.media(sample))

    def clip(self, sample: int, meta: dict[str, Any], window: tuple[float, float] | None = None) -> Clip:
        """Decode a sample, or a window (start_s, length_s) of it.

        Raises:
            MediaError: it cannot be decoded.
        """
        return media.decode(
            self.content(sample),
            media_info({"channel": self._channel, **meta}),
            key=self.index.key(sample),
            source=meta["path"],
            rate_hz=self.rate_hz,
            window=window,
            checked=self.index.checked(sample),
            pixel_rules=self._pixel_rules,
        )


def media_info(meta: dict[str, Any]) -> MediaInfo:
    """What the sample's JSON says about its media."""
    return MediaInfo(Modality(meta["modality"]), meta["suffix"], **{name: meta.get(name) for name in _INFO})


def iterate(
    manifests: Sequence[ShardSet], failures: dict[str, str] | None = None
) -> Iterator[tuple[dict[str, Any], Clip]]:
    """Every sample once, whole, in shard order, with its JSON.

    Args:
        manifests: the sets.
        failures: filled with path -> reason of the samples that could not be decoded; they are skipped.

    Raises:
        DataError: a tar does not match its manifest, or no sample can be decoded.
    """
    reader = SampleReader(manifests)
    failures = {} if failures is None else failures
    came = 0
    for sample in range(len(reader)):
        path = reader.index.key(sample)
        try:
            meta = reader.meta(sample)
            path = meta["path"]
            clip = reader.clip(sample, meta)
        except MediaError as error:
            failures[path] = error.message
            continue
        came += 1
        yield meta, clip
    if len(reader) and not came:
        raise all_failed(failures)


def all_failed(failures: dict[str, str]) -> DataError:
    """None of the samples can be decoded."""
    path, why = next(iter(failures.items()))
    return DataError(f"none of {len(failures)} samples can be decoded; {path!r}: {why}", "Check the set: bridle shard.")
