"""Video, as files bring it: the right frames in every window, and what a player shows.

Numbers of frames are read from the picture (`films.py`); colours are worked out from the standards' formulas.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import films
import numpy as np
import pytest
from films import FILMS, Film, number

from bridle import api, media
from bridle.inputs import find_sets
from bridle.media import pixels, video
from bridle.schema import Clip, MediaInfo, Modality
from bridle.stream import SampleReader

needs_decord = pytest.mark.skipif(video.decord is None, reason="decord has no wheel for this machine")


def pixels_of(clip: Clip) -> np.ndarray:
    """`(T, H, W, 3)`."""
    return clip.data.permute(0, 2, 3, 1).numpy()


def both(raw: bytes) -> Iterator[tuple[MediaInfo, np.ndarray]]:
    """A file as training reads it and as other commands do; both give the size that they describe."""
    for info, checked in ((media.check(raw, "a"), True), (media.probe(raw, "a"), False)):
        frames_THW3 = pixels_of(media.decode(raw, info, checked=checked))
        assert frames_THW3.shape[1:3] == (info.height, info.width)
        yield info, frames_THW3


@pytest.fixture(scope="module")
def reading() -> dict[str, tuple[str, str, str]]:
    """Container, codec and pixel format of the films that decord was found right for."""
    return {}


@pytest.mark.parametrize("film", FILMS, ids=str)
def test_every_window_has_the_frames_asked_for(film: Film, reading: dict[str, tuple[str, str, str]]) -> None:
    raw, shown = films.make(film), film.shown(film.frames)
    info = media.check(raw, "a")
    assert (info.frames, info.decoder is None) == (len(shown), False)
    fps = info.rate_hz or 1
    assert films.wrong(raw, info, fps, shown, checked=True) == []
    assert films.wrong(raw, media.probe(raw, "a"), fps, shown, checked=False) == []
    if info.decoder == "decord":
        with av.open(io.BytesIO(raw)) as container:
            codec = container.streams.video[0].codec_context
            reading[str(film)] = (container.format.name.split(",")[0], codec.name, codec.pix_fmt)


@needs_decord
def test_decord_reads_what_these_films_show_it_can_and_nothing_else(reading: dict[str, tuple[str, str, str]]) -> None:
    if len(reading) < 20:
        pytest.skip("needs the films before it")
    assert set(reading.values()) == video._DECORD


CLOSED = next(film for film in FILMS if str(film) == "mp4 libx264 yuv420p closed GOP")
BY_FRAMES = next(film for film in FILMS if film.container == "avi" and film.what == "B-frames")


@needs_decord
@pytest.mark.parametrize("fault", ["late", "black", "grey", "short", "clock", "raises"])
def test_a_decoder_whose_windows_are_wrong_does_not_read_the_file(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = films.make(CLOSED)
    assert media.check(raw, "a").decoder == "decord"
    right = video._decord_batches

    def faulty(raw: bytes, window: tuple[float, float], size: int = 0) -> Iterator[tuple[np.ndarray, float]]:
        start_s, length_s = window
        for x_THW3, fps in right(raw, (start_s + (fault == "late" and start_s > 1) / 25, length_s), size):
            if fault == "raises":
                raise RuntimeError
            yield (
                {"black": 0 * x_THW3, "grey": x_THW3 // 16 * 15, "short": x_THW3[:1]}.get(fault, x_THW3),
                fps * (1 + (fault == "clock")),
            )

    monkeypatch.setattr(video, "_decord_batches", faulty)
    info = media.check(raw, "a")
    assert info.decoder == "ffmpeg"
    assert films.wrong(raw, info, 25, list(range(90)), checked=True) == []


NOT_TRIED = [film for film in FILMS if any(word in film.what for word in ("open GOP", "edit", "fragments", "palette"))]


@pytest.mark.parametrize("film", NOT_TRIED, ids=str)
def test_decord_is_not_tried_where_it_seeks_wrongly(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(video, "_decord_batches", lambda *args: tried.append(args) or [])
    media.check(films.make(film), "a")
    assert tried == []


def test_a_file_in_which_no_seek_is_right_is_decoded_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = films.make(CLOSED)
    right = video._ffmpeg_batches

    def faulty(*args: object) -> Iterator[tuple[np.ndarray, float]]:
        return ((x_THW3 if "ffmpeg-forward" in args else 0 * x_THW3, fps) for x_THW3, fps in right(*args))

    monkeypatch.setattr(video, "decord", None)
    monkeypatch.setattr(video, "_ffmpeg_batches", faulty)
    info = media.check(raw, "a")
    assert info.decoder == "ffmpeg-forward"
    assert films.wrong(raw, info, 25, list(range(90)), checked=True) == []


@pytest.mark.parametrize(
    "film", [film for film in FILMS if "palette" in film.what or film.what == "bare stream"], ids=str
)
def test_unknown_files_are_decoded_from_the_beginning_where_a_seek_may_be_wrong(film: Film) -> None:
    assert media.probe(films.make(film), "a").decoder == "ffmpeg-forward"


def test_a_check_costs_little_more_than_one_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, decoded = films.make(Film("mp4", "libx264", frames=250, gop=50)), []
    right = video._decoded
    monkeypatch.setattr(video, "_decoded", lambda packet: decoded.append(1) or right(packet))
    monkeypatch.setattr(video, "decord", None)
    assert media.check(raw, "a").decoder == "ffmpeg"
    assert 250 < len(decoded) < 1.5 * 250


def test_a_set_says_which_decoder_reads_each_sample_and_it_does(inline: None, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for kind in (CLOSED, BY_FRAMES, next(film for film in FILMS if "open GOP" in film.what)):
        (tmp_path / "raw" / f"{str(kind).replace(' ', '_')}.{kind.container}").write_bytes(films.make(kind))
    api.shard(tmp_path / "raw", modality="video", out=tmp_path / "set", workers=1)
    with tarfile.open(next((tmp_path / "set").glob("*.tar"))) as tar:
        metas = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
    first = "ffmpeg" if video.decord is None else "decord"
    assert sorted((meta["suffix"], meta["decoder"]) for meta in metas) == sorted(
        [("avi", "ffmpeg"), ("mp4", first), ("mp4", "ffmpeg")]
    )
    reader = SampleReader(find_sets(tmp_path / "set"))
    for sample in range(3):
        clip = reader.clip(sample, reader.meta(sample), window=(80 / 25, 5 / 25))
        assert [number(x) for x in pixels_of(clip)] == list(range(80, 85))


def test_a_sample_without_a_decoder_is_read_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = films.make(Film("mp4", "libx264", after=lambda raw: aspect(raw, 64, 45)))
    before = MediaInfo(Modality.VIDEO, "mp4", 3.6, 25.0, None, 90, 48, 64)
    for checked in (True, False):
        assert media.decode(wide, before, checked=checked).data.shape == (90, 3, 48, 64)
    monkeypatch.setattr(video, "_ffmpeg_batches", None)
    if video.decord is not None:
        assert [number(x) for x in pixels_of(media.decode(wide, before, window=(2.0, 0.2)))] == [50, 51, 52, 53, 54]


def test_avi_of_old_sets_gives_the_frames_asked_for() -> None:
    raw = films.make(BY_FRAMES)
    info = MediaInfo(Modality.VIDEO, "avi", 3.6, 25.0, None, 90, 48, 64)
    assert films.wrong(raw, info, 25, list(range(90)), checked=True) == []


# What a player shows


def aspect(raw: bytes, across: int, down: int) -> bytes:
    """With pixels of this shape: a `pasp` box in the description of the samples."""
    return with_box(raw, struct.pack(">I4sII", 16, b"pasp", across, down))


def with_box(raw: bytes, box: bytes) -> bytes:
    """With one more box at the end of the sample description of an MP4 of H.264, whose index is last."""
    start = raw.index(b"avc1", raw.index(b"stsd")) - 4
    size = int.from_bytes(raw[start : start + 4], "big")
    content = bytearray(raw[: start + size] + box + raw[start + size :])
    assert raw.index(b"mdat") < raw.index(b"moov")
    for at in [start, *(raw.index(name) - 4 for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"))]:
        content[at : at + 4] = (int.from_bytes(content[at : at + 4], "big") + len(box)).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("across", "down", "width"),
    [(64, 45, 91), (8, 9, 57), (1, 1, 64), (0, 1, 64)],  # 64 * 64 / 45 = 91.02, 64 * 8 / 9 = 56.9
)
def test_pixels_that_are_not_square_are_made_so(across: int, down: int, width: int, tmp_path: Path) -> None:
    raw = films.make(Film("mp4", "libx264", frames=6, after=lambda raw: aspect(raw, across, down)))
    for _, frames_THW3 in both(raw):
        assert frames_THW3.shape == (6, 48, width, 3)
        assert [number(x) for x in frames_THW3] == list(range(6))
    (tmp_path / "a.mp4").write_bytes(raw)
    assert np.array_equal(pixels.video(tmp_path / "a.mp4"), frames_THW3)


def test_the_clean_aperture_is_not_cut_out() -> None:
    clap = struct.pack(">I4s8I", 40, b"clap", 32, 1, 24, 1, 0, 1, 0, 1)
    for _, frames_THW3 in both(films.make(Film("mp4", "libx264", frames=6, after=lambda raw: with_box(raw, clap)))):
        assert frames_THW3.shape[1:3] == (48, 64) and [number(x) for x in frames_THW3] == list(range(6))


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_mirrored_videos_are_seen_as_in_a_player(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    """A pixel at (x, y) is shown at (ax + cy, bx + dy)."""
    raw = films.make(Film("mp4", "libx264", frames=6))
    a, b, c, d = matrix
    at = raw.index(b"tkhd") + 44
    numbers = (a * 65536, b * 65536, 0, c * 65536, d * 65536, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(raw[:at] + struct.pack(">9i", *numbers) + raw[at + 36 :])
    for _, frames_THW3 in both((tmp_path / "a.mp4").read_bytes()):
        stored_THW3 = np.swapaxes(frames_THW3, 1, 2) if b else frames_THW3
        stored_THW3 = stored_THW3[:, :: c or d, :: a or b]
        assert [number(x) for x in stored_THW3] == list(range(6))
    assert np.array_equal(pixels.video(tmp_path / "a.mp4"), frames_THW3)


def test_an_anamorphic_video_that_was_filmed_sideways_is_high() -> None:
    raw = films.make(Film("mp4", "libx264", frames=6, after=lambda raw: aspect(raw, 64, 45)))
    at = raw.index(b"tkhd") + 44
    raw = raw[:at] + struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30) + raw[at + 36 :]
    for _, frames_THW3 in both(raw):
        assert frames_THW3.shape == (6, 91, 48, 3)
        assert [number(np.rot90(x)) for x in frames_THW3] == list(range(6))


LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # weights of red and blue: BT.709, 601, 2020


def flat(yuv: tuple[int, int, int], matrix: int, full: bool, depth: int = 8, transfer: int = 0) -> bytes:
    """Five frames of one colour, stored without loss."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p" if depth == 8 else "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, 2 if full else 1
        if transfer:
            context.color_trc, context.color_primaries = transfer, 9
        for at in range(5):
            frame = av.VideoFrame(64, 48, stream.pix_fmt)
            for plane, value in zip(frame.planes, yuv, strict=True):
                values = np.full((plane.height, plane.width), value, np.uint8 if depth == 8 else np.uint16)
                rows = np.zeros((plane.height, plane.line_size), np.uint8)
                rows[:, : values.itemsize * plane.width] = values.view(np.uint8)
                plane.update(rows.tobytes())
            frame.colorspace, frame.color_range = matrix, 2 if full else 1
            frame.pts, frame.time_base = at, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def rgb(yuv: tuple[int, int, int], matrix: int, full: bool, depth: int = 8) -> np.ndarray:
    """In 0..1, by the equations of the standards."""
    one = 1 << (depth - 8)
    if full:
        y, u, v = yuv[0] / (256 * one - 1), *((value - 128 * one) / (256 * one - 1) for value in yuv[1:])
    else:
        y, u, v = (yuv[0] - 16 * one) / (219 * one), *((value - 128 * one) / (224 * one) for value in yuv[1:])
    red, blue = LUMA[matrix]
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return np.clip([r, (y - red * r - blue * b) / (1 - red - blue), b], 0, 1)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", LUMA)
def test_colours_are_those_of_the_matrix_and_range_that_the_file_names(matrix: int, full: bool, depth: int) -> None:
    yuv = tuple(value << (depth - 8) for value in (120, 90, 180))
    for info, frames_THW3 in both(flat(yuv, matrix, full, depth)):
        assert np.abs(frames_THW3 - 255 * rgb(yuv, matrix, full, depth)).max() < 2.5
        assert info.decoder in {"decord", "ffmpeg"}


