"""An operator without a browser: the same API, the same signatures, the same tests of what the device answers.

For `make demo-once`, tests, benchmarks and trying out a home from a shell. It decodes frames to count them, and keeps
none.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from gateway.core.error import TransientError, UntrustedInputError
from gateway.core.refusal import RefusedError
from gateway.protocol import sdp
from gateway.protocol.envelope import sign, split, verify
from gateway.protocol.key import SigningKey, VerifyingKey, b64url_encode
from gateway.protocol.message import (
    Accepted,
    Challenge,
    Challenged,
    DueFact,
    Lease,
    Message,
    Open,
    Opened,
    Refused,
    Verdict,
    VerdictGiven,
)
from gateway.protocol.picture import ViewSignal, ViewWord, decode

M = TypeVar("M", bound=Message)
OPEN_STATUSES = frozenset({"due", "recheck"})


class OperatorError(TransientError):
    """The centre or the home did not do what was asked; the message says what it said instead."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Look:
    """One running check as the operator has it."""

    check: str
    max_s: int
    lease_every_s: float
    fingerprint: str
    asked_s: float
    frames: int = 0
    first_frame_s: float | None = None
    first_frame: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    counter: int = 0
    size_px: tuple[int, int] = (0, 0)
    newest: Any = None
    """The newest decoded picture, an av.VideoFrame; in memory only, as in a browser."""
    signals: list[ViewSignal] = field(default_factory=list)
    """What the home said of its picture, oldest first."""

    @property
    def first_frame_ms(self) -> float | None:
        """From asking to the first decoded frame, in ms."""
        return None if self.first_frame_s is None else (self.first_frame_s - self.asked_s) * 1000.0


