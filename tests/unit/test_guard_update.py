"""Offers and upkeep on the whole real guard: whose offer is taken, what it leaves, and what is allowed when.

Mutations that turn these red, each tried:
  gate: offers verified under `trust.issuers`                 -> only the release role offers
  guard_update.take: without `records.append`                 -> an offer is recorded
  guard_update.look: `install` without `_may`                 -> nothing is allowed near an occasion
  guard_update.look: `eye_well=True`                          -> the eye is well only after its self-test
  guard_update._is_eye_well: only `ready_s >= _tested_s`      -> an eye is well between two good tests
  guard_update._is_eye_well: leave out TEST_LIMIT_S           -> an eye that is not ready in time
  guard_update._report: without `records.append`              -> what upkeep reports is recorded and signed
  guard_update._tell_stale: never                             -> fourteen days without a word
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from guard_harness import Peer, World, home, key
from update_support import offer as offer_of

from gateway.ipc import frame
from gateway.ledger import read_records
from gateway.protocol.envelope import sign, verify
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Accepted, Refused, TrustPut, UpdateReport

RELEASE = SigningKey.generate()


class Upkeep(Peer):
    """Stands where `tillsyn-upkeep` listens, and says what it is once the guard has come."""

    def __init__(self, world: World) -> None:
        path = Path(world.config.upkeep_socket)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        for _ in range(40):
            world.advance(0.25)
            with contextlib.suppress(BlockingIOError):
                sock, _address = listener.accept()
                break
        listener.close()
        super().__init__(world, sock, "upkeep")
        self.may: frame.UpkeepMay | None = None
        self.orders: list[frame.UpdateOrdered] = []
        self.send(frame.UpkeepIs("tillsyn-qemu", "0.1.0", "0.0.0", 0))
        world.advance(1.5)

    def heard(self, word: Any, fds: list[int]) -> None:
        if isinstance(word, frame.UpkeepMay):
            self.may = word
        elif isinstance(word, frame.UpdateOrdered):
            self.orders.append(word)

    def ended(self) -> None:
        pass


@pytest.fixture
def world() -> Iterator[World]:
    with home() as made:
        made.kill()
        made.config = msgspec.structs.replace(made.config, upkeep_socket=str(made.directory / "upkeep.sock"))
        jwk = key("root").verifying.jwk()
        put = TrustPut(1, 0, [jwk], [key("issuer").verifying.jwk()], [RELEASE.verifying.jwk()])
        (made.directory / "trust.jws").write_bytes(sign(put, key("root")))
        made.boot()
        made.join_link()
        made.advance(1.5)
        yield made


@pytest.fixture
def upkeep(world: World) -> Upkeep:
    return Upkeep(world)


def offer(world: World, number: int = 1, *, by: SigningKey = RELEASE, **changes: Any) -> bytes:
    now = world.true_unix_s
    times = {"stated": now - 60, "not_before": now - 60, "deadline": now + 7e5, "expires": now + 1e6}
    return sign(offer_of(statement=number, **(times | changes)), by)


def updates(world: World) -> list[tuple[str | None, int | None]]:
    bodies = [stored.body for stored in read_records(world.ledger_dir)]
    return [(body.why, body.version) for body in bodies if body is not None and body.kind == "update"]


def reports(world: World) -> list[UpdateReport]:
    return [
        verify(payload, {key("device").verifying.kid: key("device").verifying}, UpdateReport)
        for payload in world.update_reports
    ]


def test_an_offer_is_recorded_handed_to_upkeep_and_answered(world: World, upkeep: Upkeep) -> None:
    reply = world.deliver(offer(world))
    assert isinstance(reply, Accepted)
    assert (reply.re, reply.version) == ("offer-1", 1)
    assert updates(world) == [("offer", 1)]
    assert [order.is_newer for order in upkeep.orders] == [True]


@pytest.mark.parametrize("who", ["issuer", "root", "device", "stranger"])
def test_only_the_release_role_offers(world: World, upkeep: Upkeep, who: str) -> None:
    reply = world.deliver(offer(world, by=key(who)))
    assert isinstance(reply, Refused)
    assert reply.code == "unknown-key"
    assert upkeep.orders == []
    assert updates(world) == []


def test_an_older_statement_is_refused_also_after_a_power_cut_and_the_same_one_is_idempotent(
    world: World, upkeep: Upkeep
) -> None:
    first, second = offer(world, 1), offer(world, 2)
    assert isinstance(world.deliver(second), Accepted)
    assert isinstance(world.deliver(second), Accepted)
    assert updates(world) == [("offer", 2)]
    world.power_cut()
    world.boot()
    world.join_link()
    again = Upkeep(world)
    assert [msgspec.json.decode(order.offer)["statement"] for order in again.orders] == [2]
    reply = world.deliver(first)
    assert isinstance(reply, Refused)
    assert reply.code == "stale-version"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"compatible": "tillsyn-rpi5"}, "wrong-device"), ({"version": "0.0.9"}, "stale-version"),
     ({"ring": "lab"}, "wrong-device")],
)  # fmt: skip
def test_what_is_not_for_this_device_is_refused(world: World, upkeep: Upkeep, change: Any, code: str) -> None:
    reply = world.deliver(offer(world, **change))
    assert isinstance(reply, Refused)
    assert (reply.code, reply.re) == (code, "offer-1")


def test_without_upkeep_an_offer_waits_at_the_centre(world: World) -> None:
    reply = world.deliver(offer(world))
    assert isinstance(reply, Refused)
    assert reply.code == "busy"


def test_nothing_is_allowed_near_an_occasion_or_in_a_check(world: World, upkeep: Upkeep) -> None:
    world.deliver(offer(world))
    world.advance(1.5)
    assert upkeep.may is not None
    near = (upkeep.may.install, upkeep.may.restart)
    assert near == (False, False)  # the harness agrees a check that is due now
    assert world.watch()
    world.advance(1.5)
    assert (upkeep.may.install, upkeep.may.restart) == (False, False)
    world.verdict("seen")
    world.sleep_long(2 * 3600.0)
    world.ask_again()
    world.advance(5.0)
    assert (upkeep.may.install, upkeep.may.restart) == (True, True)


def test_what_upkeep_reports_is_recorded_and_signed(world: World, upkeep: Upkeep) -> None:
    upkeep.send(frame.UpdateSaid(1, "0.2.0", "fell-back", "no-broker", None, "ab" * 32))
    upkeep.send(frame.UpdateSaid(1, "0.2.0", "downloading", None, 30, "ab" * 32))
    upkeep.send(frame.UpdateSaid(1, "0.2.0", "celebrating"))
    world.advance(0.5)
    assert updates(world) == [("fell-back-no-broker", 1)]
    assert [(one.phase, one.why, one.percent, one.running) for one in reports(world)] == [
        ("fell-back", "no-broker", None, "0.1.0"), ("downloading", None, 30, "0.1.0"),
    ]  # fmt: skip


def test_the_eye_is_well_only_after_its_self_test_and_no_camera_opens_for_it(world: World, upkeep: Upkeep) -> None:
    assert upkeep.may is not None
    assert not upkeep.may.eye_well
    upkeep.send(frame.TryEye())
    world.advance(3.0)
    assert upkeep.may.eye_well
    assert not world.sensor_on


def test_an_eye_is_well_also_while_the_next_test_is_under_way(world: World, upkeep: Upkeep) -> None:
    """A gate that saw it unwell for the seconds in which an eye's process starts would never have ten good minutes."""
    assert upkeep.may is not None
    upkeep.send(frame.TryEye())
    world.advance(3.0)
    assert upkeep.may.eye_well
    world.eye_mode = "stuck"  # so that the next one is under way for as long as we look
    world.advance(60.0)
    upkeep.send(frame.TryEye())
    world.advance(3.0)
    assert upkeep.may.eye_well
    world.advance(45.0)
    assert not upkeep.may.eye_well


def test_fourteen_days_without_a_word_are_told_once_a_day(world: World, upkeep: Upkeep) -> None:
    world.deliver(offer(world))
    world.sleep_long(14 * 86_400.0 + 3600.0)
    world.ask_again()
    world.advance(5.0)
    told = [one for one in reports(world) if one.phase == "stale"]
    assert len(told) == 1
    assert ("stale", 1) in updates(world)
