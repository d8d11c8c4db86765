"""Every untrusted command goes through here, and only an `OpenCheck` of this gate opens the camera.

The gate holds what a decision needs (trust, clock, agreement, the attempts so far, what the resident did locally) and
changes it only by what it verified. It does no I/O: the guard persists what an order says before it acts on it.

The order of an opening's checks is fixed:

  envelope (see protocol.envelope) → device state (integrity, ledger, mount) → nonce → busy → agreement and version
  → agreement's own order (withdrawn, paused, consent, clock, line, window, budget) → shift of the grant → offer
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from math import inf
from typing import Final, Literal

from gateway.agreement import (
    Agreement,
    Attempt,
    Consent,
    DueItem,
    LocalState,
    Occasion,
    decide,
    due,
    encode_agreement,
    parse_agreement,
)
from gateway.check import Facts
from gateway.core.interval_clock import Attestation, IntervalClock
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision.nonce import NonceBook
from gateway.protocol import sdp
from gateway.protocol.envelope import (
    MAX_ENVELOPE_BYTES,
    GrantCache,
    TrustStore,
    VerifiedCommand,
    check_shift,
    make_trust,
    split,
    verify,
    verify_command,
)
from gateway.protocol.key import b64url_encode
from gateway.protocol.message import (
    AgreementPut,
    AgreementWithdraw,
    Challenge,
    Close,
    ConfigPut,
    DeviceErase,
    DeviceReturn,
    Lease,
    LinkSettings,
    Open,
    SetupEnter,
    TimeStatement,
    TrustPut,
    TunnelPut,
    TunnelSettings,
    UpdateOffer,
    Verdict,
    VerdictGiven,
    audience,
)
from gateway.update.offer import Device, judge

REFUSED_FOR_GOOD: Final = frozenset(
    {
        RefusalCode.MALFORMED,
        RefusalCode.BAD_SIGNATURE,
        RefusalCode.UNKNOWN_KEY,
        RefusalCode.WRONG_DEVICE,
        RefusalCode.WRONG_ROLE,
        RefusalCode.NONCE_USED,
    }
)
"""Refusals that the same bytes get again as long as trust is the same: a flood of copies costs a hash each."""
MAX_REMEMBERED: Final = 256
AFTER_RETURN: Final = (Close, AgreementWithdraw, DeviceReturn, DeviceErase)
"""What is still obeyed on a device that goes back."""
NOT_TONIGHT_S: Final = 12 * 3600.0
"""How long a pause lasts that was made while the clock knew no time, from when it knows it again."""
SETUP_CONSENT_S: Final = 12 * 3600.0
"""How long a steward's consent to set-up waits for the physical act: a shift."""
CLOCKS_APART_S: Final = 600.0
"""A steward's clock may be so far ahead of ours."""
PREPARE_AHEAD_S = 60.0
"""A challenge starts the eye's process only when an attempt is open now or opens within this time."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this device is; `groups` are the groups of homes that it belongs to."""

    gateway: str
    install_epoch: int
    groups: frozenset[str]

    @property
    def audience(self) -> str:
        return audience(self.gateway, self.install_epoch)


@dataclass(frozen=True, slots=True)
class IssueChallenge:
    re: str
    nonce: str
    prepare_eye: bool


@dataclass(frozen=True, slots=True)
class OpenCheck:
    re: str
    facts: Facts
    role: str
    offer: str
    occasion: Occasion
    softened: bool
    lamp: Literal["dim", "on"]
    epoch: int
    """The grant's; a trust statement with a higher one ends the check."""


@dataclass(frozen=True, slots=True)
class RenewLease:
    check: str
    counter: int


@dataclass(frozen=True, slots=True)
class GiveVerdict:
    re: str
    check: str
    counter: int
    verdict: Verdict
    who: str
    role: str


@dataclass(frozen=True, slots=True)
class CloseCheck:
    re: str
    check: str
    who: str
    seal_broken: bool = False


@dataclass(frozen=True, slots=True)
class TakeAgreement:
    """Persist `stored`, then call `Gate.take_agreement`."""

    re: str
    who: str
    role: str
    agreement: Agreement
    stored: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    re: str
    who: str
    role: str


@dataclass(frozen=True, slots=True)
class TakeTrust:
    """Persist `stored` after the statements before it, then call `Gate.take_trust`."""

    re: str
    trust: TrustStore
    stored: bytes


@dataclass(frozen=True, slots=True)
class TakeTunnel:
    """Persist it if it is new, and hand it to the tunnel's service; the one in force may be asked about again."""

    re: str
    who: str
    role: str
    settings: TunnelSettings
    renew_key: bool
    is_new: bool


