"""Hand-overs: rows are never deleted, and `state` moves open, acknowledged, done only.

Each of its three parts has a time by which somebody must have said so, and escalates when that is over: that it was
acknowledged (within the agreement's first step), that somebody is there (within its longest), what came of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import DELIVERIES, HANDOVER_EVENTS, HANDOVERS
from gateway.protocol.message import Word

STUCK_TRIES: Final = 3
"""After so many tries in vain a message to home care is a fault on the operators' desk, too."""
AGAIN_S: Final = 900.0
"""How long somebody who took one on late has to get there, and how often it is said again that nobody is."""
OUTCOME_S: Final = 1800.0
"""How long after an arrival somebody must have said what came of it: who is with the resident has their hands full, and
who says nothing for longer may need help too."""
ESCALATIONS: Final = ("escalated", "arrival-overdue", "outcome-overdue")
"""What is overdue: that somebody took it on, that somebody is there, what came of it."""


def overdue_word(row: Mapping[str, Any]) -> str:
    """Which of ESCALATIONS it would be now."""
    if row["state"] == "open":
        return "escalated"
    return "arrival-overdue" if row["arrived_unix_s"] is None else "outcome-overdue"


def by_unix_s(row: Mapping[str, Any]) -> float:
    """When the part that is missing must have been said."""
    if row["state"] == "open":
        return float(row["deadline_unix_s"])
    given = row["arrive_by_unix_s"] if row["arrived_unix_s"] is None else row["outcome_by_unix_s"]
    # One that an earlier version acknowledged has no time of its own: it is overdue until somebody says more.
    return float(given or row["deadline_unix_s"])


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


