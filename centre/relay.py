"""Credentials for the relay: made for one check, good for some minutes, checked by coturn without asking anybody.

The page asks for them when it asks for a challenge, so that *Start* needs no round trip for it. The home gets its own
at the same time, for the case that its network lets no tunnel through. Whoever has a credential can reach, through the
relay, what the relay lets peers reach: tunnel addresses of homes, and nothing else (`tillsyn authority relay-config`).

Source: draft-uberti-behave-turn-rest-00, as in coturn's `use-auth-secret`: SHA-1 is what it computes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from centre.config import IceConfig
from gateway.core.error import ConfigError
from gateway.core.secret_mode import is_open_to_others

MIN_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    credential: str


@dataclass(frozen=True, slots=True)
class Relay:
    """The secret that the relay and the centre share, and how long what is made with it is good."""

    secret: bytes
    life_s: int

    def credentials(self, name: str, *, now_unix_s: float) -> Credentials:
        username = f"{int(now_unix_s) + self.life_s}:{name}"
        digest = hmac.new(self.secret, username.encode(), hashlib.sha1).digest()
        return Credentials(username, base64.b64encode(digest).decode())


def read_relay(ice: IceConfig) -> Relay | None:
    """The relay of the configuration. Raises ConfigError for a secret that is missing, short or open to others."""
    path = ice.relay_secret_path
    if path is None:
        return None
    try:
        is_open = is_open_to_others(path, path.stat().st_mode)
        secret = path.read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    if is_open:
        raise ConfigError(f"{path}: others than its owner may read this secret: chmod 600")
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"{path}: a secret of at least {MIN_SECRET_BYTES} characters is needed")
    return Relay(secret, ice.relay_life_s)


def ice_servers(ice: IceConfig, credentials: Credentials | None) -> list[dict[str, Any]]:
    """As a browser's RTCPeerConnection takes them."""
    given = {} if credentials is None else msgspec.to_builtins(credentials)
    return [
        {name: value for name, value in msgspec.structs.asdict(server).items() if value is not None} | given
        for server in ice.servers
    ]
