"""Who is logged in, and which keys have a grant."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import GRANTS, LOGINS, PASSKEYS, SESSIONS
from gateway.protocol.message import Grant


class PersonRows(Rows):
    """Sessions, grants, logins under way, passkeys."""

    def put_session(self, session_sha256: str, *, who: str, exp_unix_s: float, now_unix_s: float) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.exp_unix_s <= now_unix_s))
            connection.execute(
                sa.insert(SESSIONS).values(session_sha256=session_sha256, who=who, exp_unix_s=exp_unix_s)
            )

    def session_who(self, session_sha256: str, *, now_unix_s: float) -> str | None:
        query = sa.select(SESSIONS.c.who).where(
            SESSIONS.c.session_sha256 == session_sha256, SESSIONS.c.exp_unix_s > now_unix_s
        )
        with self._reading() as connection:
            return connection.execute(query).scalar_one_or_none()

    def end_session(self, session_sha256: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.session_sha256 == session_sha256))

    def put_grant(self, grant: Grant, *, grant_sha256: str, kid: str) -> None:
        with self._writing() as connection:
            connection.execute(
                sa.insert(GRANTS).values(
                    grant_sha256=grant_sha256,
                    kid=kid,
                    who=grant.name_ref,
                    roles=",".join(grant.roles),
                    epoch=grant.epoch,
                    nbf_unix_s=grant.nbf,
                    exp_unix_s=grant.exp,
                )
            )

    # Logins under way, and passkeys

    def put_login(
        self, id_sha256: str, *, way: str, who: str | None, secret: str, exp_unix_s: float, now_unix_s: float
    ) -> None:
        values = {"id_sha256": id_sha256, "way": way, "who": who, "secret": secret, "exp_unix_s": exp_unix_s}
        with self._writing() as connection:
            connection.execute(sa.delete(LOGINS).where(LOGINS.c.exp_unix_s <= now_unix_s))
            connection.execute(sa.insert(LOGINS).values(values))

    def take_login(self, id_sha256: str, *, way: str, now_unix_s: float) -> tuple[str, str | None] | None:
        """(secret, who), once; None when there is no such login, or its time is over."""
        table = LOGINS.c
        here = (table.id_sha256 == id_sha256) & (table.way == way)
        with self._writing() as connection:
            row: Any = connection.execute(sa.select(LOGINS).where(here)).first()
            connection.execute(sa.delete(LOGINS).where(here))
        return None if row is None or row.exp_unix_s <= now_unix_s else (row.secret, row.who)

    def put_passkey(
        self, credential_id: str, *, who: str, public_key_hex: str, sign_count: int, now_unix_s: float
    ) -> bool:
        """False when it is registered already, whoever's it is."""
        values = {"who": who, "public_key_hex": public_key_hex, "sign_count": sign_count, "created_unix_s": now_unix_s}
        with self._writing() as connection:
            known = sa.select(PASSKEYS.c.who).where(PASSKEYS.c.credential_id == credential_id)
            if connection.execute(known).first() is not None:
                return False
            connection.execute(sa.insert(PASSKEYS).values(credential_id=credential_id, **values))
        return True

    def passkeys(self, who: str) -> list[dict[str, Any]]:
        query = sa.select(PASSKEYS).where(PASSKEYS.c.who == who).order_by(PASSKEYS.c.created_unix_s)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def passkey(self, credential_id: str) -> dict[str, Any] | None:
        query = sa.select(PASSKEYS).where(PASSKEYS.c.credential_id == credential_id)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else dict(row)

    def use_passkey(self, credential_id: str, *, sign_count: int, now_unix_s: float) -> None:
        values = {"sign_count": sign_count, "used_unix_s": now_unix_s}
        with self._writing() as connection:
            connection.execute(sa.update(PASSKEYS).where(PASSKEYS.c.credential_id == credential_id).values(values))

    def remove_passkey(self, credential_id: str, *, who: str) -> bool:
        here = (PASSKEYS.c.credential_id == credential_id) & (PASSKEYS.c.who == who)
        with self._writing() as connection:
            return connection.execute(sa.delete(PASSKEYS).where(here)).rowcount == 1
