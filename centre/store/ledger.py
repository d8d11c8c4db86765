"""The homes' ledgers as they came, and what the centre has witnessed of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from centre.store.engine import Rows, with_check
from centre.store.occasion import put_check_fact
from centre.store.table import (
    DISABLED,
    LEDGER_CHECKPOINTS,
    LEDGER_RECORDS,
    OCCASION_FACTS,
    RECONCILIATIONS,
    WITNESSED,
)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One ledger line as it came, and the fields that the console lists. All but `seq` and `raw` may be missing."""

    seq: int
    raw: bytes
    kind: str | None = None
    who: str | None = None
    why: str | None = None
    check: str | None = None
    time_lo_unix_s: float | None = None
    watched_s: float | None = None
    frames: int | None = None


class Witnessing:
    """One home's witness state inside one writing transaction; made by `Store.witnessing`."""

    def __init__(self, connection: sa.Connection, gateway: str, install_epoch: int) -> None:
        self._connection = connection
        self._key: dict[str, Any] = {"gateway": gateway, "install_epoch": install_epoch}

    def newest(self) -> dict[str, Any] | None:
        """The row of `witnessed`, or None if this home's log was never witnessed."""
        query = sa.select(WITNESSED).filter_by(**self._key)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else dict(row)

    def lines(self, first: int, end: int) -> list[bytes] | None:
        """The raw lines `first` to `end` - 1, or None if one is missing."""
        table = LEDGER_RECORDS.c
        query = (
            sa.select(table.raw)
            .where(table.gateway == self._key["gateway"], table.seq >= first, table.seq < end)
            .order_by(table.seq)
        )
        raws = [bytes(raw) for raw in self._connection.execute(query).scalars()]
        return raws if len(raws) == end - first else None

    def ending_lines(self, first: int, end: int) -> list[bytes]:
        """The raw lines of verdicts and ended checks from number `first` to `end` - 1."""
        table = LEDGER_RECORDS.c
        mine = (table.gateway == self._key["gateway"]) & (table.seq >= first) & (table.seq < end)
        query = sa.select(table.raw).where(mine, table.kind.in_(("verdict", "closed"))).order_by(table.seq)
        return [bytes(raw) for raw in self._connection.execute(query).scalars()]

    def put_check(
        self,
        *,
        check: str | None,
        line: str | None,
        occasion: str | None,
        attempt: int | None,
        outcome: str,
        at_unix_s: float,
        now_unix_s: float,
    ) -> None:
        """Enter a check's end by the home's log; nothing where its own report came."""
        known = sa.select(OCCASION_FACTS.c.ref).filter_by(**self._key, what="check", ref=check)
        if self._connection.execute(known).first() is not None:
            return
        told = {"line": line, "occasion": occasion, "attempt": attempt, "word": outcome, "at_unix_s": at_unix_s}
        put_check_fact(self._connection, {**self._key, **told, "what": "check", "ref": check}, now_unix_s)

    def keep(self, **values: Any) -> None:
        """Replace the row of `witnessed`; all its columns but the key."""
        self._connection.execute(sa.delete(WITNESSED).filter_by(**self._key))
        self._connection.execute(sa.insert(WITNESSED).values(self._key | values))

    def put_checkpoint(self, note: str, *, note_sha256: str, now_unix_s: float) -> bool:
        """Keep a checkpoint as it came; False when it was known byte for byte."""
        return _put_checkpoint(self._connection, self._key["gateway"], note, note_sha256, now_unix_s)

    def disable(self, why: str, *, known_size: int, note_sha256: str, now_unix_s: float) -> None:
        """Nothing opens in this installation any more; the first reason stays."""
        values = {"why": why, "at_unix_s": now_unix_s, "known_size": known_size, "note_sha256": note_sha256}
        known = sa.select(DISABLED.c.why).filter_by(**self._key)
        if self._connection.execute(known).first() is None:
            self._connection.execute(sa.insert(DISABLED).values(self._key | values))


