"""What the endpoints answer, as schemas for the OpenAPI document. The answers are made from rows; a test asks every
endpoint and compares.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.protocol.picture import ViewSignal


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all answers: closed, so that a new field is a new line here."""


class Problem(Answer, frozen=True):
    """`error` is a code that stays the same, `message` says in plain words what to do."""

    error: str
    message: str


class ServerFacts(Answer, frozen=True):
    who: str
    roles: list[str]
    unit: str | None
    ice_policy: str
    ice_servers: list[dict[str, Any]]
    lease_every_s: int
    now_unix_s: float
    witness: str | None


class RelayFacts(Answer, frozen=True):
    ice_servers: list[dict[str, Any]]


class GrantFacts(Answer, frozen=True):
    grant: str
    kid: str
    exp_unix_s: float
    who: str
    roles: list[str]


class Clock(Answer, frozen=True):
    state: str
    lo_unix_s: float
    hi_unix_s: float | None


class Due(Answer, frozen=True):
    line: str
    occasion: str
    status: str
    attempt: int
    opens_unix_s: float
    closes_unix_s: float
    max_s: int


class Outcome(Answer, frozen=True):
    """How a check ended, as its home signed it."""

    gateway: str
    check: str
    heard_unix_s: float
    who: str
    why: str
    verdict: str | None
    line: str
    occasion: str
    attempt: int
    watched_s: float
    frames: int
    parked: bool
    ledger_size: int
    next: str
    next_unix_s: float | None
    view: str | None


class SignedOutcome(Outcome, frozen=True):
    number: int
    closed_jws: str
    """Empty where the home's report was lost, and its witnessed ledger has told the outcome."""


class Disabled(Answer, frozen=True):
    why: str
    since_unix_s: float


class WitnessedFacts(Answer, frozen=True):
    size: int
    at_unix_s: float | None
    is_cosigned: bool


class FaultFacts(Answer, frozen=True):
    gateway: str
    code: str
    since_unix_s: float
    until_unix_s: float | None
    taken_by: str | None
    taken_unix_s: float | None


class SignalFacts(Answer, frozen=True):
    """The newest view signal: of the picture, not of the person. `view` is null before the first picture."""

    check: str
    heard_unix_s: float
    frames: int
    view: ViewSignal | None


class DeviceHealth(Answer, frozen=True):
    """What the device said of itself; null or left out where it can't say."""

    gateway: str
    boot: str
    uptime_s: float
    sw: str
    clock: Clock
    ledger_size: int
    heard_unix_s: float
    cosigned_size: int | None = None
    slot: str | None = None
    temperature_c: float | None = None
    throttled: list[str] | None = None
    disk_free_bytes: int | None = None
    outbox_items: int | None = None
    outbox_dropped: int | None = None
    certificate_days: int | None = None
    tunnel: str | None = None


class LoggedFacts(Answer, frozen=True):
    hour_unix_s: int
    service: str
    level: str
    event: str
    count: int
    last_unix_s: float


class OperationFacts(Answer, frozen=True):
    health: DeviceHealth | None
    logged: list[LoggedFacts]


class LastCheck(Answer, frozen=True):
    why: str
    heard_unix_s: float


class HomeFacts(Answer, frozen=True):
    gateway: str
    install_epoch: int
    audience: str
    device_jwk: dict[str, str]
    groups: list[str]
    online: bool
    tunnel: str | None
    heard_unix_s: float | None
    sw: str | None
    clock: Clock | None
    obstacle: str | None
    agreement: str | None
    version: int | None
    due: list[Due]
    last: list[Outcome]
    last_check: LastCheck | None
    missed: int
    """Checks of the last 30 days that were not made."""
    signal: SignalFacts | None
    disabled: Disabled | None
    witnessed: WitnessedFacts | None


class ReplyFacts(Answer, frozen=True):
    reply: str


class LedgerFacts(Answer, frozen=True):
    seq: int
    kind: str | None
    who: str | None
    why: str | None
    check: str | None
    time_lo_unix_s: float | None
    watched_s: float | None
    frames: int | None


class QueueItem(Answer, frozen=True):
    id: str
    kind: str
    word: str
    rank: str
    gateway: str
    line: str | None
    occasion: str | None
    attempt: int | None
    max_s: int | None
    opens_unix_s: float | None
    by_unix_s: float | None
    claimed_by: str | None
    since_unix_s: float | None


class Step(Answer, frozen=True):
    do: str
    within_min: int
    unit: str | None


class HandoverFacts(Answer, frozen=True):
    id: str
    gateway: str
    line: str
    occasion: str
    reason: str
    unit: str | None
    steps: list[Step]
    within_min: int
    created_unix_s: float
    deadline_unix_s: float
    escalates_unix_s: float
    escalations: int
    state: str
    acknowledged_by: str | None
    acknowledged_unix_s: float | None
    arrive_by_unix_s: float | None
    arrived_by: str | None
    arrived_unix_s: float | None
    outcome_by_unix_s: float | None
    by_unix_s: float
    """When the part that is missing must have been said; then it escalates."""
    done_by: str | None
    done_unix_s: float | None
    outcome: str | None
    since: str | None


