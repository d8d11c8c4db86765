"""What each agreed occasion has come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from centre.store.engine import Rows, with_check
from centre.store.handover import put_handover_event
from centre.store.table import (
    AGREEMENTS,
    COMMANDS,
    HANDOVERS,
    HOMES,
    JUDGED,
    LEDGER_RECORDS,
    OCCASION_FACTS,
    OUTCOMES,
    WITNESSED,
)
from gateway.protocol.message import Closed, MissedCheck, Word

_SAID_BY_REASON: Final[Mapping[str, tuple[str, ...]]] = {"not-seen": ("not_seen",), "check-broken": ("broken",)}
"""What a hand-over's reason says of a check, in the words of an attempt's outcome."""
LONGEST_WINDOW_S: Final = 4 * 3600
"""Source: gateway.agreement.schema.Line, `window_min` at most 240."""


class OccasionRows(Rows):
    """Outcomes, agreements, and how far occasions have been judged."""

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

        `outcome` is the attempt's, in the agreement's words; `closed_unix_s` is when the home says it ended. Where only
        the home's ledger has told it yet (`closed_jws` empty), its report takes that row's place.
        """
        values = msgspec.structs.asdict(closed)
        values["check_id"] = values.pop("check")
        values |= {"closed_jws": closed_jws, "heard_unix_s": now_unix_s}
        here = sa.and_(OUTCOMES.c.gateway == closed.gateway, OUTCOMES.c.check_id == closed.check)
        with self._writing() as connection:
            known = connection.execute(sa.select(OUTCOMES.c.closed_jws).where(here)).scalar_one_or_none()
            if known is not None:
                if closed_jws and not known:
                    connection.execute(sa.update(OUTCOMES).where(here).values(values))
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
            put_check_fact(connection, fact, now_unix_s)
        return True

    def put_missed(self, missed: MissedCheck, *, install_epoch: int, now_unix_s: float) -> bool:
        """Enter that the home itself told of a missed occasion, beside its hand-over; False when it is known."""
        key = {"gateway": missed.gateway, "install_epoch": install_epoch}
        ref = f"{missed.line}|{missed.occasion}"
        known = sa.select(OCCASION_FACTS.c.ref).filter_by(**key, what="missed", ref=ref)
        same = {"line": missed.line, "occasion": missed.occasion}
        with self._writing() as connection:
            if connection.execute(known).first() is not None:
                return False
            told = {"attempt": missed.attempts, "word": missed.why, "closes_unix_s": missed.ended_unix_s}
            put_fact(connection, {**key, **same, **told, "what": "missed", "ref": ref, "at_unix_s": now_unix_s})
            here = sa.select(HANDOVERS.c.id).filter_by(**key, **same)
            for handover in connection.execute(here).scalars().all():
                put_handover_event(connection, handover, "told", at_unix_s=now_unix_s, word=missed.why)
        return True

    def unreported(self, gateway: str, install_epoch: int) -> list[bytes]:
        """The ledger lines, in order, of checks that have a `closed` record and no outcome: their report never came.

        Only lines under a checkpoint that was found consistent with them, which are signed as the report would be.
        """
        line, other = LEDGER_RECORDS.c, LEDGER_RECORDS.alias()
        covered = sa.select(WITNESSED.c.lines_size).filter_by(gateway=gateway, install_epoch=install_epoch)
        is_told = sa.select(OUTCOMES.c.number).where(
            OUTCOMES.c.gateway == gateway, OUTCOMES.c.check_id == other.c.check_id
        )
        closed = sa.select(other.c.check_id).where(
            other.c.gateway == gateway,
            other.c.kind == "closed",
            ~is_told.exists(),
        )
        query = (
            sa.select(line.raw)
            .where(line.gateway == gateway, line.check_id.in_(closed), line.kind.in_(("verdict", "closed")))
            .where(line.seq < covered.scalar_subquery())
            .order_by(line.seq)
        )
        with self._reading() as connection:
            return [bytes(raw) for raw in connection.execute(query).scalars()]

    def outcomes_after(self, number: int, *, limit: int) -> list[dict[str, Any]]:
        """Outcomes with their signatures, above a number, oldest first."""
        query = sa.select(OUTCOMES).where(OUTCOMES.c.number > number).order_by(OUTCOMES.c.number).limit(limit)
        with self._reading() as connection:
            return [with_check(row) for row in connection.execute(query).mappings()]

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

    def last_checks(self, only: str | None = None) -> dict[str, dict[str, Any]]:
        """How each home's newest check ended, and when that was heard. One look into an index for each home."""
        homes = sa.select(_newest_of(HOMES.c.gateway))
        if only is not None:
            homes = homes.where(HOMES.c.gateway == only)
        table = OUTCOMES.c
        query = sa.select(table.gateway, table.why, table.heard_unix_s).where(table.number.in_(homes))
        with self._reading() as connection:
            rows: Any = connection.execute(query).all()
        return {gateway: {"why": why, "heard_unix_s": heard_unix_s} for gateway, why, heard_unix_s in rows}


