"""Lent devices that go back: who ordered it, what the device answered and said last, and what was closed without it.

One row for each installation. The ledger of that installation is kept beside it, as every other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import METADATA
from gateway.protocol.message import DeviceReturn, DeviceReturned, Returning

RETURNS: Final = sa.Table(
    "returns",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("ordered_by", sa.String(64)),
    sa.Column("ordered_unix_s", sa.Float),
    sa.Column("steward_kid", sa.String(64)),
    sa.Column("nonce", sa.String(32)),
    sa.Column("device_nonce", sa.String(32)),
    sa.Column("answered_unix_s", sa.Float),
    sa.Column("second", sa.String(64)),
    sa.Column("statement_jws", sa.Text),
    sa.Column("attested_unix_s", sa.Float),
    sa.Column("closed_by", sa.String(64)),
    sa.Column("closed_why", sa.String(40)),
    sa.Column("closed_unix_s", sa.Float),
)


class ReturnRows(Rows):
    """The part of the store that is about returns."""

    def put_return_order(
        self, gateway: str, install_epoch: int, order: DeviceReturn, *, who: str, kid: str, now_unix_s: float
    ) -> None:
        """Before it goes out. The same order again, and one after the device's last word, changes nothing."""
        with self._writing() as connection:
            known = _row(connection, gateway, install_epoch)
            if known is not None and (known["statement_jws"] is not None or known["version"] >= order.version):
                return
            _put(
                connection,
                gateway,
                install_epoch,
                known,
                version=order.version,
                ordered_by=who,
                ordered_unix_s=now_unix_s,
                steward_kid=kid,
                nonce=order.nonce,
                device_nonce=None,
                answered_unix_s=None,
            )

    def answer_return(self, returning: Returning, *, now_unix_s: float) -> None:
        """The device obeys: from here on nothing is expected of this home any more."""
        with self._writing() as connection:
            known = _row(connection, returning.gateway, returning.install_epoch)
            if known is not None and known["version"] == returning.version:
                said = {"device_nonce": returning.nonce, "answered_unix_s": now_unix_s}
                _put(connection, returning.gateway, returning.install_epoch, known, **said)

    def attest_return(self, said: DeviceReturned, *, jws: str, now_unix_s: float) -> bool:
        """The device's last word; the first one stays. Also where its order was lost here with a restored database."""
        with self._writing() as connection:
            known = _row(connection, said.gateway, said.install_epoch)
            if known is not None and known["statement_jws"] is not None:
                return False
            values: dict[str, Any] = {"second": said.second, "statement_jws": jws, "attested_unix_s": now_unix_s}
            if known is None:
                values |= {"version": said.version, "ordered_by": said.who}
            _put(connection, said.gateway, said.install_epoch, known, **values)
            return True

    def close_return(self, gateway: str, install_epoch: int, *, who: str, why: str, now_unix_s: float) -> bool:
        """A steward closes it without the device. False when the device has said its last word, or it is closed."""
        with self._writing() as connection:
            known = _row(connection, gateway, install_epoch)
            if known is not None and (known["statement_jws"] is not None or known["closed_unix_s"] is not None):
                return False
            values: dict[str, Any] = {"closed_by": who, "closed_why": why, "closed_unix_s": now_unix_s}
            if known is None:
                values["version"] = 0
            _put(connection, gateway, install_epoch, known, **values)
            return True

    def returns(self) -> list[dict[str, Any]]:
        """Every one, by gateway, the newest installation first."""
        query = sa.select(RETURNS).order_by(RETURNS.c.gateway, RETURNS.c.install_epoch.desc())
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def returned(self, homes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Of these homes (gateway: install_epoch), those of which nothing is expected any more."""
        with self._reading() as connection:
            rows = connection.execute(
                sa.select(RETURNS).where(
                    sa.or_(
                        RETURNS.c.answered_unix_s.is_not(None),
                        RETURNS.c.statement_jws.is_not(None),
                        RETURNS.c.closed_unix_s.is_not(None),
                    )
                )
            ).mappings()
            return {row["gateway"]: dict(row) for row in rows if homes.get(row["gateway"]) == row["install_epoch"]}


def _row(connection: sa.Connection, gateway: str, install_epoch: int) -> sa.RowMapping | None:
    query = sa.select(RETURNS).where(RETURNS.c.gateway == gateway, RETURNS.c.install_epoch == install_epoch)
    return connection.execute(query).mappings().first()


def _put(
    connection: sa.Connection, gateway: str, install_epoch: int, known: sa.RowMapping | None, **values: Any
) -> None:
    if known is None:
        connection.execute(sa.insert(RETURNS).values(gateway=gateway, install_epoch=install_epoch, **values))
        return
    here = (RETURNS.c.gateway == gateway) & (RETURNS.c.install_epoch == install_epoch)
    connection.execute(sa.update(RETURNS).where(here).values(values))
