"""`tillsyn fleet simulate N`: N played gateways, a real Mosquitto, a real centre, a rollout from plan to end.

Everything is made on the spot in a temporary directory and gone afterwards. What is printed is measured in this run:
messages, memory of centre and broker, time of each ring. A home is accounted for when the centre's word for it is the
end that it was dealt.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import tomli_w

from gateway.core.error import TransientError
from gateway.edge.broker_paho import Broker, BrokerAddress, BrokerDown, BrokerUp, Incoming
from gateway.protocol.envelope import TrustStore, sign
from gateway.protocol.key import SigningKey
from gateway.protocol.message import UpdateOffer
from provisioning.authority import broker_config
from provisioning.authority.x509 import CertificateAuthority
from provisioning.bench_home import free_port
from provisioning.fleet.device import Fate, PlayedGateway

FLEET: Final = "gw-fleet"
"""The one certificate of the played gateways; the broker's access list lets it speak for all of them."""
COMPATIBLE: Final = "tillsyn-played"
TOKEN: Final = "token-of-steward"  # noqa: S105 - made up for this run's centre
STEWARD: Final = "st-1"
SILENT_S: Final = 60.0
"""Silence in a run of thousands: more than the machine needs to hear out what is on its way."""


@dataclass(slots=True)
class Run:
    """One run's place and parts."""

    folder: Path
    homes: dict[str, PlayedGateway]
    release: SigningKey
    broker_port: int
    published: int = 0
    received: int = 0
    rings: list[tuple[str, float]] = field(default_factory=list)
    halts: list[tuple[int, int, int]] = field(default_factory=list)
    """(ring, given, failed or silent) at each halt."""


def deal(count: int, failing_percent: float, seed: int) -> list[Fate]:
    """Exactly so many fail: two thirds of them fall back, the rest fall silent."""
    failing = round(count * failing_percent / 100.0)
    silent = failing // 3
    fates: list[Fate] = [
        "falls-back" if number < failing - silent else "silent" if number < failing else "good"
        for number in range(count)
    ]
    random.Random(seed).shuffle(fates)  # noqa: S311 - a fixed order, to be repeated
    return fates


