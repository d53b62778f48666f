"""A configuration as a caller gives it, before the corpus is known; cheap to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bridle.errors import ConfigError

if TYPE_CHECKING:
    from bridle.config import Config
    from bridle.config.adapt import Extent


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sources of a run's configuration, lowest priority first: preset < file < sets < seed and workers.

    Attributes:
        modality: of the sets to use when there are several; must agree with the preset.
        preset: a name of `bridle.config.presets()`; default: what the file extends, else MODALITY-tiny.
        file: YAML that overrides the preset.
        sets: `section.key=value` overrides of both.
        seed, workers: `train.seed` and `data.workers`.
    """

    modality: str | None = None
    preset: str | None = None
    file: Path | None = None
    sets: Sequence[str] = ()
    seed: int | None = None
    workers: int | None = None

    def load(self, modality: str | None = None, extent: Extent | None = None) -> tuple[Config, str]:
        """The configuration and the name of its preset ("" for a file that stands alone).

        Args:
            modality: of the corpus, whose MODALITY-tiny is taken when neither `preset` nor `file` names one.
            extent: of the corpus that the preset's sizes adapt to.

        Raises:
            ConfigError: as `bridle.config.load`; also when modality and preset disagree.
        """
        from bridle.config import ground, load

        below = ground(self.file) if self.file else None
        preset = self.preset or (below.preset if below else None)
        if not preset and modality and not (below and below.alone):
            preset = f"{modality}-tiny"
        loaded = load(preset, self.file, self.sets, {"train.seed": self.seed, "data.workers": self.workers}, extent)
        if self.modality not in (None, loaded.patches.modality):
            raise ConfigError(
                f"--modality {self.modality}, but preset '{preset}' is for {loaded.patches.modality}.",
                f"Choose --preset {self.modality}-tiny, or leave one of them out.",
            )
        return loaded, "" if below and below.alone else preset or ""
