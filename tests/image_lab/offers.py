"""Updates as a fleet gets them: an offer signed by the release role, given out by the centre, carried out by itself.

Nobody touches the guest here. The lab is the firmware: whenever the machine ends, it is powered on again, as a try
where one was asked for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway.protocol.envelope import sign
from gateway.protocol.message import UpdateOffer
from provisioning import bench_home
from provisioning.image import bundle
from provisioning.image.compare import read_release
from tests.image_lab.bundle_server import ENDLESS
from tests.image_lab.card import CardError
from tests.image_lab.lab import ImageLab
from tests.image_lab.shows import booted
from tests.net_lab.network import TUNNEL_BROKER, sh

PORT = 8443
ENDS = frozenset({"good", "refused", "failed", "fell-back"})
LATER_MIN = 600
"""The next agreed occasion: far enough that an update may begin and restart."""
GATE_LIMIT_S = 3600.0
"""The gate gives up after forty minutes; boots and downloads come on top."""


def drop_in(service: str, text: str) -> str:
    """Words of the command line that add to a unit. Source: systemd.system-credentials(7)."""
    content = base64.b64encode(text.encode()).decode()
    return f"systemd.set_credential_binary=systemd.unit-dropin.tillsyn-{service}.service:{content}"


HANG = (
    "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; sleep 20; "
    "for each in 1 2 3 4; do chrt -f 99 sh -c 'while :; do :; done' & done"
)
"""Work that nothing else of the system comes beside, on every processor."""
SABOTAGED = {
    "no-network": "systemd.mask=systemd-networkd.service",
    "no-camera-service": "systemd.mask=tillsyn-eye.socket systemd.mask=tillsyn-eye.service",
    "guard-crashes": drop_in("guard", "[Service]\nExecStartPost=+/bin/sh -c 'sleep 3; kill -SEGV $MAINPID'\n"),
    "hangs": drop_in("link", f'[Service]\nExecStartPost=+/bin/sh -c "{HANG}"\n'),
}
"""Name to what its command line has more: the system is the next one, and one part of it does not work."""


def reword(boot: Path, scratch: Path, more: str) -> None:
    """Add to the command line of a boot partition."""
    line = scratch / "cmdline.txt"
    subprocess.run(["mcopy", "-n", "-i", str(boot), "::cmdline.txt", str(line)], check=True, capture_output=True)
    line.write_text(f"{line.read_text().strip()} {more}\n")
    subprocess.run(["mcopy", "-o", "-i", str(boot), str(line), "::cmdline.txt"], check=True, capture_output=True)
    line.unlink()


@dataclass
class Offers:
    """What the lab has to offer with, and what was told of it."""

    lab: ImageLab
    next: Path
    signers: Path
    sizes: dict[str, int] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    statement: int = 0
    served: bool = False
    boots: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.lab.directory / "bundles"

    async def ready(self) -> None:
        """Once: the server with the bundles, in the centre's network, and hours without an agreed occasion."""
        if self.served:
            return
        self.served = True
        await later(self.lab)
        self.folder.mkdir(exist_ok=True)
        home, net = self.lab.net.home, self.lab.net
        identity = home.authority.issue("bundles", server_names=(TUNNEL_BROKER,))
        certificate, key = home.directory / "bundles.pem", home.directory / "bundles.key"
        certificate.write_bytes(identity.certificate)
        key.write_bytes(identity.key)
        sh(f"nft insert rule inet tillsyn_centre input iifname wg0 ip daddr {TUNNEL_BROKER} tcp dport {PORT} accept",
           namespace="centre")  # fmt: skip
        await net._spawn(
            "bundles", "centre", sys.executable, "-m", "tests.image_lab.bundle_server", str(self.folder),
            TUNNEL_BROKER, str(PORT), str(certificate), str(key), str(home.directory / "centre" / "ca.pem"),
        )  # fmt: skip

    def make(self, name: str, change: Callable[[Path, Path], None] | None = None, **words: Any) -> None:
        """A bundle of the next system, with a boot partition that `change` has altered."""
        folder = self.lab.directory / f"bundle-{name}"
        folder.mkdir()
        shutil.copy(self.next / "boot.vfat", folder)
        shutil.copy(self.next / "root.img", folder)
        facts = read_release(self.next) | {key: words.pop(key) for key in ("compatible",) if key in words}
        if change is not None:
            change(folder / "boot.vfat", folder)
        (folder / "release.json").write_text(json.dumps(facts))
        signer = words.pop("signer", "release")
        certificate, key = bundle.make_signer(self.signers, signer)
        target = self.folder / f"{name}.raucb"
        bundle.make_bundle(folder, certificate, key, target, level=1, **words)
        self.sizes[name], self.manifests[name] = target.stat().st_size, bundle.manifest_sha256(target)
        shutil.rmtree(folder)

    def sent(self, name: str) -> int:
        """Bytes that the server has sent of a bundle."""
        path = self.folder / "sent.json"
        return int(json.loads(path.read_text()).get(f"{name}.raucb", 0)) if path.exists() else 0

    def offer(self, name: str, **words: Any) -> str:
        now = time.time()
        self.statement = max(self.statement + 1, int(now) - 1_700_000_000)
        facts = {
            "statement": self.statement,
            "version": str(read_release(self.next)["version"]),
            "compatible": str(read_release(self.next)["compatible"]),
            "url": f"https://{TUNNEL_BROKER}:{PORT}/{name}.raucb",
            "manifest_sha256": self.manifests.get(name, "ab" * 32),
            "size_bytes": self.sizes.get(name, 1 << 20),
            "ring": "all",
            "not_before": now - 60.0,
            "deadline": now + 86_400.0,
            "stated": now - 60.0,
            "expires": now + 86_400.0,
        } | words
        return sign(UpdateOffer(**facts), self.lab.net.home.release).decode()

    async def give_out(self, signed: str) -> str:
        """By the centre, as a steward does it: the plan that was shown is begun. The rollout's id."""
        criteria = {"soak_s": 0.0, "silent_s": 86_400.0, "needs_approval": False}
        shown = await self._ask("POST", "/fleet/plan", {"offer": signed, "criteria": criteria})
        begun = await self._ask(
            "POST", "/fleet/rollouts", {"offer": signed, "criteria": criteria, "plan": shown["plan"]}
        )
        return str(begun["id"])

    async def end(self, rollout: str) -> str:
        """How the rollout stands; what has not ended is ended."""
        (one,) = [each for each in await self._ask("GET", "/fleet/rollouts") if each["id"] == rollout]
        if one["status"] not in ("completed", "aborted", "canceled"):
            await self._ask("POST", f"/fleet/rollouts/{rollout}/abort", {})
        return str(one["status"])

    async def reports(self) -> list[dict[str, Any]]:
        """What the centre has heard of this offer, oldest first."""
        told = await self._ask("GET", f"/homes/{self.lab.net.home.gateway}/updates")
        return [each for each in reversed(told) if each["statement"] == self.statement]

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.lab.net.home.planner_token}"}
        async with httpx.AsyncClient(
            base_url=f"{self.lab.net.url}/api/v1", headers=headers, timeout=60.0, trust_env=False
        ) as client:
            answer = await client.request(method, path, json=body)
        if answer.status_code != 200:
            raise CardError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()

    async def until_told(
        self, limit_s: float, *, phases: frozenset[str] = ENDS, look: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """The first report of this offer in one of `phases`. Meanwhile the lab is the firmware."""
        began_s, said = time.monotonic(), 0
        while time.monotonic() - began_s < limit_s:
            if not self.lab.machine.running():
                asked = await self.lab.machine.until_off(30.0)
                self.lab.say(f"  the machine restarted{' as a try' if asked else ''}: {_last_words(self.lab)}")
                await self.lab.power_on(tryboot=asked)
                self.boots.append(f"{booted(self.lab)}{' try' if asked else ''}")
            reports: list[dict[str, Any]] = []
            with contextlib.suppress(httpx.HTTPError):
                reports = await self.reports()
            for each in reports[said:]:
                words = f"{each['phase']} {each['why'] or ''}"
                if each["phase"] != "downloading" or each["percent"] in (0, 50, 100):
                    self.lab.say(f"  +{time.monotonic() - began_s:.0f} s: {words} {each['percent'] or ''}")
                if each["phase"] in phases:
                    return each
            said = len(reports)
            if look is not None:
                look(reports[-1]["phase"] if reports else "")
            await asyncio.sleep(1.0)
        raise CardError(f"not told within {limit_s:g} s: {await self.reports()}\n{self.lab.machine.console[-800:]}")


def _last_words(lab: ImageLab) -> str:
    words = [line.strip() for line in lab.machine.console.splitlines() if line.strip()]
    return words[-1][:110] if words else ""


async def offers_of(lab: ImageLab) -> Offers:
    """The lab's, made at the first question."""
    if lab.offers is None:
        if lab.next is None:
            raise CardError("no next build to offer: `make image-next`, or --next DIR")
        lab.offers = Offers(lab, lab.next, lab.signers)
    offers = lab.offers
    assert isinstance(offers, Offers)
    await offers.ready()
    return offers


async def later(lab: ImageLab) -> None:
    """Agree on an occasion that is hours away: until then an update disturbs nobody."""
    lab.version += 1
    lab.left = 0
    await lab.net.agree(bench_home.agreement_now(lab.net.home, version=lab.version, offset_min=-LATER_MIN))


async def refused(lab: ImageLab) -> None:
    """Bundles that never get as far as a restart: each is refused or given up by itself, and the centre hears why."""
    offers = await offers_of(lab)
    offers.make("next")
    offers.make("wrong-compatible", compatible="tillsyn-rpi5")
    offers.make("old-version", version="0.0.9")
    offers.make("developers-key", signer="developer")
    offers.make("plain", form="plain")
    whole = (offers.folder / "next.raucb").read_bytes()
    (offers.folder / "truncated.raucb").write_bytes(whole[: len(whole) // 2])
    offers.sizes["truncated"], offers.manifests["truncated"] = len(whole) // 2, offers.manifests["next"]
    expected = {
        "wrong-compatible": ("refused", {"wrong-compatible"}),
        "old-version": ("refused", {"old-version", "wrong-version"}),
        "developers-key": ("refused", {"unknown-signer"}),
        "plain": ("refused", {"plain-format"}),
        "truncated": ("refused", {"damaged", "bad-signature"}),
        "endless": ("refused", {"size-differs"}),
    }
    assert ENDLESS == "endless.raucb"
    for name, (phase, whys) in expected.items():
        rollout = await offers.give_out(offers.offer(name))
        told = await offers.until_told(900.0)
        slots = (await lab.slots()).splitlines()[1]
        lab.say(f"refused: {name}: {told['phase']} {told['why']}; rollout {await offers.end(rollout)}; {slots}")
        assert told["phase"] == phase, told
        assert told["why"] in whys, told
        assert "pending" not in slots, slots
    assert offers.boots == [], "nothing restarted"


async def sabotaged(lab: ImageLab, name: str) -> None:
    """The next system with one part that does not work: tried, left by itself, and the centre hears why."""
    offers = await offers_of(lab)
    old = booted(lab)
    offers.make(name, lambda boot, scratch: reword(boot, scratch, SABOTAGED[name]))
    lab.machine.has_watchdog = name == "hangs"
    if name == "hangs":
        # The board's watchdog, from the next power-on.
        await lab.machine.order("sync")
        await lab.machine.cut()
        await lab.power_on()
        await lab.until_armed()
    offers.boots.clear()
    rollout = await offers.give_out(offers.offer(name))
    told = await offers.until_told(GATE_LIMIT_S)
    assert told["phase"] == "fell-back", told
    assert offers.boots[:1] == [f"{old.other} try"], offers.boots
    assert booted(lab) is old
    facts = await lab.until_armed()
    slots = (await lab.slots()).splitlines()[1]
    lab.say(
        f"sabotaged: {name}: fell back, told {told['why']}; boots {offers.boots}; armed {facts}; "
        f"rollout {await offers.end(rollout)}; {slots}"
    )


async def offered(lab: ImageLab) -> None:
    """Offer, install, restart, gate, good; and what was fetched of the bundle, against all of it."""
    offers = await offers_of(lab)
    old = booted(lab)
    offers.make("adaptive")
    rollout = await offers.give_out(offers.offer("adaptive"))
    told = await offers.until_told(GATE_LIMIT_S)
    fetched, size = offers.sent("adaptive"), offers.sizes["adaptive"]
    lab.say(f"offered: {told['phase']} {told['why'] or ''}; boots {offers.boots}; rollout {await offers.end(rollout)}")
    lab.say(f"  fetched {fetched} of {size} bytes: {fetched / size:.3f}")
    assert told["phase"] == "good", told
    assert offers.boots == [f"{old.other} try"], offers.boots
    slots = (await lab.slots()).splitlines()[1]
    assert f"primary={old.other}" in slots, slots
    lab.say(f"  {slots}")