def make(folder: Path, count: int, failing_percent: float, *, seed: int = 1) -> Run:
    """Keys, certificates, configuration of broker and centre."""
    release, issuing = SigningKey.generate(), SigningKey.generate()
    trust = TrustStore(1, 0, {}, {}, {release.verifying.kid: release.verifying})
    fates = deal(count, failing_percent, seed)
    homes = {
        f"gw-s{number:05}": PlayedGateway(f"gw-s{number:05}", trust, COMPATIBLE, fate)
        for number, fate in enumerate(fates)
    }
    authority = CertificateAuthority.make("tillsyn simulation")
    (folder / "ca.pem").write_bytes(authority.pem())
    for name, servers in (("centre", ()), (FLEET, ()), ("broker", ("localhost", "127.0.0.1"))):
        identity = authority.issue(name, server_names=servers)
        (folder / f"{name}.pem").write_bytes(identity.certificate)
        (folder / f"{name}.key").write_bytes(identity.key)
    (folder / "issuing.pem").write_bytes(issuing.to_pem())
    (folder / "acl").write_text(
        broker_config.acl([], centres=["centre"]) + f"\nuser {FLEET}\ntopic readwrite tillsyn/v1/#\n"
    )
    (folder / "acl").chmod(0o600)
    port = free_port()
    conf = broker_config.mosquitto_conf(
        address="127.0.0.1",
        port=port,
        ca=folder / "ca.pem",
        certificate=folder / "broker.pem",
        key=folder / "broker.key",
        acl=folder / "acl",
        user=getpass.getuser() if os.getuid() == 0 else "root",
    )
    (folder / "mosquitto.conf").write_text(conf)
    centre = {
        "database_path": "centre.sqlite",
        "issuing_key_path": "issuing.pem",
        "login": {"link": "always"},
        "http": {"host": "127.0.0.1", "port": 0},
        "ice": {"policy": "all", "servers": []},
        "broker": {
            "host": "127.0.0.1", "port": port, "server_name": "localhost", "client_id": "centre", "ca_path": "ca.pem",
            "cert_path": "centre.pem", "key_path": "centre.key",
        },
        "accounts": [
            {"who": STEWARD, "roles": ["steward"], "login_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
        ],
        "homes": [
            {
                "gateway": home.gateway,
                "install_epoch": 1,
                "groups": ["lab"] if number < 2 else ["played"],
                "device_jwk": home.key.verifying.jwk(),
            }
            for number, home in enumerate(homes.values())
        ],
    }  # fmt: skip
    (folder / "centre.toml").write_text(tomli_w.dumps(centre))
    return Run(folder, homes, release, port)


@contextlib.asynccontextmanager
async def broker(run: Run) -> AsyncIterator[asyncio.subprocess.Process]:
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with (run.folder / "broker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            program, "-c", str(run.folder / "mosquitto.conf"), stdout=asyncio.subprocess.DEVNULL, stderr=log
        )
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", run.broker_port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def centre(run: Run) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    with (run.folder / "centre.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "centre", "--config", str(run.folder / "centre.toml"),
            stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(900):
            line = (await process.stdout.readline()).decode()
        if not line.startswith("Console: "):
            raise RuntimeError((run.folder / "centre.log").read_text()[-2000:])
        yield process, line.split()[1].rstrip("/")
    except BaseException as exc:
        # The folder is gone when anybody could look.
        exc.add_note(f"centre: {process.returncode}, {(run.folder / 'centre.log').read_text()[-2000:]}")
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def play(run: Run, up: asyncio.Event) -> None:
    """The gateways' one connection: hear offers, answer, report."""
    folder = run.folder
    address = BrokerAddress(
        "127.0.0.1", run.broker_port, folder / "ca.pem", folder / f"{FLEET}.pem", folder / f"{FLEET}.key", "localhost"
    )
    link = Broker(address, client_id=FLEET, subscriptions=["tillsyn/v1/+/command"])
    async with asyncio.TaskGroup() as group:
        group.create_task(link.run(), name="fleet")
        while True:
            match await link.next_event():
                case BrokerUp():
                    up.set()
                case BrokerDown():
                    pass
                case Incoming() as incoming:
                    incoming.ack()
                    run.received += 1
                    group.create_task(_answer(run, link, incoming), name="answer")


async def _answer(run: Run, link: Broker, incoming: Incoming) -> None:
    home = run.homes[incoming.topic.split("/")[2]]
    said = home.take(incoming.payload, unix_s=time.time())
    for number, message in enumerate(said):
        correlation = incoming.correlation if number == 0 else b""
        while True:  # a home's outbox gives it again until the broker has it
            try:
                await link.publish(f"tillsyn/v1/{home.gateway}/reply", home.sign(message), correlation=correlation)
            except TransientError:
                await asyncio.sleep(0.5)
                continue
            break
        run.published += 1


def the_offer(run: Run) -> str:
    now = time.time()
    offer = UpdateOffer(
        statement=1,
        version="0.2.0",
        compatible=COMPATIBLE,
        url="https://updates.example/0.2.0.raucb",
        manifest_sha256="ab" * 32,
        size_bytes=1000,
        ring="all",
        not_before=now - 60,
        deadline=now + 86_400,
        stated=now - 60,
        expires=now + 86_400,
    )
    return sign(offer, run.release).decode()


async def roll_out(
    run: Run, url: str, *, limit_s: float, soak_s: float, silent_s: float, per_minute: int
) -> dict[str, Any]:
    """Show the plan, begin it, approve each ring, resume each halt; the rollout and its executions at the end."""
    criteria = {"soak_s": soak_s, "silent_s": silent_s, "per_minute": per_minute, "needs_approval": True}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    # A connection for each question: signing for thousands of homes holds this loop up for longer than the centre keeps
    # an idle one, and a question on a connection that is just being closed has no answer.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=f"{url}/api/v1", headers=headers, timeout=60, trust_env=False, limits=limits
    ) as client:
        offer = the_offer(run)
        shown = (await client.post("/fleet/plan", json={"offer": offer, "criteria": criteria})).json()
        body = {"offer": offer, "criteria": criteria, "plan": shown["plan"]}
        begun = (await client.post("/fleet/rollouts", json=body)).json()
        began_s = at_s = time.monotonic()
        ring = 0
        async with asyncio.timeout(limit_s):
            while True:
                one = (await client.get("/fleet/rollouts")).json()[0]
                if one["ring"] != ring:
                    run.rings.append((shown["rings"][ring]["ring"], time.monotonic() - at_s))
                    ring, at_s = one["ring"], time.monotonic()
                if one["status"] == "completed":
                    break
                act = {"halted": "resume", "awaiting-approval": "approve"}.get(one["status"])
                if one["status"] == "halted":
                    status = one["rings"][one["ring"]]["status"]
                    given = sum(count for word, count in status.items() if word != "queued")
                    bad = status.get("failed", 0) + status.get("timed-out", 0) + status.get("rejected", 0)
                    run.halts.append((one["ring"], given, bad))
                if act is not None:
                    (await client.post(f"/fleet/rollouts/{begun['id']}/{act}", json={})).raise_for_status()
                await asyncio.sleep(1.0)
        run.rings.append((shown["rings"][ring]["ring"], time.monotonic() - at_s))
        executions = (await client.get(f"/fleet/rollouts/{begun['id']}/executions")).json()
        return {"plan": shown, "executions": executions, "took_s": time.monotonic() - began_s}


