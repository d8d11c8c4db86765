"""The parts of one centre, built once and handed to whoever needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from centre.config import IceConfig
from centre.event_stream import EventStream
from centre.exchange import Exchange
from centre.store import Store
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

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(origin.split("://", 1)[1] for origin in self.origins)
