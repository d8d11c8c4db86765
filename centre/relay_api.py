"""The page asks for a check's relay credentials; see centre.relay."""

from __future__ import annotations

import secrets
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from centre.answer import answer, error
from centre.relay import ice_servers
from centre.session import Session
from centre.state import CentreState
from gateway.protocol.topic import Branch, topic

EXPIRY_S: Final = 30
"""For the home's message: it is of no use to a check that is over."""


async def relay_endpoint(state: CentreState, session: Session, request: Request) -> Response:
    """What the page needs to reach one home's picture; the home is given its part."""
    home = state.homes.get(request.path_params["gateway"])
    if home is None:
        return error(404, "unknown-home", "The centre knows no such home. Go back to the list.")
    if "operator" not in session.account.roles:
        return error(403, "wrong-role", "Your account may not make checks. Ask a colleague with the operator role.")
    if state.relay is None:
        return answer({"ice_servers": ice_servers(state.ice, None)})
    once = secrets.token_hex(8)
    now_unix_s = state.clock()
    for_home = state.relay.credentials(f"{home.gateway}.{once}", now_unix_s=now_unix_s)
    state.exchange.tell(topic(home.gateway, Branch.RELAY), msgspec.json.encode(for_home), expiry_s=EXPIRY_S)
    for_page = state.relay.credentials(f"op.{once}", now_unix_s=now_unix_s)
    return answer({"ice_servers": ice_servers(state.ice, for_page)})
