"""The other side of the comparison: a plain aiortc sender in a process of its own, `python -m bench.bare_sender CLIP`.

One JSON line in, one out: {"offer": sdp, "decode": bool} gives {"answer": sdp}; {} ends the session. With `decode` the
film is decoded by MediaPlayer and encoded by aiortc; without, its packets pass through. ICE is asked for 127.0.0.1
alone, as the link is on a bench.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aioice.ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer


async def answer(clip: str, question: dict[str, Any]) -> tuple[RTCPeerConnection, str]:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    player = MediaPlayer(clip, decode=question["decode"])
    assert player.video is not None
    transceiver = pc.addTransceiver(player.video, direction="sendonly")
    capabilities = RTCRtpSender.getCapabilities("video")
    transceiver.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType == "video/H264"])
    await pc.setRemoteDescription(RTCSessionDescription(question["offer"], "offer"))
    await pc.setLocalDescription(await pc.createAnswer())
    return pc, pc.localDescription.sdp


async def main(clip: str) -> None:
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # Warm: what the first peer connection of a process loads must not be counted to the first round.
    await RTCPeerConnection(RTCConfiguration(iceServers=[])).close()
    say({"ready": True})
    pc: RTCPeerConnection | None = None
    while line := await reader.readline():
        question = json.loads(line)
        if pc is not None:
            await pc.close()
            pc = None
        if "offer" in question:
            pc, sdp = await answer(clip, question)
            say({"answer": sdp})
        else:
            say({})


def say(words: dict[str, Any]) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]  # noqa: ARG005
    asyncio.run(main(sys.argv[1]))
