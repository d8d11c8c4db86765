"""Orders for the tunnel on the whole real guard: who may give one, what it leaves, and who hears of it.

Mutations that turn these red, each tried: TunnelPut in ROLE_FOR for operators too; `<` → `<=` at the version in force;
`store_order` after the hand-over; the running check not asked; `keep_offering` not started.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from guard_harness import AUDIENCE, World, home

from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.ledger import read_records
from gateway.protocol.message import Accepted, Refused, Role, TunnelPut, TunnelSettings
from gateway.protocol.tunnel_key import new_private_key, public_key

KEY = public_key(new_private_key())
HOME_KEY = public_key(new_private_key())


def settings(version: int) -> TunnelSettings:
    return TunnelSettings(version, "10.90.128.9", ["10.90.0.1"], KEY, "centre.example", 51820, 1200)


class TunnelService:
    """Stands where `tillsyn-tunnel` listens; notes orders and what is on the guard's disk when they come."""

    def __init__(self, world: World, path: Path) -> None:
        self.world, self.path = world, path
        self.orders: list[TunnelSettings] = []
        self.stored: list[bool] = []
        self.sock: socket.socket | None = None

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.sock.bind(str(self.path))
        self.sock.listen(4)
        self.world.loop.add_reader(self.sock, self._take)

    def _take(self) -> None:
        assert self.sock is not None
        sock, _ = self.sock.accept()
        self.world.loop.create_task(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        channel: Channel[frame.ToTunnel] = Channel(sock, frame.ToTunnel)
        with contextlib.suppress(ChannelLostError):
            got, _ = await channel.receive()
            order = msgspec.json.decode(got.settings, type=TunnelSettings)
            self.orders.append(order)
            self.stored.append((self.world.state_dir / "tunnel-order").exists())
            channel.send(frame.TunnelTaken(order.version, HOME_KEY))
            await channel.receive()
        channel.close()

    def close(self) -> None:
        if self.sock is not None:
            self.world.loop.remove_reader(self.sock)
            self.sock.close()


@pytest.fixture
def world() -> Iterator[World]:
    with home() as made:
        yield made


@pytest.fixture
def service(world: World) -> Iterator[TunnelService]:
    path = world.state_dir.parent / "tunnel.sock"
    world.config = msgspec.structs.replace(world.config, tunnel_socket=str(path))
    assert world.restart()
    world.advance(5.0)
    made = TunnelService(world, path)
    yield made
    made.close()


def records(world: World) -> list[Any]:
    return [stored.body for stored in read_records(world.ledger_dir) if stored.body is not None]


def put(world: World, version: int, role: Role = Role.STEWARD, **changes: Any) -> Any:
    person = world.person("st-1", role)
    return world.deliver(world.say(TunnelPut(AUDIENCE, world.jti(), settings(version), **changes), person), wait_s=0.3)


def test_a_stewards_order_is_recorded_before_it_is_handed_over_and_answered_with_the_public_key(
    world: World, service: TunnelService
) -> None:
    service.open()
    answer = put(world, 2, renew_key=True)
    assert isinstance(answer, Accepted)
    assert (answer.version, answer.tunnel_key) == (2, HOME_KEY)
    assert service.orders == [settings(2)]
    assert service.stored == [True]
    (record,) = (record for record in records(world) if record.kind == "setup")
    assert (record.kind, record.why, record.version, record.who) == ("setup", "tunnel", 2, "st-1")


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PLANNER, Role.INSTALLER, Role.RELEASE])
def test_nobody_else_may_move_the_tunnel(world: World, service: TunnelService, role: Role) -> None:
    service.open()
    answer = put(world, 2, role)
    assert isinstance(answer, Refused)
    assert answer.code == "wrong-role"
    assert service.orders == []


def test_an_older_order_and_another_of_the_same_version_are_refused_also_after_a_power_cut(
    world: World, service: TunnelService
) -> None:
    service.open()
    assert isinstance(put(world, 3), Accepted)
    for _ in range(2):
        for stale in (put(world, 2), put(world, 3, renew_key=True)):
            assert isinstance(stale, Refused)
            assert stale.code == "stale-version"
        world.power_cut()
        assert world.boot()
        world.join_link()
        world.advance(5.0)
    # The same order again is no new one: it is asked about, and not recorded twice.
    again = put(world, 3)
    assert isinstance(again, Accepted)
    assert again.tunnel_key == HOME_KEY
    assert sum(record.kind == "setup" for record in records(world)) == 1


def test_an_order_that_nobody_took_is_given_again_at_the_next_start(world: World, service: TunnelService) -> None:
    answer = put(world, 2)
    assert isinstance(answer, Accepted)
    assert answer.tunnel_key is None
    assert world.restart()
    world.join_link()
    service.open()
    world.advance(31.0)
    assert service.orders == [settings(2)]


def test_in_the_middle_of_a_check_the_tunnel_stays_as_it_is(world: World, service: TunnelService) -> None:
    service.open()
    challenged = world.challenge()
    world.open(world.open_command(challenged, world.due_now(challenged)))
    answer = put(world, 2)
    assert isinstance(answer, Refused)
    assert answer.code == "busy"
    assert service.orders == []


def test_a_home_without_a_tunnel_refuses(world: World) -> None:
    answer = put(world, 2)
    assert isinstance(answer, Refused)
    assert answer.code == "wrong-device"
