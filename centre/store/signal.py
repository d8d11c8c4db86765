"""The newest view signal of each home."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import SIGNALS
from gateway.protocol.message import Signal
from gateway.protocol.picture import ViewSignal

_MEASURES: Final = ViewSignal.__struct_fields__


class SignalRows(Rows):
    """One row a home: a signal is about now, and what it came to stands in the closing record."""

    def put_signal(self, signal: Signal, *, now_unix_s: float) -> None:
        """Enter a signal; one of the same check that counts fewer pictures is late or replayed, and left out."""
        values = {
            "check_id": signal.check,
            "heard_unix_s": now_unix_s,
            "frames": signal.frames,
            **dict.fromkeys(_MEASURES),
            **({} if signal.view is None else msgspec.to_builtins(signal.view)),
        }
        with self._writing() as connection:
            mine = sa.select(SIGNALS.c.check_id, SIGNALS.c.frames).where(SIGNALS.c.gateway == signal.gateway)
            known = connection.execute(mine).first()
            if known is None:
                connection.execute(sa.insert(SIGNALS).values(gateway=signal.gateway, **values))
            elif known.check_id != signal.check or signal.frames >= known.frames:
                connection.execute(sa.update(SIGNALS).where(SIGNALS.c.gateway == signal.gateway).values(values))


def newest_signals(connection: sa.Connection, only: str | None = None) -> dict[str, dict[str, Any]]:
    """{check, heard_unix_s, frames, view} of each home that ever sent one, or of `only` one; `view` is None before the
    first picture.
    """
    query = sa.select(SIGNALS) if only is None else sa.select(SIGNALS).where(SIGNALS.c.gateway == only)
    return {
        row["gateway"]: {
            "check": row["check_id"],
            "heard_unix_s": row["heard_unix_s"],
            "frames": row["frames"],
            "view": None if row["view"] is None else {name: row[name] for name in _MEASURES},
        }
        for row in connection.execute(query).mappings()
    }
