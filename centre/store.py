"""What the centre remembers: SQLite by SQLAlchemy Core. Every call is one short transaction, durable when it returns.

No column holds a name, an address, a personal number or a picture: people are pseudonyms from the grants, homes are
gateway ids, and of a signed command only its hash is kept (an offer's SDP holds network addresses). A second worker
process may share the file; what is unique is unique by a constraint, not by who wrote it.

Calls block for an fsync (WAL, synchronous=FULL), so coroutines make them in a thread. SQLAlchemyError is never caught
here: a store that can't write must end the process.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from gateway.protocol.message import Challenged, Closed, DueFact, Grant, Hello, Word

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


WITNESSED: Final = sa.Table(
    "witnessed",
    METADATA,
    # The newest checkpoint that was found consistent, and the tree over the lines that were compared with it.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("root_hex", sa.String(64), nullable=False),
    # With our cosignature as its last line, where the centre has a witness key.
    sa.Column("note", sa.String(8192), nullable=False),
    sa.Column("is_cosigned", sa.Boolean, nullable=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("lines_size", sa.Integer, nullable=False),
    sa.Column("peaks_hex", sa.String(4096), nullable=False),
)
DISABLED: Final = sa.Table(
    "disabled",
    METADATA,
    # Never deleted: a home comes back by a higher install_epoch, and what happened before stays to be read.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("why", sa.String(40), nullable=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("known_size", sa.Integer, nullable=False),
    sa.Column("note_sha256", sa.String(64), nullable=False),
)
RECONCILIATIONS: Final = sa.Table(
    "reconciliations",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("lines", sa.Integer, nullable=False),
    sa.Column("witnessed_size", sa.Integer),
    sa.Column("silent_s", sa.Float),
    sa.Column("findings", sa.String(200), nullable=False),
)
AGREEMENTS: Final = sa.Table(
    "agreements",
    METADATA,
    # A row without `accepted_unix_s` went to the home and is not known to be in force.
    sa.Column("correlation", sa.String(32), primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False, index=True),
    sa.Column("install_epoch", sa.Integer, nullable=False),
    sa.Column("agreement", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("agreement_json", sa.String(16384), nullable=False),
    sa.Column("sent_unix_s", sa.Float, nullable=False),
    sa.Column("accepted_unix_s", sa.Float),
)
OCCASION_FACTS: Final = sa.Table(
    "occasion_facts",
    METADATA,
    # What a home signed about one occasion. `what` is "asked" (an opening; `ref` is the command's correlation, `word` a
    # refusal code or "check.opened"), "check" (ended; check id, outcome) or "said" (of its list; line and occasion,
    # status).
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("what", sa.String(8), primary_key=True),
    sa.Column("ref", sa.String(120), primary_key=True),
    sa.Column("line", sa.String(64), nullable=False),
    sa.Column("occasion", sa.String(40), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("word", sa.String(40)),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("closes_unix_s", sa.Float),
)
sa.Index("occasion_facts_by_time", OCCASION_FACTS.c.gateway, OCCASION_FACTS.c.at_unix_s)
JUDGED: Final = sa.Table(
    "judged",
    METADATA,
    # Every occasion that began before `until_unix_s` has been judged for good; nothing can be missed before
    # `look_unix_s`.
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("until_unix_s", sa.Float, nullable=False),
    sa.Column("look_unix_s", sa.Float, nullable=False),
)
HANDOVERS: Final = sa.Table(
    "handovers",
    METADATA,
    # Rows are never deleted, and `state` moves open, acknowledged, done only.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("install_epoch", sa.Integer, nullable=False),
    sa.Column("line", sa.String(64), nullable=False),
    sa.Column("occasion", sa.String(64), nullable=False),
    sa.Column("reason", sa.String(40), nullable=False),
    sa.Column("unit", sa.String(64)),
    sa.Column("steps_json", sa.String(4096), nullable=False),
    sa.Column("within_min", sa.Integer, nullable=False),
    sa.Column("created_unix_s", sa.Float, nullable=False),
    sa.Column("deadline_unix_s", sa.Float, nullable=False),
    sa.Column("escalates_unix_s", sa.Float, nullable=False),
    sa.Column("escalations", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("acknowledged_by", sa.String(64)),
    sa.Column("acknowledged_unix_s", sa.Float),
    sa.Column("done_by", sa.String(64)),
    sa.Column("done_unix_s", sa.Float),
    sa.Column("outcome", sa.String(40)),
    sa.Column("since", sa.String(40)),
    sa.UniqueConstraint("gateway", "install_epoch", "line", "occasion"),
)
HANDOVER_EVENTS: Final = sa.Table(
    "handover_events",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("handover", sa.String(64), nullable=False, index=True),
    sa.Column("what", sa.String(40), nullable=False),
    sa.Column("who", sa.String(64)),
    sa.Column("word", sa.String(40)),
    sa.Column("at_unix_s", sa.Float, nullable=False),
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


@dataclass(frozen=True, slots=True)
class AskedOpening:
    """Which attempt at which occasion a `check.open` asks for; kept, because the home's refusal does not say it."""

    install_epoch: int
    line: str
    occasion: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SentAgreement:
    """An agreement on its way to a home. `agreement_json` is at most 16 KiB."""

    install_epoch: int
    agreement: str
    version: int
    agreement_json: str


