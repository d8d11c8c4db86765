"""How often something was not in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import ALARMS


class AlarmRows(Rows):
    """Alarms, counted by the hour."""

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
