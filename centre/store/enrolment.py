"""What the centre remembers of enrolments: the factory's register, one-time codes, who was enrolled with which keys.

Tables of their own in the centre's database. Codes are kept as hashes; no column holds a name or an address.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from centre.store.engine import Rows
from centre.store.table import METADATA

MAX_TRIES: Final = 5
CODE_LIFE_S: Final = 2 * 3600.0

REGISTER: Final = sa.Table(
    "factory_register",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("certificate_sha256", sa.String(64), nullable=False),
)
CODES: Final = sa.Table(
    "enrolment_codes",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("code_sha256", sa.String(64), nullable=False),
    sa.Column("made_by", sa.String(64), nullable=False),
    sa.Column("until_unix_s", sa.Float, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("spki_sha256", sa.String(64)),
    sa.Column("certificate_pem", sa.Text),
)
ENROLMENTS: Final = sa.Table(
    "enrolments",
    METADATA,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("install_epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_spki_sha256", sa.String(64), nullable=False),
    sa.Column("spki_sha256", sa.String(64), nullable=False),
    sa.Column("certificate_pem", sa.Text, nullable=False),
    sa.Column("device_jwk_json", sa.Text, nullable=False),
    sa.Column("ledger_vkey", sa.String(200), nullable=False),
    sa.Column("place_json", sa.Text, nullable=False),
    sa.Column("short_code", sa.String(16), nullable=False),
    sa.Column("at_unix_s", sa.Float, nullable=False),
    sa.Column("is_same", sa.Boolean),
    sa.Column("compared_by", sa.String(64)),
    sa.Column("protocol_jws", sa.Text),
)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One device as it was enrolled; `is_same` is None until the short codes were compared."""

    gateway: str
    install_epoch: int
    first_spki_sha256: str
    spki_sha256: str
    certificate_pem: str
    device_jwk: dict[str, str]
    ledger_vkey: str
    place_json: str
    short_code: str
    at_unix_s: float
    is_same: bool | None
    compared_by: str | None
    protocol_jws: str | None


