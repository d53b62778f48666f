"""What is exported: the model of a run, and the head of a classifier where it was fine-tuned."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridle import progress
from bridle.checkpoint import Head, find_checkpoint, load_model, read_about, read_classifier, read_state, run_of
from bridle.errors import BridleError
from bridle.infer.tokenize import require_codes
from bridle.model import Bridle, Classifier
from bridle.storage import Location, recorded


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in evaluation mode.

    Attributes:
        about: `model.json`.
        run: the run that pretrained it, where that can be told.
    """

    model: Bridle
    head: Head | None
    about: dict[str, Any]
    run: Path | None

    @property
    def classifier(self) -> Classifier | None:
        return self.head.classifier if self.head else None

    def parts(self, part: str) -> tuple[str, ...]:
        """ "encoder", "tokenizer", or what "both" stands for.

        Raises:
            UsageError: the tokenizer is asked for and was never fitted.
        """
        if part != "encoder":
            require_codes(self.model, "add --part encoder, or ")
        return ("encoder", "tokenizer") if part == "both" else (part,)

    @property
    def step(self) -> int:
        """Of the run's checkpoint that this is, or was fine-tuned from; 0 where nothing says so."""
        tuned = self.about.get("finetuned")
        place = str(tuned.get("checkpoint", "")) if isinstance(tuned, dict) else str(self.model.source)
        found = re.fullmatch(r"step-(\d+)", Path(place).resolve().name)
        return int(found[1]) if found else 0

    def unfinished(self) -> str:
        """What the files should say of a run that has not come to its end; "" of others."""
        state = self.state()
        if (status := state.get("status", "complete")) == "complete":
            return ""
        steps = (state.get("limits") or {}).get("steps")
        return f"not finished ({status}): step {self.step}" + (f" of {steps}" if steps else "")

    def state(self) -> dict[str, Any]:
        """`state.json` of the run; {} where there is none."""
        with suppress(BridleError):
            return read_state(self.run) if self.run else {}
        return {}

    def shards(self) -> list[Location]:
        """What the run was trained on, where all of it can be found."""
        with suppress(BridleError, OSError):
            places = [recorded(place, self.run, "--data") for place in self.state().get("shards", []) if self.run]
            return list(places) if all(place.exists() for place in places) else []
        return []


def open_subject(run: Path) -> Subject:
    """The newest checkpoint of a run, a checkpoint, an export, or what fine-tuning kept.

    Args:

    Raises:
        DataError: there is no model that can be used.
    """
    folder = find_checkpoint(run)
    about = read_about(folder)
    head = None
    if "classifier" in about:
        model, head = read_classifier(folder)
    else:
        model = load_model(folder)
    subject = Subject(model.eval().requires_grad_(False), head, about, _pretrained_by(folder, about))
    if not head and (unfinished := subject.unfinished()):
        progress.warn(
            f"{subject.run} is {unfinished} is exported; continue training with bridle pretrain --resume {subject.run}"
        )
    return subject


def _pretrained_by(folder: Path, about: dict[str, Any]) -> Path | None:
    tuned = about.get("finetuned")
    return run_of(str(tuned.get("checkpoint", ""))) if isinstance(tuned, dict) else run_of(str(folder))
