"""What is shown, one after the other on one card: each show begins where the one before it ended."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from gateway.core.error import IntegrityError
from gateway.update.slot import PARTITION, Slot, parse_autoboot
from provisioning.image import bundle
from tests.image_lab import walls, write_log
from tests.image_lab.card import CardError
from tests.image_lab.enrol import WORLD
from tests.image_lab.lab import ImageLab, enrol_card
from tests.image_lab.machine import BOOT_LIMIT_S, disk_of

CUTS = 10
FOLDERS = {
    "config": (0o755, 0, 0),
    "secret": (0o700, 0, 0),
    "guard": (0o700, 960, 960),
    "link": (0o700, 962, 962),
    "tunnel": (0o700, 963, 963),
    "setup": (0o700, 964, 964),
    "factory": (0o700, 964, 964),
    "upkeep": (0o700, 965, 965),
    "journal": (0o2755, 0, 999),
    "rauc": (0o755, 0, 0),
}
"""Name to mode, user and group, as /usr/lib/tillsyn/data-partition makes them."""


async def first_boot(lab: ImageLab) -> None:
    """A card as it was written: the data partition is made; nothing is configured, nothing fails, nothing listens."""
    began_s = time.monotonic()
    await lab.power_on()
    await lab.machine.until("mountpoint -q /var/lib/tillsyn")
    await lab.until_settled()
    lab.say(f"first boot: data partition made, settled after {time.monotonic() - began_s:.0f} s of the host's time")
    failed = await lab.failed_units()
    assert failed == [], failed
    root = await lab.machine.order("dmsetup table root | cut -d' ' -f3; grep ' / ' /proc/mounts")
    assert root.startswith("verity"), root
    await lab.machine.order("sync")
    await lab.machine.cut()
    lab.say(f"enrolled from outside: {enrol_card(lab)} sectors of the data partition")


async def prepared(lab: ImageLab) -> None:
    """In the place of the first boot: the data partition is made from outside, as the first boot would."""
    lab.machine.card.make_data(lab.key_hex, lab.directory, FOLDERS)
    lab.say(f"no first boot: data partition made and enrolled from outside, {enrol_card(lab)} sectors changed")


async def again(lab: ImageLab) -> None:
    """A card that was kept by an earlier lab is powered on."""
    await lab.power_on()
    facts = await lab.until_armed()
    await lab.until_settled()
    await lab.agree()
    lab.say(f"the kept card is armed again: {facts}; {(await lab.slots()).splitlines()[1]}")


async def armed(lab: ImageLab) -> None:
    """From power-on to armed; park before the network; no failed unit; the slot is found good."""
    began_s = time.monotonic()
    await lab.power_on()
    facts = await lab.until_armed()
    lab.say(f"armed after {time.monotonic() - began_s:.0f} s of the host's time: {facts}")
    if lab.version == 0:
        await lab.agree()
    await lab.until_settled()
    failed = await lab.failed_units()
    assert failed == [], failed
    slots = await lab.slots()
    assert "good=a" in slots, slots
    lab.say(f"no failed unit; {slots.splitlines()[1]}")


async def check(lab: ImageLab) -> None:
    """A whole check by an operator at the centre."""
    opened = await lab.open_check()
    told = await lab.ask_operator("seen")
    lab.say(f"whole check: {opened} {told}")
    assert told.get("verdict") == "seen", told
    assert told["frames"] > 3, told
    assert told["parked"] is True, told


async def inside(lab: ImageLab) -> None:
    """What the sandboxes stop, from inside; and what systemd-analyze says of them."""
    for line in await walls.figures(lab.machine):
        lab.say(f"  exposure {line}")
    for line in await walls.tried(lab.machine):
        lab.say(f"  {line}")


async def restart(lab: ImageLab) -> None:
    """A restart in order, and the marker scan while the machine is off."""
    await lab.machine.ask("systemctl --no-block reboot")
    assert not await lab.machine.until_off(), "nobody asked for a try"
    facts = lab.ledger()
    lab.say(f"restarted; the ledger on the card verifies: {facts['records']} records, last {facts['kinds'][-3:]}")
    found = lab.scan(plant=False)
    lab.say(f"marker scan of the data partition, opened: {found}")
    assert found["hits"] == [], found
    planted = lab.scan(plant=True)
    lab.say(f"  with a needle of each kind planted: {len(planted['hits'])} found of {planted['kinds']} kinds")
    assert len({hit.split(":")[0] for hit in planted["hits"]}) == planted["kinds"], planted
    await lab.power_on()
    lab.say(f"armed again: {await lab.until_armed()}")


async def cuts(lab: ImageLab, number: int = CUTS) -> None:
    """Power cuts, in a check and in idle by turns: parks first, the ledger verifies, the home is armed again.

    A check that was cut off stands open in the ledger, and closed as recovered after the next boot.
    """
    rng = random.Random(7)
    recovered = None
    for turn in range(number):
        in_check = turn % 2 == 0
        if in_check:
            await lab.open_check()
        await asyncio.sleep(rng.uniform(0.0, 4.0))
        await lab.machine.cut()
        if in_check:
            await lab.ask_operator("drop")
        left = lab.ledger()
        assert left["open"] is in_check, left
        assert recovered is None or left["recovered"] == recovered, left
        recovered = left["recovered"] + in_check
        await lab.power_on()
        facts = await lab.until_armed()
        pan = await lab.machine.order(f"cat {WORLD}/pins.json; flock -n {WORLD}/sensor true")
        await lab.machine.order("sync")
        pins = json.loads(pan)
        place = "in a check" if in_check else "in idle"
        pulse_us = pins["12"]["last_pulse_us"]
        lab.say(
            f"cut {turn + 1} of {number} {place}: {left['records']} records verify, last {left['kinds'][-1]}, "
            f"{left['recovered']} checks recovered"
        )
        lab.say(f"  {facts}; servo at {pulse_us:.0f} us")
        assert abs(pulse_us - 1500.0) < 15.0, pins


# Updates


def add_bundle(lab: ImageLab, built: Path, signers: Path, name: str, change: Any = None) -> None:
    """A bundle of the built root with a boot partition that `change` has altered, as one more disk of the machine."""
    folder = lab.directory / f"bundle-{name}"
    folder.mkdir()
    if change is None:
        shutil.copy(built / "update.raucb", folder)
    for each in ("root.img", "boot.vfat", "release.json"):
        shutil.copy(built / each, folder)
    target = folder / "update.raucb"
    if change is not None:
        change(folder / "boot.vfat", folder)
        certificate, key = bundle.make_signer(signers, "release")
        bundle.make_bundle(folder, certificate, key, target, level=1)
    (folder / "root.img").unlink()
    lab.machine.disks.append(disk_of(target, lab.directory / f"{name}.disk"))
    lab.bundles[name] = (chr(ord("a") + len(lab.machine.disks)), target.stat().st_size)


def panics(boot: Path, scratch: Path) -> None:
    """A kernel without its initial RAM disk's program."""
    empty = scratch / "initrd.img"
    empty.write_bytes(bytes(1024))
    subprocess.run(["mcopy", "-o", "-i", str(boot), str(empty), "::initrd.img"], check=True, capture_output=True)


