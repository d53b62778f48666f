"""Pictures: torchvision for plain JPEG, Pillow for every other format and for odd ones.

Whatever comes in, RGB goes out (see `pixels.py`): upright, over white, 16 bits scaled to 8, palettes and CMYK
converted, the first frame of an animation.

Shapes: H, W, 3 channels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from bridle.errors import MediaError
from bridle.media import pixels
from bridle.schema import MediaInfo, Modality

# Pillow's format -> suffix. A list, because Pillow also claims MPEG streams, PDF and others as pictures.
_SUFFIX = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "DIB": "bmp", "GIF": "gif", "TIFF": "tif",
    "PPM": "ppm", "JPEG2000": "jp2", "AVIF": "avif",
}  # fmt: skip
_FORMATS = [name for name in _SUFFIX if name != "MPO"]  # the JPEG reader finds these by itself
_MAY_BE_GIANT = 400_000  # bytes: a JPEG takes one for every 85 pixels, at least
_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap height and width


def probe(raw: bytes) -> MediaInfo | None:
    """Format and upright size from the header; None when this is no picture Pillow knows."""
    picture = _open(raw)
    if picture is None:
        return None
    with picture:
        width, height = picture.size
        suffix = _SUFFIX[picture.format or ""]
        # Pillow decodes a whole PNG to look for EXIF behind the pixels.
        told = suffix in {"jpg", "tif", "webp", "avif"} or (suffix == "png" and b"eXIf" in raw)
        if told and picture.getexif().get(ExifTags.Base.Orientation) in _TURNED:
            width, height = height, width
        return MediaInfo(Modality.IMAGE, suffix, height=height, width=width, channels=len(picture.getbands()))


def measure(raw: bytes, info: MediaInfo) -> MediaInfo:
    """Decode with Pillow, which tells when a part is missing; torchvision would fill it with grey."""
    picture = _open(raw)
    assert picture is not None, "probed before"
    with picture:
        height, width = pixels.picture(picture).shape[:2]
    info = replace(info, height=height, width=width)
    if _for_torchvision(info):  # training reads it with this, so try it now
        decode(raw, info, height * width)
    return info


def decode(raw: bytes, info: MediaInfo, max_pixels: int) -> Tensor:
    """uint8 `(3, H, W)`."""
    if (info.height or 0) * (info.width or 0) > max_pixels:
        raise MediaError(f"{info.width}x{info.height} is larger than {max_pixels} pixels")
    if _for_torchvision(info):
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
        raise MediaError("no known image format inside")
    with picture:
        _refuse_large(picture, max_pixels)
        array_HW3 = pixels.picture(picture)
    return torch.from_numpy(array_HW3).permute(2, 0, 1)


def _refuse_large(picture: Image.Image, max_pixels: int) -> None:
    """By its own header, whatever the description says."""
    if picture.size[0] * picture.size[1] > max_pixels:
        raise MediaError(f"{picture.size[0]}x{picture.size[1]} is larger than {max_pixels} pixels")


def _for_torchvision(info: MediaInfo) -> bool:
    return info.suffix == "jpg" and info.channels in (1, 3)


def _open(raw: bytes) -> Image.Image | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corrupt EXIF, and sizes that are checked against our own limit
            return Image.open(io.BytesIO(raw), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise MediaError(str(error).split(",")[0]) from error
    except UnidentifiedImageError:
        return None
    except Exception as error:  # a picture by its first bytes, with a broken header
        raise MediaError(f"cannot be decoded: {error}") from error
