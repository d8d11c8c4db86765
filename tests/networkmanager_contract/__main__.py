"""The network port against the NetworkManager of a Debian: simulated radios in a guest, here; a cable, and Avahi
for the name, in namespaces, by namespace.sh. `make networkmanager-contract` does both.

The exit status is 0 when every case held in the guest.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TREE = HERE.parents[1]
OURS = (
    "gateway/__init__.py",
    "gateway/core/__init__.py",
    "gateway/core/error.py",
    "provisioning/__init__.py",
    "provisioning/wizard/__init__.py",
    "provisioning/wizard/network_dbus.py",
    "provisioning/wizard/name_dbus.py",
    "provisioning/wizard/network_port.py",
)
LEFT_OUT = {"perl", "perl5", "perl-base", "gconv", "bash-completion", "hwmon", "hid", "md", "platform", "input", "ata"}
LEFT_OUT |= {"comedi", "mtd", "video", "target", "block", "i2c", "isdn", "mmc", "nvme", "power", "boot"}
"""Folders of the Debian that the guest has no use for: it is unpacked into memory at each start."""
USERS = {
    "passwd": "root:*:0:0:root:/:/bin/sh\nmessagebus:*:100:101::/nonexistent:/bin/false\n"
    "avahi:*:110:110::/:/bin/false\nnobody:*:65534:65534::/nonexistent:/bin/false\n",
    "group": "root:*:0:\nmessagebus:*:101:\nnetdev:*:102:\ndip:*:103:\navahi:*:110:\nnogroup:*:65534:\n",
}
LIMIT_S = 7200.0


def build(cache: Path) -> tuple[Path, Path]:
    """Kernel and initramfs: the Debian that setup.sh unpacked, our port, its suite, and this lane's own files."""
    debian = cache / "debian"
    if not (debian / ".complete").exists():
        raise SystemExit(f"{cache} is not filled; run {HERE / 'setup.sh'} {cache}")
    contract = debian / "opt" / "contract"
    shutil.rmtree(contract, ignore_errors=True)
    shutil.copytree(next(cache.glob("wheels-*")), contract)
    shutil.copytree(HERE / "guest", contract, dirs_exist_ok=True)
    shutil.copy2(TREE / "tests" / "contract" / "network_suite.py", contract)
    for name in OURS:
        (contract / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TREE / name, contract / name)
    # What maintainer scripts would have done, as far as it is needed: two files of users, and the modules' order; and
    # of the image's recipe, who may speak with NetworkManager.
    ours = re.findall(r"^u +(tillsyn-\w+) +(\d+)", (TREE / "systemd/sysusers/tillsyn.conf").read_text(), re.MULTILINE)
    more = {
        "passwd": "".join(f"{name}:*:{number}:{number}::/:/bin/false\n" for name, number in ours),
        "group": "".join(f"{name}:*:{number}:\n" for name, number in ours),
    }
    for name, text in USERS.items():
        (debian / "etc" / name).write_text(text + more[name])
    for name, place in (("dbus", "usr/share/dbus-1/system.d"), ("networkmanager", "usr/lib/NetworkManager/conf.d")):
        shutil.copytree(TREE / "systemd" / name, debian / place, dirs_exist_ok=True)
    for name in ("dev", "proc", "sys", "run", "tmp", "var/lib/NetworkManager", "var/lib/dbus"):
        (debian / name).mkdir(parents=True, exist_ok=True)
    for name, target in (("var/run", "/run"), ("etc/resolv.conf", "/run/NetworkManager/resolv.conf")):
        (debian / name).unlink(missing_ok=True)
        (debian / name).symlink_to(target)
    version = next((debian / "lib/modules").iterdir()).name
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run(["depmod", "-b", str(debian), version], check=True, timeout=120, env=path)
    initramfs = cache / "initramfs.cpio"
    write_cpio(debian, initramfs)
    return debian / "boot" / f"vmlinuz-{version}", initramfs


def write_cpio(root: Path, path: Path) -> None:
    """Pack `root` as the kernel takes it, symbolic links too. Source: Linux, early-userspace/buffer-format."""
    with path.open("wb") as out:

        def put(name: str, mode: int, content: bytes) -> None:
            encoded = name.encode() + b"\0"
            fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
            header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
            out.write(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))

        for folder, names, files in os.walk(root):
            names[:] = [each for each in names if each not in LEFT_OUT]
            for each in (*names, *files):
                place = Path(folder, each)
                status, name = place.lstat(), str(place.relative_to(root))
                if stat.S_ISLNK(status.st_mode):
                    put(name, status.st_mode, os.fsencode(place.readlink()))
                elif stat.S_ISDIR(status.st_mode):
                    put(name, status.st_mode, b"")
                elif stat.S_ISREG(status.st_mode):
                    put(name, status.st_mode, place.read_bytes())
        put("TRAILER!!!", 0, b"")


def command(kernel: Path, initramfs: Path, console: Path, *, accel: str, logs: bool, only: str) -> list[str]:
    words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "2048"]
    words += ["-machine", "q35", "-accel", accel, "-cpu", "max" if accel == "tcg" else "kvm64"]
    words += ["-kernel", str(kernel), "-initrd", str(initramfs)]
    more = (" wizard.logs" if logs else "") + (f" wizard.only={only}" if only else "")
    words += ["-append", f"console=ttyS0 quiet rdinit=/opt/contract/init panic=-1{more}"]
    words += ["-device", "virtio-rng-pci"]
    return [*words, "-serial", f"file:{console}"]


def follow(process: subprocess.Popen[bytes], console: Path) -> str:
    """Print what the guest tells until it is off; everything that it said."""
    said, ends_s = "", time.monotonic() + LIMIT_S
    while process.poll() is None:
        if time.monotonic() > ends_s:
            process.kill()
            raise SystemExit(f"the guest did not end within {LIMIT_S:.0f} s")
        time.sleep(0.1)
        text = console.read_bytes().decode(errors="replace").replace("\r", "") if console.exists() else ""
        fresh, said = text[len(said) : text.rfind("\n") + 1], text[: text.rfind("\n") + 1]
        print(fresh, end="", flush=True)
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="the directory that setup.sh filled")
    parser.add_argument("--logs", action="store_true", help="print the guest's logs at the end")
    parser.add_argument("--only", default="", help="the cases to run, with commas between them; default all")
    parser.add_argument("--build-only", action="store_true", help="for namespace.sh")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg", help="default tcg")
    options = parser.parse_args()
    console = options.cache / "console.txt"
    console.unlink(missing_ok=True)
    kernel, initramfs = build(options.cache)
    if options.build_only:
        return 0
    words = command(kernel, initramfs, console, accel=options.accel, logs=options.logs, only=options.only)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        said = follow(process, console)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    return 0 if "guest: contract ended with 0" in said else 1


sys.exit(main())