def unguarded(boot: Path, scratch: Path) -> None:
    """A system whose guard is never started."""
    line = scratch / "cmdline.txt"
    subprocess.run(["mcopy", "-n", "-i", str(boot), "::cmdline.txt", str(line)], check=True, capture_output=True)
    line.write_text(line.read_text().strip() + " systemd.mask=tillsyn-guard.service\n")
    subprocess.run(["mcopy", "-o", "-i", str(boot), str(line), "::cmdline.txt"], check=True, capture_output=True)


async def install(lab: ImageLab, name: str) -> None:
    """By RAUC, from the disk that holds the bundle."""
    await lab.until_settled()
    letter, size = lab.bundles[name]
    await lab.machine.order(f"head -c {size} /dev/vd{letter} >/run/update.raucb", limit_s=300.0)
    began_s = time.monotonic()
    said = await lab.machine.order("rauc install /run/update.raucb; rm /run/update.raucb", limit_s=900.0)
    lab.say(
        f"  {name}: installed in {time.monotonic() - began_s:.0f} s of the host's time: {said.splitlines()[-1][:100]}"
    )


async def try_it(lab: ImageLab) -> None:
    """Ask for the try and boot what the firmware then chooses."""
    await lab.machine.ask("/usr/lib/tillsyn/restart-into-update")
    assert await lab.machine.until_off(), "the firmware was not asked for a try"
    await lab.power_on(tryboot=True)


