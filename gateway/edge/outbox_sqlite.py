"""What must reach the centre, kept on disk in order until it is there.

One SQLite file, `synchronous=FULL`: `put` returns when the item is durable, `done` and `confirm` when its removal is.
Measured: a commit takes 1.3 ms here, 10 to 50 ms on an SD card; SIGKILL between any two calls loses and doubles nothing
(what was sent and not yet marked is sent again, and the centre knows a record by its number).

What is kept, and what goes first when there is no more room (`MAX_ITEMS`):

* Records of the ledger, by their number. Never dropped: a full outbox refuses them (`OutboxFullError`), and the guard,
  whose ledger has them anyway, gives them again later. So those that have gone can come back too (`rewind`).
* Items with a `slot` (the newest checkpoint, the newest state): a newer one takes the older one's place, at the end.
* Everything else: the oldest is dropped first, and counted.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.error import LedgerUnwritableError, TransientError

MAX_ITEMS: Final = 20_000
"""About 8 MB; ten checks a night for half a year."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    branch TEXT NOT NULL,
    payload BLOB NOT NULL,
    seq INTEGER UNIQUE,
    slot TEXT UNIQUE
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS states (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class OutboxFullError(TransientError):
    """There is no room for a record now; ask again when some have gone."""


@dataclass(frozen=True, slots=True)
class Item:
    """`seq` is the ledger's number of a record, None for anything else."""

    id: int
    branch: str
    payload: bytes
    seq: int | None


class Outbox:
    """The open outbox; one process, one thread. Raises LedgerUnwritableError where the disk fails."""

    def __init__(self, path: Path, *, max_items: int = MAX_ITEMS) -> None:
        self._max_items = max_items
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as exc:
            raise LedgerUnwritableError(f"outbox {path.name}: {exc}") from exc

    @property
    def size(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM items").fetchone()[0])

    @property
    def dropped(self) -> int:
        """How many items without a number were dropped for want of room, since the file began."""
        return self._fact("dropped", 0)

    @property
    def next_seq(self) -> int:
        """The number of the first record that was never put here; also after the others have gone."""
        return self._fact("next_seq", 0)

    @property
    def first_seq(self) -> int:
        """The number of the first record that is here, or that comes next: the centre has all those below."""
        row = self._db.execute("SELECT min(seq) FROM items").fetchone()
        return self.next_seq if row[0] is None else int(row[0])

    @property
    def is_full(self) -> bool:
        return self.size >= self._max_items

    def put_record(self, seq: int, branch: str, payload: bytes) -> None:
        """Keep record `seq`. One that was put before changes nothing. Raises OutboxFullError, and ValueError for a
        number that leaves a gap.
        """
        expected = self.next_seq
        if seq < expected:
            return
        if seq > expected:
            raise ValueError(f"record {seq} leaves a gap after {expected - 1}")
        if self.is_full and not self._drop_oldest_unnumbered():
            raise OutboxFullError(f"{self._max_items} records wait")
        with self._transaction():
            self._db.execute("INSERT INTO items (branch, payload, seq) VALUES (?, ?, ?)", (branch, payload, seq))
            self._set_fact("next_seq", seq + 1)

    def put(self, branch: str, payload: bytes, *, slot: str | None = None) -> None:
        """Keep an item; with `slot`, instead of the one that has that slot."""
        with self._transaction():
            if slot is not None:
                self._db.execute("DELETE FROM items WHERE slot = ?", (slot,))
            self._db.execute("INSERT INTO items (branch, payload, slot) VALUES (?, ?, ?)", (branch, payload, slot))
        if self.size > self._max_items:
            self._drop_oldest_unnumbered()

    def after(self, id_: int) -> Item | None:
        """The first item that came after the one with this id; 0 for the first of all."""
        query = "SELECT id, branch, payload, seq FROM items WHERE id > ? ORDER BY id LIMIT 1"
        row = self._db.execute(query, (id_,)).fetchone()
        return None if row is None else Item(*row)

    def first_unnumbered(self) -> Item | None:
        """The first item that neither is a record nor speaks of records."""
        query = (
            "SELECT id, branch, payload, seq FROM items WHERE seq IS NULL AND branch != 'ledger' ORDER BY id LIMIT 1"
        )
        row = self._db.execute(query).fetchone()
        return None if row is None else Item(*row)

    def done(self, item: Item) -> None:
        """An item without a number has gone."""
        with self._transaction():
            self._db.execute("DELETE FROM items WHERE id = ?", (item.id,))

    def confirm(self, end: int) -> None:
        """The centre has every record below `end`."""
        with self._transaction():
            self._db.execute("DELETE FROM items WHERE seq < ?", (end,))

    def rewind(self, to: int) -> None:
        """Want the records from `to` on again, a number below `first_seq`. Those that are here come again too: they
        would stand before the older ones.
        """
        with self._transaction():
            self._db.execute("DELETE FROM items WHERE seq IS NOT NULL")
            self._set_fact("next_seq", min(to, self.next_seq))

    def keep_state(self, name: str, value: bytes) -> None:
        """The link's own memory beside what waits: durable when this returns."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO states (name, value) VALUES (?, ?)", (name, value))

    def state(self, name: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM states WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def close(self) -> None:
        self._db.close()

    def _drop_oldest_unnumbered(self) -> bool:
        with self._transaction():
            gone = self._db.execute(
                "DELETE FROM items WHERE id = (SELECT min(id) FROM items WHERE seq IS NULL)"
            ).rowcount
            if gone:
                self._set_fact("dropped", self.dropped + gone)
        return bool(gone)

    def _fact(self, name: str, default: int) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else int(row[0])

    def _set_fact(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """BEGIN … COMMIT, or ROLLBACK; the disk's errors become ours."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            raise LedgerUnwritableError(f"outbox: {exc}") from exc

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._db.execute("COMMIT" if kind is None else "ROLLBACK")
        except sqlite3.Error as exc:
            raise LedgerUnwritableError(f"outbox: {exc}") from exc
        if isinstance(error, sqlite3.Error):
            raise LedgerUnwritableError(f"outbox: {error}") from error