def test_without_a_named_matrix_it_is_bt_601_whatever_the_size() -> None:
    yuv = (120, 90, 180)
    for _, frames_THW3 in both(flat(yuv, 2, False)):
        assert np.abs(frames_THW3 - 255 * rgb(yuv, 6, False)).max() < 2.5


def pq(nits: float) -> float:
    """SMPTE ST 2084: light -> code in 0..1."""
    y = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg(nits: float) -> float:
    """ARIB STD-B67 on a display of 1000 cd/m2 (system gamma 1.2), of grey."""
    scene = (nits / 1000) ** (1 / 1.2)
    return (3 * scene) ** 0.5 if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073


def shown_grey(nits: float) -> float:
    """The level that a display of gamma 2.4 needs for the light that is left of `nits`."""
    x = nits / 203
    if x > 0.3:  # compressed from there to 1000 cd/m2 with the slope 1 at the knee
        a, b = x - 0.3, 1000 / 203 - 0.3
        x = 0.3 + 0.7 * a * b / (0.7 * b + a * (b - 0.7))
    return 255 * min(x, 1) ** (1 / 2.4)


@pytest.mark.parametrize("nits", [0, 5, 50, 100, 203, 600, 1000, 4000])
@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_hdr_is_brought_to_sdr(transfer: int, nits: float) -> None:
    if transfer == 18 and nits > 1000:
        pytest.skip("HLG ends at the peak of the display")
    code = pq(nits) if transfer == 16 else hlg(nits)
    for info, frames_THW3 in both(flat((round(64 + 876 * code), 512, 512), 9, False, 10, transfer)):
        assert info.decoder != "decord"
        assert np.abs(frames_THW3 - shown_grey(nits)).max() < 2.5


