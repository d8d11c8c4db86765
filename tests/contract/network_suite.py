"""What the wizard's network port promises, whoever plays NetworkManager: the fake on a bus, or the real one in a guest.

A case is a coroutine that gets a `Home` and asserts. `tests/contract/test_network_dbus.py` runs all of them against the
fake, `make networkmanager-contract` against Debian's NetworkManager with simulated radios.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from provisioning.wizard.network_dbus import NetworkError, NmNetwork
from provisioning.wizard.network_port import Joining

HOME: Final = "Hemma på Ön"
NO_ADDRESS: Final = "Utan adress"
HOTEL: Final = "Hotell"
NEWER: Final = "Nyare"
"""WPA3 only."""
FIRM: Final = "Firma"
"""WPA Enterprise, which no device of ours can join."""
PASSWORD: Final = "korrekt-häst"
OWN: Final = ("tillsyn-ab12", "0A830N5F22N2")


class Home(Protocol):
    """A device in a home with these networks in the air, and a cable."""

    network: NmNetwork

    async def kept(self) -> int:
        """How many connections NetworkManager keeps that were made here."""

    async def joined(self) -> str | None:
        """The Wi-Fi that the device is in."""

    async def access_point(self) -> str | None:
        """The device's own, while it stands."""

    async def plug(self, cable: str) -> None:
        """none, up, or no-address"""


Case = Callable[[Home], Awaitable[None]]
CASES: dict[str, Case] = {}


def _is(outcome: Joining, expected: Joining) -> None:
    assert outcome is expected, outcome


def _same(found: object, expected: object) -> None:
    assert found == expected, found


async def _comes_to(look: Callable[[], Awaitable[str | None]], expected: str | None) -> None:
    """What the kernel says follows what NetworkManager says, on a busy machine seconds later."""
    for _ in range(100):
        if (found := await look()) == expected:
            return
        await asyncio.sleep(0.1)
    _same(found, expected)


def case(work: Case) -> Case:
    CASES[work.__name__.replace("_", "-")] = work
    return work


@case
async def what_is_around_is_found(home: Home) -> None:
    found = {one.ssid: one for one in (await home.network.look()).wifis}
    assert {HOME, NO_ADDRESS, HOTEL, NEWER, FIRM} <= set(found), found
    assert (found[HOME].is_secured, found[HOME].is_usable) == (True, True)
    assert (found[HOTEL].is_secured, found[HOTEL].is_usable) == (False, True)
    assert (found[NEWER].is_secured, found[NEWER].is_usable) == (True, True)
    assert (found[FIRM].is_secured, found[FIRM].is_usable) == (True, False)
    strengths = [one.strength for one in (await home.network.look()).wifis]
    assert strengths == sorted(strengths, reverse=True)


@case
async def a_home_is_joined_with_its_password(home: Home) -> None:
    _is(await home.network.join_wifi(HOME, PASSWORD), Joining.JOINED)
    await _comes_to(home.joined, HOME)
    _same(await home.kept(), 1)


@case
async def a_newer_one_too(home: Home) -> None:
    _is(await home.network.join_wifi(NEWER, PASSWORD), Joining.JOINED)
    await _comes_to(home.joined, NEWER)


def _fails(name: str, ssid: str, password: str | None, expected: Joining) -> None:
    async def work(home: Home) -> None:
        await home.network.look()
        outcome = await home.network.join_wifi(ssid, password)
        assert outcome is expected, outcome
        _same(await home.kept(), 0)
        await _comes_to(home.joined, None)

    CASES[name] = work


_fails("a-wrong-password-is-said", HOME, "fel lösenord", Joining.WRONG_PASSWORD)
_fails("a-wrong-password-of-a-newer-one-is-said", NEWER, "fel lösenord", Joining.WRONG_PASSWORD)
_fails("a-password-that-can-be-none-is-said", HOME, "kort", Joining.WRONG_PASSWORD)
_fails("no-address-is-said", NO_ADDRESS, PASSWORD, Joining.NO_ADDRESS)
_fails("a-network-that-went-is-said", "Borta", PASSWORD, Joining.NOT_FOUND)
_fails("a-page-to-log-in-at-is-said", HOTEL, None, Joining.PORTAL)


@case
async def after_a_failure_the_right_one_is_joined(home: Home) -> None:
    _is(await home.network.join_wifi(HOME, "fel lösenord"), Joining.WRONG_PASSWORD)
    _is(await home.network.join_wifi(HOME, PASSWORD), Joining.JOINED)
    _same(await home.kept(), 1)


@case
async def the_own_access_point_comes_and_goes(home: Home) -> None:
    await home.network.raise_access_point(*OWN)
    await _comes_to(home.access_point, OWN[0])
    await home.network.lower_access_point()
    await home.network.lower_access_point()
    await _comes_to(home.access_point, None)
    _same(await home.kept(), 0)


@case
async def an_access_point_that_a_dead_process_left_is_taken_down(home: Home) -> None:
    await home.network.raise_access_point(*OWN)
    await home.network.close()  # and what is asked next is asked by a connection that did not raise it
    await home.network.lower_access_point()
    await _comes_to(home.access_point, None)
    assert HOME in {one.ssid for one in (await home.network.look()).wifis}


@case
async def from_the_own_access_point_into_the_home_and_back_after_a_failure(home: Home) -> None:
    """The wizard's own way: look, raise, try, raise again, join."""
    await home.network.look()
    await home.network.raise_access_point(*OWN)
    _is(await home.network.join_wifi(HOME, "fel lösenord"), Joining.WRONG_PASSWORD)
    await home.network.raise_access_point(*OWN)
    await _comes_to(home.access_point, OWN[0])
    _same(await home.kept(), 1)
    _is(await home.network.join_wifi(HOME, PASSWORD), Joining.JOINED)
    _same(await home.kept(), 1)
    await home.network.lower_access_point()
    await _comes_to(home.joined, HOME)
    await _comes_to(home.access_point, None)


@case
async def without_a_cable_that_is_said(home: Home) -> None:
    await home.plug("none")
    assert not (await home.network.look()).has_cable
    _is(await home.network.join_cable(), Joining.NO_CABLE)


@case
async def a_cable_is_used(home: Home) -> None:
    await home.plug("up")
    assert (await home.network.look()).has_cable
    _is(await home.network.join_cable(), Joining.JOINED)
    _is(await home.network.join_cable(), Joining.JOINED)


@case
async def a_cable_without_an_address_is_said(home: Home) -> None:
    await home.plug("no-address")
    outcome = await home.network.join_cable()
    assert outcome is Joining.NO_ADDRESS, outcome
    _same(await home.kept(), 0)


WITHOUT_RADIO: dict[str, Case] = {}
"""For a device that has no radio, or none that works."""


async def _nothing_is_in_the_air(home: Home) -> None:
    assert (await home.network.look()).wifis == ()
    _is(await home.network.join_wifi(HOME, PASSWORD), Joining.NOT_FOUND)
    try:
        await home.network.raise_access_point(*OWN)
    except NetworkError:
        pass
    else:
        raise AssertionError("an access point without a radio")
    await home.network.lower_access_point()


WITHOUT_RADIO["without-a-radio-nothing-is-in-the-air"] = _nothing_is_in_the_air
CABLE_CASES: Final = ("without-a-cable-that-is-said", "a-cable-is-used", "a-cable-without-an-address-is-said")
