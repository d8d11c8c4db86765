"""How the homes' devices are, and what they logged: counted words only, as the device signed them."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import DEVICE_HEALTH, DEVICE_LOG
from gateway.protocol.message import Health, LogLines

KEPT_S: Final = 30 * 86_400
MAX_KINDS_AN_HOUR: Final = 128
NEWEST: Final = 200


class OperationRows(Rows):
    """Health reports and operational logs."""

    def put_health(self, health: Health, *, now_unix_s: float) -> None:
        """Replace what was known of this home's device."""
        values = {"heard_unix_s": now_unix_s, "health_json": msgspec.json.encode(health).decode()}
        with self._writing() as connection:
            connection.execute(sa.delete(DEVICE_HEALTH).where(DEVICE_HEALTH.c.gateway == health.gateway))
            connection.execute(sa.insert(DEVICE_HEALTH).values(gateway=health.gateway, **values))

    def health(self, gateway: str) -> dict[str, Any] | None:
        """The newest report with `heard_unix_s`, None if there was none."""
        query = sa.select(DEVICE_HEALTH).where(DEVICE_HEALTH.c.gateway == gateway)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else json.loads(row["health_json"]) | {"heard_unix_s": row["heard_unix_s"]}

    def put_log(self, log: LogLines, *, now_unix_s: float) -> None:
        """Add counts to this hour's; kinds beyond `MAX_KINDS_AN_HOUR`, and hours older than `KEPT_S`, are left out."""
        table = DEVICE_LOG.c
        hour_unix_s = int(now_unix_s // 3600) * 3600
        here = (table.gateway == log.gateway) & (table.hour_unix_s == hour_unix_s)
        with self._writing() as connection:
            old = (table.gateway == log.gateway) & (table.hour_unix_s < now_unix_s - KEPT_S)
            connection.execute(sa.delete(DEVICE_LOG).where(old))
            kinds = connection.execute(sa.select(sa.func.count()).select_from(DEVICE_LOG).where(here)).scalar_one()
            for line in log.lines:
                same = here & (table.service == line.service) & (table.level == line.level)
                same &= table.event == line.event
                known = connection.execute(sa.select(table.count).where(same)).scalar_one_or_none()
                if known is not None:
                    changed = {"count": known + line.count, "last_unix_s": now_unix_s}
                    connection.execute(sa.update(DEVICE_LOG).where(same).values(changed))
                elif kinds < MAX_KINDS_AN_HOUR:
                    kinds += 1
                    values = msgspec.structs.asdict(line) | {"hour_unix_s": hour_unix_s, "last_unix_s": now_unix_s}
                    connection.execute(sa.insert(DEVICE_LOG).values(gateway=log.gateway, **values))

    def device_log(self, gateway: str) -> list[dict[str, Any]]:
        """What this home's device logged, newest first, at most `NEWEST` rows."""
        table = DEVICE_LOG.c
        query = sa.select(table.hour_unix_s, table.service, table.level, table.event, table.count, table.last_unix_s)
        query = query.where(table.gateway == gateway).order_by(table.last_unix_s.desc(), table.event).limit(NEWEST)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
