"""The centre's configuration: one strict TOML file, read once. Wrong or missing means ConfigError, never a default.

Accounts are pseudonymous ids with the SHA-256 of a login token; neither names nor tokens stand here.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from centre.role import CentreRole
from centre.witness import read_ledger_key
from gateway.core.error import ConfigError
from gateway.core.refusal import RefusedError
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.protocol.message import GatewayId, Id, IPv4
from gateway.protocol.tunnel_key import TunnelKey

MAX_GRANT_HOMES = 64
"""Homes by name in one grant; with more, the grant names their groups. Source: gateway.protocol.message.Grant."""
MAX_GRANT_GROUPS = 16

Who = Annotated[str, Meta(pattern=r"^(?!(?:18|19|20)?[0-9]{6}-?[0-9]{4}\Z)[A-Za-z0-9._:-]{1,64}\Z")]
"""A pseudonym; a personal number is refused, because it would go into every log."""
Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Port = Annotated[int, Meta(ge=0, le=65535)]
WitnessName = Annotated[str, Meta(pattern=r"^[a-z0-9./-]{1,100}\Z")]
"""As in C2SP tlog-cosignature: an address without a scheme that tells witnesses apart."""


T = TypeVar("T")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections."""


class HttpConfig(_Section, frozen=True):
    """Where the console listens: plain HTTP, so a loopback address only; port 0 takes a free one.

    `public_origins` are further origins under which a TLS proxy on this machine shows the console, for example
    `https://tillsyn.example.se`.
    """

    host: str
    port: Port
    public_origins: list[Annotated[str, Meta(pattern=r"^https://[a-z0-9.-]{1,200}(:[0-9]{1,5})?\Z")]] = msgspec.field(
        default_factory=list
    )


class BrokerConfig(_Section, frozen=True):
    """The MQTT broker, and the client certificate that makes us the centre to it."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    server_name: str
    client_id: Id
    ca_path: Path
    cert_path: Path
    key_path: Path
    shares: bool = False
    """One of several workers on one PostgreSQL database; each has a certificate and client id of its own."""


class AccountConfig(_Section, frozen=True):
    """One person or program. Least privilege: `groups` limits the homes, `unit` the hand-overs of home care."""

    who: Who
    roles: Annotated[list[CentreRole], Meta(min_length=1, max_length=8)]
    login_sha256: Sha256Hex | None = None
    groups: list[Id] | None = None
    unit: Id | None = None
    subject: Annotated[str, Meta(min_length=1, max_length=255)] | None = None


class HomeConfig(_Section, frozen=True):
    """`ledger_vkey`: the home's ledger key as a C2SP vkey, `tillsyn/<gateway>+…`; without it nothing is witnessed."""

    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1, le=999_999_999)]
    device_jwk: dict[str, str]
    groups: list[Id]
    ledger_vkey: str | None = None


class IceServerConfig(_Section, frozen=True):
    """One RTCIceServer. Source: W3C WebRTC 1.0 §4.2.2."""

    urls: Annotated[list[Annotated[str, Meta(pattern=r"^(stun|turns?):.{1,200}\Z")]], Meta(min_length=1, max_length=4)]
    username: str | None = None
    credential: str | None = None


class IceConfig(_Section, frozen=True):
    """`relay` for homes behind a tunnel; `all` for a demo on one machine."""

    policy: Literal["all", "relay"]
    servers: list[IceServerConfig]
    relay_secret_path: Path | None = None
    """The secret shared with coturn. With it, each check gets credentials of its own for all of `servers`."""
    relay_life_s: Annotated[int, Meta(ge=60, le=3600)] = 600
    """How long they are good: longer than any check and the challenge before it."""


class BrokerForHomesConfig(_Section, frozen=True):
    """Where the homes find the broker, and what its certificate says."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    server_name: str


class RelayConfig(_Section, frozen=True):
    """The relay (TURN) that homes and operators meet at."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]


class EstTunnelConfig(_Section, frozen=True):
    """The tunnel's end at the centre. Each home that is enrolled gets the next free address of `network`.

    `tillsyn centre peers` prints the homes' keys and addresses for `tillsyn authority tunnel-config`.
    """

    network: Annotated[str, Meta(pattern=r"^[0-9.]{7,15}/[0-9]{1,2}\Z")]
    centre: Annotated[list[IPv4], Meta(min_length=1, max_length=4)]
    centre_key: TunnelKey
    endpoint_host: str
    endpoint_port: Port
    fallback_broker: IPv4 | None = None
    """With it and `fallback_relay`, where homes are reached by TLS whose network lets no tunnel through."""
    fallback_relay: IPv4 | None = None
    fallback_port: Port = 443


