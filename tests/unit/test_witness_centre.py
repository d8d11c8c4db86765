"""The centre as witness: real ledgers on disks that are cut, copied and restored, and what the centre does about it.

Mutations that turn it red, each tried: answer before the row is kept; leave out `disable`; compare sizes only; lift the
disabling in the same installation; take a stranger's signature line for a new checkpoint; forward to a disabled home;
rule outside the transaction; send nothing back; send nothing back to a repeated one, nor to one that contradicts; say
what is wanted only of lines that agree; not at a gap; not at the first hello; count from the highest line
(`first_missing`); leave `_enter_checks` out; let the log's line take the place of a check's own report; enter also what
is no agreed check.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_support import QuickDisk, a_record
from test_centre_app import NOW_UNIX_S, World, a_world, command

from centre.intake import parse_ledger_line
from centre.missed import reconcile_once
from centre.store import Store
from centre.witness import Cosigner, Log, Ruling, Witness, format_submission, parse_submission
from gateway.ledger import Ledger, NoteError, NoteSigner, consistency_proof, read_records, sign_checkpoint
from gateway.ledger.record import RecordKind
from gateway.ledger.tree import root_of
from gateway.protocol.envelope import verify
from gateway.protocol.message import AgreementWithdraw, Challenge, ClockFact, Close, Closed, Grant, Hello, Verdict
from gateway.services.evidence import parse_wanted

pytestmark = pytest.mark.slow

LEDGER_TOPIC = "tillsyn/v1/gw-a/ledger"
WANTED_TOPIC = "tillsyn/v1/gw-a/wanted"


class Home:
    """A home's real ledger; `say` gives what has come since, as link sends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signer = NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate())
        self.said = 0

    def write(self, records: int = 1) -> bytes:
        """Append records and sign; returns the checkpoint."""
        with Ledger.open(self.path, self.signer, disk=QuickDisk()) as ledger:
            for number in range(records):
                ledger.append(a_record(attempt=number))
            return ledger.checkpoint()

    def lines(self) -> list[bytes]:
        return [stored.line for stored in read_records(self.path)]

    def leaves(self) -> list[bytes]:
        return [stored.leaf_hash for stored in read_records(self.path)]

    def say(self, records: int = 1) -> list[bytes]:
        note = self.write(records)
        fresh = self.lines()[self.said :]
        self.said += len(fresh)
        return [*fresh, note]

    def copy(self, path: Path) -> Home:
        """The card as it is now, in another machine or put away for a week."""
        other = Home(path)
        shutil.copytree(self.path, path)
        other.signer, other.said = self.signer, self.said
        return other


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "ledger")


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "witness.sqlite")
    yield store
    store.close()


def witness_of(store: Store, home: Home) -> tuple[Witness, Log]:
    return Witness(store, Cosigner("w", Ed25519PrivateKey.generate())), Log("gw-a", 1, home.signer.verifier)


def deliver(store: Store, home: Home, payloads: list[bytes], witness: Witness | None = None) -> list[Ruling]:
    log = Log("gw-a", 1, home.signer.verifier)
    rulings = []
    for payload in payloads:
        if payload.startswith(b"tillsyn/"):
            rulings.append((witness or Witness(store, None)).take(log, payload, now_unix_s=NOW_UNIX_S).ruling)
        else:
            store.put_ledger_row("gw-a", parse_ledger_line(payload))
    return rulings


def test_every_checkpoint_of_an_honest_log_is_cosigned_and_kept_before_the_answer(store: Store, home: Home):
    witness, log = witness_of(store, home)
    for _ in range(5):
        payloads = home.say(3)
        assert deliver(store, home, payloads[:-1]) == []
        result = witness.take(log, payloads[-1], now_unix_s=NOW_UNIX_S)
        assert result.ruling is Ruling.CONSISTENT
        kept = store.witnessed()["gw-a", 1]
        assert (kept["size"], kept["is_cosigned"]) == (home.said, True)
        assert kept["note"].encode() == payloads[-1] + (result.cosignature or b"")
        assert witness._cosigner is not None
        assert witness._cosigner.public.verify(kept["note"].encode()) == int(NOW_UNIX_S)
    assert store.disabled({"gw-a": 1}) == {}


