"""A running lab: the real processes of home and centre, each in its namespace, and what a scenario does to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from centre.operator import Operator
from gateway.edge.bench_world import BenchWorld
from gateway.ledger import read_records
from provisioning import bench_home, demo
from provisioning.authority import tunnel_config
from provisioning.bench_home import BenchHome, Places
from tests.net_lab import front
from tests.net_lab.network import (
    CENTRE_BROKER,
    CENTRE_RELAY,
    ROOT,
    TUNNEL_BROKER,
    TUNNEL_HOME,
    TUNNEL_NETWORK,
    TUNNEL_RELAY,
    LabError,
    Network,
    sh,
    within,
)

START_LIMIT_S = 40.0
INTERFACE = "tillsyn0"
QUICK_MOUNT = "aim_deg = 45.0\nmax_speed_deg_s = 360.0\nmax_accel_deg_s2 = 2000.0\n"
"""At the end of a configuration whose last section is the mount's; 45° is the least that the guard takes."""
PLACES = Places(
    tunnel_interface=INTERFACE,
    tunnel_network=TUNNEL_NETWORK,
    tunnel_home=TUNNEL_HOME,
    tunnel_broker=TUNNEL_BROKER,
    tunnel_relay=TUNNEL_RELAY,
    public_broker=CENTRE_BROKER,
    public_relay=CENTRE_RELAY,
    console_origin=f"https://{front.NAME}",
)


