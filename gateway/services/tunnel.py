"""The tunnel: WireGuard from the home to the centre. Holds the tunnel's private key and the right to set up interfaces.

Unit: tillsyn-tunnel, a user of its own. It is the one process of ours with CAP_NET_ADMIN (with NetworkManager it needs
none), and it speaks with nobody on the network: the kernel does. Link has the network and no such right, the guard has
neither and gives the orders that it has verified. Without this service the home is reached by the fallback.

What it promises: settings and key are on the disk before they are applied; settings that reach nobody for ten minutes
are left again for those that did; a private key is never sent anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from gateway.config import TunnelConfig
from gateway.core.boottime import boottime_s
from gateway.core.error import ConfigError
from gateway.core.secret_mode import is_open_to_others
from gateway.edge.service_systemd import feed_watchdog, harden, listening_socket, run_until_signal
from gateway.edge.tunnel_port import TunnelError, TunnelPort
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.message import TunnelSettings
from gateway.protocol.tunnel_key import new_private_key, public_key
from gateway.tunnel import Apply, Elapsed, Event, Keep, Ordered, Reached, Settled, State, step

LOG = logging.getLogger("tillsyn.tunnel")

LOOK_EVERY_S: Final = 5.0
AGAIN_EVERY_S: Final = 60.0
"""While nobody answers, the settings are applied anew this often: the centre's name may have another address now."""
ORDER_LIMIT_S: Final = 10.0


class TunnelFiles:
    """State and keys on the disk. The first key and settings are the enrolment's; later ones are made here."""

    def __init__(self, config: TunnelConfig) -> None:
        """Raises ConfigError where state, settings or a key can't be read: no tunnel is better than another's."""
        self._first_key = Path(config.key)
        self._folder = Path(config.state_dir)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / "tunnel-state.json"
        self._state_path = path
        try:
            if path.exists():
                self.state = msgspec.json.decode(path.read_bytes(), type=State)
            else:
                path = Path(config.settings)
                settings = msgspec.json.decode(path.read_bytes(), type=TunnelSettings)
                self.state = State(Settled(settings, 0), settings.version)
        except (OSError, msgspec.MsgspecError, ValueError) as exc:
            raise ConfigError(f"{path}: {exc}") from exc
        self.private_key(self.state.in_force)

    def private_key(self, settled: Settled) -> bytes:
        """Raises ConfigError where it is missing, damaged, or readable by others."""
        path = self._key_path(settled.key)
        try:
            if is_open_to_others(path, path.stat().st_mode):
                raise ConfigError(f"{path}: others than its owner may read this key: chmod 600")
            private = path.read_bytes()
            public_key(private)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{path}: not a private key of WireGuard ({exc})") from exc
        return private

    def keep(self, state: State) -> None:
        """Write `state` durably, with its key before it; drop keys that nothing refers to. Raises OSError."""
        if not self._key_path(state.current.key).exists():
            replace_durably(Disk(), self._key_path(state.current.key), new_private_key() + b"\n")
        replace_durably(Disk(), self._state_path, msgspec.json.encode(state))
        self.state = state
        for path in self._folder.glob("tunnel-*.key"):
            if path not in (self._key_path(state.in_force.key), self._key_path(state.current.key)):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _key_path(self, number: int) -> Path:
        return self._first_key if number == 0 else self._folder / f"tunnel-{number}.key"


@dataclass(slots=True)
class Tunnel:
    """The running service."""

    files: TunnelFiles
    port: TunnelPort
    listener: socket.socket
    now: Callable[[], float] = boottime_s
    _applied_s: float | None = None
    """When the settings that now hold were first applied; None: not yet."""
    _tried_s: float = 0.0
    _reached: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._take_orders(), name="orders")
                group.create_task(self._look(), name="look")
                group.create_task(feed_watchdog(), name="watchdog")
        finally:
            self.listener.close()
            with contextlib.suppress(TunnelError):
                await self.port.remove()

    async def look(self) -> None:
        """One round: apply what is not applied yet, and see whether anybody answers."""
        async with self._turn:
            now_s = self.now()
            if self._applied_s is None:
                await self._apply(self.files.state.current)
                return
            try:
                reached = await self.port.reached()
            except TunnelError as exc:
                LOG.warning("%s", exc)
                await self._apply(self.files.state.current)
                return
            if reached:
                if not self._reached:
                    LOG.info("tunnel: the centre answers")
                self._reached = True
                await self._do(Reached())
                return
            await self._do(Elapsed(now_s - self._applied_s))
            if not self._reached and now_s - self._tried_s >= AGAIN_EVERY_S:
                await self._apply(self.files.state.current, fresh=False)

    async def order(self, order: frame.TunnelOrder) -> frame.TunnelTaken:
        """Take the guard's order, or know it already. Raises ValueError for what is no order, OSError from the disk."""
        settings = msgspec.json.decode(order.settings, type=TunnelSettings)
        async with self._turn:
            await self._do(Ordered(settings, order.renew_key))
            current = self.files.state.current
            return frame.TunnelTaken(self.files.state.high_water, public_key(self.files.private_key(current)))

    async def _do(self, event: Event) -> None:
        before = self.files.state
        _, effects = step(before, event)
        for effect in effects:
            match effect:
                case Keep(state):
                    self.files.keep(state)
                case Apply(settled):
                    await self._apply(settled)
        after = self.files.state
        if effects:
            words = "on trial" if after.trial is not None else "in force"
            LOG.warning("tunnel: version %d is %s", after.current.settings.version, words)

    async def _apply(self, settled: Settled, *, fresh: bool = True) -> None:
        self._tried_s = self.now()
        self._reached = False
        if fresh:
            self._applied_s = self._tried_s
        try:
            await self.port.apply(settled.settings, self.files.private_key(settled))
        except TunnelError as exc:
            LOG.warning("tunnel not made: %s", exc)
            if fresh and self.files.state.trial is None:
                self._applied_s = None  # at the next look again

    async def _look(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _take_orders(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self.listener)
            channel: Channel[frame.ToTunnel] = Channel(sock, frame.ToTunnel)
            try:
                async with asyncio.timeout(ORDER_LIMIT_S):
                    got, _ = await channel.receive()
                channel.send(await self.order(got))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await channel.receive()  # until the guard has read it and hangs up
            except (ChannelLostError, TimeoutError, msgspec.MsgspecError, ValueError) as exc:
                LOG.warning("order not taken: %s", exc)
            finally:
                channel.close()


def make_port(config: TunnelConfig) -> TunnelPort:
    if config.driver == "wg":
        from gateway.edge.tunnel_wg import WgTunnel

        return WgTunnel(config.interface)
    from gateway.edge.tunnel_networkmanager import NetworkManagerTunnel

    return NetworkManagerTunnel(config.interface)


def main(config: TunnelConfig) -> None:
    """Run until SIGTERM; the interface goes with it. Raises ConfigError for unusable state, settings or key."""
    harden()
    files = TunnelFiles(config)

    async def run() -> None:
        await Tunnel(files, make_port(config), listening_socket(Path(config.tunnel_socket))).run()

    run_until_signal(run())
