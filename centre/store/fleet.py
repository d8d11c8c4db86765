"""Rollouts, what each home has been given and how far it is, and each home's history of updates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from centre import rollout as rules
from centre.store.engine import Rows
from centre.store.table import COMMANDS, EXECUTIONS, ROLLOUTS, UPDATE_REPORTS
from gateway.protocol.message import UpdateOffer, UpdateReport

KEPT_A_HOME: Final = 200
OPEN: Final = ("in-progress", "awaiting-approval")
WHO: Final = "rollout"
REPORTED: Final = ("statement", "version", "running", "phase", "why", "percent")


class FleetRows(Rows):
    """Every change of a rollout is one transaction under the write lock, whichever worker makes it."""

    def put_rollout(
        self,
        rollout: str,
        *,
        offer_jws: str,
        offer: UpdateOffer,
        criteria: rules.Criteria,
        places: Sequence[rules.Place],
        who: str,
        now_unix_s: float,
    ) -> bool:
        """Enter a rollout with all its homes, before anything goes out. False where another one is not ended yet."""
        with self._writing() as connection:
            running = sa.select(ROLLOUTS.c.id).where(
                ROLLOUTS.c.compatible == offer.compatible, ROLLOUTS.c.status.not_in(("completed", "canceled"))
            )
            if connection.execute(running).first() is not None:
                return False
            connection.execute(
                sa.insert(ROLLOUTS).values(
                    id=rollout,
                    update_jws=offer_jws,
                    statement=offer.statement,
                    version=offer.version,
                    compatible=offer.compatible,
                    criteria_json=msgspec.json.encode(criteria).decode(),
                    status="in-progress",
                    ring=0,
                    last_ring=max((place.ring for place in places), default=0),
                    created_by=who,
                    created_unix_s=now_unix_s,
                    changed_unix_s=now_unix_s,
                )
            )
            rows = [
                {"rollout": rollout, "gateway": place.gateway, "ring": place.ring, "status": "queued", "tries": 0,
                 "changed_unix_s": now_unix_s, "is_seen": False}
                for place in places
            ]  # fmt: skip
            if rows:
                connection.execute(sa.insert(EXECUTIONS), rows)
        return True

    def roll(self, *, now_unix_s: float) -> list[dict[str, Any]]:
        """What has fallen silent counts as timed out; what is over its threshold halts; what is done goes on."""
        changed = []
        with self._reading() as connection:
            if connection.execute(sa.select(ROLLOUTS.c.id).where(ROLLOUTS.c.status.in_(OPEN))).first() is None:
                return []
        with self._writing() as connection:
            for row in connection.execute(sa.select(ROLLOUTS).where(ROLLOUTS.c.status.in_(OPEN))).mappings().all():
                criteria = msgspec.json.decode(row["criteria_json"], type=rules.Criteria)
                here = (EXECUTIONS.c.rollout == row["id"]) & (EXECUTIONS.c.ring == row["ring"])
                silent = here & (EXECUTIONS.c.status == "in-progress")
                silent &= EXECUTIONS.c.changed_unix_s < now_unix_s - criteria.silent_s
                connection.execute(
                    sa.update(EXECUTIONS).where(silent).values(
                        status="timed-out", why="silent", changed_unix_s=now_unix_s
                    )
                )  # fmt: skip
                counts, newest = _counts(connection, here)
                step = rules.advance(
                    row["status"],
                    row["ring"],
                    counts,
                    criteria,
                    quiet_s=now_unix_s - max(newest, row["ring_unix_s"] or 0.0),
                    is_approved=row["approved_ring"] is not None and row["approved_ring"] >= row["ring"],
                    last_ring=row["last_ring"],
                )
                if step is None:
                    continue
                values = {"status": step.status, "ring": step.ring, "why": step.why, "changed_unix_s": now_unix_s}
                if step.ring != row["ring"]:
                    values["ring_unix_s"] = now_unix_s
                connection.execute(sa.update(ROLLOUTS).where(ROLLOUTS.c.id == row["id"]).values(values))
                changed.append({"id": row["id"], "status": step.status, "ring": step.ring})
        return changed

    def claim_offers(self, *, now_unix_s: float, new_correlation: Callable[[], bytes]) -> list[dict[str, Any]]:
        """The offers that are due now, each entered as a command first: no other worker gives it out as well."""
        claimed: list[dict[str, Any]] = []
        with self._reading() as connection:
            if connection.execute(sa.select(ROLLOUTS.c.id).where(ROLLOUTS.c.status == "in-progress")).first() is None:
                return []
        with self._writing() as connection:
            for row in connection.execute(sa.select(ROLLOUTS).where(ROLLOUTS.c.status == "in-progress")).mappings():
                criteria = msgspec.json.decode(row["criteria_json"], type=rules.Criteria)
                table = EXECUTIONS.c
                mine = table.rollout == row["id"]
                left = min(
                    most - _given(connection, mine, now_unix_s - within_s) for most, within_s in rules.paces(criteria)
                )
                if left <= 0:
                    continue
                unheard = (table.status == "in-progress") & table.phase.is_(None)
                unheard &= table.sent_unix_s < now_unix_s - min(rules.AGAIN_S, criteria.silent_s / 3)
                due = (
                    sa.select(table.gateway, table.status)
                    .where(mine, table.ring == row["ring"], (table.status == "queued") | unheard)
                    .order_by(table.sent_unix_s.is_not(None), table.gateway)
                    .limit(left)
                )
                for gateway, status in connection.execute(due).all():
                    correlation = new_correlation()
                    # The clock of silence runs from the first time that it was given out.
                    began = {"changed_unix_s": now_unix_s} if status == "queued" else {}
                    connection.execute(
                        sa.update(EXECUTIONS)
                        .where(mine, table.gateway == gateway)
                        .values(status="in-progress", sent_unix_s=now_unix_s, tries=table.tries + 1, **began)
                    )
                    connection.execute(
                        sa.insert(COMMANDS).values(
                            correlation=correlation.hex(),
                            command_sha256=hashlib.sha256(row["update_jws"].encode()).hexdigest(),
                            gateway=gateway,
                            kind=UpdateOffer.KIND,
                            who=WHO,
                            jti=f"offer-{row['statement']}",
                            sent_unix_s=now_unix_s,
                        )
                    )
                    claimed.append({"gateway": gateway, "offer": row["update_jws"], "correlation": correlation})
        return claimed

    def note_offer_answer(self, gateway: str, re: str, code: str | None, *, now_unix_s: float) -> None:
        """A home's first word to an offer: taken, or refused with a code. `busy` is asked again, anything else ends."""
        if not re.startswith("offer-") or not re[6:].isdigit():
            return
        with self._writing() as connection:
            here = _running(int(re[6:]), gateway)
            if code is None:
                values: dict[str, Any] = {"phase": "taken", "changed_unix_s": now_unix_s}
            elif code == "busy":
                values = {"why": code}
            else:
                values = {"status": "rejected", "phase": "refused", "why": code, "changed_unix_s": now_unix_s}
            connection.execute(sa.update(EXECUTIONS).where(here, EXECUTIONS.c.status == "in-progress").values(values))

    def put_update_report(self, report: UpdateReport, *, now_unix_s: float) -> bool:
        """Enter a home's report; False when its newest says the same (a message that came twice)."""
        values = {
            name: getattr(report, name) for name in ("statement", "version", "running", "phase", "why", "percent")
        }
        table = UPDATE_REPORTS.c
        newest = sa.select(UPDATE_REPORTS).where(table.gateway == report.gateway).order_by(table.number.desc()).limit(1)
        with self._writing() as connection:
            known = connection.execute(newest).mappings().first()
            if known is not None and all(known[name] == value for name, value in values.items()):
                return False
            connection.execute(sa.insert(UPDATE_REPORTS).values(gateway=report.gateway, at_unix_s=now_unix_s, **values))
            if known is not None and known["number"] % 50 == 0:
                keep = sa.select(table.number).where(table.gateway == report.gateway)
                keep = keep.order_by(table.number.desc()).limit(KEPT_A_HOME)
                connection.execute(
                    sa.delete(UPDATE_REPORTS).where(table.gateway == report.gateway, table.number.not_in(keep))
                )
            if report.phase == "stale":
                return True
            changed = {"status": rules.status_of(report.phase), "phase": report.phase, "why": report.why}
            # A home that was given up as silent and speaks after all is counted for what it says.
            here = _running(report.statement, report.gateway)
            here &= EXECUTIONS.c.status.in_(("in-progress", "timed-out"))
            connection.execute(sa.update(EXECUTIONS).where(here).values(changed_unix_s=now_unix_s, **changed))
        return True

    def change_rollout(self, rollout: str, act: str, *, who: str, now_unix_s: float) -> str | None:
        """Pause, resume, approve or cancel. The new status; None where the rollout is not in a state for it."""
        allowed = {
            "pause": (("in-progress", "awaiting-approval"), "paused"),
            "resume": (("paused", "halted"), "in-progress"),
            "approve": (("awaiting-approval",), "in-progress"),
            "abort": (("in-progress", "awaiting-approval", "paused", "halted"), "canceled"),
        }
        states, after = allowed[act]
        with self._writing() as connection:
            row = connection.execute(sa.select(ROLLOUTS).where(ROLLOUTS.c.id == rollout)).mappings().first()
            if row is None or row["status"] not in states:
                return None
            values: dict[str, Any] = {"status": after, "changed_unix_s": now_unix_s, "changed_by": who, "why": None}
            mine = EXECUTIONS.c.rollout == rollout
            if act == "approve":
                values |= {"approved_ring": row["ring"], "approved_by": who}
            elif act == "resume" and row["status"] == "halted":
                # What has been seen by a person halts it no second time; what fails from now on is counted anew.
                begun = EXECUTIONS.c.status != "queued"
                connection.execute(sa.update(EXECUTIONS).where(mine, begun).values(is_seen=True))
            elif act == "abort":
                waiting = EXECUTIONS.c.status == "queued"
                connection.execute(
                    sa.update(EXECUTIONS).where(mine, waiting).values(status="canceled", changed_unix_s=now_unix_s)
                )
            connection.execute(sa.update(ROLLOUTS).where(ROLLOUTS.c.id == rollout).values(values))
        return after

    def rollouts(self) -> list[dict[str, Any]]:
        """Every rollout, newest first, with its homes by ring and status."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(ROLLOUTS).order_by(ROLLOUTS.c.created_unix_s.desc()).limit(50))
            found = [dict(row) for row in rows.mappings()]
            for row in found:
                row.pop("update_jws")
                row["criteria"] = json.loads(row.pop("criteria_json"))
                row["rings"] = _rings(connection, row["id"])
        return found

    def executions(self, rollout: str) -> list[dict[str, Any]]:
        """Every home of a rollout: its ring, its status and why."""
        table = EXECUTIONS.c
        query = sa.select(
            table.gateway, table.ring, table.status, table.phase, table.why, table.tries, table.changed_unix_s
        )
        query = query.where(table.rollout == rollout).order_by(table.ring, table.gateway)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def running_versions(self) -> dict[str, str]:
        """What each home last said that it runs, in a report about updates."""
        table = UPDATE_REPORTS.c
        newest = sa.select(sa.func.max(table.number)).group_by(table.gateway)
        query = sa.select(table.gateway, table.running, table.version, table.phase).where(table.number.in_(newest))
        with self._reading() as connection:
            return {
                gateway: version if phase == "good" else running
                for gateway, running, version, phase in connection.execute(query).all()
            }

    def update_history(self, gateway: str) -> list[dict[str, Any]]:
        """What a home has reported of its updates, newest first."""
        table = UPDATE_REPORTS.c
        query = sa.select(
            table.statement, table.version, table.running, table.phase, table.why, table.percent, table.at_unix_s
        )
        query = query.where(table.gateway == gateway).order_by(table.number.desc()).limit(KEPT_A_HOME)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _running(statement: int, gateway: str) -> sa.ColumnElement[bool]:
    """The execution of this statement at this home."""
    of = sa.select(ROLLOUTS.c.id).where(ROLLOUTS.c.statement == statement)
    return (EXECUTIONS.c.gateway == gateway) & EXECUTIONS.c.rollout.in_(of)


def _given(connection: sa.Connection, mine: sa.ColumnElement[bool], since_unix_s: float) -> int:
    """How many of a rollout's offers went out since then."""
    since = sa.select(sa.func.count()).where(mine, EXECUTIONS.c.sent_unix_s > since_unix_s)
    return int(connection.execute(since).scalar_one())


