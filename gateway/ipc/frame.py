"""Typed frames between guard, link and eye: closed unions, one struct a frame.

Every receiver names the union it takes; a frame outside it ends the channel, because a peer that speaks out of turn is
broken or hostile. `Beat` flows both ways on every channel, so that a stopped process is noticed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.protocol.picture import SignatureText, ViewSignal

MAX_FRAME_BYTES = 64 * 1024
Payload = Annotated[bytes, Meta(max_length=48 * 1024)]
Code = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,40}\Z")]
CheckId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}\Z")]


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of all frames."""


class Beat(Frame, frozen=True):
    """I am alive. Guard to eye it is the permit to go on: without it for 3 s the eye stops by itself."""


# link → guard
class CommandArrived(Frame, frozen=True):
    """One message from the command topic, unverified."""

    untrusted: Payload
    correlation: Annotated[bytes, Meta(max_length=64)]


class TimeArrived(Frame, frozen=True):
    untrusted: Payload


class CosignedArrived(Frame, frozen=True):
    """A checkpoint of ours that a witness says it cosigned, unverified."""

    untrusted: Payload


class BrokerChanged(Frame, frozen=True):
    up: bool


class OutboxWants(Frame, frozen=True):
    """The number of the first ledger record that the outbox does not have; the guard gives from there on."""

    seq: Annotated[int, Meta(ge=0)]


class Logged(Frame, frozen=True):
    """What a process logged at WARNING and above: an event's word and how often. Also from the eye."""

    level: Literal["warning", "error"]
    event: Code
    count: Annotated[int, Meta(ge=1, le=1_000_000)]


class LinkHealth(Frame, frozen=True):
    """What only the link knows of the device; once a minute."""

    outbox_items: Annotated[int, Meta(ge=0)]
    outbox_dropped: Annotated[int, Meta(ge=0)]
    certificate_days: Annotated[int, Meta(ge=-36500, le=36500)] | None
    tunnel: Code | None = None


class LinkSettingsAre(Frame, frozen=True):
    """Where the link looks for the broker: said in each connection, and whenever it changes."""

    version: Annotated[int, Meta(ge=1)]
    on_trial: bool
    high_water: Annotated[int, Meta(ge=1)]
    """The highest version it ever took, also one that was left again."""


# guard → link
class LinkOrdered(Frame, frozen=True):
    """An address that the guard has verified and recorded: JSON of `protocol.message.LinkSettings`."""

    settings: Annotated[bytes, Meta(max_length=4096)]


class CentreAnswered(Frame, frozen=True):
    """A fresh statement of the centre has been verified: whoever is at the other end of the broker is ours."""


class Publish(Frame, frozen=True):
    branch: Code
    payload: Payload
    correlation: Annotated[bytes, Meta(max_length=64)] = b""
    evidential: bool = False
    retain: bool = False
    seq: Annotated[int, Meta(ge=0)] | None = None
    """The ledger's number, where the payload is a record."""
    slot: Code | None = None
    """A newer one of the same slot makes an older one superfluous."""


class MediaOpened(Frame, frozen=True):
    """Carries link's end of the media socket. Sealed datagrams flow on it until the guard shuts it."""

    check: CheckId


class MediaShut(Frame, frozen=True):
    check: CheckId


# guard → eye
class Start(Frame, frozen=True):
    """Sensor on, make the answer; no frame may leave before `LetFramesOut`. Carries eye's end of the media socket."""

    check: CheckId
    offer: Annotated[str, Meta(max_length=8192)]
    softened: bool
    signature: SignatureText | None = None
    """What the aimed camera saw when it was calibrated, where that is known."""


class LetFramesOut(Frame, frozen=True):
    """The mount has arrived."""


class Stop(Frame, frozen=True):
    why: Code


# eye → guard
class Ready(Frame, frozen=True):
    """Libraries loaded, keys made, camera closed."""


class AnswerMade(Frame, frozen=True):
    answer: Annotated[str, Meta(max_length=8192)]


class FirstFrameOut(Frame, frozen=True):
    boottime_s: float


class EyeBeat(Frame, frozen=True):
    frames: Annotated[int, Meta(ge=0)]
    signal: ViewSignal | None = None
    """The newest one; its time tells whether it is new."""


class AimLearnt(Frame, frozen=True):
    """There was no signature to compare with, and the picture has been clear for some seconds: this is its own."""

    signature: SignatureText


