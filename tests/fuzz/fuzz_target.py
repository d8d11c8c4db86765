"""The targets: one function each from an input's bytes to calls of the product, with what must hold of the answers.

An oracle here is a promise that the code makes somewhere in words: what is not signed is not accepted, a refusal
changes nothing, what was read can be written and read again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import math
import os
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import fuzz_message
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz_limit import Doors, demand
from fuzz_message import EDITS, NONCE, NONCE_BYTES, signed_parts, untrusted_of
from fuzz_mutation import changed_bytes, changed_json, changed_msgpack
from ledger_support import a_record
from picture_support import A_SIGNAL
from protocol_support import (
    AGREEMENT,
    AUDIENCE,
    BOOT_S,
    GATEWAY,
    GROUPS,
    INSTALL_EPOCH,
    OFFER,
    Forge,
    a_clock,
    a_trust,
    changed,
    depth_of,
    facts_of,
    key,
    load_vectors,
    nonces_of,
)

from centre import intake
from gateway.agreement import (
    Agreement,
    Attempt,
    LocalState,
    Occasion,
    decide,
    due,
    encode_agreement,
    next_step,
    occasion_at,
    occasions_between,
    parse_agreement,
    recurrence,
)
from gateway.check import Facts
from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import Gate, Identity, OpenCheck
from gateway.ipc import channel, frame, media
from gateway.ledger import (
    NoteError,
    NoteSigner,
    RecordKind,
    VerifierKey,
    parse_checkpoint,
    parse_line,
    parse_note,
    sign_checkpoint,
    verify_checkpoint,
    verify_note,
)
from gateway.ledger.record import FIRST_PREV, new_line
from gateway.protocol import sdp, strict_json
from gateway.protocol.envelope import TrustStore, make_trust, split, to_message, verify, verify_command
from gateway.protocol.message import KINDS, ROLE_FOR

MAX_INPUT_BYTES: Final = 20_000
"""A little more than the envelope and the agreement take."""
COUNTING_LIMIT_S: Final = 0.5
"""For the first look at an agreement that somebody signed: twelve rules with COUNT are then counted over ten years.
Measured at worst, November 2026: 0.16 s, 13 ms a rule. Every later look has the limit of all other calls.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """`run` raises whatever the product raised without having promised it, or BrokenPromiseError."""

    name: str
    run: Callable[[bytes, Doors], None]
    seeds: Callable[[], list[bytes]]
    change: Callable[[bytes, Random], bytes | None]
    max_bytes: int = MAX_INPUT_BYTES


def changed_input(target: Target, data: bytes, random: Random) -> bytes:
    """One changed input: by its form if it has one, else by its bytes."""
    made = target.change(data, random) if random.random() < 0.7 else None
    return (changed_bytes(data, random) if made is None else made)[: target.max_bytes]


# envelope


def _envelope(data: bytes, doors: Doors) -> None:
    untrusted, kind = untrusted_of(data)
    for part in untrusted.split(b"~", 3)[:3]:
        doors.knock("split", lambda _, part=part: split(part), RefusedError)
    keys = {key(name).verifying.kid: key(name).verifying for name in ("root", "issuer", "operator")}
    trust = _trusted()
    one = doors.knock("verify", lambda _: verify(untrusted, keys, KINDS[kind]), RefusedError)
    command = doors.knock(
        "verify_command",
        lambda _: verify_command(untrusted, trust, audience=AUDIENCE, gateway=GATEWAY, groups=GROUPS),
        RefusedError,
    )
    put = doors.knock("make_trust", lambda _: make_trust(untrusted, trust.roots), RefusedError)
    if command.result is not None:
        verified = command.result
        demand(verified.command.aud == AUDIENCE, "a command for somebody else was accepted")
        demand(verified.role in ROLE_FOR[type(verified.command)], "a role that may not")
        demand(verified.kid == key("operator").verifying.kid, "a key that was not granted")
    if data[:1] and data[0] & 3 == EDITS and (one.accepted or command.accepted or put.accepted):
        demand(signed_parts(untrusted) == signed_parts(fuzz_message.good(kind)), "changed after signing, and accepted")


# commands


