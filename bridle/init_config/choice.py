"""What a run on given shards begins with: manifests and this machine -> a Choice, and what it rests on."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bridle import config, progress
from bridle.archive import Manifest, merge_extent
from bridle.config.sections import Config
from bridle.cores import cores
from bridle.errors import ConfigError, UsageError
from bridle.init_config.patches import Shares, energy_shares, proposed_band
from bridle.memory import free_memory
from bridle.model import weightless
from bridle.stream.cache import cache_bytes
from bridle.train import Limits, pretrain
from bridle.train.cost import step_bytes
from bridle.train.phases import plan_phases

PHASES = ("cold", "tokenizer", "encoder")
_GIGABYTE = 1e9
_TINY_BELOW, _SMALL_BELOW = 10_000, 200_000  # clips, with a GPU
_TIMED_MINUTES = 0.25
_MOST_MINUTES = 366 * 24 * 60
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """A configuration, and what its values rest on.

    Attributes:
        why: the reason for the preset.
        full: the preset with what was changed.
        wanted: the preset's own batch size.
        extent: 5, 50 and 95 % quantiles of the clips' sizes.
        shares: frequency -> share of the energy of audio above it; empty: not measured.
        decoded: bytes of all clips when decoded.
        needed: bytes a step takes, by the shapes of the networks.
        free: bytes of memory on the device; infinite where it does not say.
        weights: in training.
        step_s: seconds a step of each kind of phase takes, as measured; empty without a time to meet.
    """

    preset: str
    why: str
    full: Config
    wanted: int
    samples: int
    extent: Mapping[str, Sequence[float]]
    shares: Shares
    decoded: int
    device: torch.device
    needed: float
    free: float
    weights: int
    step_s: Mapping[str, float]

    @property
    def steps_per_epoch(self) -> float:
        return self.samples / self.full.optim.batch_size

    @property
    def steps(self) -> int:
        return sum(phase.steps or 0 for phase in plan_phases(self.full.schedule, self.steps_per_epoch))


def choose(manifests: Sequence[Manifest], *, preset: str | None, minutes: float | None, device: str) -> Choice:
    """Looks at sets and this machine.

    Args:
        manifests: sets of one modality.
        preset: instead of the one that the number of clips and the device suggest.
        minutes: how long the run may take: some steps are timed, and the schedule is stretched to it.

    Raises:
        ConfigError: no such preset, or one of another modality.
        UsageError: no minutes, or more than a year.
    """
    if minutes is not None and not 0 < minutes <= _MOST_MINUTES:
        raise UsageError(f"A run of {minutes:g} minutes: expected more than 0 and at most a year ({_MOST_MINUTES:,}).")
    samples, where = sum(manifest.samples for manifest in manifests), torch.device(device)
    decoded = sum(manifest.decoded_bytes for manifest in manifests)
    extent = merge_extent(manifests)
    modality = str(manifests[0].modality)
    chosen, why = (preset, "As you asked") if preset else _preset(modality, samples, where)
    plain = config.load(chosen).patches
    if (other := plain.modality) != modality:
        raise ConfigError(
            f"Preset '{chosen}' is for {other}, and these shards are {modality}.",
            f"Choose --preset {modality}-tiny, or leave it out.",
        )
    shares = energy_shares(manifests)
    band = proposed_band(plain, extent, shares)
    full = config.load(chosen, sets=[f"patches.{name}={value}" for name, value in band.items()], extent=extent)
    wanted = full.optim.batch_size
    full = _changed(full, "optim", batch_size=_batch_size(wanted, samples))
    model = weightless(full)
    decoded = cache_bytes(decoded, model.patcher.rate_hz, model.patcher.exact)
    needed, free = step_bytes(model, full.optim.batch_size), free_memory(where)
    if needed > free / 2:
        full = _changed(full, "train", part="auto")
    full = _changed(full, "data", **_data(full, manifests, decoded, where))
    step_s: dict[str, float] = {}
    if minutes is not None:
        step_s = _time(full, manifests, device)
        factor = 60 * minutes / _seconds(full, samples / full.optim.batch_size, step_s)
        full = _changed(
            full, "schedule", **{name: float(f"{getattr(full.schedule, name) * factor:.3g}") for name in PHASES}
        )
    weights = sum(one.numel() for one in model.parameters())
    return Choice(chosen, why, full, wanted, samples, extent, shares, decoded, where, needed, free, weights, step_s)


def _changed(full: Config, section: str, **values: Any) -> Config:
    return full.model_copy(update={section: getattr(full, section).model_copy(update=values)})


def _preset(modality: str, samples: int, device: torch.device) -> tuple[str, str]:
    if device.type == "cpu":
        return f"{modality}-tiny", "No GPU: the tiny presets were chosen by runs of minutes on two cores"
    size = "tiny" if samples < _TINY_BELOW else "small" if samples < _SMALL_BELOW else "base"
    rule = f"tiny below {_TINY_BELOW:,} clips, small below {_SMALL_BELOW:,}, then base"
    return f"{modality}-{size}", f"A GPU and {samples:,} clips; a rule of thumb, not measured: {rule}"


def _batch_size(wanted: int, samples: int) -> int:
    """The preset's, or a power of two that leaves four steps in a pass over a smaller set; 1 below four clips."""
    return wanted if samples >= 4 * wanted else 1 << max(0, (samples // 4).bit_length() - 1)


def _data(full: Config, manifests: Sequence[Manifest], decoded: int, device: torch.device) -> dict[str, Any]:
    """Decoded clips are kept where a quarter of the memory holds them; what is kept needs no decoding processes."""
    keep = full.data.cache_gb
    if keep * _GIGABYTE < decoded < free_memory(torch.device("cpu")) / 4:
        keep = float(int(decoded / _GIGABYTE) + 1)
    cached = decoded <= keep * _GIGABYTE and all(manifest.checked for manifest in manifests)
    return {
        "cache_gb": keep,
        "workers": 0 if cached else min(_MOST_WORKERS, max(1, cores() - (device.type == "cpu"))),
    }


def _time(full: Config, manifests: Sequence[Manifest], device: str) -> dict[str, float]:
    """Seconds a step of each kind of phase takes here: a short run that is thrown away."""
    marks: list[tuple[str, float]] = []
    steps, outside = itertools.count(1), progress.listener()
    progress.note(f"timing steps: at least one of each phase, and {60 * _TIMED_MINUTES:g} s of them ...")

    def mark(kind: str, **fields: Any) -> None:
        if kind in ("phase", "step"):
            marks.append((fields["phase"], time.monotonic()))
        if kind == "step":
            outside("progress", done=next(steps), total=None, what="timed steps")

    timed = _changed(full, "train", log_every=1, checkpoint_every=10**9, probe_every=0, tracker="none")
    with tempfile.TemporaryDirectory(prefix="bridle-init-") as folder, progress.listening(mark):
        pretrain(timed, manifests, Path(folder) / "run", limits=Limits(max_minutes=_TIMED_MINUTES), device=device)
    taken: dict[str, list[float]] = {}
    for (before, began), (kind, ended) in itertools.pairwise(marks):
        if before == kind:
            taken.setdefault(kind, []).append(ended - began)
    # The first step of a phase also starts what the others find there.
    return {kind: statistics.median(each[1:] or each) for kind, each in taken.items()}


def _seconds(full: Config, steps_per_epoch: float, step_s: Mapping[str, float]) -> float:
    phases = plan_phases(full.schedule, steps_per_epoch)
    return sum((phase.steps or 0) * step_s[phase.kind] for phase in phases)
