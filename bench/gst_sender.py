"""The other side of the comparison: GStreamer's webrtcbin sending the film. Debian's python3, nothing of this tree.

One JSON line in, one out, as `bench.bare_sender`: {"offer": sdp} gives {"answer": sdp}; {} ends the session. The film's
packets pass through, paced by their times, without an encoder.

    /usr/bin/python3 gst_sender.py CLIP.mp4
"""

from __future__ import annotations

import json
import re
import sys
import threading
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402  the versions come first

PIPELINE = (
    "webrtcbin name=peer bundle-policy=max-bundle "
    "filesrc location={clip} ! qtdemux ! h264parse config-interval=-1 ! clocksync ! "
    "rtph264pay pt={number} mtu=1200 aggregate-mode=zero-latency ! "
    "application/x-rtp,media=video,encoding-name=H264,payload={number},clock-rate=90000 ! peer."
)


def say(words: dict[str, Any]) -> None:
    print(json.dumps(words), flush=True)


def number_of_h264(offer: str) -> int:
    """The payload type of constrained baseline with packets of several NAL units."""
    for number, settings in re.findall(r"a=fmtp:(\d+) (.*)", offer):
        if "profile-level-id=42e01f" in settings and "packetization-mode=1" in settings:
            return int(number)
    raise ValueError("the offer has no H.264 that the film could be")


class Session:
    def __init__(self, clip: str, offer: str) -> None:
        self.pipeline = Gst.parse_launch(PIPELINE.format(clip=clip, number=number_of_h264(offer)))
        self.peer = self.pipeline.get_by_name("peer")
        self.peer.connect("notify::ice-gathering-state", self._on_gathering)
        self.pipeline.set_state(Gst.State.PLAYING)
        _, sdp = GstSdp.SDPMessage.new_from_text(offer)
        description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.OFFER, sdp)
        self.peer.emit("set-remote-description", description, Gst.Promise.new_with_change_func(self._on_offer, None))

    def _on_offer(self, _: Any, __: Any) -> None:
        self.peer.emit("create-answer", None, Gst.Promise.new_with_change_func(self._on_answer, None))

    def _on_answer(self, promise: Any, _: Any) -> None:
        # The answer lives in the reply: named, so that it lives long enough.
        reply = promise.get_reply()
        self.peer.emit("set-local-description", reply.get_value("answer"), Gst.Promise.new())

    def _on_gathering(self, *_: Any) -> None:
        if self.peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            say({"answer": self.peer.get_property("local-description").sdp.as_text()})

    def end(self) -> None:
        self.pipeline.set_state(Gst.State.NULL)


def main(clip: str) -> None:
    Gst.init(None)
    loop = GLib.MainLoop()
    sessions: list[Session] = []

    def obey(question: dict[str, Any]) -> bool:
        while sessions:
            sessions.pop().end()
        if "offer" in question:
            sessions.append(Session(clip, question["offer"]))
        else:
            say({})
        return False

    def hear() -> None:
        for line in sys.stdin:
            GLib.idle_add(obey, json.loads(line))
        GLib.idle_add(loop.quit)

    threading.Thread(target=hear, daemon=True).start()
    say({"ready": True})
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1])