@dataclass(frozen=True, slots=True)
class HandoverStart:
    """Everything about a hand-over that is known when it begins; `steps` is of msgspec's built-in types."""

    id: str
    gateway: str
    install_epoch: int
    line: str
    occasion: str
    reason: str
    unit: str | None
    steps: Sequence[Mapping[str, Any]]
    within_min: int
    created_unix_s: float


class Witnessing:
    """One home's witness state inside one writing transaction; made by `Store.witnessing`."""

    def __init__(self, connection: sa.Connection, gateway: str, install_epoch: int) -> None:
        self._connection = connection
        self._key: dict[str, Any] = {"gateway": gateway, "install_epoch": install_epoch}

    def newest(self) -> dict[str, Any] | None:
        """The row of `witnessed`, or None if this home's log was never witnessed."""
        query = sa.select(WITNESSED).filter_by(**self._key)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else dict(row)

    def lines(self, first: int, end: int) -> list[bytes] | None:
        """The raw lines `first` to `end` - 1, or None if one is missing."""
        table = LEDGER_RECORDS.c
        query = (
            sa.select(table.raw)
            .where(table.gateway == self._key["gateway"], table.seq >= first, table.seq < end)
            .order_by(table.seq)
        )
        raws = [bytes(raw) for raw in self._connection.execute(query).scalars()]
        return raws if len(raws) == end - first else None

    def keep(self, **values: Any) -> None:
        """Replace the row of `witnessed`; all its columns but the key."""
        self._connection.execute(sa.delete(WITNESSED).filter_by(**self._key))
        self._connection.execute(sa.insert(WITNESSED).values(self._key | values))

    def put_checkpoint(self, note: str, *, note_sha256: str, now_unix_s: float) -> bool:
        """Keep a checkpoint as it came; False when it was known byte for byte."""
        return _put_checkpoint(self._connection, self._key["gateway"], note, note_sha256, now_unix_s)

    def disable(self, why: str, *, known_size: int, note_sha256: str, now_unix_s: float) -> None:
        """Nothing opens in this installation any more; the first reason stays."""
        values = {"why": why, "at_unix_s": now_unix_s, "known_size": known_size, "note_sha256": note_sha256}
        known = sa.select(DISABLED.c.why).filter_by(**self._key)
        if self._connection.execute(known).first() is None:
            self._connection.execute(sa.insert(DISABLED).values(self._key | values))


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
                if install_epoch > known["install_epoch"]:
                    _set_ledger_aside(connection, gateway, known["install_epoch"])

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
            _confirm_agreement(connection, hello, now_unix_s)
            _put_said(connection, hello.gateway, hello.install_epoch, hello.due, now_unix_s)
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
        self,
        correlation: bytes,
        *,
        command_sha256: str,
        gateway: str,
        kind: str,
        who: str,
        jti: str,
        now_unix_s: float,
        opening: AskedOpening | None = None,
        agreement: SentAgreement | None = None,
    ) -> None:
        """Enter a command before it goes out, with what of its content is needed once the home has answered."""
        with self._writing() as connection:
            if opening is not None:
                values = {column: getattr(opening, column) for column in AskedOpening.__slots__}
                values |= {"what": "asked", "ref": correlation.hex(), "at_unix_s": now_unix_s}
                connection.execute(sa.insert(OCCASION_FACTS).values(gateway=gateway, **values))
            if agreement is not None:
                values = {column: getattr(agreement, column) for column in SentAgreement.__slots__}
                values |= {"correlation": correlation.hex(), "sent_unix_s": now_unix_s}
                connection.execute(sa.insert(AGREEMENTS).values(gateway=gateway, **values))
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
            if connection.execute(statement).rowcount != 1:
                return False
            asked = OCCASION_FACTS.c
            connection.execute(
                sa.update(OCCASION_FACTS)
                .where(asked.gateway == gateway, asked.what == "asked", asked.ref == correlation.hex())
                .values(word=answer, at_unix_s=now_unix_s)
            )
            _answer_agreement(connection, correlation.hex(), answer, now_unix_s)
            return True

    def is_asked(self, correlation: bytes, *, gateway: str, jti: str) -> bool:
        """Was this command sent to this home, answered or not?"""
        query = sa.select(COMMANDS.c.jti).where(
            COMMANDS.c.correlation == correlation.hex(), COMMANDS.c.gateway == gateway, COMMANDS.c.jti == jti
        )
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def put_outcome(
        self,
        closed: Closed,
        *,
        closed_jws: str,
        now_unix_s: float,
        install_epoch: int = 0,
        outcome: Word = "unsure",
        closed_unix_s: float | None = None,
    ) -> bool:
        """Enter how a check ended; False when it is known already (QoS 1 repeats).

        `outcome` is the attempt's, in the agreement's words; `closed_unix_s` is when the home says it ended.
        """
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
            fact = {
                "gateway": closed.gateway,
                "install_epoch": install_epoch,
                "what": "check",
                "ref": closed.check,
                "line": closed.line,
                "occasion": closed.occasion,
                "attempt": closed.attempt,
                "word": outcome,
                "at_unix_s": now_unix_s if closed_unix_s is None else closed_unix_s,
            }
            _put_fact(connection, fact)
            _note_since(connection, fact, now_unix_s)
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
        with self._writing() as connection:
            _put_checkpoint(connection, gateway, note, note_sha256, now_unix_s)

    @contextmanager
    def witnessing(self, gateway: str, install_epoch: int) -> Iterator[Witnessing]:
        """Look at and replace what is witnessed of a home, in one writing transaction: two workers take turns."""
        with self._writing() as connection:
            yield Witnessing(connection, gateway, install_epoch)

    def witnessed(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The newest witnessed checkpoint of each (gateway, install_epoch)."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(WITNESSED)).mappings().all()
        return {(row["gateway"], row["install_epoch"]): dict(row) for row in rows}

    def disabled(self, installations: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Of these (gateway: install_epoch) the disabled ones, with why and since when.

        A home that was disabled stays so in that installation and in any earlier one.
        """
        with self._reading() as connection:
            rows = connection.execute(sa.select(DISABLED).order_by(DISABLED.c.at_unix_s)).mappings().all()
        found = {}
        for row in rows:
            epoch = installations.get(row["gateway"])
            if epoch is not None and epoch <= row["install_epoch"]:
                found[row["gateway"]] = {"why": row["why"], "since_unix_s": row["at_unix_s"]}
        return found

    def ledger_extent(self, gateway: str) -> tuple[int, int]:
        """(how many lines are here, one more than the highest number): equal when none is missing."""
        table = LEDGER_RECORDS.c
        query = sa.select(sa.func.count(), sa.func.max(table.seq)).where(table.gateway == gateway)
        with self._reading() as connection:
            count, highest = connection.execute(query).one()
        return int(count), 0 if highest is None else int(highest) + 1

    def oldest_line_from(self, gateway: str, seq: int) -> float | None:
        """The lowest `time_lo` of the lines from number `seq` on, None if there are none."""
        table = LEDGER_RECORDS.c
        query = sa.select(sa.func.min(table.time_lo_unix_s)).where(table.gateway == gateway, table.seq >= seq)
        with self._reading() as connection:
            found = connection.execute(query).scalar_one()
        return None if found is None else float(found)

    def put_reconciliation(self, gateway: str, *, day: int, **values: Any) -> bool:
        """Enter one home's daily comparison; False when another worker has made it."""
        known = sa.select(RECONCILIATIONS.c.day).filter_by(gateway=gateway, day=day)
        with self._writing() as connection:
            if connection.execute(known).first() is not None:
                return False
            connection.execute(sa.insert(RECONCILIATIONS).values(gateway=gateway, day=day, **values))
        return True

    def reconciled_days(self) -> dict[str, int]:
        """The newest day of each home's comparison."""
        query = sa.select(RECONCILIATIONS.c.gateway, sa.func.max(RECONCILIATIONS.c.day))
        with self._reading() as connection:
            rows: Sequence[Any] = connection.execute(query.group_by(RECONCILIATIONS.c.gateway)).all()
        return {gateway: int(day) for gateway, day in rows}

    def agreements(self, gateway: str, install_epoch: int) -> list[dict[str, Any]]:
        """The agreements that this home accepted, oldest first."""
        table = AGREEMENTS.c
        query = (
            sa.select(AGREEMENTS)
            .where(table.gateway == gateway, table.install_epoch == install_epoch, table.accepted_unix_s.is_not(None))
            .order_by(table.accepted_unix_s, table.version)
        )
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def withdrawals(self, gateway: str) -> list[float]:
        """When this home accepted withdrawals that went by the centre."""
        table = COMMANDS.c
        query = sa.select(table.answered_unix_s).where(
            table.gateway == gateway, table.kind == "agreement.withdraw", table.answer == "accepted"
        )
        with self._reading() as connection:
            return [float(moment) for moment in connection.execute(query).scalars()]

    def occasion_facts(self, gateway: str, install_epoch: int, *, since_unix_s: float) -> list[dict[str, Any]]:
        """What this home signed about its occasions since then, oldest first."""
        table = OCCASION_FACTS.c
        query = (
            sa.select(OCCASION_FACTS)
            .where(table.gateway == gateway, table.install_epoch == install_epoch, table.at_unix_s >= since_unix_s)
            .order_by(table.at_unix_s)
        )
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def judged(self) -> dict[tuple[str, int], tuple[float, float]]:
        """(until_unix_s, look_unix_s) of each (gateway, install_epoch)."""
        with self._reading() as connection:
            rows: Sequence[Any] = connection.execute(sa.select(JUDGED)).all()
        return {(row.gateway, row.install_epoch): (row.until_unix_s, row.look_unix_s) for row in rows}

    def put_judged(
        self,
        gateway: str,
        install_epoch: int,
        *,
        before: tuple[float, float] | None,
        until_unix_s: float,
        look_unix_s: float,
    ) -> bool:
        """Enter how far a home's occasions have been judged; False, with nothing changed, if it is not `before` now.

        Then an agreement came in meanwhile, or another worker looked: what was judged was not everything.
        """
        key = {"gateway": gateway, "install_epoch": install_epoch}
        with self._writing() as connection:
            row: Any = connection.execute(sa.select(JUDGED).filter_by(**key)).first()
            if (None if row is None else (row.until_unix_s, row.look_unix_s)) != before:
                return False
            connection.execute(sa.delete(JUDGED).filter_by(**key))
            connection.execute(sa.insert(JUDGED).values(until_unix_s=until_unix_s, look_unix_s=look_unix_s, **key))
        return True

    def held_agreements(self) -> dict[str, tuple[str | None, int | None]]:
        """(agreement, version) that each home says it holds."""
        with self._reading() as connection:
            rows: Sequence[Any] = connection.execute(
                sa.select(HOMES.c.gateway, HOMES.c.agreement, HOMES.c.version)
            ).all()
        return {gateway: (agreement, version) for gateway, agreement, version in rows}

    def put_handover(self, start: HandoverStart) -> bool:
        """Begin a hand-over; False when this occasion has one, whoever began it."""
        values = {column: getattr(start, column) for column in HandoverStart.__slots__}
        deadline_unix_s = start.created_unix_s + start.within_min * 60
        values |= {
            "steps_json": msgspec.json.encode(values.pop("steps")).decode(),
            "deadline_unix_s": deadline_unix_s,
            "escalates_unix_s": deadline_unix_s,
            "escalations": 0,
            "state": "open",
        }
        table = HANDOVERS.c
        known = sa.select(table.id).where(
            table.gateway == start.gateway,
            table.install_epoch == start.install_epoch,
            table.line == start.line,
            table.occasion == start.occasion,
        )
        with self._writing() as connection:
            if connection.execute(known).first() is not None:
                return False
            connection.execute(sa.insert(HANDOVERS).values(values))
            _put_handover_event(connection, start.id, "created", at_unix_s=start.created_unix_s, word=start.reason)
        return True

    def handover(self, handover: str) -> dict[str, Any] | None:
        with self._reading() as connection:
            row = connection.execute(sa.select(HANDOVERS).where(HANDOVERS.c.id == handover)).mappings().first()
        return None if row is None else _with_steps(row)

    def handovers(self, *, newest: int | None = None) -> list[dict[str, Any]]:
        """Those that are not done, most urgent first; with `newest`, that many of all, newest first."""
        table = HANDOVERS.c
        query = sa.select(HANDOVERS)
        if newest is None:
            query = query.where(table.state != "done").order_by(table.state.desc(), table.deadline_unix_s, table.id)
        else:
            query = query.order_by(table.created_unix_s.desc(), table.id).limit(newest)
        with self._reading() as connection:
            return [_with_steps(row) for row in connection.execute(query).mappings()]

    def handover_events(self, handover: str) -> list[dict[str, Any]]:
        """What happened to a hand-over, oldest first."""
        table = HANDOVER_EVENTS.c
        query = sa.select(table.what, table.who, table.word, table.at_unix_s).where(table.handover == handover)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query.order_by(table.number)).mappings()]

    def acknowledge_handover(self, handover: str, *, who: str, now_unix_s: float) -> bool:
        """From open to acknowledged; False when it isn't open."""
        values = {"acknowledged_by": who, "acknowledged_unix_s": now_unix_s}
        return self._move_handover(handover, "open", "acknowledged", values, who=who, now_unix_s=now_unix_s)

    def finish_handover(self, handover: str, *, who: str, outcome: Word, now_unix_s: float) -> bool:
        """From acknowledged to done; False when it isn't acknowledged."""
        values = {"done_by": who, "done_unix_s": now_unix_s, "outcome": outcome}
        return self._move_handover(
            handover, "acknowledged", "done", values, who=who, now_unix_s=now_unix_s, word=outcome
        )

    def _move_handover(
        self,
        handover: str,
        before: str,
        after: str,
        values: Mapping[str, Any],
        *,
        who: str,
        now_unix_s: float,
        word: str | None = None,
    ) -> bool:
        statement = (
            sa.update(HANDOVERS)
            .where(HANDOVERS.c.id == handover, HANDOVERS.c.state == before)
            .values(state=after, **values)
        )
        with self._writing() as connection:
            if connection.execute(statement).rowcount != 1:
                return False
            _put_handover_event(connection, handover, after, at_unix_s=now_unix_s, who=who, word=word)
        return True

    def escalate_handovers(self, *, now_unix_s: float) -> list[dict[str, Any]]:
        """Count one more escalation for each open hand-over whose time is up; returns them as they are then.

        Several that fell due while nobody counted are one: what matters is that somebody is told now.
        """
        table = HANDOVERS.c
        is_late = (table.state == "open") & (table.escalates_unix_s <= now_unix_s)
        with self._reading() as connection:
            if connection.execute(sa.select(table.id).where(is_late).limit(1)).first() is None:
                return []
        with self._writing() as connection:
            late = [dict(row) for row in connection.execute(sa.select(HANDOVERS).where(is_late)).mappings()]
            for row in late:
                step_s = row["within_min"] * 60
                steps_past = math.floor((now_unix_s - row["deadline_unix_s"]) / step_s)
                row["escalations"] += 1
                row["escalates_unix_s"] = row["deadline_unix_s"] + (steps_past + 1) * step_s
                changed = {name: row[name] for name in ("escalations", "escalates_unix_s")}
                connection.execute(sa.update(HANDOVERS).where(table.id == row["id"]).values(changed))
                _put_handover_event(
                    connection, row["id"], "escalated", at_unix_s=now_unix_s, word=str(row["escalations"])
                )
        return [_with_steps(row) for row in late]

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