class QueueFacts(Answer, frozen=True):
    """`items` are the most urgent; `counts` are of all, by rank."""

    now_unix_s: float
    items: list[QueueItem]
    counts: dict[str, int]
    handovers: list[HandoverFacts]


class ClaimFacts(Answer, frozen=True):
    who: str
    life_s: float


class Happened(Answer, frozen=True):
    what: str
    who: str | None
    word: str | None
    at_unix_s: float


class DeliveryFacts(Answer, frozen=True):
    number: int
    handover: str
    what: str
    unit: str
    channel: str
    state: str
    tries: int
    next_unix_s: float
    created_unix_s: float
    done_unix_s: float | None
    why: str | None


class Done(Answer, frozen=True):
    done: bool


class AuditFacts(Answer, frozen=True):
    number: int
    at_unix_s: float
    who: str
    what: str
    gateway: str | None
    status: int
    code: str | None


class PlannedOccasion(Answer, frozen=True):
    line: str
    occasion: str
    start_unix_s: float
    end_unix_s: float
    weekday: int
    local: str
    night: str | None
    """`gap` or `fold` on the two odd nights of the year, else null."""
    is_paused: bool


class PlanFacts(Answer, frozen=True):
    """What an agreement means. `problem` says why it is none; then the rest is empty."""

    problem: str | None
    occasions: list[PlannedOccasion]
    consent_ends: str | None


class AgreementFacts(Answer, frozen=True):
    gateway: str
    agreement: str
    version: int
    sent_unix_s: float
    accepted_unix_s: float | None
    content: dict[str, Any]


class PauseLeft(Answer, frozen=True):
    """An agreed pause that is not over; local minutes of the agreement's time zone."""

    first: str
    last: str
    is_now: bool


class PlanRow(Answer, frozen=True):
    """One home in the planner's overview."""

    gateway: str
    groups: list[str]
    agreement: str | None
    version: int | None
    confirmed: bool
    """Whether the home says that it holds the newest agreement that was sent."""
    standing: str
    """`none`, `confirmed`, `waiting` for the home's word, or `other`: the home holds one that was not sent last."""
    sent_version: int | None
    lines: int
    pauses: int
    is_paused: bool
    pauses_left: list[PauseLeft]
    next: list[PlannedOccasion]
    """The next three, of the agreement that the home accepted last."""
    consent_ends: str | None
    valid_until: str | None
    draft: str | None


class DraftFacts(Answer, frozen=True):
    id: str
    gateway: str
    content: dict[str, Any]
    who: str
    at_unix_s: float
    state: str


class PasskeyFacts(Answer, frozen=True):
    credential_id: str
    created_unix_s: float
    used_unix_s: float | None


class BrowserOptions(Answer, frozen=True):
    """`options` is what `navigator.credentials` takes, in its JSON form; `login` comes back with the answer."""

    login: str
    options: dict[str, Any]


class RingFacts(Answer, frozen=True):
    ring: str
    homes: int
    status: dict[str, int] = msgspec.field(default_factory=dict)
    """How many homes have which job execution status."""


class RolloutPlan(Answer, frozen=True):
    """What a rollout would do. `plan` is to be sent back to begin exactly this one."""

    plan: str
    version: str
    compatible: str
    statement: int
    ring: str
    homes: int
    up_to_date: int
    rings: list[RingFacts]
    least_days: float
    """Soaking alone, when everything goes well and nobody is waited for."""


class RolloutFacts(Answer, frozen=True):
    id: str
    version: str
    compatible: str
    statement: int
    status: str
    why: str | None
    ring: int
    last_ring: int
    ring_unix_s: float | None
    approved_ring: int | None
    approved_by: str | None
    created_by: str
    created_unix_s: float
    changed_by: str | None
    changed_unix_s: float
    criteria: dict[str, Any]
    rings: list[RingFacts]


class ReturnFacts(Answer, frozen=True):
    """`code` is what the device shows too, while it waits; `statement` is its last word, signed."""

    gateway: str
    install_epoch: int
    version: int
    ordered_by: str | None
    ordered_unix_s: float | None
    code: str | None
    second: str | None
    statement: str | None
    attested_unix_s: float | None
    closed_by: str | None
    closed_why: str | None
    closed_unix_s: float | None


class ExecutionFacts(Answer, frozen=True):
    gateway: str
    ring: int
    status: str
    phase: str | None
    why: str | None
    tries: int
    changed_unix_s: float


class UpdateLine(Answer, frozen=True):
    statement: int
    version: str
    running: str
    phase: str
    why: str | None
    percent: int | None
    at_unix_s: float


class RolloutBegun(Answer, frozen=True):
    id: str


class RolloutStatus(Answer, frozen=True):
    status: str
