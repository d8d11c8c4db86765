"""A home whose link is the attacker's: every datagram of the picture goes through its hands, as through a relay's.

    python hostile_link.py home --config HOME.toml      the supervisor, with this link in the real one's place
    python hostile_link.py link --config LINK.toml      the link: all of it real but for what it does on purpose

What it does to the next check stands in the file `hostile` beside the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import SRTP_PROFILES
from OpenSSL import SSL

import gateway.services.link
from gateway.cli import main
from gateway.config.file import load
from gateway.edge.ice_aioice import carry
from gateway.edge.service_systemd import run_until_signal
from gateway.ipc import frame, media
from gateway.ipc.channel import pair
from gateway.services.home import Home, HomeConfig
from gateway.services.link import Link

CONFIG = Path(sys.argv[-1])


def mode() -> str:
    return (CONFIG.parent / "hostile").read_text().strip()


def is_dtls(datagram: bytes) -> bool:
    """Source: RFC 7983 §7."""
    return bool(datagram) and 20 <= datagram[0] <= 63


def is_srtp(datagram: bytes) -> bool:
    """SRTP or SRTCP. Source: RFC 7983 §7."""
    return bool(datagram) and 128 <= datagram[0] <= 191


def altered(datagram: bytes) -> bytes:
    """One bit before the end, in what the tag covers or in the tag."""
    return datagram[:-20] + bytes([datagram[-20] ^ 1]) + datagram[-19:]


def with_another_fingerprint(envelope: bytes) -> bytes:
    """A signed reply with a fingerprint of ours in its SDP, and the signature as it was."""
    head, payload, signature = envelope.rsplit(b".", 2)
    own = ":".join(f"{byte:02X}" for byte in secrets.token_bytes(32)).encode()
    words, count = re.subn(
        rb"(a=fingerprint:sha-256 )[0-9A-Fa-f:]{95}", rb"\g<1>" + own, urlsafe_b64decode(payload + b"==")
    )
    return envelope if not count else b".".join((head, urlsafe_b64encode(words).rstrip(b"="), signature))


class Impostor:
    """Our own certificate at one end of DTLS; what it says goes to `say`."""

    def __init__(self, say: Any, *, as_client: bool) -> None:
        context = RTCCertificate.generateCertificate()._create_ssl_context(srtp_profiles=SRTP_PROFILES)
        self.say, self.tls, self.begun = say, SSL.Connection(context), False
        if as_client:
            self.tls.set_connect_state()
        else:
            self.tls.set_accept_state()

    def hear(self, datagram: bytes = b"") -> None:
        if datagram:
            self.tls.bio_write(datagram)
        self.begun = True
        with contextlib.suppress(SSL.Error):
            self.tls.do_handshake()
        with contextlib.suppress(SSL.Error):
            while True:
                self.say(self.tls.bio_read(1500))


class Hands:
    """Between the eye and the real link's carrying, on every datagram."""

    def __init__(self, sock: socket.socket) -> None:
        self.mode = mode()
        mine, self.theirs = pair()
        self.eye, self.relay = media.MediaSocket(sock), media.MediaSocket(mine)
        self.to_browser = Impostor(lambda one: self.relay.send(media.sealed(one)), as_client=True)
        self.to_eye = Impostor(lambda one: self.eye.send(media.sealed(one)), as_client=False)

    def outward(self, one: bytes) -> None:
        if self.mode == "pose-as-browser" and is_dtls(one):
            self.to_eye.hear(one)
        elif self.mode != "pose-as-home" or not is_dtls(one):
            self.relay.send(media.sealed(altered(one) if self.mode == "alter-picture" and is_srtp(one) else one))

    def inward(self, one: bytes) -> None:
        if self.mode == "pose-as-home" and is_dtls(one):
            self.to_browser.hear(one)
        elif self.mode != "pose-as-browser" or not is_dtls(one):
            self.eye.send(media.sealed(altered(one) if self.mode == "alter-reports" and is_srtp(one) else one))

    async def say_again(self) -> None:
        """What was lost of a handshake, as DTLS does it. Source: RFC 6347 §4.2.4."""
        while True:
            await asyncio.sleep(0.25)
            for one in (self.to_browser, self.to_eye):
                if one.begun:
                    with contextlib.suppress(SSL.Error):
                        one.tls.DTLSv1_handle_timeout()
                    one.hear()

    async def from_eye(self) -> None:
        while True:
            data = await self.eye.receive()
            if data[:1] == b"\x01":
                self.relay.send(data)
                continue
            for one in media.apart(data):
                self.outward(one)

    async def from_relay(self) -> None:
        while True:
            got = media.from_link(await self.relay.receive())
            if isinstance(got, bytes):
                self.inward(got)
                continue
            self.eye.send(media.control(got))
            if isinstance(got, media.Connected) and self.mode == "pose-as-home":
                self.to_browser.hear()


async def hostile_carry(sock: socket.socket, way: Any) -> None:
    hands = Hands(sock)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(carry(hands.theirs, way))
            group.create_task(hands.from_eye())
            group.create_task(hands.from_relay())
            group.create_task(hands.say_again())
    except* ConnectionError:
        pass
    finally:
        hands.eye.close()
        hands.relay.close()


class HostileLink(Link):
    def _obey(self, got: frame.ToLink, fds: list[int]) -> None:
        match got:
            case frame.MediaOpened() if fds:
                self._end_media()
                self._media = self._spawn(hostile_carry(socket.socket(fileno=fds[0]), self.way.ice()), "media")
            case _:
                super()._obey(got, fds)


def hostile_home(config: HomeConfig) -> None:
    home = Home(config)
    home.link.command = [sys.executable, __file__, "--verbose", "link", "--config", config.link]
    run_until_signal(home.run())


if __name__ == "__main__":
    if sys.argv[1] == "home":
        hostile_home(load(CONFIG, HomeConfig))
    else:
        gateway.services.link.Link = HostileLink  # type: ignore[misc]
        sys.exit(main(sys.argv[1:]))
