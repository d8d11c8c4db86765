"""What the centre's database may hold, and that threads and workers may share it.

Mutations that turn it red: give the pool SQLAlchemy's own size; let the last who waits go first in
`_Turn.__exit__`; leave `self._turn` out of `_writing`.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from centre.store import METADATA, STORE_THREADS, LedgerRow, Store

PERSONAL = re.compile(
    r"name|address|street|city|zip|post|phone|mail|birth|personal|person_?number|ssn|photo|picture|image|video|frame_|"
    r"sdp|offer|answer_sdp|ip$|token$|cookie$"
)


def test_no_column_can_hold_a_name_an_address_or_a_picture() -> None:
    columns = [(table.name, column) for table in METADATA.tables.values() for column in table.columns]
    assert len(columns) > 40
    for table, column in columns:
        assert not PERSONAL.search(column.name), f"{table}.{column.name}"
    # Long or free content has a place in these only: signed or bounded texts of the homes' closed schemas.
    free = {
        f"{table}.{column.name}"
        for table, column in columns
        if isinstance(column.type, sa.Text | sa.LargeBinary) or getattr(column.type, "length", 0) is None
    }
    assert free == {
        "homes.due_json",
        "outcomes.closed_jws",
        "ledger_records.raw",
        "ledger_checkpoints.note",
        "enrolments.certificate_pem",
        "enrolments.device_jwk_json",
        "enrolments.place_json",
        "enrolments.protocol_jws",
        "enrolment_codes.certificate_pem",
        "returns.statement_jws",
    }


def test_the_database_is_durable_at_each_return(tmp_path: Path) -> None:
    store = Store(tmp_path / "centre.sqlite")
    with store._reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


def test_every_thread_of_the_store_has_a_connection(tmp_path: Path) -> None:
    store = Store(tmp_path / "centre.sqlite")
    together = threading.Barrier(STORE_THREADS, timeout=10)

    def read() -> object:
        with store._reading() as connection:
            together.wait()
            return connection.exec_driver_sql("SELECT count(*) FROM homes").scalar()

    with ThreadPoolExecutor(STORE_THREADS) as threads:
        assert [done.result() for done in [threads.submit(read) for _ in range(STORE_THREADS)]] == [0] * STORE_THREADS
    store.close()


def test_threads_that_write_take_turns_in_order_and_none_has_to_be_lucky(tmp_path: Path) -> None:
    store = Store(tmp_path / "centre.sqlite")
    rounds = 3

    def write(thread: int) -> None:
        for _ in range(rounds):
            store.audit(who=f"t-{thread}", what="x", gateway=None, status=200, code=None, now_unix_s=0.0)

    with ThreadPoolExecutor(STORE_THREADS) as threads:
        with store.witnessing("gw-a", 1):
            done = []
            for thread in range(STORE_THREADS):
                done.append(threads.submit(write, thread))
                deadline_s = time.monotonic() + 10
                while store.writers_waiting <= thread:
                    assert time.monotonic() < deadline_s, "it waits for its turn, not for SQLite"
                    time.sleep(0.001)
        for each in done:
            each.result()
    wrote = [row["who"] for row in sorted(store.audit_rows(after=0, limit=1000), key=lambda row: row["number"])]
    assert len(wrote) == rounds * STORE_THREADS
    assert wrote[:STORE_THREADS] == [f"t-{thread}" for thread in range(STORE_THREADS)]
    store.close()


@pytest.mark.slow
def test_two_workers_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "centre.sqlite"
    one, other = Store(path), Store(path)
    row = LedgerRow(seq=1, raw=b"line")
    assert one.put_ledger_row("gw-a", row)
    assert other.put_ledger_row("gw-a", row), "the same line again is no fork"
    assert not other.put_ledger_row("gw-a", LedgerRow(seq=1, raw=b"another line"))
    assert one.count_alarm("gw-a", "malformed", now_unix_s=7200.0) == 1
    assert other.count_alarm("gw-a", "malformed", now_unix_s=7300.0) == 2
    asked = {"gateway": "gw-a", "jti": "j-1"}
    one.put_command(b"c" * 16, command_sha256="0" * 64, kind="check.close", who="op-1", now_unix_s=1.0, **asked)
    assert other.is_asked(b"c" * 16, **asked)
    assert other.answer_command(b"c" * 16, answer="accepted", now_unix_s=2.0, **asked)
    assert not one.answer_command(b"c" * 16, answer="accepted", now_unix_s=2.0, **asked), "the first answer counts"
    one.close()
    other.close()


def test_a_session_ends_and_only_its_hash_was_ever_stored(tmp_path: Path) -> None:
    path = tmp_path / "centre.sqlite"
    store = Store(path)
    store.put_session("a" * 64, who="op-1", exp_unix_s=100.0, now_unix_s=0.0)
    assert store.session_who("a" * 64, now_unix_s=99.0) == "op-1"
    assert store.session_who("a" * 64, now_unix_s=100.0) is None
    store.put_session("b" * 64, who="op-1", exp_unix_s=300.0, now_unix_s=200.0)
    store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT session_sha256 FROM sessions").fetchall() == [("b" * 64,)]
    connection.close()


def test_a_home_that_was_installed_anew_starts_with_nothing_known(tmp_path: Path) -> None:
    store = Store(tmp_path / "centre.sqlite")
    store.put_home("gw-a", install_epoch=1, device_kid="k1")
    store.set_online("gw-a", online=True)
    store.put_home("gw-a", install_epoch=1, device_kid="k1")
    assert store.home_states()["gw-a"]["online"]
    store.put_home("gw-a", install_epoch=2, device_kid="k1")
    assert not store.home_states()["gw-a"]["online"]
    store.close()