def test_a_repeated_or_old_checkpoint_changes_nothing(store: Store, home: Home):
    first, second = home.say(), home.say()
    assert deliver(store, home, [*first, *second]) == [Ruling.CONSISTENT] * 2
    before = store.witnessed()
    assert deliver(store, home, [*first, *second]) == [Ruling.REPEATED] * 2
    # A stranger's line below an old checkpoint does not make a new one of it.
    stranger = "\N{EM DASH} stranger AAAAAAAA\n".encode()
    assert deliver(store, home, [first[-1] + stranger, second[-1] + stranger]) == [Ruling.REPEATED] * 2
    assert store.witnessed() == before
    assert store.disabled({"gw-a": 1}) == {}


def test_a_card_put_back_to_last_weeks_image_disables_the_home(store: Store, home: Home, tmp_path: Path):
    """Requirement F15."""
    deliver(store, home, home.say(3))
    old = home.copy(tmp_path / "old")
    deliver(store, home, home.say(4))
    # The restored device starts, writes its boot record, and signs: fewer records than were witnessed, and other ones.
    assert deliver(store, old, old.say(1)) == [Ruling.FORKED]
    assert store.disabled({"gw-a": 1})["gw-a"]["why"] == "log-forked"
    assert store.witnessed()["gw-a", 1]["size"] == 7, "what was witnessed is not taken back"


def test_a_log_signed_shorter_than_was_witnessed_disables_the_home(store: Store, home: Home):
    deliver(store, home, home.say(5))
    shorter = sign_checkpoint(home.signer, 3, root_of(home.leaves()[:3]))
    assert deliver(store, home, [shorter]) == [Ruling.SHORTER]
    assert store.disabled({"gw-a": 1})["gw-a"]["why"] == "log-shorter"


def test_a_card_in_two_devices_disables_the_home_whoever_writes_more(store: Store, home: Home, tmp_path: Path):
    """Requirement F16. The clone writes as much, less, or more than the first."""
    deliver(store, home, home.say(3))
    for name, records, expected in (("less", 1, 5), ("same", 2, 5), ("more", 4, 5)):
        clone = home.copy(tmp_path / name)
        other = Store(tmp_path / f"{name}.sqlite")
        first = home.copy(tmp_path / f"{name}-first")
        deliver(other, home, [*home.lines(), home.write(0)])
        assert deliver(other, first, first.say(2)) == [Ruling.CONSISTENT]
        assert deliver(other, clone, clone.say(records)) == [Ruling.FORKED], name
        assert other.disabled({"gw-a": 1}), name
        assert other.witnessed()["gw-a", 1]["size"] == expected
        other.close()


def test_a_missing_line_delays_the_cosignature_and_disables_nothing(store: Store, home: Home):
    deliver(store, home, home.say(3))
    lost, *rest = home.say(3)
    assert deliver(store, home, rest) == [Ruling.GAP]
    assert store.disabled({"gw-a": 1}) == {}
    assert store.witnessed()["gw-a", 1]["size"] == 3
    assert deliver(store, home, [lost, *home.say(1)]) == [Ruling.CONSISTENT]
    assert store.witnessed()["gw-a", 1]["size"] == 7


def _checks(store: Store) -> list[tuple[str, str]]:
    facts = store.occasion_facts("gw-a", 1, since_unix_s=0.0)
    return [(fact["ref"], fact["word"]) for fact in facts if fact["what"] == "check"]


