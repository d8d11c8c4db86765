"""The network port's cases against the NetworkManager that runs here: of the radio in the guest, of the cable
in the namespace (`--namespace`). One line for each; the exit status says whether all held.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from network_suite import CABLE_CASES, CASES, WITHOUT_RADIO, Case

from provisioning.wizard.network_dbus import NmNetwork

CASE_LIMIT_S = 240.0
IN_GUEST = "--namespace" not in sys.argv
DHCP_PID = Path("/run/far.pid")


def run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout


class RealHome:
    """The guest's own device and air."""

    def __init__(self) -> None:
        self.network = NmNetwork(cables=(1,) if IN_GUEST else (20,))

    async def kept(self) -> int:
        for _ in range(20):  # NetworkManager ends a failed one by itself a moment later
            found = [
                line for line in run("nmcli", "-t", "-f", "NAME,TYPE", "connection").splitlines() if ":lo" not in line
            ]
            if not found:
                break
            await asyncio.sleep(0.1)
        return len([line for line in found if "loopback" not in line])

    async def joined(self) -> str | None:
        """As the kernel has it. `iw info` does not name a station's network on Linux 6.1, `link` does."""
        said = _facts("link", ": ")
        return _spelled(said["SSID"]) if "SSID" in said else None

    async def access_point(self) -> str | None:
        said = _facts("info", " ")
        return _spelled(said["ssid"]) if said.get("type") == "AP" and "ssid" in said else None

    async def plug(self, cable: str) -> None:
        """The far end of a veth, in a namespace of its own: down, silent, or with a DHCP server."""
        far = ("ip", "netns", "exec", "far")
        run(*far, "ip", "link", "set", "far", "down" if cable == "none" else "up")
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(DHCP_PID.read_text()), signal.SIGTERM)
        DHCP_PID.unlink(missing_ok=True)
        if cable == "up":
            words = ["dnsmasq", "--interface=far", "--bind-interfaces", "--port=0", "--dhcp-range=10.77.0.9,10.77.0.99"]
            run(*far, *words, f"--pid-file={DHCP_PID}", "--dhcp-leasefile=/run/far.leases", "--user=root")
        await asyncio.sleep(1.5)

    async def reset(self) -> None:
        for line in run("nmcli", "-t", "-f", "UUID,TYPE", "connection").splitlines():
            if not line.endswith("loopback"):
                run("nmcli", "connection", "delete", line.partition(":")[0])
        await self.network.close()
        await asyncio.sleep(1.0)


def _facts(word: str, between: str) -> dict[str, str]:
    """What the kernel says of the radio: nothing that NetworkManager says of itself."""
    said = run("iw", "dev", "wlan0", word).splitlines()
    return dict(line.strip().partition(between)[::2] for line in said)


def _spelled(name: str) -> str:
    """iw spells what is not ASCII as \\xNN."""
    return re.sub(rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), name.encode()).decode()


async def one(name: str, work: Case) -> bool:
    home, began_s = RealHome(), time.monotonic()
    await home.reset()
    try:
        async with asyncio.timeout(CASE_LIMIT_S):
            await work(home)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is this case's result
        where = traceback.extract_tb(exc.__traceback__)[-1]
        print(f"case {name}: FAILED {exc!r} at {where.name}:{where.lineno} after {time.monotonic() - began_s:.1f} s")
        return False
    finally:
        await home.network.close()
    print(f"case {name}: held, {time.monotonic() - began_s:.1f} s")
    return True


async def every(only: list[str]) -> int:
    of_cables = {name: CASES[name] for name in CABLE_CASES}
    cases = {name: CASES[name] for name in CASES if name not in of_cables} if IN_GUEST else WITHOUT_RADIO | of_cables
    held = [await one(name, work) for name, work in cases.items() if not only or name in only]
    print(f"{sum(held)} of {len(held)} cases held")
    return 0 if held and all(held) else 1


sys.exit(asyncio.run(every([word for word in sys.argv[1:] if not word.startswith("--")])))
