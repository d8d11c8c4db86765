"""What is on the operators' desk: claims, faults, the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import AUDIT, CLAIMS, FAULTS, OCCASION_FACTS

OPEN_WORDS = ("soon", "due", "recheck", "missed")


class DeskRows(Rows):
    """Claims, faults, audit."""

    def take_claim(
        self, gateway: str, install_epoch: int, line: str, occasion: str, *, who: str, now_unix_s: float, life_s: float
    ) -> str:
        """Claim an occasion for `who`, or renew that claim; returns whose it is then."""
        key = {"gateway": gateway, "install_epoch": install_epoch, "line": line, "occasion": occasion}
        with self._writing() as connection:
            row: Any = connection.execute(sa.select(CLAIMS).filter_by(**key)).first()
            if row is not None and row.who != who and row.until_unix_s > now_unix_s:
                return str(row.who)
            connection.execute(sa.delete(CLAIMS).filter_by(**key))
            connection.execute(sa.insert(CLAIMS).values(who=who, until_unix_s=now_unix_s + life_s, **key))
        return who

    def release_claim(self, gateway: str, install_epoch: int, line: str, occasion: str, *, who: str) -> bool:
        """False when it was not this person's."""
        key = {"gateway": gateway, "install_epoch": install_epoch, "line": line, "occasion": occasion, "who": who}
        with self._writing() as connection:
            return connection.execute(sa.delete(CLAIMS).filter_by(**key)).rowcount == 1

    def claims(self, *, now_unix_s: float) -> dict[tuple[str, int, str, str], str]:
        """Who holds which (gateway, install_epoch, line, occasion)."""
        with self._reading() as connection:
            rows: Any = connection.execute(sa.select(CLAIMS).where(CLAIMS.c.until_unix_s > now_unix_s)).all()
        return {(row.gateway, row.install_epoch, row.line, row.occasion): row.who for row in rows}

    def announced(self, *, since_unix_s: float) -> list[tuple[str, int, str, str, int, float]]:
        """Occasions that homes said were coming, due or missed, and whose window ends after `since_unix_s`: (gateway,
        install_epoch, line, occasion, attempt, closes_unix_s).

        Also those that a home has left out of its list since: they go when there is an outcome, not before.
        """
        table = OCCASION_FACTS.c
        query = sa.select(
            table.gateway,
            table.install_epoch,
            table.line,
            table.occasion,
            table.attempt,
            table.closes_unix_s,
        ).where(table.what == "said", table.closes_unix_s > since_unix_s, table.word.in_(OPEN_WORDS))
        with self._reading() as connection:
            rows: Any = connection.execute(query).all()
        return [tuple(row) for row in rows]

    def seen_since(self, since_unix_s: float) -> set[tuple[str, int, str, str]]:
        """Occasions at which a resident was seen in a check that ended after `since_unix_s`."""
        table = OCCASION_FACTS.c
        query = sa.select(table.gateway, table.install_epoch, table.line, table.occasion).where(
            table.what == "check", table.word == "seen", table.at_unix_s > since_unix_s
        )
        with self._reading() as connection:
            return {tuple(row) for row in connection.execute(query).all()}

    def put_faults(self, found: Mapping[str, frozenset[str]], *, now_unix_s: float) -> list[tuple[str, str]]:
        """Enter what is not in order now (gateway: codes); returns the (gateway, code) that are new.

        Of the homes in `found` the faults that are not named any more are over.
        """
        table = FAULTS.c
        with self._reading() as connection:
            before: Any = connection.execute(sa.select(table.gateway, table.code).where(table.until_unix_s.is_(None)))
            standing = {(gateway, code) for gateway, code in before if gateway in found}
        wanted = {(gateway, code) for gateway, codes in found.items() for code in codes}
        if wanted == standing:
            return []
        with self._writing() as connection:
            before = connection.execute(sa.select(table.gateway, table.code).where(table.until_unix_s.is_(None)))
            standing = {(gateway, code) for gateway, code in before if gateway in found}
            for gateway, code in standing - wanted:
                here = (table.gateway == gateway) & (table.code == code) & table.until_unix_s.is_(None)
                connection.execute(sa.update(FAULTS).where(here).values(until_unix_s=now_unix_s))
            for gateway, code in wanted - standing:
                connection.execute(sa.insert(FAULTS).values(gateway=gateway, code=code, since_unix_s=now_unix_s))
        return sorted(wanted - standing)

    def faults(self) -> list[dict[str, Any]]:
        """What is not in order now, oldest first."""
        query = sa.select(FAULTS).where(FAULTS.c.until_unix_s.is_(None)).order_by(FAULTS.c.since_unix_s)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def take_fault(self, gateway: str, code: str, *, who: str, now_unix_s: float) -> bool:
        """Somebody sees to it; False when there is no such fault now. The first person counts."""
        table = FAULTS.c
        here = (table.gateway == gateway) & (table.code == code) & table.until_unix_s.is_(None)
        with self._writing() as connection:
            if connection.execute(sa.select(table.code).where(here)).first() is None:
                return False
            connection.execute(
                sa.update(FAULTS).where(here, table.taken_by.is_(None)).values(taken_by=who, taken_unix_s=now_unix_s)
            )
        return True

    def audit(
        self, *, who: str, what: str, gateway: str | None, status: int, code: str | None, now_unix_s: float
    ) -> None:
        with self._writing() as connection:
            connection.execute(
                sa.insert(AUDIT).values(
                    at_unix_s=now_unix_s, who=who, what=what, gateway=gateway, status=status, code=code
                )
            )

    def audit_rows(self, *, after: int, limit: int) -> list[dict[str, Any]]:
        """Rows above number `after`, oldest first."""
        query = sa.select(AUDIT).where(AUDIT.c.number > after).order_by(AUDIT.c.number).limit(limit)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