def _counts(connection: sa.Connection, here: sa.ColumnElement[bool]) -> tuple[rules.Counts, float]:
    table = EXECUTIONS.c
    query = sa.select(table.status, table.is_seen, sa.func.count(), sa.func.max(table.changed_unix_s))
    rows = connection.execute(query.where(here).group_by(table.status, table.is_seen)).all()
    of: dict[str, int] = {}
    for status, _seen, count, _at in rows:
        of[status] = of.get(status, 0) + count
    seen = {status: count for status, is_seen, count, _at in rows if is_seen}
    return (
        rules.Counts(
            queued=of.get("queued", 0),
            in_progress=of.get("in-progress", 0),
            succeeded=of.get("succeeded", 0),
            bad=sum(of.get(status, 0) for status in rules.BAD),
            bad_before=sum(seen.get(status, 0) for status in rules.BAD),
            begun_before=sum(count for status, count in seen.items() if status in rules.ENDED - {"canceled"}),
        ),
        max((at for *_, at in rows), default=0.0),
    )


def _rings(connection: sa.Connection, rollout: str) -> list[dict[str, Any]]:
    table = EXECUTIONS.c
    query = sa.select(table.ring, table.status, sa.func.count()).where(table.rollout == rollout)
    found = [{"ring": name, "homes": 0, "status": {}} for name, _ in rules.RINGS]
    for ring, status, count in connection.execute(query.group_by(table.ring, table.status)).all():
        entry: dict[str, Any] = found[ring]
        entry["status"][status] = count
        entry["homes"] += count
    return found
