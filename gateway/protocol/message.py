"""Every message with an effect or with evidential value, as a closed schema.

One frozen struct a kind; `KINDS` is the whole list. Unknown field, wrong type or value out of range: refused. Personal
data has no field here. Source: docs/protocol.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from gateway.core.schema_type import make_ready
from gateway.protocol.picture import ViewSignal
from gateway.protocol.tunnel_key import TunnelKey

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}\Z")]
GatewayId = Annotated[str, Meta(pattern=r"^gw-[a-z0-9-]{1,40}\Z")]
Audience = Annotated[str, Meta(pattern=r"^gw-[a-z0-9-]{1,40}/[1-9][0-9]{0,8}\Z")]
Nonce = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22}\Z")]
"""128 random bits in base64url."""
Word = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,40}\Z")]
Occasion = Annotated[str, Meta(pattern=r"^[0-9T:.+Z-]{1,40}\Z")]
UnixSeconds = Annotated[float, Meta(ge=0, le=253402300799)]
Counter = Annotated[int, Meta(ge=1, le=1_000_000)]
Version = Annotated[int, Meta(ge=1, le=2**31)]
IPv4 = Annotated[str, Meta(pattern=r"^(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}\Z", max_length=15)]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Sdp = Annotated[str, Meta(min_length=1, max_length=8192)]
ReleaseVersion = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,4})(\.(0|[1-9][0-9]{0,4})){2}\Z")]
"""Three numbers: what RAUC compares with `min-bundle-version`, without suffixes that readers order differently."""
Compatible = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
BundleUrl = Annotated[
    str, Meta(pattern=r"^https://[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:[0-9]{1,5})?/[A-Za-z0-9._~/-]{1,300}\Z")
]
ReturnCode = Annotated[str, Meta(pattern=r"^[0-9]{6}\Z")]
Ring = Literal["lab", "one-percent", "ten-percent", "half", "all"]
"""Who gets a release first; each ring holds those before it."""


class Role(StrEnum):
    OPERATOR = "operator"
    PLANNER = "planner"
    INSTALLER = "installer"
    STEWARD = "steward"
    RELEASE = "release"


class Verdict(StrEnum):
    SEEN = "seen"
    NOT_SEEN = "not_seen"
    UNSURE = "unsure"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all kinds; `KIND` is the part between `tillsyn.` and `+jws` in the header's typ."""

    KIND: ClassVar[str]


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Proof-of-possession key. Source: RFC 7800 §3.2."""

    jwk: dict[str, str]


class Grant(Message, frozen=True):
    """What the centre lets one person's key do for one shift."""

    KIND: ClassVar[str] = "grant"
    sub: Id
    name_ref: Id
    roles: Annotated[list[Role], Meta(min_length=1, max_length=5)]
    cnf: Confirmation
    epoch: Annotated[int, Meta(ge=0, le=2**31)]
    nbf: UnixSeconds
    exp: UnixSeconds
    homes: Annotated[list[GatewayId], Meta(max_length=64)] = msgspec.field(default_factory=list)
    groups: Annotated[list[Id], Meta(max_length=16)] = msgspec.field(default_factory=list)


class Challenge(Message, frozen=True):
    """Ask for a nonce; the eye's process is started, its camera stays closed."""

    KIND: ClassVar[str] = "check.challenge"
    aud: Audience
    jti: Id


class Open(Message, frozen=True):
    """Open the camera for one attempt at one occasion; the picture goes to the offer's fingerprint only."""

    KIND: ClassVar[str] = "check.open"
    aud: Audience
    jti: Id
    nonce: Nonce
    agreement: Id
    version: Version
    line: Id
    occasion: Occasion
    attempt: Annotated[int, Meta(ge=1, le=9)]
    offer: Sdp


class Lease(Message, frozen=True):
    """I am still looking."""

    KIND: ClassVar[str] = "check.lease"
    aud: Audience
    check: Id
    counter: Counter


class VerdictGiven(Message, frozen=True):
    """What the operator saw; ends the check."""

    KIND: ClassVar[str] = "check.verdict"
    aud: Audience
    jti: Id
    check: Id
    counter: Counter
    verdict: Verdict


class Close(Message, frozen=True):
    """End the check without a verdict. Authentic is enough, also old or repeated: the result is only safer.

    `why` is said where the browser saw that the picture is not sealed to this home.
    """

    KIND: ClassVar[str] = "check.close"
    aud: Audience
    jti: Id
    check: Id
    why: Literal["seal-broken"] | None = None


class AgreementPut(Message, frozen=True):
    """A whole new agreement; taken only above the stored high-water mark."""

    KIND: ClassVar[str] = "agreement.put"
    aud: Audience
    jti: Id
    agreement: dict[str, Any]