@dataclass(frozen=True, slots=True)
class TakeConfig:
    """Persist and record it if it is new, and hand it to the link; the one in force may be asked about again."""

    re: str
    who: str
    role: str
    settings: LinkSettings
    is_new: bool


@dataclass(frozen=True, slots=True)
class AllowSetup:
    """A steward's consent that set-up is entered once more, until then. Record it, then `Gate.take_setup`."""

    re: str
    who: str
    role: str
    until_unix_s: float


@dataclass(frozen=True, slots=True)
class Returned:
    """The order by which the device goes back; None is what can't be read any more, and then it is returned too."""

    version: int
    who: str | None = None
    kid: str | None = None
    nonce: str | None = None
    device_nonce: str | None = None


@dataclass(frozen=True, slots=True)
class TakeReturn:
    """Persist `returned` if it is new, then call `Gate.take_return`; the one in force may be asked about again."""

    re: str
    role: str
    returned: Returned
    is_new: bool


@dataclass(frozen=True, slots=True)
class EraseDevice:
    """A second person wants the returned device erased. Whether `code` is what it shows is the guard's to see."""

    re: str
    who: str
    role: str
    code: str


@dataclass(frozen=True, slots=True)
class TakeOffer:
    """Persist and record `stored` if it is new, then hand it to upkeep; the newest may be asked about again."""

    re: str
    offer: UpdateOffer
    stored: bytes
    is_newer: bool
    """There is something to install; else it is the word that this device is up to date."""
    is_new: bool


Order = (
    IssueChallenge
    | OpenCheck
    | RenewLease
    | GiveVerdict
    | CloseCheck
    | TakeAgreement
    | TakeTrust
    | TakeTunnel
    | TakeConfig
    | TakeOffer
    | Withdraw
    | AllowSetup
    | TakeReturn
    | EraseDevice
)


