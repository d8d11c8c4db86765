"""Upkeep whole, between a guard's socket, a RAUC on a private bus and a server with bundles that wants a certificate.

The same promises about what RAUC says stand in `tests/rauc`, where the real RAUC judges real bundles.

Mutations that turn these red, each tried:
  upkeep._install: without `difference`                      -> a bundle that is not the offered one
  bundle_proxy: without the size of Content-Range            -> an endless stream
  bundle_proxy._pass_on: `at` not counted                    -> a broken connection is taken up where it broke
  upkeep.look: without `may_flow.clear`                      -> nothing flows in the hour before an occasion
  bundle_proxy.Bucket: without the sleep                     -> the rate is capped
  client_tls: without the certificate                        -> the server knows who fetches
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from update_support import offer as offer_of

from gateway.config import UpkeepConfig
from gateway.edge.bundle_proxy import BundleProxy, UpstreamError, client_tls
from gateway.edge.installer_rauc import Rauc
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError, connect
from gateway.protocol.message import UpdateOffer
from gateway.services.upkeep import Upkeep, running_version
from gateway.update import machine
from provisioning.authority.x509 import CA_FILE, CertificateAuthority
from tests.fakes.rauc_on_bus import FakeRauc, make_bundle, private_bus

pytestmark = pytest.mark.slow

SIZE = 200_000


@dataclass
class Server:
    """The centre's server with bundles: TLS 1.3, client certificates; it can lie, stall and break off."""

    folder: Path
    context: ssl.SSLContext
    breaks_after: int | None = None
    """A connection ends after so many bytes of the body."""
    claims: int | None = None
    """It says this size instead of the file's."""
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    port: int = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            found = re.search(r"bytes=(\d+)-(\d+)", head)
            assert found is not None
            first, last = int(found[1]), int(found[2])
            self.asked.append(found[0])
            content = (self.folder / path.lstrip("/")).read_bytes()
            whole = self.claims or len(content)
            writer.write(
                f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{whole}\r\n\r\n".encode()
            )
            body = content[first : last + 1]
            for at in range(0, len(body), 8192):
                if self.breaks_after is not None and at >= self.breaks_after:
                    break
                writer.write(body[at : at + 8192])
                self.sent += len(body[at : at + 8192])
                await writer.drain()
        writer.close()


