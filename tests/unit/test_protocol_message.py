"""Messages are closed, frozen and free of personal data; topics are read exactly.

Mutations that turn a test here red (gateway/protocol/message.py unless said):
* `forbid_unknown_fields` dropped on Message → test_an_unknown_member_is_refused_in_every_kind
* `frozen` dropped in one kind → the module does not even load
* a default for `offer` → test_what_protects_a_message_is_never_optional
* a field `name` anywhere → test_personal_data_has_no_field
* `$` for `\\Z` in any pattern → test_no_pattern_lets_a_newline_through
* topic.parse without the length check → test_only_our_topics_are_read
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import PAYLOADS, Forge, tried

from gateway.core.refusal import RefusalCode
from gateway.protocol.envelope import to_message
from gateway.protocol.message import KINDS, audience
from gateway.protocol.topic import ROOT, TO_GATEWAY, Branch, parse, topic

GOOD = {kind: Forge().fill(payload) for kind, payload in PAYLOADS.items()}


def malformed(value, kind: str) -> bool:
    code, _ = tried(lambda: to_message(value, KINDS[kind]))
    assert code in ("accepted", RefusalCode.MALFORMED)
    return code != "accepted"


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_message_is_taken(kind):
    assert not malformed(GOOD[kind], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_member_is_refused_in_every_kind(kind):
    assert KINDS[kind].__struct_config__.forbid_unknown_fields
    if kind in GOOD:
        assert malformed(GOOD[kind] | {"extra": 1}, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_can_be_changed(kind):
    assert KINDS[kind].__struct_config__.frozen


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        (kind, field.name)
        for kind, struct in KINDS.items()
        if kind in GOOD
        for field in msgspec.structs.fields(struct)
        if field.required
    ],
)
def test_every_member_without_a_default_is_needed(kind, member):
    assert malformed({name: value for name, value in GOOD[kind].items() if name != member}, kind)
    assert malformed(GOOD[kind] | {member: None}, kind)


NEEDED = {
    "check.open": {"aud", "jti", "nonce", "agreement", "version", "line", "occasion", "attempt", "offer"},
    "grant": {"sub", "name_ref", "roles", "cnf", "epoch", "nbf", "exp"},
    "check.lease": {"aud", "check", "counter"},
    "check.verdict": {"aud", "jti", "check", "counter", "verdict"},
    "check.close": {"aud", "jti", "check"},
    "agreement.withdraw": {"aud", "jti"},
    "tunnel.put": {"aud", "jti", "settings"},
    "config.put": {"aud", "jti", "settings"},
    "setup.enter": {"aud", "jti", "at"},
    "device.erase": {"aud", "jti", "version", "code"},
    "device.return": {"aud", "jti", "version", "nonce"},
    "agreement.put": {"aud", "jti", "agreement"},
    "trust.put": {"version", "epoch", "roots", "issuers"},
    "time": {"gateway", "nonce", "unix_s", "radius_s"},
}


@pytest.mark.parametrize("kind", NEEDED)
def test_what_protects_a_message_is_never_optional(kind):
    assert {field.name for field in msgspec.structs.fields(KINDS[kind]) if field.required} == NEEDED[kind]


def test_personal_data_has_no_field():
    told = {field.name for kind in KINDS.values() for field in msgspec.structs.fields(kind)}
    words = ("name", "address", "phone", "personal", "birth", "mail", "street", "note", "comment", "text", "photo")
    assert not {field for field in told for word in words if word in field} - {"name_ref"}


@pytest.mark.parametrize(
    ("kind", "member"),
    [(kind, name) for kind, payload in GOOD.items() for name, value in payload.items() if isinstance(value, str)],
)
def test_no_pattern_lets_a_newline_through(kind, member):
    if member == "offer":
        return  # free text with its own door: protocol.sdp
    for spoilt in (GOOD[kind][member] + "\n", "\n" + GOOD[kind][member], GOOD[kind][member] + "\0", ""):
        assert malformed(GOOD[kind] | {member: spoilt}, kind)


@pytest.mark.parametrize("kind", GOOD)
def test_no_member_is_coerced(kind):
    for member, value in GOOD[kind].items():
        for other in (True, 1.5, "x y", [], {}, None, -1, [[]], {"a": 1}):
            if type(other) is type(value) and other != -1:
                continue
            if other == 1.5 and member in ("nbf", "exp", "unix_s"):
                continue  # seconds may have a fraction
            assert malformed(GOOD[kind] | {member: other}, kind), (member, other)


def test_an_audience_is_the_gateway_in_one_life():
    assert audience("gw-a", 2) == "gw-a/2"
    assert audience("gw-a", 2) != audience("gw-a", 22)


@pytest.mark.slow
@given(name=st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=40), branch=st.sampled_from(Branch))
def test_a_topic_comes_back_as_it_was(name, branch):
    gateway = f"gw-{name}"
    assert parse(topic(gateway, branch)) == (gateway, branch)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ROOT,
        f"{ROOT}/gw-a",
        f"{ROOT}/gw-a/command/more",
        f"{ROOT}/gw-a/unknown",
        f"{ROOT}/gw-a/COMMAND",
        f"/{ROOT}/gw-a/command",
        "tillsyn/v2/gw-a/command",
        "Tillsyn/v1/gw-a/command",
        "$SYS/v1/gw-a/command",
        f"{ROOT}/gw-a/command\n",
    ],
)
def test_only_our_topics_are_read(text):
    assert parse(text) is None


@given(text=st.text(max_size=40))
def test_an_arbitrary_topic_raises_nothing(text):
    found = parse(text)
    assert found is None or topic(*found) == text


def test_only_commands_and_time_go_to_a_gateway():
    assert {branch.value for branch in TO_GATEWAY} == {"command", "time", "relay", "witness", "wanted"}
