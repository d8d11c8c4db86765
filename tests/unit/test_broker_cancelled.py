"""A connection that ends in the very moment it is cancelled is cancelled all the same.

Mutation that turns this red, tried: `asyncio.wait_for(self._ended.wait(), 1.0)` in `_until_ended` (under Python 3.11,
whose wait_for gives the result and forgets that it was cancelled; the home then waits out a back-off of up to 60 s).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.edge.broker_paho import Broker, BrokerAddress
from provisioning.authority.x509 import CertificateAuthority


def test_a_cancelling_in_the_moment_of_the_end_is_not_forgotten(tmp_path: Path):
    authority = CertificateAuthority.make("tillsyn test")
    identity = authority.issue("gw-a")
    for name, content in (("ca", authority.pem()), ("pem", identity.certificate), ("key", identity.key)):
        (tmp_path / name).write_bytes(content)
    address = BrokerAddress("127.0.0.1", 1, tmp_path / "ca", tmp_path / "pem", tmp_path / "key", "localhost")

    async def body() -> None:
        link = Broker(address, client_id="gw-a", subscriptions=[])
        waiting = asyncio.create_task(link._until_ended())
        await asyncio.sleep(0.01)
        link._went_down("the broker stopped")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(body())