def _commands(data: bytes, doors: Doors) -> None:
    loaded = doors.knock("strict_json.loads", lambda _: strict_json.loads(data), RefusedError)
    if not loaded.accepted:
        return
    value = loaded.result
    # Another parser must read the same, or a peer acts on other facts than we do.
    demand(_same(msgspec.json.decode(data), value), "another parser reads another value")
    json.loads(data, object_pairs_hook=_each_name_once)
    demand(depth_of(value) <= strict_json.MAX_DEPTH and len(data) <= strict_json.MAX_BYTES, "too deep or too long")
    again = doors.knock("strict_json.dumps", lambda _: strict_json.dumps(value)).result
    assert again is not None
    demand(_same(strict_json.loads(again, max_bytes=8 * len(data) + 64), value), "written and read again it differs")
    for kind in KINDS.values():
        made = doors.knock("to_message", lambda _, kind=kind: to_message(value, kind), RefusedError)
        if made.accepted:
            written = strict_json.dumps(msgspec.to_builtins(made.result))
            demand(
                to_message(strict_json.loads(written, max_bytes=10**6), kind) == made.result,
                "a message that was read is another when it was written",
            )


def _each_name_once(pairs: list[tuple[str, Any]]) -> None:
    demand(len(dict(pairs)) == len(pairs), "two members of one name were accepted")


def _same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: 1 is not 1.0 and not true."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
        case _:
            return type(one) is type(other) and one == other


def _json_seeds() -> list[bytes]:
    payloads = [fuzz_message._filled(fuzz_message.payload_of(kind)) for kind in KINDS]
    return payloads + [Forge().raw(vector["input"]) for vector in load_vectors().values() if vector["target"] == "json"]


# agreement and recurrence


def _agreement(data: bytes, doors: Doors) -> None:
    of_bytes = doors.knock("parse_agreement(bytes)", lambda _: parse_agreement(data), RefusedError)
    value = None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
    of_dict = None
    if isinstance(value, dict):
        of_dict = doors.knock("parse_agreement(dict)", lambda _: parse_agreement(value), RefusedError)
        demand(not of_bytes.accepted or of_dict.result == of_bytes.result, "bytes and object are read differently")
    agreement = of_bytes.result or (of_dict.result if of_dict is not None else None)
    if agreement is not None:
        written = doors.knock("encode_agreement", lambda _: encode_agreement(agreement)).result
        assert written is not None
        if len(written) <= 16 * 1024:
            demand(parse_agreement(written) == agreement, "an agreement that was read is another when it was written")
        _evaluate(agreement, Random(zlib.crc32(data)), doors)


def _evaluate(agreement: Agreement, random: Random, doors: Doors) -> None:
    """Ask at a few instants, odd ones too, everything that the guard asks."""
    first_s = datetime.combine(agreement.valid.first, datetime.min.time(), UTC).timestamp()
    days = (agreement.valid.last - agreement.valid.first).days
    moment_s = first_s + random.randrange(days + 1) * 86400 + random.randrange(86400)
    around = datetime.fromtimestamp(moment_s, UTC)
    occasions = doors.knock(
        "occasions_between",
        lambda _: occasions_between(agreement, around - timedelta(days=1), around + timedelta(days=2)),
        # Not each time: most inputs are to be tried, not to be counted.
        given=_forget if random.random() < 0.5 else lambda: None,
        limit_s=COUNTING_LIMIT_S,
    ).result
    assert occasions is not None
    most = random.choice((1, 1, 2, 4))
    history = [_attempt(random, occasion, n) for occasion in occasions[:3] for n in range(random.randrange(most))]
    local = LocalState(random.random() < 0.2, random.choice((None, None, None, moment_s, math.inf, math.nan)))
    moments = [moment_s, *(float(occasion.start_unix_s) for occasion in occasions[:2])]
    intervals = [Interval(at, at + random.choice((0.0, 2.0, 2.0, 7200.0))) for at in moments]
    intervals.append(random.choice(_ODD_INTERVALS))
    for interval in intervals:
        doors.knock("due", lambda _, at=interval: due(agreement, at, history, local))
        line_id = random.choice(agreement.lines).id
        doors.knock("occasion_at", lambda _, at=interval, name=line_id: occasion_at(agreement, name, at))
        for occasion in [*occasions[:2], random.choice(_ODD_OCCASIONS)]:
            _decide(agreement, occasion, interval, history, local, doors)
    for occasion in occasions[:2]:
        doors.knock("next_step", lambda _, each=occasion: next_step(agreement, each, history))