def peak_mib(pid: int) -> float:
    """The most memory that a process has had, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def simulate(
    count: int,
    *,
    failing_percent: float,
    limit_s: float,
    soak_s: float = 2.0,
    silent_s: float = 20.0,
    per_minute: int = 10_000,
) -> dict[str, Any]:
    """One run; its figures. `accounted` is how many homes ended as they were dealt, by the centre's word."""
    with tempfile.TemporaryDirectory(prefix="tillsyn-fleet-") as place:
        run = make(Path(place), count, failing_percent)
        async with broker(run) as mosquitto, centre(run) as (process, url):
            up = asyncio.Event()
            playing = asyncio.create_task(play(run, up))
            try:
                async with asyncio.timeout(30):
                    await up.wait()
                told = await roll_out(
                    run, url, limit_s=limit_s, soak_s=soak_s, silent_s=silent_s, per_minute=per_minute
                )
            finally:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
            expected = {"good": "succeeded", "falls-back": "failed", "silent": "timed-out"}
            ends = {one["gateway"]: one["status"] for one in told["executions"]}
            return {
                "gateways": count,
                "status": dict(Counter(ends.values())),
                "accounted": sum(ends.get(home.gateway) == expected[home.fate] for home in run.homes.values()),
                "offered_twice": sum(home.offers > 1 for home in run.homes.values()),
                "halts": [{"ring": ring, "given": given, "bad": bad} for ring, given, bad in run.halts],
                "ring_s": {name: round(took, 1) for name, took in run.rings},
                "per_minute": per_minute,
                "took_s": round(told["took_s"], 1),
                "messages_to_homes": run.received,
                "messages_from_homes": run.published,
                "centre_mib": round(peak_mib(process.pid), 1),
                "broker_mib": round(peak_mib(mosquitto.pid), 1),
            }


def main(count: int, *, failing_percent: float, limit_s: float, per_minute: int) -> int:
    """Print the figures as JSON; 0 when every home is accounted for."""
    told = asyncio.run(
        simulate(count, failing_percent=failing_percent, limit_s=limit_s, silent_s=SILENT_S, per_minute=per_minute)
    )
    print(json.dumps(told, indent=1))
    return 0 if told["accounted"] == count else 1