@dataclass(slots=True)
class Gate:
    """The decision and what it rests on. One gate a boot; not thread-safe."""

    identity: Identity
    trust: TrustStore
    clock: IntervalClock
    random_bytes: Callable[[int], bytes]
    agreement: Agreement | None = None
    history: list[Attempt] = field(default_factory=list)
    local: LocalState = field(default_factory=lambda: LocalState(withdrawn=False, paused_until_unix_s=None))
    obstacle: RefusalCode | None = None
    """Why nothing may open whatever is asked: integrity-alarm, ledger-unwritable, not-parked, mount-fault, …"""
    moved: bool = False
    """The camera was taken down: perhaps the resident's no. Only a new agreement ends it."""
    current: Facts | None = None
    """The check that runs; set and cleared by the guard."""
    version_floor: int = 0
    """The highest version of an agreement that was ever in force here, whether or not it can still be read."""
    tunnel_version: int = 1
    """The highest version of the tunnel that was ever ordered; 1 is the enrolment's."""
    config_version: int = 1
    """The highest version of the broker's address that was ever ordered; 1 is the enrolment's."""
    setup_until_unix_s: float = 0.0
    """Until when the newest consent to set-up counted or counts; each later one must reach beyond it."""
    device: Device | None = None
    """What upkeep says of the running system; `statement` in it is the ledger's. None while it says nothing."""
    statement: int = 0
    """The highest update statement that was ever taken."""
    withdrawn_unix_s: float | None = None
    """When the resident withdrew, at the latest; None where nobody did."""
    withdrawn_consents: frozenset[str] = frozenset()
    """Digests of the consents that were withdrawn: none of them lifts a withdrawal, whatever was agreed in between."""
    returned: Returned | None = None
    """The order to return that is in force here: for good, until this device is enrolled anew."""
    nonces: NonceBook = field(init=False)
    _asked: tuple[str, float] | None = None
    _grants: GrantCache = field(default_factory=GrantCache)
    _refused: OrderedDict[bytes, RefusedError] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.nonces = NonceBook(self.random_bytes)
        if self.agreement is not None:
            self.version_floor = max(self.version_floor, self.agreement.version)
        if self.returned is not None:
            self.obstacle = RefusalCode.RETURNED

    def receive(self, untrusted: bytes, *, now_s: float) -> Order:
        """Decide on one command; `now_s` is BOOTTIME. Raises RefusedError; only nonces are changed."""
        if len(untrusted) > MAX_ENVELOPE_BYTES:
            raise RefusedError(RefusalCode.MALFORMED, f"{len(untrusted)} bytes")
        name = sha256(untrusted).digest()
        if name in self._refused:
            raise self._refused[name].again()
        try:
            return self._receive(untrusted, now_s)
        except RefusedError as refused:
            if refused.code in REFUSED_FOR_GOOD:
                self._refused[name] = refused.again()
                if len(self._refused) > MAX_REMEMBERED:
                    self._refused.popitem(last=False)
            raise

    def _receive(self, untrusted: bytes, now_s: float) -> Order:
        match _lone_kind(untrusted):
            case TrustPut.KIND:
                return self._trust(untrusted)
            case UpdateOffer.KIND:
                return self._offer(untrusted, now_s)
        verified = verify_command(
            untrusted,
            self.trust,
            audience=self.identity.audience,
            gateway=self.identity.gateway,
            groups=self.identity.groups,
            cache=self._grants,
        )
        try:
            if self.returned is not None and not isinstance(verified.command, AFTER_RETURN):
                raise RefusedError(RefusalCode.RETURNED)
            return self._decide(verified, now_s)
        except RefusedError as refused:
            refused.re, refused.who = getattr(verified.command, "jti", None), verified.who
            raise

    def _decide(self, verified: VerifiedCommand, now_s: float) -> Order:
        match verified.command:
            case Challenge(jti=jti):
                return IssueChallenge(jti, self.nonces.issue(verified.kid, now_s=now_s), self._soon(now_s))
            case Open() as command:
                return self._open(command, verified, now_s)
            case Lease(check=check, counter=counter):
                self._demand_current(check, verified.kid)
                return RenewLease(check, counter)
            case VerdictGiven(jti=jti, check=check, counter=counter, verdict=verdict):
                self._demand_current(check, verified.kid)
                return GiveVerdict(jti, check, counter, verdict, verified.who, verified.role)
            case Close(jti=jti, check=check, why=why):
                # Anybody whom the centre lets close may do so; it needs not be the one who opened.
                return CloseCheck(jti, check, verified.who, seal_broken=why is not None)
            case AgreementPut(jti=jti, agreement=untrusted_agreement):
                agreement = self._newer(parse_agreement(untrusted_agreement))
                return TakeAgreement(jti, verified.who, verified.role, agreement, encode_agreement(agreement))
            case TunnelPut(jti=jti, settings=settings, renew_key=renew_key):
                if settings.version < self.tunnel_version:
                    raise RefusedError(RefusalCode.STALE_VERSION, "tunnel")
                is_new = settings.version > self.tunnel_version
                return TakeTunnel(jti, verified.who, verified.role, settings, renew_key, is_new)
            case ConfigPut(jti=jti, settings=address):
                if address.version < self.config_version:
                    raise RefusedError(RefusalCode.STALE_VERSION, "config")
                return TakeConfig(
                    jti, verified.who, verified.role, address, is_new=address.version > self.config_version
                )
            case SetupEnter(jti=jti, at=at):
                return AllowSetup(jti, verified.who, verified.role, self._setup_until(at, now_s))
            case DeviceReturn() | DeviceErase() as command:
                return self._return(command, verified)
            case AgreementWithdraw(jti=jti):
                return Withdraw(jti, verified.who, verified.role)

    def lifts_withdrawal(self, agreement: Agreement) -> bool:
        """Does this agreement carry a consent that was given after the withdrawal, and is another than the old one?"""
        resident = agreement.consent.resident
        if not self.local.withdrawn or resident is None or resident.given is None:
            return False
        old = self.agreement.consent.resident if self.agreement is not None else None
        if (old is not None and old.ref == resident.ref) or _consent_digest(resident) in self.withdrawn_consents:
            return False
        if self.withdrawn_unix_s is None:
            return False
        return resident.given >= datetime.fromtimestamp(self.withdrawn_unix_s, UTC).astimezone(agreement.zone).date()

    def _setup_until(self, at_unix_s: float, now_s: float) -> float:
        """Until when a consent of `at_unix_s` counts. Without a network the clock is only known from below."""
        until_unix_s = at_unix_s + SETUP_CONSENT_S
        interval = self.clock.interval(now_s)
        if until_unix_s <= self.setup_until_unix_s:
            raise RefusedError(RefusalCode.STALE_VERSION, "no newer consent than the last one")
        if interval.lo_unix_s >= until_unix_s or at_unix_s > interval.hi_unix_s + CLOCKS_APART_S:
            raise RefusedError(RefusalCode.OUTSIDE_WINDOW, "a consent of another day")
        return until_unix_s

    def take_agreement(self, agreement: Agreement) -> None:
        """Make a durably stored agreement the one in force; only a fresh consent in it lifts a withdrawal."""
        if self.lifts_withdrawal(agreement):
            self.local = LocalState(withdrawn=False, paused_until_unix_s=self.local.paused_until_unix_s)
            self.withdrawn_unix_s = None
        self.moved = False
        self.agreement = agreement
        self.version_floor = max(self.version_floor, agreement.version)

    def take_trust(self, trust: TrustStore) -> None:
        """Make a durably stored trust statement the one in force. What was refused under the old one is asked anew."""
        self.trust = trust
        self._refused.clear()

    def take_withdrawal(self, *, now_s: float) -> str | None:
        """The resident withdraws, at the device or through the centre; the withdrawn consent's digest, if there is one.

        It must be kept: see `withdrawn_consents`.
        """
        resident = None if self.agreement is None else self.agreement.consent.resident
        digest = None if resident is None else _consent_digest(resident)
        if digest is not None:
            self.withdrawn_consents |= {digest}
        self.local = LocalState(withdrawn=True, paused_until_unix_s=self.local.paused_until_unix_s)
        self.withdrawn_unix_s = self.clock.interval(now_s).lo_unix_s
        return digest

    def take_return(self, returned: Returned, *, now_s: float) -> str | None:
        """Make a durably stored order the one in force; the withdrawn consent's digest as `take_withdrawal` gives it.

        Nothing leads back: whoever wants to use this device again enrols it anew, under a higher install epoch.
        """
        self.returned = returned
        self.obstacle = RefusalCode.RETURNED
        return self.take_withdrawal(now_s=now_s)

    def take_pause(self, duration_s: float, *, now_s: float) -> float | None:
        """Not tonight: pause for `duration_s` from now; Unix seconds, or None for until the clock knows the time.

        Never shortens a pause.
        """
        interval = self.clock.interval(now_s)
        until_unix_s = interval.hi_unix_s + duration_s
        if self.local.paused_until_unix_s is not None:
            until_unix_s = max(until_unix_s, self.local.paused_until_unix_s)
        self.local = LocalState(withdrawn=self.local.withdrawn, paused_until_unix_s=until_unix_s)
        return None if until_unix_s == inf else until_unix_s

    def end_pause(self) -> None:
        """The resident, at the device, ends the pause."""
        self.local = LocalState(withdrawn=self.local.withdrawn, paused_until_unix_s=None)

    def note_attempt(self, attempt: Attempt) -> None:
        """Enter an attempt, or its outcome in place of the running one."""
        self.history = [
            known
            for known in self.history
            if (known.line_id, known.occasion_id, known.attempt)
            != (attempt.line_id, attempt.occasion_id, attempt.attempt)
        ]
        self.history.append(attempt)

    def ask_time(self, *, now_s: float) -> str:
        """A nonce for a time statement; an earlier one is void from now on."""
        nonce = b64url_encode(self.random_bytes(16))
        self._asked = (nonce, now_s)
        return nonce

    def hear_time(self, untrusted: bytes, *, now_s: float) -> None:
        """Take a time statement if it answers our nonce. Raises RefusedError; the clock is then as before."""
        statement = verify(untrusted, self.trust.issuers, TimeStatement)
        if statement.gateway != self.identity.gateway:
            raise RefusedError(RefusalCode.WRONG_DEVICE)
        if self._asked is None or statement.nonce != self._asked[0]:
            raise RefusedError(RefusalCode.NONCE_UNKNOWN)
        asked_s = self._asked[1]
        self._asked = None
        self.clock = self.clock.with_attestation(Attestation(statement.unix_s, statement.radius_s, asked_s, now_s))
        if self.local.paused_until_unix_s == inf and self.clock.interval(now_s).hi_unix_s < inf:
            # It was made while no time was known. From here on it lasts as long as one that is made now.
            self.end_pause()
            self.take_pause(NOT_TONIGHT_S, now_s=now_s)

    def due(self, *, now_s: float) -> list[DueItem]:
        if self.agreement is None:
            return []
        return due(self.agreement, self.clock.interval(now_s), self.history, self.local)

    def _open(self, command: Open, verified: VerifiedCommand, now_s: float) -> OpenCheck:
        if self.obstacle is not None:
            raise RefusedError(self.obstacle)
        if self.moved:
            raise RefusedError(RefusalCode.WITHDRAWN, "the camera was moved")
        self.nonces.use(command.nonce, verified.kid, now_s=now_s)
        if self.current is not None:
            raise RefusedError(RefusalCode.BUSY)
        agreement = self.agreement
        if agreement is None or agreement.agreement != command.agreement:
            raise RefusedError(RefusalCode.NOT_AGREED, "no such agreement")
        if agreement.version != command.version:
            raise RefusedError(RefusalCode.STALE_VERSION)
        interval = self.clock.interval(now_s)
        occasion = decide(
            agreement,
            line_id=command.line,
            occasion_id=command.occasion,
            attempt=command.attempt,
            interval=interval,
            clock_may_open=self.clock.may_open(now_s),
            history=self.history,
            local=self.local,
        )
        check_shift(verified.grant, interval)
        sdp.only_fingerprint(command.offer)
        facts = Facts(
            check=f"c-{b64url_encode(self.random_bytes(12))}",
            who=verified.who,
            kid=verified.kid,
            line=command.line,
            occasion=command.occasion,
            attempt=command.attempt,
            max_s=float(occasion.max_s),
        )
        return OpenCheck(
            command.jti,
            facts,
            verified.role,
            command.offer,
            occasion,
            softened=agreement.picture.mode == "softened",
            lamp=agreement.lamp,
            epoch=verified.grant.epoch,
        )

    def _demand_current(self, check: str, kid: str) -> None:
        if self.current is None or self.current.check != check:
            raise RefusedError(RefusalCode.NOT_AGREED, "no such check is running")
        if self.current.kid != kid:
            raise RefusedError(RefusalCode.WRONG_ROLE, "another key opened this check")

    def _newer(self, agreement: Agreement) -> Agreement:
        if agreement.gateway != self.identity.gateway or agreement.install_epoch != self.identity.install_epoch:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "agreement")
        if agreement.version <= self.version_floor:
            raise RefusedError(RefusalCode.STALE_VERSION)
        return agreement

    def _return(self, command: DeviceReturn | DeviceErase, verified: VerifiedCommand) -> TakeReturn | EraseDevice:
        """The same order again is answered as before: its short code must not change under who compares it."""
        known = self.returned
        if isinstance(command, DeviceErase):
            if known is None:
                raise RefusedError(RefusalCode.NOT_AGREED, "nobody has ordered this device back")
            if known.version != command.version or known.nonce is None:
                raise RefusedError(RefusalCode.STALE_VERSION, "another order is in force")
            if verified.who == known.who or verified.kid == known.kid:
                raise RefusedError(RefusalCode.WRONG_ROLE, "who ordered it back can't be the second person")
            return EraseDevice(command.jti, verified.who, verified.role, command.code)
        if known is not None and (known.version, known.nonce) == (command.version, command.nonce):
            return TakeReturn(command.jti, verified.role, known, is_new=False)
        if known is not None and command.version <= known.version:
            raise RefusedError(RefusalCode.STALE_VERSION, "another order of this version, or a higher one, is in force")
        device_nonce = b64url_encode(self.random_bytes(16))
        returned = Returned(command.version, verified.who, verified.kid, command.nonce, device_nonce)
        return TakeReturn(command.jti, verified.role, returned, is_new=True)

    def _trust(self, untrusted: bytes) -> TakeTrust:
        """A state command of its own kind: no grant, but the root's signature, and a version above the one held."""
        trust = make_trust(untrusted, self.trust.roots)
        if trust.version <= self.trust.version or trust.epoch < self.trust.epoch:
            raise RefusedError(RefusalCode.STALE_VERSION, "trust")
        return TakeTrust(f"trust-{trust.version}", trust, untrusted)

    def _offer(self, untrusted: bytes, now_s: float) -> TakeOffer:
        """No grant and no device's name, but the release role's signature, and a number above the one held."""
        offer = verify(untrusted, self.trust.releases, UpdateOffer)
        re = f"offer-{offer.statement}"
        try:
            if self.device is None:
                raise RefusedError(RefusalCode.BUSY, "upkeep is not there")
            is_new = offer.statement != self.statement
            device = replace(self.device, statement=self.statement if is_new else offer.statement - 1)
            is_newer = judge(offer, device, self.clock.interval(now_s))
        except RefusedError as refused:
            refused.re = re
            raise
        return TakeOffer(re, offer, untrusted, is_newer, is_new)

    def _soon(self, now_s: float) -> bool:
        lo_s = self.clock.interval(now_s).lo_unix_s
        return any(
            item.opens_unix_s is not None and item.opens_unix_s <= lo_s + PREPARE_AHEAD_S
            for item in self.due(now_s=now_s)
            if item.status in ("due", "recheck", "soon")
        )


def _consent_digest(consent: Consent) -> str:
    return sha256((consent.ref or "").encode()).hexdigest()


def _lone_kind(untrusted: bytes) -> str | None:
    """The kind of what stands first: a grant's, where a person's command follows. None for what is no envelope."""
    try:
        return split(untrusted.split(b"~", 1)[0]).kind
    except RefusedError:
        return None