def _decide(
    agreement: Agreement, occasion: Occasion, at: Interval, history: list[Attempt], local: LocalState, doors: Doors
) -> None:
    spent = sum((each.line_id, each.occasion_id) == (occasion.line_id, occasion.occasion_id) for each in history)
    refused = LocalState(withdrawn=True, paused_until_unix_s=None), LocalState(False, math.inf)
    endless = Interval(at.lo_unix_s, math.inf)
    # The question itself, and then what must never be permitted, however that was answered.
    for may_open, interval, state, forbidden in (
        (True, at, local, local.withdrawn),
        (False, at, local, True),
        (True, endless, local, True),
        *((True, at, state, True) for state in refused),
    ):
        decided = doors.knock(
            "decide",
            lambda _, may_open=may_open, interval=interval, state=state: decide(
                agreement,
                line_id=occasion.line_id,
                occasion_id=occasion.occasion_id,
                attempt=1 + spent,
                interval=interval,
                clock_may_open=may_open,
                history=history,
                local=state,
            ),
            RefusedError,
        ).result
        if decided is not None:
            inside = decided.start_unix_s <= at.lo_unix_s <= at.hi_unix_s <= decided.recheck_end_unix_s
            demand(inside and not forbidden, "permitted, and yet it may not be")


def _forget() -> None:
    """What was counted once is remembered; here it is forgotten, so that the dear first time is measured."""
    recurrence._last_date.cache_clear()


def _attempt(random: Random, occasion: Occasion, number: int) -> Attempt:
    opened_s = occasion.start_unix_s + 60.0 * number
    closed_s = random.choice((opened_s + 30.0, opened_s + 30.0, None, math.nan, math.inf))
    outcome: Any = random.choice(("seen", "not_seen", "unsure", "broken", "open"))
    return Attempt(occasion.line_id, occasion.occasion_id, number + 1, opened_s, closed_s, outcome)


_ODD_INTERVALS: Final = (
    Interval(0.0, math.inf), Interval(math.nan, math.nan), Interval(0.0, math.nan), Interval(-1.0, 1.0),
    Interval(5.0, 4.0), Interval(math.inf, math.inf), Interval(-math.inf, math.inf), Interval(4.1e9, 4.2e9),
    Interval(1e300, 1e300), Interval(4133980799.0, 4133980800.0), Interval(0.0, 0.0),
)  # fmt: skip
_ODD_OCCASIONS: Final = tuple(
    Occasion("night-1", text, 0, 0, 0, 0)
    for text in ("0001-01-01T23:30", "9999-12-31T23:30", "2026-02-30T23:30", "", "2026-11-23T23:30", "2026-11-23T24:00")
)


