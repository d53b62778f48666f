"""Where the class of a file may be written: its folder, a table, or a JSON beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Literal

from bridle.errors import DataError
from bridle.sharding.journal import Journal
from bridle.sharding.tables import FORMAT, Columns, Label, Table, label_in
from bridle.storage import Location, read_small

Labels = Literal["folder", "sidecar"] | Location | None
_MOST_BYTES = 16 << 20  # of a file beside a clip


def labeller(labels: Labels, raw: Location) -> Callable[[str], Label]:
    """Label of a file by its path below `raw`; None for what a table will say later."""
    if labels == "folder":
        return lambda path: PurePosixPath(path).parent.name or None
    if labels == "sidecar":
        return lambda path: _sidecar(raw, path)
    return lambda path: None


def label_by_table(journal: Journal, place: Location, columns: Columns, raw: Location) -> tuple[int, list[str]]:
    """Labels and groups from a CSV, TSV or JSONL file; how many of its lines label no file, and what to say of it.

    Raises:
        DataError: naming the table and the line, or that no line names a file.
    """
    table = Table(place, columns, journal.paths())
    folders = {str(raw.resolve()), os.path.abspath(raw) if isinstance(raw, Path) else str(raw)}
    matched = journal.label_by_table(table, place, sorted(folders))
    notes = [f"{place} is not in UTF-8; read as Windows-1252, e.g. {table.recoded!r}"] if table.recoded else []
    if matched.ambiguous:
        name, *files = matched.example
        example = f"{name!r} fits {' and '.join(map(repr, files))}"
        notes.append(
            f"{matched.ambiguous} lines of {place} match several files each and label none: {example}; write the paths "
            f"below {raw}"
        )
    if not matched.named:
        file = next(journal.paths())
        beside = f"; it lists {matched.example[0]!r}, a file is {file!r}" if matched.lines else ""
        raise DataError(
            f"{place} matches none of the {journal.counts()['todo']} files{beside}",
            "\n".join(
                [
                    *notes,
                    f"Its paths are relative to {raw}; names without folders work where they are unique.",
                ]
            ),
        )
    return matched.lines - matched.named, notes


def read_labels(place: Location, files: Iterable[str], raw: Location) -> tuple[dict[str, Label], list[str]]:
    """The label or labels that a table with the usual columns has for each of these files, and what to say of it.

    Raises:
        DataError: naming the table and the line, or that no line names a file.
    """
    with closing(Journal(Path(":memory:"))) as journal:
        for number, file in enumerate(files):
            journal.add(number.to_bytes(8, "big"), file, None)
        try:
            unmatched, notes = label_by_table(journal, place, Columns(), raw)
        except DataError as error:
            raise DataError(error.message, FORMAT if "--path-column" in error.hint else error.hint) from error
        notes += [f"{place}: {unmatched} lines match no file"] if unmatched else []
        return {entry.path: entry.label for entry in journal.todo()}, notes


def _sidecar(raw: Location, path: str) -> Label:
    """From `clip.json`, `clip.wav.json` or `clip.cls` (its text) beside `clip.wav`."""
    media = raw / path
    for beside in (media.with_suffix(".json"), media.with_name(media.name + ".json"), media.with_suffix(".cls")):
        try:
            text = read_small(beside, _MOST_BYTES).decode("utf-8-sig")
            label = text.strip() if beside.suffix == ".cls" else label_in(json.loads(text))
            "".join(label or "").encode()  # half a surrogate pair is not text
            if label:
                return label
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"{beside} is not a JSON object with a label: {error}", "Fix or remove it, or use --labels folder."
            ) from error
    return None
