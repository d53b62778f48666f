"""Video: decord where it is right, FFmpeg (PyAV) elsewhere and where decord is missing or refuses.

All decoders give the same frames: as a player shows them, placed by time on an even clock (see `pixels.py`). Which one
reads a file is decided by `measure`, which compares windows of it with one decode from beginning to end, and is kept
in `MediaInfo.decoder`:

decord          seeks by its own index; quick. Can crash or hang on damaged files, so files are checked in a process
                that may die, and it never reads others.
ffmpeg          decodes from the key frame before the window. What `probe` says, too.
ffmpeg-forward  decodes from the beginning: right where stamps, key frames or palettes are not.
None            a set made before the check compared windows: decord or FFmpeg by container, and frames as stored,
                without pixel aspect and tone mapping, so that its descriptions stay true.

Shapes: T frames, H, W, 3 channels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from bridle.errors import MediaError
from bridle.media.limits import ALONE, MAX_PIXELS, refuse_giant
from bridle.media.pixels import announced_fps, even_clock, has_times, hdr_of, is_cover, shown_size, upright
from bridle.schema import MediaInfo, Modality

try:
    import decord
except (ImportError, OSError):  # no wheel for aarch64
    decord = None

_FAMILIES = {  # FFmpeg's demuxer -> suffixes that are true for it, the default first
    "mov": "mp4 m4v mov 3gp m4a", "matroska": "mkv webm mka", "avi": "avi", "mpeg": "mpg mpeg vob", "asf": "wmv wma",
    "mpegvideo": "mpg mpeg m1v m2v", "mpegts": "ts mts m2ts", "flv": "flv", "ogg": "ogv ogg oga opus", "aac": "aac",
    "amr": "amr", "ac3": "ac3", "wav": "wav", "mp3": "mp3", "gsm": "gsm", "caf": "caf",
}  # fmt: skip
_BATCH, _BATCH_BYTES = 32, 64_000_000  # frames decoded at once, fewer when they are large
_HEAD = 65536  # bytes in which a container says what it is
# What decord 0.6 reads right in windows (test_media_video.py); AVI, MPEG-TS and palettes it does not.
_DECORD = {
    (container, *kind.split("/"))
    for container, kinds in {
        "mov": "h264/yuv420p h264/yuvj420p h264/yuv444p h264/yuv420p10le h264/gbrp hevc/yuv420p hevc/yuv420p10le "
        "mpeg4/yuv420p vp9/yuv420p mjpeg/yuvj420p mjpeg/yuvj422p prores/yuv422p10le",
        "matroska": "h264/yuv420p h264/yuv420p10le hevc/yuv420p hevc/yuv420p10le mpeg4/yuv420p vp8/yuv420p vp9/yuv420p "
        "mjpeg/yuvj420p ffv1/yuv420p ffv1/bgr0",
    }.items()
    for kind in kinds.split()
}
_WINDOWS, _WINDOW = 4, 3  # compared at the check, and the frames of each: with the way to them a small part of a decode
_WAY = 1 / 8  # of all frames: the longest way to a window
_ALIKE = 1.5  # levels of 256, in the mean: two versions of FFmpeg's colour conversion differ by less than 1


_Read = Callable[[bytes, tuple[float, float] | None], Iterator[tuple[np.ndarray, float]]]


def probe(raw: bytes, hint: str, wanted: Modality | None = None) -> MediaInfo | None:
    """What FFmpeg finds: video if there is a video stream, else audio; None when it knows nothing.

    With `wanted` audio, the audio track of a video where there is one.
    """
    try:
        with av.open(io.BytesIO(raw), "r", container_options=ALONE) as container:
            family = container.format.name.split(",")[0]
            if family not in _FAMILIES:  # single images, subtitles, playlists that name other files
                return None
            suffixes = _FAMILIES[family].split()
            pictures = [stream for stream in container.streams.video if not is_cover(stream)]
            sounds = container.streams.audio
            if pictures and not (wanted is Modality.AUDIO and sounds):
                return _picture_info(container, pictures[0], hint if hint in suffixes else suffixes[0])
            if sounds:
                duration_s = container.duration / av.time_base if container.duration else None
                default = suffixes[0] if pictures else "m4a" if family == "mov" else suffixes[-1]
                suffix = hint if hint in suffixes else default
                return MediaInfo(Modality.AUDIO, suffix, duration_s, float(sounds[0].rate or 0), sounds[0].channels)
    except (av.FFmpegError, AttributeError, ValueError):  # PyAV meets demuxers without a name on text and SVG
        return None
    return None


def measure(raw: bytes, info: MediaInfo) -> MediaInfo:
    """Decode every frame, count, and find the decoder whose windows are those of the whole."""
    track = _track(raw, "ffmpeg-forward")
    windows = track.windows()
    wanted = {tick for first in windows for tick in range(first, first + _WINDOW)}
    reference, scaler = {}, VideoReformatter()
    height, width, frames, rising, before = 0, 0, 0, True, -math.inf
    for frame in _on_screen(raw, track, 0, None):
        if frames in wanted or not frames:
            reference[frames] = upright(frame, *track.size, scaler, track.hdr)
            height, width = reference[frames].shape[:2]
        pts = -math.inf if frame.pts is None else frame.pts
        frames, rising, before = frames + 1, rising and pts > before, pts
    if not frames:
        raise MediaError("holds no frames")
    decoder = "ffmpeg-forward"
    if track.decord and decord is not None and _agrees(raw, track, windows, reference, _decord_batches, _ALIKE):
        decoder = "decord"
    elif (track.timed or rising) and _agrees(raw, track, windows, reference, _ffmpeg_batches, 0):
        decoder = "ffmpeg"
    return replace(
        info, duration_s=frames / track.fps, rate_hz=track.fps, frames=frames, height=height, width=width,
        decoder=decoder,
    )  # fmt: skip


def _agrees(
    raw: bytes, track: _Track, windows: list[int], reference: dict[int, np.ndarray], read: _Read, most: float
) -> bool:
    """Whether each frame of the windows looks like that of the whole decode at its tick, and more than like another."""
    try:
        for first in windows:
            at_tick = [n for n in range(first, first + _WINDOW) if n in reference]
            pieces = list(read(raw, (first / track.fps, len(at_tick) / track.fps)))
            got_THW3 = np.concatenate([piece for piece, _ in pieces]).astype(np.int16)
            same_clock = all(math.isclose(fps, track.fps, rel_tol=1e-4) for _, fps in pieces)
            if not same_clock or got_THW3.shape != (len(at_tick), *reference[first].shape):
                return False
            for tick, got_HW3 in zip(at_tick, got_THW3, strict=True):
                off = {n: np.abs(got_HW3 - reference[n]).mean() for n in at_tick}
                if off[tick] > min(most, *off.values()):
                    return False
    except Exception:  # decord raises its own kinds, on some widths that are no multiple of 32 (48) too
        return False
    return True


def decode(
    raw: bytes, info: MediaInfo, window: tuple[float, float] | None, *, checked: bool = True
) -> tuple[Tensor, float, float]:
    """The frames of the window as uint8 `(T, 3, H, W)`, frames a second, and where the first one lies in seconds.

    In memory the three channels of a pixel stay together, as they are decoded: resizing reads them so in half the time.
    """
    pieces, fps, size = [], 1.0, 0
    for batch_THW3, fps in batches(raw, info, window, checked=checked):  # noqa: B007
        pieces.append(batch_THW3)
        size += batch_THW3.nbytes
        refuse_giant(size)
    if not pieces:
        raise MediaError("holds no frames" if window is None else f"holds no frames at {window[0]:.2f} s")
    clip_THW3 = torch.from_numpy(np.concatenate(pieces) if len(pieces) > 1 else pieces[0])
    return clip_THW3.permute(0, 3, 1, 2), fps, _span(window, fps)[0] / fps


def batches(
    raw: bytes, info: MediaInfo, window: tuple[float, float] | None = None, *, checked: bool = True
) -> Iterator[tuple[np.ndarray, float]]:
    """uint8 `(T, H, W, 3)` pieces of the window and frames a second; one frame first if its size is not known."""
    done = 0
    suits = info.decoder == "decord" or (info.decoder is None and _suits_decord(raw))
    if checked and suits and decord is not None:
        try:
            frame_bytes = 3 * (info.height or 0) * (info.width or 0)
            for batch_THW3, fps in _decord_batches(raw, window, frame_bytes):
                yield batch_THW3, fps
                done += len(batch_THW3)
            return
        except Exception:  # as above
            pass
    yield from _ffmpeg_batches(raw, window, info.decoder, done)


def _suits_decord(raw: bytes) -> bool:
    """Whether an unnamed decoder is decord: for MP4, and for Matroska without a display matrix.

    Of that it knows nothing (element 0x7675 with a float of 4 or 8 bytes).
    """
    head = raw[:_HEAD]
    if head[:4] == b"\x1aE\xdf\xa3":
        return b"\x76\x75\x84" not in head and b"\x76\x75\x88" not in head
    return head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}


def _decord_batches(
    raw: bytes, window: tuple[float, float] | None, frame_bytes: int = 0
) -> Iterator[tuple[np.ndarray, float]]:
    reader = decord.VideoReader(io.BytesIO(raw), num_threads=1)
    header_fps = float(reader.get_avg_fps())
    times_T = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    if not 0 < header_fps < 1e4 or -1e6 < times_T[0] < -1e-3:
        raise MediaError("no rate, or frames that the edit list hides: decord would show them")
    fps, shown_T = even_clock(times_T, header_fps)
    first, last = _span(window, fps)
    shown_T = shown_T[first:last]
    at, step = 0, _batch(frame_bytes) if frame_bytes else 1
    while at < len(shown_T):
        batch_THW3 = reader.get_batch(shown_T[at : at + step].tolist()).asnumpy()
        yield batch_THW3, fps
        at, step = at + len(batch_THW3), _batch(batch_THW3[0].nbytes)


def _ffmpeg_batches(
    raw: bytes, window: tuple[float, float] | None, decoder: str | None = "ffmpeg", done: int = 0
) -> Iterator[tuple[np.ndarray, float]]:
    """The same, leaving out the first `done` frames of the window."""
    track = _track(raw, decoder)
    first, last = _span(window, track.fps)
    pieces, scaler = [], VideoReformatter()
    for frame in _on_screen(raw, track, first + done, last):
        pieces.append(upright(frame, *track.size, scaler, track.hdr))
        if len(pieces) >= _batch(pieces[0].nbytes):
            yield np.stack(pieces), track.fps
            pieces = []
    if pieces:
        yield np.stack(pieces), track.fps


@dataclass(frozen=True, slots=True)
class _Track:
    """What the packets and the first frame of a video say.

    Attributes:
        fps, shown_T: of the even clock: the number of the frame on the screen at each tick.
        pts_T: time stamps in the order of showing, by which frames are numbered; None: they are counted.
        timed: the stamps are times of showing.
        starts_K2: (packet, frame) numbers, rising, from which all later frames can be decoded.
        forward: decode from the beginning all the same.
        size: width and height before frames are turned; kept when the size changes on the way, as decord does.
        hdr: transfer function that is brought to SDR; 0: none.
        decord: container, codec, pixels and key frames are of a kind that decord reads right.
    """

    fps: float
    shown_T: np.ndarray
    pts_T: np.ndarray | None
    timed: bool
    starts_K2: np.ndarray
    forward: bool
    size: tuple[int, int]
    hdr: int
    decord: bool

    def starts(self, frame: int) -> list[tuple[int, int]]:
        """The packets and frames to try to decode this frame from: the last two key frames before it, the beginning.

        H.264 that is refreshed bit by bit has key frames behind which some frames cannot be decoded.
        """
        at = int(self.starts_K2[:, 1].searchsorted(frame, "right"))
        return [(packet, number) for packet, number in self.starts_K2[max(0, at - 2) : at][::-1].tolist()] + [(0, 0)]

    def windows(self) -> list[int]:
        """First ticks of those to compare: spread evenly, but close behind a key frame where the way would be long."""
        last, firsts = max(0, len(self.shown_T) - _WINDOW), set()
        for tick in np.linspace(0, last, _WINDOWS + 1)[1:].round().astype(int).tolist():
            frame = int(self.shown_T[tick])
            key = self.starts(frame)[0][1]
            if frame - key > _WAY * len(self.shown_T):
                tick = min(last, int(np.searchsorted(self.shown_T, key + 1)))
            firsts.add(tick)
        return sorted(firsts)


def _track(raw: bytes, decoder: str | None) -> _Track:
    """Reads all packets and decodes one frame; `decoder` as in `MediaInfo`."""
    with av.open(io.BytesIO(raw), "r", container_options=ALONE) as container:
        stream = _pictures(container)
        head, packets = None, []
        for packet in container.demux(stream):
            head = head or next(iter(_decoded(packet)), None)
            if packet.size:
                packets.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        if head is None:
            raise MediaError("holds no frames")
        fps, tick_s = announced_fps(stream), float(stream.time_base or 1)
        as_stored = (stream.width, stream.height), 0
        size, hdr = as_stored if decoder is None else (shown_size(stream), hdr_of(stream))
        decoder = decoder or _unchecked(container, stream)
        timed, codec = has_times(container, stream), stream.codec_context
        family = container.format.name.split(",")[0]
        decord_reads = (family, codec.name, codec.pix_fmt) in _DECORD and not hdr
        if family == "mov" and stream.frames != len(packets):  # fragments, or packets that an edit list leaves out
            decord_reads = False
    pts, dts, key, hidden = zip(*packets, strict=True)
    count = len(packets) - sum(hidden)
    seen = [stamp for stamp in dts if stamp is not None]
    if None in pts or seen != sorted(seen):  # no stamps, or recordings one behind the other, each with its own clock
        return _Track(fps, np.arange(count), None, False, np.empty((0, 2), int), True, size, hdr, False)
    pts_N, key_N, shown_N = np.array(pts, np.int64), np.array(key), ~np.array(hidden)
    first = pts_N.min() if head.pts is None else head.pts  # what is before needs a key frame that is not there
    pts_T = np.sort(pts_N[shown_N & (pts_N >= first)])
    before_N = np.maximum.accumulate(np.concatenate([[pts_N[0] - 1], pts_N[:-1]]))
    after_N = np.minimum.accumulate(np.concatenate([pts_N, [pts_N.max() + 1]])[:0:-1])[::-1]
    start_N = key_N & (before_N < pts_N)
    clean = bool(key_N[0] and shown_N.all() and ((before_N < pts_N) & (pts_N < after_N))[key_N].all())
    starts_K2 = np.stack([np.flatnonzero(start_N), np.searchsorted(pts_T, pts_N[start_N])], 1)
    forward = decoder == "ffmpeg-forward"
    numbered = timed or not forward
    fps, shown_T = even_clock(pts_T * tick_s, fps) if timed else (fps, np.arange(len(pts_T) if numbered else count))
    reads = decord_reads and clean and timed
    return _Track(fps, shown_T, pts_T if numbered else None, timed, starts_K2, forward, size, hdr, reads)


def _unchecked(container: av.container.InputContainer, stream: av.VideoStream) -> str:
    """The way to read a file of which only the header is known: palettes may stand in the first packet alone."""
    return "ffmpeg" if has_times(container, stream) and stream.codec_context.pix_fmt != "pal8" else "ffmpeg-forward"


def _on_screen(raw: bytes, track: _Track, first: int, last: int | None) -> Iterator[av.VideoFrame]:
    """The frame of each tick from `first` to before `last`."""
    shown_T = track.shown_T[first:last]
    tick, before = 0, None
    for number, frame in _numbered(raw, track, int(shown_T[0])) if len(shown_T) else ():
        gap, end = shown_T.searchsorted(number, "left"), shown_T.searchsorted(number, "right")
        for ticking in range(tick, end):  # where a frame is missing, the one before stays on the screen
            yield frame if ticking >= gap or before is None else before
        tick, before = max(tick, int(end)), frame
        if tick == len(shown_T):
            return


def _numbered(raw: bytes, track: _Track, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames and their numbers, from `first` or from somewhere before it."""
    pts_T = track.pts_T
    for start, _ in [(0, 0)] if track.forward or pts_T is None else track.starts(first):
        frames = _frames(raw, start)
        head = next(frames, None)
        if not start or (head and head.pts is not None and pts_T is not None and head.pts <= pts_T[first]):
            break
    number = -1
    for frame in chain([head] if head else [], frames):
        number += 1
        if pts_T is not None and frame.pts is not None:
            number = max(number, int(pts_T.searchsorted(frame.pts)))
        yield number, frame


