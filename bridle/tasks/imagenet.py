"""ImageNet-1K: folders of WordNet synsets; the validation images may lie in one, with their synsets in a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from bridle.errors import DataError
from bridle.tasks.reader import Entry, Reader
from bridle.tasks.tables import lines, table, whole
from bridle.tasks.tree import Tree, stem

_IMAGE = re.compile(r"(?:.*/)?(train|val)/(?:(n\d{8})/)?[^/]+")
_SYNSET = re.compile(r"n\d{8}")
_SOLUTION, _TRUTH, _META = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_MAPS = ("val_map.txt", "val.txt")

Answer = tuple[str, str, str]  # an image's name without suffix, its synset, where that is written


class ImageNet(Reader):
    """`train/SYNSET/` and `val/SYNSET/`, or `val/` with the list of the challenge, of Kaggle or of Caffe."""

    release: Literal["imagenet"]

    lists: ClassVar[frozenset[str]] = frozenset({_SOLUTION, _TRUTH, _META, *_MAPS})
    unit: ClassVar[str] = "image"

    def read(self, tree: Tree) -> tuple[dict[str, str], Iterator[Entry]]:
        placed: list[tuple[str, str, str]] = []  # part, synset, path
        flat: dict[str, str] = {}
        for path in tree.media:
            if match := _IMAGE.fullmatch(path):
                part, synset = match.groups()
                if synset:
                    placed.append((part, synset, path))
                elif part == "val":
                    flat[stem(path)] = path
        synsets = sorted({synset for part, synset, _ in placed if part == "train"})
        if not synsets:
            raise tree.lacks("train/nXXXXXXXX/*.JPEG")
        return {synset: synset for synset in synsets}, _entries(tree, placed, flat, synsets)


def _entries(
    tree: Tree, placed: list[tuple[str, str, str]], flat: dict[str, str], synsets: list[str]
) -> Iterator[Entry]:
    for part, synset, path in placed:
        yield Entry(path, part, (synset,), path, stem(path), f"{tree.root}/{path}")
    if not flat:
        return
    known, others = set(synsets), 0
    for name, synset, place in _answers(tree, synsets):
        if synset not in known and _SYNSET.fullmatch(synset):
            others += 1
        else:
            yield Entry(name, "val", (synset,) if synset else (), flat.get(name), name, place)
    if others:
        tree.notes.append(f"val: images whose synset has no folder in train/, left out: {others}")


def _answers(tree: Tree, synsets: list[str]) -> Iterator[Answer]:
    """The synset of each validation image, from the first list that is there."""
    if _SOLUTION in tree.lists:
        file = tree.root / tree.lists[_SOLUTION]
        for line, row in table(file, ("ImageId", "PredictionString")):
            yield row["ImageId"], row["PredictionString"].partition(" ")[0], f"{file}, line {line}"
    elif _TRUTH in tree.lists and _META in tree.lists:
        yield from _challenge(tree.root / tree.lists[_TRUTH], tree.root / tree.lists[_META])
    elif name := next((name for name in _MAPS if name in tree.lists), None):
        yield from _pairs(tree.root / tree.lists[name], synsets)
    else:
        looked_for = f"{_SOLUTION}, {_TRUTH} with {_META}, {' or '.join(_MAPS)}"
        raise tree.lacks(f"{looked_for} (since val/ has no synset folders)")


def _challenge(truth: Path, meta: Path) -> Iterator[Answer]:
    """The challenge's own ids, image by image, and the table of what they stand for."""
    import numpy as np
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # scipy raises whatever it likes on damaged files
        raise DataError(f"{meta} has no table of synsets: {error}", "Unpack the development kit again.") from error
    for line, text in enumerate(lines(truth), start=1):
        if text.strip():
            place = f"{truth}, line {line}"
            number = whole(text.strip(), place)
            yield f"ILSVRC2012_val_{line:08d}", names.get(number, str(number)), place


def _pairs(file: Path, synsets: list[str]) -> Iterator[Answer]:
    """Lines `image synset`, or `image index` with the synset's position among the sorted ones."""
    for line, text in enumerate(lines(file), start=1):
        if not text.strip():
            continue
        place = f"{file}, line {line}"
        try:
            image, synset = text.split()
        except ValueError:
            raise DataError(f"{place}: {text.strip()!r} is not `image synset`", "Fix the line.") from None
        if synset.isdecimal() and int(synset) < len(synsets):
            synset = synsets[int(synset)]
        yield stem(image), synset, place
