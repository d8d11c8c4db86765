"""The tunnel by WireGuard's own tools: `wg` and `ip`, in the kernel or, where the kernel has none, by wireguard-go.

Needs CAP_NET_ADMIN. The private key goes to `wg` on its standard input and stands in no command line.
Source: wg(8), ip-link(8), wireguard-go's README.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from gateway.edge.tunnel_port import TunnelError
from gateway.protocol.message import TunnelSettings

LOG = logging.getLogger("tillsyn.tunnel")

COMMAND_LIMIT_S: Final = 10.0
"""`wg` asks the resolver for the endpoint's name, and tries again by itself for some seconds."""
FILTER_SET: Final = "inet tillsyn endpoint"
"""Of systemd/nftables/tillsyn.nft."""
USERSPACE_LIMIT_S: Final = 5.0


class WgTunnel:
    """One interface; `remove` it when done. The kernel's own stays when the process ends, wireguard-go's does not."""

    def __init__(self, interface: str, *, before: Sequence[str] = ()) -> None:
        """`before` are words before each command, such as `ip netns exec` and a namespace's name."""
        self._interface = interface
        self._before = tuple(before)
        self._userspace: asyncio.subprocess.Process | None = None

    async def apply(self, settings: TunnelSettings, private_key: bytes) -> None:
        name = self._interface
        await self._ensure_interface()
        allowed = ",".join(f"{address}/32" for address in settings.centre)
        conf = (
            f"[Interface]\nPrivateKey = {private_key.decode().strip()}\n"
            f"[Peer]\nPublicKey = {settings.centre_key}\nAllowedIPs = {allowed}\n"
            f"Endpoint = {settings.endpoint_host}:{settings.endpoint_port}\n"
        )
        # `setconf` takes all peers away first: what `reached` sees afterwards belongs to these settings.
        await self._run(["wg", "setconf", name, "/dev/stdin"], conf.encode())
        await self._let_out()
        await self._run(["ip", "address", "flush", "dev", name])
        await self._run(["ip", "address", "add", f"{settings.address}/32", "dev", name])
        await self._run(["ip", "link", "set", "dev", name, "mtu", str(settings.mtu_bytes), "up"])
        for address in settings.centre:
            await self._run(["ip", "route", "replace", f"{address}/32", "dev", name, "src", settings.address])

    async def reached(self) -> bool:
        said = await self._run(["wg", "show", self._interface, "latest-handshakes"])
        return any(line.split()[-1] != "0" for line in said.decode().splitlines() if line.strip())

    async def remove(self) -> None:
        if await self._exists():
            await self._run(["ip", "link", "delete", "dev", self._interface])
        if self._userspace is not None:
            process, self._userspace = self._userspace, None
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    async def _let_out(self) -> None:
        """Tell the packet filter the endpoint's address as `wg` has just resolved it; on a bench there is no filter."""
        said = (await self._run(["wg", "show", self._interface, "endpoints"])).decode().split()
        host, _, port = said[-1].rpartition(":")
        words = f"flush set {FILTER_SET}; add element {FILTER_SET} {{ {host} . {port} }}"
        with contextlib.suppress(TunnelError):
            await self._run(["nft", "-f", "/dev/stdin"], words.encode())

    async def _exists(self) -> bool:
        try:
            await self._run(["ip", "link", "show", "dev", self._interface])
        except TunnelError:
            return False
        return True

    async def _ensure_interface(self) -> None:
        if self._userspace is not None and self._userspace.returncode is not None:
            self._userspace = None
        if await self._exists():
            return
        try:
            await self._run(["ip", "link", "add", "dev", self._interface, "type", "wireguard"])
        except TunnelError as exc:
            LOG.warning("no WireGuard by the kernel (%s): wireguard-go does it, at more of the processor's time", exc)
            await self._start_userspace()

    async def _start_userspace(self) -> None:
        try:
            self._userspace = await asyncio.create_subprocess_exec(
                *self._before, "wireguard-go", "--foreground", self._interface, stdin=asyncio.subprocess.DEVNULL
            )
        except OSError as exc:
            raise TunnelError("neither WireGuard in the kernel nor wireguard-go") from exc
        async with asyncio.timeout(USERSPACE_LIMIT_S):
            while not await self._exists():
                if self._userspace.returncode is not None:
                    raise TunnelError(f"wireguard-go ended with {self._userspace.returncode}")
                await asyncio.sleep(0.05)
        # The interface is there before the socket by which `wg` speaks to it.
        await asyncio.sleep(0.1)

    async def _run(self, words: Sequence[str], stdin: bytes = b"") -> bytes:
        return await run([*self._before, *words], stdin)


async def run(words: Sequence[str], stdin: bytes = b"") -> bytes:
    """Run one command within `COMMAND_LIMIT_S`. Raises TunnelError with its first line of complaint."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as exc:
        raise TunnelError(f"{words[0]}: {exc.strerror}") from exc
    try:
        async with asyncio.timeout(COMMAND_LIMIT_S):
            out, complaint = await process.communicate(stdin)
    except TimeoutError as exc:
        raise TunnelError(f"{words[0]}: no end after {COMMAND_LIMIT_S:g} s") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        first = (complaint.decode(errors="replace").strip().splitlines() or ["?"])[0]
        raise TunnelError(f"{words[0]}: {first}")
    return out