def _frames(raw: bytes, start: int) -> Iterator[av.VideoFrame]:
    """Decoded from this packet on. The ones before are read and left: an index can be wrong, and reading is quick."""
    with av.open(io.BytesIO(raw), "r", container_options=ALONE) as container:
        number = 0
        for packet in container.demux(_pictures(container)):
            if number >= start:
                yield from _decoded(packet)
            number += bool(packet.size)


def _decoded(packet: av.Packet) -> list[av.VideoFrame]:
    """None of a damaged packet: then the frame before stays on the screen."""
    try:
        return packet.decode()
    except av.InvalidDataError:
        return []


def _pictures(container: av.container.InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if not is_cover(stream):
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            return stream
    raise MediaError("holds no video stream")


def _batch(picture_bytes: int) -> int:
    """Frames of this size to decode at once."""
    return max(1, min(_BATCH, _BATCH_BYTES // picture_bytes))


def _span(window: tuple[float, float] | None, fps: float) -> tuple[int, int | None]:
    """First frame and the one after the last."""
    if window is None:
        return 0, None
    first = max(0, round(window[0] * fps))
    return first, first + max(1, round(window[1] * fps))


def _picture_info(container: av.container.InputContainer, stream: av.VideoStream, suffix: str) -> MediaInfo:
    fps = announced_fps(stream)
    duration_s = container.duration / av.time_base if container.duration else None
    frames = stream.frames or (round(duration_s * fps) if duration_s else None)
    width, height = shown_size(stream)
    if height * width <= MAX_PIXELS and _is_turned(container, stream):
        height, width = width, height
    decoder = _unchecked(container, stream)
    return MediaInfo(Modality.VIDEO, suffix, duration_s, fps, None, frames, height, width, decoder)


def _is_turned(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the display matrix swaps height and width; PyAV tells it of decoded frames alone."""
    try:
        return round(next(container.decode(stream)).rotation / 90) % 2 == 1
    except (av.FFmpegError, StopIteration):
        return False