def booted(lab: ImageLab) -> Slot:
    return next(slot for slot, number in PARTITION.items() if number == lab.machine.number)


async def stays(lab: ImageLab, slot: Slot) -> None:
    """The slot that runs is the one that a plain power-on boots after the power was cut."""
    await lab.machine.order("sync")
    await lab.machine.cut()
    await lab.power_on()
    assert booted(lab) is slot
    lab.say(f"  a plain power-on after it boots slot {slot}: {await lab.until_armed()}")


async def update(lab: ImageLab) -> None:
    """Into the other slot, a try, good, and after a plain power-on still there."""
    old = booted(lab)
    await install(lab, "good")
    await try_it(lab)
    assert booted(lab) is old.other
    facts = await lab.until_armed()
    await lab.until_settled()
    slots = await lab.slots()
    assert f"running={old.other} try=yes primary={old.other}" in slots, slots
    lab.say(f"update: slot {old.other} tried, armed {facts}, found good: {slots.splitlines()[1]}")
    await stays(lab, old.other)


async def falls_back(lab: ImageLab, name: str, limit_s: float) -> None:
    """A bundle that is not healthy: the old slot again, by itself, and it is said."""
    old = booted(lab)
    await install(lab, name)
    await try_it(lab)
    assert booted(lab) is old.other
    began_s = time.monotonic()
    assert not await lab.machine.until_off(limit_s), "it does not ask for another try"
    console = lab.machine.console
    lab.say(f"{name}: the tried slot {old.other} ended by itself after {time.monotonic() - began_s:.0f} s")
    if name == "panics":
        assert "panic" in console.lower(), console[-500:]
    await lab.power_on()
    assert booted(lab) is old
    facts = await lab.until_armed()
    note = await lab.note()
    assert "fell-back" in note, note
    slots = await lab.slots()
    lab.say(f"  back on slot {old}, armed {facts}; told: {note.splitlines()[-1]}; {slots.splitlines()[1]}")
    assert re.search(rf"running={old} .*primary={old}", slots), slots


async def flipped(lab: ImageLab) -> None:
    """One bit of the committed slot's root: its boots end at once, and after three the other slot runs and says so."""
    await lab.until_settled()
    slots = await lab.slots()
    if "good=a b" not in slots:
        raise CardError(f"both slots must have been good once: {slots}")
    old = booted(lab)
    await lab.machine.order("sync")
    await lab.machine.cut()
    lab.machine.card.flip_bit(f"root-{old}", 1024 + 16)
    for number in range(6):
        await lab.power_on()
        if booted(lab) is not old:
            break
        await lab.machine.until_off(BOOT_LIMIT_S)
        console = lab.machine.console
        lab.say(f"  boot {number + 1} on slot {old} ended: {_last(console)}")
    else:
        raise CardError("the other slot was never taken")
    facts = await lab.until_armed()
    note = await lab.note()
    assert "gave-way" in note, note
    lab.say(f"flipped bit: slot {booted(lab)} runs, armed {facts}; told: {note.splitlines()[-1]}")