class Operator:
    """One person's session at the centre; use as `async with`."""

    def __init__(self, url: str, token: str, *, key: SigningKey | None = None) -> None:
        self.key = key or SigningKey.generate()
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=15.0, trust_env=False
        )
        self._grant = b""
        self._config: dict[str, Any] = {}
        self._ice_servers: list[dict[str, Any]] = []
        self._pc: RTCPeerConnection | None = None
        self._channel: RTCDataChannel | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._config = await self._get("/api/v1/config")
        got = await self._json(await self._http.post("/api/v1/grants", json={"jwk": self.key.verifying.jwk()}))
        self._grant = got["grant"].encode()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()
        await self._http.aclose()

    @property
    def who(self) -> str:
        return str(self._config["who"])

    async def homes(self) -> list[dict[str, Any]]:
        return list(await self._get("/api/v1/homes"))

    async def queue(self) -> dict[str, Any]:
        """What is to be done: `items`, most urgent first, and `handovers`."""
        return dict(await self._get("/api/v1/queue"))

    async def home(self, gateway: str) -> dict[str, Any]:
        """Raises OperatorError when the centre knows no such home."""
        for home in await self.homes():
            if home["gateway"] == gateway:
                return dict(home)
        raise OperatorError(f"the centre knows no home {gateway}")

    async def wait_for_home(self, gateway: str, limit_s: float) -> dict[str, Any]:
        """The home once it is online, knows the time, is witnessed and has something due.

        Raises OperatorError after `limit_s`.
        """
        deadline_s = time.monotonic() + limit_s
        home: dict[str, Any] = {}
        while time.monotonic() < deadline_s:
            home = await self.home(gateway)
            is_due = any(item["status"] in OPEN_STATUSES for item in home.get("due", []))
            if home.get("online") and is_due and home.get("obstacle") != "busy":
                return home
            await asyncio.sleep(0.1)
        raise OperatorError(f"{gateway} has nothing due after {limit_s:g} s: {home}")

    async def ledger(self, gateway: str, *, after: int = -1) -> list[dict[str, Any]]:
        """The records above number `after` that have reached the centre, oldest first; a page of them."""
        return list(await self._get(f"/api/v1/homes/{gateway}/ledger?after={after}"))

    async def send(self, home: dict[str, Any], message: Message) -> bytes:
        """Sign and send one command; the home's reply, unverified."""
        return await self.send_envelope(home["gateway"], self._grant + b"~" + sign(message, self.key))

    async def send_envelope(self, gateway: str, envelope: bytes) -> bytes:
        """Send a ready `<grant>~<command>`; the home's reply, unverified. Raises OperatorError when there is none."""
        response = await self._http.post(
            f"/api/v1/homes/{gateway}/commands", content=envelope, headers={"Content-Type": "text/plain"}
        )
        return str((await self._json(response))["reply"]).encode()

    async def challenge(self, home: dict[str, Any]) -> Challenged:
        jti = new_jti()
        given = await self._json(await self._http.post(f"/api/v1/homes/{home['gateway']}/relay", json={}))
        self._ice_servers = given["ice_servers"]
        reply = await self.send(home, Challenge(home["audience"], jti))
        return self._expect(reply, home, Challenged, jti)

    async def open(self, home: dict[str, Any], challenged: Challenged, due: DueFact) -> Look:
        """Open one attempt and begin to receive. Raises OperatorError with the refusal's code when it is refused."""
        asked_s = time.monotonic()
        offer = await self._offer()
        jti = new_jti()
        command = Open(
            aud=home["audience"],
            jti=jti,
            nonce=challenged.nonce,
            agreement=challenged.agreement,
            version=challenged.version,
            line=due.line,
            occasion=due.occasion,
            attempt=due.attempt,
            offer=offer,
        )
        opened = self._expect(await self.send(home, command), home, Opened, jti)
        # The answer is signed by the device, and it names one fingerprint: only that peer's picture is played.
        fingerprint = sdp.only_fingerprint(opened.answer)
        look = Look(opened.check, opened.max_s, opened.lease_every_s, fingerprint, asked_s)
        assert self._pc is not None
        self._pc.on("track", lambda track: self._spawn(self._count(track, look)))
        assert self._channel is not None
        self._channel.on("message", lambda text: _hear(text, look))
        await self._pc.setRemoteDescription(RTCSessionDescription(opened.answer, "answer"))
        self._spawn(self._renew(home, look))
        return look

    async def give_verdict(self, home: dict[str, Any], look: Look, verdict: Verdict) -> None:
        for last in (False, True):
            look.counter += 1
            jti = new_jti()
            message = VerdictGiven(home["audience"], jti, look.check, look.counter, verdict)
            try:
                self._expect(await self.send(home, message), home, Accepted, jti)
            except OperatorError as refused:
                # A lease of the meantime came by the shorter way.
                if last or refused.code != "stale-version":
                    raise
            else:
                return

    async def closed(self, home: dict[str, Any], check: str, limit_s: float = 15.0) -> dict[str, Any]:
        """The outcome of a check once the home has reported it. Raises OperatorError after `limit_s`."""
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            for outcome in (await self.home(home["gateway"]))["last"]:
                if outcome["check"] == check:
                    return dict(outcome)
            await asyncio.sleep(0.1)
        raise OperatorError(f"no report of {check} after {limit_s:g} s")

    async def hang_up(self) -> None:
        """Stop receiving; the home notices at once, or when the lease lapses."""
        for task in list(self._tasks):
            task.cancel()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        self._tasks.clear()
        if self._pc is not None:
            pc, self._pc = self._pc, None
            await pc.close()

    async def _offer(self) -> str:
        servers = [RTCIceServer(**server) for server in self._ice_servers]
        policy = RTCIceTransportPolicy(self._config["ice_policy"])
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers, iceTransportPolicy=policy))
        transceiver = self._pc.addTransceiver("video", direction="recvonly")
        capabilities = RTCRtpReceiver.getCapabilities("video")
        assert capabilities is not None
        transceiver.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType == "video/H264"])
        self._channel = self._pc.createDataChannel("check", ordered=True)
        await self._pc.setLocalDescription(await self._pc.createOffer())
        return sdp.keep_sha256(self._pc.localDescription.sdp)

    async def _count(self, track: MediaStreamTrack, look: Look) -> None:
        try:
            while True:
                frame: Any = await track.recv()
                if look.first_frame_s is None:
                    look.first_frame_s = time.monotonic()
                    look.size_px = (frame.width, frame.height)
                    look.first_frame.set()
                look.frames += 1
                look.newest = frame
        except MediaStreamError:
            look.ended.set()

    async def _renew(self, home: dict[str, Any], look: Look) -> None:
        channel = self._channel
        assert channel is not None
        is_open = asyncio.Event()
        channel.on("open", is_open.set)
        if channel.readyState != "open":
            await is_open.wait()
        while True:
            look.counter += 1
            lease = sign(Lease(home["audience"], look.check, look.counter), self.key)
            channel.send((self._grant + b"~" + lease).decode())
            await asyncio.sleep(look.lease_every_s)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)

    def _expect(self, untrusted: bytes, home: dict[str, Any], kind: type[M], re: str) -> M:
        device = VerifyingKey.from_jwk(home["device_jwk"])
        try:
            if split(untrusted).kind == Refused.KIND:
                refused = verify(untrusted, {device.kid: device}, Refused)
                raise OperatorError(f"refused: {refused.code}", refused.code)
            message = verify(untrusted, {device.kid: device}, kind)
        except UntrustedInputError as exc:
            raise OperatorError(f"the answer is not the device's: {exc}") from exc
        if getattr(message, "gateway", None) != home["gateway"] or getattr(message, "re", None) != re:
            raise OperatorError("the answer is to something else")
        return message

    async def _get(self, path: str) -> Any:
        return await self._json(await self._http.get(path))

    @staticmethod
    async def _json(response: httpx.Response) -> Any:
        if response.status_code != 200:
            try:
                said = response.json()
                raise OperatorError(f"{response.status_code}: {said['message']}", said["error"])
            except (ValueError, KeyError) as exc:
                raise OperatorError(f"{response.status_code}: {response.text[:200]}") from exc
        return response.json()


def _hear(untrusted: str | bytes, look: Look) -> None:
    # A still's JPEG is binary, and what is no word is dropped, as the page does.
    with contextlib.suppress(RefusedError):
        word = decode(untrusted.encode()) if isinstance(untrusted, str) else None
        if isinstance(word, ViewWord):
            look.signals.append(word.signal)


def new_jti() -> str:
    return f"j-{b64url_encode(secrets.token_bytes(9))}"