class Guard:
    """The guard's end of upkeep's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[frame.UpdateSaid] = []
        self.known: frame.UpkeepIs | None = None
        self.channel: Channel[Any] | None = None
        self.may = frame.UpkeepMay(True, True, False, True, True, True, True, True, True, 1)
        self.changed = asyncio.Event()

    async def run(self) -> None:
        self.channel = Channel(await connect(str(self.path)), frame.ToGuardFromUpkeep)
        beating = asyncio.create_task(self._beat(self.channel))
        try:
            while True:
                got, _ = await self.channel.receive()
                if isinstance(got, frame.UpdateSaid):
                    self.said.append(got)
                elif isinstance(got, frame.UpkeepIs):
                    self.known = got
                self.changed.set()
        except ChannelLostError:
            pass
        finally:
            beating.cancel()
            self.channel.close()

    async def _beat(self, channel: Channel[Any]) -> None:
        while True:
            with contextlib.suppress(ChannelLostError):
                channel.send(self.may)
            await asyncio.sleep(0.05)

    def order(self, offer: UpdateOffer) -> None:
        assert self.channel is not None
        self.channel.send(frame.UpdateOrdered(msgspec.json.encode(offer), True))

    async def until(self, *phases: str) -> frame.UpdateSaid:
        async with asyncio.timeout(30):
            while True:
                found = next((said for said in self.said if said.phase in phases), None)
                if found is not None:
                    return found
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Bench:
    folder: Path
    server: Server
    rauc: FakeRauc
    guard: Guard
    upkeep: Upkeep

    def offer(self, manifest: str, number: int = 1, **changes: Any) -> UpdateOffer:
        values = {
            "statement": number, "url": f"https://127.0.0.1:{self.server.port}/b.raucb", "size_bytes": SIZE,
            "manifest_sha256": manifest,
        }  # fmt: skip
        return offer_of(**(values | changes))

    def bundle(self, **changes: str) -> str:
        return make_bundle(self.folder / "b.raucb", size_bytes=SIZE, **changes)


def certificates(folder: Path) -> dict[str, Path]:
    authority = CertificateAuthority.make("tests")
    (folder / CA_FILE).write_bytes(authority.pem())
    for name, identity in (
        ("server", authority.issue("updates.example", server_names=("127.0.0.1",))),
        ("gateway", authority.issue("gw-a")),
    ):
        (folder / f"{name}.pem").write_bytes(identity.certificate)
        (folder / f"{name}.key").write_bytes(identity.key)
    return {"ca": folder / CA_FILE}


@contextlib.asynccontextmanager
async def bench(tmp_path: Path, **config: Any) -> AsyncIterator[Bench]:
    made = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.load_verify_locations(made["ca"])
    context.verify_mode = ssl.CERT_REQUIRED
    (tmp_path / "os-release").write_text('VERSION_ID="0.1.0"\n')
    (tmp_path / "boot").write_text("slot=a\ntry=0\n")
    with private_bus(tmp_path) as address:
        rauc = FakeRauc(address)
        await rauc.start()
        server = Server(tmp_path, context)
        listening = await server.start()
        guard = Guard(tmp_path / "upkeep.sock")
        settings = UpkeepConfig(
            upkeep_socket=str(tmp_path / "upkeep.sock"),
            state_dir=str(tmp_path / "state"),
            os_release=str(tmp_path / "os-release"),
            boot=str(tmp_path / "boot"),
            restart=str(tmp_path / "restart"),
            ca=str(made["ca"]),
            cert=str(tmp_path / "gateway.pem"),
            key=str(tmp_path / "gateway.key"),
            bus=address,
            **({"rate_bytes_s": 100_000_000} | config),
        )
        tls = client_tls(settings.ca, settings.cert, settings.key)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(settings.upkeep_socket)
        listener.listen(2)
        upkeep = Upkeep(
            settings, Rauc(address), running_version(tmp_path / "os-release"), tls, listener, look_every_s=0.05
        )
        tasks = [asyncio.create_task(guard.run()), asyncio.create_task(upkeep.run())]
        try:
            async with asyncio.timeout(20):
                while guard.known is None:
                    await asyncio.sleep(0.02)
            yield Bench(tmp_path, server, rauc, guard, upkeep)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            listening.close()
            rauc.stop()


def run(test: Any) -> None:
    asyncio.run(test)


def test_an_offer_is_inspected_installed_and_tried_only_when_the_guard_allows(tmp_path):
    async def act() -> None:
        async with bench(tmp_path) as one:
            assert one.guard.known == frame.UpkeepIs("tillsyn-qemu", "0.1.0", "0.0.0", 0)
            one.guard.may = msgspec.structs.replace(one.guard.may, install=False, restart=False)
            await asyncio.sleep(0.3)
            one.guard.order(one.offer(one.bundle()))
            await one.guard.until("offered")
            await asyncio.sleep(0.3)
            assert one.server.asked == []
            one.guard.may = msgspec.structs.replace(one.guard.may, install=True, restart=True)
            await one.guard.until("rebooting")
            assert [content[:1] for content in one.rauc.installed] == [b"{"]
            assert (tmp_path / "restart").read_text() == "try\n"
            assert (tmp_path / "state" / "gate").exists()
            assert one.rauc.marked == []
            phases = [said.phase for said in one.guard.said]
            assert phases[0] == "offered"
            assert phases[-2:] == ["installed", "rebooting"]
            kept = msgspec.json.decode((tmp_path / "state/update.json").read_bytes(), type=machine.AnyState)
            assert isinstance(kept, machine.Rebooting)

    run(act())


@pytest.mark.parametrize(
    ("bundle", "offered", "why"),
    [
        ({"compatible": "tillsyn-rpi5"}, {}, "wrong-compatible"),
        ({"version": "0.2.1"}, {}, "wrong-version"),
        ({"signer": "developer"}, {}, "unknown-signer"),
        ({"format": "plain"}, {}, "plain-format"),
        ({}, {"manifest_sha256": "cd" * 32}, "manifest-differs"),
        ({}, {"size_bytes": SIZE - 1}, "size-differs"),
        ({"version": "0.0.1"}, {"version": "0.0.1"}, "old-version"),
    ],
    ids=["compatible", "version", "dev-key", "plain", "manifest", "size", "old"],
)
def test_a_bundle_that_is_not_the_offered_one_is_refused_and_told(tmp_path, bundle, offered, why):
    async def act() -> None:
        async with bench(tmp_path) as one:
            if "0.0.1" in offered.values():  # only RAUC's own floor is left to refuse it
                one.upkeep.running = "0.0.0"
            one.guard.order(one.offer(one.bundle(**bundle), **offered))
            said = await one.guard.until("refused", "installed", "failed")
            assert (said.phase, said.why) == ("refused", why)
            assert one.rauc.installed == []

    run(act())


def test_an_endless_stream_is_cut_off_before_a_byte_beyond_the_offer(tmp_path):
    async def act() -> None:
        async with bench(tmp_path) as one:
            one.server.claims = 1 << 40
            one.guard.order(one.offer(one.bundle()))
            said = await one.guard.until("refused", "installed", "failed")
            assert (said.phase, said.why) == ("refused", "size-differs")
            assert one.rauc.installed == []

    run(act())


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path):
    async def act() -> None:
        async with bench(tmp_path) as one:
            one.rauc.chunk_bytes = SIZE  # one range for the whole bundle
            one.server.breaks_after = 65_536
            one.guard.order(one.offer(one.bundle()))
            await one.guard.until("installed")
            assert one.rauc.installed == [(tmp_path / "b.raucb").read_bytes()]
            assert len([asked for asked in one.server.asked if not asked.startswith("bytes=0-")]) >= 2
            assert one.server.sent < SIZE + 2 * 65_536

    run(act())


def test_nothing_flows_while_an_occasion_is_near(tmp_path):
    async def act() -> None:
        async with bench(tmp_path) as one:
            one.rauc.step_s = 0.1
            one.guard.order(one.offer(one.bundle()))
            await one.guard.until("downloading")
            one.guard.may = msgspec.structs.replace(one.guard.may, restart=False)
            await asyncio.sleep(0.5)
            proxy = one.upkeep._proxy
            assert proxy is not None
            before = proxy.fetched_bytes
            await asyncio.sleep(0.5)
            assert proxy.fetched_bytes == before < SIZE
            assert one.rauc.installed == []
            one.guard.may = msgspec.structs.replace(one.guard.may, restart=True)
            await one.guard.until("installed")

    run(act())


def test_the_rate_is_capped(tmp_path):
    async def act() -> None:
        async with bench(tmp_path, rate_bytes_s=200_000) as one:
            began = asyncio.get_running_loop().time()
            one.guard.order(one.offer(one.bundle()))
            await one.guard.until("installed")
            took_s = asyncio.get_running_loop().time() - began
            assert took_s >= SIZE / 200_000 * 0.9

    run(act())


def test_the_server_knows_who_fetches(tmp_path):
    async def act() -> None:
        async with bench(tmp_path) as one:
            one.bundle()
            stranger = ssl.create_default_context(cafile=str(tmp_path / CA_FILE))
            proxy = BundleProxy(f"https://127.0.0.1:{one.server.port}/b.raucb", SIZE, stranger, 1e9)
            proxy.may_flow.set()
            with pytest.raises(UpstreamError):
                async for _ in proxy._fetch(0, 10):
                    pass
            own = one.upkeep.tls
            proxy = BundleProxy(f"https://127.0.0.1:{one.server.port}/b.raucb", SIZE, own, 1e9)
            proxy.may_flow.set()
            assert b"".join([chunk async for chunk in proxy._fetch(0, 10)]).startswith(b"{")

    run(act())


def test_a_tried_system_is_marked_good_by_rauc_and_only_after_the_gate(tmp_path):
    async def act() -> None:
        async with bench(tmp_path) as one:
            now = [1000.0]
            one.upkeep.now = lambda: now[0]
            one.guard.order(one.offer(one.bundle()))
            await one.guard.until("rebooting")
            # The next boot: the new system, as a try.
            one.upkeep.running = "0.2.0"
            await one.upkeep.feed(machine.Booted("b2", by_try=True, running="0.2.0"))
            one.upkeep.boot = "b2"
            await one.guard.until("gate")
            await one.upkeep.look()
            for _ in range(3):
                now[0] += 201.0
                one.upkeep._may_s = now[0]  # what the guard said a moment ago is as old as before
                await one.upkeep.look()
                assert (one.rauc.marked == []) is (now[0] < 1603.0)
            await one.guard.until("good")
            assert one.rauc.marked == [("good", "booted")]
            assert not (tmp_path / "state" / "gate").exists()

    run(act())
