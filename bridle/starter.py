"""`bridle init`: a commented configuration for given shards, from what they and this machine look like.

manifests -> preset -> its sizes adapted to the clips (bridle/config/adapt.py) -> YAML in which every value says what
was seen and when to change it. What is not measured is called a rule of thumb.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bridle import __version__, config
from bridle.config.recipe import Recipe
from bridle.config.sections import Config
from bridle.cores import cores
from bridle.model import weightless
from bridle.sharding import Manifest, describe, merge_extent
from bridle.train import pretrain
from bridle.train.cost import free_memory, step_bytes
from bridle.train.phases import plan_phases

_WIDTH = 110
_GIGABYTE = 1e9
_READ_ALL_BELOW = 20_000  # clips whose descriptions are read for hours and labels; of more it would take minutes
_TINY_BELOW, _SMALL_BELOW = 10_000, 200_000  # clips, with a GPU
_TIMED_MINUTES = 0.25
_MOST_WORKERS = 8
_PHASES = ("cold", "tokenizer", "encoder")
_SIZES = {"duration_s": "duration, s", "rate_hz": "rate, Hz", "frames": "frames", "short_side": "short side, pixels"}

Line = tuple[str, Any, str]  # key, value, comment ("": the one above speaks for it)


@dataclass(frozen=True, slots=True)
class Starter:
    """What was chosen.

    Attributes:
        text: the file.
        step_ms: of each kind of phase, as measured; empty without a time to meet.
    """

    text: str
    preset: str
    samples: int
    steps: int
    memory_mb: int
    step_ms: dict[str, float]


def make_starter(
    manifests: Sequence[Manifest], place: str, *, preset: str | None, minutes: float | None, device: str
) -> Starter:
    """Looks, chooses and writes down why.

    Args:
        manifests: sets of one modality.
        place: where they lie, as the user named it.
        preset: instead of the one that the number of clips and the device suggest.
        minutes: how long the run may take: some steps are timed, and the schedule is stretched to it.

    Raises:
        ConfigError: no such preset, or one of another modality.
    """
    samples = sum(manifest.samples for manifest in manifests)
    extent, where = merge_extent(manifests), torch.device(device)
    modality = str(manifests[0].modality)
    chosen, why = (preset, "As you asked") if preset else _choose(modality, samples, where)
    Recipe(modality, chosen).load()  # says so if it is for another modality
    full = config.load(chosen, extent=extent)
    wanted = full.optim.batch_size
    batch = _batch_size(wanted, samples)
    full = full.model_copy(update={"optim": full.optim.model_copy(update={"batch_size": batch})})
    model = weightless(full)
    needed, free = step_bytes(model, batch), free_memory(where)
    weights = sum(one.numel() for one in model.parameters()) / 1e6
    if needed > free / 2:
        full = full.model_copy(update={"train": full.train.model_copy(update={"part": "auto"})})
    step_s = _time(full, manifests, device) if minutes else {}
    if minutes:
        factor = 60 * minutes / _seconds(full, samples / batch, step_s)
        lengths = {name: float(f"{getattr(full.schedule, name) * factor:.3g}") for name in _PHASES}
        full = full.model_copy(update={"schedule": full.schedule.model_copy(update=lengths)})
    steps = sum(phase.steps or 0 for phase in plan_phases(full.schedule, samples / batch))
    sections: dict[str, list[Line]] = {
        "patches": _patches(full.patches.model_dump(), extent),
        "optim": [("batch_size", batch, _about_batch(batch, wanted, samples, needed))],
        "train": [("part", "auto", _about_part(needed, free))] if full.train.part else [],
        "schedule": _schedule(full, samples / batch, steps, minutes, step_s),
        "data": _data(full, manifests, where),
    }
    head = [*_about_shards(manifests, place, extent), f"Seen of this machine: {_machine(where, free)}."]
    reason = (
        f"{why}. {weights:.1f} M weights in training; `bridle config diff {chosen} OTHER` shows what others change."
    )
    return Starter(
        _write(head, chosen, reason, sections), chosen, samples, steps, round(needed / 1e6),
        {kind: round(1000 * taken, 2) for kind, taken in step_s.items()},
    )  # fmt: skip


def _choose(modality: str, samples: int, device: torch.device) -> tuple[str, str]:
    if device.type == "cpu":
        return f"{modality}-tiny", "No GPU: the tiny presets were chosen by runs of minutes on two cores"
    size = "tiny" if samples < _TINY_BELOW else "small" if samples < _SMALL_BELOW else "base"
    rule = f"tiny below {_TINY_BELOW:,} clips, small below {_SMALL_BELOW:,}, then base"
    return f"{modality}-{size}", f"A GPU and {samples:,} clips; a rule of thumb, not measured: {rule}"


def _batch_size(wanted: int, samples: int) -> int:
    """The preset's, or a power of two that leaves four steps in a pass over a smaller set."""
    return wanted if samples >= wanted else 1 << max(0, (samples // 4).bit_length() - 1)


def _time(full: Config, manifests: Sequence[Manifest], device: str) -> dict[str, float]:
    """Seconds a step of each kind of phase takes here: a short run that is thrown away."""
    marks: list[tuple[str, float]] = []

    def mark(kind: str, **fields: Any) -> None:
        if kind in ("phase", "step"):
            marks.append((fields["phase"], time.monotonic()))

    quick = full.train.model_copy(
        update={"log_every": 1, "checkpoint_every": 10**9, "probe_every": 0, "tracker": "none"}
    )
    with tempfile.TemporaryDirectory(prefix="bridle-init-") as folder:
        timed = full.model_copy(update={"train": quick})
        pretrain(timed, manifests, Path(folder) / "run", max_minutes=_TIMED_MINUTES, device=device, on_event=mark)
    taken: dict[str, list[float]] = {}
    for (before, began), (kind, ended) in itertools.pairwise(marks):
        if before == kind:
            taken.setdefault(kind, []).append(ended - began)
    # The first step of a phase also starts what the others find there.
    return {kind: statistics.median(each[1:] or each) for kind, each in taken.items()}


def _seconds(full: Config, steps_per_epoch: float, step_s: Mapping[str, float]) -> float:
    phases = plan_phases(full.schedule, steps_per_epoch)
    return sum((phase.steps or 0) * step_s[phase.kind] for phase in phases)


def _about_shards(manifests: Sequence[Manifest], place: str, extent: Mapping[str, Sequence[float]]) -> list[str]:
    samples = sum(manifest.samples for manifest in manifests)
    what = f"{samples:,} clips of {manifests[0].modality} in {len(manifests)} set{'s' * (len(manifests) > 1)}"
    if samples < _READ_ALL_BELOW:
        looks = [describe(manifest) for manifest in manifests]
        labels = {label for look in looks for label in look["labels"]}
        hours = sum(look["hours"] for look in looks)
        what += f", {len(labels)} labels" + (f", {hours:.3g} hours" if hours else "")
    decoded = sum(manifest.decoded_bytes for manifest in manifests)
    lines = [f"Seen in {_one_line(place)}:", f"{what}, {_bytes(decoded)} when decoded; 5, 50, 95 % of them are below:"]
    for key, values in extent.items():
        lines.append(f"  {_SIZES[key]:20}" + "".join(f"{value:>10.4g}" for value in values))
    return lines


def _machine(device: torch.device, free: float) -> str:
    memory = f"{free / _GIGABYTE:.1f} GB of memory free" if free < float("inf") else "memory unknown"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {memory} on it, {cores()} cores"
    return f"{cores()} cores, {memory}, no GPU in use"


def _patches(patches: Mapping[str, Any], extent: Mapping[str, Sequence[float]]) -> list[Line]:
    """Sizes of windows, pictures and patches, as far as this kind of media has them."""
    lines: list[Line] = []
    if "stride" in patches:
        lines += _about_frames(patches, extent)
    elif "frames" in patches:
        lines += _about_window(patches, extent)
    if "size" in patches:
        lines += _about_size(patches, extent)
    return lines


def _about_window(patches: Mapping[str, Any], extent: Mapping[str, Sequence[float]]) -> list[Line]:
    window_s, (_, middle_s, longest_s) = patches["frames"] / 100, extent["duration_s"]
    if longest_s < window_s + 0.01:
        seen = "95 % of your clips are no longer, nothing of them is cut off"
    else:
        seen = f"each pass takes one at random from a longer clip, and half of yours are longer than {middle_s:.3g} s"
    whole, rate = patches["rate_hz"] / 2, extent["rate_hz"][1]
    band = patches["high_hz"] or whole
    empty = ": the upper bands of those are empty" if band > rate / 2 else ""
    return [
        (
            "frames",
            patches["frames"],
            f"A window of {window_s:.3g} s (10 ms a frame): {seen}. More, where what matters takes longer than that; "
            "work grows with it.",
        ),
        (
            "patch_frames",
            patches["patch_frames"],
            f"A patch spans {10 * patches['patch_frames']} ms: {-(-patches['frames'] // patches['patch_frames'])} of "
            "them a window.",
        ),
        (
            "high_hz",
            patches["high_hz"],
            f"Mel bands end at {band:.0f} Hz (0: at {whole:.0f}). Half of your clips have a rate of {rate:.0f} "
            f"Hz or less, and no sound above half of it{empty}.",
        ),
    ]


def _about_frames(patches: Mapping[str, Any], extent: Mapping[str, Sequence[float]]) -> list[Line]:
    taken, rate = patches["frames"] * patches["stride"], extent.get("rate_hz", [0, 0, 0])[1]
    long = f", {taken / rate:.3g} s" if rate else ""
    return [
        (
            "frames",
            patches["frames"],
            f"A window of {patches['frames']} frames, one taken in {patches['stride']} (stride), from {taken} of the "
            f"video{long}; half of your clips have {extent['frames'][1]:.0f} or fewer. A larger stride shows slower "
            "movements.",
        ),
        ("stride", patches["stride"], ""),
        ("tubelet", patches["tubelet"], f"A patch spans {patches['tubelet']} of these frames; frames is a multiple."),
    ]


def _about_size(patches: Mapping[str, Any], extent: Mapping[str, Sequence[float]]) -> list[Line]:
    side, size = extent["short_side"][1], patches["size"]
    scaled = "shrunk" if side > size else "left as they are" if side == size else "enlarged"
    least = (patches["crop_scale"] ** 0.5) * side
    return [
        (
            "size",
            size,
            f"Pixels of a side; half of your clips have a short side of {side:.0f} or less, and without a crop they "
            f"are {scaled}. More, where details matter; work grows with its square. A multiple of patch.",
        ),
        ("patch", patches["patch"], ""),
        (
            "crop_scale",
            patches["crop_scale"],
            f"Smallest share of the area that a random crop keeps: {least:.0f} of {side:.0f} pixels here. 1: no crops, "
            "where position and scale must stay.",
        ),
    ]


def _about_batch(batch: int, wanted: int, samples: int, needed: float) -> str:
    few = f" (the preset's {wanted} are more than the {samples} there are)" if batch < wanted else ""
    kept = "The rates in optim are still the preset's: try lower ones too" if few else "With another number scale them"
    return (
        f"Clips a step{few}; about {_bytes(needed)} by the shapes of the networks. {kept} (optim.lr and "
        "optim.tokenizer_lr alike; a rule of thumb)."
    )


def _about_part(needed: float, free: float) -> str:
    return (
        f"A step needs more than half of the {_bytes(free)} that are free: it is computed in parts that fit "
        "(the same batch)."
    )


def _schedule(
    full: Config, steps_per_epoch: float, steps: int, minutes: float | None, step_s: Mapping[str, float]
) -> list[Line]:
    if minutes:
        each = ", ".join(f"{_seconds_or_ms(taken)} of {kind}" for kind, taken in step_s.items())
        length = f"Stretched to {minutes:g} minutes at what was measured here, a step: {each}."
    else:
        length = (
            "The preset's; `bridle init --minutes 30` times some steps and fits it, `bridle pretrain --max-minutes 30` "
            "ends then."
        )
    told = f"Passes over the data, {steps_per_epoch:.3g} steps each: {steps:,} steps in all. {length}"
    return [(name, getattr(full.schedule, name), told if name == "cold" else "") for name in _PHASES]


def _data(full: Config, manifests: Sequence[Manifest], device: torch.device) -> list[Line]:
    decoded = sum(manifest.decoded_bytes for manifest in manifests)
    keep = full.data.cache_gb
    if keep * _GIGABYTE < decoded < free_memory(torch.device("cpu")) / 4:
        keep = float(int(decoded / _GIGABYTE) + 1)
    cached = decoded <= keep * _GIGABYTE and all(manifest.checked for manifest in manifests)
    workers = 0 if cached else min(_MOST_WORKERS, max(1, cores() - (device.type == "cpu")))
    kept = f"Decoded clips are kept in memory if all of them fit into this: yours take {_bytes(decoded)}."
    again = f"{_bytes(decoded)} of decoded clips are more than memory should hold: they are decoded in each pass."
    what = "Decoding processes" + ("; none, clips are decoded once." if cached else "; more, if a run waits for data.")
    return [("cache_gb", keep, kept if cached else again), ("workers", workers, what)]


def _write(head: Sequence[str], preset: str, reason: str, sections: Mapping[str, Sequence[Line]]) -> str:
    lines = [f"# By bridle init {__version__}. What is not here is the preset's: bridle config show --config FILE"]
    lines += ["# " + line for line in head]
    lines += ["", *_comment(reason, ""), f"extends: {preset}"]
    for section, keys in sections.items():
        if keys:
            lines += ["", f"{section}:"]
        for key, value, comment in keys:
            lines += [*_comment(comment, "  "), f"  {key}: {value}"]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent + "# ", subsequent_indent=indent + "# ")


def _bytes(count: float) -> str:
    return f"{count / _GIGABYTE:,.1f} GB" if count >= _GIGABYTE else f"{count / 1e6:,.0f} MB"


def _seconds_or_ms(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