def test_hdr_colours_keep_their_hue(tmp_path: Path) -> None:
    """A red of BT.709 at 203 cd/m2 in BT.2020 is that red again, of the light that 203 cd/m2 become."""
    red = [0.627404 * 203, 0.069097 * 203, 0.016391 * 203]  # BT.2087: the first column of the matrix to BT.2020
    r, g, b = (pq(value) for value in red)
    y = 0.2627 * r + 0.678 * g + 0.0593 * b
    yuv = (round(64 + 876 * y), round(512 + 896 * (b - y) / 1.8814), round(512 + 896 * (r - y) / 1.4746))
    (tmp_path / "a.mp4").write_bytes(flat(yuv, 9, False, 10, 16))
    for shown in (pixels.video(tmp_path / "a.mp4"), next(both((tmp_path / "a.mp4").read_bytes()))[1]):
        assert np.abs(shown[..., 0] - shown_grey(203)).max() < 3 and shown[..., 1:].max() < 30


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_hdr_beside_ffmpegs_own_tone_mapping(transfer: int, tmp_path: Path) -> None:
    # zscale applies HLG's system gamma to each channel, BT.2100 to the luminance: grey is the same
    yuv = (560, 430, 600) if transfer == 16 else (640, 512, 512)
    (tmp_path / "a.mp4").write_bytes(flat(yuv, 9, False, 10, transfer))
    chain = (
        "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.3:peak=4.926:desat=0,"
        "zscale=t=bt709:m=bt709:r=pc,format=gbrp"
    )
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.mp4", "-vf", chain, "-frames:v", "1", "-pix_fmt", "rgb24"]
    found = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, timeout=60)
    if found.returncode:
        pytest.skip("this ffmpeg has no zscale")
    theirs_HW3 = np.frombuffer(found.stdout, np.uint8).reshape(48, 64, 3).astype(int)
    (_, ours_THW3), _ = both((tmp_path / "a.mp4").read_bytes())
    assert np.abs(ours_THW3[0] - theirs_HW3).max() < 2.5


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
@pytest.mark.parametrize("film", [CLOSED, BY_FRAMES], ids=str)
def test_frames_beside_the_ffmpeg_program(film: Film, tmp_path: Path) -> None:
    raw = films.make(film)
    (tmp_path / "a").write_bytes(raw)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a", "-vsync", "0", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    theirs = np.frombuffer(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout, np.uint8)
    theirs_THW3 = theirs.reshape(-1, 48, 64, 3).astype(int)
    for _, ours_THW3 in both(raw):
        assert len(ours_THW3) == len(theirs_THW3) and np.abs(ours_THW3 - theirs_THW3).mean() < 1.5
