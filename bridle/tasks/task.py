"""A task: what a user wants to know of a published benchmark, and the reader of its release."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import Field

from bridle.config.sections import Section
from bridle.errors import UsageError, nearest
from bridle.schema import Modality
from bridle.tasks.audioset import AudioSet
from bridle.tasks.esc50 import Esc50
from bridle.tasks.imagenet import ImageNet
from bridle.tasks.kinetics import Kinetics
from bridle.tasks.something import Something
from bridle.tasks.speech_commands import SpeechCommands

_DEFINITIONS = resources.files("bridle.tasks") / "definitions"


class Task(Section):
    """One published benchmark, from `definitions/NAME.yaml`.

    Attributes:
        metric: what is reported: the share of right answers, or the mean over classes of the average precision.
        classes: how many the release has.
        train: the parts to train on.
        test: the parts to test on.
        folds: each of the parts is the test part in turn, the others train.
        clips: size of each part as published.
        published: citation and address.
        layout: the tree that is wanted, with the files that must be there.
        get: its source.
        views: clips in time and crops of each that are averaged at test.
        reader: of the release, with its arguments.
    """

    name: str
    title: str
    modality: Modality
    metric: Literal["accuracy", "map"] = "accuracy"
    classes: int
    multi_label: bool = False
    train: tuple[str, ...]
    test: tuple[str, ...]
    folds: bool = False
    clips: dict[str, int]
    published: str
    layout: str
    get: str
    views: tuple[int, int] = (1, 1)
    reader: Annotated[
        AudioSet | Esc50 | ImageNet | Kinetics | Something | SpeechCommands, Field(discriminator="release")
    ]


def task_names() -> list[str]:
    """Names of all tasks, sorted."""
    names = (entry.name for entry in _DEFINITIONS.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_task(name: str) -> Task:
    """A task by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in task_names():
        raise UsageError(f"There is no task '{name}'; {nearest(name, task_names())}", "List all: bridle eval --list")
    fields = yaml.safe_load((_DEFINITIONS / f"{name}.yaml").read_text("utf-8"))
    return Task.model_validate({"name": name, **fields})
