"""The lab: the net-lab's networks and centre, and in the home's place a machine that boots the built image."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.ledger import read_records, unclosed_check, verify_directory
from provisioning import bench_home
from tests.image_lab import kept
from tests.image_lab.card import Card, CardError
from tests.image_lab.enrol import FILM, enrol, new_data_key
from tests.image_lab.machine import BOOT_LIMIT_S, Machine, disk_of
from tests.image_lab.people import stewards
from tests.net_lab import front
from tests.net_lab.lab import INTERFACE, PLACES, Lab
from tests.net_lab.network import ROOT, LabError, Network, within

sys.path.append(str(ROOT / "tests" / "marker_scan"))
from marker import make_film, needles
from scan import Needles

CARD_MIB = 1152
EYE_LIBRARIES = "import sys; sys.path.insert(1, '/usr/lib/tillsyn/site'); import gateway.services.eye"
LINES = 8
"""Of one agreement, each good for one check."""


@dataclass
class ImageLab:
    """What runs, and what the scenarios do with it."""

    directory: Path
    net: Lab
    machine: Machine
    key_hex: str
    film: Path
    film_size: int = 0
    version: int = 0
    left: int = 0
    bundles: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Name to the letter of its disk and its size in bytes."""
    next: Path | None = None
    """A build of the next version."""
    signers: Path = Path()
    offers: Any = None
    operator: asyncio.subprocess.Process | None = None
    told: list[str] = field(default_factory=list)

    def say(self, words: str) -> None:
        self.told.append(words)
        print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)

    # The device

    async def power_on(self, *, tryboot: bool = False) -> None:
        await self.machine.power_on(tryboot=tryboot)
        assert self.machine.process is not None
        self.net.processes["home"] = self.machine.process

    async def until_armed(self) -> dict[str, Any]:
        """Guard, link and tunnel run and the centre sees the home by the tunnel. What the boot took."""
        guest = self.machine
        await guest.until("systemctl --quiet is-active tillsyn-guard && systemctl --quiet is-active tillsyn-link")
        up_s = float((await guest.order("cut -d' ' -f1 /proc/uptime")).split()[0])
        await self.net.until_tunnel("up", 600.0)
        return {"armed_s": round(up_s, 1)} | await self.park_and_network()

    async def park_and_network(self) -> dict[str, Any]:
        """Times since the kernel's start by systemd: the end of park, and the beginning of the network.

        `park_cpu_s` is the processor time, in the guest's seconds, that park took.
        """
        said = await self.machine.order(
            "systemctl show -p ExecMainExitTimestampMonotonic,Result,CPUUsageNSec tillsyn-park; echo;"
            "systemctl show -p InactiveExitTimestampMonotonic systemd-networkd"
        )
        park, network = (dict(line.split("=", 1) for line in block.split()) for block in said.split("\n\n"))
        ended_s = int(park["ExecMainExitTimestampMonotonic"]) / 1e6
        began_s = int(network["InactiveExitTimestampMonotonic"]) / 1e6
        assert park["Result"] == "success", park
        assert 0.0 < ended_s <= began_s, (park, network)
        cpu_s = int(park["CPUUsageNSec"]) / 1e9 if park["CPUUsageNSec"].isdigit() else math.nan
        return {"park_ended_s": round(ended_s, 3), "park_cpu_s": round(cpu_s, 1), "network_began_s": round(began_s, 3)}

    async def until_settled(self, limit_s: float = 900.0) -> None:
        """The boot is through: no job waits, and the health gate has decided."""
        await self.machine.until(
            '! systemctl --quiet is-active tillsyn-healthy && [ -z "$(systemctl list-jobs --no-legend)" ]',
            limit_s=limit_s, every_s=3.0,
        )  # fmt: skip

    async def failed_units(self) -> list[str]:
        said = await self.machine.order("systemctl list-units --failed --plain --no-legend")
        return [line.split()[0] for line in said.splitlines() if line.strip()]

    async def slots(self) -> str:
        return await self.machine.order("/usr/lib/tillsyn/slot-backend show; cat /run/tillsyn/boot")

    async def note(self) -> str:
        """What this boot told about the one before it: the journal of the slot selection's unit."""
        return await self.machine.order(
            "journalctl --namespace=tillsyn -b -o cat -u tillsyn-slot --no-pager | tail -3; true"
        )

    # The home

    async def agree(self) -> None:
        self.version += 1
        made = bench_home.agreement_now(self.net.home, version=self.version, max_s=60)
        (line,) = made["lines"]
        made["lines"] = [line | {"id": f"v{self.version}-{number}"} for number in range(LINES)]
        await self.put(made)
        self.left = LINES

    async def put(self, agreement: dict[str, Any], tries: int = 4) -> None:
        """In force, by the planner. A home that has just changed its way, emulated, may not answer in time."""
        for left in range(tries - 1, -1, -1):
            try:
                await self.net.agree(agreement)
            except LabError as exc:
                if left == 0 or "504" not in str(exc):
                    raise
                self.say("  (an agreement without an answer)")
                await asyncio.sleep(10.0)
            else:
                return

    async def start_operator(self) -> None:
        self.net.processes["dial"] = await asyncio.create_subprocess_exec(
            *within("operator"), sys.executable, "-m", "tests.net_lab.front", "dial", str(self.net.http_port),
            str(self.net.home.directory / "centre" / "ca.pem"), stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        assert self.net.processes["dial"].stdout is not None
        await self.net.processes["dial"].stdout.readline()
        self.operator = self.net.processes["operator"] = await asyncio.create_subprocess_exec(
            *within("operator"), sys.executable, "-m", "tests.image_lab.onlooker", self.net.url,
            self.net.home.login_token, self.net.home.gateway,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip

    async def ask_operator(self, word: str, limit_s: float = 180.0) -> dict[str, Any]:
        assert self.operator is not None
        assert self.operator.stdin is not None
        assert self.operator.stdout is not None
        self.operator.stdin.write(f"{word}\n".encode())
        await self.operator.stdin.drain()
        async with asyncio.timeout(limit_s):
            line = await self.operator.stdout.readline()
        if not line:
            raise CardError("the operator's program ended")
        return dict(json.loads(line))

    async def open_check(self, tries: int = 4) -> dict[str, Any]:
        """A check that shows a picture. An opening may take longer than a home waits, on a busy machine."""
        await self.until_settled()
        await self.machine.order(f"mkdir -p /run/lab; [ -e {FILM} ] || head -c {self.film_size} /dev/vdb >{FILM}")
        # From a root that nobody has read yet, an eye needs longer than a console waits, emulated.
        began_s = time.monotonic()
        await self.machine.order(f'python3 -IB -c "{EYE_LIBRARIES}"', limit_s=300.0)
        self.say(f"  (the eye's libraries read once before: {time.monotonic() - began_s:.0f} s)")
        told: dict[str, Any] = {}
        for number in range(tries):
            if self.left <= 0:
                await self.agree()
            self.left -= 1
            told = await self.ask_operator("open")
            if "error" not in told:
                return told | {"tries": number + 1}
            self.say(f"  (an opening without a picture: {told['error']})")
            await asyncio.sleep(13.0)
        raise CardError(f"no picture: {told}; {await self.words()}")

    async def words(self) -> str:
        """The end of the services' own journal, and what systemd said of them."""
        return await self.machine.order(
            "journalctl --namespace=tillsyn -b -o short-monotonic --no-pager | tail -25;"
            "journalctl -b -o short-monotonic -p warning --no-pager | grep tillsyn- | tail -15; true"
        )

    # The card, while the machine is off

    def ledger(self) -> dict[str, Any]:
        """The ledger on the card: verified, its last records, and what became of its checks."""
        with tempfile.TemporaryDirectory(dir=self.directory) as folder:
            data = self.machine.card.data(self.key_hex, self.directory / "data.plain")
            place = data.get("/guard/ledger", Path(folder))
            report = verify_directory(place)
            records = list(read_records(place))
        words = [f"{stored.body.kind}:{stored.body.why or ''}" for stored in records if stored.body is not None]
        return {"records": report.records, "kinds": words[-6:], "open": unclosed_check(records) is not None,
                "recovered": words.count("closed:recovered")}  # fmt: skip

    def scan(self, *, plant: bool) -> dict[str, Any]:
        """Look for the film in every block of the data partition, in the clear: files, journal, and what was freed."""
        data = self.machine.card.data(self.key_hex, self.directory / "data.plain")
        known = needles(self.film)
        if plant:
            kinds = {name.split(":")[0]: needle for needle, name in known.items()}
            files = {f"journal/planted-{number}": (os.urandom(5000) + needle, 0o600, 0, 0)
                     for number, needle in enumerate(kinds.values())}  # fmt: skip
            data.put(files, self.directory)
        hits = hits_in(data.plain, known)
        return {"mib": data.plain.stat().st_size >> 20, "needles": len(known), "hits": sorted(hits),
                "kinds": len({name.split(":")[0] for name in known.values()})}  # fmt: skip


def hits_in(path: Path, known: dict[bytes, str]) -> set[str]:
    """What is found in any block of a file, by name."""
    finder, hits, read = Needles(known), set(), 0
    step, overlap = 8 << 20, 256
    with path.open("rb") as file:
        while True:
            file.seek(read)
            piece = file.read(step + overlap)
            if not piece:
                return hits
            if piece.count(0) != len(piece):
                hits |= set(finder.find(piece))
            read += step


@asynccontextmanager
async def running(built: Path, directory: Path, *, resumed: bool = False) -> AsyncIterator[ImageLab]:
    """Networks and centre up, and a fresh card written, or with `resumed` what was kept in `directory`.

    Ends every process it started.
    """
    network = Network()
    net: Lab | None = None
    machine: Machine | None = None
    forward: asyncio.Server | None = None
    film = directory / "film.avi"
    try:
        network.build()
        if resumed:
            known = kept.read(directory, build=kept.build_of(built))
            for path in (directory / kept.FILE, *directory.glob("console-*.txt")):
                path.unlink()
            card = Card(directory / "card.img")
        else:
            port = bench_home.free_port()
            home = bench_home.make(directory / "bench", places=PLACES, http_port=port)
            known = kept.Kept(home, port, new_data_key(), version=0, build=kept.build_of(built))
            card = Card.make(built / "disk.img", directory / "card.img", mib=CARD_MIB)
            make_film(film)
        stewards(known.home.centre_config)
        net = Lab(known.home, network, known.http_port)
        await net.start_centre()
        unix = directory / "bench" / "front" / "console.sock"
        forward = await asyncio.start_server(
            front.to(lambda: asyncio.open_unix_connection(unix)), "127.0.0.1", known.http_port
        )
        machine = Machine(card, directory, key_hex=known.key_hex, before=within("home"))
        machine.disks = [disk_of(film, directory / "film.disk")]
        lab = ImageLab(directory, net, machine, known.key_hex, film, film.stat().st_size, known.version)
        await lab.start_operator()
        yield lab
        kept.write(kept.Kept(known.home, known.http_port, known.key_hex, lab.version, known.build), directory)
    finally:
        if machine is not None:
            await machine.cut()
        if net is not None:
            for process in reversed(net.processes.values()):
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            for process in net.processes.values():
                try:
                    async with asyncio.timeout(10.0):
                        await process.wait()
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if forward is not None:
            forward.close()
        network.close()


def enrol_card(lab: ImageLab) -> int:
    return enrol(lab.machine.card, lab.key_hex, lab.net.home, lab.directory)


__all__ = ["BOOT_LIMIT_S", "INTERFACE", "ImageLab", "enrol_card", "running"]
