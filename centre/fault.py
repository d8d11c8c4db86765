"""What is not in order at a home, found from what it says and from its silence.

Night-safe: a fault by itself sends nobody at night. One that is urgent (`now`) and has lasted five minutes while an
agreed check's window is open becomes a hand-over of that check, so that home care has the time that is left; everything
else is the technician's, by day. So is a consent that ends within a month, which is a planner's. A home that is silent
is noticed within `SILENT_S` of its last word or of the broker's, and looked for every `LOOK_EVERY_S`: together less
than five minutes after it could be known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

from centre.handover import begin, tell
from centre.plan import consent_ends
from centre.running import is_running
from centre.state import CentreState
from centre.store.handover import STUCK_TRIES
from gateway.agreement import parse_agreement
from gateway.core.refusal import RefusedError

SILENT_S: Final = 600.0
"""A home says hello every 300 s (docs/protocol.md); two of them missing is silence."""
OFFLINE_S: Final = 60.0
"""A connection that comes back within this is no fault. Counted from the broker's word (the will)."""
LOOK_EVERY_S: Final = 30.0
LASTS_S: Final = 300.0
"""A fault that is over sooner takes no check from the operators."""
CONSENT_S: Final = 30 * 86_400.0
"""How long before a consent or an agreement ends somebody is told: time to ask the resident again."""
RETURN_S: Final = 24 * 3600.0
"""How long a device may be closed at the centre without its own word that it was erased."""
URGENCY: Final[Mapping[str, Literal["now", "day"]]] = {
    "home-silent": "now",
    "home-disabled": "now",
    "camera-fault": "now",
    "mount-fault": "now",
    "not-parked": "now",
    "ledger-unwritable": "now",
    "integrity-alarm": "now",
    "low-power": "now",
    "clock-untrusted": "now",
    "no-agreement": "day",
    "never-heard": "day",
    "consent-ends": "day",
    "delivery-failed": "now",
    "return-unconfirmed": "day",
}
_OBSTACLES: Final = frozenset(
    {"camera-fault", "mount-fault", "not-parked", "ledger-unwritable", "integrity-alarm", "low-power"}
)

_TAKES_NO_CHECK: Final = frozenset({"delivery-failed"})
"""Urgent, and nothing by which the home's next check could not be made."""

_log = logging.getLogger(__name__)


def faults_of(known: Mapping[str, Any], *, is_disabled: bool, awake_unix_s: float, now_unix_s: float) -> frozenset[str]:
    """The codes that hold for one home now; `known` is its row of the register.

    What was said before this worker listened (`awake_unix_s`) it can't have heard: silence counts from then on.
    """
    found: set[str] = set()
    if is_disabled:
        found.add("home-disabled")
    heard, offline = known["heard_unix_s"], known["offline_unix_s"]
    is_quiet = now_unix_s - max(heard or 0.0, awake_unix_s) > SILENT_S
    if heard is None:
        return frozenset(found | {"never-heard"}) if is_quiet else frozenset(found)
    if is_quiet or (offline is not None and now_unix_s - max(offline, awake_unix_s) > OFFLINE_S):
        found.add("home-silent")
    if known["obstacle"] in _OBSTACLES:
        found.add(known["obstacle"])
    if known["clock_state"] in ("floor", "contradicted"):
        found.add("clock-untrusted")
    if known["agreement"] is None:
        found.add("no-agreement")
    return frozenset(found)


