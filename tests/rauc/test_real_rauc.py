"""The real RAUC 1.13 on a private bus with real bundles: what it says is read as upkeep needs it, and it reads a bundle
through upkeep's proxy.

`make rauc-contract` (root; the first time it fetches a Debian trixie). No kernel of a development machine has dm-verity
and nbd, so what comes after mounting a bundle is for the image's lab: writing the slot, RAUC's own look at the board
and at `min-bundle-version`. Here those two are refused by upkeep's comparison, before RAUC is asked to install.

Mutation that should turn this red, not tried: the pattern for a damaged bundle behind the one for its format.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from update_support import offer

from gateway.edge.bundle_proxy import BundleProxy
from gateway.edge.installer_rauc import BundleRefusedError, Rauc, RaucError
from gateway.services.upkeep import difference
from tests.fakes.rauc_on_bus import private_bus

ROOT = Path(os.environ["TILLSYN_RAUC_ROOT"])
IN_ROOT = (
    'mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && mount --bind "$1" "$0/mnt" && '
    'export PATH=/usr/sbin:/usr/bin && shift && exec /usr/sbin/chroot "$0" "$@"'
)
SYSTEM = """\
[system]
compatible=tillsyn-qemu
bootloader=noop
bundle-formats=-plain
mountprefix=/mnt/mount
statusfile=/mnt/status.raucs
min-bundle-version=0.1.0

[keyring]
path=/mnt/release.pem
check-purpose=codesign

[slot.rootfs.0]
device=/mnt/root-a
bootname=a

