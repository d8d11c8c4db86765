"""A bare aiortc sender at the home, reached as the home is: one host candidate in the tunnel, the browser by the relay.

What it leaves out is ours: no guard, no ledger, no mount, no signatures, no process between. It serves one page that
takes the picture, on the tunnel's address; the lab's proxy shows it to the operator over TLS.

    python -m tests.net_lab.bare_peer FILM ADDRESS PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from fractions import Fraction
from typing import Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription, VideoStreamTrack

from gateway.edge.ice_aioice import ByAddress, OneWayConnection

PAGE = b"""<!doctype html><title>bare</title><video autoplay muted playsinline></video>"""
FPS = 15


class Film(VideoStreamTrack):
    """Encoded units of a film, passed through, from a key picture on."""

    def __init__(self, path: str) -> None:
        super().__init__()
        with av.open(path) as container:
            self._units = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        self._next = 0

    async def recv(self) -> Any:
        await asyncio.sleep(1 / FPS if self._next else 0)
        packet = av.Packet(self._units[self._next % len(self._units)])
        packet.pts = self._next * 90_000 // FPS
        packet.time_base = Fraction(1, 90_000)
        self._next += 1
        return packet


async def answer(film: str, address: str, offer: dict[str, str]) -> dict[str, str]:
    import aiortc.rtcicetransport

    def connection(**_: Any) -> OneWayConnection:
        return OneWayConnection(ByAddress((address,), relayed_only=True))

    aiortc.rtcicetransport.Connection = connection  # type: ignore[attr-defined,assignment]
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peers.append(peer)
    transceiver = peer.addTransceiver(Film(film), direction="sendonly")
    transceiver.setCodecPreferences(
        [codec for codec in RTCRtpSender.getCapabilities("video").codecs if codec.mimeType == "video/H264"]
    )
    await peer.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
    made = await peer.createAnswer()
    await peer.setLocalDescription(made)
    return {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}


peers: list[RTCPeerConnection] = []


async def main(film: str, address: str, port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
        )
        body, kind = PAGE, b"text/html"
        if head.startswith(b"POST"):
            told = await answer(film, address, json.loads(await reader.readexactly(length)))
            body, kind = json.dumps(told).encode(), b"application/json"
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            % (kind, len(body))
        )
        writer.write(body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, address, port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
