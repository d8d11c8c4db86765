"""What the centre remembers: SQLite by SQLAlchemy Core. Every call is one short transaction, durable when it returns.

No column holds a name, an address, a personal number or a picture: people are pseudonyms from the grants, homes are
gateway ids, and of a signed command only its hash is kept (an offer's SDP holds network addresses). A second worker
process may share the file; what is unique is unique by a constraint, not by who wrote it.

Calls block for an fsync (WAL, synchronous=FULL), so coroutines make them in a thread. SQLAlchemyError is never caught
here: a store that can't write must end the process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from gateway.protocol.message import Challenged, Closed, Grant, Hello

METADATA: Final = sa.MetaData()

HOMES: Final = sa.Table(
    "homes",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, nullable=False),
    sa.Column("device_kid", sa.String(64), nullable=False),
    sa.Column("online", sa.Boolean, nullable=False),
    sa.Column("heard_unix_s", sa.Float),
    sa.Column("boot", sa.String(64)),
    sa.Column("sw", sa.String(64)),
    sa.Column("clock_state", sa.String(40)),
    sa.Column("clock_lo_unix_s", sa.Float),
    sa.Column("clock_hi_unix_s", sa.Float),
    sa.Column("agreement", sa.String(64)),
    sa.Column("version", sa.Integer),
    sa.Column("due_json", sa.Text, nullable=False),
)
SESSIONS: Final = sa.Table(
    "sessions",
    METADATA,
    sa.Column("session_sha256", sa.String(64), primary_key=True),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("exp_unix_s", sa.Float, nullable=False),
)
GRANTS: Final = sa.Table(
    "grants",
    METADATA,
    sa.Column("grant_sha256", sa.String(64), primary_key=True),
    sa.Column("kid", sa.String(64), nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("roles", sa.String(120), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("nbf_unix_s", sa.Float, nullable=False),
    sa.Column("exp_unix_s", sa.Float, nullable=False),
)
COMMANDS: Final = sa.Table(
    "commands",
    METADATA,
    sa.Column("correlation", sa.String(32), primary_key=True),
    sa.Column("command_sha256", sa.String(64), nullable=False),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("jti", sa.String(64), nullable=False),
    sa.Column("sent_unix_s", sa.Float, nullable=False),
    sa.Column("answer", sa.String(40)),
    sa.Column("answered_unix_s", sa.Float),
)
OUTCOMES: Final = sa.Table(
    "outcomes",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("check_id", sa.String(64), nullable=False),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("why", sa.String(40), nullable=False),
    sa.Column("verdict", sa.String(40)),
    sa.Column("line", sa.String(64), nullable=False),
    sa.Column("occasion", sa.String(40), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("watched_s", sa.Float, nullable=False),
    sa.Column("frames", sa.Integer, nullable=False),
    sa.Column("parked", sa.Boolean, nullable=False),
    sa.Column("ledger_size", sa.Integer, nullable=False),
    sa.Column("next", sa.String(40), nullable=False),
    sa.Column("next_unix_s", sa.Float),
    # The device's own signature over all of the above: evidence that outlives this centre.
    sa.Column("closed_jws", sa.Text, nullable=False),
    sa.UniqueConstraint("gateway", "check_id"),
)
LEDGER_RECORDS: Final = sa.Table(
    "ledger_records",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("kind", sa.String(40)),
    sa.Column("who", sa.String(64)),
    sa.Column("why", sa.String(40)),
    sa.Column("check_id", sa.String(64)),
    sa.Column("time_lo_unix_s", sa.Float),
    sa.Column("watched_s", sa.Float),
    sa.Column("frames", sa.Integer),
)
LEDGER_CHECKPOINTS: Final = sa.Table(
    "ledger_checkpoints",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("note_sha256", sa.String(64), primary_key=True),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
)
REFUSALS: Final = sa.Table(
    "refusals",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("code", sa.String(40), nullable=False),
    sa.Column("re", sa.String(64), nullable=False),
    sa.Column("heard_unix_s", sa.Float, nullable=False),
    sa.UniqueConstraint("gateway", "re"),
)
ALARMS: Final = sa.Table(
    "alarms",
    METADATA,
    # One row an hour and cause with a count: a peer that floods us must not fill the disk.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("code", sa.String(40), primary_key=True),
    sa.Column("hour_unix_s", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("last_unix_s", sa.Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One ledger line as it came, and the fields that the console lists. All but `seq` and `raw` may be missing."""

    seq: int
    raw: bytes
    kind: str | None = None
    who: str | None = None
    why: str | None = None
    check: str | None = None
    time_lo_unix_s: float | None = None
    watched_s: float | None = None
    frames: int | None = None


