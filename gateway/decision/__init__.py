"""The one who decides: untrusted bytes in, an order or a refusal out. No I/O, no clock of its own."""

from gateway.decision.gate import (
    AllowSetup,
    CloseCheck,
    Gate,
    GiveVerdict,
    Identity,
    IssueChallenge,
    OpenCheck,
    Order,
    RenewLease,
    TakeAgreement,
    TakeConfig,
    TakeOffer,
    TakeTrust,
    TakeTunnel,
    Withdraw,
)

__all__ = [
    "AllowSetup",
    "CloseCheck",
    "Gate",
    "GiveVerdict",
    "Identity",
    "IssueChallenge",
    "OpenCheck",
    "Order",
    "RenewLease",
    "TakeAgreement",
    "TakeConfig",
    "TakeOffer",
    "TakeTrust",
    "TakeTunnel",
    "Withdraw",
]