def _with_steps(row: sa.RowMapping | dict[str, Any]) -> dict[str, Any]:
    values = dict(row)
    values["steps"] = json.loads(values.pop("steps_json"))
    return values


def _put_checkpoint(connection: sa.Connection, gateway: str, note: str, note_sha256: str, now_unix_s: float) -> bool:
    table = LEDGER_CHECKPOINTS.c
    known = sa.select(table.note_sha256).where(table.gateway == gateway, table.note_sha256 == note_sha256)
    if connection.execute(known).first() is not None:
        return False
    values = {"gateway": gateway, "note": note, "note_sha256": note_sha256, "heard_unix_s": now_unix_s}
    connection.execute(sa.insert(LEDGER_CHECKPOINTS).values(values))
    return True


def _set_ledger_aside(connection: sa.Connection, gateway: str, install_epoch: int) -> None:
    """A new installation begins a new ledger: the rows of the old one are kept under its audience."""
    aside = f"{gateway}/{install_epoch}"
    for table in (LEDGER_RECORDS, LEDGER_CHECKPOINTS):
        if connection.execute(sa.select(table.c.gateway).where(table.c.gateway == aside).limit(1)).first() is None:
            connection.execute(sa.update(table).where(table.c.gateway == gateway).values(gateway=aside))