class EstConfig(_Section, frozen=True):
    """The enrolment service, with TLS of its own; `ca_*` is the CA that gives the homes their certificates."""

    host: str
    port: Port
    cert_path: Path
    key_path: Path
    ca_path: Path
    ca_key_path: Path
    roots_path: Path
    trust_path: Path
    broker_for_homes: BrokerForHomesConfig
    groups: list[Id] = msgspec.field(default_factory=list)
    """The groups of every home that is enrolled here."""
    relay: RelayConfig | None = None
    tunnel: EstTunnelConfig | None = None
    """Without it homes are enrolled that have none."""


class OidcConfig(_Section, frozen=True):
    """An OpenID provider; accounts name their `subject` there. `client_secret_path`: the secret alone, in a file."""

    issuer: Annotated[str, Meta(pattern=r"^https?://[^ ?#]{1,200}\Z")]
    client_id: Annotated[str, Meta(min_length=1, max_length=200)]
    client_secret_path: Path | None = None


class LoginConfig(_Section, frozen=True):
    """`link`: `enrol` lets a login token in until its account has a passkey, `always` for good (a demo)."""

    link: Literal["always", "enrol"] = "enrol"
    oidc: OidcConfig | None = None


class UnitConfig(_Section, frozen=True):
    """How a home-care unit is told of hand-overs, beside its page. Addresses stand here, never in the database."""

    unit: Id
    email: Annotated[str, Meta(pattern=r"^[^ @<>\r\n]{1,64}@[A-Za-z0-9.-]{1,190}\Z")] | None = None
    webhook_url: Annotated[str, Meta(pattern=r"^https?://[^ ]{1,300}\Z")] | None = None
    webhook_key_path: Path | None = None
    """32 bytes or more that sign what is posted (Standard Webhooks, HMAC-SHA256); whoever receives has them too."""


class SmtpConfig(_Section, frozen=True):
    """The mail server. `starttls` demands TLS and a certificate that the machine trusts; `none` is for loopback."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    sender: Annotated[str, Meta(pattern=r"^[^ @<>\r\n]{1,64}@[A-Za-z0-9.-]{1,190}\Z")]
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password_path: Path | None = None


class HandoverConfig(_Section, frozen=True):
    """`fallback` is the unit that is told when one has no channel, and of every escalation."""

    units: list[UnitConfig] = msgspec.field(default_factory=list)
    fallback: Id | None = None
    smtp: SmtpConfig | None = None


class CentreConfig(_Section, frozen=True):
    """The whole file. Relative paths are relative to the file's folder."""

    issuing_key_path: Path
    http: HttpConfig
    broker: BrokerConfig
    accounts: Annotated[list[AccountConfig], Meta(min_length=1)]
    homes: list[HomeConfig]
    ice: IceConfig
    database_path: Path | None = None
    """An SQLite file: the embedded default, for one worker."""
    database_url: Annotated[str, Meta(pattern=r"^postgresql://[^ ]{1,300}\Z")] | None = None
    """PostgreSQL, for several workers. A password belongs into libpq's own files (~/.pgpass), not here."""
    login: LoginConfig = msgspec.field(default_factory=LoginConfig)
    handover: HandoverConfig = msgspec.field(default_factory=HandoverConfig)
    metrics_port: Port | None = None
    """Where Prometheus reads, on a loopback address; without it nothing is shown."""
    grant_epoch: Annotated[int, Meta(ge=0, le=2**31)] = 0
    est: EstConfig | None = None
    """Without it no device can be enrolled here."""
    witness_key_path: Path | None = None
    """Ed25519, PEM; without it the homes' checkpoints are checked and not cosigned."""
    witness_name: WitnessName = "tillsyn/centre"


class LogConfig(_Section, frozen=True):
    """One ledger that a witness elsewhere follows; all three as in the centre's `[[homes]]`."""

    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1, le=999_999_999)]
    ledger_vkey: str


