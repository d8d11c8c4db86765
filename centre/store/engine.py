"""The database itself: SQLite, or PostgreSQL where several workers share it. One short transaction a call.

Every writing transaction has the write lock from its first statement on, in SQLite by BEGIN IMMEDIATE, in PostgreSQL by
one advisory lock. So whoever looks first and writes then decides on what is still true when it writes, whichever worker
it is; and the code below needs to be right for one database only.

Threads of one process take turns before they take a connection. Left to SQLite they would all poll for its lock, and
who had no luck for 5 s would end the centre: 16 threads on a disk that needs 100 ms for an fsync, 35 such errors in
15 s (measured 2026-11-29). So its 5 s are for another process alone, a backup or a shell.

Calls block for an fsync (SQLite: WAL, synchronous=FULL; PostgreSQL: synchronous_commit=on), so coroutines make them in
a thread. SQLAlchemyError is never caught here: a store that can't write must end the process.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from centre.store.table import METADATA

_WRITE_LOCK: Final = 0x7469_6C6C
"""Any number that nobody else takes in this database."""
_ISOLATION: Final = "READ COMMITTED"
STORE_THREADS: Final = 16
"""How many threads of one process use the store. A thread has one connection at a time."""
_POOL: Final = {"pool_size": STORE_THREADS, "max_overflow": 4}
"""One connection for each: none waits for another's. A few more for who comes beside them, as at a start."""


class _Turn:
    """A lock that is given in the order in which it was asked for; `threading.Lock` lets some wait for ever."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._queue: deque[threading.Lock] = deque()
        self._is_taken = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def __enter__(self) -> None:
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        mine.acquire()  # until whoever has the turn lets go of it

    def __exit__(self, *_exc: object) -> None:
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._is_taken = False


class Rows:
    """What each part of the store builds on. Safe to call from several threads and several processes."""

    def __init__(self, place: Path | str) -> None:
        """Opens or makes the database: an SQLite file, whose folder must exist, or a `postgresql://` address.

        Raises SQLAlchemyError.
        """
        self.is_shared = isinstance(place, str)
        """Whether another worker may use it from another machine."""
        self._turn = _Turn()
        if isinstance(place, Path):
            self._engine = sa.create_engine(f"sqlite:///{place}", connect_args={"timeout": 5.0}, **_POOL)
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
            with self._writing() as connection:
                _make_tables(connection)
            return
        address = place.replace("postgresql://", "postgresql+psycopg://", 1)
        self._engine = sa.create_engine(address, isolation_level=_ISOLATION, pool_pre_ping=True, **_POOL)
        with self._writing() as connection:  # two workers that start at once would both make the tables
            _make_tables(connection)

    def close(self) -> None:
        self._engine.dispose()

    @property
    def writers_waiting(self) -> int:
        """Threads of this process that wait for their turn to write."""
        return self._turn.waiting

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._turn, self._engine.begin() as connection:
            # The write lock is taken at once: a transaction that reads first and writes later could not get it after
            # another worker wrote in between, or would have decided on what is no longer so.
            if self.is_shared:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITE_LOCK)))
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            yield connection


def _make_tables(connection: sa.Connection) -> None:
    """Make what is missing. A database of an earlier version gets its new columns, which may be empty, and indexes."""
    METADATA.create_all(connection)
    inspector = sa.inspect(connection)
    for table in METADATA.sorted_tables:
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
        known = {index["name"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in known:
                index.create(connection)


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Autocommit, so that BEGIN IMMEDIATE above is the only thing that opens a transaction.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def with_check(row: sa.RowMapping) -> dict[str, Any]:
    """The API says `check` as the protocol does; the column can't, because SQL owns the word."""
    values = dict(row)
    values["check"] = values.pop("check_id")
    return values