class AgreementWithdraw(Message, frozen=True):
    """Consent is withdrawn. Authentic is enough."""

    KIND: ClassVar[str] = "agreement.withdraw"
    aud: Audience
    jti: Id


class TrustPut(Message, frozen=True):
    """Who may sign what; signed by the root, and by the new root too when the roots change."""

    KIND: ClassVar[str] = "trust.put"
    version: Version
    epoch: Annotated[int, Meta(ge=0, le=2**31)]
    roots: Annotated[list[dict[str, str]], Meta(min_length=1, max_length=4)]
    issuers: Annotated[list[dict[str, str]], Meta(min_length=1, max_length=4)]
    releases: Annotated[list[dict[str, str]], Meta(max_length=4)] = msgspec.field(default_factory=list)
    """Who may offer updates; without any, a device takes none."""


class UpdateOffer(Message, frozen=True):
    """The newest system there is, said by the release role: an order to those who run an older one, and to all the
    word that nothing newer is being kept from them.
    """

    KIND: ClassVar[str] = "update.offer"
    statement: Version
    """Rises with each offer that is signed, also where the version stays."""
    version: ReleaseVersion
    compatible: Compatible
    url: BundleUrl
    manifest_sha256: Sha256
    """Of the bundle's manifest, which names its images by their hashes."""
    size_bytes: Annotated[int, Meta(ge=1, le=4 << 30)]
    """Of the bundle; not a byte more is fetched."""
    ring: Ring
    """The widest ring that this release is signed for."""
    not_before: UnixSeconds
    deadline: UnixSeconds
    """Later than this it is not begun any more."""
    stated: UnixSeconds
    expires: UnixSeconds
    tries: Annotated[int, Meta(ge=1, le=5)] = 1
    """How often a device may boot this very bundle before it gives it up for good."""


class TunnelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end of the tunnel, whole. The private key is not among it: it is made on the device and stays there."""

    version: Version
    address: IPv4
    """The home's inside."""
    centre: Annotated[list[IPv4], Meta(min_length=1, max_length=4)]
    """The centre's inside: broker and relay. Nothing else is routed into the tunnel."""
    centre_key: TunnelKey
    endpoint_host: Host
    endpoint_port: Port
    mtu_bytes: Annotated[int, Meta(ge=1200, le=1420)]


class TunnelPut(Message, frozen=True):
    """A whole new tunnel; taken only above the stored high-water mark, and left again if it reaches nobody."""

    KIND: ClassVar[str] = "tunnel.put"
    aud: Audience
    jti: Id
    settings: TunnelSettings
    renew_key: bool = False
    """Make a new key pair for it. It needs an address of its own then: at the centre both keys live side by side."""


class FallbackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the centre is reached where the tunnel is not: both over TLS."""

    broker_host: Host
    broker_port: Port
    relay_host: Host
    relay_port: Port


class LinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the broker is, whole. Who vouches for it, the CA and our certificate, is not among it."""

    version: Version
    broker_host: Host
    broker_port: Port
    broker_name: Host
    fallback: FallbackSettings | None = None


class ConfigPut(Message, frozen=True):
    """A broker's whole new address; taken only above the stored high-water mark, and left again if no centre answers
    there.
    """

    KIND: ClassVar[str] = "config.put"
    aud: Audience
    jti: Id
    settings: LinkSettings


class SetupEnter(Message, frozen=True):
    """Set-up may be entered once more, by whoever does the physical act at the device. Taken once, and for 12 h."""

    KIND: ClassVar[str] = "setup.enter"
    aud: Audience
    jti: Id
    at: UnixSeconds
    """When the steward said it; above every earlier one's."""


class DeviceReturn(Message, frozen=True):
    """The lent device goes back: consent is closed for good, and nothing opens on this installation any more."""

    KIND: ClassVar[str] = "device.return"
    aud: Audience
    jti: Id
    version: Version
    """Of the order; a higher one makes a new short code, and changes nothing else."""
    nonce: Nonce
    """The centre's part of the short code."""


class DeviceErase(Message, frozen=True):
    """A second person, who holds the device's label and compared the short code: erase it, and be nobody's."""

    KIND: ClassVar[str] = "device.erase"
    aud: Audience
    jti: Id
    version: Version
    """The order's."""
    code: ReturnCode
    """As it was read at the device."""


class TimeStatement(Message, frozen=True):
    """The centre's clock, bound to the device's nonce."""

    KIND: ClassVar[str] = "time"
    gateway: GatewayId
    nonce: Nonce
    unix_s: UnixSeconds
    radius_s: Annotated[float, Meta(ge=0, le=3600)]


