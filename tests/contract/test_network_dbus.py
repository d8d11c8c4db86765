"""The wizard's network port: NetworkManager's D-Bus interface, played by a fake on a real private bus.

The cases that both must hold are in network_suite.py; `make networkmanager-contract` runs them against Debian's
NetworkManager in a guest with simulated radios. What stands here alone is what only the fake can be made to do.

Mutations that turn tests red: leave `_undo` out of `_try` (what failed stays as a connection); take `_REASONS` away
(each failure is `failed`); look for no own one in `lower_access_point` (a dead process's access point stays).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import network_suite
import pytest

from provisioning.wizard.network_dbus import NetworkError, NmNetwork
from provisioning.wizard.network_port import Joining, Wifi

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
from nm_on_bus import Air, Net, PrivateBus, play, private_bus

pytestmark = pytest.mark.slow

PASSWORD = "korrekt-häst"


@pytest.fixture(scope="module")
def bus(tmp_path_factory) -> Iterator[PrivateBus]:
    with private_bus(tmp_path_factory.mktemp("bus")) as running:
        yield running


def with_network(bus: PrivateBus, air: Air, work: Callable[[NmNetwork], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        fake = await play(bus.address, air)
        network = NmNetwork(bus.address, try_s=2.0)
        try:
            async with asyncio.timeout(20):
                await work(network)
        finally:
            await network.close()
            fake.disconnect()
            await fake.wait_for_disconnect()

    asyncio.run(run())


def test_what_is_around_is_found_the_strongest_first(bus):
    air = Air([Net("weak", strength=10), Net("strong", strength=90), Net("weak", strength=30), Net("work", rsn=0x200)])

    async def work(network: NmNetwork) -> None:
        found = await network.look()
        assert [(one.ssid, one.strength) for one in found.wifis] == [("strong", 90), ("work", 70), ("weak", 30)]
        assert Wifi("work", 70, is_secured=True, is_usable=False) in found.wifis
        assert not found.has_cable

    with_network(bus, air, work)


class FakeHome:
    """The suite's home, in the fake's air."""

    def __init__(self, network: NmNetwork, air: Air) -> None:
        self.network, self._air = network, air

    async def kept(self) -> int:
        return len(self._air.connections)

    async def joined(self) -> str | None:
        return self._air.joined

    async def access_point(self) -> str | None:
        return self._air.access_point

    async def plug(self, cable: str) -> None:
        self._air.cable = cable


@pytest.mark.parametrize("name", network_suite.CASES)
def test_the_fake_does_what_the_real_one_does(bus, name):
    secret = network_suite.PASSWORD
    air = Air(
        [
            Net(network_suite.HOME, secret),
            Net(network_suite.NO_ADDRESS, secret, does="no-address"),
            Net(network_suite.HOTEL, None, does="portal", rsn=0),
            Net(network_suite.NEWER, secret, rsn=0x400),
            Net(network_suite.FIRM, secret, rsn=0x200),
        ]
    )

    async def work(network: NmNetwork) -> None:
        await network_suite.CASES[name](FakeHome(network, air))

    with_network(bus, air, work)


def test_a_network_that_never_settles_is_given_up(bus):
    air = Air([Net("Hemma", does="nothing")])

    async def work(network: NmNetwork) -> None:
        assert await network.join_wifi("Hemma", PASSWORD) is Joining.TOO_SLOW
        assert air.connections == set()

    with_network(bus, air, work)


@pytest.mark.parametrize("name", network_suite.WITHOUT_RADIO)
def test_without_a_radio_too(bus, name):
    air = Air(has_radio=False)

    async def work(network: NmNetwork) -> None:
        await network_suite.WITHOUT_RADIO[name](FakeHome(network, air))

    with_network(bus, air, work)


def test_without_networkmanager_that_is_said(bus):
    async def run() -> None:
        network = NmNetwork(bus.address, try_s=1.0)
        with pytest.raises(NetworkError):
            await network.look()
        await network.close()

    asyncio.run(run())
