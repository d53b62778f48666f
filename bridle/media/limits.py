"""How large media may be: a few kilobytes can announce, or decode to, more than any memory holds."""

from __future__ import annotations

from bridle.errors import MediaError
from bridle.schema import MediaInfo, Modality

MAX_PIXELS = 64_000_000  # of one image or frame: 192 MB decoded; a 1.2 MB PNG can announce 168 megapixels
# Of FFmpeg: playlists and lists of files (`ffconcat`) would have it read other files, or ask a network for them.
ALONE = {"protocol_whitelist": "none"}  # as `container_options`: with `options` PyAV 15 crashes on MPEG-PS
MAX_BYTES = 2 * 1024**3  # a file is held in memory while it is decoded
MAX_DECODED_BYTES = 4 * 1024**3  # of one clip: 18 hours of audio at 16 kHz, 11 minutes of video at 256 x 256 and 30 Hz
MAX_CHANNELS = 64  # ambisonics of the seventh order
MIN_HZ, MAX_HZ = 100, 1_000_000  # of audio: below lies no hearing, above no microphone


def refuse_absurd(info: MediaInfo) -> None:
    """Refuse sizes that no real recording has; raises MediaError."""
    if info.height is not None and info.width is not None and info.height * info.width > MAX_PIXELS:
        raise MediaError(f"{info.width}x{info.height} is {info.height * info.width // 10**6} megapixels, too large")
    if info.modality is not Modality.AUDIO:
        return
    if info.channels is not None and info.channels > MAX_CHANNELS:
        raise MediaError(f"{info.channels} channels, the limit is {MAX_CHANNELS}")
    if info.rate_hz and not MIN_HZ <= info.rate_hz <= MAX_HZ:
        raise MediaError(f"a sampling rate of {info.rate_hz:.0f} Hz cannot be used, expected {MIN_HZ} to {MAX_HZ}")


def refuse_giant(decoded_bytes: float) -> None:
    """Refuse clips too large for memory; raises MediaError."""
    if decoded_bytes > MAX_DECODED_BYTES:
        gigabytes, limit = decoded_bytes / 1024**3, MAX_DECODED_BYTES / 1024**3
        raise MediaError(f"decodes to {gigabytes:.1f} GiB at once, the limit is {limit:g}; decode it in windows")
