"""Why something was not done: the closed list, in every reply and in the ledger."""

from __future__ import annotations

from enum import StrEnum

from gateway.core.error import UntrustedInputError


class RefusalCode(StrEnum):
    """Refusal codes. Source: docs/protocol.md, "Refusal codes"."""

    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad-signature"
    UNKNOWN_KEY = "unknown-key"
    WRONG_ROLE = "wrong-role"
    WRONG_DEVICE = "wrong-device"
    NOT_AGREED = "not-agreed"
    OUTSIDE_WINDOW = "outside-window"
    BUDGET_SPENT = "budget-spent"
    PAUSED = "paused"
    WITHDRAWN = "withdrawn"
    NO_CONSENT = "no-consent"
    STALE_VERSION = "stale-version"
    NONCE_UNKNOWN = "nonce-unknown"
    NONCE_USED = "nonce-used"
    NONCE_EXPIRED = "nonce-expired"
    CLOCK_UNTRUSTED = "clock-untrusted"
    BUSY = "busy"
    NOT_PARKED = "not-parked"
    CAMERA_FAULT = "camera-fault"
    MOUNT_FAULT = "mount-fault"
    LEDGER_UNWRITABLE = "ledger-unwritable"
    INTEGRITY_ALARM = "integrity-alarm"
    LOW_POWER = "low-power"
    UPDATING = "updating"
    RETURNED = "returned"
    RATE_LIMITED = "rate-limited"


class RefusedError(UntrustedInputError):
    """What was asked is refused, with a code from the closed list.

    `detail` is for the local journal only; it never goes to the peer or into the ledger. `re` and `who` are set once
    the signature has been verified: which command this is about, and whose it was.
    """

    def __init__(self, code: RefusalCode, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else str(code))
        self.code = code
        self.detail = detail
        self.re: str | None = None
        self.who: str | None = None

    def again(self) -> RefusedError:
        """The same refusal without where it was raised, to keep or to raise anew."""
        same = RefusedError(self.code, self.detail)
        same.re, same.who = self.re, self.who
        return same