class TimeAsk(Message, frozen=True):
    KIND: ClassVar[str] = "time.ask"
    gateway: GatewayId
    nonce: Nonce


class ClockFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: Word
    lo_unix_s: float
    hi_unix_s: float | None


class DueFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One occasion as the guard sees it; what may be opened and when."""

    line: Id
    occasion: Occasion
    status: Word
    attempt: int
    opens_unix_s: float
    closes_unix_s: float
    max_s: int


class Challenged(Message, frozen=True):
    KIND: ClassVar[str] = "check.challenged"
    gateway: GatewayId
    re: Id
    nonce: Nonce
    life_s: float
    clock: ClockFact
    agreement: Id
    version: int
    due: list[DueFact]


class Opened(Message, frozen=True):
    """The guard's answer; the page verifies it and the fingerprint inside before it plays."""

    KIND: ClassVar[str] = "check.opened"
    gateway: GatewayId
    re: Id
    check: Id
    answer: Sdp
    max_s: int
    lease_every_s: float
    lease_life_s: float


class Closed(Message, frozen=True):
    KIND: ClassVar[str] = "check.closed"
    gateway: GatewayId
    check: Id
    why: Word
    who: Id
    line: Id
    occasion: Occasion
    attempt: int
    watched_s: float
    frames: int
    parked: bool
    ledger_size: int
    next: Word = "none"
    next_unix_s: float | None = None
    verdict: Verdict | None = None
    view: Word | None = None
    """The last view signal's word: of the picture, not of the person."""


class MissedCheck(Message, frozen=True):
    """An agreed occasion has ended, and nobody has seen the resident in it."""

    KIND: ClassVar[str] = "check.missed"
    gateway: GatewayId
    line: Id
    occasion: Occasion
    why: Word
    attempts: int
    ended_unix_s: UnixSeconds
    """The last moment at which somebody could have looked."""
    ledger_size: int


class Signal(Message, frozen=True):
    """Once a second in a check: it runs, so many pictures have left, and what is to be said of the newest."""

    KIND: ClassVar[str] = "signal"
    gateway: GatewayId
    check: Id
    frames: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    view: ViewSignal | None = None


class Accepted(Message, frozen=True):
    KIND: ClassVar[str] = "accepted"
    gateway: GatewayId
    re: Id
    version: int | None = None
    tunnel_key: TunnelKey | None = None
    """To `tunnel.put`: the public half of the device's key for it; None when its own service could not say yet."""


class Returning(Message, frozen=True):
    """To `device.return`: it is on the disk, and nothing opens any more."""

    KIND: ClassVar[str] = "device.returning"
    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1, le=999_999_999)]
    re: Id
    version: Version
    nonce: Nonce
    """The device's part of the short code."""
    ledger_size: Annotated[int, Meta(ge=0)]


class DeviceReturned(Message, frozen=True):
    """The device's last word, signed before its key is erased: who ordered it, who confirmed, what is witnessed."""

    KIND: ClassVar[str] = "device.returned"
    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1, le=999_999_999)]
    version: Version
    who: Id
    second: Id
    ledger_size: Annotated[int, Meta(ge=0)]
    time_lo: UnixSeconds
    time_hi: UnixSeconds | None = None
    cosigned_size: Annotated[int, Meta(ge=0)] | None = None
    cosigned_root: Sha256 | None = None
    """Of the newest checkpoint that the witness cosigned, in hex."""


class Refused(Message, frozen=True):
    KIND: ClassVar[str] = "refused"
    gateway: GatewayId
    re: Id
    code: Word


class Hello(Message, frozen=True):
    """What the device is and holds, at each start and change; the centre's register follows it."""

    KIND: ClassVar[str] = "hello"
    gateway: GatewayId
    install_epoch: int
    boot: Id
    sw: Id
    clock: ClockFact
    agreement: Id | None = None
    version: int | None = None
    due: list[DueFact] = msgspec.field(default_factory=list)
    obstacle: Word | None = None
    """Why nothing can open at all, if so: a refusal code."""


class ProtocolLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of an installation's protocol. `value` is a number, an identifier or a hash, never free text."""

    name: Word
    how: Literal["measured", "ticked", "recorded"]
    is_good: bool
    value: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:+/ -]{1,80}\Z")] | None = None


class InstallationProtocol(Message, frozen=True):
    """What was measured and ticked when this device was set up; signed by the device, kept by centre and resident."""

    KIND: ClassVar[str] = "setup.protocol"
    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1, le=999_999_999)]
    lines: Annotated[list[ProtocolLine], Meta(min_length=1, max_length=64)]
    ledger_size: int
    time_lo: float
    time_hi: float | None = None


