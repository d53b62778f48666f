"""Images and frames as they are meant to be seen -> uint8 RGB: upright, over white, on an even clock.

The decoders here follow these rules, and exports carry a copy of this file for whoever has no BRIDLE. So it imports
nothing of this library, and Pillow and PyAV only where they are needed.

    media = pixels.picture("photo.png", rules)    # or a Pillow image; `rules` are those of the model
    media = pixels.video("clip.mp4")

Shapes: H, W, 3 channels; T frames, as many on the clock as in the file.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

_ORIENTATION, _BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 274, 258, 262, 284, 339  # tags of EXIF and TIFF
_ATTACHED_PIC = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
_BT601 = 5  # matrix coefficients, and ...
_PQ, _HLG = 16, 18  # ... transfer characteristics in ITU-T H.273
_WHITE, _PEAK, _KNEE = 203.0, 1000.0, 0.3  # cd/m2 of diffuse white and of what becomes white; where compression begins
_BT709_OF_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LONGEST_S, _FASTEST_HZ = 1e8, 1e4  # beyond these the times are damaged
_ALIKE = 3  # levels of 256 by which profiles of sRGB differ from each other


def picture(image: Any, rules: Mapping[str, Any] | None) -> np.ndarray:
    """uint8 `(H, W, 3)` of a path or a Pillow image: turned by EXIF, transparency over white, the first frame.

    Args:
        rules: how the model's training images were read (the corpus statistics' `pixel_rules`). `srgb`: colours are
            converted to sRGB by the image's ICC profile. `range`: the values of images with more than 8 bits a channel
            that become black and white. None: profiles are ignored, integers of more than 8 bits run to 65535 and
            floats to 1, 255 or 65535.

    Raises:
        ValueError: a pixel is no finite number.
    """
    from PIL import Image, ImageOps

    if isinstance(image, str | os.PathLike):
        with Image.open(image) as file:
            return picture(file, rules)
    rules = rules or {}
    known = rules.get("range") or ((0, 65535) if _in_planes(image) else None)
    if known and (values := deep_values(image)) is not None:
        layer = Image.fromarray(_ranged(values, *known))
    else:
        image = ImageOps.exif_transpose(image)
        if _is_deep(image):
            image = Image.fromarray(_scaled(np.asarray(image)))
        see_through = image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info
        layer = image.convert("RGBA" if see_through else "RGB")
        layer = _in_srgb(image, layer) if rules.get("srgb") else layer
    if layer.mode == "RGBA":
        layer = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(layer.convert("RGB"))


def deep_values(image: Any) -> np.ndarray | None:
    """Values of an image with more than 8 bits a channel, turned by EXIF: `(H, W)`, or uint16 `(H, W, 3 or 4)` of a
    colour image that is not loaded yet (Pillow keeps 8 bits of these); None for other images.

    Raises:
        ValueError: 16 bits in a form that neither Pillow nor PyAV reads.
    """
    from PIL import Image, ImageOps

    tags = getattr(image, "tag_v2", {})
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if _is_deep(image) or (image.mode == "L" and signed):
        values_HW = np.asarray(ImageOps.exif_transpose(image))
        if values_HW.dtype == np.uint8 or (values_HW.dtype == np.int32 and _BITS in tags and not signed):
            values_HW = values_HW.view("i1" if signed else "u4")  # Pillow takes these for the opposite
        inverted = values_HW.dtype == np.uint16 and tags.get(_PHOTOMETRIC) == 0  # 0 is white
        return 65535 - values_HW if inverted else values_HW
    found = re.search(r"(\w+);16", str(getattr(image, "tile", [])))  # of the file; Pillow's own has 8 bits
    layout = found[1] if found else image.mode if _in_planes(image) else None
    if layout is None:
        return None
    if layout not in {"RGB", "RGBA", "RGBX", "LA"}:
        raise ValueError(f"16 bits a channel in {layout} are not supported; convert it to RGB")
    at = image.fp.tell()
    image.fp.seek(0)
    content = io.BytesIO(image.fp.read())
    image.fp.seek(at)
    with import_module("av").open(content) as container:
        frame = next(container.decode(video=0))
    values_XC = frame.to_ndarray(format="rgba64le").reshape(-1, 4)  # alpha 65535 where there is none
    place = Image.fromarray(np.arange(len(values_XC), dtype=np.int32).reshape(frame.height, frame.width))
    place.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return values_XC[np.asarray(ImageOps.exif_transpose(place))][..., : 4 if "A" in layout else 3]


def _in_planes(image: Any) -> bool:
    """A TIFF of 16 bits in planes, one a colour, without compression: Pillow takes their bytes for 8 bits."""
    tags = getattr(image, "tag_v2", {})
    planes = tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) == 16
    return planes and any(tile[0] == "raw" for tile in image.tile)


def _is_deep(image: Any) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _ranged(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """From `low`, black, to `high`, white, as uint8; an alpha channel runs to 65535."""
    if not np.isfinite(values).all():
        raise ValueError("holds pixels that are not finite numbers")
    share = (values.astype(np.float64) - low) / (high - low)
    if values.shape[2:] == (4,):
        share[..., 3] = values[..., 3] / 65535.0
    return (share * 255).round().clip(0, 255).astype(np.uint8)


@lru_cache(8)
def to_srgb(profile: bytes | None) -> tuple[str, Any] | None:
    """The mode of images that an ICC profile is for, and the transform of their colours to sRGB; None where there is
    nothing to convert: sRGB itself, or a profile that cannot be read."""
    from PIL import Image, ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        mode = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[opened.profile.xcolor_space]
        transform: Any = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        shades = np.array([0, 10, 30, 80, 160, 255], np.uint8)[np.indices((6, 6, 6))]
        colours = Image.fromarray(shades.reshape(3, 6, 36).transpose(1, 2, 0).copy()).convert(mode)
        converted: Any = ImageCms.applyTransform(colours, transform)
        moved = np.asarray(converted, int) - np.asarray(colours.convert("RGB"))  # names lie: "sRGB" may be linear
        return (mode, transform) if np.abs(moved).max() > _ALIKE else None
    except (OSError, KeyError, ImageCms.PyCMSError):
        return None


def _in_srgb(image: Any, layer: Any) -> Any:
    """`layer`, the RGB or RGBA form of an image, in sRGB; a profile for other channels is ignored, as browsers do."""
    from PIL import ImageCms

    found, grey = to_srgb(image.info.get("icc_profile")), image.mode in {"1", "L", "LA", "La"}
    if not found or (found[0] == "CMYK") != (image.mode == "CMYK") or (found[0] == "L" and not grey):
        return layer
    mode, transform = found
    colours: Any = ImageCms.applyTransform((layer if mode == "RGB" else image).convert(mode), transform)
    if layer.mode == "RGBA":
        colours.putalpha(layer.getchannel("A"))
    return colours


def _scaled(array_HW: np.ndarray) -> np.ndarray:
    """Integers are 16 bits wide; floats run to 1, 255 or 65535, whichever holds their largest value."""
    values_HW = array_HW.astype(np.float64)
    if not np.isfinite(values_HW).all():
        raise ValueError("holds pixels that are not finite numbers")
    peak = values_HW.max(initial=0.0)
    top = 65535.0 if array_HW.dtype.kind in "iu" or peak > 255 else 255.0 if peak > 1 else 1.0
    return (values_HW * (255.0 / top)).round().clip(0, 255).astype(np.uint8)


def video(path: str | os.PathLike[str]) -> np.ndarray:
    """uint8 `(T, H, W, 3)`: all frames of a file as a player shows them, on an even clock.

    Raises:
        ValueError: it holds no video stream.
    """
    av = import_module("av")  # transformers would ask for it before it opens an image, if this were an import
    frames, times = [], []
    alone = {"protocol_whitelist": "file"}  # a playlist may name addresses
    with av.open(os.fspath(path), container_options=alone) as container:
        stream = next((one for one in container.streams.video if not is_cover(one)), None)
        if stream is None:
            raise ValueError(f"{path} holds no video stream")
        fps, (width, height) = announced_fps(stream), shown_size(stream)
        timed, hdr, scaler = has_times(container, stream), hdr_of(stream), av.video.reformatter.VideoReformatter()
        for frame in container.decode(stream):
            frames.append(upright(frame, width, height, scaler, hdr))
            times.append(frame.time if timed and frame.time is not None else np.nan)
    if not frames:
        raise ValueError(f"{path} holds no frames")
    _, shown_T = even_clock(np.array(times), fps)
    return np.stack([frames[number] for number in shown_T])


def shown_size(stream: Any) -> tuple[int, int]:
    """Width and height of the frames with square pixels, before they are turned: as players do, the height is kept."""
    return max(1, round(stream.width * (stream.sample_aspect_ratio or 1))), stream.height


def upright(frame: Any, width: int, height: int, scaler: Any, hdr: int = 0) -> np.ndarray:
    """uint8 `(H, W, 3)` of PyAV's, scaled to this size, HDR brought to SDR, and turned by the display matrix.

    `scaler` is a VideoReformatter; one for all frames saves four fifths of the time of small ones. `hdr` as `hdr_of`.
    """
    # PyAV 15 converts by the matrix and range of the frame only if they are named, and another matrix as the target.
    colours = {"src_colorspace": frame.colorspace, "src_color_range": frame.color_range, "dst_colorspace": _BT601}
    image_HW3 = scaler.reformat(frame, width, height, "rgb48le" if hdr else "rgb24", **colours).to_ndarray()
    if hdr:
        image_HW3 = _sdr(image_HW3, hdr)
    turns = round(frame.rotation / 90)
    if _is_mirrored(frame):  # which the angle leaves out
        image_HW3, turns = image_HW3[:, ::-1], turns + 2
    return np.ascontiguousarray(np.rot90(image_HW3, turns))


def _is_mirrored(frame: Any) -> bool:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside it is something that PyAV has no name for, as in stereo films
        return False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix else (1, 0, 0, 0, 1)
    return bool(a * d < b * c)


def hdr_of(stream: Any) -> int:
    """The transfer function of a stream of BT.2100; 0 for others."""
    transfer = stream.codec_context.color_trc
    return transfer if transfer in {_PQ, _HLG} else 0


def _sdr(code_HW3: np.ndarray, transfer: int) -> np.ndarray:
    """BT.2100 of 16 bits (PQ or HLG, BT.2020 primaries) -> uint8 BT.709 for a display with a gamma of 2.4.

    Light is counted in units of diffuse white (203 cd/m2, ITU-R BT.2408). What is darker than `_KNEE` keeps its light,
    brighter is compressed so that 1000 cd/m2 become white.
    """
    x_HW3 = code_HW3.astype(np.float32) / 65535
    if transfer == _PQ:
        root_HW3 = x_HW3 ** (32 / 2523)
        light_HW3 = np.maximum(root_HW3 - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root_HW3)
        light_HW3 = light_HW3 ** (8192 / 1305) * (10000 / _WHITE)
    else:
        scene_HW3 = np.where(x_HW3 <= 0.5, x_HW3**2 / 3, (np.exp((x_HW3 - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        luma_HW1 = scene_HW3 @ np.array([[0.2627], [0.6780], [0.0593]], np.float32)
        light_HW3 = scene_HW3 * luma_HW1**0.2 * (_PEAK / _WHITE)
    light_HW3 = np.maximum(light_HW3 @ _BT709_OF_BT2020.T, 0)
    peak_HW1 = light_HW3.max(-1, keepdims=True)
    over_HW1 = np.maximum(peak_HW1 - _KNEE, 0)
    range_in, range_out = _PEAK / _WHITE - _KNEE, 1 - _KNEE
    mapped_HW1 = np.minimum(peak_HW1, _KNEE) + over_HW1 / (1 + over_HW1 * (1 / range_out - 1 / range_in))
    light_HW3 *= mapped_HW1 / np.maximum(peak_HW1, 1e-9)
    return (255 * np.minimum(light_HW3, 1) ** (1 / 2.4)).round().astype(np.uint8)


def is_cover(stream: Any) -> bool:
    """Cover art in an audio file is a video stream of one image."""
    return bool(stream.disposition.value & _ATTACHED_PIC)


def announced_fps(stream: Any) -> float:
    """The rate that the file announces."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def has_times(container: Any, stream: Any) -> bool:
    """AVI and bare streams keep the order of decoding only: FFmpeg's stamps are wrong where the two orders differ."""
    return not (container.format.name in {"avi", "mpegvideo"} and stream.codec_context.has_b_frames)


def even_clock(times_T: np.ndarray, header_fps: float) -> tuple[float, np.ndarray]:
    """The rate of the clock, and the number of the frame on the screen at each of its ticks.

    Clips are tensors with one rate. Phones and screen recorders write frames when there is something to show: at the
    mean rate of the file, a tick shows the frame that was on the screen in the middle of the tick, so slow parts
    repeat frames and fast parts leave some out.

    Args:
        times_T: when each frame appears in seconds, in the order of showing; not finite or falling: not known.
        header_fps: the rate the file announces, taken as it is when the frames keep it.
    """
    ticks_T = np.arange(len(times_T))
    times_T = np.asarray(times_T, np.float64)
    if len(times_T) < 2 or not (np.abs(times_T) < _LONGEST_S).all() or (np.diff(times_T) < 0).any():
        return header_fps, ticks_T
    times_T = times_T - times_T[0]
    if np.abs(times_T * header_fps - ticks_T).max() < 0.5:
        return header_fps, ticks_T
    fps = (len(times_T) - 1) / max(times_T[-1], 1e-9)
    if fps > _FASTEST_HZ:
        return header_fps, ticks_T
    return float(fps), np.searchsorted(times_T * fps, ticks_T + 0.5, side="right") - 1
