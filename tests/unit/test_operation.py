"""Operational logs and health at the device: what the centre is told of them, and what is not said.

Mutations tried, each red here: in log_digest.py `record.getMessage()` for `record.msg` (a peer's words go out), the
bound `MAX_EVENTS` out, the clearing in `drain` out; in guard_log.py `self.link.up` out, `EVERY_S` 0; in guard_report.py
the link's figures left out; in board_sysfs.py the past flags read from bit 0.
"""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import msgspec
import pytest
from guard_harness import GATEWAY, home, key

from gateway.core.log_digest import MAX_EVENTS, LogDigest, event_of
from gateway.edge.bench_world import BenchWorld
from gateway.edge.board_sysfs import Board
from gateway.edge.certificate_der import not_after
from gateway.edge.log_systemd import JournalLines, start_logging
from gateway.ipc import frame
from gateway.protocol.envelope import verify
from gateway.protocol.message import Health, LogLines
from provisioning.authority.x509 import CertificateAuthority

PEER = "Ms. Svensson, room 4"


@pytest.fixture
def logger():
    made = logging.getLogger("tillsyn.test")
    digest = LogDigest("guard")
    made.addHandler(digest)
    yield made, digest
    made.removeHandler(digest)


def test_what_was_filled_in_stays_here_and_the_event_goes_out(logger):
    log, digest = logger
    for _ in range(3):
        log.warning("link lost: %s after %.1f s", PEER, 2.5)
    log.error("ledger: %s", PEER)
    log.info("nobody is told: %s", PEER)
    counted, left_out = digest.drain()
    assert [(each.level, each.event, each.count) for each in counted] == [
        ("warning", "link-lost-after-s", 3),
        ("error", "ledger", 1),
    ]
    assert left_out == 0
    assert "svensson" not in repr(counted).lower()
    assert digest.drain() == ([], 0)


def test_a_librarys_text_is_no_event_of_ours():
    record = logging.LogRecord("asyncio", logging.ERROR, "f", 1, f"Task exception {PEER}", (), None)
    assert event_of(record) == "library"


def test_a_flood_of_kinds_is_bounded_and_counted(logger):
    _, digest = logger
    for number in range(1000):
        digest.count("link", "warning", f"kind-{number}")
    counted, left_out = digest.drain()
    assert (len(counted), left_out) == (MAX_EVENTS, 1000 - MAX_EVENTS)


def test_the_journal_gets_fields_and_the_whole_text():
    sent = []
    lines = JournalLines("link", lambda message, **fields: sent.append((message, fields)))
    lines.handle(logging.LogRecord("tillsyn.link", logging.WARNING, "f.py", 7, "broker down: %s", (PEER,), None))
    ((message, fields),) = sent
    assert message == f"broker down: {PEER}"
    assert fields["PRIORITY"] == 4
    assert fields["TILLSYN_EVENT"] == "broker-down"
    assert (fields["TILLSYN_SERVICE"], fields["SYSLOG_IDENTIFIER"]) == ("link", "tillsyn-link")


def test_without_a_journal_standard_error_is_kept(monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root, digest = logging.getLogger(), LogDigest("guard")
    before = list(root.handlers)
    start_logging("guard", digest)
    try:
        assert root.handlers == [*before, digest]
    finally:
        root.removeHandler(digest)


def test_the_board_says_what_it_can_and_none_for_the_rest(tmp_path):
    world = BenchWorld(tmp_path / "world")
    board = Board(world.sysfs, tmp_path, tmp_path / "cmdline")
    assert (board.temperature_c(), board.throttled(), board.slot()) == (None, None, None)
    world.say_firmware(under_voltage=True)
    zone = world.sysfs / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("48850\n")
    (tmp_path / "cmdline").write_text("quiet rauc.slot=A root=/dev/x\n")
    assert (board.temperature_c(), board.throttled(), board.slot()) == (48.85, ["under-voltage"], "a")
    (next(world.sysfs.rglob("get_throttled"))).write_text("50004\n")
    assert board.throttled() == ["throttled", "under-voltage-past", "throttled-past"]
    assert board.disk_free_bytes() > 0
    assert Board(world.sysfs, tmp_path / "gone").disk_free_bytes() is None


def test_the_end_of_a_certificate_is_read_as_the_library_reads_it():
    from cryptography import x509

    authority = CertificateAuthority.make("test CA")
    for pem in (authority.pem(), authority.issue("gw-a").certificate):
        end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
        assert abs(not_after(pem) - end) < timedelta(seconds=1)


@pytest.mark.parametrize("wrong", [b"", b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_said_to_be_none(wrong):
    with pytest.raises(ValueError):
        not_after(wrong)


# In the guard


class Ears:
    """What goes out on a branch, verified."""

    def __init__(self, world) -> None:
        self.heard, before = [], world.published
        kinds = {"health": Health, "log": LogLines}

        def published(branch, payload, correlation):
            if branch in kinds and kinds[branch].KIND in _typ(payload):
                device = key("device").verifying
                self.heard.append(verify(payload, {device.kid: device}, kinds[branch]))
            before(branch, payload, correlation)

        world.published = published

    def of(self, kind):
        return [each for each in self.heard if isinstance(each, kind)]


def _typ(payload):
    from gateway.protocol.key import b64url_decode

    return json.loads(b64url_decode(payload.split(b".")[0].decode()))["typ"].removeprefix("tillsyn.").split("+")


@pytest.fixture
def world():
    with home() as made:
        yield made


@pytest.mark.slow
def test_health_is_said_every_five_minutes_with_what_link_knows(world):
    ears = Ears(world)
    world.advance(301.0)
    assert len(ears.of(Health)) == 1
    assert ears.of(Health)[0].outbox_items is None
    world.link.send(frame.LinkHealth(12, 0, 300, "tunnel"))
    world.advance(300.0)
    health = ears.of(Health)[-1]
    assert len(ears.of(Health)) == 2
    assert (health.outbox_items, health.certificate_days, health.tunnel) == (12, 300, "tunnel")
    assert health.gateway == GATEWAY
    assert health.clock.state == "attested"
    assert health.ledger_size == world.guard.chronicle.size
    assert health.disk_free_bytes > 0


def test_what_link_and_eye_counted_goes_out_under_their_names_seldom_and_not_lost(world):
    ears = Ears(world)
    world.advance(31.0)
    ears.heard.clear()
    for _ in range(40):
        world.link.send(frame.Logged("warning", "broker-down", 2))
        world.advance(0.25)
    world.advance(31.0)
    assert 1 <= len(ears.of(LogLines)) <= 3
    lines = [line for message in ears.of(LogLines) for line in message.lines if line.service == "link"]
    assert sum(line.count for line in lines if line.event == "broker-down") == 80
    ears.heard.clear()
    world.link.set_broker(False)
    world.advance(1.0)
    world.link.send(frame.Logged("error", "outbox", 1))
    world.advance(60.0)
    assert not ears.of(LogLines)
    world.link.set_broker(True)
    world.advance(31.0)
    assert ("link", "outbox") in [(line.service, line.event) for each in ears.of(LogLines) for line in each.lines]


def test_free_text_fits_into_no_field():
    for text in (PEER, "a b", "Å", "x" * 41):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(
                {"type": "Logged", "level": "warning", "event": text, "count": 1}, frame.Logged, strict=True
            )
