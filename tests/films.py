"""Videos whose frames carry their number, in many containers and codecs: are the frames of a window those asked for?

`make media` prints the table of docs/howto/own-data.md: of each kind the decoder that the check chooses, and how many
windows of it are wrong, read as training reads a checked file and as other commands read others.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from bridle import media
from bridle.schema import MediaInfo

_BITS, _DARK, _LIGHT = 8, 30, 220
WINDOWS, _LENGTH = 20, 5  # of each video, and the frames of a window


@dataclass(frozen=True)
class Film:
    """How to make a video: frame t says t, and is shown at tick t or `ticks[t]`."""

    container: str
    codec: str
    what: str = ""
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)
    frames: int = 90
    size: tuple[int, int] = (64, 48)
    fps: int = 25
    gop: int = 12
    b_frames: int | None = None
    ticks: list[int] | None = None
    late: int = 0  # ticks before the first frame
    after: Callable[[bytes], bytes] | None = None  # what happens to the file
    shown: Callable[[int], list[int]] = field(default=lambda frames: list(range(frames)))  # numbers at the ticks

    def __str__(self) -> str:
        return " ".join([self.container, self.codec, self.pixels, *self.what.split()])


def picture(number: int, width: int, height: int) -> np.ndarray:
    """`(H, W, 3)`: two rows of four blocks say the number in binary, lowest bit first."""
    x_HW3 = np.full((height, width, 3), _DARK, np.uint8)
    for row, column in _blocks(number):
        x_HW3[row * height // 2 : (row + 1) * height // 2, column * width // 4 : (column + 1) * width // 4] = _LIGHT
    return x_HW3


def number(x_HW3: np.ndarray) -> int:
    """What the picture says, from the middle of each block."""
    height, width = x_HW3.shape[:2]
    said = 0
    for bit in range(_BITS):
        row, column = divmod(bit, 4)
        y, x = round((row + 0.5) * height / 2), round((column + 0.5) * width / 4)
        middle = x_HW3[y - height // 8 : y + height // 8 + 1, x - width // 16 : x + width // 16 + 1]
        said += (middle.mean() > (_DARK + _LIGHT) / 2) << bit
    return said


def make(film: Film) -> bytes:
    """The file."""
    file = io.BytesIO()
    with av.open(file, "w", format=film.container, options=film.muxer) as container:
        stream = container.add_stream(film.codec, rate=film.fps)
        (stream.width, stream.height), stream.pix_fmt = film.size, film.pixels
        stream.gop_size, stream.options = film.gop, film.options
        stream.codec_context.time_base = Fraction(1, film.fps)
        stream.codec_context.thread_count = 1
        if film.codec not in {"rawvideo", "ffv1", "mjpeg"}:
            stream.bit_rate = 400_000
        if film.b_frames is not None:
            stream.codec_context.max_b_frames = film.b_frames
        for t in range(film.frames):
            frame = _frame(picture(t, *film.size), film.pixels)
            frame.pts, frame.time_base = film.late + (film.ticks[t] if film.ticks else t), Fraction(1, film.fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return film.after(file.getvalue()) if film.after else file.getvalue()


def wrong(raw: bytes, info: MediaInfo, fps: float, shown: list[int], *, checked: bool) -> list[str]:
    """The windows whose frames are others, in words; `fps` of the even clock, which `shown` is of."""
    found = []
    for first in np.linspace(0, max(0, len(shown) - _LENGTH), WINDOWS).round().astype(int).tolist():
        clip = media.decode(raw, info, window=(first / fps, _LENGTH / fps), checked=checked)
        got = [number(x.permute(1, 2, 0).numpy()) for x in clip.data]
        if got != shown[first : first + _LENGTH]:
            found.append(f"{got} for {shown[first : first + _LENGTH]}")
    return found


def on_even_clock(ticks: list[int]) -> list[int]:
    """The frame on the screen in the middle of each tick of a clock with the mean rate."""
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    middles = [ticks[0] + (t + 0.5) * step for t in range(len(ticks))]
    return [max(n for n, tick in enumerate(ticks) if tick <= middle) for middle in middles]


def remux(raw: bytes, kind: str, keep: Callable[[int], bool] = lambda number: True) -> bytes:
    """The same packets, or some of them, in another container."""
    file = io.BytesIO()
    with av.open(io.BytesIO(raw)) as source, av.open(file, "w", format=kind) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and keep(number):
                packet.stream = stream
                target.mux(packet)
    return file.getvalue()


def hide(frames: int) -> Callable[[bytes], bytes]:
    """An edit list that begins so many frames of 25 a second late."""

    def hidden(raw: bytes) -> bytes:
        at, clock = raw.index(b"elst") + 12, raw.index(b"mdhd") + 16
        begin = (
            int.from_bytes(raw[at + 4 : at + 8], "big") + frames * int.from_bytes(raw[clock : clock + 4], "big") // 25
        )
        return raw[: at + 4] + begin.to_bytes(4, "big") + raw[at + 8 :]

    return hidden


def _blocks(number: int) -> Iterator[tuple[int, int]]:
    return (divmod(bit, 4) for bit in range(_BITS) if number >> bit & 1)


def _frame(x_HW3: np.ndarray, pixels: str) -> av.VideoFrame:
    if pixels != "pal8":
        return av.VideoFrame.from_ndarray(x_HW3, format="rgb24").reformat(format=pixels)
    height, width = x_HW3.shape[:2]
    frame = av.VideoFrame(width, height, pixels)  # colours 3 and 7 of the palette
    index_HW = np.zeros((height, frame.planes[0].line_size), np.uint8)
    index_HW[:, :width] = np.where(x_HW3[..., 0] == _LIGHT, 7, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[3, :3], palette[7, :3], palette[:, 3] = _DARK, _LIGHT, 255
    frame.planes[0].update(index_HW.tobytes())
    frame.planes[1].update(palette.tobytes())
    return frame


_OPEN = {"x264-params": "scenecut=0:open-gop=1:bframes=3:b-adapt=0"}
_CLOSED = {"x264-params": "scenecut=0:bframes=3:b-adapt=0"}
_REFRESH = {"x264-params": "intra-refresh=1:bframes=0:scenecut=0:keyint=20"}


def _x265(open_gop: int) -> dict[str, str]:
    size = "keyint=12:min-keyint=12:scenecut=0"
    return {
        "preset": "superfast",
        "x265-params": f"log-level=none:open-gop={open_gop}:{size}:pools=none:frame-threads=1",
    }


_VP8 = {"deadline": "realtime", "cpu-used": "8"}
_HIDDEN = {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}
_UNEVEN = [*range(45), *range(45, 135, 2)]
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

FILMS = [
    Film("mp4", "libx264", "closed GOP", options=_CLOSED),
    Film("mp4", "libx264", "open GOP", options=_OPEN),
    Film("mp4", "libx264", "open GOP, 1 frame a second", options=_OPEN, fps=1),
    Film("mp4", "libx264", "intra refresh", options=_REFRESH, size=(256, 48)),
    Film("mp4", "libx264", "uneven rate", ticks=_UNEVEN, shown=lambda n: on_even_clock(_UNEVEN)),
    Film("mp4", "libx264", "edit list", options=_CLOSED, after=hide(20), shown=lambda n: list(range(20, n))),
    Film("mp4", "libx264", "fragments", muxer=_FRAGMENTS),
    Film("mp4", "libx264", "interlaced", options={"x264-params": "interlaced=1:bframes=2"}),
    Film("mp4", "libx264", "", "yuv444p"),
    Film("mp4", "libx264", "", "yuv420p10le"),
    Film("mp4", "libx264", "full range", "yuvj420p"),
    Film("mp4", "libx264rgb", "", "rgb24"),
    Film("mp4", "libx264", "odd size", "yuv444p", size=(67, 51)),
    Film("mp4", "libx264", "1 frame", frames=1),
    Film("mp4", "libx264", "2 frames", frames=2),
    Film("mp4", "libx264", "3 frames", frames=3, options=_CLOSED),
    Film("mp4", "libx265", "closed GOP", options=_x265(0)),
    Film("mp4", "libx265", "open GOP", options=_x265(1)),
    Film("mp4", "libx265", "closed GOP", "yuv420p10le", options=_x265(0)),
    Film("mp4", "mpeg4", "B-frames", b_frames=2),
    Film("mp4", "mpeg4", "1 frame", frames=1),
    Film("mp4", "libvpx-vp9", options=_VP8),
    Film("mp4", "libsvtav1", frames=40, size=(64, 64)),
    Film("mov", "mpeg4", b_frames=0),
    Film("mov", "mpeg2video", "B-frames", b_frames=2),
    Film("mov", "mjpeg", pixels="yuvj422p"),
    Film("mov", "mjpeg", pixels="yuvj420p"),
    Film("mov", "prores_ks", pixels="yuv422p10le"),
    Film("mov", "rawvideo", pixels="uyvy422"),
    Film("mov", "qtrle", pixels="rgb24"),
    Film("mov", "png", "palette", "pal8"),
    Film("3gp", "h263", size=(128, 96)),
    Film("matroska", "libx264", "closed GOP", options=_CLOSED),
    Film("matroska", "libx264", "open GOP", options=_OPEN),
    Film("matroska", "libx264", "intra refresh", options=_REFRESH, size=(256, 48)),
    Film("matroska", "libx264", "uneven rate", ticks=_UNEVEN, shown=lambda n: on_even_clock(_UNEVEN)),
    Film("matroska", "libx265", "open GOP", options=_x265(1)),
    Film("matroska", "libx264", "", "yuv420p10le"),
    Film("matroska", "libx265", "closed GOP", options=_x265(0)),
    Film("matroska", "libx265", "closed GOP", "yuv420p10le", options=_x265(0)),
    Film("matroska", "mpeg2video", "B-frames", b_frames=2),
    Film("matroska", "mpeg4", b_frames=0),
    Film("matroska", "mjpeg", pixels="yuvj420p"),
    Film("matroska", "ffv1"),
    Film("matroska", "ffv1", pixels="bgr0"),
    Film("webm", "libvpx", options=_VP8),
    Film("webm", "libvpx", "hidden frames", options=_HIDDEN),
    Film("webm", "libvpx-vp9", options=_VP8),
    Film("webm", "libvpx-vp9", "hidden frames", options=_HIDDEN),
    Film("avi", "mpeg4", "B-frames", b_frames=2),
    Film("avi", "mpeg4", b_frames=0),
    Film("avi", "libx264", "B-frames", options=_CLOSED),
    Film("avi", "libx264", b_frames=0),
    Film("avi", "msmpeg4v2"),
    Film("avi", "mjpeg", pixels="yuvj420p"),
    Film("avi", "huffyuv", pixels="yuv422p"),
    Film("avi", "ffv1"),
    Film("avi", "rawvideo"),
    Film("avi", "rawvideo", pixels="bgr24"),
    Film("avi", "rawvideo", "palette", "pal8"),
    Film("avi", "rawvideo", "odd size", "bgr24", size=(67, 51)),
    Film("avi", "msrle", "palette", "pal8"),
    Film("mpegts", "libx264", "closed GOP", options=_CLOSED),
    Film("mpegts", "libx264", "open GOP", options=_OPEN),
    Film("mpegts", "libx264", "starts at 100 s", options=_CLOSED, late=2500),
    Film("mpegts", "libx264", "begins between key frames", options=_CLOSED,
         after=lambda raw: remux(raw, "mpegts", lambda n: n >= 5), shown=lambda n: list(range(12, n))),
    Film("mpegts", "libx264", "two recordings joined", options=_CLOSED, after=lambda raw: raw + raw,
         shown=lambda n: 2 * list(range(n))),
    Film("mpegts", "libx265", "open GOP", options=_x265(1)),
    Film("mpegts", "mpeg2video", "B-frames", b_frames=2),
    Film("mpeg", "mpeg2video", "B-frames", b_frames=2),
    Film("mpeg", "mpeg1video", "B-frames", b_frames=2),
    Film("mpeg2video", "mpeg2video", "bare stream", b_frames=2),
    Film("mpeg1video", "mpeg1video", "bare stream", b_frames=2),
    Film("flv", "libx264", options=_CLOSED),
    Film("flv", "flv"),
    Film("asf", "wmv2"),
]  # fmt: skip


def main() -> None:
    av.logging.set_level(av.logging.FATAL)
    lines = ["| container | codec | | decoder | checked | unchecked |", "|---|---|---|---|---|---|"]
    for film in FILMS:
        raw = make(film)
        info, shown = media.check(raw, "a"), film.shown(film.frames)
        infos = (info, True), (media.probe(raw, "a"), False)
        counts = [len(wrong(raw, one, info.rate_hz or 1, shown, checked=checked)) for one, checked in infos]
        what = ", ".join(word for word in (film.what, "" if film.pixels == "yuv420p" else film.pixels) if word)
        cells = [film.container, film.codec, what, info.decoder, *(f"{count} of {WINDOWS}" for count in counts)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