class EnrolmentRows(Rows):
    """The part of the store that is about enrolments."""

    def register_device(self, gateway: str, certificate_sha256: str) -> bool:
        """Enter a device from the factory; False when another certificate stands there already."""
        with self._writing() as connection:
            known = connection.execute(
                sa.select(REGISTER.c.certificate_sha256).where(REGISTER.c.gateway == gateway)
            ).scalar()
            if known is None:
                connection.execute(sa.insert(REGISTER).values(gateway=gateway, certificate_sha256=certificate_sha256))
            return known is None or known == certificate_sha256

    def is_registered_device(self, gateway: str) -> bool:
        with self._reading() as connection:
            return (
                connection.execute(sa.select(REGISTER.c.gateway).where(REGISTER.c.gateway == gateway)).first()
                is not None
            )

    def put_enrolment_code(self, gateway: str, code: str, *, made_by: str, now_unix_s: float) -> float:
        """A new one-time code in the place of any older one; until when it lives."""
        until_unix_s = now_unix_s + CODE_LIFE_S
        values = {
            "gateway": gateway,
            "code_sha256": _sha256(code),
            "made_by": made_by,
            "until_unix_s": until_unix_s,
            "tries": 0,
            "spki_sha256": None,
            "certificate_pem": None,
        }
        with self._writing() as connection:
            connection.execute(sa.delete(CODES).where(CODES.c.gateway == gateway))
            connection.execute(sa.insert(CODES).values(values))
        return until_unix_s

    def claim_enrolment_code(self, gateway: str, code: str, spki_sha256: str, *, now_unix_s: float) -> str | None:
        """Spend the code on this key. Gives why not: `code-wrong`, `code-expired`, `code-used`; None when it is spent.

        A wrong code is counted before anything is said; after five there is no code any more. Asking again with the
        same key is the same claim: an answer may be lost, by a power cut for example.
        """
        with self._writing() as connection:
            row = connection.execute(sa.select(CODES).where(CODES.c.gateway == gateway)).mappings().first()
            if row is None or row["tries"] >= MAX_TRIES:
                return "code-wrong"
            if row["code_sha256"] != _sha256(code):
                connection.execute(sa.update(CODES).where(CODES.c.gateway == gateway).values(tries=row["tries"] + 1))
                return "code-wrong"
            if row["until_unix_s"] <= now_unix_s:
                return "code-expired"
            if row["spki_sha256"] not in (None, spki_sha256):
                return "code-used"
            connection.execute(sa.update(CODES).where(CODES.c.gateway == gateway).values(spki_sha256=spki_sha256))
            return None

    def issued_certificate(self, gateway: str, spki_sha256: str) -> str | None:
        """The certificate that this claim has got already, as PEM."""
        with self._reading() as connection:
            pem = connection.execute(
                sa.select(CODES.c.certificate_pem).where(CODES.c.gateway == gateway, CODES.c.spki_sha256 == spki_sha256)
            ).scalar()
            return None if pem is None else str(pem)

    def put_issued_certificate(self, gateway: str, spki_sha256: str, pem: str) -> str:
        """Keep the certificate of a claim; the one that stands there in the end, should two have come at once."""
        with self._writing() as connection:
            where = (CODES.c.gateway == gateway, CODES.c.spki_sha256 == spki_sha256)
            known = connection.execute(sa.select(CODES.c.certificate_pem).where(*where)).scalar()
            if known is None:
                connection.execute(sa.update(CODES).where(*where).values(certificate_pem=pem))
            return str(known or pem)

    def next_install_epoch(self, gateway: str) -> int:
        with self._reading() as connection:
            newest = connection.execute(
                sa.select(sa.func.max(ENROLMENTS.c.install_epoch)).where(ENROLMENTS.c.gateway == gateway)
            ).scalar()
            return int(newest or 0) + 1

    def put_enrolment(self, enrolment: Enrolment) -> None:
        values = {
            "gateway": enrolment.gateway,
            "install_epoch": enrolment.install_epoch,
            "first_spki_sha256": enrolment.first_spki_sha256,
            "spki_sha256": enrolment.spki_sha256,
            "certificate_pem": enrolment.certificate_pem,
            "device_jwk_json": json.dumps(enrolment.device_jwk, sort_keys=True),
            "ledger_vkey": enrolment.ledger_vkey,
            "place_json": enrolment.place_json,
            "short_code": enrolment.short_code,
            "at_unix_s": enrolment.at_unix_s,
            "is_same": None,
            "compared_by": None,
            "protocol_jws": None,
        }
        with self._writing() as connection:
            connection.execute(sa.insert(ENROLMENTS).values(values))

    def newest_enrolment(self, gateway: str) -> Enrolment | None:
        return next((one for one in self.enrolments() if one.gateway == gateway), None)

    def enrolments(self) -> list[Enrolment]:
        """The newest of each gateway."""
        with self._reading() as connection:
            rows = connection.execute(
                sa.select(ENROLMENTS).order_by(ENROLMENTS.c.gateway, ENROLMENTS.c.install_epoch.desc())
            ).mappings()
            found: dict[str, Enrolment] = {}
            for row in rows:
                found.setdefault(row["gateway"], _enrolment(row))
        return list(found.values())

    def compare_enrolment(self, gateway: str, install_epoch: int, *, is_same: bool, who: str) -> bool:
        """What somebody at the centre says of the two short codes. Said once; False when it was said before."""
        with self._writing() as connection:
            done = connection.execute(
                sa.update(ENROLMENTS)
                .where(
                    ENROLMENTS.c.gateway == gateway,
                    ENROLMENTS.c.install_epoch == install_epoch,
                    ENROLMENTS.c.is_same.is_(None),
                )
                .values(is_same=is_same, compared_by=who)
            )
            return done.rowcount == 1

    def put_renewed_certificate(
        self, gateway: str, install_epoch: int, *, old: str, spki_sha256: str, pem: str
    ) -> bool:
        """A renewed key in the place of `old`; False when another renewal was faster."""
        return self._update_enrolment(
            gateway, install_epoch, ENROLMENTS.c.spki_sha256 == old, spki_sha256=spki_sha256, certificate_pem=pem
        )

    def put_installation_protocol(self, gateway: str, install_epoch: int, jws: str) -> bool:
        return self._update_enrolment(gateway, install_epoch, sa.true(), protocol_jws=jws)

    def _update_enrolment(self, gateway: str, install_epoch: int, also: Any, **values: Any) -> bool:
        with self._writing() as connection:
            done = connection.execute(
                sa.update(ENROLMENTS)
                .where(ENROLMENTS.c.gateway == gateway, ENROLMENTS.c.install_epoch == install_epoch, also)
                .values(**values)
            )
            return done.rowcount == 1


def _enrolment(row: sa.RowMapping) -> Enrolment:
    values: dict[str, Any] = dict(row)
    values["device_jwk"] = json.loads(values.pop("device_jwk_json"))
    return Enrolment(**values)


def _sha256(code: str) -> str:
    # The code has 50 random bits, lives two hours, and dies after five wrong tries: a slow hash would add nothing.
    return hashlib.sha256(code.encode()).hexdigest()
