"""A Choice -> YAML in which every value says what was seen, and when to change it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import torch

from bridle import __version__
from bridle.archive import Manifest
from bridle.cores import cores
from bridle.init_config.choice import PHASES, Choice
from bridle.init_config.patches import Line, about_patches
from bridle.sharding import describe

_WIDTH = 110
_GIGABYTE = 1e9
_READ_ALL_BELOW = 20_000  # clips whose descriptions are read for hours and labels; of more it would take minutes
_SIZES = {"duration_s": "duration, s", "rate_hz": "rate, Hz", "frames": "frames", "short_side": "short side, pixels"}


def commented(choice: Choice, manifests: Sequence[Manifest], place: str, minutes: float | None) -> str:
    """The text of the file.

    Args:
        manifests: what was looked at.
        place: where it lies, as the user named it.
        minutes: the time that was to be met.
    """
    full = choice.full
    sections: dict[str, list[Line]] = {
        "patches": about_patches(full.patches, choice.extent, choice.shares),
        "optim": [("batch_size", full.optim.batch_size, _about_batch(choice))],
        "train": [("part", full.train.part, _about_part(choice))] if full.train.part else [],
        "schedule": _about_schedule(choice, minutes),
        "data": _about_data(choice),
    }
    lines = [f"# By bridle init {__version__}. Other settings are the preset's: bridle config show --config FILE"]
    lines += [f"# {line}" for line in (*_about_shards(choice, manifests, place), _about_machine(choice))]
    reason = (
        f"{choice.why}. {choice.weights / 1e6:.1f} M weights in training; `bridle config diff {choice.preset} OTHER` "
        "shows the differences."
    )
    lines += ["", *_comment(reason, ""), f"extends: {choice.preset}"]
    for section, keys in sections.items():
        if keys:
            lines += ["", f"{section}:"]
        for key, value, comment in keys:
            lines += [*_comment(comment, "  "), f"  {key}: {value}"]
    return "\n".join(lines) + "\n"


def _about_shards(choice: Choice, manifests: Sequence[Manifest], place: str) -> list[str]:
    what = f"{_many(f'{choice.samples:,}', 'clip')} of {manifests[0].modality} in {_many(str(len(manifests)), 'set')}"
    if choice.samples < _READ_ALL_BELOW:
        looks = [describe(manifest) for manifest in manifests]
        labels = {label for look in looks for label in look["labels"]}
        hours = sum(look["hours"] for look in looks)
        what += f", {_many(str(len(labels)), 'label')}" + (f", {hours:.3g} hours" if hours else "")
    lines = [
        f"Found in {_one_line(place)}:",
        f"{what}, {_bytes(choice.decoded)} decoded; percentiles 5, 50, 95:",
    ]
    for key, values in choice.extent.items():
        lines.append(f"  {_SIZES[key]:20}" + "".join(f"{value:>10.4g}" for value in values))
    return lines


def _about_machine(choice: Choice) -> str:
    memory = f"{choice.free / _GIGABYTE:.1f} GB of memory free" if choice.free < float("inf") else "memory unknown"
    if choice.device.type == "cuda":
        seen = f"{torch.cuda.get_device_name(choice.device)}, {memory} on it, {cores()} cores"
    else:
        seen = f"{cores()} cores, {memory}, no GPU in use"
    return f"This machine: {seen}."


def _about_batch(choice: Choice) -> str:
    fewer = choice.full.optim.batch_size < choice.wanted
    few = f" (the preset's {choice.wanted} would leave fewer than four steps per epoch)" if fewer else ""
    if choice.samples < 4:
        few = " (the minimum: four steps per epoch would need four clips)"
    kept = "The learning rates are still the preset's: try lower ones" if fewer else "Scale the learning rates with it"
    return (
        f"Clips per step{few}; about {_bytes(choice.needed)} by the shapes of the networks. {kept} (optim.lr and "
        "optim.tokenizer_lr; a rule of thumb)."
    )


def _about_part(choice: Choice) -> str:
    return (
        f"A step needs more than half of the {_bytes(choice.free)} that are free, so it is computed in micro-batches "
        "(same result)."
    )


def _about_schedule(choice: Choice, minutes: float | None) -> list[Line]:
    if minutes:
        each = ", ".join(f"{_seconds_or_ms(taken)} of {kind}" for kind, taken in choice.step_s.items())
        length = f"Scaled to {minutes:g} minutes by measured times per step: {each}."
    else:
        length = (
            "The preset's; `bridle init --minutes 30` times some steps and scales it, `bridle pretrain --max-minutes "
            "30` scales it at the start."
        )
    each, all_steps = _many(f"{choice.steps_per_epoch:.3g}", "step"), _many(f"{choice.steps:,}", "step")
    text = f"Epochs of {each}, {all_steps} in total. {length}"
    return [(name, getattr(choice.full.schedule, name), text if name == "cold" else "") for name in PHASES]


def _about_data(choice: Choice) -> list[Line]:
    data, size = choice.full.data, _bytes(choice.decoded)
    if not data.workers:
        kept = f"Decoded clips are kept in memory if all of them fit into this: yours take {size}."
    else:
        kept = f"{size} of decoded clips are too much for memory: they are decoded in each epoch."
    what = "Decoding processes" + (
        "; increase it if a run waits for data." if data.workers else "; 0, since clips are decoded once."
    )
    return [("cache_gb", data.cache_gb, kept), ("workers", data.workers, what)]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent + "# ", subsequent_indent=indent + "# ")


def _many(count: str, word: str) -> str:
    return f"{count} {word}{'s' * (count != '1')}"


def _bytes(count: float) -> str:
    return f"{count / _GIGABYTE:,.1f} GB" if count >= _GIGABYTE else f"{count / 1e6:,.0f} MB"


def _seconds_or_ms(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
