"""What a sharding run found and did, in one SQLite file: a killed run continues from it.

Files stand in the order of the shards, and everything that belongs to a shard is committed when its tar is whole and on
the disk. So a million files are no million objects in memory, and a tar without an entry here is a torn one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bridle.archive import Shard
from bridle.archive.corpus import QUANTILES
from bridle.errors import DataError
from bridle.media import decoded_bytes
from bridle.patches.statistics import Moments
from bridle.schema import MediaInfo
from bridle.sharding.tables import Row, called_below, names_of
from bridle.storage import Location, is_plain

FILE = "journal.sqlite"
_PAGE = 1000
_SPREAD = 100  # values that stand for all samples of a set where it is merged with others
_SCHEMA = """
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS shard (
    number INTEGER PRIMARY KEY, file TEXT, samples INTEGER, bytes INTEGER, sha256 TEXT, rows BLOB
);
CREATE TABLE IF NOT EXISTS file (
    place BLOB PRIMARY KEY,     -- order in the shards
    path BLOB,
    label TEXT,                 -- JSON
    state TEXT,                 -- NULL: still to do. sample, reject, copy. old: in a shard of an earlier run
    reason TEXT,                -- of a reject, and of a copy the path of its original
    sha256 BLOB,
    duration_s REAL, rate_hz REAL, frames INTEGER, short_side INTEGER, decoded_bytes INTEGER,
    moments TEXT                -- JSON
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grouping (path BLOB PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_content ON file (sha256) WHERE sha256 IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_state ON file (state, place);
"""

_COLUMNS = (
    "state = ?, reason = ?, sha256 = ?, duration_s = ?, rate_hz = ?, frames = ?, short_side = ?, decoded_bytes = ?"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that is still to do."""

    place: bytes
    path: str
    label: str | list[str] | None
    group: str | None = None


class Matched(NamedTuple):
    """How the lines of a table fit the files.

    Attributes:
        lines: of the table.
        named: of these, those that name just one file.
        ambiguous: those that fit several.
        example: the name in the first of those, else in the first line, and two of the files that it fits.
    """

    lines: int
    named: int
    ambiguous: int
    example: tuple[str, ...]


class Journal:
    """One run's journal.

    Args:
        path: of the file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("BEGIN IMMEDIATE")
        if strange := _objects(self._db) - _ours():
            raise sqlite3.DatabaseError(f"its {' '.join(min(strange)[:2])} is not that of a journal")
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)

    def close(self) -> None:
        """Forget what was not committed."""
        self._db.close()

    def commit(self) -> None:
        """Keep everything up to here."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN IMMEDIATE")

    def note(self, name: str, value: Any) -> None:
        """Remember something about the run as a whole."""
        self._db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, json.dumps(value)))

    def noted(self, name: str) -> Any:
        """What was remembered, or None."""
        row = self._db.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        try:
            return json.loads(row[0]) if row else None
        except ValueError as error:
            raise sqlite3.DatabaseError(f"its note {name!r} is damaged") from error

    def names(self, note: str) -> list[str]:
        """Names of files that were remembered; they may be renamed and removed, and nothing else may.

        Raises:
            sqlite3.DatabaseError: one is not of a file in the set's folder.
        """
        noted = self.noted(note)
        return _plain(noted if isinstance(noted, list) else [] if noted is None else [noted])

    def add(self, place: bytes, path: str, label: str | list[str] | None) -> bool:
        """A file to do; one that is known already stays as it is, and gives False."""
        row = place, os.fsencode(path), json.dumps(label)
        return self._db.execute("INSERT OR IGNORE INTO file (place, path, label) VALUES (?, ?, ?)", row).rowcount > 0

    def add_old(self, place: bytes, meta: dict[str, Any], info: MediaInfo) -> None:
        """A sample of an earlier run: nothing to do, but part of the corpus."""
        label = meta.get("labels", meta.get("label"))
        self._db.execute(
            "INSERT OR REPLACE INTO file (place, path, label) VALUES (?, ?, ?)",
            (place, os.fsencode(meta["path"]), json.dumps(label)),
        )
        if meta.get("group") is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO grouping VALUES (?, ?)", (os.fsencode(meta["path"]), meta["group"])
            )
        self._set(place, "old", sha256=bytes.fromhex(meta.get("sha256", "")) or None, info=info)

    def label_by_table(self, rows: Iterable[Row], table: Location, raw: Sequence[str]) -> Matched:
        """Labels and groups from a table's lines.

        A line names the file of just that path; else the only one whose path or name is the same but for Unicode form,
        case, kind of slash, the way down to the raw folder (its paths), or a suffix that the line leaves out.

        Raises:
            DataError: two lines disagree, or the table has another group than the set for a file that is in it.
        """
        db = self._db
        db.create_function("name_of", 2, lambda at, path: names_of(os.fsdecode(path))[at], deterministic=True)
        db.create_function("called", 1, lambda path: called_below(raw, os.fsdecode(path)), deterministic=True)
        db.execute(
            "CREATE TEMP TABLE line"
            " (number, path BLOB, label TEXT, name TEXT, file BLOB, other BLOB, files INT DEFAULT 0)"
        )
        db.executemany(
            "INSERT INTO line (number, path, label, name) VALUES (?, ?, ?, ?)",
            ((row.line, os.fsencode(row.path), json.dumps(row.label), row.group) for row in rows),
        )
        for of_file, of_line in (
            ("path", "line.path"),
            *((f"name_of({at}, path)", "called(line.path)") for at in range(4)),
        ):
            if not db.execute("SELECT 1 FROM line WHERE files = 0 LIMIT 1").fetchone():
                break
            db.execute(
                f"CREATE TEMP TABLE names AS SELECT {of_file} AS name, min(path) AS path, max(path) AS other,"
                " count(*) AS files FROM file GROUP BY 1"
            )
            db.execute("CREATE INDEX temp.by_name ON names (name)")
            db.execute(
                "UPDATE line SET file = names.path, other = names.other, files = names.files FROM names"
                f" WHERE line.files = 0 AND names.name = {of_line}"
            )
            db.execute("DROP TABLE names")
        db.execute("CREATE INDEX temp.by_file ON line (file)")
        self._refuse_contradictions(table)
        db.execute(
            "UPDATE file SET label = coalesce((SELECT label FROM line WHERE file = file.path AND files = 1), 'null')"
            " WHERE state IS NULL"
        )
        db.execute("INSERT OR IGNORE INTO grouping SELECT file, name FROM line WHERE files = 1 AND name IS NOT NULL")
        counts = db.execute("SELECT count(*), total(files = 1), total(files > 1) FROM line").fetchone()
        example = db.execute("SELECT path, file, other FROM line ORDER BY files < 2, number LIMIT 1").fetchone()
        lines, named, ambiguous = map(int, counts)
        return Matched(lines, named, ambiguous, tuple(os.fsdecode(path) for path in example or () if path is not None))

    def _refuse_contradictions(self, table: Location) -> None:
        """Refuse lines that contradict each other or the samples of an earlier run; raises DataError."""
        found = self._db.execute(
            "SELECT file FROM line WHERE files = 1 GROUP BY file HAVING min(label) != max(label)"
            " OR min(coalesce(name, '')) != max(coalesce(name, '')) LIMIT 1"
        ).fetchone()
        if found:
            query = "SELECT label, name, path, number FROM line WHERE file = ? ORDER BY number"
            first, *others = self._db.execute(query, found)
            other = next(one for one in others if one[:2] != first[:2])
            one, two = (f"{json.loads(label)!r}" + f" of {name!r}" * bool(name) for label, name, *_ in (first, other))
            raise DataError(
                f"{table}, line {other[3]}: {os.fsdecode(other[2])!r} is labelled {two} and in line {first[3]} {one}",
                "Keep one of the two lines; for several labels per file, use a column `labels` with ; between them.",
            )
        moved = self._db.execute(
            "SELECT file.path, grouping.name, line.name FROM file LEFT JOIN line ON line.file = file.path AND files = 1"
            " LEFT JOIN grouping ON grouping.path = file.path"
            " WHERE state = 'old' AND line.name IS NOT grouping.name LIMIT 1"
        ).fetchone()
        if moved:
            path, before, now = moved
            raise DataError(
                f"{table} puts {os.fsdecode(path)!r} into the group {now!r}; in the set it is in {before!r}",
                "Keep the groups of the files that are in the set, or write it again with --overwrite.",
            )

    def paths(self) -> Iterator[str]:
        """Of all files."""
        for (path,) in self._db.execute("SELECT path FROM file"):
            yield os.fsdecode(path)

    def grouped(self) -> int:
        """How many files a table has put into groups."""
        return int(self._db.execute("SELECT count(*) FROM grouping").fetchone()[0])

    def keep(self, belongs: Callable[[str, str | None], bool]) -> None:
        """Forget the files still to do that do not belong here, by path and group."""
        self._db.create_function("belongs", 2, lambda path, group: belongs(os.fsdecode(path), group))
        self._db.execute(
            "DELETE FROM file WHERE state IS NULL"
            " AND NOT belongs(path, (SELECT name FROM grouping WHERE grouping.path = file.path))"
        )

    def counts(self) -> dict[str, int]:
        """Files by state; those still to do under "todo"."""
        rows = self._db.execute("SELECT coalesce(state, 'todo'), count(*) FROM file GROUP BY 1")
        return {"todo": 0, "sample": 0, "reject": 0, "copy": 0, "old": 0} | dict(rows)

    def todo(self) -> Iterator[Entry]:
        """In the order of the shards, a page at a time."""
        place = b""
        while True:
            page = self._db.execute(
                "SELECT place, file.path, label, name FROM file LEFT JOIN grouping ON grouping.path = file.path"
                " WHERE state IS NULL AND place > ? ORDER BY place LIMIT ?",
                (place, _PAGE),
            ).fetchall()
            yield from (Entry(place, _below(path), json.loads(label), name) for place, path, label, name in page)
            if len(page) < _PAGE:
                return
            place = page[-1][0]

    def original(self, sha256: bytes) -> str | None:
        """The file that had the same content before."""
        row = self._db.execute(
            "SELECT path FROM file WHERE sha256 = ? AND state IN ('sample', 'old')", (sha256,)
        ).fetchone()
        return os.fsdecode(row[0]) if row else None

    def sample(
        self, place: bytes, sha256: bytes, info: MediaInfo, moments: Moments | None, copy_of: str | None
    ) -> None:
        """A file that stands in the shard now being written."""
        self._set(place, "sample", copy_of, sha256, info)
        if moments is not None:
            self._db.execute("UPDATE file SET moments = ? WHERE place = ?", (json.dumps(astuple(moments)), place))

    def reject(self, place: bytes, reason: str) -> None:
        """A file that cannot be used."""
        self._set(place, "reject", reason)

    def dropped(self, place: bytes, copy_of: str) -> None:
        """A file left out for its content."""
        self._set(place, "copy", copy_of)

    def end_shard(self, shard: Shard, rows_N: np.ndarray) -> None:
        """A tar is whole: it and all its files are kept, whatever happens from here on."""
        self._db.execute(
            "INSERT INTO shard (file, samples, bytes, sha256, rows) VALUES (?, ?, ?, ?, ?)",
            (shard.file, shard.samples, shard.bytes, shard.sha256, rows_N.tobytes()),
        )
        self.commit()

    def _set(
        self,
        place: bytes,
        state: str,
        reason: str | None = None,
        sha256: bytes | None = None,
        info: MediaInfo | None = None,
    ) -> None:
        sizes: tuple[Any, ...] = (None,) * 5
        if info is not None:
            short_side = min(info.height, info.width) if info.height and info.width else None
            sizes = (info.duration_s, info.rate_hz, info.frames, short_side, decoded_bytes(info))
        self._db.execute(f"UPDATE file SET {_COLUMNS} WHERE place = ?", (state, reason, sha256, *sizes, place))

    def shards(self) -> list[tuple[Shard, bytes]]:
        """Whole tars with their rows of the index."""
        found = self._db.execute("SELECT file, samples, bytes, sha256, rows FROM shard ORDER BY number")
        shards = [(Shard(*values), rows) for *values, rows in found]
        _plain([shard.file for shard, _ in shards])
        return shards

    def rejects(self) -> list[dict[str, str]]:
        rows = self._db.execute("SELECT path, reason FROM file WHERE state = 'reject' ORDER BY path")
        return [{"file": os.fsdecode(path), "reason": reason} for path, reason in rows]

    def duplicates(self) -> list[dict[str, str]]:
        rows = self._db.execute(
            "SELECT path, reason FROM file WHERE state IN ('copy', 'sample') AND reason IS NOT NULL ORDER BY path"
        )
        return [{"file": os.fsdecode(path), "of": of} for path, of in rows]

    def labels(self) -> dict[str, int]:
        """How many samples have each label; the unlabelled ones are left out."""
        counts: dict[str, int] = {}
        for text, count in self._db.execute(
            "SELECT label, count(*) FROM file WHERE state IS NULL OR state IN ('sample', 'old') GROUP BY label"
        ):
            label = json.loads(text)
            for one in label if isinstance(label, list) else [label] if label is not None else []:
                counts[one] = counts.get(one, 0) + count
        return dict(sorted(counts.items()))

    def unlabelled(self) -> int:
        query = "SELECT count(*) FROM file WHERE label IN ('null', '[]') AND (state IS NULL OR state = 'sample')"
        return int(self._db.execute(query).fetchone()[0])

    def moments(self) -> Iterator[Moments]:
        for (text,) in self._db.execute("SELECT moments FROM file WHERE moments IS NOT NULL ORDER BY place"):
            count, sums, squares, *more = json.loads(text)  # a run begun by an older version has no more
            yield Moments(count, tuple(sums), tuple(squares), *more)

    def decoded_bytes(self) -> int:
        query = "SELECT total(decoded_bytes) FROM file WHERE state IN ('sample', 'old')"
        return int(self._db.execute(query).fetchone()[0])

    def sizes(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Of what presets adapt to: 5, 50 and 95 % quantiles, and some values that stand for all in equal parts."""
        extent, spread = {}, {}
        for column in ("duration_s", "rate_hz", "frames", "short_side"):
            where = f"FROM file WHERE state IN ('sample', 'old') AND {column} IS NOT NULL"
            (known,) = self._db.execute(f"SELECT count(*) {where}").fetchone()
            if not known:
                continue
            count = min(known, _SPREAD)
            tops = [round(q * (known - 1)) for q in QUANTILES]
            parts = [int((number + 0.5) / count * known) for number in range(count)]
            ranked = f"SELECT {column}, row_number() OVER (ORDER BY {column}) - 1 AS at {where}"
            query = f"SELECT at, {column} FROM ({ranked}) WHERE at IN ({','.join(map(str, {*tops, *parts}))})"
            found = {at: round(float(value), 6) for at, value in self._db.execute(query)}
            extent[column], spread[column] = [found[at] for at in tops], [found[at] for at in parts]
        return extent, spread


def _objects(db: sqlite3.Connection) -> set[tuple[str, ...]]:
    """Tables, indexes, views and triggers, with the text that made them: SQLite runs what stands there."""
    return {*db.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master")}


@functools.cache
def _ours() -> set[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_SCHEMA)
        return _objects(db)


def _below(path: Any) -> str:
    """A path as `walk` gives it: what lies elsewhere is none of the raw folder's files."""
    text = os.fsdecode(path) if isinstance(path, bytes) else ""
    if not text or text.startswith("/") or ".." in text.split("/"):
        raise sqlite3.DatabaseError(f"it names {text or path!r}, which is not below the raw folder")
    return text


def _plain(names: list[Any]) -> list[str]:
    if wrong := next((name for name in names if not is_plain(name)), None):
        raise sqlite3.DatabaseError(f"it names {wrong!r}, which is not a file of this set")
    return names