def _last(console: str) -> str:
    lines = [line for line in console.splitlines() if re.search("verity|panic|tillsyn:|corrupt", line, re.IGNORECASE)]
    return " / ".join(line.strip()[:110] for line in lines[:2]) or "left by the initial RAM disk"


# The slot selection, write by write

CHANGES = ("set-state b bad", "set-primary b", "try", "--boot /run/lab/b healthy", "--boot /run/lab/a healthy")
"""Of RAUC, of the restart into an update, and of the health gate of either slot: all that ever change the selection."""
WITHOUT_DIRSYNC = """
mkdir -p /run/lab/select
mount -t vfat -o nodev,nosuid,noexec /dev/disk/by-partlabel/select /run/lab/select
"""


async def selection(lab: ImageLab) -> None:
    """After each single write of a boot and of every change, the firmware finds its file whole, and we find our book.

    The same changes on a mount without dirsync show that the look can find something.
    """
    machine = lab.machine
    if machine.write_log is None:
        machine.write_log = lab.directory / "writes.log"
        await machine.order("sync")
        await machine.cut()
        await lab.power_on()
    await machine.until("systemctl --quiet is-active tillsyn-guard && systemctl --quiet is-active tillsyn-slot")
    await machine.order("mkdir -p /run/lab; printf 'slot=a\ntry=1\n' >/run/lab/a; printf 'slot=b\ntry=1\n' >/run/lab/b")
    for change in CHANGES * 2:
        await machine.order(f"/usr/lib/tillsyn/slot-backend {change}")
    await machine.stand_still()
    looked, faults = look_at_each_write(lab)
    lab.say(f"selection: {looked} writes, {len(faults)} of them leave it unsound: {faults[:3]}")
    assert faults == []
    assert looked > 50, "too few to say anything"
    await machine.cut()

    await lab.power_on()
    await machine.until("systemctl --quiet is-active tillsyn-guard && systemctl --quiet is-active tillsyn-slot")
    await machine.order("mkdir -p /run/lab; printf 'slot=b\ntry=1\n' >/run/lab/b")
    own = "/usr/bin/tillsyn slot --directory /run/lab/select"
    changes = f"{own} set-primary b; {own} --boot /run/lab/b healthy; umount /run/lab/select"
    await machine.order(f"flock /run/tillsyn-select.lock sh -ec '{WITHOUT_DIRSYNC}{changes}'")
    await machine.stand_still()
    looked, faults = look_at_each_write(lab)
    lab.say(f"  without dirsync: {looked} writes, {len(faults)} of them leave it unsound: {faults[:3]}")
    assert faults != [], "the look finds nothing, whatever there is"
    await machine.cut()


def look_at_each_write(lab: ImageLab) -> tuple[int, list[str]]:
    """(how many writes, what was wrong after which) of the slot selection since the power came."""
    machine = lab.machine
    assert machine.write_log is not None
    scratch, looked, faults = lab.directory / "selection.vfat", 0, []
    start = machine.card.parts()["select"].start
    for state in write_log.states(machine.write_log, machine.selection_before, start):
        looked += 1
        scratch.write_bytes(state)
        for name, accept in (("autoboot.txt", parse_autoboot), ("slots.txt", _accept_book)):
            read = subprocess.run(["mtype", "-i", str(scratch), f"::{name}"], capture_output=True, check=False)
            try:
                if read.returncode != 0:
                    raise IntegrityError(read.stderr.decode(errors="replace").strip()[:80])
                accept(read.stdout.decode())
            except (IntegrityError, UnicodeDecodeError) as exc:
                faults.append(f"write {looked}: {name}: {exc}")
    return looked, faults


def _accept_book(text: str) -> None:
    if re.fullmatch(r"good=[ab ]*\npending=[ab]?\ntried=(yes|no)\n", text) is None:
        raise IntegrityError("not the whole book")
