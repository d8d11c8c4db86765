"""The envelope: what is signed comes back, in one order of checks, and nothing else comes through.

Mutations that turn a test here red (gateway/protocol/envelope.py unless said):
* in `_opened` decode before `key.verify` → test_a_payload_is_not_parsed_before_its_signature_holds
* in `verify_command` open the command before the grant → test_the_first_failing_check_names_the_refusal
* swap audience and role → test_the_first_failing_check_names_the_refusal
* drop `envelope.kind != kind.KIND` → test_no_kind_is_taken_for_another
* drop `alg != "ES256"` → tests/vectors/envelope/alg-…
* `MAX_ENVELOPE_BYTES` in `sign` dropped → test_what_does_not_fit_the_envelope_is_not_signed
* `interval.hi_unix_s < grant.exp` → `<=`, `grant.nbf <=` → `<` → test_the_whole_interval_must_lie_in_the_shift
* drop `if roles is None` → test_what_a_person_may_not_sign_is_malformed
* `except … ValueError` in `to_message` → only ValidationError → test_arbitrary_json_never_raises_anything_else
* `b64url_decode` without the comparison with its canonical spelling (key.py) → test_any_changed_byte_is_refused
* accept a longer signature (key.py) → test_a_longer_or_shorter_command_is_refused
* drop `_check_depth` (strict_json.py) → tests/vectors/json/depth-9
* drop the epoch's exception for closing → test_closing_needs_no_living_grant
* GrantCache: neither issuer nor trust version looked at for a known grant (either alone is a second wall to the
  other) → test_a_grant_that_was_verified_before_still_needs_its_issuer_and_its_epoch
* GrantCache: look up by the signed part only → test_only_the_same_bytes_are_a_grant_that_was_verified_before
* GrantCache: no LIMIT → test_the_grants_kept_are_bounded
"""

from __future__ import annotations

import json
from itertools import permutations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protocol_support import (
    AUDIENCE,
    EPOCH,
    GATEWAY,
    GROUPS,
    NOW_UNIX_S,
    PAYLOADS,
    Forge,
    a_gate,
    a_trust,
    depth_of,
    key,
    tried,
)

from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import CloseCheck
from gateway.protocol import strict_json
from gateway.protocol.envelope import (
    MAX_ENVELOPE_BYTES,
    GrantCache,
    TrustStore,
    UntrustedEnvelope,
    VerifiedCommand,
    check_shift,
    make_trust,
    sign,
    split,
    to_message,
    verify,
    verify_command,
)
from gateway.protocol.key import b64url_decode, b64url_encode
from gateway.protocol.message import (
    KINDS,
    ROLE_FOR,
    Accepted,
    AgreementPut,
    Challenge,
    Close,
    Confirmation,
    Grant,
    Hello,
    Open,
    Role,
    TimeAsk,
    TimeStatement,
    TrustPut,
)

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"


def refusal(act) -> RefusalCode:
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.code


def verified(untrusted: bytes, *, trust=None, audience: str = AUDIENCE, gateway: str = GATEWAY) -> VerifiedCommand:
    return verify_command(untrusted, trust or a_trust(), audience=audience, gateway=gateway, groups=GROUPS)


def tried_command(grant: bytes, command: bytes) -> str:
    return tried(lambda: verified(grant + b"~" + command))[0]


def a_grant(**changes) -> Grant:
    return msgspec.structs.replace(
        Grant(
            sub="s-1",
            name_ref="p-1",
            roles=[Role.OPERATOR],
            cnf=Confirmation(key("operator").verifying.jwk()),
            epoch=EPOCH,
            nbf=NOW_UNIX_S,
            exp=NOW_UNIX_S + 8 * 3600,
            homes=[GATEWAY],
        ),
        **changes,
    )


def a_command(message=None, grant=None, *, by: str = "operator", issuer: str = "issuer") -> bytes:
    message = message or Challenge(aud=AUDIENCE, jti="j-1")
    return sign(grant or a_grant(), key(issuer)) + b"~" + sign(message, key(by))


def keys_of(*names: str):
    return {key(name).verifying.kid: key(name).verifying for name in names}


# What is signed comes back


def test_a_signed_message_comes_back_as_it_was():
    statement = TimeStatement(GATEWAY, "A" * 22, 1.5e9, 0.25)
    assert verify(sign(statement, key("issuer")), keys_of("issuer", "root"), TimeStatement) == statement


