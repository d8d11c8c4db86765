"""A rollout: one update, given to the homes ring by ring, and stopped by itself when too many of them fail or fall
silent.

The words are those of AWS IoT Jobs (job status, job execution status, abort criteria, rollout rate), so that whoever
knows a fleet knows this one. The rules are pure; `centre.rolling` has them obeyed. Nothing here can make a home take
anything: the offer is the release role's, and each home judges it for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.core.refusal import RefusedError
from gateway.protocol import strict_json
from gateway.protocol.envelope import split, to_message
from gateway.protocol.key import b64url_decode
from gateway.protocol.message import UpdateOffer
from gateway.update.offer import version_key

LAB: Final = "lab"
"""A group of homes, or rather of devices on a bench: they go first."""
RINGS: Final = (("lab", 0.0), ("one-percent", 0.01), ("ten-percent", 0.10), ("half", 0.50), ("all", 1.0))
ENDED: Final = frozenset({"succeeded", "failed", "timed-out", "rejected", "canceled"})
BAD: Final = frozenset({"failed", "timed-out", "rejected"})
AGAIN_S: Final = 900.0
"""So long after an offer without an answer it is given again: the home was away."""


class Criteria(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast, and when to stop."""

    abort_percent: float = 2.0
    """Halt when more than this share of the homes that have been given the offer in this ring failed or fell silent."""
    min_executed: int = 10
    """Below so many homes one failure is no share; there every failure halts that is more than `abort_failures`."""
    abort_failures: int = 1
    silent_s: float = 6 * 3600.0
    """A home that has been given the offer and says nothing for so long counts as failed."""
    soak_s: float = 24 * 3600.0
    """So long a ring must have been done and well before the next one."""
    per_minute: int = 60
    """Offers given out, at most."""
    needs_approval: bool = True
    """A person lets each next ring begin."""

    def problem(self) -> str | None:
        """What is wrong with them, in plain words."""
        if not 0 < self.abort_percent <= 50 or not 1 <= self.min_executed <= 1000 or not 0 <= self.abort_failures <= 50:
            return "The abort threshold is above 0 and at most 50 %, from 1 to 1000 homes on."
        if not 1 <= self.silent_s <= 14 * 86400 or not 0 <= self.soak_s <= 30 * 86400:
            return "Silence is 1 s to 14 days, soak 0 to 30 days."
        return None if 1 <= self.per_minute <= 100_000 else "The rate is 1 to 100000 a minute."


def paces(criteria: Criteria) -> tuple[tuple[int, float], ...]:
    """How many offers at most within how many seconds. A minute's worth at once would be answered at once as well, and
    what a broker holds for a centre that is behind is bounded.
    """
    return (criteria.per_minute, 60.0), (max(1, criteria.per_minute // 10), 6.0)


@dataclass(frozen=True, slots=True)
class Place:
    """One home's place in the plan."""

    gateway: str
    ring: int


def plan(homes: Mapping[str, Iterable[str]], salt: str, *, widest: str) -> list[Place]:
    """Which home is in which ring: the lab first, the others in an order that nobody chose.

    `widest` is the ring that the offer is signed for; homes of wider rings are left out.
    """
    names = [name for name, _ in RINGS]
    last = names.index(widest)
    lab = sorted(gateway for gateway, groups in homes.items() if LAB in groups)
    rest = sorted(
        (gateway for gateway in homes if gateway not in set(lab)),
        key=lambda gateway: hashlib.sha256(f"{salt}/{gateway}".encode()).digest(),
    )
    places = [Place(gateway, 0) for gateway in lab]
    begin = 0
    for ring, (_, share) in enumerate(RINGS[1:], start=1):
        if ring > last:
            break
        # At least one home a ring, so that a small fleet has its canary too.
        end = len(rest) if share == 1.0 else min(len(rest), max(begin + 1, round(len(rest) * share)))
        places += [Place(gateway, ring) for gateway in rest[begin:end]]
        begin = max(begin, end)
    return places


def is_over_threshold(begun: int, bad: int, criteria: Criteria) -> bool:
    """Whether so many of the ring's homes that were given the offer failed that a person must look."""
    if begun < criteria.min_executed:
        return bad > criteria.abort_failures
    return bad * 100.0 > begun * criteria.abort_percent


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the ring that is being given out, by execution status."""

    queued: int = 0
    in_progress: int = 0
    succeeded: int = 0
    bad: int = 0
    bad_before: int = 0
    """Of `bad`, those that a person has seen when the rollout was resumed."""
    begun_before: int = 0

    @property
    def begun(self) -> int:
        return self.in_progress + self.succeeded + self.bad


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of a rollout: another status, or the next ring."""

    status: str
    ring: int
    why: str | None = None


def advance(
    status: str, ring: int, counts: Counts, criteria: Criteria, *, quiet_s: float, is_approved: bool, last_ring: int
) -> Step | None:
    """The next step, None for none. `quiet_s` is how long nothing has changed in this ring."""
    if status not in ("in-progress", "awaiting-approval"):
        return None
    fresh_bad = counts.bad - counts.bad_before
    if is_over_threshold(counts.begun - counts.begun_before, fresh_bad, criteria):
        return Step("halted", ring, "abort-threshold")
    if counts.queued or counts.in_progress:
        return None
    empty = counts.begun == 0
    if not empty and quiet_s < criteria.soak_s:
        return None
    if ring >= last_ring:
        return Step("completed", ring)
    if criteria.needs_approval and not is_approved and not empty:
        return None if status == "awaiting-approval" else Step("awaiting-approval", ring)
    return Step("in-progress", ring + 1)


def read_offer(untrusted: bytes) -> UpdateOffer | None:
    """What an offer claims, unverified: the centre holds no release key, and each home verifies. None for no offer."""
    try:
        envelope = split(untrusted.strip())
        if envelope.kind != UpdateOffer.KIND:
            return None
        return to_message(strict_json.loads(b64url_decode(envelope.untrusted_payload)), UpdateOffer)
    except RefusedError:
        return None


def status_of(phase: str) -> str:
    """A home's word as a job execution's status."""
    return {"good": "succeeded", "fell-back": "failed", "failed": "failed", "refused": "rejected"}.get(
        phase, "in-progress"
    )


def is_wanted(running: str | None, offer: UpdateOffer) -> bool:
    """Whether a home that runs `running` is to be given the offer; one that says nothing usable is."""
    try:
        return running is None or version_key(running) < version_key(offer.version)
    except ValueError:
        return True


def shown(places: Sequence[Place]) -> list[dict[str, Any]]:
    """The plan as people read it: each ring with its homes' number."""
    return [
        {"ring": name, "homes": sum(1 for place in places if place.ring == number)}
        for number, (name, _) in enumerate(RINGS)
    ]
