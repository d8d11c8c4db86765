"""What the installer's wizard may say to the guard, and what it hears: a socket of its own, closed unions.

The wizard has the network and decides nothing. Each of its words but `Beat` gets exactly one answer, in order; what
happens by itself (`MediaOpened`, `PreviewAnswer`, `PreviewEnded`, `Beat`) comes in between. On a device that is not
enrolled yet the small service `fresh` answers in the guard's place, and knows `AskStanding`, `MakeKeys`, `ForgetKeys`
and `Install` only.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.ipc.frame import Beat, CheckId, Code, Frame, MediaOpened
from gateway.protocol.message import GatewayId, Id, IPv4, Nonce, ProtocolLine, ReturnCode, Sdp, TunnelSettings
from gateway.protocol.tunnel_key import TunnelKey

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Noted = Literal[
    "network",
    "line",
    "enrolled",
    "informed",
    "consent-resident",
    "consent-cohabitant",
    "loan-receipt",
    "key-receipt",
    "aimed",
    "room-dark",
    "lamp-seen",
    "noise-heard",
    "checked",
    "alarm-answered",
]
"""Steps that become a `setup` record of the ledger, under these words."""


# wizard → guard, or fresh
class AskStanding(Frame, frozen=True):
    pass


class MakeKeys(Frame, frozen=True):
    """Make the device's keys, or say those that were made before for this enrolment."""


class ForgetKeys(Frame, frozen=True):
    """The short codes were not the same: nothing of this enrolment is to be used."""


class Install(Frame, frozen=True):
    """Whose device this is from now on. Durable before the answer."""

    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1, le=999_999_999)]
    groups: Annotated[list[Id], Meta(max_length=16)]
    roots: Annotated[list[dict[str, str]], Meta(min_length=1, max_length=4)]
    trust: Annotated[bytes, Meta(max_length=16 * 1024)]
    witness: Annotated[str, Meta(max_length=300)] | None = None
    tunnel: TunnelSettings | None = None
    fallback: Annotated[list[IPv4], Meta(max_length=4)] = msgspec.field(default_factory=list)
    """The centre's public addresses that the device's filter is to let it speak to."""


class Note(Frame, frozen=True):
    """Write a step into the ledger; `digest` is of the paper or the measurement that belongs to it."""

    what: Noted
    digest: Digest | None = None


class Allow(Frame, frozen=True):
    """A steward's signed consent that set-up is entered once more, carried here because the home has no line."""

    envelope: Annotated[bytes, Meta(max_length=16 * 1024)]


class AskNonce(Frame, frozen=True):
    """For one preview; lives 30 s."""


class Preview(Frame, frozen=True):
    """`setup.preview`: show the picture to whoever made this offer, for five minutes at most."""

    nonce: Nonce
    offer: Sdp


class RenewPreview(Frame, frozen=True):
    """Somebody still looks. Without it for 10 s the preview ends."""

    counter: Annotated[int, Meta(ge=1, le=1_000_000)]


class EndPreview(Frame, frozen=True):
    pass


class Nudge(Frame, frozen=True):
    """Turn the camera a little, in degrees; only while the preview runs."""

    by_deg: Annotated[float, Meta(ge=-10.0, le=10.0)]


class SaveAim(Frame, frozen=True):
    """Where the camera looks now is where it looks at each check. Ends the preview: the camera goes up."""


class BeginAlarm(Frame, frozen=True):
    """A test alarm on the way that a real hand-over takes."""


class SignProtocol(Frame, frozen=True):
    lines: Annotated[list[ProtocolLine], Meta(min_length=1, max_length=64)]


class Finish(Frame, frozen=True):
    """Set-up is over: nothing on this socket has an effect any more."""


# guard, or fresh → wizard
class Standing(Frame, frozen=True):
    """What holds at the device. `is_open` False: set-up is over, or was never on."""

    is_fresh: bool
    is_open: bool
    entered: int = 0
    """How many times set-up was entered anew."""
    is_allowed: bool = False
    """A steward has consented that it is entered once more."""
    is_acted: bool = False
    """Somebody did the physical act a short while ago."""
    return_code: ReturnCode | None = None
    """This device goes back, and somebody holds it: what is to be compared with the centre."""
    gateway: GatewayId | None = None
    install_epoch: int | None = None
    clock: Code = "floor"
    broker: bool = False
    agreement: Id | None = None
    eye_ready: bool = False
    """An eye stands by, its camera closed."""
    parked: bool = False
    position_deg: float = 0.0
    is_measured: bool = False
    """Whether the mount has a sensor that says where it is."""
    obstacle: Code | None = None
    seen_check: CheckId | None = None
    """The newest check of this set-up in which an operator saw the picture, with what it was."""
    seen_frames: int = 0
    seen_s: float = 0.0
    alarm: Id | None = None
    """The newest test alarm's occasion."""
    ledger_size: int = 0


class KeysMade(Frame, frozen=True):
    device_jwk: dict[str, str]
    ledger_vkey: Annotated[str, Meta(max_length=200)]
    tunnel_key: TunnelKey | None = None


class Done(Frame, frozen=True):
    """It was done, and is durable where it is to be."""


class Denied(Frame, frozen=True):
    """It was not done; `code` is one of the closed list of refusals."""

    code: Code


class NonceIssued(Frame, frozen=True):
    nonce: Nonce


class PreviewOpened(Frame, frozen=True):
    """The opening is recorded. `MediaOpened` follows with the wizard's end of the media socket, which guard can cut."""

    check: CheckId
    max_s: float


class ProtocolSigned(Frame, frozen=True):
    jws: Annotated[bytes, Meta(max_length=16 * 1024)]


class PreviewAnswer(Frame, frozen=True):
    """By itself: the eye's answer to the preview's offer."""

    check: CheckId
    answer: Sdp


class PreviewEnded(Frame, frozen=True):
    """By itself: the sensor is off and the mount up."""

    check: CheckId
    why: Code


Answer = Standing | KeysMade | Done | Denied | NonceIssued | PreviewOpened | ProtocolSigned
ToSetup = Beat | Answer | MediaOpened | PreviewAnswer | PreviewEnded
ToGuardFromSetup = (
    Beat
    | AskStanding
    | MakeKeys
    | ForgetKeys
    | Install
    | Note
    | Allow
    | AskNonce
    | Preview
    | RenewPreview
    | EndPreview
    | Nudge
    | SaveAim
    | BeginAlarm
    | SignProtocol
    | Finish
)
