"""Orders for the tunnel: verified and recorded here, carried out by `tillsyn-tunnel` on its own socket.

The order is on the disk and in the ledger before the tunnel's service hears of it, and is given again at every start
until that has taken it: whoever of the two was away, the newest settings are tried, and tried once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.config import GuardConfig
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import TakeTunnel
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError, connect
from gateway.ledger import RecordKind
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.message import Accepted
from gateway.services.guard_core import Core
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies

LOG = logging.getLogger("tillsyn.guard")

WHY: Final = "tunnel"
"""Of the `setup` record that an order leaves."""
AGAIN_S: Final = 30.0
ANSWER_LIMIT_S: Final = 15.0


def order_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "tunnel-order"


def _encoded(order: TakeTunnel) -> bytes:
    return msgspec.msgpack.encode(frame.TunnelOrder(msgspec.json.encode(order.settings), order.renew_key))


def is_stored(config: GuardConfig, order: TakeTunnel) -> bool:
    try:
        return order_path(config).read_bytes() == _encoded(order)
    except OSError:
        return False


def store_order(config: GuardConfig, order: TakeTunnel) -> str:
    """Keep an order durably; its digest in hex. Raises OSError."""
    stored = _encoded(order)
    replace_durably(Disk(), order_path(config), stored)
    return hashlib.sha256(stored).hexdigest()


@dataclass(slots=True)
class TunnelSide:
    core: Core
    records: Records
    replies: Replies

    def take(self, order: TakeTunnel, correlation: bytes) -> None:
        """Persist, record, hand over; the answer carries the device's public key. Raises RefusedError."""
        config = self.core.config
        if config.tunnel_socket is None:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "no tunnel here")
        self.core.demand_changeable()
        if not order.is_new and not is_stored(config, order):
            raise RefusedError(RefusalCode.STALE_VERSION, "another order of this version is in force")
        if order.is_new:
            try:
                digest = store_order(config, order)
            except OSError as exc:
                raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
            version = order.settings.version
            self.records.append(
                RecordKind.SETUP, who=order.who, role=order.role, why=WHY, version=version, digest_of=digest
            )
            self.core.gate.tunnel_version = version
        self.core.spawn(self._hand_over(order.re, correlation), "tunnel order")

    async def keep_offering(self) -> None:
        """At a start: until the tunnel's service has the newest order."""
        config = self.core.config
        while config.tunnel_socket is not None and order_path(config).exists():
            if await self._offer() is not None:
                return
            await asyncio.sleep(AGAIN_S)

    async def _hand_over(self, re: str, correlation: bytes) -> None:
        taken = await self._offer()
        gateway = self.core.config.gateway
        if taken is None:
            # It stands on the disk and is given again at the next start. The centre may ask again for the key.
            self.core.spawn(self.keep_offering(), "tunnel order again")
            self.replies.reply(Accepted(gateway, re, self.core.gate.tunnel_version), correlation)
            return
        self.replies.reply(Accepted(gateway, re, taken.version, taken.public_key), correlation)

    async def _offer(self) -> frame.TunnelTaken | None:
        """Give the stored order once; None when the service is not there or does not answer."""
        config = self.core.config
        assert config.tunnel_socket is not None
        try:
            order = msgspec.msgpack.decode(order_path(config).read_bytes(), type=frame.TunnelOrder)
            channel: Channel[frame.ToGuardFromTunnel] = Channel(
                await connect(config.tunnel_socket), frame.ToGuardFromTunnel
            )
        except (OSError, msgspec.MsgspecError, ChannelLostError) as exc:
            LOG.warning("tunnel's service not reached: %s", exc)
            return None
        try:
            channel.send(order)
            async with asyncio.timeout(ANSWER_LIMIT_S):
                taken, _ = await channel.receive()
        except (ChannelLostError, TimeoutError) as exc:
            LOG.warning("tunnel's service did not answer: %s", exc)
            return None
        finally:
            channel.close()
        return taken
