"""Who is logged in, and which keys have a grant."""

from __future__ import annotations

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import GRANTS, SESSIONS
from gateway.protocol.message import Grant


class PersonRows(Rows):
    """Sessions and grants."""

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
