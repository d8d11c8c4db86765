"""Encoded pictures out, at the rate the line carries: aiortc's sender with ours in its place.

aiortc's own sends each picture as a burst, answers every report of loss whatever it costs, is deaf to the receiver's
estimate where the picture is encoded already, and makes each packet by a dozen objects. Here packets are made by hand,
wait in one queue, and leave by a token bucket; lost ones go first, within their share; what waits too long is skipped
up to the next key picture; and reports drive `gateway.rate`. abs-send-time is written when a packet leaves, because the
receiver's estimate is made of it. What leaves at one time is sealed and handed over together, without a task: a wake-up
costs more than a packet.

After a cut a key picture is made at once, without waiting to be asked for it: at the first word of a receiver that was
silent, and where more is missing than can be sent again soon. It leaves before what is missing. That still follows, as
far as it is asked for: a browser goes on with the key picture and asks no more, but there are receivers that show
nothing before they have it all (aiortc; without the repairs they showed nothing for 6 to 11 s, measured November 2026).

Source: RFC 3550 (RTP, RTCP), RFC 4588 (RTX), RFC 4585 (NACK, PLI), RFC 8285 (header extensions),
draft-alvestrand-rmcat-remb-03.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiortc import RTCRtpSender
from aiortc.rtcdtlstransport import State as DtlsState
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
    unpack_remb_fci,
)

from gateway.core.boottime import boottime_s
from gateway.edge.camera_port import EncodedUnit
from gateway.edge.h264_payload import payloads
from gateway.rate import Begun, Bucket, Control, Estimated, Event, Heard, Limits, Reported, Resends, Tick, step

CLOCK_HZ: Final = 90_000
"""RTP clock of video. Source: RFC 6184 §8.2.1."""
HISTORY_PACKETS: Final = 1024
"""Packets kept for retransmission: at 128, 10 % loss and 200 ms gave gaps of 2 s, at 1024 0.4 s (measured)."""
FIRST_BURST_BYTES: Final = 48 * 1024
"""The first picture leaves at once: it is what somebody waits for, and fills a slow line's queue only once."""
LEAST_BURST_BYTES: Final = 2400
NAP_S: Final = 0.02
"""Packets that become due within this time leave together: each waking costs more than a packet."""
SKIP_ABOVE_S: Final = 0.5
RESUME_BELOW_S: Final = 0.15
REPAIR_MOST_S: Final = 1.0
"""What would take longer to send again gets a key picture before it: repaired it would be shown late, and old."""
KEY_EVERY_S: Final = 0.3
"""A receiver asks for a key picture again and again until it has it; each one is ten others."""
TICK_S: Final = 0.25
REPORT_EVERY_TICKS: Final = 3
_NTP_EPOCH_S: Final = 2_208_988_800
_ABS_SEND_TIME: Final = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
_HEAD: Final = struct.Struct("!BBHLL")
_MID: Final = "urn:ietf:params:rtp-hdrext:sdes:mid"


@dataclass(slots=True)
class _Sent:
    """A packet, as it can be sent again."""

    sequence: int
    timestamp: int
    marker: bool
    payload: bytes
    times: int = 0
    sent_s: float = 0.0


@dataclass(slots=True)
class Traffic:
    """What left, in packets and bytes without SRTP's tag; packets sent again are counted apart."""

    packets: int = 0
    payload_bytes: int = 0
    resent_packets: int = 0
    resent_bytes: int = 0
    skipped_units: int = 0


