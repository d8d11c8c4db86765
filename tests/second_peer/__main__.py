"""`make second-peer`: another WebRTC implementation plays what the operator's browser plays.

Real broker, centre, guard, eye and link; the operator signs as ever, and GStreamer's webrtcbin stands in Chromium's
place. It reports every 5 s and gives no estimate of the line, so it shows also what becomes of the rate then.

    python -m tests.second_peer [--seconds 20]

Exit status 0 when it decoded what was sent, 1 when not, 2 where there is no GStreamer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ifaddr

from centre.operator import OPEN_STATUSES, Operator
from gateway.edge.isolation_unshare import isolation
from gateway.protocol import sdp
from gateway.protocol.message import Verdict
from provisioning import bench_home, demo

PYTHON = "/usr/bin/python3"
"""Debian's, because GStreamer's binding is a package of Debian's."""
PROGRAM = Path(__file__).parent / "gst_peer.py"
MAX_CANDIDATES = 16
READ_S = 4.0
"""An operator reads the page before *Start*; meanwhile the eye loads its libraries."""
OFFER_LIMIT_S = 10.0
FRAME_LIMIT_S = 15.0
LEAST_FPS = 12.0
"""Of the 15 that the bench's camera gives."""
PROBE = """
import sys, gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
sys.exit(any(not Gst.ElementFactory.find(one) for one in ("webrtcbin", "nicesrc", "sctpdec", "rtph264depay")))
"""


class GstPeer:
    """A running `gst_peer.py`, with the few words that an Operator says to its peer connection and its channel."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.readyState = "connecting"
        self.heard = 0
        self.lost = ""
        self.offer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.first_s: float | None = None
        self.first = asyncio.Event()
        self._counts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._opened: list[Any] = []
        self._reading = asyncio.create_task(self._read())

    async def count(self) -> dict[str, Any]:
        """Frames decoded so far, their size, and the receiver's own statistics."""
        self._tell(count=True)
        async with asyncio.timeout(5.0):
            return await self._counts.get()

    # As a peer connection and as a data channel

    def on(self, event: str, call: Any) -> None:
        if event == "open":
            self._opened.append(call)

    async def setRemoteDescription(self, answer: Any) -> None:
        self._tell(answer=answer.sdp)

    def send(self, text: str) -> None:
        self._tell(say=text)

    async def close(self) -> None:
        self._reading.cancel()
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                async with asyncio.timeout(5.0):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    def _tell(self, **words: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            match json.loads(line):
                case {"offer": text} if not self.offer.done():
                    self.offer.set_result(text)
                case {"channel": True}:
                    self.readyState = "open"
                    for call in self._opened:
                        call()
                case {"heard": number}:
                    self.heard = number
                case {"lost": why}:
                    self.lost = why
                case {"frames": 1} if self.first_s is None:
                    self.first_s = time.monotonic()
                    self.first.set()
                case {"frames": _} as counted:
                    self._counts.put_nowait(counted)


class SecondOperator(Operator):
    """An operator whose picture is taken by GStreamer."""

    peer: GstPeer

    async def _offer(self) -> str:
        process = await asyncio.create_subprocess_exec(
            PYTHON, str(PROGRAM), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20
        )
        self.peer = GstPeer(process)
        self._pc = self._channel = self.peer  # type: ignore[assignment]
        async with asyncio.timeout(OFFER_LIMIT_S):
            return tidy(await self.peer.offer)


def tidy(offer: str) -> str:
    """As the page does it: 16 candidates at most, none over TCP or IPv6, which the home would not try."""
    kept, candidates = [], 0
    for line in sdp.keep_sha256(offer).splitlines():
        if line.startswith("a=candidate:"):
            words = line.split()
            if words[2].upper() != "UDP" or ":" in words[4] or candidates == MAX_CANDIDATES:
                continue
            candidates += 1
        # GStreamer's key is RSA, and aiortc as the client of DTLS offers ciphers for ECDSA alone: so it is the server.
        kept.append("a=setup:active" if line == "a=setup:actpass" else line)
    return "\r\n".join(kept) + "\r\n"


def own_address() -> str:
    """This machine's first IPv4 address that is not the loopback's."""
    found = [str(ip.ip) for one in ifaddr.get_adapters() for ip in one.ips if ip.is_IPv4 and ip.ip != "127.0.0.1"]
    if not found:
        raise LookupError("this machine has no address but the loopback's, and GStreamer's ICE does not use that")
    return found[0]


async def run(folder: Path, seconds: float) -> tuple[str, list[str]]:
    """The report's line, and what is wrong."""
    # libnice takes no loopback address of another for a peer's.
    home = bench_home.make(folder, camera="room", isolate=isolation() is not None, ice_address=own_address())
    async with (
        demo.running(home, bench_home.agreement_now(home, max_s=60)) as running,
        SecondOperator(running.url, home.login_token) as operator,
    ):
        known = await operator.wait_for_home(home.gateway, 20.0)
        challenged = await operator.challenge(known)
        await asyncio.sleep(READ_S)
        due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
        look = await operator.open(known, challenged, due)
        peer = operator.peer
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FRAME_LIMIT_S):
                await peer.first.wait()
        if peer.first_s is None:
            log = (home.directory / "home.log").read_text(errors="replace")[-3000:]
            return f"no frame within {FRAME_LIMIT_S:g} s; {peer.lost or 'no word why'}", [log]
        before, began_s = await peer.count(), time.monotonic()
        await asyncio.sleep(seconds)
        after, lasted_s = await peer.count(), time.monotonic() - began_s
        await operator.give_verdict(known, look, Verdict.SEEN)
        outcome = await operator.closed(known, look.check)
    fps = (after["frames"] - before["frames"]) / lasted_s
    first_ms = (peer.first_s - look.asked_s) * 1000
    width, height = after["size"]
    line = (
        f"GStreamer webrtcbin decoded {after['frames']} frames, {fps:.1f} a second over {lasted_s:.0f} s, "
        f"{width}x{height}; first after {first_ms:.0f} ms; words heard by the channel: {peer.heard}; "
        f"ended {outcome['verdict'] or outcome['why']}"
    )
    wrong = [
        words
        for words, is_wrong in (
            (f"{fps:.1f} frames a second, asked at least {LEAST_FPS:g}", fps < LEAST_FPS),
            ("no word came by the data channel", not peer.heard),
            (f"ended {outcome['why']}", outcome["verdict"] != "seen"),
            (f"lost: {peer.lost}", bool(peer.lost)),
        )
        if is_wrong
    ]
    if wrong:
        wrong.append((home.directory / "home.log").read_text(errors="replace")[-3000:])
    return line, wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="make second-peer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to watch, at most 45")
    options = parser.parse_args()
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", PROBE], check=False, capture_output=True).returncode:
        print("no GStreamer with webrtcbin here; `make second-peer` installs it from Debian", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="tillsyn-second-peer-") as folder:
        line, wrong = asyncio.run(run(Path(folder) / "bench", min(options.seconds, 45.0)))
    print(line)
    for words in wrong:
        print(f"  {words}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
