"""Images: torchvision for plain JPEG, Pillow for every other format and for odd ones.

Whatever comes in, RGB goes out (see `pixels.py`): upright, over white, more than 8 bits scaled to 8, palettes and CMYK
converted, the first frame of an animation.

Shapes: H, W, 3 channels; C channels that were measured, L levels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from bridle.errors import MediaError
from bridle.media import pixels
from bridle.schema import MediaInfo, Modality

# Pillow's format -> suffix. A list, because Pillow also claims MPEG streams, PDF and others as images.
_SUFFIX = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "DIB": "bmp", "GIF": "gif", "TIFF": "tif",
    "PPM": "ppm", "JPEG2000": "jp2", "AVIF": "avif",
}  # fmt: skip
_FORMATS = [name for name in _SUFFIX if name != "MPO"]  # the JPEG reader finds these by itself
_MAY_BE_GIANT = 400_000  # bytes: a JPEG takes one for every 85 pixels, at least
_ICC = b"ICC_PROFILE\0"  # marks a piece of a profile in a JPEG
_XMP_TURN = b"tiff:Orientation"  # torchvision knows that of EXIF alone
_PILLOW = "pillow"  # `MediaInfo.decoder` of JPEG that torchvision reads differently
_BITS, _SAMPLE_FORMAT = 258, 339  # TIFF's tags
_WHOLE = {"range": (0.0, 1.0)}  # rules that read more than 8 bits a channel, as training may
_LARGEST_DIFFERENCE = 8.0  # of 255, in the mean colour of a 64th of the area
LEVELS = 500  # the first is the 0.1 % quantile, the last the 99.9 % quantile
_MOST_MEASURED = 1_000_000  # pixels of one image; their minimum and maximum are of all
_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap height and width


def probe(raw: bytes) -> MediaInfo | None:
    """Format and upright size from the header; None when this is no image Pillow knows."""
    picture = _open(raw)
    if picture is None:
        return None
    with picture:
        width, height = picture.size
        suffix = _SUFFIX[picture.format or ""]
        # Pillow decodes a whole PNG to look for EXIF behind the pixels.
        oriented = suffix in {"jpg", "tif", "webp", "avif"} or (suffix == "png" and b"eXIf" in raw)
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1) if oriented else 1
        if turn in _TURNED:
            width, height = height, width
        decoder = _PILLOW if suffix == "jpg" and turn != 1 and _XMP_TURN in raw else None
        bands = len(picture.getbands())
        return MediaInfo(Modality.IMAGE, suffix, height=height, width=width, channels=bands, decoder=decoder)


def measure(raw: bytes, info: MediaInfo) -> MediaInfo:
    """Decode with Pillow, which tells when a part is missing; torchvision would fill it with grey.

    Training reads JPEG with torchvision, so the two are compared; where they differ, `decoder` names Pillow.
    """
    picture = _open(raw)
    assert picture is not None, "probed before"
    with picture:
        array_HW3 = pixels.picture(picture, _WHOLE)
    height, width = array_HW3.shape[:2]
    info = replace(info, height=height, width=width, frames=_frames(raw) if info.suffix != "jpg" else None)
    if _for_torchvision(info, raw, None):
        found_HW3 = decode(raw, info, height * width).permute(1, 2, 0).numpy()
        if not np.array_equal(found_HW3, array_HW3) and _unlike(found_HW3, array_HW3):
            return replace(info, decoder=_PILLOW)
    return info


def _frames(raw: bytes) -> int | None:
    """How many pages or frames there are, of which the first is used; None: one."""
    with suppress(Exception), Image.open(io.BytesIO(raw), formats=_FORMATS) as picture:  # it may be damaged behind that
        return frames if (frames := getattr(picture, "n_frames", 1)) > 1 else None
    return None


def _unlike(*both_HW3: np.ndarray) -> bool:
    """Whether shapes differ, or somewhere the mean colours by more than rounding explains."""
    if both_HW3[0].shape != both_HW3[1].shape:
        return True
    one, other = (np.asarray(Image.fromarray(x).resize((8, 8), Image.Resampling.BOX), float) for x in both_HW3)
    return bool(np.abs(one - other).max() > _LARGEST_DIFFERENCE)


def levels(raw: bytes, info: MediaInfo) -> np.ndarray | None:
    """Smallest value, `LEVELS` evenly spread quantiles and largest value of an image with more than 8 bits a channel,
    `(C, L)` with C 1 or 3; None for other images.

    Raises:
        MediaError: a pixel is not a finite number, or it cannot be decoded.
    """
    if info.suffix == "jpg" or (picture := _open(raw)) is None:
        return None
    with picture:
        values = pixels.deep_values(picture)
    if values is None:
        return None
    values_CN = np.atleast_3d(values)[..., :3].reshape(-1, min(3, np.atleast_3d(values).shape[2])).T
    if not np.isfinite(values_CN).all():
        raise MediaError("holds pixels that are not finite numbers")
    some_CN = values_CN[:, :: values_CN.shape[1] // _MOST_MEASURED | 1]  # an odd step does not stay in some columns
    levels_CL = np.quantile(some_CN, (np.arange(LEVELS) + 0.5) / LEVELS, axis=1, method="nearest").T
    return np.hstack([values_CN.min(1, keepdims=True), levels_CL, values_CN.max(1, keepdims=True)])


def decode(raw: bytes, info: MediaInfo, max_pixels: int, rules: Mapping[str, Any] | None = None) -> Tensor:
    """uint8 `(3, H, W)`; `rules` as in `pixels.picture`."""
    if (info.height or 0) * (info.width or 0) > max_pixels:
        raise MediaError(f"{info.width}x{info.height} is larger than {max_pixels} pixels")
    if _for_torchvision(info, raw, rules):
        if len(raw) > _MAY_BE_GIANT and (picture := _open(raw)) is not None:
            with picture:
                _refuse_large(picture, max_pixels)
        import torchvision.io as vision  # a second to import, needed for this line only

        coded = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        try:
            return vision.decode_jpeg(coded, mode=vision.ImageReadMode.RGB, apply_exif_orientation=True)
        except RuntimeError:
            pass  # Pillow reads some more, and says why when it does not
    picture = _open(raw)
    if picture is None:
        raise MediaError("unknown image format")
    with picture:
        _refuse_large(picture, max_pixels)
        array_HW3 = pixels.picture(picture, rules)
    return torch.from_numpy(array_HW3).permute(2, 0, 1)


def _refuse_large(picture: Image.Image, max_pixels: int) -> None:
    """By its own header, whatever the description says."""
    if picture.size[0] * picture.size[1] > max_pixels:
        raise MediaError(f"{picture.size[0]}x{picture.size[1]} is larger than {max_pixels} pixels")


def _for_torchvision(info: MediaInfo, raw: bytes, rules: Mapping[str, Any] | None) -> bool:
    if info.suffix != "jpg" or info.channels not in (1, 3) or info.decoder == _PILLOW:
        return False
    if not (rules or {}).get("srgb") or _ICC not in raw or (picture := _open(raw)) is None:
        return True
    with picture:
        return pixels.to_srgb(picture.info.get("icc_profile")) is None


def _open(raw: bytes) -> Image.Image | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF, and sizes that are checked against our own limit
        try:
            return Image.open(io.BytesIO(raw), formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise MediaError(str(error).split(",")[0]) from error
        except UnidentifiedImageError:
            _refuse_tiff(raw)
            return None
        except Exception as error:  # an image by its first bytes, with a broken header
            raise MediaError(f"cannot be decoded: {error}") from error


def _refuse_tiff(raw: bytes) -> None:
    """Refuse a TIFF that Pillow cannot read, naming its layout; raises MediaError."""
    if not raw.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # the last two with offsets of 64 bits
        return
    tags, file = TiffImagePlugin.ImageFileDirectory_v2(raw[: 16 if b"+" in raw[:4] else 8]), io.BytesIO(raw)
    file.seek(tags.next)
    tags.load(file)
    bits, kind = tags.get(_BITS), {2: "signed ", 3: "float "}.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "")
    if bits is None:
        raise MediaError("is a damaged TIFF")
    raise MediaError(
        f"is a TIFF of {len(bits)} x {kind}{bits[0]} bits, which is not supported; convert it to one channel of 16 "
        "bits or float32, or RGB of 8 or 16 bits"
    )
