"""Bytes -> Clip: the only package that knows file formats.

probe(data, name, wanted)   header only              -> MediaInfo
check(data, name, wanted)   decodes every sample     -> MediaInfo with measured sizes (call it in a killable process)
levels(data, info)          the distribution of values in an image with more than 8 bits a channel
decode(data, info)          the whole clip or a window of it -> Clip
as_stored(data, info)       all channels of audio at their own rate, to be measured
clip_of(array, modality)    samples or pixels in memory -> Clip
preview(clip)               small files that a browser shows and plays
"""

from bridle.media.arrays import clip_of
from bridle.media.decode import AUDIO_HZ, as_stored, decode, decoded_bytes, decoded_rate_hz, levels, preload
from bridle.media.limits import MAX_BYTES, MAX_DECODED_BYTES, MAX_PIXELS
from bridle.media.preview import Preview, preview, thumbnail
from bridle.media.probe import SUFFIXES, check, detect, probe, read_bytes

__all__ = [
    "AUDIO_HZ",
    "MAX_BYTES",
    "MAX_DECODED_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Preview",
    "as_stored",
    "check",
    "clip_of",
    "decode",
    "decoded_bytes",
    "decoded_rate_hz",
    "detect",
    "levels",
    "preload",
    "preview",
    "probe",
    "read_bytes",
    "thumbnail",
]