@dataclass
class Lab:
    """What runs. `processes` may be killed and started again by `start_…`."""

    home: BenchHome
    network: Network
    http_port: int
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    url: str = ""

    @property
    def world(self) -> BenchWorld:
        return BenchWorld(self.home.world)

    @property
    def console(self) -> str:
        """As the operator's browser reaches it."""
        return f"{PLACES.console_origin}/login?token={self.home.login_token}"

    def log(self, name: str, lines: int = 25) -> str:
        with contextlib.suppress(OSError):
            text = (self.home.directory / f"{name}.log").read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def pids(self) -> dict[str, int]:
        """Of the home's services, as its supervisor says."""
        with contextlib.suppress(OSError):
            lines = (self.home.directory / "home" / "run" / "pids").read_text().splitlines()
            return {name: int(pid) for name, pid in (line.split() for line in lines)}
        return {}

    def records(self) -> list[Any]:
        return [stored.body for stored in read_records(self.home.ledger) if stored.body is not None]

    async def start_endpoint(self) -> None:
        """WireGuard at the centre, by wireguard-go: killing it takes the interface and all sessions with it."""
        process = await self._spawn("endpoint", "centre", "wireguard-go", "--foreground", "wg0")
        await _until(lambda: "wg0" in sh("ip -br link", namespace="centre"), 5.0, "the endpoint's interface")
        await asyncio.sleep(0.2)
        if process.returncode is not None:
            raise LabError(f"wireguard-go ended: {self.log('endpoint')}")
        sh(
            f"wg setconf wg0 {self.home.endpoint_config}; ip link set wg0 mtu {tunnel_config.MTU_BYTES} up;"
            f"ip route replace {TUNNEL_NETWORK} dev wg0 src {TUNNEL_BROKER}",
            namespace="centre",
        )

    async def start_relay(self) -> None:
        await self._spawn("relay", "centre", "turnserver", "-c", str(self.home.relay_config))
        await _until(lambda: f"{CENTRE_RELAY}:443" in sh("ss -Htln", namespace="centre"), 10.0, "coturn")

    async def start_broker(self) -> None:
        self.processes["broker"] = await demo.start_broker(self.home, before=within("centre"))
        await _until(lambda: f"{CENTRE_BROKER}:443" in sh("ss -Htln", namespace="centre"), 10.0, "the broker")

    async def start_centre(self) -> None:
        # The centre's addresses in the tunnel are on its loopback: they stay when the endpoint is started anew.
        for address in (TUNNEL_BROKER, TUNNEL_RELAY):
            sh(f"ip address replace {address}/32 dev lo", namespace="centre")
        await self.start_endpoint()
        rules = tunnel_config.firewall(
            interface="wg0", broker=TUNNEL_BROKER, broker_port=self.home.broker_port, relay=TUNNEL_RELAY
        )
        sh("nft -f -", namespace="centre", stdin=rules)
        await self.start_relay()
        await self.start_broker()
        self.processes["centre"], self.url = await demo.start_centre(self.home, before=within("centre"))
        certificate = self.home.authority.issue("console", server_names=(front.NAME,))
        folder = self.home.directory / "front"
        folder.mkdir(mode=0o700)
        (folder / "cert.pem").write_bytes(certificate.certificate)
        (folder / "key.pem").write_bytes(certificate.key)
        unix = folder / "console.sock"
        await self._spawn(
            "front", "centre", sys.executable, "-m", "tests.net_lab.front",
            "serve", str(self.http_port), str(folder / "cert.pem"), str(folder / "key.pem"), str(unix),
        )  # fmt: skip
        await _until(unix.exists, 5.0, "the console's proxy")

    async def start_home(self) -> None:
        """The home's services, behind the device's own packet filter."""
        sh(f"nft -f {ROOT}/systemd/nftables/tillsyn.nft; nft -f -", namespace="home",
           stdin=tunnel_config.device_filter([CENTRE_BROKER, CENTRE_RELAY]))  # fmt: skip
        self.processes["home"] = await demo.start_home(self.home, before=within("home"))

    async def open_port(self, port: int) -> None:
        """Let TCP into the home on this port of the tunnel: for what is measured beside ours."""
        sh(f"nft insert rule inet tillsyn input tcp dport {port} accept", namespace="home")

    async def kill(self, name: str) -> None:
        """SIGKILL one of `processes`, and wait for its end."""
        process = self.processes.pop(name)
        process.kill()
        await process.wait()

    async def agree(self, agreement: dict[str, Any] | None = None) -> None:
        """Put an agreement in force that has something due now."""
        running = demo.RunningBench(self.home, self.url, self.processes)
        try:
            await demo.put_agreement(running, agreement or bench_home.agreement_now(self.home, max_s=60))
        except Exception as exc:
            raise LabError(f"no agreement: {exc}\n{self.log('home')}\n{self.log('centre', 5)}") from exc

    async def facts(self) -> dict[str, Any]:
        """What the console's API says of the home."""
        async with Operator(self.url, self.home.planner_token) as planner:
            return await planner.home(self.home.gateway)

    async def until_tunnel(self, word: str, limit_s: float) -> float:
        """Seconds until the centre shows the home online by this way."""
        began_s = time.monotonic()
        while True:
            facts = await self.facts()
            if facts["online"] and facts["tunnel"] == word:
                return time.monotonic() - began_s
            if time.monotonic() - began_s > limit_s:
                raise LabError(f"not by {word} within {limit_s:g} s: {facts['tunnel']}\n{self.log('home')}")
            await asyncio.sleep(0.1)

    def safe(self) -> bool:
        """Sensor off, mount up."""
        from gateway.mount.calibration import Calibration

        calibration = Calibration()
        up = abs(self.world.pan_deg(calibration) - calibration.parked_deg) < 1.0
        return not self.world.sensor_on() and up

    async def _spawn(self, name: str, namespace: str, *command: str) -> asyncio.subprocess.Process:
        log = os.open(self.home.directory / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        process = await asyncio.create_subprocess_exec(
            *within(namespace), *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT
        )
        os.close(log)
        self.processes[name] = process
        return process


async def _until(condition: Any, limit_s: float, what: str) -> None:
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > limit_s:
            raise LabError(f"{what}: not there after {limit_s:g} s")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running(
    directory: Path,
    *,
    camera: str = "room",
    quick_mount: bool = False,
    before: Callable[[BenchHome], None] = lambda _: None,
    **network: Any,
) -> AsyncIterator[Lab]:
    """A lab with everything started. Ends every process it started, and the namespaces.

    `quick_mount` makes the mount's way short, where that way is no part of the question; `before` may change what was
    made, before anything of it starts.
    """
    built = Network()
    lab: Lab | None = None
    forward: asyncio.Server | None = None
    try:
        built.build(**network)
        port = bench_home.free_port()
        home = bench_home.make(directory / "bench", places=PLACES, http_port=port, camera=camera)
        if quick_mount:
            for name in ("guard.toml", "park.toml"):
                path = home.directory / "home" / name
                path.write_text(path.read_text() + QUICK_MOUNT)
        before(home)
        lab = Lab(home, built, port)
        await lab.start_centre()
        # The lab itself is in no namespace of the lab: it reaches the console by a Unix socket.
        unix = directory / "bench" / "front" / "console.sock"
        forward = await asyncio.start_server(front.to(lambda: asyncio.open_unix_connection(unix)), "127.0.0.1", port)
        await lab.start_home()
        yield lab
    finally:
        if lab is not None:
            for process in reversed(lab.processes.values()):
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            for process in lab.processes.values():
                try:
                    async with asyncio.timeout(10.0):
                        await process.wait()
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if forward is not None:
            forward.close()
        built.close()
