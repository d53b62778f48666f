"""Images that mean what their file says: depth, range, colours, pages, orientation; right values worked out by hand."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import preprocessing
from PIL import Image, ImageSequence
from standins import PATCHES, SMALL, STATISTICS, small_recipe

from bridle import api, media
from bridle.archive import Manifest, merge_statistics, read_manifest
from bridle.archive.manifest import parse_manifest
from bridle.config.sections import Config
from bridle.decoding.server import moments_of
from bridle.errors import DataError, MediaError, UsageError
from bridle.export.standalone import preprocess
from bridle.media import pixels
from bridle.model import Bridle
from bridle.patches.image import ImagePatcher
from bridle.patches.statistics import summarise
from bridle.schema import Clip, Modality
from bridle.sharding import Options, shard
from bridle.sharding.notices import notices, notices_together
from bridle.stream import SampleReader
from bridle_cli.main import main

SRGB = {"srgb": True}


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes, rules: dict[str, Any] | None = None) -> np.ndarray:
    """uint8 (H, W, 3), as a model with these rules sees a file nobody has looked at."""
    return media.decode(content, media.probe(content, "x"), pixel_rules=rules).data.permute(1, 2, 0).numpy()


def png16(values_HWC: np.ndarray, colour: int, head: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values_HWC.shape[:2]
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    return b"\x89PNG\r\n\x1a\n" + size + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, photometric: int, more: dict[int, tuple[str, list[int]]] | None = None) -> bytes:
    """An uncompressed TIFF of any number of channels."""
    height, width, channels = values.shape
    bits, kind = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    body, extra = values.astype(values.dtype.newbyteorder("<")).tobytes(), b""
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * channels), 259: ("H", [1]),
        262: ("H", [photometric]), 273: ("I", [8]), 277: ("H", [channels]), 278: ("I", [height]),
        279: ("I", [len(body)]), 339: ("H", [kind] * channels), **(more or {}),
    }  # fmt: skip
    at = 8 + len(body) + 2 + 12 * len(tags) + 4
    rows = b""
    for tag, (code, numbers) in sorted(tags.items()):
        content = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if len(content) > 4:
            content, extra = struct.pack("<I", at + len(extra)), extra + content
        rows += struct.pack("<HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + content.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + rows + bytes(4) + extra


# Red, green and blue of a colour space as seen under D50, and the power of its curve.
ADOBE_RGB = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]], 563 / 256
DISPLAY_P3 = [[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]], 563 / 256
_SRGB_D50 = np.array([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]])
LINEAR = _SRGB_D50.tolist(), 1.0


def profile(space: tuple[list[list[float]], float] | float, name: str) -> bytes:
    """An ICC profile of version 2: of a matrix and a curve, or the curve of a grey one."""

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))

    grey = isinstance(space, float)
    rows, gamma = ([], space) if isinstance(space, float) else space
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = name.encode() + b"\0"
    said = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": said + bytes(-len(said) % 4), b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    tags |= {b"kTRC": curve} if grey else {f"{c}TRC".encode(): curve for c in "rgb"}
    tags |= {f"{c}XYZ".encode(): xyz(*row) for c, row in zip("rgb", rows, strict=False)}
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(128 - len(head) - 16)
    head = head[:68] + struct.pack(">3i", 63190, 65536, 54061) + head[80:]
    return head + struct.pack(">I", len(tags)) + table + body


def by_hand(colour: tuple[int, int, int], space: tuple[list[list[float]], float]) -> np.ndarray:
    """That colour in sRGB: curve, matrix to XYZ, inverse matrix of sRGB, curve of sRGB."""
    linear = (np.array(colour) / 255) ** space[1] @ np.array(space[0]) @ np.linalg.inv(_SRGB_D50)
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# --- more than 8 bits ---------------------------------------------------------------------------------------------


def ramp(low: float, high: float, dtype: type) -> np.ndarray:
    return np.linspace(low, high, 64 * 48).reshape(48, 64).round(6).astype(dtype)


def measured(*contents: bytes, pixel_range: tuple[float, float] | None = None) -> dict[str, Any]:
    """The statistics of a set of these files."""
    moments = [moments_of(content, media.check(content, "x"), None) for content in contents]
    return summarise(moments, Modality.IMAGE, pixel_range)


def a_set(statistics: dict[str, Any], **extent: list[float]) -> Manifest:
    return Manifest("set", Modality.IMAGE, [], 2, 0, statistics=statistics, extent={"short_side": [1, 1, 1], **extent})


DEEP: dict[str, tuple[np.ndarray, list[float]]] = {  # what a corpus holds, and the range that it uses
    "12 bits in 16, PNG": (ramp(0, 4095, np.uint16), [0, 4095]),
    "12 bits in 16, TIFF": (ramp(0, 4095, np.uint16), [0, 4095]),
    "Hounsfield units, int32 TIFF": (ramp(-1000, 3000, np.int32), [-1000, 3000]),
    "NDVI, float TIFF": (ramp(-1, 1, np.float32), [-1, 1]),
}


@pytest.mark.parametrize("kind", DEEP)
def test_images_of_a_set_are_scaled_by_the_range_that_the_set_uses(kind: str) -> None:
    values, (low, high) = DEEP[kind]
    half = np.where(values > np.median(values), values.flat[0], values)  # its own peak is half
    contents = [stored(Image.fromarray(x), "PNG" if "PNG" in kind else "TIFF") for x in (values, half)]
    statistics = measured(*contents)
    assert statistics["pixel_rules"] == {"srgb": True, "range": [low, high]}
    wanted = [np.round((x.astype(float) - low) / (high - low) * 255) for x in (values, half)]
    assert len(np.unique(wanted[0])) == 256
    for content, shades in zip(contents, wanted, strict=True):
        assert np.array_equal(opened(content, statistics["pixel_rules"]), np.stack([shades] * 3, -1))
    assert statistics["pixel_mean"] == pytest.approx([np.mean(wanted) / 255] * 3, abs=2e-3)
    assert statistics["pixel_std"] == pytest.approx([np.std(wanted) / 255] * 3, abs=2e-3)
    assert notices(a_set(statistics)) == []


def test_models_of_older_sets_read_deep_images_as_they_did() -> None:
    assert np.unique(opened(stored(Image.fromarray(ramp(0, 4095, np.uint16)), "PNG"))).tolist() == list(range(17))
    floats = opened(stored(Image.fromarray(ramp(-1, 1, np.float32)), "TIFF"))
    assert (floats[:24] == 0).all() and floats[-1, -1, 0] == 255
    colours = np.full((2, 2, 3), [1000, 40000, 65535], np.uint16)
    assert opened(png16(colours, 2))[0, 0].tolist() == [1000 >> 8, 40000 >> 8, 255]


@pytest.mark.parametrize("rules", [None, SRGB, {"srgb": True, "range": [0, 4095]}])
def test_the_range_leaves_images_of_8_bits_alone(rules: dict[str, Any] | None) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(opened(stored(Image.fromarray(grey), "PNG"), rules)[..., 0], grey)


def test_the_measured_range_leaves_out_outliers_but_not_all_rare_values() -> None:
    noise = np.random.default_rng(0).integers(100, 1100, (4, 64, 64)).astype(np.uint16)
    noise[:, 0, 0] = 65535  # a hot pixel
    low, high = measured(*(stored(Image.fromarray(x), "PNG") for x in noise))["pixel_rules"]["range"]
    assert low == pytest.approx(100, abs=3) and high == pytest.approx(1099, abs=3)
    noise[0] = 100
    noise[0, :10, :10] = 4000  # a thousandth is .1 % of all four
    high = measured(*(stored(Image.fromarray(x), "PNG") for x in noise))["pixel_rules"]["range"][1]
    assert high == 4000


def test_a_range_that_is_given_counts() -> None:
    statistics = measured(stored(Image.fromarray(ramp(0, 4095, np.uint16)), "PNG"), pixel_range=(1000, 2000))
    assert statistics["pixel_rules"]["range"] == [1000, 2000]
    assert "75.6 % of these are outside" in notices(a_set(statistics))[0]


def test_notices_tell_of_sets_whose_images_disagree() -> None:
    mixed = [stored(Image.fromarray(ramp(0, 65535 if n % 2 else 255, np.uint16)), "PNG") for n in range(8)]
    told = notices(a_set(measured(*mixed)))
    assert "4 of 8 images use less than a twentieth of the range 0 to 65535" in told[-1]
    index = ramp(0, 1, np.float32)
    index[:2] = -9999  # a 24th of the values
    told = notices(a_set(measured(stored(Image.fromarray(index), "TIFF"))))
    assert "range -9999 to 1, as when a value stands for missing data" in told[-1]
    assert notices(a_set(measured(stored(Image.new("L", (8, 8)), "PNG")))) == []


def test_several_sets_share_the_widest_range() -> None:
    """Of one image each: values 0 to 1000 are the darkest quarter of 0 to 4000."""
    sets = [a_set(measured(stored(Image.fromarray(ramp(0, high, np.uint16)), "PNG"))) for high in (4000, 1000)]
    merged = merge_statistics(sets)
    assert merged["pixel_rules"] == {"srgb": True, "range": [0, 4000]}
    assert merged["pixel_mean"] == pytest.approx([(1 / 2 + 1 / 8) / 2] * 3, abs=2e-3)
    square = (1 / 3 + 1 / 48) / 2  # of a ramp from 0 to x: x^2 / 3
    assert merged["pixel_std"] == pytest.approx([math.sqrt(square - (5 / 16) ** 2)] * 3, abs=2e-3)
    (notice,) = notices_together(sets, Config.model_validate({"patches": {"modality": "image"}}))
    assert "25 % of the range 0 to 4000 that the sets share" in notice
    del sets[0].statistics["pixel_rules"]
    with pytest.raises(DataError, match="sharded by an older BRIDLE"):
        merge_statistics(sets)
    del sets[1].statistics["pixel_rules"]
    assert "pixel_rules" not in merge_statistics(sets)


COLOURS = np.random.default_rng(0).integers(0, 4096, (5, 7, 4)).astype(np.uint16)


def in_planes(values: np.ndarray) -> bytes:
    """A TIFF with all of one colour before the next, as GDAL writes them."""
    planes, size = np.moveaxis(values, -1, 0), values.nbytes // values.shape[2]
    places = {273: ("I", [8 + size * n for n in range(len(planes))]), 279: ("I", [size] * len(planes))}
    return tiff(planes.reshape(values.shape), 2, {284: ("H", [2]), **places})


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (png16(COLOURS[..., :3], 2), COLOURS[..., :3]),
        (tiff(COLOURS[..., :3], 2), COLOURS[..., :3]),
        (tiff(COLOURS, 2, {338: ("H", [0])}), COLOURS[..., :3]),
        (in_planes(COLOURS[..., :3]), COLOURS[..., :3]),
        (png16(COLOURS[..., :1], 0), COLOURS[..., [0, 0, 0]]),
        (png16(np.dstack([COLOURS[..., :3], np.full((5, 7), 65535)]), 6), COLOURS[..., :3]),
        (png16(np.dstack([COLOURS[..., 0], np.full((5, 7), 65535)]), 4), COLOURS[..., [0, 0, 0]]),
        (
            png16(np.dstack([0 * COLOURS[..., :3], np.full((5, 7), 13107)]), 6),
            np.full((5, 7, 3), 3276),
        ),  # a fifth, over white
    ],
    ids=["RGB PNG", "RGB TIFF", "RGB and infrared TIFF", "planes", "grey PNG", "RGBA PNG", "LA PNG", "transparent PNG"],
)
def test_colour_images_of_16_bits_keep_them(content: bytes, values: np.ndarray) -> None:
    wanted = np.round(values / 4095 * 255)
    assert np.array_equal(opened(content, {"range": [0, 4095]}), wanted)
    assert media.levels(content, media.probe(content, "x")).shape == (3 if content[25:26] != b"\0" else 1, 502)


def test_16_bits_in_planes_are_no_noise_to_models_without_a_range() -> None:
    found = opened(in_planes(COLOURS[..., :3]), SRGB)
    assert np.array_equal(found, np.round(COLOURS[..., :3] / 257))


@pytest.mark.parametrize(("low", "high", "dtype"), [(-100, 100, np.int8), (0, 2**32 - 1, np.uint32)])
def test_signs_of_tiff_are_those_that_the_file_states(low: int, high: int, dtype: type) -> None:
    values = np.linspace(low, high, 48 * 64).round().astype(dtype).reshape(48, 64, 1)
    content = tiff(values, 1)
    assert measured(content)["pixel_rules"]["range"] == [low, high]
    wanted = np.round((values.astype(float) - low) / (high - low) * 255)
    assert np.array_equal(opened(content, {"range": [low, high]}), wanted.repeat(3, 2))


def test_a_tiff_whose_zero_is_white_is_inverted() -> None:
    content = tiff(COLOURS[..., :1], 0)
    range_ = measured(content)["pixel_rules"]["range"]
    assert range_ == [65535 - COLOURS[..., 0].max(), 65535 - COLOURS[..., 0].min()]
    shades = opened(content, {"range": range_})[..., 0].astype(int)
    assert (shades.ravel()[COLOURS[..., 0].ravel().argsort()] == sorted(shades.ravel(), reverse=True)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colour_images_of_16_bits_are_turned(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    deep = opened(png16(COLOURS[..., :3], 2, chunk), {"range": [0, 4095]})
    small = Image.fromarray(np.round(COLOURS[..., :3] / 4095 * 255).astype(np.uint8))
    assert np.array_equal(deep, opened(stored(small, "PNG", exif=exif)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(COLOURS, 5), "16 bits a channel in CMYK are not supported"),
        (
            tiff(np.dstack([COLOURS, COLOURS[..., :1]]).astype(np.uint8), 1, {338: ("H", [0] * 4)}),
            "5 x 8 bits, which is not supported",
        ),
        (tiff(COLOURS[..., :3].astype(np.float32), 2), "3 x float 32 bits"),
        (tiff(COLOURS[..., :1].astype(np.float64), 1), "1 x float 64 bits"),
        (tiff(COLOURS, 2, {338: ("H", [0])})[:90], "damaged TIFF"),
        (stored(Image.fromarray(np.array([[0.5, np.nan]], np.float32)), "TIFF"), "not finite"),
    ],
    ids=["CMYK", "5 channels", "float RGB", "float64", "damaged", "NaN"],
)
def test_images_that_cannot_be_represented_are_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        media.check(content, "x.tif")


# --- colours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("space", "name"), [(ADOBE_RGB, "Adobe RGB (1998)"), (DISPLAY_P3, "Display P3"), (LINEAR, "sRGB, linear")]
)
def test_colours_are_converted_from_the_profile_to_srgb(kind: str, space: Any, name: str) -> None:
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    for colour in ((200, 60, 60), (40, 160, 90), (128, 128, 128), (250, 10, 240)):
        image = Image.new("RGB", (16, 16), colour)
        content = stored(image, kind, icc_profile=profile(space, name), **options)
        assert np.abs(opened(content, SRGB)[8, 8] - by_hand(colour, space)).max() <= 2.5
        plain = opened(stored(image, kind, **options))
        assert np.array_equal(opened(content), plain)  # as models of older sets were trained
    assert np.abs(by_hand((40, 160, 90), space) - (40, 160, 90)).max() > 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_in_srgb_keep_their_values(kind: str) -> None:
    from PIL import ImageCms

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = opened(stored(image, kind))
    for tagged in (srgb, b"no profile at all", profile(2.2, "Grey 2.2")):  # the last is for other channels
        assert np.array_equal(opened(stored(image, kind, icc_profile=tagged), SRGB), plain)


def test_grey_profiles_and_transparency_are_kept() -> None:
    linear = profile(1.0, "Linear grey")
    grey = stored(Image.new("L", (8, 8), 55), "PNG", icc_profile=linear)
    assert opened(grey, SRGB)[0, 0].tolist() == pytest.approx(
        [255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)] * 3, abs=1
    )
    veil = Image.new("RGBA", (8, 8), (40, 160, 90, 51))  # a fifth, over white
    seen = opened(stored(veil, "PNG", icc_profile=profile(ADOBE_RGB, "Adobe RGB (1998)")), SRGB)[0, 0]
    assert np.abs(seen - (0.2 * by_hand((40, 160, 90), ADOBE_RGB) + 0.8 * 255)).max() <= 2


# --- pages, frames, orientation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TIFF", "MPO", "GIF", "WEBP", "PNG", "AVIF"])
def test_the_first_of_several_pages_or_frames_is_taken(kind: str) -> None:
    pages = [Image.new("RGB", (32, 24), (value, value, value)) for value in (200, 90, 10)]
    content = stored(pages[0], kind, save_all=True, append_images=pages[1:])
    assert sum(1 for _ in ImageSequence.Iterator(Image.open(io.BytesIO(content)))) == 3
    for rules in (None, SRGB):
        assert np.abs(opened(content, rules).astype(int) - 200).max() <= 2
    info = media.check(content, "x")
    assert info.frames == (None if kind == "MPO" else 3)  # telephones put previews and maps behind the image
    assert media.decoded_bytes(info) == 32 * 24 * 3
    assert "several pages or frames (3 to 40), only the first is used" in notices(a_set({}, frames=[3, 3, 40]))[0]


@pytest.mark.parametrize("how", ["EXIF", "XMP"])
def test_jpeg_is_turned_the_same_by_both_decoders(how: str) -> None:
    values = np.zeros((40, 24, 3), np.uint8)
    values[:8] = 250  # a bar at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    options = {"exif": exif} if how == "EXIF" else {"xmp": xmp}
    content = stored(Image.fromarray(values), "JPEG", quality=95, **options)
    wanted = np.rot90(values, -1)
    for info in (media.probe(content, "x"), media.check(content, "x")):
        seen = media.decode(content, info).data.permute(1, 2, 0).numpy()
        assert (info.height, info.width) == (24, 40) == seen.shape[:2]
        assert np.abs(seen.astype(int) - wanted).max() < 12


def test_jpeg_that_torchvision_reads_differently_is_read_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.io

    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8)
    content = stored(Image.fromarray(noise), "JPEG", quality=95)
    assert media.check(content, "x").decoder is None
    right = opened(content)

    def swapped(*args: Any, **options: Any) -> torch.Tensor:
        found = torch.from_numpy(right.copy()).permute(2, 0, 1)
        found[:, 40:, 30:] = 128  # grey where something was missing
        return found

    monkeypatch.setattr(torchvision.io, "decode_jpeg", swapped)
    info = media.check(content, "x")
    assert info.decoder == "pillow"
    assert np.abs(media.decode(content, info).data.permute(1, 2, 0).numpy().astype(int) - right).max() <= 6


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("LA", (8, 8), (100, 51)), (224, 224, 224)),  # .2 * 100 + .8 * 255
        (Image.new("RGBA", (8, 8), (0, 255, 0, 102)), (153, 255, 153)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGB", (8, 8), (10, 20, 30)).quantize(2), (10, 20, 30)),
    ],
    ids=["1 bit", "LA", "RGBA", "CMYK", "palette"],
)
def test_other_modes_of_8_bits(image: Image.Image, colour: tuple[int, int, int]) -> None:
    kind = "TIFF" if image.mode == "CMYK" else "PNG"
    for rules in (None, SRGB, {"srgb": True, "range": [0, 4095]}):
        assert opened(stored(image, kind), rules)[3, 3].tolist() == list(colour)


# --- exports and commands -----------------------------------------------------------------------------------------


OF_EVERY_KIND: dict[str, Callable[[], bytes]] = {
    "12 bits.png": lambda: stored(Image.fromarray(ramp(0, 4095, np.uint16)), "PNG"),
    "signed.tif": lambda: stored(Image.fromarray(ramp(-1000, 3000, np.int32)), "TIFF"),
    "float.tif": lambda: stored(Image.fromarray(ramp(-500, 4000, np.float32)), "TIFF"),
    "16 bits RGB.png": lambda: png16(ramp(0, 4095, np.uint16).reshape(-1, 32, 3), 2),
    "adobe.jpg": lambda: stored(
        Image.new("RGB", (40, 40), (40, 160, 90)), "JPEG", icc_profile=profile(ADOBE_RGB, "Adobe RGB (1998)")
    ),
    "plain.png": lambda: stored(Image.radial_gradient("L").resize((40, 40)), "PNG"),
}


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_exports_read_images_by_the_rules_of_the_model(name: str, tmp_path: Path) -> None:
    rules = {"srgb": True, "range": [0.0, 4095.0]}
    config = Config.model_validate({"patches": PATCHES["image"], **SMALL})
    model, file = Bridle(config, STATISTICS | {"pixel_rules": rules}), tmp_path / name
    file.write_bytes(OF_EVERY_KIND[name]())
    clip = media.decode(file, media.probe(file, name), pixel_rules=model.patcher.pixel_rules)
    wanted = model.patcher([view for view, _ in model.patcher.windows(clip)]).x_BNP.numpy()
    folder = preprocessing(model, tmp_path)
    image = pixels.picture(file, preprocess.pixel_rules(folder))
    assert np.array_equal(preprocess.inputs(image, folder)["patches"], wanted)
    other = preprocess.inputs(pixels.picture(file, None), folder)["patches"]
    assert (np.abs(other - wanted).max() > 0.05) == (name != "plain.png")


def test_a_run_keeps_the_range_of_its_set_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command to vectors: a file that is half as bright is half as bright, whatever its own peak."""
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    for n in range(10):
        Image.fromarray(rng.integers(0, 4096, (24, 24)).astype(np.uint16)).save(raw / f"{n}.png")
    assert main(["shard", str(raw), "--out", str(tmp_path / "set"), "--pixel-range", "-5,4100"]) == 0
    trained, prepare = list[float](), ImagePatcher.prepare

    def prepared(self: ImagePatcher, clip: Clip, rng: torch.Generator | None) -> torch.Tensor:
        trained.append(clip.data.float().mean().item())
        return prepare(self, clip, rng)

    monkeypatch.setattr(ImagePatcher, "prepare", prepared)
    api.pretrain(tmp_path / "set", recipe=small_recipe(), out=tmp_path / "run", steps=2, device="cpu")
    model = api.load(tmp_path / "run", device="cpu")
    low, high = model.model.patcher.pixel_rules["range"]  # type: ignore[index]
    assert (low, high) == (-5, 4100)
    assert min(trained) > 115 and max(trained) < 140  # noise of all values
    grey = np.tile(np.arange(0, 2400, 100, dtype=np.uint16), (24, 1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    shown = np.round((grey.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    Image.fromarray(shown).save(tmp_path / "shown.png")
    deep, plain = (model.embed(tmp_path / f"{name}.png") for name in ("grey", "shown"))
    assert torch.equal(deep, plain)
    assert torch.equal(model.embed(Image.open(tmp_path / "grey.png")), plain)
    result = api.embed(
        [tmp_path / "grey.png", tmp_path / "shown.png"], checkpoint=tmp_path / "run", out=tmp_path / "v.npz"
    )
    assert result is not None
    with np.load(tmp_path / "v.npz") as found:
        vectors = next(found[name] for name in found.files if found[name].ndim == 2 and len(found[name]) == 2)
    assert np.array_equal(vectors[0], vectors[1])


@pytest.mark.parametrize("value", ["9,1", "1", "a,b", "nan,3", "0,inf", "1,2,3"])
def test_ranges_that_are_none_are_refused(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", str(tmp_path), "--pixel-range", value]) == 2
    assert f"'{value}' is not a range" in capsys.readouterr().err


@pytest.mark.parametrize("rules", [{"range": [3, 1]}, {"range": [0, "x"]}, {"range": 7}, ["srgb"]])
def test_manifests_with_unusable_rules_are_refused(rules: Any) -> None:
    statistics = measured(stored(Image.new("L", (8, 8)), "PNG")) | {"pixel_rules": rules}
    content = json.loads(a_set(statistics).to_json())
    with pytest.raises(DataError, match="pixel_rules that cannot be used"):
        parse_manifest(content | {"samples": 0}, Path("set/manifest.json"))


def test_an_untrained_model_takes_the_range_of_a_folder(tmp_path: Path) -> None:
    from bridle.infer import measure

    for n in range(3):
        Image.fromarray(ramp(-1000, 3000, np.int32)).save(tmp_path / f"{n}.tif")
    statistics, _ = measure(tmp_path, Modality.IMAGE)
    assert statistics["pixel_rules"] == {"srgb": True, "range": [-1000, 3000]}
    assert statistics["pixel_mean"] == pytest.approx([0.5] * 3, abs=1e-3)


def test_sets_keep_their_rules_whatever_made_them(tmp_path: Path) -> None:
    raw, deep = tmp_path / "raw", ramp(0, 4095, np.uint16)
    raw.mkdir()
    (raw / "deep.png").write_bytes(stored(Image.fromarray(deep), "PNG"))
    icc = profile(ADOBE_RGB, "Adobe RGB (1998)")
    (raw / "adobe.jpg").write_bytes(stored(Image.new("RGB", (600, 400), (40, 160, 90)), "JPEG", icc_profile=icc))
    sets = [tmp_path / "set", tmp_path / "small"]
    shard(raw, out=sets[0], name="set", workers=1)
    shard(raw, out=sets[1], name="set", workers=2, options=Options(transcode=True))
    manifests = [read_manifest(one) for one in sets]
    assert manifests[0].statistics["deep"] == manifests[1].statistics["deep"]
    wanted = (np.array([deep.mean()] * 3) / 4095 + by_hand((40, 160, 90), ADOBE_RGB) / 255) / 2
    shades = np.round(deep / 4095 * 255)
    for manifest in manifests:
        assert manifest.statistics["pixel_rules"] == {"srgb": True, "range": [0, 4095]}
        assert manifest.statistics["pixel_mean"] == pytest.approx(wanted.tolist(), abs=5e-3)
        reader = SampleReader([manifest], pixel_rules=manifest.statistics["pixel_rules"])
        seen = {(meta := reader.meta(at))["suffix"]: reader.clip(at, meta).data.numpy() for at in range(2)}
        assert np.array_equal(seen["png"][0], shades)
        assert np.abs(seen["jpg"][:, 8, 8] - by_hand((40, 160, 90), ADOBE_RGB)).max() <= 3
    with pytest.raises(UsageError, match="pixel_range"):
        shard(raw, out=tmp_path / "set", name="set", options=Options(pixel_range=(0.0, 9.0)), resume=True)
    Image.fromarray(ramp(0, 60000, np.uint16)).save(raw / "later.png")
    shard(raw, out=tmp_path / "set", name="set", resume=True)  # models may have been trained on what was there
    after = read_manifest(tmp_path / "set")
    assert after.samples == 3 and after.statistics == manifests[0].statistics