class Health(Message, frozen=True):
    """How the device is, every five minutes. None is for what it can't say of itself."""

    KIND: ClassVar[str] = "health"
    gateway: GatewayId
    boot: Id
    uptime_s: Annotated[float, Meta(ge=0)]
    sw: Id
    clock: ClockFact
    ledger_size: Annotated[int, Meta(ge=0)]
    cosigned_size: Annotated[int, Meta(ge=0)] | None = None
    """How many records of the ledger the witness has said it knows."""
    slot: Word | None = None
    temperature_c: Annotated[float, Meta(ge=-100, le=200)] | None = None
    throttled: Annotated[list[Word], Meta(max_length=8)] | None = None
    disk_free_bytes: Annotated[int, Meta(ge=0)] | None = None
    outbox_items: Annotated[int, Meta(ge=0)] | None = None
    outbox_dropped: Annotated[int, Meta(ge=0)] | None = None
    certificate_days: Annotated[int, Meta(ge=-36500, le=36500)] | None = None
    """Whole days until the client certificate ends; negative when it has."""
    tunnel: Word | None = None


UpdatePhase = Literal[
    "offered", "downloading", "installed", "rebooting", "gate", "good", "fell-back", "failed", "refused", "stale"
]


class UpdateReport(Message, frozen=True):
    """How far a device is with an offer, and why it went no further. Kept by the centre, one history a device."""

    KIND: ClassVar[str] = "update.report"
    gateway: GatewayId
    statement: Annotated[int, Meta(ge=0, le=2**31)]
    """The offer's; 0 where there never was one."""
    version: ReleaseVersion
    """The one that was offered."""
    running: ReleaseVersion
    phase: UpdatePhase
    why: Word | None = None
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    manifest_sha256: Sha256 | None = None


class LogLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of event and how often it was logged. `event` is a word of our own source, never a peer's."""

    service: Literal["guard", "eye", "link", "upkeep"]
    level: Literal["warning", "error"]
    event: Word
    count: Annotated[int, Meta(ge=1, le=1_000_000)]


class LogLines(Message, frozen=True):
    """What was logged at WARNING and above since the last of these."""

    KIND: ClassVar[str] = "log"
    gateway: GatewayId
    boot: Id
    lines: Annotated[list[LogLine], Meta(min_length=1, max_length=32)]
    left_out: Annotated[int, Meta(ge=0)] = 0
    """How many records of further kinds there were."""


KINDS: dict[str, type[Message]] = {
    kind.KIND: kind
    for kind in (
        Grant, Challenge, Open, Lease, VerdictGiven, Close, AgreementPut, AgreementWithdraw, TrustPut, TimeStatement,
        TimeAsk, TunnelPut, ConfigPut, SetupEnter, DeviceReturn, DeviceErase, UpdateOffer,
        Challenged, Opened, Signal, Closed, MissedCheck, Accepted, Returning, Refused, Hello, Health, LogLines,
        InstallationProtocol, UpdateReport, DeviceReturned,
    )
}  # fmt: skip
make_ready(*KINDS.values())

Command = (
    Challenge
    | Open
    | Lease
    | VerdictGiven
    | Close
    | AgreementPut
    | AgreementWithdraw
    | TunnelPut
    | ConfigPut
    | SetupEnter
    | DeviceReturn
    | DeviceErase
)
"""What a granted person may sign."""

ROLE_FOR: dict[type[Message], frozenset[Role]] = {
    Challenge: frozenset({Role.OPERATOR}),
    Open: frozenset({Role.OPERATOR}),
    Lease: frozenset({Role.OPERATOR}),
    VerdictGiven: frozenset({Role.OPERATOR}),
    Close: frozenset({Role.OPERATOR, Role.PLANNER, Role.STEWARD}),
    AgreementPut: frozenset({Role.PLANNER}),
    AgreementWithdraw: frozenset({Role.PLANNER, Role.STEWARD}),
    TunnelPut: frozenset({Role.STEWARD}),
    ConfigPut: frozenset({Role.STEWARD}),
    SetupEnter: frozenset({Role.STEWARD}),
    DeviceReturn: frozenset({Role.STEWARD}),
    DeviceErase: frozenset({Role.STEWARD, Role.INSTALLER}),
}
"""Which roles may sign what; a kind that is missing here can't be signed by a granted key."""


def audience(gateway: str, install_epoch: int) -> str:
    """The `aud` of a command: void on any other device, and on this one after it was provisioned anew."""
    return f"{gateway}/{install_epoch}"