def _answer_agreement(connection: sa.Connection, correlation: str, answer: str, now_unix_s: float) -> None:
    """Accepted: it is in force from now on. Anything else: it never was."""
    here = AGREEMENTS.c.correlation == correlation
    row = connection.execute(sa.select(AGREEMENTS).where(here)).mappings().first()
    if row is None or row["accepted_unix_s"] is not None:
        return
    if answer == "accepted":
        _put_in_force(connection, row, now_unix_s)
    else:
        connection.execute(sa.delete(AGREEMENTS).where(here))


def _confirm_agreement(connection: sa.Connection, hello: Hello, now_unix_s: float) -> None:
    """A home that says it holds an agreement has accepted it, also when its answer was lost on the way."""
    sent = (
        connection.execute(
            sa.select(AGREEMENTS).filter_by(
                gateway=hello.gateway,
                install_epoch=hello.install_epoch,
                agreement=hello.agreement,
                version=hello.version,
            )
        )
        .mappings()
        .all()
    )
    # Two that say they are the same version: which of them the home holds, its words don't tell.
    if len(sent) == 1 and sent[0]["accepted_unix_s"] is None:
        _put_in_force(connection, sent[0], now_unix_s)


LONGEST_WINDOW_S: Final = 4 * 3600
"""Source: gateway.agreement.schema.Line, `window_min` at most 240."""