def look(
    state: CentreState, *, now_unix_s: float, awake_unix_s: float = 0.0
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Find and enter faults; returns the new (gateway, code) and the hand-overs (id, gateway) that came of them.
    Blocking.

    Repeating it, or another worker doing the same, changes nothing.
    """
    store, homes = state.store, state.homes
    known = store.home_states(last=False)
    disabled = store.disabled(state.installations)
    ending = _consent_ends(state, now_unix_s)
    stuck = store.stuck_gateways(tries=STUCK_TRIES)
    returned = store.returned(state.installations)
    found = {
        gateway: _of_returned(returned[gateway], now_unix_s=now_unix_s)
        if gateway in returned
        else faults_of(
            known[gateway],
            is_disabled=gateway in disabled,
            awake_unix_s=awake_unix_s,
            now_unix_s=now_unix_s,
        )
        | ({"consent-ends"} if gateway in ending else set())
        | ({"delivery-failed"} if gateway in stuck else set())
        for gateway in list(homes)
        if gateway in known  # one may be admitted while we look
    }
    new = store.put_faults(found, now_unix_s=now_unix_s)
    begun: list[tuple[str, str]] = []
    for fault in store.faults():
        gateway, code = fault["gateway"], fault["code"]
        if (
            gateway not in known
            or gateway not in homes
            or URGENCY.get(code) != "now"
            or code in _TAKES_NO_CHECK
            or fault["since_unix_s"] > now_unix_s - LASTS_S
        ):
            continue
        for one in _open_now(known[gateway], now_unix_s):
            handover = begin(
                store,
                gateway=gateway,
                install_epoch=homes[gateway].install_epoch,
                line=one["line"],
                occasion=one["occasion"],
                reason=code,
                now_unix_s=now_unix_s,
            )
            if handover is not None:
                begun.append((handover, gateway))
    return new, begun


def _of_returned(row: Mapping[str, Any], *, now_unix_s: float) -> frozenset[str]:
    """A device that goes back may be silent, and dark: only that it never said its last word is a fault."""
    is_late = row["closed_unix_s"] is not None and now_unix_s - row["closed_unix_s"] > RETURN_S
    return frozenset({"return-unconfirmed"}) if is_late and row["statement_jws"] is None else frozenset()


def _consent_ends(state: CentreState, now_unix_s: float) -> set[str]:
    """The homes in whose agreement a consent, or the agreement itself, ends within a month or has ended."""
    soon = datetime.fromtimestamp(now_unix_s + CONSENT_S, UTC).date().isoformat()
    epochs = state.installations
    found = set()
    for (gateway, install_epoch), row in state.store.newest_agreements().items():
        ends = _ends(row["agreement_json"]) if epochs.get(gateway) == install_epoch else None
        if ends is not None and ends <= soon:
            found.add(gateway)
    return found


@lru_cache(maxsize=10_000)
def _ends(agreement_json: str) -> str | None:
    """The local date on which it ends; None for what no longer is an agreement to us."""
    try:
        return consent_ends(parse_agreement(agreement_json.encode()))
    except RefusedError:
        return None


def _open_now(known: Mapping[str, Any], now_unix_s: float) -> Iterable[Mapping[str, Any]]:
    """What could be made now, of one home's row; a window that is over is the missed-check job's.

    Also a check that its home was making when it was heard last, once that must have ended: nobody has said how.
    """
    for one in known["due"]:
        is_left = one["status"] in ("soon", "due", "recheck")
        is_left = is_left and not is_running(one, known["heard_unix_s"], now_unix_s=now_unix_s)
        if is_left and one["opens_unix_s"] <= now_unix_s < one["closes_unix_s"]:
            yield one


async def keep_looking(state: CentreState) -> None:
    """Every 30 s until cancelled. Raises SQLAlchemyError when the store can't write: end the process then."""
    awake_unix_s = state.clock()
    while True:
        await look_once(state, awake_unix_s=awake_unix_s)
        await asyncio.sleep(LOOK_EVERY_S)


async def look_once(state: CentreState, *, awake_unix_s: float = 0.0) -> None:
    new, begun = await asyncio.to_thread(look, state, now_unix_s=state.clock(), awake_unix_s=awake_unix_s)
    for gateway, code in new:
        level = logging.WARNING if URGENCY[code] == "now" else logging.INFO
        _log.log(level, "%s: fault: %s", gateway, code)
        state.events.send("fault", {"gateway": gateway, "code": code})
    for handover, gateway in begun:
        tell(state, handover, gateway)
