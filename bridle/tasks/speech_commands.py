"""Speech Commands: spoken words of a second each, and minutes of background noise."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from bridle.errors import DataError
from bridle.schema import Modality
from bridle.tasks.reader import Entry, Reader
from bridle.tasks.tables import lines
from bridle.tasks.tree import Tree, stem, survey

_SILENCE, _UNKNOWN, _NOISE = "_silence_", "_unknown_", "_background_noise_"
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}


class SpeechCommands(Reader):
    """A folder for each word; the files that two lists name are val and test, the others train.

    Attributes:
        words: the classes.
        others: what becomes of other words. `unknown` makes one class of them and a further one, `_silence_`, of the
            background noise in pieces of a second: the first eight tenths of each file are train, then val and test.
        test_set: a folder in or beside the root that, where it exists, is the test part in place of the list.
    """

    release: Literal["speech_commands"]
    words: tuple[str, ...]
    others: Literal["refuse", "skip", "unknown"] = "refuse"
    test_set: str | None = None

    lists: ClassVar[frozenset[str]] = frozenset(_LISTS.values())
    unit: ClassVar[str] = "speaker"

    def read(self, tree: Tree) -> tuple[dict[str, str], Iterator[Entry]]:
        files = dict(zip(_LISTS, tree.need(*((name,) for name in _LISTS.values()))))
        names = (_SILENCE, _UNKNOWN, *self.words) if self.others == "unknown" else self.words
        return {name: name for name in names}, self._entries(tree, files)

    def _entries(self, tree: Tree, files: dict[str, Path]) -> Iterator[Entry]:
        official = self._official(tree)
        left_out = 0
        for entry in self._spoken(tree, files):
            if official and entry.part == "test":
                left_out += 1
            else:
                yield entry
        if left_out:
            tree.notes.append(f"{_LISTS['test']}: clips left out, since {self.test_set} is the test part: {left_out}")
        if self.others == "unknown":
            yield from _silence(tree, _base(tree), "val" if official else "test")
        for path in official:
            word = path.split("/")[-2]
            if self.others == "unknown" or word not in (_SILENCE, _UNKNOWN):
                yield Entry(path, "test", (word,), path, _speaker(path), f"{tree.root}/{path}")

    def _spoken(self, tree: Tree, files: dict[str, Path]) -> Iterator[Entry]:
        """The words below the folder of the lists, and what the lists name besides."""
        listed: dict[str, tuple[str, str]] = {}
        for part, file in files.items():
            for line, text in enumerate(lines(file), start=1):
                if name := text.strip():
                    listed[name.rpartition(".")[0]] = part, f"{file}, line {line}"
        base = _base(tree)
        for path in tree.media:
            word, _, name = path.removeprefix(base).partition("/")
            if word == _NOISE or not path.startswith(base) or not name or "/" in name:
                continue
            part, place = listed.pop(f"{word}/{stem(name)}", ("train", f"{tree.root}/{path}"))
            if label := self._label(word):
                yield Entry(path, part, (label,), path, _speaker(path), place)
        for name, (part, place) in listed.items():
            if label := self._label(name.rpartition("/")[0]):
                yield Entry(name, part, (label,), None, "", place)

    def _label(self, word: str) -> str | None:
        if word in self.words or self.others == "refuse":
            return word
        return _UNKNOWN if self.others == "unknown" else None

    def _official(self, tree: Tree) -> list[str]:
        """Files of the test set that was published by itself; none where it is not there."""
        if not self.test_set:
            return []
        inside = [path for path in tree.media if f"/{self.test_set}/" in f"/{path}"]
        beside = tree.root / ".." / self.test_set
        if inside or not beside.is_dir():
            return inside
        return [f"../{self.test_set}/{path}" for path in survey(beside, Modality.AUDIO, tree.wanted).media]


def _base(tree: Tree) -> str:
    """The folder of the lists, which is that of the words: "" or with a `/` at its end."""
    folder, slash, _ = tree.lists[_LISTS["val"]].rpartition("/")
    return folder + slash


def _silence(tree: Tree, base: str, last: str) -> Iterator[Entry]:
    """Pieces of a second of the background noise; `last` is the part of each file's last tenth."""
    for path in tree.media:
        if not path.startswith(f"{base}{_NOISE}/"):
            continue
        pieces = int(_duration_s(tree.root / path))
        for piece in range(pieces):
            tenth = 10 * piece // pieces
            part = "train" if tenth < 8 else "val" if tenth == 8 else last
            name = f"{path} at {piece} s"
            yield Entry(name, part, (_SILENCE,), path, name, f"{tree.root}/{path}", (float(piece), piece + 1.0))


def _duration_s(file: Path) -> float:
    try:
        with wave.open(str(file), "rb") as sound:
            return sound.getnframes() / sound.getframerate()
    except (OSError, EOFError, wave.Error, ZeroDivisionError) as error:
        raise DataError(
            f"{file} is not a WAV that can be cut into segments: {error}", "Unpack the release again."
        ) from error


def _speaker(path: str) -> str:
    """`HASH_nohash_3.wav`: the hash stands for the speaker."""
    return stem(path).partition("_nohash_")[0].rpartition("_")[2]