def _newest_of(gateway: sa.ColumnElement[str]) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.max(OUTCOMES.c.number)).where(OUTCOMES.c.gateway == gateway).scalar_subquery()


def put_in_force(connection: sa.Connection, row: sa.RowMapping, now_unix_s: float) -> None:
    here = AGREEMENTS.c.correlation == row["correlation"]
    connection.execute(sa.update(AGREEMENTS).where(here).values(accepted_unix_s=now_unix_s))
    # Its occasions are to be judged anew from the earliest window on that may still be open.
    key = {"gateway": row["gateway"], "install_epoch": row["install_epoch"]}
    judged_s = connection.execute(sa.select(JUDGED.c.until_unix_s).filter_by(**key)).scalar_one_or_none()
    earliest_s = now_unix_s - LONGEST_WINDOW_S
    until_unix_s = earliest_s if judged_s is None else min(judged_s, earliest_s)
    connection.execute(sa.delete(JUDGED).filter_by(**key))
    connection.execute(sa.insert(JUDGED).values(until_unix_s=until_unix_s, look_unix_s=0.0, **key))


def put_fact(connection: sa.Connection, fact: Mapping[str, Any]) -> None:
    key = {name: fact[name] for name in ("gateway", "install_epoch", "what", "ref")}
    connection.execute(sa.delete(OCCASION_FACTS).filter_by(**key))
    connection.execute(sa.insert(OCCASION_FACTS).values(dict(fact)))


def put_check_fact(connection: sa.Connection, fact: Mapping[str, Any], now_unix_s: float) -> None:
    """Enter a check's end. Its report and its line in the home's log say the same: the second is no news."""
    key = {name: fact[name] for name in ("gateway", "install_epoch", "what", "ref")}
    is_new = connection.execute(sa.select(OCCASION_FACTS.c.ref).filter_by(**key)).first() is None
    put_fact(connection, fact)
    if is_new:
        _note_since(connection, fact, now_unix_s)


def _note_since(connection: sa.Connection, fact: Mapping[str, Any], now_unix_s: float) -> None:
    """A check that is heard of after its occasion was handed over: whoever was sent is told, nothing is taken back.

    The home's ledger may have begun the hand-over before its report came: what is its reason already is no news.
    """
    table = HANDOVERS.c
    same = {name: fact[name] for name in ("gateway", "install_epoch", "line", "occasion")}
    rows: Any = connection.execute(sa.select(table.id, table.reason).filter_by(**same)).all()
    for handover, reason in rows:
        if fact["word"] in _SAID_BY_REASON.get(reason, ()):
            continue
        connection.execute(sa.update(HANDOVERS).where(table.id == handover).values(since=fact["word"]))
        put_handover_event(connection, handover, "since", at_unix_s=now_unix_s, word=fact["word"])
