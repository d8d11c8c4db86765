"""The eye's end of the picture: WebRTC by aiortc without a network.

H.264 access units pass through as they come from the camera; DTLS-SRTP is made here, so that only sealed datagrams
leave this process. ICE is done elsewhere: aiortc's one seam, `aiortc.rtcicetransport.Connection`, gets a stand-in that
speaks to the link over the media socket.

The sender is ours (`sender_aiortc`). Measured (November 2026): without codec preferences aiortc answers VP8; of several
fingerprints Chromium may take any, so only sha-256 is given out.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
import socket
from collections.abc import Callable
from typing import Any, Final

import aiortc.rtcicetransport
import aiortc.rtcpeerconnection
from aioice import Candidate, ConnectionClosed
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
    VideoStreamTrack,
    rtcdtlstransport,
)

from gateway.core.error import TransientError
from gateway.core.refusal import RefusedError
from gateway.edge.camera_port import EncodedUnit
from gateway.edge.sender_aiortc import PacedSender
from gateway.ipc import media
from gateway.protocol import sdp
from gateway.rate import Control, Limits

MAX_MESSAGE_BYTES: Final = 16 * 1024
MAX_WAITING_BYTES: Final = 16 * 1024
"""What may wait on the data channel for a slow line; a word that doesn't fit would be old when it arrived."""


MOST_FALSE: Final = 5
"""Datagrams in a row that are not the browser's: by then none of its own gets through as it was sent."""


class Lost(enum.Enum):
    """Why the picture's path ended; the values are the eye's words to the guard."""

    PATH = "path-lost"
    SEAL = "seal-broken"
    """Who answered is not who signed, or what came was altered on its way."""


class MediaLostError(TransientError):
    """The path to the operator ended or could not be made."""


class SealedConnection:
    """Stand-in for `aioice.Connection`: the same words, spoken to the link over the media socket."""

    def __init__(self) -> None:
        self._path: media.MediaSocket | None = None
        self.local_username = secrets.token_hex(4)
        self.local_password = secrets.token_hex(16)
        self.local_candidates: list[Candidate] = []
        self.remote_candidates: list[Candidate] = []
        self.remote_username: str | None = None
        self.remote_password: str | None = None
        self.remote_is_lite = False
        self.ice_controlling = False
        self.lost = False
        """The way ended; whatever fails after that proves nothing about who is at its other end."""
        self._closed = asyncio.Event()

    def attach(self, sock: socket.socket) -> None:
        """Give it the check's media socket, which it owns from now on."""
        self._path = media.MediaSocket(sock)

    async def gather_candidates(self) -> None:
        self._send(media.control(media.Gather(self.local_username, self.local_password)))
        match await self._next():
            case media.Gathered(candidates):
                self.local_candidates = [Candidate.from_sdp(line) for line in candidates]
            case _:
                raise ConnectionError("no candidates")

    async def add_remote_candidate(self, candidate: Candidate | None) -> None:
        # Names of the browser's own network (mDNS) can't be resolved here and would cost a second in the link.
        known = [(one.host, one.port) for one in self.remote_candidates]
        if (
            candidate is not None
            and not candidate.host.endswith(".local")
            and (candidate.host, candidate.port) not in known
        ):
            self.remote_candidates.append(candidate)

    async def connect(self) -> None:
        assert self.remote_username is not None
        assert self.remote_password is not None
        word = media.Connect(
            self.remote_username,
            self.remote_password,
            [candidate.to_sdp() for candidate in self.remote_candidates[: sdp.MAX_CANDIDATES]],
            self.ice_controlling,
            self.remote_is_lite,
        )
        self._send(media.control(word))
        while True:
            match await self._next():
                case media.Connected():
                    return
                case media.Failed():
                    raise ConnectionError("ICE failed")
                case _:
                    continue  # a datagram that overtook the word; DTLS sends its own again

    async def recv(self) -> bytes:
        while True:
            got = await self._next()
            if isinstance(got, bytes):
                return got
            if isinstance(got, media.Failed):
                raise ConnectionError("path lost")

    async def send(self, datagram: bytes) -> None:
        # A full socket means that the link is slow: the datagram is lost, as on any network.
        self._send(media.sealed(datagram))

    def send_all(self, datagrams: list[bytes]) -> None:
        """Datagrams that leave together. Raises ConnectionError at the media socket's end."""
        for begin in range(0, len(datagrams), media.MAX_TOGETHER):
            self._send(media.together(datagrams[begin : begin + media.MAX_TOGETHER]))

    async def get_event(self) -> ConnectionClosed:
        # aiortc's monitor asks again until it is told this; anything else makes it spin.
        await self._closed.wait()
        return ConnectionClosed()

    async def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            if self._path is not None:
                self._path.close()

    def _send(self, data: bytes) -> None:
        if self._path is None:
            raise ConnectionError("no media socket")
        self._path.send(data)

    async def _next(self) -> bytes | media.Gathered | media.Connected | media.Failed:
        if self._path is None:
            raise ConnectionError("no media socket")
        try:
            got = media.from_link(await self._path.receive())
        except ConnectionError:
            self.lost = True
            raise
        except ValueError as exc:
            self.lost = True
            raise ConnectionError("not a word of the link") from exc
        self.lost = self.lost or isinstance(got, media.Failed)
        return got


