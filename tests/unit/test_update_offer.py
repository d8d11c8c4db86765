"""Offers: whose word counts, which way versions go, and when an update may disturb anybody.

Mutations that turn these red, each tried:
  offer.judge: `<=` -> `<` at the statement                    -> a statement is taken once
  offer.judge: without `device.floor` in `highest`             -> nothing comes back below what was good
  offer.judge: `<` -> `<=` at the ring                         -> a release goes to the rings it is signed for
  offer.judge: without the expiry                              -> an expired statement is nobody's word
  quiet.may_disturb: without `takes_s`                         -> the stretch is free to its end
  quiet.may_disturb: without `- BEFORE_S`                      -> the hour before an occasion
  quiet.may_disturb: without `isfinite`                        -> a clock without an end knows of no quiet
  envelope.make_trust: without the disjoint check              -> a release key has no other role
"""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from update_support import AT_NOW, NOW, offer

from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.envelope import make_trust, sign, verify
from gateway.protocol.key import SigningKey
from gateway.protocol.message import TrustPut, UpdateOffer
from gateway.update.offer import FRESH_S, Device, in_time, is_stale, judge, version_key
from gateway.update.quiet import BEFORE_S, INSTALL_S, Span, may_disturb

DEVICE = Device("tillsyn-qemu", "0.1.0", statement=4)


def refusal(given_offer: UpdateOffer, device: Device = DEVICE, interval: Interval = AT_NOW) -> RefusalCode:
    with pytest.raises(RefusedError) as caught:
        judge(given_offer, device, interval)
    return caught.value.code


def test_a_newer_version_is_something_to_install_and_the_running_one_a_word_that_all_is_well():
    assert judge(offer(), DEVICE, AT_NOW) is True
    assert judge(offer(version="0.1.0"), DEVICE, AT_NOW) is False


@pytest.mark.parametrize("statement", [1, 4])
def test_a_statement_is_taken_once_and_never_an_older_one(statement):
    assert refusal(offer(statement=statement)) is RefusalCode.STALE_VERSION


@pytest.mark.parametrize(
    ("version", "running", "floor"),
    [("0.0.9", "0.1.0", "0.0.0"), ("0.1.5", "0.1.0", "0.2.0"), ("0.9.0", "0.10.0", "0.0.0")],
)
def test_versions_go_up_only_and_nothing_comes_back_below_what_was_good(version, running, floor):
    device = Device("tillsyn-qemu", running, statement=4, floor=floor)
    assert refusal(offer(version=version), device) is RefusalCode.STALE_VERSION


def test_another_boards_system_is_refused():
    assert refusal(offer(compatible="tillsyn-rpi5")) is RefusalCode.WRONG_DEVICE


@pytest.mark.parametrize(("ring", "own", "taken"), [
    ("lab", "lab", True), ("all", "lab", True), ("lab", "all", False), ("half", "ten-percent", True),
    ("ten-percent", "half", False),
])  # fmt: skip
def test_a_release_goes_to_the_rings_it_is_signed_for(ring, own, taken):
    device = Device("tillsyn-qemu", "0.1.0", ring=own)
    if taken:
        assert judge(offer(ring=ring), device, AT_NOW)
    else:
        assert refusal(offer(ring=ring), device) is RefusalCode.WRONG_DEVICE


def test_an_expired_statement_is_nobodys_word():
    assert refusal(offer(), interval=Interval(NOW + 14 * 86400, math.inf)) is RefusalCode.STALE_VERSION


def test_a_clock_that_is_behind_takes_it():
    # Certificates and statements must not brick a device whose clock is at its floor.
    assert judge(offer(), DEVICE, Interval(NOW - 1e8, math.inf))


@pytest.mark.parametrize("fields", [{"stated": NOW, "expires": NOW}, {"not_before": NOW, "deadline": NOW - 1}])
def test_times_that_contradict_one_another_are_malformed(fields):
    assert refusal(offer(**fields)) is RefusalCode.MALFORMED


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "0.2"}, {"version": "0.2.0-dev"}, {"version": "00.2.0"}, {"url": "http://updates.example/x"},
        {"url": "https://a@b.example/x"}, {"url": "https://updates.example/x?y=1"}, {"manifest_sha256": "AB" * 32},
        {"size_bytes": 0}, {"size_bytes": (4 << 30) + 1}, {"ring": "everybody"}, {"tries": 6}, {"more": 1},
        {"statement": 0}, {"compatible": "a b"}, {"version": "0.2.0\n"},
    ],
)  # fmt: skip
def test_what_breaks_the_schema_is_refused(fields):
    with pytest.raises(RefusedError) as caught:
        offer(**fields)
    assert caught.value.code is RefusalCode.MALFORMED


