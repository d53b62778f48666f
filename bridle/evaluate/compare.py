"""`bridle compare`: the kept results of several folders, question by question, each against the first folder's.

A question is a task, data set, protocol, pooling, metric and way to divide. Of each folder its newest result counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bridle import progress
from bridle.checkpoint import Tested, read_results, read_tested
from bridle.checkpoint.results import DIVISION
from bridle.errors import DataError, UsageError
from bridle.evaluate.evaluate import OWN_DATA
from bridle.evaluate.metrics import percentiles
from bridle.evaluate.paired import Baseline, Paired

CONFIDENCE = 0.95
_ASKED = ("task", "protocol", "pool", "metric", "labels", *DIVISION, "views")
_SHOWN = ("labels", "test_share", "split_file", "views")  # what else tells questions apart
_FEW = 10  # clips that decide: with fewer a bootstrap interval is too narrow
_WITHOUT_CLIPS = ("codebook",)  # protocols that judge no clip
_LABELS = {"accuracy": 1, "map": 2}  # dimensions of the truth behind a metric


@dataclass
class Answer:
    """One result of one folder."""

    folder: Path
    result: dict[str, Any]

    @property
    def question(self) -> str:
        """What was asked, but for the data; equal texts are equal questions."""
        return json.dumps([self.result.get(key) for key in _ASKED])

    @property
    def data(self) -> str:
        """As it was spelled."""
        return str(self.result.get("data"))

    @cached_property
    def _read(self) -> tuple[Tested | None, str | None]:
        metric = self.result["metric"]
        if self.result["protocol"] in _WITHOUT_CLIPS:
            return None, None
        if not self.result.get("clips"):
            return None, "results of each clip were not stored; run bridle eval again"
        try:
            tested = read_tested(self.folder, self.result)
        except DataError as error:
            return None, error.message
        if tested.y.ndim != _LABELS.get(metric):
            return None, f"{metric} is not compared clip by clip"
        return tested, None

    @property
    def tested(self) -> Tested | None:
        """What was said of each clip."""
        return self._read[0]

    @property
    def fault(self) -> str | None:
        """Why that is not known, where it should be."""
        return self._read[1]

    @cached_property
    def paths(self) -> set[str]:
        return set(self.tested.paths) if self.tested else set()

    def same_data(self, other: Answer) -> bool:
        """By the tested clips where the spelling differs: a folder and its shards are one data set."""
        if self.data == other.data:
            return True
        if self.paths and other.paths:
            return not self.paths.isdisjoint(other.paths)
        return self.result["task"] != OWN_DATA

    def __str__(self) -> str:
        words = [str(self.result[key]) for key in _ASKED[:4] if self.result.get(key)]
        folds, groups = self.result.get("folds"), self.result.get("group_by")
        words += [f"{folds} folds"] if folds and folds != 1 else []
        words += [f"grouped by {groups}"] if groups else []
        words += [f"{name.replace('_', ' ')} {value}" for name in _SHOWN if (value := self.result.get(name))]
        return f"{' '.join(words)} on {self.data}"


def compare(folders: Sequence[Path], *, protocol: str | None = None, task: str | None = None) -> list[dict[str, Any]]:
    """Each question that the first folder and any other answer.

    The interval of a difference is a paired bootstrap over the clips that both were tested on. With n folders beside
    the first it is one of 1 - 0.05 / n (Bonferroni): that any of a question's marks is there by chance has a
    probability of 5 % at most. It speaks of other clips, not of other training seeds.

    Args:
        folders: runs, or others with a `results.json`; the first is the baseline.
        protocol, task: only results of these.

    Returns:
        For each question `{task, protocol, pool, metric, folds, group_by, data, clips, confidence, rows}`, `clips` as
        the baseline was tested on. Rows are `{run, checkpoint, value, ci95, n_train, seed, data, clips, difference,
        difference_ci, mark, note}`: `clips` in common with the baseline; `mark` is `+` for better, `-` for worse, `=`
        for what cannot be distinguished. The last five are None where there is nothing to say.

    Raises:
        UsageError: fewer than two folders, or one twice.
        DataError: no results, no question in common, or a clip that has other labels in another folder.
    """
    _check_folders(folders)
    answers = [_answers(folder, protocol, task) for folder in folders]
    compared: list[list[Answer]] = []
    for question in dict.fromkeys(answer.question for answer in answers[0]):
        compared += _line_up([[one for one in each if one.question == question] for each in answers])
    if not compared:
        raise _nothing_in_common(folders, answers, protocol, task)
    _note_left_out(answers, compared)
    return [_question(answers) for answers in compared]


def _check_folders(folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        raise UsageError(
            f"compare needs at least two runs, got {len(folders)}.",
            "Use bridle compare BASELINE RUN...; bridle runs lists the runs.",
        )
    seen: dict[Path, Path] = {}
    for folder in folders:
        if (place := folder.resolve()) in seen:
            again = "" if seen[place] == folder else f", as {seen[place]}"
            raise UsageError(f"{folder} is given twice{again}.", "Name each run once.")
        seen[place] = folder


def _answers(folder: Path, protocol: str | None, task: str | None) -> list[Answer]:
    """The newest first.

    Raises:
        DataError: there are none.
    """
    found = [Answer(folder, result) for result in reversed(read_results(folder)) if _is_whole(result)]
    if not found:
        file = folder / "results.json"
        raise DataError(
            f"{file} {'holds no results' if file.exists() else 'does not exist'}: {folder} was not evaluated.",
            f"bridle eval --checkpoint {folder} --data DATA --out {folder}; for an untrained model: bridle eval "
            "--checkpoint random "
            f"--preset NAME --data DATA --out {folder}",
        )
    wanted = {"protocol": protocol, "task": task}
    return [one for one in found if all(value in (None, one.result[key]) for key, value in wanted.items())]


def _is_whole(result: dict[str, Any]) -> bool:
    """Whether it says what every result says."""
    ends = result.get("ci95")
    texts = all(isinstance(result.get(key), str) for key in ("task", "protocol", "metric"))
    return texts and isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, [result.get("value"), *ends]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line_up(answers: list[list[Answer]]) -> Iterator[list[Answer]]:
    """One list for each data set: the baseline's newest answer, and that of every other folder that has one.

    A folder with the question but on none of the baseline's data sets goes with the newest: that they are not the same
    clips is said where they are shown.
    """
    sets: list[list[Answer]] = []
    for mine in answers[0]:
        if not any(one[0].same_data(mine) for one in sets):
            sets.append([mine])
    for theirs in answers[1:]:
        pairs = [(one, next(filter(one[0].same_data, theirs), None)) for one in sets]
        if theirs and not any(answer for _, answer in pairs):
            pairs = [(sets[0], theirs[0])]
        for one, answer in pairs:
            one += [answer] if answer else []
    yield from (one for one in sets if len(one) > 1)


def _question(answers: list[Answer]) -> dict[str, Any]:
    """A question as `compare` returns it."""
    first, *others = answers
    baseline = Baseline(first.tested) if first.tested else None
    pairs = [_paired(first, baseline, other) for other in others]
    confidence = 1 - (1 - CONFIDENCE) / max(1, sum(pair is not None for pair in pairs))
    rows = [_row(first, [first.fault] if first.fault else [])]
    for other, pair in zip(others, pairs, strict=True):
        if pair:
            rows.append(_row(other, _doubts(first, other, pair)) | _judged(pair, confidence))
        else:
            rows.append(_row(other, _unpaired(first, other)))
    clips = len(first.tested.paths) if first.tested else first.result.get("n_test")
    asked = {key: first.result.get(key) for key in _ASKED}
    return {**asked, "data": first.data, "clips": clips, "confidence": confidence, "rows": rows}


def _paired(first: Answer, baseline: Baseline | None, other: Answer) -> Paired | None:
    if not (baseline and other.tested):
        return None
    try:
        return baseline.against(other.tested)
    except DataError as error:
        raise DataError(
            f"{first.folder} and {other.folder} were tested on different labels: {error.message}.",
            f"Evaluate both on the same data; they used {first.data} and {other.data}.",
        ) from error


def _row(answer: Answer, notes: list[str]) -> dict[str, Any]:
    result = answer.result
    return {
        "run": str(answer.folder),
        **{key: result.get(key) for key in ("checkpoint", "value", "ci95", "n_train", "seed", "data")},
        **dict.fromkeys(("clips", "difference", "difference_ci", "mark")),
        "note": "; ".join(notes) or None,
    }


def _judged(pair: Paired, confidence: float) -> dict[str, Any]:
    low, high = percentiles(pair.drawn_R, confidence)
    mark = "+" if low > 0 else "-" if high < 0 else "="
    return {"clips": pair.clips, "difference": pair.difference, "difference_ci": [low, high], "mark": mark}


def _doubts(first: Answer, other: Answer, pair: Paired) -> list[str]:
    """What the reader must know of a difference."""
    found = []
    if pair.baseline_only or pair.other_only:
        found.append(
            f"{pair.baseline_only} clips of {first.folder} and {pair.other_only} of {other.folder} were not tested by "
            f"both; the difference is over the other {pair.clips}"
        )
    if pair.disagreements and pair.disagreements < _FEW:
        found.append(f"{pair.disagreements} clips differ: too few for a good interval")
    return found


def _unpaired(first: Answer, other: Answer) -> list[str]:
    """Why there is no difference."""
    if other.fault:
        return [other.fault]
    if first.tested and other.tested:
        one, two = first.tested.paths[0], other.tested.paths[0]
        return [f"no clip was tested by both: {first.folder} used {one}, {other.folder} {two}"]
    return [] if first.same_data(other) else [f"{first.folder} used {first.data}, {other.folder} {other.data}"]


def _note_left_out(answers: list[list[Answer]], compared: list[list[Answer]]) -> None:
    """Questions of one folder alone; older answers to a question that is shown are no news."""
    shown = [answer for each in compared for answer in each]
    for each in answers:
        alone = [
            one
            for one in each
            if not any(
                one.folder == other.folder and one.question == other.question and one.same_data(other)
                for other in shown
            )
        ]
        if alone:
            others = "; ".join(dict.fromkeys(map(str, alone)))
            progress.note(f"{alone[0].folder}: left out, no counterpart: {others}")


def _nothing_in_common(
    folders: Sequence[Path], answers: list[list[Answer]], protocol: str | None, task: str | None
) -> DataError:
    asked = "".join(f" with --{name} {value}" for name, value in (("task", task), ("protocol", protocol)) if value)
    if asked and not all(answers):  # what there is without it
        answers = [_answers(folder, None, None) for folder in folders]
    lines = [
        f"{folder}: {'; '.join(dict.fromkeys(map(str, each))) or 'nothing'}"
        for folder, each in zip(folders, answers, strict=True)
    ]
    return DataError(
        "\n".join([f"{folders[0]} and the others have no evaluation in common{asked}:", *lines]),
        "Evaluate each in the same way: bridle eval --checkpoint RUN --data DATA --protocol NAME",
    )
