"""The whole return of one played home: planted words and keys are found before and nowhere after, and it is lent again.

A check was made, papers and an outbox lie where the services keep them. The device goes back by the two commands, is
erased, and is enrolled for another resident by the code that enrols any device, under the epoch that the centre gives.

Mutations, each tried and red: a tree left out of the configuration; `_overwrite` left out; the epoch of the new
installation as the old one's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_harness import AUDIENCE, GATEWAY, INSTALL_EPOCH, FakeLamp, FakeMount, World, home, key, ledger_key
from test_guard_erase import erase
from test_guard_return import give_back
from test_guard_set_up_again import act, standing

from centre.store import Enrolment, Store
from gateway.config.file import GuardConfig, load
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import TakeAgreement
from gateway.ipc import setup
from gateway.protocol.message import Accepted, AgreementPut, Role, Verdict, audience
from gateway.services import fresh
from gateway.services import guard as service
from gateway.services.erase import EraseConfig, RemovingDisk, run
from tests.marker_scan.scan import Needles

RESIDENT, CONSENT, PAPER = "r-planted-7f3a91c2", "c-planted-19d04e77", b"loan-receipt planted-55120"


def needles() -> Needles:
    """What was planted, and every private key of the device as it lies on a disk."""

    def body(pem: bytes) -> bytes:
        return pem.splitlines()[1][48:64]  # behind what all keys of a kind have in common

    ledger = ledger_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Needles({
        RESIDENT.encode(): "resident", CONSENT.encode(): "consent", PAPER: "paper",
        body(key("device").to_pem()): "device key", body(ledger): "ledger key", b"night-planted-1": "agreed line",
    })  # fmt: skip


def found_in(places: list[Path]) -> set[str]:
    known, found = needles(), set()
    for place in places:
        for path in place.rglob("*"):
            if path.is_file():
                found |= set(known.find(path.read_bytes()))
    return found


def planted(world: World, install_epoch: int) -> dict[str, object]:
    agreement = world.fresh_agreement()
    agreement["resident_ref"], agreement["install_epoch"] = RESIDENT, install_epoch
    agreement["consent"]["resident"]["ref"] = CONSENT
    agreement["lines"][0]["id"] = "night-planted-1"
    return agreement


def put(world: World, install_epoch: int) -> bytes:
    command = AgreementPut(audience(GATEWAY, install_epoch), world.jti(), planted(world, install_epoch))
    return world.say(command, world.person("pl-1", Role.PLANNER))


@pytest.fixture
def lent(tmp_path):
    """A home in use: an agreement, a check, papers, an outbox."""
    with home() as world:
        folder = world.state_dir.parent
        world.config = msgspec.structs.replace(world.config, setup_socket=str(folder / "setup.sock"))
        (folder / "guard.toml").write_bytes(b"what arms this home")
        for name in ("link/outbox.sqlite", "setup/progress.json"):
            (folder / name).parent.mkdir()
            (folder / name).write_bytes(b"\0" * 5000 + PAPER)
        (folder / "factory").mkdir()
        (folder / "factory" / "setup.json").write_bytes(b"label")
        assert world.restart()
        world.join_link()
        world.advance(5.0)
        yield world, folder


def erasing(folder: Path) -> EraseConfig:
    return EraseConfig(
        mark=str(folder / "state" / "erase-now"),
        begun=str(folder / "erasing"),
        arming=[str(folder / "guard.toml")],
        files=[str(folder / name) for name in ("device.pem", "ledger.pem", "roots.json", "trust.jws")],
        trees=[str(folder / name) for name in ("state", "link", "setup")],
    )


def test_what_was_planted_is_found_before_and_nowhere_after_and_the_device_is_lent_again(lent, tmp_path):
    world, folder = lent
    agreed = planted(world, INSTALL_EPOCH)
    assert isinstance(world.put(agreed), Accepted)
    assert world.try_open(fresh=False)
    world.advance(3.0)
    assert isinstance(world.verdict(Verdict.SEEN), Accepted)
    world.advance(10.0)
    everything = set(needles().known.values())
    assert found_in([folder]) == everything, "a scan that finds nothing proves nothing"

    give_back(world)
    world.cosign()
    act(world)
    digits = standing(world).return_code
    assert digits is not None
    old_agreement, old_erase = put(world, INSTALL_EPOCH), erase(world, digits)
    assert isinstance(world.deliver(old_erase), Accepted)
    world.cosign()
    world.advance(1.0)
    kept_open = [path.open("rb") for path in folder.rglob("*") if path.is_file() and os.access(path, os.R_OK)]
    world.stop()
    ledger_before = world.ledger_dir.exists()

    run(erasing(folder), RemovingDisk(), None)
    assert ledger_before
    assert found_in([folder]) == set()
    for file in kept_open:
        file.seek(0)
        assert not needles().find(file.read()), f"{file.name}: in the blocks of a removed file"
        file.close()
    assert (folder / "factory" / "setup.json").read_bytes() == b"label"
    assert not (folder / "erasing").exists()

    store = Store(tmp_path / "centre.sqlite")
    store.put_enrolment(
        Enrolment(GATEWAY, INSTALL_EPOCH, "0" * 64, "0" * 64, "", {}, "", "{}", "", 1.0, True, "x", None)
    )
    epoch = store.next_install_epoch(GATEWAY)
    store.close()
    assert epoch == INSTALL_EPOCH + 1
    config = enrolled_again(world, folder, epoch)
    guard = service.assemble(config, FakeMount(world.body), FakeLamp(world.body), boot="1" * 32, now=lambda: 100.0)  # type: ignore[arg-type]
    assert guard.gate.obstacle is None
    assert guard.gate.agreement is None
    for old in (old_agreement, old_erase):
        with pytest.raises(RefusedError) as refused:
            guard.gate.receive(old, now_s=100.0)
        assert refused.value.code is RefusalCode.WRONG_DEVICE
    taken = guard.gate.receive(put(world, epoch), now_s=100.0)
    assert isinstance(taken, TakeAgreement)
    assert guard.gate.identity.audience != AUDIENCE
    guard.chronicle.ledger.close()


def enrolled_again(world: World, folder: Path, epoch: int) -> GuardConfig:
    """By what stands in the guard's place on a device that belongs to nobody."""
    kept = {"state_dir", "guard_socket", "control_socket", "eye_socket", "lamp_brightness", "demand_isolation"}
    template = {name: getattr(world.config, name) for name in kept}
    template |= {"mount": {"driver": "bench", "pan_pin": 12, "lamp_pin": 18}, "world": str(folder)}
    (folder / "template.toml").write_bytes(msgspec.toml.encode(template))
    device = fresh.Fresh(
        fresh.FreshConfig(GATEWAY, str(folder / "setup.sock"), str(folder / "identity"),
                          str(folder / "template.toml"), demand_isolation=False)
    )  # fmt: skip
    keys = device._obey(setup.MakeKeys())
    assert isinstance(keys, setup.KeysMade)
    assert keys.device_jwk != key("device").verifying.jwk(), "no key of the old life"
    roots = [key("root").verifying.jwk()]
    place = setup.Install(GATEWAY, epoch, ["hv-1"], json.loads(json.dumps(roots)), world.trust_statement(1, 0))
    assert device._obey(place) == setup.Done()
    return load(folder / "identity" / "guard.toml", GuardConfig)


def test_the_keys_of_the_old_life_are_of_the_kind_that_is_looked_for():
    assert isinstance(ledger_key(), Ed25519PrivateKey)
    assert len(needles().known) == 6
