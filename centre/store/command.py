"""What was sent to a home, and what it answered."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.occasion import put_in_force
from centre.store.table import AGREEMENTS, COMMANDS, OCCASION_FACTS, REFUSALS


@dataclass(frozen=True, slots=True)
class AskedOpening:
    """Which attempt at which occasion a `check.open` asks for; kept, because the home's refusal does not say it."""

    install_epoch: int
    line: str
    occasion: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SentAgreement:
    """An agreement on its way to a home. `agreement_json` is at most 16 KiB."""

    install_epoch: int
    agreement: str
    version: int
    agreement_json: str


class CommandRows(Rows):
    """Commands, their answers, refusals."""

    def put_command(
        self,
        correlation: bytes,
        *,
        command_sha256: str,
        gateway: str,
        kind: str,
        who: str,
        jti: str,
        now_unix_s: float,
        opening: AskedOpening | None = None,
        agreement: SentAgreement | None = None,
    ) -> None:
        """Enter a command before it goes out, with what of its content is needed once the home has answered."""
        with self._writing() as connection:
            if opening is not None:
                values = {column: getattr(opening, column) for column in AskedOpening.__slots__}
                values |= {"what": "asked", "ref": correlation.hex(), "at_unix_s": now_unix_s}
                connection.execute(sa.insert(OCCASION_FACTS).values(gateway=gateway, **values))
            if agreement is not None:
                values = {column: getattr(agreement, column) for column in SentAgreement.__slots__}
                values |= {"correlation": correlation.hex(), "sent_unix_s": now_unix_s}
                connection.execute(sa.insert(AGREEMENTS).values(gateway=gateway, **values))
            connection.execute(
                sa.insert(COMMANDS).values(
                    correlation=correlation.hex(),
                    command_sha256=command_sha256,
                    gateway=gateway,
                    kind=kind,
                    who=who,
                    jti=jti,
                    sent_unix_s=now_unix_s,
                )
            )

    def answer_command(self, correlation: bytes, *, gateway: str, jti: str, answer: str, now_unix_s: float) -> bool:
        """Enter the first answer to a command; False if there is no such command or it has been answered.

        This, and not the waiting request, decides what is an answer: after a restart the record is still here.
        """
        statement = (
            sa.update(COMMANDS)
            .where(
                COMMANDS.c.correlation == correlation.hex(),
                COMMANDS.c.gateway == gateway,
                COMMANDS.c.jti == jti,
                COMMANDS.c.answer.is_(None),
            )
            .values(answer=answer, answered_unix_s=now_unix_s)
        )
        with self._writing() as connection:
            if connection.execute(statement).rowcount != 1:
                return False
            asked = OCCASION_FACTS.c
            connection.execute(
                sa.update(OCCASION_FACTS)
                .where(asked.gateway == gateway, asked.what == "asked", asked.ref == correlation.hex())
                .values(word=answer, at_unix_s=now_unix_s)
            )
            _answer_agreement(connection, correlation.hex(), answer, now_unix_s)
            return True

    def is_asked(self, correlation: bytes, *, gateway: str, jti: str) -> bool:
        """Was this command sent to this home, answered or not?"""
        query = sa.select(COMMANDS.c.jti).where(
            COMMANDS.c.correlation == correlation.hex(), COMMANDS.c.gateway == gateway, COMMANDS.c.jti == jti
        )
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def put_refusal(self, gateway: str, *, code: str, re: str, now_unix_s: float) -> None:
        known = sa.select(REFUSALS.c.number).where(REFUSALS.c.gateway == gateway, REFUSALS.c.re == re)
        with self._writing() as connection:
            if connection.execute(known).first() is None:
                connection.execute(
                    sa.insert(REFUSALS).values(gateway=gateway, code=code, re=re, heard_unix_s=now_unix_s)
                )


def _answer_agreement(connection: sa.Connection, correlation: str, answer: str, now_unix_s: float) -> None:
    """Accepted: it is in force from now on. Anything else: it never was."""
    here = AGREEMENTS.c.correlation == correlation
    row = connection.execute(sa.select(AGREEMENTS).where(here)).mappings().first()
    if row is None or row["accepted_unix_s"] is not None:
        return
    if answer == "accepted":
        put_in_force(connection, row, now_unix_s)
    else:
        connection.execute(sa.delete(AGREEMENTS).where(here))