def test_a_check_is_known_by_the_homes_log_once_a_checkpoint_covers_it(store: Store, home: Home):
    with Ledger.open(home.path, home.signer, disk=QuickDisk()) as ledger:
        for number, why in enumerate(["seen", "not-seen", "link-lost"], 1):
            told = {"line": "night-1", "occasion": "2026-11-23T23:30", "attempt": number, "watched_s": 2.0}
            ledger.append(a_record(RecordKind.CLOSED, check=f"c-{number}", who="op-1", why=why, **told))
        ledger.append(a_record(RecordKind.CLOSED, check="c-4", who="in-1", why="operator-closed", watched_s=9.0))
        note = ledger.checkpoint()
    closed = Closed(
        "gw-a", "c-3", "link-lost", "op-1", "night-1", "2026-11-23T23:30", 3, 2.0, 9, True, 3, verdict=Verdict.SEEN
    )
    store.put_outcome(closed, closed_jws="x", now_unix_s=NOW_UNIX_S, install_epoch=1, outcome="seen")
    deliver(store, home, home.lines())
    assert _checks(store) == [("c-3", "seen")], "not signed yet"
    assert deliver(store, home, [note]) == [Ruling.CONSISTENT]
    assert sorted(_checks(store)) == [("c-1", "seen"), ("c-2", "not_seen"), ("c-3", "seen")], "set-up's is no check"
    assert store.seen_since(0.0) == {("gw-a", 1, "night-1", "2026-11-23T23:30")}


def test_a_proof_stands_in_for_missing_lines_and_the_lines_may_come_later(store: Store, home: Home):
    witness, log = witness_of(store, home)
    deliver(store, home, home.say(3))
    lost, *rest = home.say(3)
    deliver(store, home, rest)
    note = home.write(0)
    proof = consistency_proof(home.leaves(), 3)
    forged = parse_submission(format_submission(3, (proof[0], *proof[1:-1], b"\0" * 32), note))
    assert witness.submit(log, forged, now_unix_s=NOW_UNIX_S).ruling is Ruling.BAD_PROOF
    good = parse_submission(format_submission(3, proof, note))
    assert witness.submit(log, good, now_unix_s=NOW_UNIX_S).ruling is Ruling.CONSISTENT
    assert store.witnessed()["gw-a", 1]["size"] == 6
    assert deliver(store, home, home.say(1)) == [Ruling.GAP]
    assert deliver(store, home, [lost, *home.say(1)]) == [Ruling.CONSISTENT]


def test_between_reading_what_is_known_and_keeping_the_new_nobody_else_can_write(store: Store, tmp_path: Path):
    with contextlib.closing(sqlite3.connect(tmp_path / "witness.sqlite", timeout=0)) as other:
        with store.witnessing("gw-a", 1), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")


def test_nobody_but_the_homes_ledger_key_can_move_or_break_anything(store: Store, home: Home):
    deliver(store, home, home.say(3))
    before = store.witnessed()
    stranger = NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate())
    other_log = NoteSigner("tillsyn/gw-b", home.signer.private_key)
    for signer in (stranger, other_log):
        with pytest.raises(NoteError):
            deliver(store, home, [sign_checkpoint(signer, 1, b"\0" * 32)])
    assert store.witnessed() == before
    assert store.disabled({"gw-a": 1}) == {}


def test_only_a_higher_install_epoch_lifts_a_disabling_and_the_old_evidence_stays(
    store: Store, home: Home, tmp_path: Path
):
    store.put_home("gw-a", install_epoch=1, device_kid="k")
    deliver(store, home, home.say(5))
    deliver(store, home, [sign_checkpoint(home.signer, 5, b"\0" * 32)])
    store.close()
    store = Store(tmp_path / "witness.sqlite")
    store.put_home("gw-a", install_epoch=1, device_kid="another")
    assert store.disabled({"gw-a": 1}), "neither a restart nor another device key"
    assert store.disabled({"gw-a": 2}) == {}
    store.put_home("gw-a", install_epoch=2, device_kid="k")
    anew = Home(tmp_path / "anew")
    witness = Witness(store, None)
    *lines, note = anew.say(2)
    assert all(store.put_ledger_row("gw-a", parse_ledger_line(line)) for line in lines), "a new ledger begins at 0"
    log = Log("gw-a", 2, anew.signer.verifier)
    assert witness.take(log, note, now_unix_s=NOW_UNIX_S).ruling is Ruling.CONSISTENT
    assert len(store.ledger_rows("gw-a/1", after=-1)) == 5
    assert store.witnessed()["gw-a", 1]["size"] == 5
    assert store.disabled({"gw-a": 1}), "put back, it is disabled again"