class Store:
    """Safe to call from several threads and from several processes on one file."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the database; its folder must exist. Raises SQLAlchemyError."""
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 5.0})
        sa.event.listen(self._engine, "connect", _set_up_connection)
        METADATA.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            # The write lock is taken at once: a transaction that reads first and writes later could not get it after
            # another worker wrote in between.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            yield connection

    def put_home(self, gateway: str, *, install_epoch: int, device_kid: str) -> None:
        """Register a home; one that was installed anew or got another key starts with nothing known."""
        identity = {"install_epoch": install_epoch, "device_kid": device_kid}
        blank: dict[str, Any] = {column.name: None for column in HOMES.columns}
        blank |= {"gateway": gateway, "online": False, "due_json": "[]"} | identity
        with self._writing() as connection:
            known = connection.execute(sa.select(HOMES).where(HOMES.c.gateway == gateway)).mappings().first()
            if known is None:
                connection.execute(sa.insert(HOMES).values(blank))
            elif any(known[name] != value for name, value in identity.items()):
                connection.execute(sa.update(HOMES).where(HOMES.c.gateway == gateway).values(blank))

    def set_online(self, gateway: str, *, online: bool) -> None:
        with self._writing() as connection:
            connection.execute(sa.update(HOMES).where(HOMES.c.gateway == gateway).values(online=online))

    def take_hello(self, hello: Hello, *, now_unix_s: float) -> bool:
        """Enter what a home says of itself; False when it is older than what is known.

        Within one boot the lower end of the clock never falls, so a Hello with a lower one is late or replayed.
        """
        with self._writing() as connection:
            known = connection.execute(sa.select(HOMES).where(HOMES.c.gateway == hello.gateway)).mappings().one()
            is_same_boot = known["boot"] == hello.boot and known["clock_lo_unix_s"] is not None
            if is_same_boot and hello.clock.lo_unix_s < known["clock_lo_unix_s"]:
                return False
            values = {
                "online": True,
                "heard_unix_s": now_unix_s,
                "boot": hello.boot,
                "sw": hello.sw,
                "clock_state": hello.clock.state,
                "clock_lo_unix_s": hello.clock.lo_unix_s,
                "clock_hi_unix_s": hello.clock.hi_unix_s,
                "agreement": hello.agreement,
                "version": hello.version,
                "due_json": msgspec.json.encode(hello.due).decode(),
            }
            connection.execute(sa.update(HOMES).where(HOMES.c.gateway == hello.gateway).values(values))
        return True

    def take_challenged(self, challenged: Challenged, *, now_unix_s: float) -> None:
        """A challenge's answer tells the same as a Hello, fresher. Call it for a reply that we waited for only."""
        values = {
            "online": True,
            "heard_unix_s": now_unix_s,
            "clock_state": challenged.clock.state,
            "clock_lo_unix_s": challenged.clock.lo_unix_s,
            "clock_hi_unix_s": challenged.clock.hi_unix_s,
            "agreement": challenged.agreement,
            "version": challenged.version,
            "due_json": msgspec.json.encode(challenged.due).decode(),
        }
        with self._writing() as connection:
            connection.execute(sa.update(HOMES).where(HOMES.c.gateway == challenged.gateway).values(values))

    def home_states(self) -> dict[str, dict[str, Any]]:
        """What is known of each home, with `due` and its five newest outcomes as `last`, newest first."""
        with self._reading() as connection:
            states = {row["gateway"]: dict(row) for row in connection.execute(sa.select(HOMES)).mappings()}
            for gateway, state in states.items():
                state["due"] = json.loads(state.pop("due_json"))
                newest = (
                    sa.select(*(column for column in OUTCOMES.c if column.name not in ("number", "closed_jws")))
                    .where(OUTCOMES.c.gateway == gateway)
                    .order_by(OUTCOMES.c.number.desc())
                    .limit(5)
                )
                state["last"] = [_with_check(row) for row in connection.execute(newest).mappings()]
        return states

    def put_session(self, session_sha256: str, *, who: str, exp_unix_s: float, now_unix_s: float) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.exp_unix_s <= now_unix_s))
            connection.execute(
                sa.insert(SESSIONS).values(session_sha256=session_sha256, who=who, exp_unix_s=exp_unix_s)
            )

    def session_who(self, session_sha256: str, *, now_unix_s: float) -> str | None:
        query = sa.select(SESSIONS.c.who).where(
            SESSIONS.c.session_sha256 == session_sha256, SESSIONS.c.exp_unix_s > now_unix_s
        )
        with self._reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def end_session(self, session_sha256: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.session_sha256 == session_sha256))

    def put_grant(self, grant: Grant, *, grant_sha256: str, kid: str) -> None:
        with self._writing() as connection:
            connection.execute(
                sa.insert(GRANTS).values(
                    grant_sha256=grant_sha256,
                    kid=kid,
                    who=grant.name_ref,
                    roles=",".join(grant.roles),
                    epoch=grant.epoch,
                    nbf_unix_s=grant.nbf,
                    exp_unix_s=grant.exp,
                )
            )

    def put_command(
        self, correlation: bytes, *, command_sha256: str, gateway: str, kind: str, who: str, jti: str, now_unix_s: float
    ) -> None:
        with self._writing() as connection:
            connection.execute(
                sa.insert(COMMANDS).values(
                    correlation=correlation.hex(),
                    command_sha256=command_sha256,
                    gateway=gateway,
                    kind=kind,
                    who=who,
                    jti=jti,
                    sent_unix_s=now_unix_s,
                )
            )

    def answer_command(self, correlation: bytes, *, gateway: str, jti: str, answer: str, now_unix_s: float) -> bool:
        """Enter the first answer to a command; False if there is no such command or it has been answered.

        This, and not the waiting request, decides what is an answer: after a restart the record is still here.
        """
        statement = (
            sa.update(COMMANDS)
            .where(
                COMMANDS.c.correlation == correlation.hex(),
                COMMANDS.c.gateway == gateway,
                COMMANDS.c.jti == jti,
                COMMANDS.c.answer.is_(None),
            )
            .values(answer=answer, answered_unix_s=now_unix_s)
        )
        with self._writing() as connection:
            return connection.execute(statement).rowcount == 1

    def is_asked(self, correlation: bytes, *, gateway: str, jti: str) -> bool:
        """Was this command sent to this home, answered or not?"""
        query = sa.select(COMMANDS.c.jti).where(
            COMMANDS.c.correlation == correlation.hex(), COMMANDS.c.gateway == gateway, COMMANDS.c.jti == jti
        )
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def put_outcome(self, closed: Closed, *, closed_jws: str, now_unix_s: float) -> bool:
        """Enter how a check ended; False when it is known already (QoS 1 repeats)."""
        values = msgspec.structs.asdict(closed)
        values["check_id"] = values.pop("check")
        values |= {"closed_jws": closed_jws, "heard_unix_s": now_unix_s}
        known = sa.select(OUTCOMES.c.number).where(
            OUTCOMES.c.gateway == closed.gateway, OUTCOMES.c.check_id == closed.check
        )
        with self._writing() as connection:
            if connection.execute(known).first() is not None:
                return False
            connection.execute(sa.insert(OUTCOMES).values(values))
        return True

    def put_refusal(self, gateway: str, *, code: str, re: str, now_unix_s: float) -> None:
        known = sa.select(REFUSALS.c.number).where(REFUSALS.c.gateway == gateway, REFUSALS.c.re == re)
        with self._writing() as connection:
            if connection.execute(known).first() is None:
                connection.execute(
                    sa.insert(REFUSALS).values(gateway=gateway, code=code, re=re, heard_unix_s=now_unix_s)
                )

    def put_ledger_row(self, gateway: str, row: LedgerRow) -> bool:
        """Enter one ledger line; False when another line stands under its number: the ledger was forked or rewritten.

        The first one stays. The same line again (QoS 1 repeats) changes nothing and is True.
        """
        values = {column: getattr(row, column) for column in LedgerRow.__slots__}
        values["check_id"] = values.pop("check")
        known = sa.select(LEDGER_RECORDS.c.raw).where(
            LEDGER_RECORDS.c.gateway == gateway, LEDGER_RECORDS.c.seq == row.seq
        )
        with self._writing() as connection:
            stored = connection.execute(known).scalar_one_or_none()
            if stored is not None:
                return bytes(stored) == row.raw
            connection.execute(sa.insert(LEDGER_RECORDS).values(gateway=gateway, **values))
        return True

    def put_checkpoint(self, gateway: str, note: str, *, note_sha256: str, now_unix_s: float) -> None:
        table = LEDGER_CHECKPOINTS.c
        known = sa.select(table.note_sha256).where(table.gateway == gateway, table.note_sha256 == note_sha256)
        with self._writing() as connection:
            if connection.execute(known).first() is None:
                connection.execute(
                    sa.insert(LEDGER_CHECKPOINTS).values(
                        gateway=gateway, note=note, note_sha256=note_sha256, heard_unix_s=now_unix_s
                    )
                )

    def ledger_rows(self, gateway: str, *, after: int, newest: int | None = None) -> list[dict[str, Any]]:
        """Rows above `after` by number, at most 500 a call; with `newest`, the last that many of them."""
        table = LEDGER_RECORDS.c
        query = sa.select(*(column for column in table if column.name not in ("raw", "gateway"))).where(
            table.gateway == gateway, table.seq > after
        )
        query = (
            query.order_by(table.seq).limit(500) if newest is None else query.order_by(table.seq.desc()).limit(newest)
        )
        with self._reading() as connection:
            rows = [_with_check(row) for row in connection.execute(query).mappings()]
        return sorted(rows, key=lambda row: int(row["seq"]))

    def count_alarm(self, gateway: str, code: str, *, now_unix_s: float) -> int:
        """Count one more alarm of this cause; returns how many there were in this hour."""
        table = ALARMS.c
        hour_unix_s = int(now_unix_s // 3600) * 3600
        here = (table.gateway == gateway) & (table.code == code) & (table.hour_unix_s == hour_unix_s)
        with self._writing() as connection:
            known = connection.execute(sa.select(table.count).where(here)).scalar_one_or_none()
            if known is None:
                connection.execute(
                    sa.insert(ALARMS).values(
                        gateway=gateway, code=code, hour_unix_s=hour_unix_s, count=1, last_unix_s=now_unix_s
                    )
                )
                return 1
            connection.execute(sa.update(ALARMS).where(here).values(count=known + 1, last_unix_s=now_unix_s))
            return int(known) + 1

    def alarm_counts(self) -> dict[tuple[str, str], int]:
        """How often each (gateway, code) was counted in all."""
        query = sa.select(ALARMS.c.gateway, ALARMS.c.code, sa.func.sum(ALARMS.c.count))
        with self._reading() as connection:
            rows: Sequence[Any] = connection.execute(query.group_by(ALARMS.c.gateway, ALARMS.c.code)).all()
        return {(gateway, code): int(count) for gateway, code, count in rows}


def _set_up_connection(connection: sqlite3.Connection, _record: object) -> None:
    # Autocommit, so that BEGIN IMMEDIATE above is the only thing that opens a transaction.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _with_check(row: sa.RowMapping) -> dict[str, Any]:
    """The API says `check` as the protocol does; the column can't, because SQL owns the word."""
    values = dict(row)
    values["check"] = values.pop("check_id")
    return values