class LedgerRows(Rows):
    """Ledger lines, checkpoints, witness state and daily comparisons."""

    def put_ledger_row(self, gateway: str, row: LedgerRow) -> bool:
        """Enter one ledger line; False when another line stands under its number: the ledger was forked or rewritten.

        The first one stays. The same line again (QoS 1 repeats) changes nothing and is True.
        """
        values = {column: getattr(row, column) for column in LedgerRow.__slots__}
        values["check_id"] = values.pop("check")
        known = sa.select(LEDGER_RECORDS.c.raw).where(
            LEDGER_RECORDS.c.gateway == gateway, LEDGER_RECORDS.c.seq == row.seq
        )
        with self._writing() as connection:
            stored = connection.execute(known).scalar_one_or_none()
            if stored is not None:
                return bytes(stored) == row.raw
            connection.execute(sa.insert(LEDGER_RECORDS).values(gateway=gateway, **values))
        return True

    def ledger_rows(self, gateway: str, *, after: int, newest: int | None = None) -> list[dict[str, Any]]:
        """Rows above `after` by number, at most 500 a call; with `newest`, the last that many of them."""
        table = LEDGER_RECORDS.c
        query = sa.select(*(column for column in table if column.name not in ("raw", "gateway"))).where(
            table.gateway == gateway, table.seq > after
        )
        query = (
            query.order_by(table.seq).limit(500) if newest is None else query.order_by(table.seq.desc()).limit(newest)
        )
        with self._reading() as connection:
            rows = [with_check(row) for row in connection.execute(query).mappings()]
        return sorted(rows, key=lambda row: int(row["seq"]))

    def put_checkpoint(self, gateway: str, note: str, *, note_sha256: str, now_unix_s: float) -> None:
        with self._writing() as connection:
            _put_checkpoint(connection, gateway, note, note_sha256, now_unix_s)

    @contextmanager
    def witnessing(self, gateway: str, install_epoch: int) -> Iterator[Witnessing]:
        """Look at and replace what is witnessed of a home, in one writing transaction: two workers take turns."""
        with self._writing() as connection:
            yield Witnessing(connection, gateway, install_epoch)

    def witnessed(self, only: str | None = None) -> dict[tuple[str, int], dict[str, Any]]:
        """The newest witnessed checkpoint of each (gateway, install_epoch), or of `only` one home's."""
        query = sa.select(WITNESSED) if only is None else sa.select(WITNESSED).where(WITNESSED.c.gateway == only)
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return {(row["gateway"], row["install_epoch"]): dict(row) for row in rows}

    def disabled(self, installations: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Of these (gateway: install_epoch) the disabled ones, with why and since when.

        A home that was disabled stays so in that installation and in any earlier one.
        """
        with self._reading() as connection:
            rows = connection.execute(sa.select(DISABLED).order_by(DISABLED.c.at_unix_s)).mappings().all()
        found = {}
        for row in rows:
            epoch = installations.get(row["gateway"])
            if epoch is not None and epoch <= row["install_epoch"]:
                found[row["gateway"]] = {"why": row["why"], "since_unix_s": row["at_unix_s"]}
        return found

    def ledger_lines(self, gateway: str) -> list[bytes]:
        """All lines of a home as they came, in order."""
        table = LEDGER_RECORDS.c
        query = sa.select(table.raw).where(table.gateway == gateway).order_by(table.seq)
        with self._reading() as connection:
            return [bytes(raw) for raw in connection.execute(query).scalars()]

    def first_missing(self, gateway: str, *, known: int = 0) -> int:
        """The lowest number under which no line of this home is here; `known` is an earlier answer, to begin at."""
        table = LEDGER_RECORDS.c
        mine = sa.select(table.seq).where(table.gateway == gateway)
        other = LEDGER_RECORDS.alias()
        follows = sa.select(other.c.seq).where(other.c.gateway == gateway, other.c.seq == table.seq + 1)
        last = mine.where(table.seq >= max(known - 1, 0), ~follows.exists()).order_by(table.seq).limit(1)
        with self._reading() as connection:
            begins = connection.execute(mine.where(table.seq == max(known - 1, 0))).scalar_one_or_none()
            if begins is None:
                return 0 if known <= 1 else self.first_missing(gateway)
            return int(connection.execute(last).scalar_one()) + 1

    def ledger_extent(self, gateway: str) -> tuple[int, int]:
        """(how many lines are here, one more than the highest number): equal when none is missing."""
        table = LEDGER_RECORDS.c
        query = sa.select(sa.func.count(), sa.func.max(table.seq)).where(table.gateway == gateway)
        with self._reading() as connection:
            count, highest = connection.execute(query).one()
        return int(count), 0 if highest is None else int(highest) + 1

    def oldest_line_from(self, gateway: str, seq: int) -> float | None:
        """The lowest `time_lo` of the lines from number `seq` on, None if there are none."""
        table = LEDGER_RECORDS.c
        query = sa.select(sa.func.min(table.time_lo_unix_s)).where(table.gateway == gateway, table.seq >= seq)
        with self._reading() as connection:
            found = connection.execute(query).scalar_one()
        return None if found is None else float(found)

    def put_reconciliation(self, gateway: str, *, day: int, **values: Any) -> bool:
        """Enter one home's daily comparison; False when another worker has made it."""
        known = sa.select(RECONCILIATIONS.c.day).filter_by(gateway=gateway, day=day)
        with self._writing() as connection:
            if connection.execute(known).first() is not None:
                return False
            connection.execute(sa.insert(RECONCILIATIONS).values(gateway=gateway, day=day, **values))
        return True

    def reconciled_days(self) -> dict[str, int]:
        """The newest day of each home's comparison."""
        query = sa.select(RECONCILIATIONS.c.gateway, sa.func.max(RECONCILIATIONS.c.day))
        with self._reading() as connection:
            rows: Sequence[Any] = connection.execute(query.group_by(RECONCILIATIONS.c.gateway)).all()
        return {gateway: int(day) for gateway, day in rows}


def _put_checkpoint(connection: sa.Connection, gateway: str, note: str, note_sha256: str, now_unix_s: float) -> bool:
    table = LEDGER_CHECKPOINTS.c
    known = sa.select(table.note_sha256).where(table.gateway == gateway, table.note_sha256 == note_sha256)
    if connection.execute(known).first() is not None:
        return False
    values = {"gateway": gateway, "note": note, "note_sha256": note_sha256, "heard_unix_s": now_unix_s}
    connection.execute(sa.insert(LEDGER_CHECKPOINTS).values(values))
    return True