def test_a_verified_command_names_the_person_the_role_and_the_key():
    command = Challenge(aud=AUDIENCE, jti="j-1")
    result = verified(a_command(command))
    assert (result.command, result.who, result.role) == (command, "p-1", Role.OPERATOR)
    assert result.kid == key("operator").verifying.kid
    assert result.grant == a_grant()


def test_a_person_with_several_roles_acts_in_the_one_that_counts():
    both = a_grant(roles=[Role.STEWARD, Role.PLANNER, Role.OPERATOR])
    assert verified(a_command(grant=both)).role is Role.OPERATOR


def test_the_header_is_exactly_alg_kid_typ():
    envelope = sign(Challenge(aud=AUDIENCE, jti="j-1"), key("operator"))
    header = json.loads(b64url_decode(envelope.split(b".")[0].decode()))
    assert header == {"alg": "ES256", "kid": key("operator").verifying.kid, "typ": "tillsyn.check.challenge+jws"}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=400)


@pytest.mark.slow
@given(offer=TEXT, attempt=st.integers(1, 9), version=st.integers(1, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_open_that_can_be_signed_comes_back_as_it_was(offer, attempt, version):
    message = Open(AUDIENCE, "j-1", "A" * 22, "a-1", version, "night-1", "2026-11-23T23:30", attempt, offer)
    assert verified(a_command(message)).command == message


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(agreement=st.dictionaries(WORD, JSON, max_size=3))
@settings(max_examples=60, deadline=None)
def test_an_object_inside_a_message_comes_back_as_it_was(agreement):
    message = AgreementPut(AUDIENCE, "j-1", agreement)
    grant = a_grant(roles=[Role.PLANNER])
    untrusted = a_command(message, grant)
    code, result = tried(lambda: verified(untrusted))
    # Only depth may refuse: eight, and the message itself is one of them.
    if depth_of(agreement) < strict_json.MAX_DEPTH:
        assert result.command == message
    else:
        assert code == RefusalCode.MALFORMED


def test_what_does_not_fit_the_envelope_is_not_signed():
    with pytest.raises(ValueError, match="do not fit"):
        sign(AgreementPut(AUDIENCE, "j-1", {"a": "x" * MAX_ENVELOPE_BYTES}), key("operator"))


def test_the_size_is_checked_before_anything_else():
    class Watched(bytes):
        def split(self, *_):
            raise AssertionError("parsed before the size was known")

    assert refusal(lambda: verified(Watched(MAX_ENVELOPE_BYTES + 1))) is RefusalCode.MALFORMED


# Order of checks


def test_a_payload_is_not_parsed_before_its_signature_holds():
    """Parsed first, the payload would be malformed; so bad-signature proves that it wasn't."""
    forge = Forge()
    grant, command = forge.jws({"kind": "grant"}), forge.jws({})
    for payload_raw in ("not json", "[" * 4000, "{}", '{"aud":1}', "NaN"):
        unsigned = {"payload_raw": payload_raw, "by": "other"}
        assert tried_command(grant, forge.jws(unsigned)) == RefusalCode.BAD_SIGNATURE
        assert tried_command(forge.jws({"kind": "grant"} | unsigned), command) == RefusalCode.BAD_SIGNATURE
        assert tried_command(grant, forge.jws({"payload_raw": payload_raw})) == RefusalCode.MALFORMED


STEPS = {
    # In the order of gateway.protocol.envelope: (recipe changes of the grant, of the command, the code)
    "header": ({}, {"header": {"crit": ["x"]}}, RefusalCode.MALFORMED),
    "issuer": ({"key": "stranger"}, {}, RefusalCode.UNKNOWN_KEY),
    "grant signature": ({"by": "other"}, {}, RefusalCode.BAD_SIGNATURE),
    "grant schema": ({"payload": {"sub": ""}}, {}, RefusalCode.MALFORMED),
    "epoch": ({"payload": {"epoch": 0}}, {}, RefusalCode.UNKNOWN_KEY),
    "key bound": ({}, {"header": {"kid": "nobody"}}, RefusalCode.UNKNOWN_KEY),
    "signature": ({}, {"by": "other"}, RefusalCode.BAD_SIGNATURE),
    "schema": ({}, {"payload": {"jti": ""}}, RefusalCode.MALFORMED),
    "audience": ({}, {"payload": {"aud": "gw-b/1"}}, RefusalCode.WRONG_DEVICE),
    "role": ({"payload": {"roles": ["planner"]}}, {}, RefusalCode.WRONG_ROLE),
}


def _merged(one: dict, other: dict) -> dict:
    both = one | other
    for part in ("payload", "header"):
        if part in one and part in other:
            both[part] = one[part] | other[part]
    return both


@pytest.mark.parametrize(
    ("earlier", "later"), [(a, b) for i, a in enumerate(STEPS) for j, b in enumerate(STEPS) if i < j]
)
def test_the_first_failing_check_names_the_refusal(earlier, later):
    forge = Forge()
    (grant_1, command_1, code), (grant_2, command_2, _) = STEPS[earlier], STEPS[later]
    grant = forge.jws({"kind": "grant"} | _merged(grant_1, grant_2))
    command = forge.jws(_merged(command_1, command_2))
    assert tried_command(grant, command) == code


# Kinds


COMMAND = a_command()
FORGED = {name: Forge().jws({"kind": name, "key": "issuer"}) for name in PAYLOADS}


@pytest.mark.parametrize(("signed", "expected"), list(permutations(PAYLOADS, 2)))
def test_no_kind_is_taken_for_another(signed, expected):
    assert refusal(lambda: verify(FORGED[signed], keys_of("issuer"), KINDS[expected])) is RefusalCode.MALFORMED


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_kind_is_taken_for_itself(kind):
    assert kind == verify(FORGED[kind], keys_of("issuer"), KINDS[kind]).KIND


def test_kinds_are_unique_and_every_command_has_its_roles():
    assert len(KINDS) == len(set(KINDS.values()))
    of_a_check = {"check.challenge", "check.open", "check.lease", "check.verdict", "check.close"}
    commands = {kind.KIND for kind in ROLE_FOR}
    of_the_state = {"agreement.put", "agreement.withdraw", "tunnel.put", "config.put", "setup.enter", "device.return"}
    of_the_state |= {"device.erase"}
    assert commands == of_a_check | of_the_state
    assert all(roles for roles in ROLE_FOR.values())
    # The centre's issuing key and the root sign these; no person ever does.
    assert not {Grant, TrustPut, TimeStatement, TimeAsk} & set(ROLE_FOR)


def test_what_a_person_may_not_sign_is_malformed():
    for message in (
        Accepted(GATEWAY, "j-1"),
        TimeAsk(GATEWAY, "A" * 22),
        TrustPut(1, 0, [key("operator").verifying.jwk()], [key("operator").verifying.jwk()]),
        a_grant(),
    ):
        everything = a_grant(roles=list(Role))
        assert refusal(lambda m=message, g=everything: verified(a_command(m, g))) is RefusalCode.MALFORMED


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", ROLE_FOR)
def test_each_role_signs_what_the_table_says_and_nothing_else(role, kind):
    forge = Forge()
    untrusted = forge.jws({"kind": "grant", "payload": {"roles": [role.value]}}) + b"~" + forge.jws({"kind": kind.KIND})
    if role in ROLE_FOR[kind]:
        assert verified(untrusted).role is role
    else:
        assert refusal(lambda: verified(untrusted)) is RefusalCode.WRONG_ROLE


# Closing


def test_closing_needs_no_living_grant():
    """F60: a close is taken in every state, late, twice, and under a dead grant; only the signature must hold."""
    close = Close(aud=AUDIENCE, jti="j-1", check="c-1")
    untrusted = a_command(close, a_grant(epoch=0, nbf=0, exp=3600))
    for state in ({}, {"attested": False}, {"obstacle": "integrity-alarm"}, {"running": "other"}, {"agreement": None}):
        gate = a_gate(state)
        for _ in range(2):
            assert gate.receive(untrusted, now_s=1e6) == CloseCheck("j-1", "c-1", "p-1")


def test_closing_still_needs_the_signature():
    close = Close(aud=AUDIENCE, jti="j-1", check="c-1")
    assert refusal(lambda: verified(a_command(close, by="other"))) is RefusalCode.UNKNOWN_KEY
    assert refusal(lambda: verified(a_command(close, issuer="stranger"))) is RefusalCode.UNKNOWN_KEY


# Grants that were verified before


def test_a_grant_that_was_verified_before_still_needs_its_issuer_and_its_epoch():
    cache = GrantCache()
    before, command = a_trust(version=1), a_command()

    def received(trust: TrustStore, untrusted: bytes = command) -> str:
        return tried(
            lambda: verify_command(untrusted, trust, audience=AUDIENCE, gateway=GATEWAY, groups=GROUPS, cache=cache)
        )[0]

    assert received(before) == received(before) == "accepted"
    assert received(TrustStore(2, EPOCH, before.roots, keys_of("stranger"))) == RefusalCode.UNKNOWN_KEY
    assert received(TrustStore(3, EPOCH + 1, before.roots, before.issuers)) == RefusalCode.UNKNOWN_KEY
    assert received(before) == "accepted"


def test_only_the_same_bytes_are_a_grant_that_was_verified_before():
    cache = GrantCache()
    grant, _ = COMMAND.split(b"~")
    assert cache.verify(grant, split(grant), a_trust()) == a_grant()
    for untrusted in (Forge().jws({"kind": "grant", "by": "other"}), grant[:-6] + b"AAAAA" + grant[-1:]):
        assert refusal(lambda j=untrusted: cache.verify(j, split(j), a_trust())) is RefusalCode.BAD_SIGNATURE


def test_the_grants_kept_are_bounded():
    cache = GrantCache()
    for number in range(GrantCache.LIMIT + 10):
        grant = sign(a_grant(name_ref=f"p-{number}"), key("issuer"))
        assert cache.verify(grant, split(grant), a_trust()).name_ref == f"p-{number}"
        assert len(cache._verified) <= GrantCache.LIMIT


# Nothing else comes through


@pytest.mark.slow
@given(at=st.integers(0, len(COMMAND) - 1), mask=st.integers(1, 255))
@settings(max_examples=400, deadline=None)
@example(at=len(COMMAND) - 1, mask=1)
def test_any_changed_byte_is_refused(at, mask):
    changed = COMMAND[:at] + bytes([COMMAND[at] ^ mask]) + COMMAND[at + 1 :]
    refusal(lambda: verified(changed))


@pytest.mark.parametrize("last", range(4))
def test_no_letter_of_a_signature_has_a_second_spelling(last):
    """All letters in place of the last ones: base64 could hide bits there."""
    at = len(COMMAND) - 1 - last
    for letter in ALPHABET:
        if COMMAND[at] != letter:
            refusal(lambda j=COMMAND[:at] + bytes([letter]) + COMMAND[at + 1 :]: verified(j))


@pytest.mark.slow
@given(cut=st.integers(0, len(COMMAND) - 1), tail=st.binary(max_size=8))
@settings(max_examples=150, deadline=None)
def test_a_longer_or_shorter_command_is_refused(cut, tail):
    refusal(lambda: verified(COMMAND[:cut]))
    refusal(lambda: verified(COMMAND[cut + 1 :]))
    if tail:
        refusal(lambda: verified(COMMAND + tail))
        refusal(lambda: verified(tail + COMMAND))


@pytest.mark.slow
@given(pieces=st.lists(st.sampled_from(COMMAND.replace(b"~", b".").split(b".")), min_size=6, max_size=6))
@settings(max_examples=150, deadline=None)
def test_parts_put_together_in_another_way_are_refused(pieces):
    joined = b".".join(pieces[:3]) + b"~" + b".".join(pieces[3:])
    if joined != COMMAND:
        refusal(lambda: verified(joined))


def every_door(untrusted: bytes) -> None:
    """Nothing but RefusedError comes out of any of them."""
    for door in (
        lambda: split(untrusted),
        lambda: verified(untrusted),
        lambda: verify(untrusted, keys_of("issuer"), TimeStatement),
        lambda: make_trust(untrusted, keys_of("root")),
    ):
        with pytest.raises(RefusedError):
            door()


@pytest.mark.slow
@given(untrusted=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_and_raise_nothing_else(untrusted):
    every_door(untrusted)


PART = st.one_of(
    st.binary(max_size=60).map(lambda raw: b64url_encode(raw).encode()),
    st.text(max_size=40).map(lambda text: b64url_encode(text.encode("utf-8", "surrogatepass")).encode()),
    st.builds(
        lambda header: b64url_encode(strict_json.dumps(header)).encode(),
        st.dictionaries(
            st.sampled_from(["alg", "kid", "typ", "crit", "jwk"]),
            st.sampled_from(["ES256", "none", "tillsyn.check.open+jws", "tillsyn.grant+jws", None, 1, [], {}]),
        ),
    ),
    st.sampled_from(COMMAND.replace(b"~", b".").split(b".")),
    st.sampled_from([b"", b"=", b"A", b"\xff"]),
)


@pytest.mark.slow
@given(parts=st.lists(PART, max_size=8), joints=st.lists(st.sampled_from([b".", b"~", b""]), min_size=8, max_size=8))
@settings(max_examples=300, deadline=None)
def test_what_looks_like_an_envelope_raises_nothing_else(parts, joints):
    untrusted = b"".join(part + joint for part, joint in zip(parts, joints, strict=False))
    if untrusted.startswith(COMMAND):
        return
    # Parts of a real command may come together to something that one door, split, takes: it verifies nothing.
    for door in (
        lambda: split(untrusted),
        lambda: verified(untrusted),
        lambda: verify(untrusted, keys_of("issuer"), TimeStatement),
        lambda: make_trust(untrusted, keys_of("root")),
    ):
        code, result = tried(door)
        assert code != "accepted" or isinstance(result, UntrustedEnvelope)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=6), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.slow
@given(value=ANY_JSON | st.dictionaries(st.sampled_from(["aud", "jti", "check", "counter"]), ANY_JSON))
@settings(max_examples=200, deadline=None)
@example(value={"aud": "\ud800", "jti": "j-1"})
@example(value={"\ud800": 1})
def test_arbitrary_json_never_raises_anything_else(value):
    for kind in KINDS.values():
        code, result = tried(lambda k=kind: to_message(value, k))
        assert isinstance(result, kind) or code == RefusalCode.MALFORMED


# The shift, and the roots


@pytest.mark.parametrize(
    ("lo_s", "hi_s", "inside"),
    [
        (0.0, 1.0, True),
        (-0.001, 1.0, False),
        (3599.0, 3599.999, True),
        (3599.0, 3600.0, False),
        (10.0, float("inf"), False),
        (float("nan"), 1.0, False),
        (1.0, float("nan"), False),
        (float("-inf"), float("inf"), False),
    ],
)
def test_the_whole_interval_must_lie_in_the_shift(lo_s, hi_s, inside):
    grant = a_grant(nbf=NOW_UNIX_S, exp=NOW_UNIX_S + 3600)
    interval = Interval(NOW_UNIX_S + lo_s, NOW_UNIX_S + hi_s)
    if inside:
        check_shift(grant, interval)
    else:
        assert refusal(lambda: check_shift(grant, interval)) is RefusalCode.UNKNOWN_KEY


def a_statement(version: int, *roots: str, epoch: int = 0) -> TrustPut:
    return TrustPut(version, epoch, [key(r).verifying.jwk() for r in roots], [key("issuer").verifying.jwk()])


def test_a_trust_statement_becomes_what_it_says():
    trust = make_trust(sign(a_statement(7, "root", epoch=3), key("root")), keys_of("root"))
    assert (trust.version, trust.epoch) == (7, 3)
    assert (trust.roots, trust.issuers) == (keys_of("root"), keys_of("issuer"))


def test_roots_change_only_with_both_signatures():
    put = a_statement(2, "new-root")
    both = sign(put, key("root")) + b"~" + sign(put, key("new-root"))
    rotated = make_trust(both, keys_of("root"))
    assert rotated.roots == keys_of("new-root")
    # What the old root signs afterwards, or signed before, is nothing to a device that has rotated.
    assert refusal(lambda: make_trust(sign(a_statement(9, "root"), key("root")), rotated.roots)) is (
        RefusalCode.UNKNOWN_KEY
    )
    assert refusal(lambda: make_trust(both, rotated.roots)) is RefusalCode.UNKNOWN_KEY


def test_the_same_set_of_roots_in_another_order_is_no_change():
    put = a_statement(2, "new-root", "root")
    assert make_trust(sign(put, key("root")), keys_of("root", "new-root")).version == 2


def test_a_root_named_twice_is_one_root():
    put = a_statement(2, "root", "root")
    assert make_trust(sign(put, key("root")), keys_of("root")).roots == keys_of("root")


def test_a_root_that_is_dropped_needs_the_second_signature_too():
    put = a_statement(2, "root")
    assert refusal(lambda: make_trust(sign(put, key("root")), keys_of("root", "new-root"))) is (
        RefusalCode.BAD_SIGNATURE
    )


def test_the_devices_own_words_verify_under_its_key_only():
    hello = Hello(GATEWAY, 2, "b-1", "0.1.0", {"state": "floor", "lo_unix_s": 1.0, "hi_unix_s": None})
    untrusted = sign(hello, key("device"))
    assert verify(untrusted, keys_of("device"), Hello).boot == "b-1"
    assert refusal(lambda: verify(untrusted, keys_of("issuer"), Hello)) is RefusalCode.UNKNOWN_KEY
