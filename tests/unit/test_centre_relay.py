"""Relay credentials: for one check, for who may make one, and another for the home than for the page.

Mutations that turn these red, each tried: `life_s` left out of the username; the same name for both; roles not asked;
the secret's mode not asked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_centre_app import ORIGIN, TOKEN, FakeBroker, make_state

from centre.app import make_app
from centre.config import IceConfig, IceServerConfig
from centre.relay import Relay, read_relay
from centre.state import Account
from gateway.core.error import ConfigError
from gateway.services.link_way import RelayCredentials, _credentials

SECRET = b"s" * 40
NOW_UNIX_S = 1_795_000_000.0
SERVERS = IceConfig("relay", [IceServerConfig(["turn:198.51.100.11:3478?transport=udp"])])


def ask(folder: Path, gateway: str, *, relay: Relay | None, roles: Any = None) -> tuple[httpx.Response, FakeBroker]:
    async def work() -> tuple[httpx.Response, FakeBroker]:
        broker = FakeBroker()
        state, _ = make_state(folder, broker)
        accounts = dict(state.accounts)
        if roles is not None:
            accounts["op-1"] = Account("op-1", roles, accounts["op-1"].login_sha256)
        state = replace(state, relay=relay, ice=SERVERS, clock=lambda: NOW_UNIX_S, accounts=accounts)
        transport = httpx.ASGITransport(app=make_app(state))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
            response = await client.post(f"/api/v1/homes/{gateway}/relay", json={})
        state.store.close()
        return response, broker

    return asyncio.run(work())


def is_coturns(username: str, credential: str) -> bool:
    """As coturn computes it."""
    return base64.b64encode(hmac.new(SECRET, username.encode(), hashlib.sha1).digest()).decode() == credential


@pytest.mark.slow
def test_page_and_home_get_credentials_of_their_own_that_end_after_ten_minutes(tmp_path: Path) -> None:
    response, broker = ask(tmp_path, "gw-a", relay=Relay(SECRET, 600))
    (server,) = response.json()["ice_servers"]
    (published,) = broker.published
    assert published.topic == "tillsyn/v1/gw-a/relay"
    home = json.loads(published.payload)
    assert isinstance(_credentials.decode(published.payload), RelayCredentials)
    assert is_coturns(server["username"], server["credential"])
    assert is_coturns(home["username"], home["credential"])
    assert home["username"] != server["username"]
    for username in (home["username"], server["username"]):
        assert int(username.split(":")[0]) == NOW_UNIX_S + 600
    assert published.expiry_s == 30


@pytest.mark.slow
def test_two_checks_get_two_credentials(tmp_path: Path) -> None:
    relay = Relay(SECRET, 600)
    usernames = set()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        response, _ = ask(folder, "gw-a", relay=relay)
        usernames.add(response.json()["ice_servers"][0]["username"])
    assert len(usernames) == 2


@pytest.mark.slow
def test_who_may_make_no_check_gets_none_and_an_unknown_home_neither(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    response, broker = ask(tmp_path / "one", "gw-a", relay=Relay(SECRET, 600), roles=("planner",))
    assert (response.status_code, broker.published) == (403, [])
    response, broker = ask(tmp_path, "gw-z", relay=Relay(SECRET, 600))
    assert (response.status_code, broker.published) == (404, [])


def test_without_a_shared_secret_the_configured_servers_are_given_as_they_are(tmp_path: Path) -> None:
    response, broker = ask(tmp_path, "gw-a", relay=None)
    assert response.json() == {"ice_servers": [{"urls": ["turn:198.51.100.11:3478?transport=udp"]}]}
    assert broker.published == []


@pytest.mark.parametrize(("content", "mode"), [(b"short", 0o600), (SECRET, 0o644), (None, 0o600)])
def test_a_secret_that_is_missing_short_or_open_is_refused(tmp_path: Path, content: bytes | None, mode: int) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError):
        read_relay(IceConfig("relay", [], relay_secret_path=path))
