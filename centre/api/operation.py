"""How a home's device is, and what its services logged."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.responses import Response

from centre.answer import answer
from centre.api import answers
from centre.api.endpoint import Call, Endpoint
from centre.role import AT_THE_DESK, CentreRole


async def operation(call: Call) -> Response:
    store, gateway = call.state.store, call.the_home.gateway
    health = await asyncio.to_thread(store.health, gateway)
    logged = await asyncio.to_thread(store.device_log, gateway)
    return answer({"health": health, "logged": logged})


ENDPOINTS: Final = (
    Endpoint(
        "operation", "GET", "/homes/{gateway}/operation", operation,
        "The device's newest health report, and what it logged at warning and above, counted by the hour.",
        answers.OperationFacts, roles=AT_THE_DESK | {CentreRole.INSTALLER},
    ),
)  # fmt: skip
