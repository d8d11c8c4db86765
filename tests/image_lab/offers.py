"""Updates as a fleet gets them: an offer signed by the release role, given out by the centre, carried out by itself.

Nobody touches the guest here. The lab is the firmware: whenever the machine ends, it is powered on again, as a try
where one was asked for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
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
from gateway.update.slot import PARTITION, Slot
from provisioning import bench_home
from provisioning.authority import tunnel_config
from provisioning.image import bundle
from provisioning.image.compare import read_release
from tests.image_lab.bundle_server import ENDLESS
from tests.image_lab.card import Card, CardError
from tests.image_lab.card import sh as sh_card
from tests.image_lab.lab import ImageLab
from tests.image_lab.machine import Machine
from tests.image_lab.shows import booted, stays
from tests.net_lab.network import TUNNEL_BROKER, TUNNEL_RELAY, sh

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


HANG = "sleep 20; for each in init.scope system.slice; do echo 1 >/sys/fs/cgroup/$$each/cgroup.freeze; done"
"""First the service manager stands still, then all that it started; the kernel alone runs on. A unit wants `$$`."""
SABOTAGED = {
    "no-network": "systemd.mask=systemd-networkd.service",
    "no-camera-service": "systemd.mask=tillsyn-eye.socket systemd.mask=tillsyn-eye.service",
    "guard-crashes": drop_in("guard", "[Service]\nExecStartPost=+/bin/sh -c 'sleep 3; kill -SEGV $MAINPID'\n"),
    "guard-never-ready": drop_in("guard", "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n"),
    "hangs": drop_in("link", f"[Service]\nExecStartPost=+/bin/sh -c '{HANG}'\n"),
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
        rules = tunnel_config.firewall(
            interface="wg0", broker=TUNNEL_BROKER, broker_port=home.broker_port, relay=TUNNEL_RELAY, bundles_port=PORT
        )
        sh("nft -f -", namespace="centre", stdin=rules)
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
        self.sizes[name] = target.stat().st_size
        if words.get("form") != "plain":
            self.manifests[name] = bundle.manifest_sha256(target)
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
        """How the rollout stands, once the centre has looked at it again; what has not ended is ended."""
        for _ in range(30):
            (one,) = [each for each in await self._ask("GET", "/fleet/rollouts") if each["id"] == rollout]
            if one["status"] != "in-progress":
                break
            await asyncio.sleep(1.0)
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
    await lab.put(bench_home.agreement_now(lab.net.home, version=lab.version, offset_min=-LATER_MIN))


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
        ENDLESS.removesuffix(".raucb"): ("refused", {"size-differs"}),
    }
    for name, (phase, whys) in expected.items():
        rollout = await offers.give_out(offers.offer(name))
        told = await offers.until_told(900.0)
        slots = (await lab.slots()).splitlines()[1]
        lab.say(f"refused: {name}: {told['phase']} {told['why']}; rollout {await offers.end(rollout)}; {slots}")
        assert told["phase"] == phase, told
        assert told["why"] in whys, told
        assert "pending=none" in slots, slots
    assert offers.boots == [], "nothing restarted"


async def sabotaged(lab: ImageLab, name: str) -> None:
    """The next system with one part that does not work: tried, left by itself, and the centre hears why."""
    offers = await offers_of(lab)
    old = booted(lab)
    offers.make(name, lambda boot, scratch: reword(boot, scratch, SABOTAGED[name]))
    if name != "hangs":
        lab.machine.has_watchdog = False
    elif not lab.machine.has_watchdog:
        # The board's watchdog, from the next power-on.
        lab.machine.has_watchdog = True
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
        f"sabotaged: {name}: fell back, told {told['why']}; fetched {offers.sent(name)} of {offers.sizes[name]} bytes; "
        f"boots {offers.boots}; armed {facts}; "
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
    slots = " ".join((await lab.slots()).splitlines()[:2])
    assert f"primary={old.other}" in slots, slots
    lab.say(f"  {slots}")
    await stays(lab, old.other)


RAUC = "de.pengutronix.rauc"
INSTALLING = f"busctl --auto-start=no get-property {RAUC} / {RAUC}.Installer Operation | grep -qw installing"
CUT_AFTER_S = (20.0, 60.0)
"""Seconds of writing the other slot, after which the power is cut."""


async def interrupted(lab: ImageLab) -> None:
    """The power is cut twice while the other slot is written; nobody does anything but give it back."""
    offers = await offers_of(lab)
    old = booted(lab)
    offers.make("interrupted")
    rollout = await offers.give_out(offers.offer("interrupted"))
    for after_s in CUT_AFTER_S:
        await lab.machine.until(INSTALLING, limit_s=900.0)
        await asyncio.sleep(after_s)
        await lab.machine.order(INSTALLING)
        await lab.machine.cut()
        await lab.power_on()
        lab.say(f"  cut after {after_s:g} s of writing; up again in slot {booted(lab)}")
        assert booted(lab) is old
    told = await offers.until_told(GATE_LIMIT_S)
    slots = " ".join((await lab.slots()).splitlines()[:2])
    lab.say(
        f"interrupted: {told['phase']} {told['why'] or ''}; boots {offers.boots}; rollout {await offers.end(rollout)}; "
        f"fetched {offers.sent('interrupted')} of {offers.sizes['interrupted']} bytes; {slots}"
    )
    assert told["phase"] == "good", told
    assert offers.boots == [f"{old.other} try"], offers.boots
    assert f"primary={old.other}" in slots, slots


# Power cuts, each in a copy

POINTS = {"offered": 1, "downloading": 5, "installed": 2, "rebooting": 4, "first boot": 6, "gate": 2}
"""At most so many copies of the card by time, of what happens under that name."""
EVERY_S = {"downloading": 25.0, "rebooting": 2.0, "first boot": 15.0, "gate": 200.0}
SELECTION_POINTS = 30
"""At most so many copies at a change of the slot selection: what is pending, tried, and good."""
SELECTION_BYTES = 1 << 20
"""Its file system is empty but for three small files, which lie at its beginning."""

LEFT_OUT_AFTER_CUT = (
    *("tillsyn-upkeep.service", "tillsyn-upkeep.socket", "tillsyn-link.service"),
    *("tillsyn-tunnel.service", "tillsyn-tunnel.socket"),
    *("systemd-networkd.service", "systemd-networkd.socket", "systemd-resolved.service", "systemd-timesyncd.service"),
)


@dataclass
class Points:
    """Copies of the card, each as a power cut at that moment would leave it."""

    lab: ImageLab
    folder: Path
    made: list[tuple[str, Path]] = field(default_factory=list)
    old: Slot = Slot.A
    phase: str = ""
    is_over: bool = False

    async def take(self) -> None:
        """Copy until the update has ended: by time within each phase, and at each change of the slot selection."""
        machine = self.lab.machine
        part = machine.card.parts()["select"]
        taken: dict[str, int] = {}
        seen: set[bytes] = set()
        last_s = written_ns = 0.0
        last_phase = ""
        while not self.is_over:
            await asyncio.sleep(0.04)
            phase = "first boot" if self.phase == "rebooting" and machine.number != PARTITION[self.old] else self.phase
            phase = phase if machine.running() else "off"
            now_s = time.monotonic()
            due = phase != last_phase or now_s - last_s >= EVERY_S.get(phase, 1e9)
            if due and taken.get(phase, 0) < POINTS.get(phase, 1 if phase == "off" else 0):
                taken[phase] = taken.get(phase, 0) + 1
                await self._copy(phase)
                last_s = time.monotonic()
            last_phase = phase
            if (changed_ns := machine.card.path.stat().st_mtime_ns) == written_ns:
                continue
            written_ns = changed_ns
            with machine.card.path.open("rb") as file:
                file.seek(part.start)
                digest = hashlib.sha256(file.read(SELECTION_BYTES)).digest()
            if digest not in seen and len(seen) < SELECTION_POINTS:
                if seen:
                    await self._copy(f"slot selection written, {phase or 'before'}")
                seen.add(digest)

    async def _copy(self, words: str) -> None:
        path = self.folder / f"{len(self.made)}.img"
        machine = self.lab.machine
        try:
            if machine.running():
                await machine.copy_card(path)
            else:
                sh_card("cp", "--sparse=always", str(machine.card.path), str(path))
        except (OSError, CardError) as exc:
            # The machine ended in this moment; the next round copies what it left.
            self.lab.say(f"  (no copy: {exc})")
            return
        self.made.append((words, path))


async def points(lab: ImageLab) -> None:
    """An update, with the card copied at moments of it; then each copy is powered on, and must boot a valid slot."""
    offers = await offers_of(lab)
    folder = lab.directory / "points"
    folder.mkdir()
    offers.make("points")
    taking = Points(lab, folder, old=booted(lab))
    rollout = await offers.give_out(offers.offer("points"))

    def look(phase: str) -> None:
        taking.phase = phase

    copies = asyncio.create_task(taking.take())
    told = await offers.until_told(GATE_LIMIT_S, look=look)
    await asyncio.sleep(5.0)
    taking.is_over = True
    await copies
    lab.say(
        f"points: {len(taking.made)} copies; {told['phase']}; boots {offers.boots}; "
        f"rollout {await offers.end(rollout)}; fetched {offers.sent('points')} of {offers.sizes['points']} bytes"
    )
    assert told["phase"] == "good", told
    await lab.machine.order("sync")
    await lab.machine.cut()
    wrong = 0
    for number, (words, path) in enumerate(taking.made):
        said = await after_cut(lab, path, taking.old)
        wrong += said.startswith("WRONG")
        lab.say(f"  cut {number + 1} of {len(taking.made)}, {words}: {said}")
        path.unlink()
    assert wrong == 0, f"{wrong} of {len(taking.made)}"
    assert len(taking.made) >= 30, "fewer points than promised"


async def after_cut(lab: ImageLab, path: Path, old: Slot) -> str:
    """Power on a copy, without a network: which slot came up, and whether all is well there.

    What would go on with the update, or only wants a network, is left out: it takes the time of what is looked at.
    """
    folder = path.with_suffix("")
    folder.mkdir()
    machine = Machine(Card(path), folder, key_hex=lab.key_hex)
    machine.has_network = False
    machine.more_words = " ".join(f"systemd.mask={each}" for each in LEFT_OUT_AFTER_CUT)
    began_s = time.monotonic()
    try:
        await machine.power_on()
        await machine.until("systemctl --quiet is-active tillsyn-guard", limit_s=600.0)
        took_s = time.monotonic() - began_s
        said = await machine.order(
            "cat /run/tillsyn/boot; /usr/lib/tillsyn/slot-backend show; dmsetup table root | cut -d' ' -f3;"
            "systemctl show --value -p Result tillsyn-park; tillsyn ledger verify /var/lib/tillsyn/guard/ledger;"
            "cat /var/lib/tillsyn/upkeep/update.json 2>/dev/null | head -c 20000; echo"
        )
    except (CardError, TimeoutError) as exc:
        return f"WRONG: {exc}"
    finally:
        await machine.cut()
        shutil.rmtree(folder)
    slot = re.search(r"^slot=(\w)$", said, re.MULTILINE)
    shown = re.search(r"^(running=.*)\n(good=([ab ]*) pending=.*)$", said, re.MULTILINE)
    is_good = slot is not None and shown is not None and slot[1] in shown[3].split()
    marks = ("\nverity\n", "\nsuccess\n", "verified:", "try=0\n")
    sound = is_good and all(mark in said for mark in marks)
    state = re.search(r'"type":"(\w+)"', said)
    words = f"slot {slot[1]} in {took_s:.0f} s, {shown[1]} {shown[2]}" if slot and shown else said
    return f"{'' if sound else 'WRONG: '}{words}; " + (f"upkeep {state[1] if state else 'has no state'}")
