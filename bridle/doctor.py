"""`bridle doctor`: what of this machine would stand in the way, each finding with its remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bridle.children import python
from bridle.cores import cores
from bridle.errors import BridleError
from bridle.storage.cache import cache_folder

Status = Literal["ok", "note", "warning", "fault"]
_STATUSES = ("ok", "note", "warning", "fault")
_EXTRAS = ("s3", "onnx", "huggingface", "parquet", "search", "ray", "tensorboard", "wandb", "plots")
_TOGETHER = ("torch", "torchvision", "torchaudio")  # of one release, or they do not load each other
_GIGABYTE = 10**9
_LEAST_DISK_GB = 5
_LEAST_SHARED_GB = 1
_LEAST_FILES = 1024
_DECODING_S = 120
_IMPORTING_S = 300
# A library may crash its process when it is imported: the name of each is printed before, what is wrong with it after.
_IMPORT = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    print(name, flush=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module(name)
        print(flush=True)
    except BaseException as error:
        print(type(error).__name__ + ":", *str(error).split(), flush=True)
"""
# A decoder may crash its process: each is tried in one of its own, on a clip that it makes itself.
_CLIPS = {
    "audio": """
import io, wave
file = io.BytesIO()
with wave.open(file, "wb") as out:
    out.setnchannels(1); out.setsampwidth(2); out.setframerate(16000); out.writeframes(bytes(32000))
content, name = file.getvalue(), "second.wav"
""",
    "image": """
import io
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (64, 48), (200, 30, 30)).save(file, "JPEG")
content, name = file.getvalue(), "red.jpg"
""",
    "video": """
import io, av, numpy
file = io.BytesIO()
with av.open(file, "w", format="mp4") as out:
    stream = out.add_stream("mpeg4", rate=12)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for step in range(24):
        picture = numpy.full((48, 64, 3), 10 * step, numpy.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    out.mux(stream.encode())
content, name = file.getvalue(), "grey.mp4"
""",
}
_DECODED_BY = {"audio": ("soundfile", "torchaudio"), "image": ("pillow",), "video": ("av", "decord")}
_DECODE = """
from bridle.media import decode, probe
info = probe(content, name)
print(tuple(decode(content, info).data.shape))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        status: `note` is for what is missing and may be; a `warning` slows or limits; with a `fault` something fails.
        found: what is there.
        remedy: what to do; "" where nothing need be done.
    """

    check: str
    status: Status
    found: str
    remedy: str = ""


def examine() -> list[dict[str, Any]]:
    """Everything, as `{check, status, found, remedy}`."""
    checks = (_packages, _extras, _decoders, _devices, _memory, _disks, _limits)
    return [asdict(finding) for check in checks for finding in check()]


def _packages() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    try:
        yield Finding("bridle", "ok", importlib.metadata.version("bridle"))
    except importlib.metadata.PackageNotFoundError:
        yield Finding("bridle", "fault", "is found, but not installed", "in its folder: pip install -e .")
        return
    packages = _asked_for("")
    broken = _broken(packages)
    for name, bounds in packages.items():
        version, install = _version(name), f"pip install '{name}{bounds}'"
        if name in broken:
            remedy = _reinstall(*(_TOGETHER if name in _TOGETHER else (name,)))
            yield Finding(name, "fault", f"{version} cannot be imported: {broken[name]}", remedy)
        elif version and bounds.contains(version, prereleases=True):
            yield Finding(name, "ok", version)
        elif version:
            yield Finding(name, "warning", f"{version}, tried with {bounds}", install)
        elif name == "decord":
            yield Finding(name, "note", "is missing: PyAV decodes video")
        else:
            yield Finding(name, "fault", "is missing", install)


def _extras() -> Iterator[Finding]:
    extras = {extra: _asked_for(extra) for extra in _EXTRAS}
    broken = _broken([name for packages in extras.values() for name in packages])
    for extra, packages in extras.items():
        if not packages:  # not installed ourselves: nobody knows what they are
            continue
        status: Status = "ok"
        versions = []
        for name, bounds in packages.items():
            version = _version(name)
            if version is None:
                status, found = max(status, "note", key=_STATUSES.index), f"{name} is missing"
            elif name in broken:
                status, found = "fault", f"{name} {version} cannot be imported: {broken[name]}"
            elif not bounds.contains(version, prereleases=True):
                status, found = max(status, "warning", key=_STATUSES.index), f"{name} {version}, tried with {bounds}"
            else:
                found = f"{name} {version}"
            versions.append(found)
        again = " --force-reinstall" * (status == "fault")
        wanted = "if you want it: " * (status == "note")
        remedy = "" if status == "ok" else f"{wanted}pip install{again} 'bridle[{extra}]'"
        yield Finding(f"[{extra}]", status, ", ".join(versions), remedy)


def _asked_for(extra: str) -> dict[str, SpecifierSet]:
    """Packages that an extra (or "": all that is ours) asks for, and the versions they may have; none uninstalled."""
    try:
        parsed = [Requirement(one) for one in importlib.metadata.requires("bridle") or []]
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {
        one.name: one.specifier
        for one in parsed
        if (one.marker is None or one.marker.evaluate({"extra": extra})) and (not extra or "extra" in str(one.marker))
    }