def _agreement_seeds() -> list[bytes]:
    rules = [
        "FREQ=DAILY", "FREQ=DAILY;COUNT=3660", "FREQ=DAILY;INTERVAL=7;BYDAY=TU", "FREQ=WEEKLY;BYDAY=MO,FR",
        "FREQ=MONTHLY;BYDAY=-1SU", "FREQ=MONTHLY;BYMONTHDAY=31", "FREQ=WEEKLY;INTERVAL=2;UNTIL=20270101",
    ]  # fmt: skip
    line = AGREEMENT["lines"][0]
    ten_years = {"from": "2026-03-01", "until": "2036-02-29"}
    pauses = [{"from": f"2027-03-{day:02}T02:30", "until": f"2027-03-{day + 1:02}T02:30"} for day in range(1, 29)]
    made: list[dict[str, Any]] = [AGREEMENT]
    made += [changed(AGREEMENT, {"lines/0/rrule": rule, "valid": ten_years}) for rule in rules]
    made += [
        changed(AGREEMENT, {"timezone": zone, "lines/0/start": start})
        for zone in (
            "UTC",
            "Pacific/Apia",
            "Antarctica/Troll",
            "America/Argentina/Buenos_Aires",
            "Asia/Gaza",
            "America/Argentina",
            "Europe/A/B",
        )
        for start in ("00:00", "02:30")
    ]
    # The dearest that can be agreed: each rule is counted over ten years, and never comes to its count.
    dearest = [
        line | {"id": f"l-{n}", "rrule": f"FREQ=DAILY;INTERVAL=7;BYDAY=TU,TU,TU,TU,TU,TU,TU,TU;COUNT={3660 - n}"}
        for n in range(12)
    ]
    made.append(AGREEMENT | {"lines": dearest, "valid": ten_years, "pauses": pauses * 2})
    longest = ",".join(["-5SU"] * 25)
    slow = [line | {"id": f"l-{n}", "rrule": f"FREQ=MONTHLY;BYDAY={longest};COUNT={3660 - n}"} for n in range(12)]
    # Several, because whether the counting is timed hangs on the bytes.
    made += [AGREEMENT | {"lines": slow, "valid": ten_years, "version": version} for version in range(1, 4)]
    exceptions = [(date(2026, 11, 1) + timedelta(days=n)).isoformat() for n in range(366)]
    made.append(changed(AGREEMENT, {"lines/0/exceptions": exceptions, "pauses": pauses}))
    made.append(changed(AGREEMENT, {"consent/cohabitant": {"given": None}, "consent/resident/withdrawn": "2026-12-01"}))
    vectors = [vector for vector in load_vectors().values() if vector["target"] == "agreement"]
    made += [changed(AGREEMENT, vector["set"]) for vector in vectors if "set" in vector]
    raw = [Forge().raw(vector["input"]) for vector in vectors if "input" in vector]
    return [json.dumps(each, separators=(",", ":")).encode() for each in made] + raw


def _recurrence(data: bytes, doors: Doors) -> None:
    rule = data.decode("utf-8", errors="replace")
    parsed = doors.knock("parse_recurrence", lambda _: recurrence.parse_recurrence(rule), ValueError)
    random = Random(zlib.crc32(data))
    first = date(random.randrange(2020, 2089), random.randrange(1, 13), random.randrange(1, 29))
    last = first + timedelta(days=random.choice((0, 1, 30, 364, 3659)))
    lo = first + timedelta(days=random.randrange(-40, (last - first).days + 40))
    hi = lo + timedelta(days=random.choice((0, 3, 5, 40)))
    asked = doors.knock("dates_of", lambda _: recurrence.dates_of(rule, first, last, lo, hi), ValueError, given=_forget)
    demand(len(rule) <= recurrence.RECURRENCE_MAX_CHARS or not parsed.accepted, "a rule that is too long was taken")
    demand(asked.accepted == parsed.accepted, "a rule that is not taken is asked for dates")
    if asked.result is None:
        return
    demand(asked.result == sorted(set(asked.result)), "dates out of order")
    demand(all(max(first, lo) <= day <= min(last, hi) for day in asked.result), "a date outside")
    one_by_one = [lo + timedelta(days=n) for n in range((hi - lo).days + 1)]
    single = [day for day in one_by_one if recurrence.dates_of(rule, first, last, day, day)]
    demand(single == asked.result, "a date recurs or not, whatever else is asked")


def _recurrence_seeds() -> list[bytes]:
    rules = [
        line["rrule"] for seed in _agreement_seeds() for line in _lines(seed) if isinstance(line.get("rrule"), str)
    ]
    more = [
        "FREQ=MONTHLY;BYDAY=+1MO,-5TU;BYMONTHDAY=1,-31",
        "COUNT=1;FREQ=WEEKLY;BYDAY=SU;INTERVAL=99",
        "UNTIL=00000000",
    ]
    return [rule.encode() for rule in dict.fromkeys([*rules, *more])]


