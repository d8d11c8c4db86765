"""The parts of one centre, built once and handed to whoever needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from centre.config import IceConfig
from centre.event_stream import EventStream
from centre.exchange import Exchange
from centre.relay import Relay
from centre.store import Store
from centre.witness import Cosigner, Log, Witness
from gateway.ledger import VerifierKey
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.protocol.message import Role


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in; `who` is the pseudonym that stands in grants and logs."""

    who: str
    roles: tuple[Role, ...]
    login_sha256: str


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
            for home in self.homes.values()
            if home.ledger_key is not None
        }

    @property
    def installations(self) -> dict[str, int]:
        """Every home's install epoch."""
        return {home.gateway: home.install_epoch for home in self.homes.values()}

    def admit(self, home: Home) -> None:
        """Take a home that was enrolled while the centre runs. From any thread."""
        cast(dict[str, Home], self.homes)[home.gateway] = home

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(origin.split("://", 1)[1] for origin in self.origins)