class _WatchedSrtp:
    """An SRTP session's receiving half that counts what fails to be the other side's."""

    def __init__(self, session: Any, on_false: Callable[[], None]) -> None:
        self._session = session
        self._on_false = on_false
        self._in_a_row = 0

    def unprotect(self, packet: bytes) -> bytes:
        return self._watch(self._session.unprotect, packet)

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        return self._watch(self._session.unprotect_rtcp, packet)

    def _watch(self, unprotect: Callable[[bytes], bytes], packet: bytes) -> bytes:
        try:
            data = unprotect(packet)
        except rtcdtlstransport.pylibsrtp.Error as exc:  # type: ignore[attr-defined]
            # A network may well bring a packet twice; that is another error.
            if "authentication" in str(exc):
                self._in_a_row += 1
                if self._in_a_row == MOST_FALSE:
                    self._on_false()
            raise
        self._in_a_row = 0
        return data


class Peer:
    """One peer connection for one check. Needs a running loop; one at a time in a process.

    Made while nobody waits; `attach` gives it the check's media socket.
    """

    def __init__(
        self,
        *,
        request_key_frame: Callable[[], None],
        on_first: Callable[[], None],
        on_message: Callable[[bytes], None],
        on_lost: Callable[[Lost], None],
        limits: Limits | None = None,
        on_control: Callable[[Control], None] = lambda _: None,
    ) -> None:
        """`on_first` is called when the first unit is handed to the sender, `on_message` with each message, and
        `on_control` with the state of the rate: at each change of mode, and four times a second while units leave.
        """
        self.connected = asyncio.Event()
        self.unsaid = 0
        self._channel: RTCDataChannel | None = None
        self._on_first = on_first
        self._on_message = on_message
        self._on_lost = on_lost
        self._sealed = SealedConnection()
        aiortc.rtcicetransport.Connection = self._make_connection  # type: ignore[attr-defined,assignment]
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        # aiortc names its sender's class once, where it makes a transceiver; ours stands there for that moment only.
        aiortc.rtcpeerconnection.RTCRtpSender = PacedSender  # type: ignore[attr-defined]
        try:
            transceiver = self._pc.addTransceiver(VideoStreamTrack(), direction="sendonly")
        finally:
            aiortc.rtcpeerconnection.RTCRtpSender = RTCRtpSender  # type: ignore[attr-defined]
        transceiver.setCodecPreferences(
            [codec for codec in RTCRtpSender.getCapabilities("video").codecs if codec.mimeType == "video/H264"]
        )
        sender = transceiver.sender
        assert isinstance(sender, PacedSender)
        self.sender = sender
        sender.arm(limits or Limits(), request_key_frame=request_key_frame, on_control=on_control)
        self._pc.on("connectionstatechange", self._on_state)
        self._pc.on("datachannel", self._on_channel)

    @property
    def taken(self) -> int:
        """Units that were handed to the sender."""
        return self.sender.taken

    def push(self, unit: EncodedUnit) -> None:
        """Offer a unit; from a picture that lacks its key frame nothing is sent, and while the line is full neither."""
        if self.sender.push(unit) and self.sender.taken == 1:
            self._on_first()

    def attach(self, sock: socket.socket) -> None:
        """Take the media socket of the check; it is closed with the peer."""
        self._sealed.attach(sock)

    async def answer(self, offer: str) -> str:
        """The answer to `offer`, with its sha-256 fingerprint only. Raises MediaLostError for a useless offer."""
        try:
            # aiortc would answer an offer without a fingerprint, and fail unheard in a task of its own.
            sdp.only_fingerprint(offer)
            # aiortc keeps the candidates of a bundle's last section only, and browsers write them into its first. A
            # home that comes by the relay must know them: its relay lets in only whom it has spoken to.
            for line in sdp.candidates(offer):
                await self._sealed.add_remote_candidate(Candidate.from_sdp(line))
            await self._pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            answer = await self._pc.createAnswer()
            if answer is None:
                raise MediaLostError("no answer")
            await self._pc.setLocalDescription(answer)
        except MediaLostError:
            raise
        except RefusedError as exc:
            raise MediaLostError(f"offer refused: {exc.detail}") from exc
        # aiortc's parser raises whatever it stumbles over; the offer is an operator's, signed, and still not trusted.
        except (ValueError, AssertionError, KeyError, IndexError, AttributeError, TypeError, OSError) as exc:
            raise MediaLostError(f"offer not understood: {type(exc).__name__}") from exc
        except Exception as exc:
            raise MediaLostError(f"offer not taken: {type(exc).__name__}") from exc
        return sdp.keep_sha256(self._pc.localDescription.sdp)

    def say(self, word: bytes) -> bool:
        """Send one text message (UTF-8) to the operator; whether it is on its way. Never waits.

        Drop rule: without an open channel, or with `MAX_WAITING_BYTES` waiting in it, the word is lost and counted in
        `unsaid`: what is said here is about now.
        """
        channel = self._channel
        if channel is None or channel.readyState != "open" or channel.bufferedAmount + len(word) > MAX_WAITING_BYTES:
            self.unsaid += 1
            return False
        try:
            channel.send(word.decode())
        except ValueError:
            # An operator's offer may name a limit for messages that ours don't fit in; that silences us, no more.
            self.unsaid += 1
            return False
        return True

    def show(self, word: bytes, picture: bytes) -> bool:
        """Send a word and the binary message that it announces; whether both are on their way. Never waits.

        Drop rule: while anything waits in the channel, nothing is sent.
        """
        channel = self._channel
        if channel is None or channel.readyState != "open" or channel.bufferedAmount > 0:
            self.unsaid += 1
            return False
        try:
            channel.send(word.decode())
            channel.send(picture)
        except ValueError:
            self.unsaid += 1
            return False
        return True

    async def close(self) -> None:
        """End the picture; bounded, idempotent."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1.0):
                await self._pc.close()
        await self._sealed.close()

    def _make_connection(self, **_: Any) -> SealedConnection:
        return self._sealed

    def _on_state(self) -> None:
        match self._pc.connectionState:
            case "connected":
                dtls: Any = self.sender.transport
                dtls._rx_srtp = _WatchedSrtp(dtls._rx_srtp, lambda: self._on_lost(Lost.SEAL))  # noqa: SLF001
                self.connected.set()
            case "failed":
                # A handshake that was done and still failed is one with another certificate than the signed one.
                # What else may fail in it (no cipher in common) is no attack; of ours the page says it.
                dtls = self.sender.transport
                is_false = dtls.state == "failed" and dtls.encrypted and not self._sealed.lost
                self._on_lost(Lost.SEAL if is_false else Lost.PATH)
            case "closed":
                self._on_lost(Lost.PATH)
            case _:
                pass

    def _on_channel(self, channel: RTCDataChannel) -> None:
        def take(message: str | bytes) -> None:
            data = message.encode() if isinstance(message, str) else message
            if len(data) <= MAX_MESSAGE_BYTES:
                self._on_message(data)

        if channel.label == "check":
            self._channel = channel
            channel.on("message", take)
