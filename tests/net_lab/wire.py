"""A wire between two namespaces that delays, loses, narrows and cuts: what netem does, where the kernel has no netem.

Two TAP devices, one moved into each namespace, and this process between them. Frames of a TAP without offloads are what
would be on a cable: whole, with checksums, no larger than the interface's MTU. Each direction has its own queue: a rate
in bit/s with a bounded buffer (what doesn't fit is lost, as in a modem), then a delay, and losses by a seeded dice.

Run as `python -m tests.net_lab.wire NAME@NAMESPACE NAME@NAMESPACE`. Each line on standard input is a JSON object with
some of `loss` (0..1), `delay_ms` (one way), `rate_bps`, `buffer_ms`, `cut`; it holds from then on, and is answered with
one line. The end of standard input ends the process.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME_BYTES = 65536


@dataclass
class Settings:
    loss: float = 0.0
    delay_ms: float = 0.0
    rate_bps: float = 0.0
    """0: as fast as it comes."""
    buffer_ms: float = 300.0
    cut: bool = False


@dataclass
class Direction:
    """One way over the wire."""

    out: int
    dice: random.Random
    busy_until_s: float = 0.0
    waiting: list[tuple[float, int, bytes]] = field(default_factory=list)
    count: int = 0
    carried: int = 0
    lost: int = 0

    def take(self, frame: bytes, settings: Settings, now_s: float) -> None:
        if settings.cut or self.dice.random() < settings.loss:
            self.lost += 1
            return
        leaves_s = now_s
        if settings.rate_bps:
            begins_s = max(now_s, self.busy_until_s)
            if begins_s - now_s > settings.buffer_ms / 1000.0:
                self.lost += 1
                return
            self.busy_until_s = leaves_s = begins_s + len(frame) * 8 / settings.rate_bps
        self.count += 1
        heapq.heappush(self.waiting, (leaves_s + settings.delay_ms / 1000.0, self.count, frame))

    def deliver(self, now_s: float) -> None:
        while self.waiting and self.waiting[0][0] <= now_s:
            frame = heapq.heappop(self.waiting)[2]
            try:
                os.write(self.out, frame)
                self.carried += 1
            except OSError:  # the interface on the other side is down, or its queue is full
                self.lost += 1


def tap(place: str) -> int:
    """Make a TAP, move it into its namespace (NAME@NAMESPACE); its descriptor, non-blocking."""
    name, _, namespace = place.partition("@")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", namespace], check=True)
    return fd


def carry(ends: tuple[int, int], settings: Settings, seed: int) -> None:
    """Carry frames until standard input ends."""
    # Two seeds: the same dice for both ways would lose what answers a lost packet.
    ways = {
        ends[0]: Direction(ends[1], random.Random(seed)),
        ends[1]: Direction(ends[0], random.Random(seed + 1)),
    }
    chooser = selectors.DefaultSelector()
    for fd in ends:
        chooser.register(fd, selectors.EVENT_READ)
    chooser.register(sys.stdin.fileno(), selectors.EVENT_READ)
    os.set_blocking(sys.stdin.fileno(), False)
    rest = b""
    while True:
        now_s = time.monotonic()
        for way in ways.values():
            way.deliver(now_s)
        nexts = [way.waiting[0][0] for way in ways.values() if way.waiting]
        timeout_s = max(0.0, min(nexts) - time.monotonic()) if nexts else None
        for key, _ in chooser.select(timeout_s):
            if key.fd in ways:
                _drain(key.fd, ways[key.fd], settings)
                continue
            data = os.read(key.fd, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                for name, value in json.loads(line).items():
                    setattr(settings, name, value)
                print(json.dumps({"carried": [w.carried for w in ways.values()]}), flush=True)


def _drain(fd: int, way: Direction, settings: Settings) -> None:
    for _ in range(64):
        try:
            frame = os.read(fd, FRAME_BYTES)
        except BlockingIOError:
            return
        except OSError:
            time.sleep(0.01)  # the interface is down
            return
        way.take(frame, settings, time.monotonic())


def main() -> None:
    ends = (tap(sys.argv[1]), tap(sys.argv[2]))
    print("ready", flush=True)
    carry(ends, Settings(), seed=int(sys.argv[3]) if len(sys.argv) > 3 else 1)


if __name__ == "__main__":
    main()
