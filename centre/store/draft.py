"""Drafts of agreements, and all agreements that were sent."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import AGREEMENTS, DRAFTS


class DraftRows(Rows):
    """What the planner sees."""

    def put_draft(
        self, draft: str, *, gateway: str, agreement_json: str, who: str, now_unix_s: float, most: int
    ) -> bool:
        """False when `most` drafts wait already. A newer draft of the same home takes the older one's place."""
        table = DRAFTS.c
        values = {
            "id": draft,
            "gateway": gateway,
            "agreement_json": agreement_json,
            "who": who,
            "at_unix_s": now_unix_s,
        }
        with self._writing() as connection:
            waiting = sa.select(sa.func.count()).where(table.state == "waiting")
            if connection.execute(waiting).scalar_one() >= most:
                return False
            older = (table.gateway == gateway) & (table.state == "waiting")
            connection.execute(sa.update(DRAFTS).where(older).values(state="replaced", done_unix_s=now_unix_s))
            connection.execute(sa.insert(DRAFTS).values(state="waiting", **values))
        return True

    def draft(self, draft: str) -> dict[str, Any] | None:
        with self._reading() as connection:
            row = connection.execute(sa.select(DRAFTS).where(DRAFTS.c.id == draft)).mappings().first()
        return None if row is None else dict(row)

    def drafts(self) -> list[dict[str, Any]]:
        """Those that wait, oldest first."""
        query = sa.select(DRAFTS).where(DRAFTS.c.state == "waiting").order_by(DRAFTS.c.at_unix_s)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def end_draft(self, draft: str, *, who: str, now_unix_s: float) -> bool:
        here = (DRAFTS.c.id == draft) & (DRAFTS.c.state == "waiting")
        values = {"state": "ended", "by_who": who, "done_unix_s": now_unix_s}
        with self._writing() as connection:
            return connection.execute(sa.update(DRAFTS).where(here).values(values)).rowcount == 1

    def all_agreements(self, gateway: str, install_epoch: int) -> list[dict[str, Any]]:
        """Sent to this home, accepted or not, newest first."""
        query = sa.select(AGREEMENTS).filter_by(gateway=gateway, install_epoch=install_epoch)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query.order_by(AGREEMENTS.c.sent_unix_s.desc())).mappings()]

    def last_sent(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What was sent last to each (gateway, install_epoch), without its text. A refused one was never sent."""
        table = AGREEMENTS.c
        columns = (table.gateway, table.install_epoch, table.agreement, table.version, table.accepted_unix_s)
        with self._reading() as connection:
            rows = connection.execute(sa.select(*columns).order_by(table.sent_unix_s, table.version)).mappings()
            return {(row["gateway"], row["install_epoch"]): dict(row) for row in rows}

    def newest_agreements(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The last accepted agreement of each (gateway, install_epoch)."""
        query = sa.select(AGREEMENTS).where(AGREEMENTS.c.accepted_unix_s.is_not(None))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(AGREEMENTS.c.accepted_unix_s, AGREEMENTS.c.version)).mappings()
            return {(row["gateway"], row["install_epoch"]): dict(row) for row in rows}