def _put_in_force(connection: sa.Connection, row: sa.RowMapping, now_unix_s: float) -> None:
    here = AGREEMENTS.c.correlation == row["correlation"]
    connection.execute(sa.update(AGREEMENTS).where(here).values(accepted_unix_s=now_unix_s))
    # Its occasions are to be judged anew from the earliest window on that may still be open.
    key = {"gateway": row["gateway"], "install_epoch": row["install_epoch"]}
    judged_s = connection.execute(sa.select(JUDGED.c.until_unix_s).filter_by(**key)).scalar_one_or_none()
    earliest_s = now_unix_s - LONGEST_WINDOW_S
    until_unix_s = earliest_s if judged_s is None else min(judged_s, earliest_s)
    connection.execute(sa.delete(JUDGED).filter_by(**key))
    connection.execute(sa.insert(JUDGED).values(until_unix_s=until_unix_s, look_unix_s=0.0, **key))


def _put_fact(connection: sa.Connection, fact: Mapping[str, Any]) -> None:
    key = {name: fact[name] for name in ("gateway", "install_epoch", "what", "ref")}
    connection.execute(sa.delete(OCCASION_FACTS).filter_by(**key))
    connection.execute(sa.insert(OCCASION_FACTS).values(dict(fact)))


def _put_said(
    connection: sa.Connection, gateway: str, install_epoch: int, due: Sequence[DueFact], now_unix_s: float
) -> None:
    """Enter what a home's list says of each occasion; the row is written only when that has changed."""
    table = OCCASION_FACTS.c
    query = sa.select(table.ref, table.word, table.closes_unix_s).where(
        table.gateway == gateway, table.install_epoch == install_epoch, table.what == "said"
    )
    refs = [f"{one.line} {one.occasion}" for one in due]
    known = {row.ref: (row.word, row.closes_unix_s) for row in connection.execute(query.where(table.ref.in_(refs)))}
    for ref, one in zip(refs, due, strict=True):
        # A home that says only "missed" or "done" no longer knows when the window was.
        before = known.get(ref)
        closes_unix_s = one.closes_unix_s or (before[1] if before else None)
        if before == (one.status, closes_unix_s):
            continue
        fact = {
            "gateway": gateway,
            "install_epoch": install_epoch,
            "what": "said",
            "ref": ref,
            "line": one.line,
            "occasion": one.occasion,
            "attempt": one.attempt,
            "word": one.status,
            "at_unix_s": now_unix_s,
            "closes_unix_s": closes_unix_s,
        }
        _put_fact(connection, fact)
        if closes_unix_s is not None:
            judged = JUDGED.c
            mine = (judged.gateway == gateway) & (judged.install_epoch == install_epoch)
            connection.execute(
                sa.update(JUDGED).where(mine, judged.look_unix_s > closes_unix_s).values(look_unix_s=closes_unix_s)
            )


def _note_since(connection: sa.Connection, fact: Mapping[str, Any], now_unix_s: float) -> None:
    """A check that is heard of after its occasion was handed over: whoever was sent is told, nothing is taken back."""
    table = HANDOVERS.c
    same = {name: fact[name] for name in ("gateway", "install_epoch", "line", "occasion")}
    for handover in connection.execute(sa.select(table.id).filter_by(**same)).scalars().all():
        connection.execute(sa.update(HANDOVERS).where(table.id == handover).values(since=fact["word"]))
        _put_handover_event(connection, handover, "since", at_unix_s=now_unix_s, word=fact["word"])


def _put_handover_event(
    connection: sa.Connection,
    handover: str,
    what: str,
    *,
    at_unix_s: float,
    who: str | None = None,
    word: str | None = None,
) -> None:
    connection.execute(
        sa.insert(HANDOVER_EVENTS).values(handover=handover, what=what, who=who, word=word, at_unix_s=at_unix_s)
    )
