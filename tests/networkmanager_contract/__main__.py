"""Start the guest that setup.sh made, follow its console, and plug its cable: `make networkmanager-contract`.

With KVM where this machine has it, else emulated. The exit status is 0 when every case held in the guest.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 1800.0


def command(cache: Path, console: Path, monitor: Path, *, logs: bool) -> list[str]:
    root = cache / "root" / "boot"
    kernel, initrd = max(root.glob("vmlinuz-*")), max(root.glob("initrd.img-*"))
    words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "1024"]
    words += ["-machine", "q35", "-accel", "kvm", "-accel", "tcg", "-cpu", "kvm64"]
    words += ["-kernel", str(kernel), "-initrd", str(initrd)]
    more = " wizard.logs" if logs else ""
    words += ["-append", f"console=ttyS0 quiet root=/dev/vda rw init=/opt/contract/init panic=-1{more}"]
    words += ["-drive", f"if=none,id=root,file={cache / 'disk.img'},format=raw,snapshot=on"]
    words += ["-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci"]
    # A cable with an address at its end, and one with a silent switch.
    words += ["-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,id=nic0,addr=0x10"]
    words += ["-netdev", "hubport,id=n1,hubid=1", "-device", "virtio-net-pci,netdev=n1,id=nic1,addr=0x11"]
    return [*words, "-serial", f"file:{console}", "-monitor", f"unix:{monitor},server=on,wait=off"]


def set_link(monitor: Path, state: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(monitor))
        sock.sendall(f"set_link nic0 {state}\n".encode())
        time.sleep(0.2)


def follow(process: subprocess.Popen[bytes], console: Path, monitor: Path) -> str:
    """Print what the guest tells, and obey it, until it is off; everything that it said."""
    said, ends_s = "", time.monotonic() + LIMIT_S
    while process.poll() is None:
        if time.monotonic() > ends_s:
            process.kill()
            raise SystemExit(f"the guest did not end within {LIMIT_S:.0f} s")
        time.sleep(0.1)
        text = console.read_bytes().decode(errors="replace").replace("\r", "") if console.exists() else ""
        fresh, said = text[len(said) : text.rfind("\n") + 1], text[: text.rfind("\n") + 1]
        for line in fresh.splitlines():
            if found := re.match(r"host: cable (on|off)", line):
                set_link(monitor, found[1])
            else:
                print(line, flush=True)
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="the directory that setup.sh filled")
    parser.add_argument("--logs", action="store_true", help="print the guest's logs at the end")
    options = parser.parse_args()
    console, monitor = options.cache / "console.txt", options.cache / "monitor.sock"
    for path in (console, monitor):
        path.unlink(missing_ok=True)
    process = subprocess.Popen(command(options.cache, console, monitor, logs=options.logs), stdin=subprocess.DEVNULL)
    try:
        said = follow(process, console, monitor)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    return 0 if "guest: contract ended with 0" in said else 1


sys.exit(main())
