"""Hundreds of damaged files of each modality, through the real pool of decoding processes and back.

Whatever the decoders do, the run ends, every file is either in the set or in the list of rejects, and what was
accepted can be read again.
"""

from __future__ import annotations

import importlib
import io
import json
import random
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import forks
import numpy as np
import pytest
import soundfile
from PIL import Image

import bridle
from bridle.archive import read_manifest
from bridle.schema import Modality
from bridle.sharding import shard
from bridle.stream import SampleReader

FILES = 510  # of each modality
HANG_S = 5.0  # instead of a minute: a damaged file of a few kilobytes decodes in milliseconds or never

# Reads every sample whole and a window of it, in a process of its own: a decoder that crashes while reading would
# take the tests along.
READ = """
import json, sys
from pathlib import Path
from bridle.errors import MediaError
from bridle.archive import read_manifest
from bridle.stream import SampleReader, iterate

manifests, failures, seen = [read_manifest(Path(sys.argv[1]))], {}, []
for meta, clip in iterate(manifests, failures):
    seen.append(meta["path"])
    assert clip.data.numel()
reader = SampleReader(manifests)
for sample in range(len(reader)):
    meta = reader.meta(sample)
    length = meta["duration_s"] or 0.0
    try:
        assert reader.clip(sample, meta, (length / 2, length / 4)).data.numel()
    except MediaError as error:
        failures[meta["path"]] = error.message
print(json.dumps({"seen": seen, "failures": failures}))
"""

Mutation = Callable[[bytes, random.Random], bytes]


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 4, 16, 64))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def edit_header(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        damaged[rng.randrange(min(128, len(damaged)))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(damaged)


def cut_out(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:first] + content[last:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:last] + content[first:]


def rename(content: bytes, rng: random.Random) -> bytes:
    """Nothing; the name lies instead."""
    return content


MUTATIONS: tuple[Mutation, ...] = (flip_bits, truncate, edit_header, cut_out, repeat, rename)


def sounds(sample: Path) -> dict[str, bytes]:
    wave, rate_hz = soundfile.read(next(sorted_files(sample / "audio")), frames=2400)
    kinds = {
        "wav": ("WAV", "PCM_16"), "flac": ("FLAC", None), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
        "mp3": ("MP3", None), "aiff": ("AIFF", None), "au": ("AU", None), "gsm": ("RAW", "GSM610"),
    }  # fmt: skip
    contents = {}
    for suffix, (kind, subtype) in kinds.items():
        file = io.BytesIO()
        soundfile.write(file, wave, rate_hz, format=kind, subtype=subtype)
        contents[suffix] = file.getvalue()
    return contents | {"m4a": aac(wave.astype(np.float32), rate_hz)}


def aac(wave: np.ndarray, rate_hz: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        for piece in av.AudioResampler("fltp", "mono", rate_hz, 1024).resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return file.getvalue()


def images(sample: Path) -> dict[str, bytes]:
    picture = Image.open(next(sorted_files(sample / "image"))).resize((40, 31))
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}
    contents = {}
    for suffix, kind in kinds.items():
        file = io.BytesIO()
        picture.save(file, kind)
        contents[suffix] = file.getvalue()
    return contents


def videos(sample: Path) -> dict[str, bytes]:
    path = next(sorted_files(sample / "video"))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))[:8]
    kinds = {
        "mp4": ("mp4", "libx264"), "mov": ("mov", "mpeg4"), "mkv": ("matroska", "libx264"),
        "webm": ("webm", "libvpx"), "avi": ("avi", "mpeg4"), "ts": ("mpegts", "libx264"),
    }  # fmt: skip
    contents = {}
    for suffix, (kind, codec) in kinds.items():
        file = io.BytesIO()
        with av.open(file, "w", format=kind) as target:
            stream = target.add_stream(codec, rate=12, options={"threads": "1"})
            stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
            for number, frame in enumerate(frames):
                frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, 12), 0
                target.mux(stream.encode(frame))
            target.mux(stream.encode())
        contents[suffix] = file.getvalue()
    return contents


def sorted_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_file()))


SOURCES = {Modality.AUDIO: sounds, Modality.IMAGE: images, Modality.VIDEO: videos}


def damage(sample: Path, modality: Modality, raw: Path) -> set[str]:
    """Write the damaged files; the same in every run."""
    rng = random.Random(f"fuzz {modality}")
    contents = SOURCES[modality](sample)
    suffixes = sorted(contents)
    strangers = [content for kind in Modality if kind is not modality for content in SOURCES[kind](sample).values()]
    names = set()
    for number in range(FILES):
        origin, mutation = suffixes[number % len(suffixes)], MUTATIONS[number // len(suffixes) % len(MUTATIONS)]
        content = contents[origin]
        suffix = origin
        if mutation is rename:
            suffix = rng.choice(suffixes)
            content = rng.choice([content, *strangers])
        name = f"{number:03d}_{mutation.__name__}_{origin}.{suffix}"
        (raw / name).write_bytes(mutation(content, rng))
        names.add(name)
    return names


@pytest.mark.parametrize("modality", list(Modality))
def test_damaged_files_are_read_or_rejected(
    modality: Modality, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "set"
    raw.mkdir()
    names = damage(sample, modality, raw)
    monkeypatch.setattr(importlib.import_module("bridle.decoding.server"), "_TIMEOUT_S", HANG_S)
    result = shard(raw, modality, out, workers=1)

    rejected = {reject["file"]: reject["reason"] for reject in result["rejects"]}
    reader = SampleReader([read_manifest(out)])
    accepted = {reader.meta(number)["path"] for number in range(len(reader))}
    assert accepted | set(rejected) == names and not accepted & set(rejected)
    assert (result["samples"], result["rejected"]) == (len(accepted), len(rejected))
    assert all(reason and "\n" not in reason for reason in rejected.values())
    assert len(accepted) > FILES / 10 and len(rejected) > FILES / 10  # the mutations are neither too mild nor too hard

    root = str(Path(bridle.__file__).parent.parent)
    reading = forks.run([sys.executable, "-c", READ, str(out)], cwd=root, capture_output=True, text=True)
    assert reading.returncode == 0, reading.stderr[-2000:]
    read = json.loads(reading.stdout)
    assert sorted(read["seen"]) == sorted(accepted) and not read["failures"]
