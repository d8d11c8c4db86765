"""What the homes say of themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from centre.store.engine import Rows, with_check
from centre.store.occasion import put_fact, put_in_force
from centre.store.signal import newest_signals
from centre.store.table import (
    AGREEMENTS,
    HOMES,
    JUDGED,
    LEDGER_CHECKPOINTS,
    LEDGER_RECORDS,
    OCCASION_FACTS,
    OUTCOMES,
    TUNNELS,
)
from gateway.protocol.message import Challenged, DueFact, Hello

LATE_ANSWER_S: Final = 60.0
"""An answer that somebody still waited for is younger than this."""


class HomeRows(Rows):
    """The register of homes."""

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

    def set_online(self, gateway: str, *, online: bool, tunnel: str | None = None, now_unix_s: float = 0.0) -> None:
        """What the broker says; the first word of a home's absence counts.

        `tunnel` is the home's word for its way to us; None leaves what was known last.
        """
        here = HOMES.c.gateway == gateway
        with self._writing() as connection:
            if not online:
                gone = sa.update(HOMES).where(here, HOMES.c.offline_unix_s.is_(None))
                connection.execute(gone.values(offline_unix_s=now_unix_s))
            values: dict[str, Any] = {"online": online} | ({"offline_unix_s": None} if online else {})
            connection.execute(sa.update(HOMES).where(here).values(values))
            if tunnel is not None:
                connection.execute(sa.delete(TUNNELS).where(TUNNELS.c.gateway == gateway))
                connection.execute(sa.insert(TUNNELS).values(gateway=gateway, word=tunnel))

    def take_hello(self, hello: Hello, *, now_unix_s: float) -> bool:
        """Enter what a home says of itself; False when it is older than what is known, or the same again.

        Within one boot the lower end of the clock never falls, so a Hello with a lower one is late or replayed. The
        same one comes from each worker that heard it.
        """
        with self._writing() as connection:
            known = connection.execute(sa.select(HOMES).where(HOMES.c.gateway == hello.gateway)).mappings().one()
            is_same_boot = known["boot"] == hello.boot and known["clock_lo_unix_s"] is not None
            if is_same_boot and hello.clock.lo_unix_s < known["clock_lo_unix_s"]:
                return False
            said = {
                "boot": hello.boot,
                "sw": hello.sw,
                "clock_state": hello.clock.state,
                "clock_lo_unix_s": hello.clock.lo_unix_s,
                "clock_hi_unix_s": hello.clock.hi_unix_s,
                "agreement": hello.agreement,
                "version": hello.version,
                "due_json": msgspec.json.encode(hello.due).decode(),
                "obstacle": hello.obstacle,
            }
            if known["online"] and all(known[name] == value for name, value in said.items()):
                return False
            here = {"online": True, "offline_unix_s": None, "heard_unix_s": now_unix_s}
            connection.execute(sa.update(HOMES).where(HOMES.c.gateway == hello.gateway).values(said | here))
            _confirm_agreement(connection, hello, now_unix_s)
            _put_said(connection, hello.gateway, hello.install_epoch, hello.due, now_unix_s)
        return True

    def take_challenged(self, challenged: Challenged, *, now_unix_s: float) -> None:
        """A challenge's answer tells the same as a Hello, fresher. Call it for a reply that we waited for only.

        One that a Hello overtook on another worker's way, or on another topic's, is left out: the home would seem to be
        in a check that has ended. It names no boot, so a clock that is set back by more than an answer takes counts.
        """
        values = {
            "online": True,
            "offline_unix_s": None,
            "heard_unix_s": now_unix_s,
            "clock_state": challenged.clock.state,
            "clock_lo_unix_s": challenged.clock.lo_unix_s,
            "clock_hi_unix_s": challenged.clock.hi_unix_s,
            "agreement": challenged.agreement,
            "version": challenged.version,
            "due_json": msgspec.json.encode(challenged.due).decode(),
        }
        here = HOMES.c.gateway == challenged.gateway
        with self._writing() as connection:
            known_s = connection.execute(sa.select(HOMES.c.clock_lo_unix_s).where(here)).scalar()
            if known_s is not None and 0.0 < known_s - challenged.clock.lo_unix_s < LATE_ANSWER_S:
                return
            connection.execute(sa.update(HOMES).where(here).values(values))

    def home_states(self, only: str | None = None, *, last: bool = True) -> dict[str, dict[str, Any]]:
        """What is known of each home, or of `only` one, with `due`; and its five newest outcomes, newest first."""
        query = sa.select(HOMES) if only is None else sa.select(HOMES).where(HOMES.c.gateway == only)
        with self._reading() as connection:
            states = {row["gateway"]: dict(row) for row in connection.execute(query).mappings()}
            tunnel = sa.select(TUNNELS) if only is None else sa.select(TUNNELS).where(TUNNELS.c.gateway == only)
            tunnels = {row.gateway: row.word for row in connection.execute(tunnel)}
            signals = newest_signals(connection, only)
            for gateway, state in states.items():
                state["signal"] = signals.get(gateway)
                state["tunnel"] = tunnels.get(gateway)
                state["due"] = json.loads(state.pop("due_json"))
                state["last"] = []
                if not last:
                    continue
                newest = (
                    sa.select(*(column for column in OUTCOMES.c if column.name not in ("number", "closed_jws")))
                    .where(OUTCOMES.c.gateway == gateway)
                    .order_by(OUTCOMES.c.number.desc())
                    .limit(5)
                )
                state["last"] = [with_check(row) for row in connection.execute(newest).mappings()]
        return states

    def due_lists(self) -> list[tuple[str, str, float | None]]:
        """(gateway, its newest list as JSON, when it said that) of every home: what the queue is reckoned from."""
        table = HOMES.c
        with self._reading() as connection:
            rows: Any = connection.execute(sa.select(table.gateway, table.due_json, table.heard_unix_s)).all()
        return [tuple(row) for row in rows]

    def held_agreements(self) -> dict[str, tuple[str | None, int | None]]:
        """(agreement, version) that each home says it holds."""
        with self._reading() as connection:
            rows: Sequence[Any] = connection.execute(
                sa.select(HOMES.c.gateway, HOMES.c.agreement, HOMES.c.version)
            ).all()
        return {gateway: (agreement, version) for gateway, agreement, version in rows}


def _set_ledger_aside(connection: sa.Connection, gateway: str, install_epoch: int) -> None:
    """A new installation begins a new ledger: the rows of the old one are kept under its audience."""
    aside = f"{gateway}/{install_epoch}"
    for table in (LEDGER_RECORDS, LEDGER_CHECKPOINTS):
        if connection.execute(sa.select(table.c.gateway).where(table.c.gateway == aside).limit(1)).first() is None:
            connection.execute(sa.update(table).where(table.c.gateway == gateway).values(gateway=aside))


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
        put_in_force(connection, sent[0], now_unix_s)


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
        put_fact(connection, fact)
        if closes_unix_s is not None:
            judged = JUDGED.c
            mine = (judged.gateway == gateway) & (judged.install_epoch == install_epoch)
            connection.execute(
                sa.update(JUDGED).where(mine, judged.look_unix_s > closes_unix_s).values(look_unix_s=closes_unix_s)
            )
