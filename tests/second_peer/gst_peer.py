"""The operator's end of the picture by GStreamer's webrtcbin: Debian's python3 and its packages, nothing of this tree.

One JSON object a line. Said: {"offer": sdp} once, {"channel": true} when messages can be sent, {"heard": n} with what
came by the channel so far, {"frames": n, "size": [w, h], "stats": {…}} in answer to a question, {"lost": why}. Heard:
{"answer": sdp}, {"say": text}, {"count": true}; the end of standard input ends the process.

    /usr/bin/python3 gst_peer.py
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402  the versions come first

VIDEO = (
    "application/x-rtp,media=video,encoding-name=H264,clock-rate=90000,payload=102,"
    "packetization-mode=(string)1,profile-level-id=(string)42e01f"
)
DECODERS = ("avdec_h264", "openh264dec")
_said = threading.Lock()


def say(**words: Any) -> None:
    with _said:
        print(json.dumps(words), flush=True)


class Peer:
    """One webrtcbin that takes one video stream and opens the data channel `check`."""

    def __init__(self) -> None:
        self.frames = 0
        self.size = [0, 0]
        self.heard = 0
        self.pipeline = Gst.Pipeline.new(None)
        self.bin = Gst.ElementFactory.make("webrtcbin", None)
        self.bin.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.pipeline.add(self.bin)
        self.bin.connect("pad-added", self._on_pad)
        self.bin.connect("notify::ice-gathering-state", self._on_gathering)
        self.bin.connect("notify::connection-state", self._on_state)
        self.pipeline.set_state(Gst.State.READY)
        direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
        transceiver = self.bin.emit("add-transceiver", direction, Gst.Caps.from_string(VIDEO))
        transceiver.set_property("do-nack", True)
        self.channel = self.bin.emit("create-data-channel", "check", None)
        self.channel.connect("on-open", lambda _: say(channel=True))
        self.channel.connect("on-message-string", self._on_message)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", lambda _, message: say(lost=str(message.parse_error())))
        self.pipeline.set_state(Gst.State.PLAYING)
        self.bin.emit("create-offer", None, Gst.Promise.new_with_change_func(self._on_offer, None))

    def take_answer(self, text: str) -> None:
        _, sdp = GstSdp.SDPMessage.new_from_text(text)
        answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, sdp)
        self.bin.emit("set-remote-description", answer, Gst.Promise.new())

    def count(self) -> None:
        self.bin.emit("get-stats", None, Gst.Promise.new_with_change_func(self._on_stats, None))

    def _on_offer(self, promise: Any, _: Any) -> None:
        # The offer lives in the reply: named, so that it lives long enough.
        reply = promise.get_reply()
        self.bin.emit("set-local-description", reply.get_value("offer"), Gst.Promise.new())

    def _on_gathering(self, *_: Any) -> None:
        if self.bin.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            say(offer=self.bin.get_property("local-description").sdp.as_text())

    def _on_state(self, *_: Any) -> None:
        state = self.bin.get_property("connection-state")
        lost = (GstWebRTC.WebRTCPeerConnectionState.FAILED, GstWebRTC.WebRTCPeerConnectionState.CLOSED)
        if state in lost:
            say(lost=state.value_nick)

    def _on_message(self, _: Any, __: str) -> None:
        self.heard += 1
        say(heard=self.heard)

    def _on_pad(self, _: Any, pad: Any) -> None:
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        decoder = next(name for name in DECODERS if Gst.ElementFactory.find(name))
        chain = [Gst.ElementFactory.make(name, None) for name in ("rtph264depay", "h264parse", decoder, "fakesink")]
        for one in chain:
            self.pipeline.add(one)
        for one, following in itertools.pairwise(chain):
            one.link(following)
        chain[-1].set_property("sync", False)
        chain[-1].get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, self._on_frame)
        for one in chain:
            one.sync_state_with_parent()
        pad.link(chain[0].get_static_pad("sink"))

    def _on_frame(self, pad: Any, _: Any) -> Any:
        caps = pad.get_current_caps().get_structure(0)
        self.size = [caps.get_int("width")[1], caps.get_int("height")[1]]
        self.frames += 1
        if self.frames == 1:
            say(frames=1, size=self.size, stats={})
        return Gst.PadProbeReturn.OK

    def _on_stats(self, promise: Any, _: Any) -> None:
        stats = {}
        reply = promise.get_reply()
        for number in range(reply.n_fields()):
            one = reply.get_value(reply.nth_field_name(number))
            if isinstance(one, Gst.Structure) and one.get_name() == "application/x-webrtc-stats":
                continue
            for name in ("packets-lost", "packets-received", "nack-count", "pli-count"):
                if isinstance(one, Gst.Structure) and one.has_field(name):
                    stats[name] = int(one.get_value(name))
        say(frames=self.frames, size=self.size, stats=stats)


def main() -> None:
    Gst.init(None)
    loop = GLib.MainLoop()
    peer = Peer()

    def obey(words: dict[str, Any]) -> bool:
        if "answer" in words:
            peer.take_answer(words["answer"])
        elif "say" in words:
            peer.channel.emit("send-string", words["say"])
        elif "count" in words:
            peer.count()
        return False

    def hear() -> None:
        for line in sys.stdin:
            GLib.idle_add(obey, json.loads(line))
        GLib.idle_add(loop.quit)

    threading.Thread(target=hear, daemon=True).start()
    loop.run()
    peer.pipeline.set_state(Gst.State.NULL)


if __name__ == "__main__":
    main()