class HandoverRows(Rows):
    """Hand-overs and what happened to each."""

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
            put_handover_event(connection, start.id, "created", at_unix_s=start.created_unix_s, word=start.reason)
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
        row = self.handover(handover)
        if row is None:
            return False
        agreed_unix_s = row["created_unix_s"] + 60 * max((step["within_min"] for step in row["steps"]), default=0)
        # What was agreed holds also for who takes it on late; only who comes after all that gets a time of their own.
        arrive_by_unix_s = agreed_unix_s if agreed_unix_s > now_unix_s else now_unix_s + AGAIN_S
        values = {"acknowledged_by": who, "acknowledged_unix_s": now_unix_s}
        values |= {"arrive_by_unix_s": arrive_by_unix_s, "escalates_unix_s": arrive_by_unix_s}
        return self._move_handover(handover, "open", "acknowledged", values, who=who, now_unix_s=now_unix_s)

    def arrive_handover(self, handover: str, *, who: str, now_unix_s: float) -> bool:
        """Somebody is there; False unless it is acknowledged and nobody has arrived yet."""
        table = HANDOVERS.c
        here = (table.id == handover) & (table.state == "acknowledged") & table.arrived_unix_s.is_(None)
        outcome_by_unix_s = now_unix_s + OUTCOME_S
        values = {"arrived_by": who, "arrived_unix_s": now_unix_s}
        values |= {"outcome_by_unix_s": outcome_by_unix_s, "escalates_unix_s": outcome_by_unix_s}
        statement = sa.update(HANDOVERS).where(here).values(values)
        with self._writing() as connection:
            if connection.execute(statement).rowcount != 1:
                return False
            put_handover_event(connection, handover, "arrived", at_unix_s=now_unix_s, who=who)
        return True

    def handed_over(self, since_unix_s: float) -> set[tuple[str, int, str, str]]:
        """Occasions whose hand-over began after `since_unix_s`, or is not done."""
        table = HANDOVERS.c
        query = sa.select(table.gateway, table.install_epoch, table.line, table.occasion).where(
            (table.created_unix_s > since_unix_s) | (table.state != "done")
        )
        with self._reading() as connection:
            return {tuple(row) for row in connection.execute(query).all()}

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
            put_handover_event(connection, handover, after, at_unix_s=now_unix_s, who=who, word=word)
        return True

    def escalate_handovers(self, *, now_unix_s: float) -> list[dict[str, Any]]:
        """Count one more escalation for each hand-over of which something is overdue; returns them as they are then.

        Several that fell due while nobody counted are one: what matters is that somebody is told now.
        """
        table = HANDOVERS.c
        is_late = (table.state != "done") & (table.escalates_unix_s <= now_unix_s)
        with self._reading() as connection:
            if connection.execute(sa.select(table.id).where(is_late).limit(1)).first() is None:
                return []
        with self._writing() as connection:
            late = [dict(row) for row in connection.execute(sa.select(HANDOVERS).where(is_late)).mappings()]
            for row in late:
                step_s = row["within_min"] * 60 if row["state"] == "open" else AGAIN_S
                steps_past = math.floor((now_unix_s - by_unix_s(row)) / step_s)
                row["escalations"] += 1
                row["escalates_unix_s"] = by_unix_s(row) + (steps_past + 1) * step_s
                changed = {name: row[name] for name in ("escalations", "escalates_unix_s")}
                connection.execute(sa.update(HANDOVERS).where(table.id == row["id"]).values(changed))
                put_handover_event(
                    connection, row["id"], overdue_word(row), at_unix_s=now_unix_s, word=str(row["escalations"])
                )
        return [_with_steps(row) for row in late]

    # The outbox: what must be told to whom

    def fan_out(self, channels: Mapping[str, Sequence[str]], *, fallback: str | None, now_unix_s: float) -> int:
        """Make a delivery of each event that nobody has been told of, for each channel of the hand-over's unit; how
        many.

        `channels` are a unit's. Escalations also go to `fallback`, and so does everything of a unit without channels.
        """
        events, handovers = HANDOVER_EVENTS.c, HANDOVERS.c
        told = sa.select(DELIVERIES.c.event).where(DELIVERIES.c.event == events.number)
        query = (
            sa.select(events.number, events.handover, events.what, handovers.unit)
            .join(HANDOVERS, handovers.id == events.handover)
            .where(events.what.in_(("created", *ESCALATIONS)), ~told.exists())
            .order_by(events.number)
        )
        with self._reading() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return 0
        made = 0
        with self._writing() as connection:
            for row in connection.execute(query.limit(200)).mappings().all():
                units = [row["unit"]] if row["unit"] in channels else []
                if fallback is not None and fallback not in units and (row["what"] != "created" or not units):
                    units.append(fallback)
                ways = [(unit, way) for unit in units for way in channels[unit]]
                values = {
                    "event": row["number"],
                    "handover": row["handover"],
                    "what": row["what"],
                    "tries": 0,
                    "next_unix_s": now_unix_s,
                    "created_unix_s": now_unix_s,
                }
                for unit, way in ways:
                    values |= {"unit": unit, "channel": way, "state": "waiting", "done_unix_s": None}
                    connection.execute(sa.insert(DELIVERIES).values(values))
                    made += 1
                if not ways:  # it still stands on the home-care page and in the queue, and that is all there is
                    values |= {"unit": row["unit"] or "none", "channel": "page", "state": "done"}
                    connection.execute(sa.insert(DELIVERIES).values(values | {"done_unix_s": now_unix_s}))
        return made

    def take_deliveries(self, *, now_unix_s: float, lease_s: float, limit: int) -> list[dict[str, Any]]:
        """Deliveries whose time has come, with their hand-over; they are this caller's for `lease_s`.

        A worker that dies with them leaves them to be taken again: told twice rather than never.
        """
        table = DELIVERIES.c
        ripe = (table.state == "waiting") & (table.next_unix_s <= now_unix_s)
        query = sa.select(DELIVERIES).where(ripe).order_by(table.next_unix_s).limit(limit)
        with self._reading() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return []
        with self._writing() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
            for row in rows:
                row["tries"] += 1
                leased = {"tries": row["tries"], "next_unix_s": now_unix_s + lease_s}
                connection.execute(sa.update(DELIVERIES).where(table.number == row["number"]).values(leased))
        return rows

    def end_delivery(self, delivery: int, *, now_unix_s: float) -> None:
        table = DELIVERIES.c
        values = {"state": "done", "done_unix_s": now_unix_s, "why": None}
        with self._writing() as connection:
            connection.execute(sa.update(DELIVERIES).where(table.number == delivery).values(values))

    def put_off_delivery(self, delivery: int, *, why: str, next_unix_s: float) -> None:
        table = DELIVERIES.c
        values = {"why": why, "next_unix_s": next_unix_s}
        here = (table.number == delivery) & (table.state == "waiting")
        with self._writing() as connection:
            connection.execute(sa.update(DELIVERIES).where(here).values(values))

    def deliveries(self, handover: str | None = None, *, limit: int = 200) -> list[dict[str, Any]]:
        """Of one hand-over, or the newest of all; newest first."""
        query = sa.select(*(column for column in DELIVERIES.c if column.name != "event"))
        if handover is not None:
            query = query.where(DELIVERIES.c.handover == handover)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(DELIVERIES.c.number.desc()).limit(limit)).mappings()
            return [dict(row) for row in rows]

    def stuck_gateways(self, *, tries: int) -> set[str]:
        """Homes of whose hand-overs somebody waits to be told after that many tries."""
        query = (
            sa.select(HANDOVERS.c.gateway)
            .join(DELIVERIES, DELIVERIES.c.handover == HANDOVERS.c.id)
            .where(DELIVERIES.c.state == "waiting", DELIVERIES.c.tries >= tries)
        )
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def handovers_begun(self, since_unix_s: float, *, only: str | None = None) -> dict[str, int]:
        """How many checks of each home were not made since then, as far as they became a hand-over; one in which the
        resident was not seen was made.
        """
        table = HANDOVERS.c
        query = sa.select(table.gateway, sa.func.count()).where(
            table.created_unix_s > since_unix_s, table.reason != "not-seen"
        )
        if only is not None:
            query = query.where(table.gateway == only)
        with self._reading() as connection:
            rows: Any = connection.execute(query.group_by(table.gateway)).all()
        return {gateway: int(count) for gateway, count in rows}

    def stuck_deliveries(self, *, tries: int) -> int:
        """How many wait after that many tries."""
        query = sa.select(sa.func.count()).where(DELIVERIES.c.state == "waiting", DELIVERIES.c.tries >= tries)
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())


def _with_steps(row: sa.RowMapping | dict[str, Any]) -> dict[str, Any]:
    values = dict(row)
    values["steps"] = json.loads(values.pop("steps_json"))
    values["by_unix_s"] = by_unix_s(values)
    return values


def put_handover_event(
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
