"""Rollouts kept going: the store is asked every few seconds, in one transaction under the write lock, so that several
workers give out each offer once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

from centre.port import BrokerPort
from centre.state import CentreState
from gateway.core.error import TransientError
from gateway.protocol.topic import Branch, topic

LOOK_EVERY_S: Final = 2.0
OFFER_LIFE_S: Final = 300
"""An offer that waited longer in the broker is given again."""

_log = logging.getLogger(__name__)


async def keep_rolling(state: CentreState, broker: BrokerPort, *, every_s: float = LOOK_EVERY_S) -> None:
    """Until cancelled. Raises SQLAlchemyError when the store can't write: end the process then."""
    while True:
        await roll_once(state, broker)
        await asyncio.sleep(every_s)


async def roll_once(state: CentreState, broker: BrokerPort) -> None:
    """One look: what has timed out, what goes on, and the offers that are due, each given out by one worker."""
    for changed in await asyncio.to_thread(state.store.roll, now_unix_s=state.clock()):
        _log.warning("rollout %s: %s", changed["id"], changed["status"])
        state.events.send("fleet", changed)
    due = await asyncio.to_thread(state.store.claim_offers, now_unix_s=state.clock(), new_correlation=_correlation)
    sends = [_give(broker, one) for one in due if one["gateway"] in state.homes]
    for one in await asyncio.gather(*sends):
        if one is not None:
            _log.info("offer to %s not given out; again later", one)


def _correlation() -> bytes:
    return secrets.token_bytes(16)


async def _give(broker: BrokerPort, one: Mapping[str, Any]) -> str | None:
    try:
        await broker.publish(
            topic(one["gateway"], Branch.COMMAND),
            one["offer"].encode(),
            correlation=one["correlation"],
            response_topic=topic(one["gateway"], Branch.REPLY),
            expiry_s=OFFER_LIFE_S,
        )
    except TransientError:
        return str(one["gateway"])
    return None
