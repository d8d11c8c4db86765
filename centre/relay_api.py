"""The page asks for a check's relay credentials; see centre.relay."""

from __future__ import annotations

import secrets
from typing import Final

import msgspec
from starlette.responses import Response

from centre.answer import answer
from centre.api.endpoint import Call
from centre.relay import ice_servers
from gateway.protocol.topic import Branch, topic

EXPIRY_S: Final = 30
"""For the home's message: it is of no use to a check that is over."""


async def relay(call: Call) -> Response:
    """What the page needs to reach one home's picture; the home is given its part."""
    state, home = call.state, call.the_home
    if state.relay is None:
        return answer({"ice_servers": ice_servers(state.ice, None)})
    once = secrets.token_hex(8)
    now_unix_s = state.clock()
    for_home = state.relay.credentials(f"{home.gateway}.{once}", now_unix_s=now_unix_s)
    state.exchange.tell(topic(home.gateway, Branch.RELAY), msgspec.json.encode(for_home), expiry_s=EXPIRY_S)
    for_page = state.relay.credentials(f"op.{once}", now_unix_s=now_unix_s)
    return answer({"ice_servers": ice_servers(state.ice, for_page)})