def test_an_offer_waits_for_its_time_and_is_not_begun_after_it():
    assert in_time(offer(not_before=NOW + 10), AT_NOW) is None
    assert in_time(offer(), AT_NOW) is True
    assert in_time(offer(), Interval(NOW + 7 * 86400, math.inf)) is False


def test_fourteen_days_without_a_statement_are_noticed_by_the_lower_bound():
    assert not is_stale(NOW, Interval(NOW + FRESH_S, math.inf))
    assert is_stale(NOW, Interval(NOW + FRESH_S + 1, math.inf))


ROOT, ISSUER, RELEASE = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()


def statement(releases: list[SigningKey]) -> bytes:
    jwks = [key.verifying.jwk() for key in releases]
    return sign(TrustPut(1, 0, [ROOT.verifying.jwk()], [ISSUER.verifying.jwk()], jwks), ROOT)


def roots() -> dict:
    return {ROOT.verifying.kid: ROOT.verifying}


def test_only_the_release_role_offers():
    trust = make_trust(statement([RELEASE]), roots())
    assert verify(sign(offer(), RELEASE), trust.releases, UpdateOffer) == offer()
    for other in (ISSUER, ROOT, SigningKey.generate()):
        with pytest.raises(RefusedError) as caught:
            verify(sign(offer(), other), trust.releases, UpdateOffer)
        assert caught.value.code is RefusalCode.UNKNOWN_KEY


def test_where_no_release_key_is_named_nobody_offers():
    trust = make_trust(statement([]), roots())
    with pytest.raises(RefusedError):
        verify(sign(offer(), RELEASE), trust.releases, UpdateOffer)


@pytest.mark.parametrize("shared", [ROOT, ISSUER])
def test_a_release_key_has_no_other_role(shared):
    with pytest.raises(RefusedError) as caught:
        make_trust(statement([shared]), roots())
    assert caught.value.code is RefusalCode.MALFORMED


def test_a_statement_from_before_there_were_release_keys_reads_as_before():
    old = msgspec.json.encode(TrustPut(1, 0, [ROOT.verifying.jwk()], [ISSUER.verifying.jwk()]))
    assert b"releases" not in old
    assert make_trust(statement([]), roots()).releases == {}


# When it may disturb


def test_nothing_begins_in_the_hour_before_an_occasion_in_it_or_while_a_check_runs():
    span = Span(NOW + 10 * 3600, NOW + 10 * 3600 + 2400)
    for at, free in [
        (0.0, True), (9 * 3600 - INSTALL_S - 2, True), (9 * 3600 - INSTALL_S + 2, False), (9.5 * 3600, False),
        (10 * 3600 + 1, False), (10 * 3600 + 2399, False), (10 * 3600 + 2402, True),
    ]:  # fmt: skip
        interval = Interval(NOW + at - 1, NOW + at + 1)
        assert may_disturb([span], interval, takes_s=INSTALL_S, busy=False) is free, at
        assert not may_disturb([span], interval, takes_s=INSTALL_S, busy=True)


def test_a_clock_without_an_end_knows_of_no_quiet_but_where_nothing_is_agreed():
    assert not may_disturb([], Interval(NOW, math.inf), takes_s=1.0, busy=False)
    assert may_disturb(None, Interval(NOW, math.inf), takes_s=1.0, busy=False)


@pytest.mark.slow
@given(
    starts=st.lists(st.floats(-90_000, 90_000), max_size=5),
    width=st.floats(0, 600),
    takes_s=st.floats(0, 7200),
    moments=st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_whenever_it_may_begin_no_moment_until_its_end_is_near_an_occasion(starts, width, takes_s, moments):
    spans = [Span(NOW + start, NOW + start + 2400) for start in starts]
    interval = Interval(NOW - width, NOW)
    if may_disturb(spans, interval, takes_s=takes_s, busy=False):
        for share in moments:
            at = interval.lo_unix_s + share * (width + takes_s)
            assert not any(span.start_unix_s - BEFORE_S < at < span.end_unix_s for span in spans)


@given(st.tuples(*[st.integers(0, 99999)] * 3), st.tuples(*[st.integers(0, 99999)] * 3))
def test_versions_compare_as_numbers(one, other):
    assert (version_key(".".join(map(str, one))) < version_key(".".join(map(str, other)))) is (one < other)