def _lines(seed: bytes) -> list[dict[str, Any]]:
    try:
        lines = json.loads(seed)["lines"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return []
    return [line for line in lines if isinstance(line, dict)]


def _changed_rule(data: bytes, random: Random) -> bytes:
    parts = data.decode("latin-1").split(";")
    words = (
        "FREQ=DAILY", "FREQ=WEEKLY", "FREQ=MONTHLY", "INTERVAL=99", "COUNT=3660", "COUNT=0", "UNTIL=20300101",
        "UNTIL=20300230", "BYDAY=MO", "BYDAY=-5SU,1MO", "BYMONTHDAY=31", "BYMONTHDAY=-31,31", "BYDAY=" + "MO," * 50,
    )  # fmt: skip
    at = random.randrange(len(parts) + 1)
    parts[at : at + random.randrange(2)] = [random.choice(words)]
    return ";".join(parts).encode("latin-1")


# what processes say to one another

_UNIONS: Final = (
    frame.ToGuardFromHand, frame.ToHand, frame.ToGuardFromLink, frame.ToLink, frame.ToEye, frame.ToGuardFromEye,
    frame.ToTunnel, frame.ToGuardFromTunnel, frame.ToUpkeep, frame.ToGuardFromUpkeep,
)  # fmt: skip
_FRAMES: Final[tuple[frame.Frame, ...]] = (
    frame.Beat(), frame.CommandArrived(b"x" * 400, b"c" * 16), frame.TimeArrived(b"t"), frame.BrokerChanged(True),
    frame.Publish("reply", b"p" * 900, b"c", True, False), frame.MediaOpened("c-1"), frame.MediaShut("c-1"),
    frame.Start("c-1", OFFER, False), frame.LetFramesOut(), frame.Stop("verdict"), frame.Ready(),
    frame.AnswerMade("v=0\r\n"), frame.FirstFrameOut(12.5), frame.EyeBeat(300, A_SIGNAL),
    frame.AimLearnt("7" * 144), frame.FromOperator(b"o" * 700), frame.EyeFault("camera-fault"), frame.Stopped(7),
    frame.NotTonight(43200.0), frame.StopForGood(), frame.EndPause(), frame.AskState(),
    frame.LocalFacts(False, True, None, False, True, "attested", "a-1", 4, None),
)  # fmt: skip


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _descriptors() -> set[str]:
    """By number, not their count: what a collected object of somebody else's closes meanwhile is not a change."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def _ipc(data: bytes, doors: Doors) -> None:
    which = data[0] if data else 0
    union, carries_descriptor, content = _UNIONS[(which & 0x7F) % len(_UNIONS)], which >= 0x80, data[1:]
    _loop()  # its own descriptors are there before any are counted
    before = _descriptors()

    def sent() -> socket.socket:
        near, far = channel.pair()
        with far:
            socket.send_fds(far, [content], [far.fileno()]) if carries_descriptor else far.send(content)
        return near

    async def receive(near: socket.socket) -> Any:
        one: channel.Channel[Any] = channel.Channel(near, union)
        try:
            received, descriptors = await one.receive()
        finally:
            one.close()
        for descriptor in descriptors:
            os.close(descriptor)
        return received

    answer = doors.knock(
        "Channel.receive",
        lambda near: _loop().run_until_complete(receive(near)),
        channel.ChannelLostError,
        given=sent,
    )
    demand(_descriptors() <= before, "a descriptor was left open")
    if answer.accepted:
        written = msgspec.msgpack.encode(answer.result)
        again = msgspec.msgpack.encode(msgspec.msgpack.decode(written, type=union))
        demand(again == written, "a frame that was read is another when it was written")


_DEEP: Final = b"\x82\xa1a" + b"\x91" * 5000
"""What stands before the tag is skipped over, and skipping recurses."""


def _ipc_seeds() -> list[bytes]:
    frames = [msgspec.msgpack.encode(each) for each in _FRAMES]
    frames += [b"", b"\xc1", b"\x81" * 70_000, b"\x91" * 60_000, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
    frames.append(_DEEP)
    return [bytes([which]) + each for each in frames for which in (*range(len(_UNIONS)), 0x81)]


def _media(data: bytes, doors: Doors) -> None:
    for door in (media.from_eye, media.from_link):
        answer = doors.knock(door.__name__, lambda _, door=door: door(data), ValueError)
        if isinstance(answer.result, bytes):
            demand(media.sealed(answer.result) == data, "a sealed datagram was changed")
        elif isinstance(answer.result, list):
            again = media.sealed(answer.result[0]) if data[0] == media.SEALED else media.together(answer.result)
            demand(again == data, "sealed datagrams were changed")
        elif answer.result is not None:
            demand(door(media.control(answer.result)) == answer.result, "a word that was read is another when written")


def _media_seeds() -> list[bytes]:
    line = "candidate:1 1 udp 1 192.0.2.1 9 typ host"
    words = (
        media.Gather("abcd", "p" * 22),
        media.Connect("abcd", "p" * 22, [line] * 3, True, False),
        media.Gathered([line]),
        media.Connected(),
        media.Failed(),
    )
    odd = [
        b"",
        b"\x00",
        b"\x01",
        b"\x02x",
        b"\x01" + b"\x91" * 8000,
        b"\x01\xdf\xff\xff\xff\xff",
        b"\x01" + bytes(9000),
        b"\x01" + _DEEP,
    ]
    return [media.control(word) for word in words] + [
        media.sealed(b"\x16\xfe\xfd" + bytes(200)),
        media.together([b"\x80a", b"\x80b" * 700]),
        *odd,
    ]


def _behind_first_byte(
    change: Callable[[bytes, Random], bytes | None],
) -> Callable[[bytes, Random], bytes | None]:
    def changed_behind(data: bytes, random: Random) -> bytes | None:
        made = change(data[1:], random) if data else None
        return None if made is None else data[:1] + made

    return changed_behind


# SDP


def _sdp(data: bytes, doors: Doors) -> None:
    text = data.decode("utf-8", errors="replace")
    answer = doors.knock("only_fingerprint", lambda _: sdp.only_fingerprint(text), RefusedError)
    doors.knock("keep_sha256", lambda _: sdp.keep_sha256(text))
    if answer.result is None:
        return
    demand(len(answer.result) == 95 and answer.result in text.upper(), "a fingerprint that is not in the offer")
    # Read by whoever splits lines at CR and LF only, as a browser does, there is no other one.
    for line in text.replace("\r", "\n").split("\n"):
        if line.lower().startswith("a=fingerprint"):
            demand(answer.result in line.upper(), "a browser would see another fingerprint")


def _sdp_seeds() -> list[bytes]:
    vectors = [vector for vector in load_vectors().values() if vector["target"] == "sdp"]
    return [OFFER.encode(), *(Forge().raw(vector["input"]) for vector in vectors)]


def _changed_sdp(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\r\n")[:300]
    more = (
        b"a=fingerprint:sha-256 " + b":".join([b"%02X" % random.randrange(256)] * 32),
        b"a=fingerprint:sha-512 AA", b"A=FINGERPRINT:sha-256 00", b"a=candidate:1 1 udp 1 192.0.2.1 9 typ host",
        b"\x0ca=fingerprint:sha-256 00", b"\xe2\x80\xa8a=fingerprint:sha-256 00", b"a=fingerprint", b"m=video 9 X 96",
    )  # fmt: skip
    at = random.randrange(len(lines) + 1)
    lines[at : at + random.randrange(2)] = [random.choice(more)] * random.choice((1, 1, 1, 20))
    return random.choice((b"\r\n", b"\r\n", b"\n", b"\r")).join(lines)


# ledger

LINE, CONTENT, BODY, NOTE, SIGNED_TEXT, VKEY = range(6)


@functools.cache
def _signer() -> NoteSigner:
    return NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate())


def _ledger(data: bytes, doors: Doors) -> None:
    mode, rest = data[0] % 6 if data else LINE, data[1:]
    match mode:
        case 0 | 1 | 2:
            _line(rest if mode == LINE else _with_crc(_with_digest(rest) if mode == BODY else rest), doors)
        case 3 | 4:
            _note(rest if mode == NOTE else _signed_note(rest), doors)
        case _:
            text = rest.decode("utf-8", errors="replace")
            vkey = doors.knock("VerifierKey.parse", lambda _: VerifierKey.parse(text), NoteError)
            demand(vkey.result is None or str(vkey.result) == text, "a key with two spellings")
            doors.knock("_parse_status", lambda _: intake._parse_status(rest), RefusedError)


def _line(line: bytes, doors: Doors) -> None:
    stored = doors.knock("parse_line", lambda _: parse_line(line), ValueError)
    row = doors.knock("parse_ledger_line", lambda _: intake.parse_ledger_line(line), RefusedError)
    if stored.result is not None:
        demand(stored.result.encode() == line, "a line with two spellings")
        demand(row.result is not None and row.result.seq == stored.result.seq, "a good line that the centre refuses")
        erased = stored.result.erased()
        demand(erased.leaf_hash() == stored.result.leaf_hash(), "the leaf of an erased record differs")
        demand(parse_line(erased.encode()) == erased, "an erased line that can't be read")


def _note(note: bytes, doors: Doors) -> None:
    parsed = doors.knock("parse_note", lambda _: parse_note(note), NoteError)
    verified = doors.knock("verify_note", lambda _: verify_note(note, _signer().verifier), NoteError)
    doors.knock("verify_checkpoint", lambda _: verify_checkpoint(note, _signer().verifier), NoteError)
    doors.knock("_note", lambda _: intake._note(note), RefusedError)
    demand(parsed.accepted or not verified.accepted, "a note that verifies and has not the form")
    text = note.decode("utf-8", errors="replace")
    for each in (text, parsed.result.untrusted_text if parsed.result else ""):
        checkpoint = doors.knock("parse_checkpoint", lambda _, each=each: parse_checkpoint(each), NoteError)
        demand(checkpoint.result is None or checkpoint.result.text() == each, "a checkpoint with two spellings")


def _with_crc(content: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _with_digest(body: bytes) -> bytes:
    """A line around a body, with the digest that belongs to it if it is JSON at all."""
    try:
        value = json.loads(body)
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
        digest = sha256(canonical.encode()).hexdigest()
        line = {"body": value, "digest": digest, "prev": FIRST_PREV, "seq": 3}
        return json.dumps(line, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return body


def _signed_note(text: bytes) -> bytes:
    """A note that we signed, whatever its text: as one would be whose signer is broken."""
    signature = _signer().verifier.key_id + _signer().private_key.sign(text)
    return text + "\n\N{EM DASH} tillsyn/gw-a ".encode() + base64.b64encode(signature) + b"\n"


def _ledger_seeds() -> list[bytes]:
    found = []
    for kind in RecordKind:
        more = {"who": "p-1", "role": "operator", "check": "c-1", "line": "night-1", "occasion": "2026-11-23T23:30",
                "attempt": 1, "why": "busy", "watched_s": 12.5, "frames": 3, "time_hi": 1.8e9}  # fmt: skip
        for fields in ({}, more):
            stored = new_line(a_record(kind, **fields), seq=7, prev="ab" * 32)
            line = stored.encode()
            found += [bytes([LINE]) + line, bytes([CONTENT]) + line[9:-1], bytes([CONTENT]) + line[9:-1] + b" "]
            found.append(bytes([BODY]) + json.dumps(msgspec.to_builtins(stored)["body"]).encode())
            found.append(bytes([LINE]) + stored.erased().encode())
    note = sign_checkpoint(_signer(), 7, bytes(32))
    text = note.partition(b"\n\n")[0] + b"\n"
    found += [bytes([NOTE]) + note, bytes([SIGNED_TEXT]) + text, bytes([VKEY]) + str(_signer().verifier).encode()]
    found += [bytes([NOTE]) + note + note.splitlines(keepends=True)[-1] * 20, bytes([VKEY]) + b'{"online":true}']
    found += [bytes([CONTENT]) + b"[" * 4000, bytes([CONTENT]) + b'{"body":' * 400, bytes([NOTE]) + b"\n" * 20_000]
    return found


def _changed_ledger(data: bytes, random: Random) -> bytes | None:
    if not data or data[0] % 6 not in (CONTENT, BODY, VKEY):
        return None
    made = changed_json(data[1:], random)
    return None if made is None else data[:1] + made


# the gate as a whole

_STATES: Final = ("plain", "asked", "running", "withdrawn", "obstacle", "unattested", "no-agreement", "paused")


@functools.cache
def _in_force() -> Agreement:
    return parse_agreement(AGREEMENT)


@functools.cache
def _trusted() -> TrustStore:
    return a_trust()


def _no_randomness(count: int) -> bytes:
    return NONCE_BYTES[:count]


def _a_gate(state: str) -> Gate:
    gate = Gate(
        Identity(GATEWAY, INSTALL_EPOCH, GROUPS),
        _trusted(),
        a_clock(attested=state != "unattested"),
        _no_randomness,
        None if state == "no-agreement" else _in_force(),
        local=LocalState(state == "withdrawn", math.inf if state == "paused" else None),
        obstacle=RefusalCode.INTEGRITY_ALARM if state == "obstacle" else None,
    )
    operator = key("operator").verifying.kid
    if state == "running":
        gate.current = Facts("c-1", "p-1", operator, "night-1", "2026-11-23T23:30", 1, 60.0)
    demand(gate.nonces.issue(operator, now_s=BOOT_S) == NONCE, "the harness gives the nonce that its messages carry")
    gate.ask_time(now_s=BOOT_S)
    return gate


def _gate(data: bytes, doors: Doors) -> None:
    untrusted, kind = untrusted_of(data)
    state = _STATES[(data[0] >> 2) % len(_STATES)] if data else "plain"
    untouched = _a_gate(state)
    facts, nonces = facts_of(untouched), nonces_of(untouched)

    def unchanged(gate: Gate) -> bool:
        return facts_of(gate) == facts

    def receive(gate: Gate) -> Any:
        return gate.receive(untrusted, now_s=BOOT_S + 1.0)

    answer = doors.knock("Gate.receive", receive, RefusedError, given=lambda: _a_gate(state))
    gate = answer.given
    demand(unchanged(gate), "an order or a refusal changed the gate")
    demand(len(gate.nonces) <= len(nonces) + 1, "more nonces than asked for")
    if isinstance(answer.error, RefusedError):
        if answer.error.who is None:
            demand(nonces_of(gate) == nonces, "a nonce was spent by nobody")
        again = doors.knock("Gate.receive again", receive, RefusedError, given=lambda: gate)
        demand(not again.accepted, "refused, and accepted when it came again")
    if isinstance(answer.result, OpenCheck):
        demand(state in ("plain", "asked"), f"the camera opens although the state is {state}")
        demand(nonces_of(gate)[0][3], "a check was opened and its nonce is not spent")
        again = doors.knock("Gate.receive again", receive, RefusedError, given=lambda: gate)
        demand(not again.accepted, "a replayed opening was accepted")
    if kind == "time" or not answer.accepted:
        heard = doors.knock(
            "Gate.hear_time",
            lambda gate: gate.hear_time(untrusted, now_s=BOOT_S + 1.0),
            RefusedError,
            given=lambda: _a_gate(state),
        )
        if not heard.accepted:
            demand(unchanged(heard.given), "a refused time statement changed the gate")
        before, after = untouched.clock.interval(BOOT_S + 1.0), heard.given.clock.interval(BOOT_S + 1.0)
        demand(after.lo_unix_s >= before.lo_unix_s or state != "unattested", "time was set back behind its floor")


TARGETS: Final = {
    target.name: target
    for target in (
        Target("envelope", _envelope, fuzz_message.seeds, fuzz_message.change),
        Target("commands", _commands, _json_seeds, changed_json),
        Target("agreement", _agreement, _agreement_seeds, changed_json),
        Target("recurrence", _recurrence, _recurrence_seeds, _changed_rule, 400),
        Target("ipc", _ipc, _ipc_seeds, _behind_first_byte(changed_msgpack), 70_000),
        Target("media", _media, _media_seeds, _behind_first_byte(changed_msgpack), 10_000),
        Target("sdp", _sdp, _sdp_seeds, _changed_sdp),
        Target("ledger", _ledger, _ledger_seeds, _changed_ledger, 110_000),
        Target("gate", _gate, lambda: fuzz_message.seeds(len(_STATES)), fuzz_message.change),
    )
}
