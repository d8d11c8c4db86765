"""What of the picture can be seen on its way: captures in the uplink, the centre and the tunnel, and link's memory.

The camera plays a film whose encoded bytes are known. Chunks of its key frames, as they would stand in any packet that
carried them in clear, are looked for everywhere. Each search is tried where it must find something first: in the eye's
memory, and in a capture of a datagram that was sent in clear on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.net_lab.lab import Lab, LabError, running
from tests.net_lab.network import (
    CENTRE_BROKER,
    TUNNEL_BROKER,
    TUNNEL_RELAY,
    WIREGUARD_PORT,
    sh,
    within,
)
from tests.net_lab.onlooker import onlooker

CHUNK_BYTES = 20
CHUNK_EVERY_BYTES = 97
WATCH_S = 8.0
MARK_PORT = 53
"""A port that is let out of every network here, for the datagram in clear."""


def make_film(path: Path) -> list[bytes]:
    """A raw H.264 film of noise, and chunks of its key frames as they stand between two start codes."""
    dice = np.random.default_rng(1)
    with av.open(str(path), "w", format="h264") as container:
        stream: Any = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.codec_context.bit_rate = 800_000
        stream.codec_context.gop_size = 15
        stream.codec_context.max_b_frames = 0
        stream.options = {"profile": "baseline", "tune": "zerolatency", "preset": "ultrafast"}
        small = dice.integers(0, 255, (9, 16, 3), dtype=np.uint8)
        for number in range(60):
            picture = np.kron(np.roll(small, number, axis=1), np.ones((40, 40, 1), dtype=np.uint8))
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    units = re.split(rb"\x00\x00\x00?\x01", path.read_bytes())
    chunks = [
        unit[place : place + CHUNK_BYTES]
        for unit in units
        if unit and unit[0] & 0x1F in (1, 5)
        for place in range(40, len(unit) - CHUNK_BYTES, CHUNK_EVERY_BYTES)
    ]
    # Only chunks that are nothing else by chance.
    return list(dict.fromkeys(chunk for chunk in chunks if len(set(chunk)) > CHUNK_BYTES // 2))


@dataclass
class Capture:
    """A running tcpdump: every packet whole."""

    path: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> bytes:
        self.process.terminate()
        self.process.wait(10)
        return self.path.read_bytes()


def capture(namespace: str, interface: str, path: Path) -> Capture:
    process = subprocess.Popen(
        [*within(namespace), "tcpdump", "-i", interface, "-U", "-s", "0", "-w", str(path), "-Z", "root"],
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    while b"listening on" not in (line := process.stderr.readline()):
        if not line:
            raise LabError("tcpdump did not start")
    return Capture(path, process)


def seen(path: Path, fields: str, only: str) -> set[tuple[str, ...]]:
    """The distinct values of these fields, by tshark, of the packets that `only` names."""
    words = ["tshark", "-r", str(path), "-T", "fields", *(word for one in fields.split() for word in ("-e", one))]
    done = subprocess.run([*words, "-Y", only], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"tshark: {done.stderr.strip()[:300]}")
    return {tuple(line.split("\t")) for line in done.stdout.splitlines()}


def found(content: bytes, chunks: list[bytes]) -> int:
    return sum(chunk in content for chunk in chunks)


def in_memory(pid: int, chunks: list[bytes]) -> int:
    """How many of the chunks stand in a process's memory."""
    left, count = set(chunks), 0
    place = Path("/proc") / str(pid)
    with (place / "maps").open() as maps, (place / "mem").open("rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            begin, end = (int(one, 16) for one in span.split("-"))
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(begin)
                content = memory.read(end - begin)
                here = {chunk for chunk in left if chunk in content}
                count += len(here)
                left -= here
    return count


@dataclass
class Report:
    way: str
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def say(self, words: str, *, holds: bool) -> None:
        self.lines.append(f"{'holds' if holds else 'DOES NOT HOLD'}: {words}")
        if not holds:
            self.wrong.append(words)


async def run(directory: Path, *, blocked: bool) -> Report:
    """One check under the captures, by the tunnel or by the fallback."""
    report = Report("fallback" if blocked else "tunnel")
    directory.mkdir(parents=True, exist_ok=True)
    film = directory / "film.h264"
    chunks = make_film(film)
    async with running(directory, camera=f"file:{film}", udp_blocked=blocked) as lab:
        await lab.agree()
        await lab.until_tunnel("fallback" if blocked else "up", 30.0)
        folder = directory / "captures"
        folder.mkdir()
        places = {"uplink": ("router", "wan"), "centre": ("centre", "eth0")}
        if not blocked:
            places["tunnel"] = ("home", "tillsyn0")
        captures = {name: capture(*place, folder / f"{name}.pcap") for name, place in places.items()}
        memory = await _watch(lab, chunks)
        if not blocked:
            # In clear, on purpose: what the search must find.
            sh(
                'python3 -c "import socket,sys; s=socket.socket(2,2);'
                f"s.sendto(bytes.fromhex('{chunks[0].hex()}'),('{CENTRE_BROKER}',{MARK_PORT}))\"",
                namespace="home",
            )
        await asyncio.sleep(1.0)
        contents = {name: one.stop() for name, one in captures.items()}
    report.say(f"{len(chunks)} chunks of the film are looked for", holds=len(chunks) > 50)
    report.say(f"control: {memory['eye']} of them in the eye's memory", holds=memory["eye"] > 10)
    report.say(f"{memory['link']} in link's memory while it carried the picture", holds=memory["link"] == 0)
    for name, content in contents.items():
        hits = found(content, chunks)
        marked = 1 if not blocked and name in ("uplink", "centre") else 0
        control = " (the one that was sent in clear: the control)" if marked else ""
        report.say(f"{hits} in {len(content) // 1024} KiB captured: {name}{control}", holds=hits == marked)
    _judge(report, folder, blocked=blocked)
    return report


async def _watch(lab: Lab, chunks: list[bytes]) -> dict[str, int]:
    async with onlooker(lab) as operator:
        await operator.ready()
        await asyncio.sleep(2.0)
        await operator.start()
        if await operator.first_frame_ms(20.0) is None:
            raise LabError(f"no picture: {await operator.words()}\n{lab.log('home')}")
        await asyncio.sleep(WATCH_S / 2)
        pids = lab.pids()
        memory = {name: await asyncio.to_thread(in_memory, pids[name], chunks) for name in ("eye", "link")}
        await asyncio.sleep(WATCH_S / 2)
        await operator.say_if_possible("seen")
    return memory


def _judge(report: Report, folder: Path, *, blocked: bool) -> None:
    """What kinds of packets there were."""
    ip = f"ip && !arp && !(udp.port == {MARK_PORT})"
    home_side = "ip.addr == 100.64.0.2 || ip.addr == 203.0.114.2"
    for name, only in (("uplink", ip), ("centre", f"{ip} && ({home_side})")):
        kinds = seen(folder / f"{name}.pcap", "ip.proto udp.port tcp.port", f"{only} && !icmp")
        if blocked:
            odd = {kind for kind in kinds if "443" not in kind[-1].split(",")}
            plain = seen(
                folder / f"{name}.pcap", "tcp.stream", f"{only} && tcp.len > 0 && (stun || dtls || mqtt || rtp)"
            )
            versions = seen(folder / f"{name}.pcap", "tls.record.version ip.dst", f"{only} && tls.handshake.type == 2")
            report.say(f"{name}: TCP to 443 only{_odd(odd)}", holds=bool(kinds) and not odd)
            report.say(f"{name}: nothing in it but TLS; answered as {sorted(versions)}"[:110], holds=not plain)
        else:
            odd = {kind for kind in kinds if str(WIREGUARD_PORT) not in kind[1].split(",")}
            others = seen(folder / f"{name}.pcap", "udp.srcport", f"{only} && udp.port == {WIREGUARD_PORT} && !wg")
            report.say(f"{name}: WireGuard only{_odd(odd)}", holds=bool(kinds) and not odd and not others)
    if not blocked:
        _judge_inside(report, folder / "tunnel.pcap")


def _judge_inside(report: Report, path: Path) -> None:
    """With the tunnel's key, which the home's interface is: MQTT's TLS, and STUN, DTLS and SRTP. Source: RFC 7983."""
    peers = seen(path, "ip.src ip.dst", "ip && !icmp")
    odd = {pair for pair in peers if not {TUNNEL_BROKER, TUNNEL_RELAY} & set(pair)}
    report.say(f"tunnel: to and from broker and relay only{_odd(odd)}", holds=bool(peers) and not odd)
    payloads = seen(path, "udp.payload", "udp && !icmp")
    firsts: dict[str, int] = {}
    for (payload,) in payloads:
        first = int(payload[:2], 16)
        kind = (
            "STUN"
            if first <= 3
            else "DTLS"
            if 20 <= first <= 63
            else "SRTP or SRTCP"
            if 128 <= first <= 191
            else "else"
        )
        firsts[kind] = firsts.get(kind, 0) + 1
    report.say(f"tunnel: UDP is {firsts}", holds="else" not in firsts and firsts.get("SRTP or SRTCP", 0) > 50)
    clear = seen(path, "tcp.stream", "mqtt")
    sealed = seen(path, "tcp.stream", "tls")
    report.say(f"tunnel: TCP is TLS ({len(sealed)} connection)", holds=bool(sealed) and not clear)


def _odd(odd: Any) -> str:
    return f", but {sorted(odd)[:4]}" if odd else ""
