"""Runs in the namespace: nobody answers for the device's name before it is announced, and Avahi does afterwards."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys

from provisioning.wizard.name_dbus import announce

PATIENCE_S = 240.0
"""For a machine that is busy with other things: what is tried is not how long it takes."""
HOST, HERE, THERE = "gw-ab12", "10.77.0.2", "10.77.0.1"


def answer() -> str | None:
    """Who the local network says has the name: one question by multicast DNS, four times. Source: RFC 6762."""
    question = struct.pack("!6H", 7, 0, 1, 0, 0, 0) + bytes([len(HOST)]) + HOST.encode() + b"\x05local\0"
    question += struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2.0)
        sock.bind((THERE, 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(THERE))
        for _ in range(4):
            sock.sendto(question, ("224.0.0.251", 5353))
            try:
                return socket.inet_ntoa(sock.recv(1500)[-4:])
            except TimeoutError:
                continue
    return None


def asked() -> str:
    """The same from the far end of the cable."""
    words = ["ip", "netns", "exec", "far", sys.executable, __file__, "--ask"]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout.strip()


async def announced_twice() -> list[bool]:
    """The second time it is there already; each is tried until a busy machine has done it."""
    done: list[bool] = []
    async with asyncio.timeout(PATIENCE_S):
        while done.count(True) < 2:
            done.append(await announce(HOST))
    return done[-1:]


if sys.argv[1:] == ["--ask"]:
    print(answer())
else:
    before = asked()
    announced = asyncio.run(announced_twice())
    asyncio.run(asyncio.sleep(2.0))
    after = asked()
    held = (before, announced, after) == ("None", [True], HERE)
    print(f"case the-name-is-answered-for-once-it-is-announced: {'held' if held else 'FAILED'} ({before} → {after})")
    sys.exit(not held)