[slot.rootfs.1]
device=/mnt/root-b
bootname=b
"""


def inside(work: Path, *command: str) -> list[str]:
    return [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        IN_ROOT,
        str(ROOT),
        str(work),
        *command,
    ]


def make_signer(work: Path, name: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", work / f"{name}.key", "-out", work / f"{name}.pem", "-days", "30", "-subj", f"/CN={name}",
         "-addext", "extendedKeyUsage=codeSigning"],
        check=True, capture_output=True,
    )  # fmt: skip


def make_bundle(work: Path, name: str, *, compatible: str, version: str, form: str, signer: str) -> None:
    content = work / f"content-{name}"
    content.mkdir()
    (content / "root.img").write_bytes(os.urandom(245 * 4096))
    (content / "manifest.raucm").write_text(
        f"[update]\ncompatible={compatible}\nversion={version}\n\n[bundle]\nformat={form}\n\n"
        "[image.rootfs]\nfilename=root.img\n"
    )
    command = ["rauc", f"--cert=/mnt/{signer}.pem", f"--key=/mnt/{signer}.key", "bundle"]
    subprocess.run(
        inside(work, *command, f"/mnt/content-{name}", f"/mnt/{name}.raucb"),
        check=True,
        capture_output=True,
        timeout=60,
    )


GOOD = {"compatible": "tillsyn-qemu", "version": "0.2.0", "form": "verity", "signer": "release"}
BUNDLES = {
    "good": {},
    "compatible": {"compatible": "tillsyn-rpi5"},
    "old": {"version": "0.0.1"},
    "developer": {"signer": "developer"},
    "plain": {"form": "plain"},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rauc")
    for name in ("release", "developer"):
        make_signer(made, name)
    (made / "system.conf").write_text(SYSTEM)
    (made / "mount").mkdir()
    for slot in ("root-a", "root-b"):
        (made / slot).write_bytes(bytes(1 << 20))
    for name, changes in BUNDLES.items():
        make_bundle(made, name, **(GOOD | changes))
    (made / "truncated.raucb").write_bytes((made / "good.raucb").read_bytes()[:700_000])
    return made


@pytest.fixture(scope="module")
def bus(work: Path) -> Iterator[str]:
    with private_bus(work) as address:
        service = subprocess.Popen(
            inside(work, "rauc", "--conf=/mnt/system.conf", "--override-boot-slot=a", "service"),
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/mnt/bus"},
        )
        try:
            yield address
        finally:
            service.kill()  # unshare keeps SIGTERM to itself; RAUC dies with it
            service.wait(timeout=10)


@dataclass
class Files:
    """A server with the bundles. `size` is what it says of each, if not the truth."""

    folder: Path
    size: int | None = None
    asked: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked += 1
            content = (self.folder / head.split(" ")[1].lstrip("/")).read_bytes()
            found = re.search(r"bytes=(\d+)-(\d+)", head)
            assert found is not None
            first, last = int(found[1]), int(found[2])
            whole = self.size or len(content)
            writer.write(
                f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{whole}\r\n\r\n".encode()
            )
            writer.write(content[first : last + 1])
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def through_the_proxy(
    work: Path, name: str, *, size: int | None = None
) -> AsyncIterator[tuple[str, BundleProxy]]:
    listening = await asyncio.start_server(Files(work, size).serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    proxy = BundleProxy(f"http://127.0.0.1:{port}/{name}.raucb", (work / f"{name}.raucb").stat().st_size, None, 1e9)
    proxy.may_flow.set()
    try:
        yield await proxy.start(), proxy
    finally:
        await proxy.stop()
        listening.close()


async def ready(bus: str) -> Rauc:
    rauc = Rauc(bus)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(RaucError):
                assert await rauc.compatible() == "tillsyn-qemu"
                return rauc
            await asyncio.sleep(0.2)


def run(act: Any) -> Any:
    return asyncio.run(act)


def test_a_good_bundle_is_read_through_the_proxy_by_its_signed_end_alone(work: Path, bus: str) -> None:
    async def act() -> None:
        rauc = await ready(bus)
        async with through_the_proxy(work, "good") as (source, proxy):
            facts = await rauc.inspect(source)
            assert facts == await rauc.inspect("/mnt/good.raucb")
            assert (facts.compatible, facts.version, facts.format) == ("tillsyn-qemu", "0.2.0", "verity")
            offered = offer(manifest_sha256=facts.manifest_sha256)
            assert difference(facts.compatible, facts.version, facts.manifest_sha256, offered) is None
            assert proxy.fetched_bytes < 8192
        await rauc.close()

    run(act())


@pytest.mark.parametrize(
    ("name", "why"), [("developer", "unknown-signer"), ("plain", "plain-format"), ("truncated", "damaged")]
)
def test_what_rauc_refuses_has_its_word(work: Path, bus: str, name: str, why: str) -> None:
    async def act() -> None:
        rauc = await ready(bus)
        async with through_the_proxy(work, name) as (source, _):
            for place in (source, f"/mnt/{name}.raucb"):
                for attempt in (rauc.inspect(place), rauc.install(place, limit_s=30.0)):
                    with pytest.raises(BundleRefusedError) as caught:
                        await attempt
                    assert caught.value.why == why
        await rauc.close()

    run(act())


@pytest.mark.parametrize(("name", "why"), [("compatible", "wrong-compatible"), ("old", "wrong-version")])
def test_a_signed_bundle_that_was_not_offered_differs_before_it_is_installed(
    work: Path, bus: str, name: str, why: str
) -> None:
    async def act() -> None:
        rauc = await ready(bus)
        facts = await rauc.inspect(f"/mnt/{name}.raucb")
        offered = offer(manifest_sha256=facts.manifest_sha256)
        assert difference(facts.compatible, facts.version, facts.manifest_sha256, offered) == why
        await rauc.close()

    run(act())


def test_a_stream_without_the_offered_end_reaches_rauc_with_nothing(work: Path, bus: str) -> None:
    async def act() -> None:
        rauc = await ready(bus)
        async with through_the_proxy(work, "good", size=1 << 40) as (source, proxy):
            with pytest.raises((RaucError, BundleRefusedError)):
                await rauc.inspect(source)
            assert proxy.size_differs
            assert proxy.fetched_bytes == 0
        await rauc.close()

    run(act())
