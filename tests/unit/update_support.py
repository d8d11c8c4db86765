"""An offer to make others from, at a fixed time."""

from __future__ import annotations

from gateway.core.interval_clock import Interval
from gateway.protocol.envelope import to_message
from gateway.protocol.message import UpdateOffer

NOW = 1_795_000_000.0
AT_NOW = Interval(NOW - 1, NOW + 1)


def offer(**fields: object) -> UpdateOffer:
    base = {
        "statement": 5, "version": "0.2.0", "compatible": "tillsyn-qemu", "manifest_sha256": "ab" * 32,
        "url": "https://updates.example/tillsyn/0.2.0.raucb", "size_bytes": 140_000_000, "ring": "all",
        "not_before": NOW - 3600, "deadline": NOW + 7 * 86400, "stated": NOW - 7200, "expires": NOW + 14 * 86400,
    }  # fmt: skip
    return to_message({**base, **fields}, UpdateOffer)