class FromOperator(Frame, frozen=True):
    """A command that came over the data channel, unverified: DTLS says who sent it, the signature who meant it."""

    untrusted: Payload


class EyeFault(Frame, frozen=True):
    code: Code


class Stopped(Frame, frozen=True):
    """Sensor closed; the process ends after this."""

    frames: Annotated[int, Meta(ge=0)]


# resident's hand (button, `tillsyn pause`) → guard, on the control socket
class NotTonight(Frame, frozen=True):
    duration_s: Annotated[float, Meta(ge=60, le=14 * 86400)]


class StopForGood(Frame, frozen=True):
    """The resident withdraws consent."""


class EndPause(Frame, frozen=True):
    pass


class AskState(Frame, frozen=True):
    pass


class SetupAct(Frame, frozen=True):
    """Somebody stands at the device and wants set-up to open: what the button says that is held while power comes."""


# guard → resident's hand
class LocalFacts(Frame, frozen=True):
    """What holds at the device now; `paused_until_unix_s` is None with `paused` for until the clock knows the time."""

    withdrawn: bool
    paused: bool
    paused_until_unix_s: float | None
    checking: bool
    parked: bool
    clock: Code
    agreement: str | None
    version: int | None
    obstacle: Code | None


# guard → tunnel, one order a connection
class TunnelOrder(Frame, frozen=True):
    """Settings that the guard has verified and recorded: JSON of `protocol.message.TunnelSettings`."""

    settings: Annotated[bytes, Meta(max_length=4096)]
    renew_key: bool


# tunnel → guard
class TunnelTaken(Frame, frozen=True):
    """The order is on the disk and being tried, or was known before; with the key that belongs to it."""

    version: Annotated[int, Meta(ge=1)]
    public_key: Annotated[str, Meta(max_length=44)]


# guard → upkeep
class UpdateOrdered(Frame, frozen=True):
    """An offer that the guard has verified and recorded: JSON of `protocol.message.UpdateOffer`."""

    offer: Annotated[bytes, Meta(max_length=4096)]
    is_newer: bool


class UpkeepMay(Frame, frozen=True):
    """What the guard allows just now, and how it is; every second. The fields below `is_over` are the health gate's."""

    install: bool
    restart: bool
    is_over: bool
    """The offer's own time is over."""
    parked: bool
    guard_well: bool
    ledger_verifies: bool
    eye_well: bool
    broker: bool
    tunnel: bool
    restarts: Annotated[int, Meta(ge=0)]


# upkeep → guard
class UpkeepIs(Frame, frozen=True):
    """Said once in each connection: what this device is to an offer. The newest offer is given in answer."""

    compatible: Annotated[str, Meta(max_length=64)]
    running: Annotated[str, Meta(max_length=32)]
    floor: Annotated[str, Meta(max_length=32)]
    statement: Annotated[int, Meta(ge=0)]
    """The newest that upkeep has on its disk."""


class TryEye(Frame, frozen=True):
    """Start an eye's process and see that it is well; its camera stays closed."""


class UpdateSaid(Frame, frozen=True):
    """How far the update is; the guard records and signs it."""

    statement: Annotated[int, Meta(ge=0)]
    version: Annotated[str, Meta(max_length=32)]
    phase: Code
    why: Code | None = None
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    manifest_sha256: Annotated[str, Meta(max_length=64)] | None = None


ToUpkeep = Beat | UpdateOrdered | UpkeepMay
ToGuardFromUpkeep = Beat | UpkeepIs | TryEye | UpdateSaid
ToTunnel = TunnelOrder
ToGuardFromTunnel = TunnelTaken
ToGuardFromHand = NotTonight | StopForGood | EndPause | AskState | SetupAct
ToHand = LocalFacts
ToGuardFromLink = (
    Beat
    | CommandArrived
    | TimeArrived
    | CosignedArrived
    | BrokerChanged
    | OutboxWants
    | LinkHealth
    | LinkSettingsAre
    | Logged
)
ToLink = Beat | Publish | LinkOrdered | CentreAnswered | MediaOpened | MediaShut
ToEye = Beat | Start | LetFramesOut | Stop
ToGuardFromEye = Ready | AnswerMade | FirstFrameOut | EyeBeat | AimLearnt | FromOperator | EyeFault | Stopped | Logged