class PacedSender(RTCRtpSender):
    """An RTCRtpSender that is given encoded units. Made by RTCPeerConnection, which calls `send` and `stop`.

    `arm` comes before anything is negotiated. `push` may be called at any time; before the path is up nothing is kept.
    """

    def arm(
        self,
        limits: Limits,
        *,
        request_key_frame: Callable[[], None],
        on_control: Callable[[Control], None],
        clock: Callable[[], float] = boottime_s,
    ) -> None:
        """`on_control` is told the state of the rate four times a second, and at once when its mode changed."""
        self._clock = clock
        now_s = clock()
        self.traffic = Traffic()
        self.taken = 0
        """Units that began to leave."""
        self._request_key_frame = request_key_frame
        self._on_control = on_control
        self._control = Control.start(limits)
        self._bucket = Bucket(
            self._control.pace_bps, LEAST_BURST_BYTES, now_s=now_s, start_bytes=FIRST_BURST_BYTES, burst_s=NAP_S
        )
        self._resends = Resends(self._control.target_bps, now_s=now_s)
        self._waiting: deque[_Sent] = deque()
        self._again: deque[_Sent] = deque()
        self._waiting_bytes = 0
        self._history: list[_Sent | None] = [None] * HISTORY_PACKETS
        # In the lower half: a first packet that is lost just before the wrap would break SRTP's count of wraps.
        self._sequence, self._rtx_sequence = secrets.randbits(15), secrets.randbits(15)
        self._origin = secrets.randbits(32)
        self._first_pts_us: int | None = None
        self._await_key = True
        self._key_asked_s = -KEY_EVERY_S
        self._begins_anew = False
        """A key picture was asked for after a cut, and has not come yet."""
        self._anew: int | None = None
        """The first sequence of the newest such picture; of what is missing from before it nobody is told again."""
        self._anew_first = False
        """It has not left yet, and goes before all repairs."""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._reports_sent: dict[int, float] = {}
        self._payload_type = self._rtx_payload_type = 0
        self._cname = ""
        self._extension = self._extension_after = self._stamped = b""
        self._begun = False

    @property
    def control(self) -> Control:
        return self._control

    def set_limits(self, limits: Limits) -> None:
        """The source turned out to be another than was thought. Only before the first unit."""
        assert self._first_pts_us is None
        self._control = Control.start(limits)
        self._bucket.set_rate(self._control.pace_bps, now_s=self._clock())
        self._resends.set_rate(self._control.target_bps, now_s=self._clock())

    def capture_of(self) -> tuple[int, int] | None:
        """An RTP timestamp and the BOOTTIME in µs at which its picture was taken; None before the first unit.

        All others follow: the clock runs at 90 kHz, and wraps at 2³².
        """
        return None if self._first_pts_us is None else (self._origin, self._first_pts_us)

    def push(self, unit: EncodedUnit) -> bool:
        """Take a unit for sending, or leave it out by the rule of skipping; True when it was taken."""
        if not self._tasks:
            return False
        queue_s = self._queue_s()
        if unit.key and queue_s > SKIP_ABOVE_S:
            # Everything that waits is older than this, and this needs nothing of it.
            self._drop_waiting()
        elif self._await_key and not unit.key:
            self.traffic.skipped_units += self.taken > 0
            if queue_s < RESUME_BELOW_S:
                self._ask_key_frame()
            return False
        elif queue_s > SKIP_ABOVE_S:
            self._await_key = True
            self.traffic.skipped_units += 1
            return False
        self._await_key = False
        if unit.key and self._begins_anew:
            self._begins_anew = False
            self._anew, self._anew_first = self._sequence, True
        if self._first_pts_us is None:
            self._first_pts_us = unit.pts_us
        self.taken += 1
        timestamp = self._timestamp(unit.pts_us)
        made = payloads(unit.data)
        for number, payload in enumerate(made):
            self._waiting.append(_Sent(self._sequence, timestamp, number == len(made) - 1, payload))
            self._waiting_bytes += len(payload)
            self._sequence = (self._sequence + 1) & 0xFFFF
        self._flush()
        return True

    def tell(self, event: Event) -> None:
        """An event for the rate that doesn't come by RTCP."""
        self._step(event)

    # What RTCPeerConnection calls

    async def send(self, parameters: Any) -> None:
        """Negotiated and connected: begin."""
        if self._tasks:
            return
        self._cname = parameters.rtcp.cname
        self._payload_type = parameters.codecs[0].payloadType
        for codec in parameters.codecs:
            if codec.mimeType.lower() == "video/rtx" and codec.parameters.get("apt") == self._payload_type:
                self._rtx_payload_type = codec.payloadType
                break
        self._set_extensions({one.uri: one.id for one in parameters.headerExtensions}, parameters.muxId)
        self.transport._register_rtp_sender(self, parameters)  # noqa: SLF001  aiortc's own seam between the two
        # aiortc has no group of ours to run them in; `stop` ends them, and the peer always calls it.
        self._tasks = [asyncio.create_task(self._keep_time(), name="rtcp")]

    async def stop(self) -> None:
        """Irreversible."""
        if self.track is not None:
            self.track.stop()
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.transport._unregister_rtp_sender(self)  # noqa: SLF001
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with contextlib.suppress(ConnectionError):
            await self.transport._send_rtp(bytes(RtcpByePacket(sources=[self._ssrc])))  # noqa: SLF001

    async def _handle_rtcp_packet(self, packet: Any) -> None:
        if self._control.unheard(self._clock()):
            self._begin_anew()
        self._step(Heard())
        match packet:
            case RtcpRrPacket() | RtcpSrPacket():
                for report in packet.reports:
                    if report.ssrc == self._ssrc:
                        self._on_report(report)
            case RtcpRtpfbPacket(fmt=kind) if kind == RTCP_RTPFB_NACK:
                self._on_lost(packet.lost)
            case RtcpPsfbPacket(fmt=kind) if kind in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                self._ask_key_frame()
            case RtcpPsfbPacket(fmt=kind) if kind == RTCP_PSFB_APP:
                with contextlib.suppress(ValueError):
                    bps, ssrcs = unpack_remb_fci(packet.fci)
                    if self._ssrc in ssrcs:
                        self._step(Estimated(bps))

    # What is heard

    def _on_report(self, report: Any) -> None:
        sent_s = self._reports_sent.get(report.lsr)
        trip_s: float | None = None
        if sent_s is not None and report.lsr:
            trip_s = self._clock() - sent_s - report.dlsr / 65536
            if not 0.0 <= trip_s < 60.0:
                trip_s = None
            else:
                self._resends.set_round_trip(trip_s)
        self._step(Reported(report.fraction_lost / 256.0, trip_s))

    def _on_lost(self, sequences: list[int]) -> None:
        now_s = self._clock()
        missing = [
            sent
            for sequence in sequences[:HISTORY_PACKETS]
            if (sent := self._history[sequence % HISTORY_PACKETS]) is not None and sent.sequence == sequence
        ]
        fresh = sum(len(sent.payload) for sent in missing if not (sent.times or self._is_before_anew(sent.sequence)))
        if self._resends.lasts_s(fresh) > REPAIR_MOST_S:
            self._begin_anew()
        for sent in missing:
            if self._resends.allow(len(sent.payload), times=sent.times, sent_s=sent.sent_s, now_s=now_s):
                sent.times += 1
                sent.sent_s = now_s
                self._again.append(sent)
        if self._again:
            self._flush()

    def _drop_waiting(self) -> None:
        """What waits is not sent any more. Its numbers are the next ones': a gap would be missed, and never come."""
        if self._waiting:
            self._sequence = self._waiting[0].sequence
        self._waiting.clear()
        self._waiting_bytes = 0

    def _is_before_anew(self, sequence: int) -> bool:
        return self._anew is not None and 0 < (self._anew - sequence) & 0xFFFF <= HISTORY_PACKETS

    def _begin_anew(self) -> None:
        self._begins_anew = True
        self._ask_key_frame()

    def _ask_key_frame(self) -> None:
        now_s = self._clock()
        if now_s - self._key_asked_s >= KEY_EVERY_S:
            self._key_asked_s = now_s
            self._request_key_frame()

    def _step(self, event: Event) -> None:
        now_s = self._clock()
        before, self._control = self._control, step(self._control, event, now_s=now_s)
        if self._control.pace_bps != before.pace_bps:
            self._bucket.set_rate(self._control.pace_bps, now_s=now_s)
            self._resends.set_rate(self._control.target_bps, now_s=now_s)
        if self._control.mode is not before.mode:
            if not self._control.sends_video:
                self._drop_waiting()
                self._await_key = True
            self._on_control(self._control)

    # What is sent

    def _flush(self) -> None:
        """Send what may leave now; a timer does the rest. Once the path is gone nothing leaves, and nobody is told."""
        if self._timer is not None or not self._tasks:
            return
        now_s = self._clock()
        packets: list[bytes] = []
        # 24 bits, 6 of them seconds: 2^18 steps in a second. Of any clock, as long as it is one.
        moment = (int(time.monotonic() * 262_144) & 0xFFFFFF).to_bytes(3, "big")
        self._stamped = self._extension + moment + self._extension_after if self._extension else b""
        wait_s = 0.0
        while self._waiting or self._again:
            wait_s = self._bucket.wait_s(now_s)
            if wait_s > 0.0:
                break
            packets.append(self._next_packet(now_s))
        if packets and not self._seal(packets):
            return
        if wait_s > 0.0:
            self._timer = asyncio.get_running_loop().call_later(max(wait_s, NAP_S), self._flush_later)

    def _flush_later(self) -> None:
        self._timer = None
        self._flush()

    def _seal(self, packets: list[bytes]) -> bool:
        """SRTP for all of them, and out, as RTCDtlsTransport._send_rtp does it for one. False: the path is gone."""
        dtls = self.transport
        if dtls._state is not DtlsState.CONNECTED:  # noqa: SLF001
            return False
        protect = dtls._tx_srtp.protect  # noqa: SLF001
        try:
            connection: Any = dtls.transport._connection  # noqa: SLF001  the peer's stand-in for aioice's
            connection.send_all([protect(packet) for packet in packets])
        except ConnectionError:
            return False
        return True

    def _next_packet(self, now_s: float) -> bytes:
        self._anew_first = self._anew_first and bool(self._waiting)
        if self._again and not self._anew_first:
            sent = self._again.popleft()
            data = self._again_packet(sent)
            self.traffic.resent_packets += 1
            self.traffic.resent_bytes += len(data)
        else:
            sent = self._waiting.popleft()
            self._waiting_bytes -= len(sent.payload)
            self._history[sent.sequence % HISTORY_PACKETS] = sent
            data = self._packet(self._payload_type, sent.sequence, sent, self._ssrc, sent.payload)
            self.traffic.packets += 1
            self.traffic.payload_bytes += len(sent.payload)
        sent.sent_s = now_s
        self._bucket.spend(len(data) + 10, now_s)
        return data

    def _again_packet(self, sent: _Sent) -> bytes:
        if not self._rtx_payload_type:
            return self._packet(self._payload_type, sent.sequence, sent, self._ssrc, sent.payload)
        self._rtx_sequence = (self._rtx_sequence + 1) & 0xFFFF
        body = sent.sequence.to_bytes(2, "big") + sent.payload
        return self._packet(self._rtx_payload_type, self._rtx_sequence, sent, self._rtx_ssrc, body)

    def _packet(self, payload_type: int, sequence: int, sent: _Sent, ssrc: int, body: bytes) -> bytes:
        first = 0x90 if self._stamped else 0x80
        head = _HEAD.pack(first, sent.marker << 7 | payload_type, sequence, sent.timestamp, ssrc)
        return b"".join((head, self._stamped, body))

    def _set_extensions(self, ids: dict[str, int], mid: str) -> None:
        time_id, mid_id = ids.get(_ABS_SEND_TIME, 0), ids.get(_MID, 0)
        if not 1 <= time_id <= 14:
            return
        after = b""
        if 1 <= mid_id <= 14 and 1 <= len(mid) <= 16:
            after = bytes([mid_id << 4 | len(mid) - 1]) + mid.encode()
        length = 4 + len(after)
        after += bytes(-length % 4)
        self._extension = struct.pack("!HHB", 0xBEDE, (4 + len(after)) // 4, time_id << 4 | 2)
        self._extension_after = after

    def _timestamp(self, pts_us: int) -> int:
        assert self._first_pts_us is not None
        return (self._origin + (pts_us - self._first_pts_us) * CLOCK_HZ // 1_000_000) & 0xFFFFFFFF

    def _queue_s(self) -> float:
        return self._waiting_bytes * 8.0 / self._control.pace_bps

    # Time

    async def _keep_time(self) -> None:
        ticks = 0
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(TICK_S)
                # Silence counts from the first picture on: before it there is nothing to report on.
                if self._first_pts_us is None:
                    continue
                if not self._begun:
                    self._begun = True
                    self._step(Begun())
                self._step(Tick(self._queue_s()))
                self._on_control(self._control)
                ticks += 1
                if ticks % REPORT_EVERY_TICKS == 1:
                    await self._report()

    async def _report(self) -> None:
        now_s = self._clock()
        wall_s = time.time()
        # Only differences count at the receiver, and ours come back to us in its reports.
        ntp = int((wall_s + _NTP_EPOCH_S) * 2**32) & 0xFFFFFFFFFFFFFFFF
        short = ntp >> 16 & 0xFFFFFFFF
        self._reports_sent[short] = now_s
        while len(self._reports_sent) > 16:
            del self._reports_sent[next(iter(self._reports_sent))]
        info = RtcpSenderInfo(
            ntp_timestamp=ntp,
            rtp_timestamp=self._timestamp(int(now_s * 1e6)),
            packet_count=self.traffic.packets & 0xFFFFFFFF,
            octet_count=self.traffic.payload_bytes & 0xFFFFFFFF,
        )
        source = RtcpSourceInfo(ssrc=self._ssrc, items=[(1, self._cname.encode())])
        words = bytes(RtcpSrPacket(ssrc=self._ssrc, sender_info=info)) + bytes(RtcpSdesPacket(chunks=[source]))
        await self.transport._send_rtp(words)  # noqa: SLF001
