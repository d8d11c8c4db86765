"""A broker, keys and configuration for centre workers and a simulated fleet, in one temporary directory."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from simulated_fleet import FLEET, SimulatedHome

from gateway.protocol.envelope import TrustStore
from gateway.protocol.key import SigningKey
from provisioning.authority import broker_config
from provisioning.authority.x509 import CertificateAuthority
from provisioning.bench_home import free_port


@dataclass
class Place:
    folder: Path
    homes: dict[str, SimulatedHome]
    issuing: SigningKey
    broker_port: int
    tokens: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    def config(self, name: str, database: dict[str, Any], **more: Any) -> Path:
        """A worker's configuration file; `name` is its certificate."""
        path = self.folder / f"{name}.toml"
        accounts = [
            {"who": who, "roles": roles, "login_sha256": hashlib.sha256(self.tokens[who].encode()).hexdigest()} | extra
            for who, roles, extra in (
                ("op-a", ["operator"], {}),
                ("op-b", ["operator"], {}),
                ("pl-a", ["planner", "steward"], {}),
                ("in-a", ["installer"], {}),
                ("hc-a", ["home-care"], {"unit": "hv-sim"}),
                ("au-a", ["auditor"], {}),
                ("sys-a", ["system"], {}),
            )
        ]
        value = {
            **database,
            "issuing_key_path": "issuing.pem",
            "login": {"link": "always"},
            "http": {"host": "127.0.0.1", "port": 0},
            "ice": {"policy": "all", "servers": []},
            "broker": {
                "host": "127.0.0.1",
                "port": self.broker_port,
                "server_name": "localhost",
                "client_id": name,
                "ca_path": "ca.pem",
                "cert_path": f"{name}.pem",
                "key_path": f"{name}.key",
                "shares": "database_url" in database,
            },
            "accounts": accounts,
            "homes": [
                {
                    "gateway": home.gateway,
                    "install_epoch": 1,
                    "groups": ["sim"],
                    "device_jwk": home.key.verifying.jwk(),
                }
                for home in self.homes.values()
            ],
        } | more
        path.write_text(tomli_w.dumps(value))
        return path


def make_place(folder: Path, gateways: Sequence[str], *, workers: Sequence[str] = ("centre", "centre-2")) -> Place:
    authority = CertificateAuthority.make("tillsyn test CA")
    (folder / "ca.pem").write_bytes(authority.pem())
    for name, servers in (*((worker, ()) for worker in workers), (FLEET, ()), ("broker", ("localhost", "127.0.0.1"))):
        identity = authority.issue(name, server_names=servers)
        stem = "fleet" if name == FLEET else name
        (folder / f"{stem}.pem").write_bytes(identity.certificate)
        (folder / f"{stem}.key").write_bytes(identity.key)
    issuing = SigningKey.generate()
    (folder / "issuing.pem").write_bytes(issuing.to_pem())
    trust = TrustStore(1, 0, {}, {issuing.verifying.kid: issuing.verifying})
    homes = {gateway: SimulatedHome(gateway, trust) for gateway in gateways}
    acl = broker_config.acl([], centres=workers)
    acl += f"\nuser {FLEET}\ntopic readwrite tillsyn/v1/#\n"
    (folder / "acl").write_text(acl)
    (folder / "acl").chmod(0o600)
    port = free_port()
    (folder / "mosquitto.conf").write_text(
        broker_config.mosquitto_conf(
            address="127.0.0.1",
            port=port,
            ca=folder / "ca.pem",
            certificate=folder / "broker.pem",
            key=folder / "broker.key",
            acl=folder / "acl",
            user=getpass.getuser() if os.getuid() == 0 else "root",
        )
    )
    tokens = {who: f"token-of-{who}" for who in ("op-a", "op-b", "pl-a", "in-a", "hc-a", "au-a", "sys-a")}
    return Place(folder, homes, issuing, port, tokens)


@contextlib.asynccontextmanager
async def broker(place: Place) -> AsyncIterator[asyncio.subprocess.Process]:
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    process = await asyncio.create_subprocess_exec(
        program,
        "-c",
        str(place.folder / "mosquitto.conf"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=(place.folder / "broker.log").open("wb"),
    )
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _reader, writer = await asyncio.open_connection("127.0.0.1", place.broker_port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def worker(place: Place, config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`tillsyn centre`, up and connected to the broker; gives the process and its address."""
    log = (place.folder / f"{config.stem}.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "centre", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=log,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(90):
            line = (await process.stdout.readline()).decode()
            assert line.startswith("Console: "), (place.folder / f"{config.stem}.log").read_text()
            # What the intake says once it is subscribed.
            while "witness: " not in (place.folder / f"{config.stem}.log").read_text():
                await asyncio.sleep(0.05)
        yield process, line.split()[1].rstrip("/")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        log.close()


__all__ = ["Place", "broker", "make_place", "worker"]
