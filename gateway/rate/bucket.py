"""Two bounds on what leaves: so many bytes in a second, and of those so many for packets that were lost.

The bounds hold for any order of calls. Bytes in a time T are never more than rate * T / 8 + burst + one packet.
"""

from __future__ import annotations

from typing import Final

RESEND_SHARE: Final = 0.5
"""Of the rate, what may go to packets sent again. Without it a stream of 2 Mbit/s on a line of 1 Mbit/s grew to
38 Mbit/s of resends, and no picture came (measured November 2026)."""
RESEND_BURST_S: Final = 0.5
MOST_RESENDS: Final = 5
"""Of one packet. At 10 % loss, one in a hundred thousand is then lost for good."""
LEAST_RESEND_GAP_S: Final = 0.02


class Bucket:
    """A token bucket that may be overdrawn by one packet. Times in s, of one clock that doesn't go back."""

    def __init__(
        self,
        rate_bps: float,
        burst_bytes: float,
        *,
        now_s: float,
        start_bytes: float | None = None,
        burst_s: float = 0.0,
    ) -> None:
        """`start_bytes`: what may leave at once at the very beginning, where it is more than `burst_bytes`.

        `burst_s`: the burst is at least what the rate makes in this time, for who looks no more often than that.
        """
        self._rate_bps = rate_bps
        self._least_burst_bytes = burst_bytes
        self._burst_s = burst_s
        self._burst_bytes = max(burst_bytes, rate_bps * burst_s / 8.0)
        self._level_bytes = burst_bytes if start_bytes is None else start_bytes
        self._at_s = now_s

    @property
    def rate_bps(self) -> float:
        return self._rate_bps

    def set_rate(self, rate_bps: float, *, now_s: float) -> None:
        self._fill(now_s)
        self._rate_bps = rate_bps
        self._burst_bytes = max(self._least_burst_bytes, rate_bps * self._burst_s / 8.0)

    def wait_s(self, now_s: float) -> float:
        """How long until the next packet may leave; 0 when it may leave now."""
        self._fill(now_s)
        return 0.0 if self._level_bytes > 0.0 else (1.0 - self._level_bytes) * 8.0 / self._rate_bps

    def spend(self, size_bytes: int, now_s: float) -> None:
        """A packet left."""
        self._fill(now_s)
        self._level_bytes -= size_bytes

    def _fill(self, now_s: float) -> None:
        # A start that was larger than the burst runs down and doesn't come back.
        if self._level_bytes < self._burst_bytes:
            earned_bytes = (now_s - self._at_s) * self._rate_bps / 8.0
            self._level_bytes = min(self._burst_bytes, self._level_bytes + earned_bytes)
        self._at_s = now_s


class Resends:
    """Whether a packet that was reported lost is sent again. A receiver repeats itself, and may be wrong or hostile."""

    def __init__(self, rate_bps: float, *, now_s: float) -> None:
        share_bps = rate_bps * RESEND_SHARE
        self._bucket = Bucket(share_bps, share_bps * RESEND_BURST_S / 8.0, now_s=now_s)
        self._round_trip_s = LEAST_RESEND_GAP_S
        self.refused = 0

    def set_rate(self, rate_bps: float, *, now_s: float) -> None:
        # The burst stays that of the rate it began with: it is small either way.
        self._bucket.set_rate(rate_bps * RESEND_SHARE, now_s=now_s)

    def set_round_trip(self, round_trip_s: float) -> None:
        self._round_trip_s = max(LEAST_RESEND_GAP_S, round_trip_s)

    def lasts_s(self, size_bytes: int) -> float:
        """How long it would take to send so much again."""
        return size_bytes * 8.0 / self._bucket.rate_bps

    def allow(self, size_bytes: int, *, times: int, sent_s: float, now_s: float) -> bool:
        """For a packet sent again `times` times before and last at `sent_s`. True spends its bytes."""
        too_often = times >= MOST_RESENDS
        # What was sent less than most of a round trip ago can't have been missed yet.
        on_its_way = times > 0 and now_s - sent_s < 0.8 * self._round_trip_s
        if too_often or on_its_way or self._bucket.wait_s(now_s) > 0.0:
            self.refused += 1
            return False
        self._bucket.spend(size_bytes, now_s)
        return True
