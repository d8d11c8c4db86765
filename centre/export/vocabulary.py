"""Closed lists of the ledger in words for people."""

from __future__ import annotations

from typing import Final

from centre.export.account import CLOCK_WIDE_S, shown
from centre.export.words import Words, later
from gateway.ledger import Record

OUTCOMES: Final = {
    "seen": later("the resident was seen"),
    "not-seen": later("the resident was not seen"),
    "unsure": later("the operator was unsure"),
    "no-verdict": later("no answer was given"),
    "broken": later("broken off before there was a picture to judge"),
    "unclosed": later("no ending is recorded"),
}
ENDINGS: Final = {
    "seen": later("ended by the operator's answer"),
    "not-seen": later("ended by the operator's answer"),
    "unsure": later("ended by the operator's answer"),
    "operator-closed": later("closed by the operator"),
    "time-up": later("the agreed length was reached"),
    "lease-lapsed": later("the operator's browser fell silent"),
    "no-picture": later("there was no picture"),
    "seal-broken": later("the picture's seal was broken on the way"),
    "resident-stopped": later("stopped by the resident"),
    "revoked": later("the operator's permission was withdrawn"),
    "returned": later("the device is returned"),
    "camera-fault": later("fault in the camera"),
    "mount-fault": later("fault in the camera's mount"),
    "low-power": later("too little power"),
    "eye-lost": later("the camera's program ended"),
    "link-lost": later("the network's program ended"),
    "broker-lost": later("the connection to the centre was lost"),
    "ledger-unwritable": later("the log could not be written"),
    "service-stopped": later("the device was stopped"),
    "recovered": later("cut off; the ending was recorded at the next start"),
}
REFUSALS: Final = {
    "malformed": later("not understood"),
    "bad-signature": later("wrong signature"),
    "unknown-key": later("unknown or expired key"),
    "wrong-role": later("not that person's task"),
    "wrong-device": later("meant for another device"),
    "not-agreed": later("not agreed"),
    "outside-window": later("outside the agreed time"),
    "budget-spent": later("no agreed look was left"),
    "paused": later("during a pause"),
    "withdrawn": later("after the resident had stopped"),
    "no-consent": later("no valid consent"),
    "stale-version": later("an older agreement"),
    "nonce-unknown": later("not asked for by the device"),
    "nonce-used": later("used before"),
    "nonce-expired": later("too late"),
    "clock-untrusted": later("the device was not sure of the time"),
    "busy": later("the device was busy"),
    "not-parked": later("the camera was not turned up"),
    "camera-fault": later("fault in the camera"),
    "mount-fault": later("fault in the camera's mount"),
    "ledger-unwritable": later("the log could not be written"),
    "integrity-alarm": later("the device doubted its own log"),
    "low-power": later("too little power"),
    "updating": later("during an update"),
    "returned": later("the device is returned"),
    "rate-limited": later("too many requests"),
}
MISSED: Final = {
    "missed-check": later("nobody looked"),
    "check-broken": later("the look was broken off"),
    "recheck-missed": later("nobody looked again"),
    "not-seen": later("not seen, and no hand-over was said"),
}
DOUBTS: Final = {
    "integrity-alarm": later("the device doubted its own log"),
    "button-stuck": later("the resident's button is stuck"),
    "moved": later("the camera was moved or taken down"),
    "contradicted": later("two clocks contradict each other"),
    "torn-tail": later("a power cut while a record was written"),
}
FAULTS: Final = {
    "edited": later("a record was changed"),
    "removed": later("something was taken away"),
    "reordered": later("records stand in another order"),
    "inserted": later("a record was put in"),
    "truncated": later("records at the end are missing"),
    "forked": later("another log than was signed"),
    "key-substituted": later("signed with another key"),
    "unreadable": later("it can't be read"),
}
ROLES: Final = {
    "operator": later("an alarm operator"),
    "planner": later("a planner"),
    "steward": later("a steward"),
    "installer": later("an installer"),
    "release": later("a releaser of updates"),
}
STEPS: Final = {
    "call-resident": later("we phone you"),
    "call": later("we phone you"),
    "call-contact": later("we phone your contact person"),
    "visit": later("home care comes to you"),
}
"""The agreement's steps are the municipality's own words; these are the ones the examples use."""


def outcome(code: str, say: Words) -> str:
    return say(OUTCOMES[code])


def ending(code: str | None, say: Words) -> str:
    """Why a look ended; a word of a later version is given as it stands."""
    if code is None:
        return ""
    return say(ENDINGS[code]) if code in ENDINGS else shown(code)


def refusal(code: str, say: Words) -> str:
    return say(REFUSALS[code]) if code in REFUSALS else shown(code)


def missed(code: str, say: Words) -> str:
    """Why nobody was seen on an agreed occasion."""
    return say(MISSED[code]) if code in MISSED else shown(code)


def doubt(code: str, say: Words) -> str:
    """What the device says of itself or its log."""
    return say(DOUBTS[code]) if code in DOUBTS else shown(code)


def fault(code: str, say: Words) -> str:
    """What seems to have been done to a log that doesn't verify."""
    return say(FAULTS[code]) if code in FAULTS else shown(code)


def role(code: str | None, say: Words) -> str:
    if code is None:
        return say("somebody whose role is not recorded")
    return say(ROLES[code]) if code in ROLES else say("somebody with the role {role}", role=shown(code))


def certainty(record: Record, say: Words) -> str:
    """How well the time of a record is known."""
    if record.time_hi is None:
        return say("uncertain: not earlier than this")
    width_s = record.time_hi - record.time_lo
    if width_s > CLOCK_WIDE_S:
        return say.plural("uncertain: within {n} minute", "uncertain: within {n} minutes", round(width_s / 60))
    return say.plural("within {n} second", "within {n} seconds", max(1, round(width_s)))
