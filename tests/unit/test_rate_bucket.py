"""What leaves is bounded, whatever is asked for.

Mutations that turn these red, each tried: the bucket fills above its burst; `spend` spends nothing; `set_rate` forgets
to fill at the old rate first; resends not taken from the bucket; MOST_RESENDS not asked; the round trip not asked.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rate import Bucket, Resends
from gateway.rate.bucket import MOST_RESENDS, RESEND_BURST_S, RESEND_SHARE

PACKET = 1200


def test_a_full_bucket_lets_a_burst_out_and_then_keeps_the_rate():
    bucket = Bucket(96_000, 3 * PACKET, now_s=0.0)
    left = 0
    for millisecond in range(10_000):
        now_s = millisecond / 1000
        while bucket.wait_s(now_s) == 0.0:
            bucket.spend(PACKET, now_s)
            left += 1
    # 96 kbit/s are 10 packets a second; 10 s, the burst, and the one that overdraws.
    assert 100 <= left <= 100 + 3 + 1


def test_the_wait_is_as_long_as_it_says():
    bucket = Bucket(96_000, PACKET, now_s=5.0)
    bucket.spend(2 * PACKET, 5.0)
    wait_s = bucket.wait_s(5.0)
    assert wait_s == pytest.approx(0.1, abs=0.001)
    assert bucket.wait_s(5.0 + wait_s * 0.9) > 0.0
    assert bucket.wait_s(5.0 + wait_s + 1e-6) == 0.0


def test_what_was_earned_before_a_change_of_rate_was_earned_at_the_old_one():
    bucket = Bucket(96_000, PACKET, now_s=0.0)
    bucket.spend(PACKET * 11, 0.0)
    bucket.set_rate(9_600_000, now_s=0.5)
    assert bucket.wait_s(0.5) > 0.0


def test_a_larger_start_is_given_once():
    bucket = Bucket(96_000, PACKET, now_s=0.0, start_bytes=10 * PACKET)
    for _ in range(10):
        assert bucket.wait_s(0.0) == 0.0
        bucket.spend(PACKET, 0.0)
    assert bucket.wait_s(0.0) > 0.0
    assert bucket.wait_s(100.0) == 0.0
    bucket.spend(PACKET, 100.0)
    assert bucket.wait_s(100.0) > 0.0, "only the ordinary burst came back"


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(50_000, 4_000_000),
    st.lists(st.tuples(st.floats(0.0, 0.3), st.integers(60, 1400), st.integers(50_000, 4_000_000)), max_size=60),
)
def test_no_order_of_calls_gets_more_out_than_rate_and_burst(rate_bps, calls):
    burst = 4 * PACKET
    bucket = Bucket(rate_bps, burst, now_s=0.0)
    now_s, allowance = 0.0, float(burst)
    left = 0
    for wait_s, size, next_rate_bps in calls:
        now_s += wait_s
        allowance += wait_s * bucket.rate_bps / 8
        while bucket.wait_s(now_s) == 0.0:
            bucket.spend(size, now_s)
            left += size
        assert left <= allowance + 1400
        bucket.set_rate(next_rate_bps, now_s=now_s)


@pytest.mark.slow
def test_resends_never_take_more_than_their_share():
    rate_bps = 1_000_000
    resends = Resends(rate_bps, now_s=0.0)
    sent = 0
    for millisecond in range(4_000):
        # A receiver that reports a hundred packets lost each millisecond, as at 38 Mbit/s of resends.
        for _ in range(100):
            if resends.allow(PACKET, times=0, sent_s=0.0, now_s=millisecond / 1000):
                sent += PACKET
    share = rate_bps * RESEND_SHARE / 8
    assert sent <= share * (4.0 + RESEND_BURST_S) + PACKET
    assert sent >= share * 3.6, "and what is allowed is used"
    assert resends.refused > 390_000


@pytest.mark.parametrize(
    ("times", "since_s", "allowed"),
    [
        (0, 0.0, True),
        (1, 0.15, False),  # still on its way: the round trip is 200 ms
        (1, 0.17, True),
        (MOST_RESENDS - 1, 1.0, True),
        (MOST_RESENDS, 1.0, False),
    ],
)
def test_a_packet_is_sent_again_a_few_times_and_a_round_trip_apart(times, since_s, allowed):
    resends = Resends(1_000_000, now_s=0.0)
    resends.set_round_trip(0.2)
    assert resends.allow(PACKET, times=times, sent_s=10.0, now_s=10.0 + since_s) is allowed
