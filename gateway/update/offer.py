"""Which offers a device takes: the release role's word, newer than any before it, for this board, and upward only.

The signature is checked by `protocol.envelope` under the trust statement's release keys; here is what follows from the
content. RAUC's own signature on the bundle is a second, independent one: this one says which bundle is the newest, and
binds the download to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.message import Ring, UpdateOffer

RINGS: Final[tuple[str, ...]] = get_args(Ring)
FRESH_S: Final = 14 * 86400.0
"""So long without a valid statement, and the centre is told: somebody may be keeping updates from this device."""


def version_key(version: str) -> tuple[int, ...]:
    """What versions are compared by."""
    return tuple(int(part) for part in version.split("."))


@dataclass(frozen=True, slots=True)
class Device:
    """What the device knows of itself when an offer comes."""

    compatible: str
    running: str
    """Version of the system that runs."""
    ring: str = "all"
    statement: int = 0
    """The highest statement that was ever taken, durably."""
    floor: str = "0.0.0"
    """The highest version that was ever good here: nothing below it comes back, whichever slot runs."""


def judge(offer: UpdateOffer, device: Device, interval: Interval) -> bool:
    """Whether there is something to install; False is a statement that this device is up to date.

    Raises RefusedError: wrong-device (another board, or a release that is not signed for this device's ring),
    stale-version (a statement not above the last, expired, or a version below what was good), malformed (times that
    contradict one another). The statement alone is not yet permission to begin: see `quiet` and `in_time`.
    """
    if not offer.stated < offer.expires or not offer.not_before < offer.deadline:
        raise RefusedError(RefusalCode.MALFORMED, "the offer's times")
    if offer.compatible != device.compatible:
        raise RefusedError(RefusalCode.WRONG_DEVICE, "compatible")
    if RINGS.index(offer.ring) < RINGS.index(device.ring):
        raise RefusedError(RefusalCode.WRONG_DEVICE, "not signed for this ring")
    if offer.statement <= device.statement:
        raise RefusedError(RefusalCode.STALE_VERSION, "statement")
    # A clock that only knows a lower bound can still tell that something has expired, never that it has not.
    if interval.lo_unix_s >= offer.expires:
        raise RefusedError(RefusalCode.STALE_VERSION, "expired")
    highest = max(version_key(device.running), version_key(device.floor))
    if version_key(offer.version) < highest:
        raise RefusedError(RefusalCode.STALE_VERSION, "version")
    return version_key(offer.version) > version_key(device.running)


def in_time(offer: UpdateOffer, interval: Interval) -> bool | None:
    """Whether the offer may be begun by its own times: True, None for not yet, False for not any more."""
    if interval.lo_unix_s >= min(offer.deadline, offer.expires):
        return False
    return True if interval.lo_unix_s >= offer.not_before else None


def is_stale(stated_unix_s: float, interval: Interval) -> bool:
    """Whether the newest valid statement is so old that the centre is to be told. A lower bound suffices to know it."""
    return interval.lo_unix_s - stated_unix_s > FRESH_S