class WitnessConfig(_Section, frozen=True):
    """The whole file of `tillsyn witness`. Relative paths are relative to the file's folder."""

    database_path: Path
    witness_key_path: Path
    witness_name: WitnessName
    http: HttpConfig
    logs: Annotated[list[LogConfig], Meta(min_length=1)]


def load(path: Path) -> CentreConfig:
    """Read `path`; raises ConfigError that names the file, the place in it and what to mend."""
    config = _decode(path, CentreConfig)
    check(config, path)
    return config


def load_witness(path: Path) -> WitnessConfig:
    """Read the file of `tillsyn witness`; raises ConfigError as `load` does."""
    config = _decode(path, WitnessConfig)
    _check_loopback(config.http, path)
    _check_once(path, "logs: gateway", [log.gateway for log in config.logs])
    for log in config.logs:
        read_ledger_key(log.gateway, log.ledger_vkey)
    return config


def _decode(path: Path, kind: type[T]) -> T:
    folder = path.absolute().parent

    def decode_path(kind: type, value: Any) -> Any:
        if kind is Path and isinstance(value, str) and value:
            return folder / value
        raise ValueError("expected a path")

    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind, strict=True, dec_hook=decode_path)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}. Name an existing file with --config.") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def check(config: CentreConfig, path: Path) -> None:
    """What a schema can't say; raises ConfigError."""
    _check_loopback(config.http, path)
    _check_once(path, "accounts: who", [account.who for account in config.accounts])
    _check_once(
        path, "accounts: login_sha256", [account.login_sha256 for account in config.accounts if account.login_sha256]
    )
    _check_once(path, "accounts: subject", [account.subject for account in config.accounts if account.subject])
    if (config.database_path is None) == (config.database_url is None):
        raise ConfigError(f"{path}: name one of database_path (SQLite) and database_url (PostgreSQL)")
    if config.broker.shares and config.database_url is None:
        raise ConfigError(f"{path}: broker.shares is for several workers, and those need database_url")
    _check_handover(config.handover, path)
    for account in config.accounts:
        if CentreRole.HOME_CARE in account.roles and account.unit is None:
            raise ConfigError(f"{path}: {account.who}: an account of home care needs its unit")
    _check_once(path, "homes: gateway", [home.gateway for home in config.homes])
    for home in config.homes:
        device_key(home, path)
        if home.ledger_vkey is not None:
            read_ledger_key(home.gateway, home.ledger_vkey)
    if len(config.homes) > MAX_GRANT_HOMES:
        if not all(home.groups for home in config.homes):
            raise ConfigError(f"{path}: with more than {MAX_GRANT_HOMES} homes each needs a group")
        if len({group for home in config.homes for group in home.groups}) > MAX_GRANT_GROUPS:
            raise ConfigError(f"{path}: more than {MAX_GRANT_GROUPS} groups do not fit a grant")


def _check_handover(handover: HandoverConfig, path: Path) -> None:
    _check_once(path, "handover.units: unit", [unit.unit for unit in handover.units])
    if handover.fallback is not None and handover.fallback not in {unit.unit for unit in handover.units}:
        raise ConfigError(f"{path}: handover.fallback names no unit of handover.units")
    for unit in handover.units:
        if unit.email is not None and handover.smtp is None:
            raise ConfigError(f"{path}: {unit.unit} has an email address, and there is no [handover.smtp]")
        if unit.webhook_url is not None and unit.webhook_key_path is None:
            raise ConfigError(f"{path}: {unit.unit}: webhook_url needs webhook_key_path")


def _check_loopback(http: HttpConfig, path: Path) -> None:
    try:
        is_loopback = ipaddress.ip_address(http.host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigError(f"{path}: http.host must be 127.0.0.1 or ::1; put a TLS proxy in front of it")


def _check_once(path: Path, what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: {what} stands there twice")


def device_key(home: HomeConfig, path: Path) -> VerifyingKey:
    """The key that signs the home's messages; raises ConfigError."""
    try:
        return VerifyingKey.from_jwk(home.device_jwk)
    except RefusedError as exc:
        raise ConfigError(f"{path}: {home.gateway}: device_jwk: {exc.detail}") from exc


def read_issuing_key(path: Path) -> SigningKey:
    """Raises ConfigError when the file is missing or holds no unencrypted P-256 private key."""
    try:
        return SigningKey.from_pem(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{path}: not an unencrypted P-256 private key in PEM") from exc