# The whole way: broker, intake, API


def play(folder: Path, home: Home, act: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with a_world(folder) as world:
            known = world.state.homes["gw-a"]
            world.state.homes["gw-a"] = dataclasses.replace(known, ledger_key=home.signer.verifier)  # type: ignore[index]
            await act(world)

    asyncio.run(run())


def hear(world: World, payloads: list[bytes]) -> None:
    for payload in payloads:
        world.broker.deliver(LEDGER_TOPIC, payload)


def test_a_disabled_home_gets_no_grant_and_no_command_but_may_be_closed(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        hear(world, home.say(3))
        await world.settle()
        facts = (await world.client.get("/api/v1/homes")).json()[0]
        assert (facts["disabled"], facts["witnessed"]["size"]) == (None, 3)
        assert (await world.client.get("/api/v1/homes/gw-a/checkpoint")).text == home.write(0).decode()
        hear(world, [sign_checkpoint(home.signer, 3, b"\0" * 32)])
        await world.settle()
        facts = (await world.client.get("/api/v1/homes")).json()[0]
        assert facts["disabled"] == {"why": "log-forked", "since_unix_s": NOW_UNIX_S}
        assert world.state.store.alarm_counts() == {("gw-a", "log-forked"): 1}

        refused = await world.send(command(key, grant, Challenge("gw-a/1", "j-1")))
        assert (refused.status_code, refused.json()["error"]) == (409, "home-disabled")
        assert "installed anew" in refused.json()["message"]
        assert {one.topic for one in world.broker.published} == {WANTED_TOPIC}, "nothing but what is wanted"
        world.broker.on_publish = world.home.answer
        assert (await world.send(command(key, grant, Close("gw-a/1", "j-2", "c-1")))).status_code == 200
        other = world.homes["gw-b"]
        world.broker.on_publish = other.answer
        assert (await world.send(command(key, grant, Challenge("gw-b/1", "j-3")), "gw-b")).status_code == 200
        _, anew = await world.granted()
        issuer = world.state.issuing_key.verifying
        assert verify(anew.encode(), {issuer.kid: issuer}, Grant).homes == ["gw-b"]
        # A withdrawal goes out as well. The new grant names gw-b only, so what a home says to it is not waited for.
        world.client.headers["Authorization"] = "Bearer token-of-op-2"
        planner, of_planner = await world.granted()
        world.broker.on_publish = lambda _published: None
        before = len(world.broker.published)
        withdrawal = command(planner, of_planner, AgreementWithdraw("gw-a/1", "j-4"))
        asking = asyncio.create_task(world.send(withdrawal))
        while len(world.broker.published) == before:
            await asyncio.sleep(0)
        asking.cancel()

    play(tmp_path, home, act)


def test_a_false_signature_and_a_proof_on_the_ledger_branch_are_told_apart(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        lines = home.say(4)
        hear(world, [format_submission(0, (), lines[-1])])
        hear(world, [lines[-1][:-5] + b"AAA=\n", b"old x\n\n" + lines[-1], b"0" * 8 + lines[0][8:]])
        await world.settle()
        assert world.state.store.witnessed()["gw-a", 1]["size"] == 4
        assert world.state.store.alarm_counts() == {("gw-a", "bad-signature"): 2, ("gw-a", "malformed"): 1}
        assert world.broker.acked == 4

    play(tmp_path, home, act)


def test_what_was_cosigned_goes_back_to_the_home_and_again_when_it_asks_again(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        cosigner = Cosigner("tillsyn/centre", Ed25519PrivateKey.generate())
        object.__setattr__(world.state, "cosigner", cosigner)

        def cosigned() -> list[bytes]:
            return [one.payload for one in world.broker.published if one.topic == "tillsyn/v1/gw-a/witness"]

        note = home.say(3)[-1]
        hear(world, [*home.lines(), note])
        await world.settle()
        (said,) = cosigned()
        assert said[: len(note)] == note
        assert cosigner.public.verify(said) == int(NOW_UNIX_S)
        hear(world, [note])
        await world.settle()
        assert cosigned() == [said] * 2
        # A log that contradicts what is known hears what is known: a copied card learns it from nobody else.
        hear(world, [sign_checkpoint(home.signer, 3, b"\0" * 32)])
        await world.settle()
        assert cosigned() == [said] * 3

    play(tmp_path, home, act)


def test_after_each_record_the_home_is_told_which_is_wanted_next(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        def wanted() -> list[int]:
            return [parse_wanted(one.payload) for one in world.broker.published if one.topic == WANTED_TOPIC]

        home.say(1)
        forked = home.copy(tmp_path / "forked")
        forked.say(1)
        home.say(4)
        lines = home.lines()
        hear(world, [lines[0], lines[0], lines[1], lines[4], lines[3]])
        await world.settle()
        assert wanted() == [1, 1, 2, 2, 2]
        # One that contradicts what is here is refused and alarmed; the home is told all the same, or it never stops.
        hear(world, [forked.lines()[1]])
        await world.settle()
        assert wanted()[5:] == [2]
        assert world.state.store.alarm_counts() == {("gw-a", "integrity-alarm"): 1}
        # The others follow it over the hole.
        hear(world, [lines[2]])
        await world.settle()
        assert wanted()[6:] == [5]

    play(tmp_path, home, act)


def test_a_checkpoint_over_a_gap_asks_for_what_is_missing(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        hear(world, home.say(2))
        await world.settle()
        note = home.say(3)[-1]
        before = len(world.broker.published)
        hear(world, [home.lines()[4], note])
        await world.settle()
        said = [parse_wanted(one.payload) for one in world.broker.published[before:] if one.topic == WANTED_TOPIC]
        assert said == [2, 2]
        hear(world, [*home.lines()[2:4], note])
        await world.settle()
        assert world.state.store.witnessed()["gw-a", 1]["size"] == 5

    play(tmp_path, home, act)


def test_the_day_finds_a_home_that_lost_lines_or_went_silent_once(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        _lost, *rest = home.say(3)
        hear(world, rest)
        await world.settle()
        await reconcile_once(world.state)
        await reconcile_once(world.state)
        # Neither home was ever heard of: on the first day that is no alarm.
        assert world.state.store.alarm_counts() == {("gw-a", "ledger-gap"): 1}
        tomorrow = dataclasses.replace(world.state, clock=lambda: NOW_UNIX_S + 86_400)
        await reconcile_once(tomorrow)
        counts = world.state.store.alarm_counts()
        assert counts == {("gw-a", "ledger-gap"): 2, ("gw-a", "home-silent"): 1, ("gw-b", "home-silent"): 1}

    play(tmp_path, home, act)


def test_a_log_that_nobody_signs_any_more_is_found(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        hear(world, home.say(3))
        with Ledger.open(home.path, home.signer, disk=QuickDisk()) as ledger:
            ledger.append(a_record(RecordKind.CLOCK, time_lo=NOW_UNIX_S - 27 * 3600))
        hear(world, home.lines()[3:])
        await world.settle()
        await reconcile_once(world.state)
        assert world.state.store.alarm_counts() == {("gw-a", "checkpoint-stale"): 1}

    play(tmp_path, home, act)


def test_a_centre_that_begins_from_a_backup_says_at_the_first_hello_what_it_lacks(tmp_path: Path, home: Home):
    async def act(world: World) -> None:
        home.say(5)
        lines = home.lines()
        for line in lines[:2]:  # what the backup had
            assert world.state.store.put_ledger_row("gw-a", parse_ledger_line(line))
        for number in range(2):
            clock = ClockFact("attested", NOW_UNIX_S - 1 + number, NOW_UNIX_S + 1 + number)
            world.home.say("health", Hello("gw-a", 1, "b-1", "0.1", clock))
            await world.settle()
        wanted = [parse_wanted(one.payload) for one in world.broker.published if one.topic == WANTED_TOPIC]
        assert wanted == [2], "once: after that each record says it"
        hear(world, lines[2:])
        await world.settle()
        assert world.state.store.ledger_lines("gw-a") == lines, "and it has all of them again"

    play(tmp_path, home, act)