def _reinstall(*names: str) -> str:
    bounds = _asked_for("")
    return " ".join(["pip install --force-reinstall", *(f"'{name}{bounds.get(name, '')}'" for name in names)])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _broken(names: Iterable[str]) -> dict[str, str]:
    """What is wrong with those of the installed packages that cannot be imported."""
    modules: dict[str, str] = {}
    tops = importlib.metadata.packages_distributions()
    for name in names:
        own = [top for top, owners in tops.items() if name.lower() in [owner.lower() for owner in owners]]
        if found := [top for top in sorted(own, key=lambda top: top != name) if not top.startswith("_")]:
            modules[found[0]] = name
    waiting, broken = [*modules], dict[str, str]()
    while waiting:
        try:
            command = python(_IMPORT, *waiting)
            ran = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORTING_S, check=False)
            lines, died = ran.stdout.splitlines(), _how_it_died(ran.returncode)
        except subprocess.TimeoutExpired as late:
            lines, died = bytes(late.stdout or b"").decode().splitlines(), f"hung for {_IMPORTING_S} s"
        answers = dict(zip(lines[::2], [*lines[1::2], died]))
        broken |= {modules[top]: why for top, why in answers.items() if why}
        waiting = waiting[len(answers) :] if answers else []
    return broken


def _how_it_died(code: int) -> str:
    return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended the process ({code})"


def _decoders() -> Iterator[Finding]:
    for modality, clip in _CLIPS.items():
        try:
            command = python(clip + _DECODE)
            ran = subprocess.run(command, capture_output=True, text=True, timeout=_DECODING_S, check=False)
        except subprocess.TimeoutExpired:
            yield Finding(
                f"decodes {modality}", "fault", f"hung for {_DECODING_S} s", _reinstall(*_DECODED_BY[modality])
            )
            continue
        if ran.returncode == 0:
            yield Finding(f"decodes {modality}", "ok", f"{ran.stdout.strip()} from a generated clip")
            continue
        last = (ran.stderr.strip().splitlines() or ["?"])[-1]
        why = _how_it_died(ran.returncode) if ran.returncode < 0 else last
        yield Finding(f"decodes {modality}", "fault", why, _reinstall(*_DECODED_BY[modality]))


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # whatever a broken installation throws
        yield Finding("devices", "fault", f"torch cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    half = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    computes = "bfloat16 in hardware" if half else "float32 (no bfloat16 in hardware)"
    yield Finding("CPU", "ok", f"{cores()} cores for this process, {torch.get_num_threads()} threads, {computes}")
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        remedy = "If there is a GPU, its driver must match PyTorch's CUDA: see nvidia-smi." if built else ""
        yield Finding(
            "GPU", "note", f"none{f' (PyTorch is built for CUDA {torch.version.cuda})' if built else ''}", remedy
        )
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        busy = free < total / 2
        yield Finding(
            f"GPU {number}",
            "warning" if busy else "ok",
            f"{torch.cuda.get_device_name(number)}, {free / _GIGABYTE:.1f} of {total / _GIGABYTE:.1f} GB free",
            "Other processes use it: see nvidia-smi." if busy else "",
        )


def _memory() -> Iterator[Finding]:
    try:
        import torch

        from bridle.memory import free_memory

        free = free_memory(torch.device("cpu")) / _GIGABYTE
    except ImportError:
        return
    if free == float("inf"):
        yield Finding("memory", "note", "free memory is unknown")
    else:
        low = free < 2
        yield Finding(
            "memory", "warning" if low else "ok", f"{free:.1f} GB free", "Close other programs." if low else ""
        )


def _disks() -> Iterator[Finding]:
    try:
        places = {"disk here": Path.cwd(), "disk of the cache": cache_folder()}
    except (OSError, BridleError) as error:
        yield Finding("disk of the cache", "fault", str(error), "Set a folder: BRIDLE_CACHE=...")
        return
    for check, folder in places.items():
        there = next(one for one in (folder, *folder.parents) if one.exists())
        free = shutil.disk_usage(there).free / _GIGABYTE
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield Finding(
                check,
                "fault",
                f"{folder} cannot be written: {error.strerror}",
                "Use another folder, or set BRIDLE_CACHE=...",
            )
            continue
        low = free < _LEAST_DISK_GB
        remedy = "Shards and checkpoints may not fit: free some space." if low else ""
        yield Finding(check, "warning" if low else "ok", f"{folder}: {free:.1f} GB free", remedy)


def _limits() -> Iterator[Finding]:
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / _GIGABYTE
        low = size < _LEAST_SHARED_GB
        yield Finding(
            "shared memory",
            "warning" if low else "ok",
            f"{size:.2f} GB",
            "Decoding processes may run out of it: docker run --shm-size=8g, or data.workers=0." if low else "",
        )
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    low = 0 <= files < _LEAST_FILES
    yield Finding("open files", "warning" if low else "ok", str(files), f"ulimit -n {_LEAST_FILES}" if low else "")
