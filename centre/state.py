"""The parts of one centre, built once and handed to whoever needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from centre.config import IceConfig
from centre.desk_cache import DeskCache
from centre.event_stream import EventStream
from centre.exchange import Exchange
from centre.relay import Relay
from centre.role import CentreRole
from centre.store import Store
from centre.witness import Cosigner, Log, Witness
from gateway.ledger import VerifierKey
from gateway.protocol.key import SigningKey, VerifyingKey


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in; `who` is the pseudonym that stands in grants and logs."""

    who: str
    roles: tuple[str, ...]
    """Words of `centre.role.CentreRole`."""
    login_sha256: str | None = None
    """Of a login token; None: by passkey or OpenID only."""
    groups: frozenset[str] | None = None
    """Sees only homes of these groups; None: all homes of the centre."""
    unit: str | None = None
    """For home care: the unit whose hand-overs these are."""
    subject: str | None = None
    """The `sub` that the OpenID provider gives for this person."""

    def sees(self, home: Home) -> bool:
        return self.groups is None or bool(self.groups & home.groups)

    def answers(self, unit: str | None) -> bool:
        """Whether a hand-over to `unit` is this account's; one that names no unit is everybody's."""
        return CentreRole.HOME_CARE not in self.roles or unit is None or unit == self.unit


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID provider, as configured. `issuer` is exact; its discovery document must name itself so."""

    issuer: str
    client_id: str
    client_secret: str | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """Which device is which: the key is what makes a message the home's own."""

    gateway: str
    install_epoch: int
    device_key: VerifyingKey
    groups: frozenset[str]
    ledger_key: VerifierKey | None = None
    """None: the home's log is kept, and not witnessed yet."""


@dataclass(frozen=True, slots=True)
class CentreState:
    """Facts from the configuration, and the parts that do something. `clock` gives Unix time in seconds."""

    accounts: Mapping[str, Account]
    homes: Mapping[str, Home]
    issuing_key: SigningKey
    grant_epoch: int
    ice: IceConfig
    origins: frozenset[str]
    """`scheme://host:port` under which the console may be used; everything else is refused."""
    store: Store
    exchange: Exchange
    clock: Callable[[], float]
    events: EventStream = field(default_factory=EventStream)
    desk_cache: DeskCache = field(default_factory=DeskCache)
    link_rule: Literal["always", "enrol"] = "always"
    """Whether a login token goes on working once its account has a passkey."""
    oidc: Provider | None = None
    """The OpenID provider, where there is one."""
    cosigner: Cosigner | None = None
    """None: checkpoints are checked and not cosigned."""
    relay: Relay | None = None
    """None: the relay's credentials stand in the configuration, or there is no relay."""

    @property
    def witness(self) -> Witness:
        return Witness(self.store, self.cosigner)

    @property
    def logs(self) -> dict[str, Log]:
        """The homes whose log can be witnessed."""
        return {
            home.gateway: Log(home.gateway, home.install_epoch, home.ledger_key)
            for home in list(self.homes.values())
            if home.ledger_key is not None
        }

    @property
    def installations(self) -> dict[str, int]:
        """Every home's install epoch."""
        return {home.gateway: home.install_epoch for home in list(self.homes.values())}

    def admit(self, home: Home) -> None:
        """Take a home that was enrolled while the centre runs. From any thread: whoever goes through `homes` does so
        over a list of them.
        """
        cast(dict[str, Home], self.homes)[home.gateway] = home

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(origin.split("://", 1)[1] for origin in self.origins)
