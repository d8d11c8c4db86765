"""What an operations room wants to see, in Prometheus' text form, on a loopback port of its own: no page and no proxy
in front of the console can reach it. Source: Prometheus exposition formats, 0.0.4.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from centre.api.handovers import read_queue
from centre.queue import RANKS
from centre.state import CentreState
from centre.store.handover import STUCK_TRIES

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def metrics(state: CentreState) -> str:
    """Blocking. Homes are counted, never named."""
    now_unix_s = state.clock()
    store = state.store
    known = store.home_states(last=False).values()
    items, handovers = read_queue(state, now_unix_s)
    ranks = Counter(item.rank for item in items)
    lines = [
        _gauge("tillsyn_homes", "Registered homes.", len(state.homes)),
        _gauge(
            "tillsyn_homes_online", "Homes whose connection is up, as the broker says.", sum(h["online"] for h in known)
        ),
        _gauge("tillsyn_pages", "Open console pages of this worker.", state.events.count),
        _gauge(
            "tillsyn_handovers_open",
            "Hand-overs nobody has acknowledged.",
            sum(h["state"] == "open" for h in handovers),
        ),
        _gauge("tillsyn_handovers_late", "Those whose time is up.", ranks["handover-late"]),
        _gauge(
            "tillsyn_deliveries_stuck",
            "Messages to home care that did not go out.",
            store.stuck_deliveries(tries=STUCK_TRIES),
        ),
        _gauge("tillsyn_resident_bytes", "Memory of this worker.", _resident_bytes()),
        "# HELP tillsyn_queue Items in the queue by rank.\n# TYPE tillsyn_queue gauge",
        *(f'tillsyn_queue{{rank="{rank}"}} {ranks[rank]}' for rank in RANKS),
        "# HELP tillsyn_alarms_total Messages and checks that were not in order.\n# TYPE tillsyn_alarms_total counter",
        *(f'tillsyn_alarms_total{{code="{code}"}} {count}' for code, count in sorted(_alarms(state).items())),
    ]
    return "\n".join(lines) + "\n"


def _alarms(state: CentreState) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_gateway, code), count in state.store.alarm_counts().items():
        found[code] += count
    return found


def _gauge(name: str, text: str, value: float) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {value}"


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * _PAGE_BYTES


def make_app(state: CentreState) -> Starlette:
    async def show(_request: Request) -> Response:
        return PlainTextResponse(await asyncio.to_thread(metrics, state), media_type="text/plain; version=0.0.4")

    return Starlette(routes=[Route("/metrics", show)])
