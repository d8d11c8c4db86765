"""The wizard's network port: NetworkManager's D-Bus interface, played by a fake on a real private bus.

The same suite is meant for the real NetworkManager where a radio can be simulated (mac80211_hwsim in QEMU). That lane
is not built; nothing here shows that the real one does the same.

Mutations that turn tests red: leave `_undo` out of `_try` (what failed stays as a connection); take `_REASONS` away
(each failure is `failed`); look for no own one in
`lower_access_point` (a dead process's access point stays).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

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


def test_a_home_is_joined_with_its_password(bus):
    air = Air()

    async def work(network: NmNetwork) -> None:
        assert await network.join_wifi("Hemma", PASSWORD) is Joining.JOINED
        assert air.joined == "Hemma"
        assert len(air.connections) == 1

    with_network(bus, air, work)


@pytest.mark.parametrize(
    ("net", "ssid", "password", "expected"),
    [
        (Net("Hemma"), "Hemma", "fel lösenord", Joining.WRONG_PASSWORD),
        (Net("Hemma"), "Hemma", "kort", Joining.WRONG_PASSWORD),
        (Net("Hemma", does="no-address"), "Hemma", PASSWORD, Joining.NO_ADDRESS),
        (Net("Hemma", does="nothing"), "Hemma", PASSWORD, Joining.TOO_SLOW),
        (Net("Hemma"), "Borta", PASSWORD, Joining.NOT_FOUND),
        (Net("Hotell", None, does="portal"), "Hotell", None, Joining.PORTAL),
    ],
    ids=lambda value: str(value) if isinstance(value, Joining) else None,
)
def test_a_try_that_failed_says_why_and_leaves_nothing_behind(bus, net, ssid, password, expected):
    air = Air([net])

    async def work(network: NmNetwork) -> None:
        assert await network.join_wifi(ssid, password) is expected
        assert air.connections == set()

    with_network(bus, air, work)


@pytest.mark.parametrize(
    ("cable", "expected"), [("none", Joining.NO_CABLE), ("up", Joining.JOINED), ("no-address", Joining.NO_ADDRESS)]
)
def test_the_cable_is_used_where_there_is_one(bus, cable, expected):
    async def work(network: NmNetwork) -> None:
        assert await network.join_cable() is expected

    with_network(bus, Air(cable=cable), work)


def test_the_own_access_point_comes_and_goes(bus):
    air = Air()

    async def work(network: NmNetwork) -> None:
        await network.raise_access_point("tillsyn-ab12", "0A830N5F22N2")
        assert air.access_point == "tillsyn-ab12"
        await network.lower_access_point()
        await network.lower_access_point()
        assert air.access_point is None
        assert air.connections == set()

    with_network(bus, air, work)


def test_an_access_point_that_a_dead_process_left_is_taken_down(bus):
    air = Air()

    async def work(network: NmNetwork) -> None:
        await NmNetwork(bus.address, try_s=2.0).raise_access_point("tillsyn-ab12", "0A830N5F22N2")
        assert (await network.look()).wifis == ()  # the one radio is busy
        await network.lower_access_point()
        assert [one.ssid for one in (await network.look()).wifis] == ["Hemma", "Hotell"]

    with_network(bus, air, work)


def test_without_a_radio_there_is_nothing_in_the_air(bus):
    async def work(network: NmNetwork) -> None:
        assert (await network.look()).wifis == ()
        assert await network.join_wifi("Hemma", PASSWORD) is Joining.NOT_FOUND
        with pytest.raises(NetworkError):
            await network.raise_access_point("tillsyn-ab12", "0A830N5F22N2")

    with_network(bus, Air(has_radio=False), work)


def test_without_networkmanager_that_is_said(bus):
    async def run() -> None:
        network = NmNetwork(bus.address, try_s=1.0)
        with pytest.raises(NetworkError):
            await network.look()
        await network.close()

    asyncio.run(run())
