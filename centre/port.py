"""What the centre needs of a broker; `gateway.edge.broker_paho.Broker` is the real one."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.edge.broker_paho import BrokerDown, BrokerUp, Incoming


class BrokerPort(Protocol):
    async def run(self) -> None:
        """Keep one connection up until cancelled."""
        ...

    async def next_event(self) -> Incoming | BrokerUp | BrokerDown:
        """The next message or change, in order."""
        ...

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        correlation: bytes = b"",
        response_topic: str | None = None,
        expiry_s: int | None = None,
    ) -> asyncio.Future[None]:
        """Done at PUBACK; fails with TransientError when there is no connection or it is lost."""
        ...
