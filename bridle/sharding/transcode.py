"""Smaller files for training: what `--transcode` stores instead of the bytes as they came."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import soundfile
from PIL import Image

from bridle import media
from bridle.errors import MediaError
from bridle.media.video import batches
from bridle.schema import MediaInfo, Modality

AUDIO_HZ = 16000
IMAGE_SIDE = 256  # pixels of the shorter side; smaller pictures are not enlarged
VIDEO_SIDE = 128
_JPEG_QUALITY = 90
_X264 = {"crf": "20", "preset": "veryfast", "threads": "1"}  # one thread: the same bytes on every machine


def transcode(raw: bytes, info: MediaInfo) -> tuple[MediaInfo, bytes]:
    """Audio to 16 kHz mono FLAC, images to JPEG of short side 256, video to H.264 of short side 128 without sound."""
    if info.modality is Modality.AUDIO:
        return _flac(raw, info)
    if info.modality is Modality.IMAGE:
        return _jpeg(raw, info)
    return _mp4(raw, info)


def _flac(raw: bytes, info: MediaInfo) -> tuple[MediaInfo, bytes]:
    wave_S = media.decode(raw, info, rate_hz=AUDIO_HZ).data.numpy()
    file = io.BytesIO()
    soundfile.write(file, wave_S.clip(-1, 1), AUDIO_HZ, format="FLAC", subtype="PCM_16")
    duration_s = len(wave_S) / AUDIO_HZ
    return replace(info, suffix="flac", duration_s=duration_s, rate_hz=float(AUDIO_HZ), channels=1), file.getvalue()


def _jpeg(raw: bytes, info: MediaInfo) -> tuple[MediaInfo, bytes]:
    data = media.decode(raw, info).data
    picture = Image.fromarray(data.permute(1, 2, 0).numpy())
    height, width = _shrunk(picture.height, picture.width, IMAGE_SIDE, even=False)
    file = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(file, "JPEG", quality=_JPEG_QUALITY)
    return replace(info, suffix="jpg", height=height, width=width, channels=3), file.getvalue()


def _mp4(raw: bytes, info: MediaInfo) -> tuple[MediaInfo, bytes]:
    assert info.height and info.width and info.rate_hz
    height, width = _shrunk(info.height, info.width, VIDEO_SIDE, even=True)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(info.rate_hz).limit_denominator(1001), options=_X264)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for batch_THW3, _ in batches(raw, None):
            for frame_HW3 in batch_THW3:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HW3), format="rgb24")
                container.mux(stream.encode(frame.reformat(width=width, height=height, interpolation="AREA")))
        container.mux(stream.encode())
    content = file.getvalue()
    after = media.check(content, "transcoded.mp4")
    if after.frames != info.frames:
        raise MediaError(f"came out with {after.frames} of {info.frames} frames")
    return after, content


def _shrunk(height: int, width: int, side: int, even: bool) -> tuple[int, int]:
    scale = min(1.0, side / min(height, width))
    step = 2 if even else 1  # H.264 stores colour for squares of 2 x 2
    return max(step, round(height * scale / step) * step), max(step, round(width * scale / step) * step)
