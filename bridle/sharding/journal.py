"""What a sharding run found and did, in one SQLite file: a run that was killed goes on from it.

Files stand in the order of the shards, and everything that belongs to a shard is committed when its tar is whole and on
the disk. So a million files are no million objects in memory, and a tar without an entry here is a torn one.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridle.archive import Shard
from bridle.errors import DataError
from bridle.media import decoded_bytes
from bridle.patches.statistics import Moments
from bridle.schema import MediaInfo
from bridle.storage import Location

FILE = "journal.sqlite"
_PAGE = 1000
_QUANTILES = (0.05, 0.5, 0.95)
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


class Journal:
    """One run's journal.

    Args:
        path: of the file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.create_function("name_of", 1, lambda path: path.rpartition(b"/")[2], deterministic=True)
        self._db.execute("CREATE TEMP TABLE elsewhere (path BLOB)")
        self._db.execute("CREATE TEMP VIEW anywhere AS SELECT path FROM file UNION ALL SELECT path FROM elsewhere")
        self._db.execute("BEGIN IMMEDIATE")
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

    def add(self, place: bytes, path: str, label: str | list[str] | None) -> bool:
        """A file to do; one that is known already stays as it is, and gives False."""
        row = place, os.fsencode(path), json.dumps(label)
        return self._db.execute("INSERT OR IGNORE INTO file (place, path, label) VALUES (?, ?, ?)", row).rowcount > 0

    def add_elsewhere(self, path: str) -> None:
        """A file of another part of the split: nothing to do, but a table of labels may name it."""
        self._db.execute("INSERT INTO elsewhere VALUES (?)", (os.fsencode(path),))

    def add_old(self, place: bytes, meta: dict[str, Any], info: MediaInfo) -> None:
        """A sample of an earlier run: nothing to do, but part of the corpus."""
        label = meta.get("labels", meta.get("label"))
        self._db.execute(
            "INSERT OR REPLACE INTO file (place, path, label) VALUES (?, ?, ?)",
            (place, os.fsencode(meta["path"]), json.dumps(label)),
        )
        self._set(place, "old", sha256=bytes.fromhex(meta.get("sha256", "")) or None, info=info)

    def label_by_table(self, rows: Iterable[tuple[int, str, str | list[str]]], table: Location) -> tuple[int, int]:
        """Labels from a table's lines (line, path, label); how many files it names, and how many lines name none.

        A bare file name will do where only one file has it.

        Raises:
            DataError: two lines disagree.
        """
        self._db.execute("CREATE TEMP TABLE line (path BLOB PRIMARY KEY, label TEXT, number INTEGER)")
        for number, path, label in rows:
            said = json.dumps(label)
            known = self._db.execute(
                "INSERT INTO line VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET path = path RETURNING label",
                (os.fsencode(path), said, number),
            ).fetchone()
            if known[0] != said:
                raise DataError(
                    f"{table}, line {number}: {path!r} is labelled {label!r} and {json.loads(known[0])!r} before",
                    "Keep one of the two lines; for several labels a file, a column `labels` with ; between them.",
                )
        self._db.execute(
            "CREATE TEMP TABLE called AS SELECT name_of(path) AS name, max(path) AS path FROM anywhere"
            " GROUP BY name HAVING count(*) = 1"
        )
        self._db.execute("CREATE INDEX temp.by_name ON called (name)")
        self._db.execute("CREATE INDEX temp.by_path ON called (path)")
        twice = self._db.execute(
            "SELECT whole.path, whole.label, bare.path, bare.label, bare.number FROM called"
            " JOIN line AS whole ON whole.path = called.path JOIN line AS bare ON bare.path = called.name"
            " WHERE whole.label != bare.label LIMIT 1"
        ).fetchone()
        if twice:
            path, label, name, other, number = twice
            raise DataError(
                f"{table}, line {number}: {os.fsdecode(name)!r} is labelled {json.loads(other)!r}, and as "
                f"{os.fsdecode(path)!r} {json.loads(label)!r}",
                "Keep one of the two lines.",
            )
        self._db.execute(
            "UPDATE file SET label = coalesce((SELECT label FROM line WHERE line.path = file.path), (SELECT label FROM"
            " line JOIN called ON line.path = called.name WHERE called.path = file.path), 'null') WHERE state IS NULL"
        )
        (unmatched,) = self._db.execute(
            "SELECT count(*) FROM line WHERE path NOT IN (SELECT path FROM anywhere) AND path NOT IN"
            " (SELECT name FROM called)"
        ).fetchone()
        (named,) = self._db.execute("SELECT count(*) FROM line").fetchone()
        return named - unmatched, unmatched

    def counts(self) -> dict[str, int]:
        """Files by state; those still to do under "todo"."""
        rows = self._db.execute("SELECT coalesce(state, 'todo'), count(*) FROM file GROUP BY 1")
        return {"todo": 0, "sample": 0, "reject": 0, "copy": 0, "old": 0} | dict(rows)

    def todo(self) -> Iterator[Entry]:
        """In the order of the shards, a page at a time."""
        place = b""
        while True:
            page = self._db.execute(
                "SELECT place, path, label FROM file WHERE state IS NULL AND place > ? ORDER BY place LIMIT ?",
                (place, _PAGE),
            ).fetchall()
            yield from (Entry(place, os.fsdecode(path), json.loads(label)) for place, path, label in page)
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
        return [(Shard(*values), rows) for *values, rows in found]

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
            count, sums, squares, *levels_CL = json.loads(text)
            yield Moments(count, tuple(sums), tuple(squares), *levels_CL)

    def decoded_bytes(self) -> int:
        query = "SELECT total(decoded_bytes) FROM file WHERE state IN ('sample', 'old')"
        return int(self._db.execute(query).fetchone()[0])

    def extent(self) -> dict[str, list[float]]:
        """Quantiles of what presets adapt to."""
        extent = {}
        for column in ("duration_s", "rate_hz", "frames", "short_side"):
            where = f"FROM file WHERE state IN ('sample', 'old') AND {column} IS NOT NULL"
            (known,) = self._db.execute(f"SELECT count(*) {where}").fetchone()
            query = f"SELECT {column} {where} ORDER BY {column} LIMIT 1 OFFSET ?"
            places = [round(q * (known - 1)) for q in _QUANTILES] if known else []
            if places:
                extent[column] = [round(float(self._db.execute(query, (at,)).fetchone()[0]), 6) for at in places]
        return extent
