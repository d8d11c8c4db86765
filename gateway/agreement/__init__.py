"""May this happen now? Agreement, occasions, consent and the budget of checks.

Pure functions over frozen values: no wall clock is read, nothing is stored, nothing is opened. The guard asks `decide`
before each opening; everything else here serves to write agreements, to list what is due and to say what follows.

Source: docs/protocol.md, "Agreement".
"""

from gateway.agreement.attempt import (
    TECHNICAL_REPEATS,
    Attempt,
    NextStep,
    Outcome,
    next_step,
)
from gateway.agreement.decision import DUE_HORIZON_S, DueItem, LocalState, decide, due
from gateway.agreement.occasion import Occasion, occasion_at, occasions_between
from gateway.agreement.schema import (
    AGREEMENT_MAX_BYTES,
    Agreement,
    Consent,
    ConsentGroup,
    HandoverStep,
    Line,
    Pause,
    Picture,
    Recheck,
    Validity,
    encode_agreement,
    parse_agreement,
)

__all__ = [
    "AGREEMENT_MAX_BYTES",
    "DUE_HORIZON_S",
    "TECHNICAL_REPEATS",
    "Agreement",
    "Attempt",
    "Consent",
    "ConsentGroup",
    "DueItem",
    "HandoverStep",
    "Line",
    "LocalState",
    "NextStep",
    "Occasion",
    "Outcome",
    "Pause",
    "Picture",
    "Recheck",
    "Validity",
    "decide",
    "due",
    "encode_agreement",
    "next_step",
    "occasion_at",
    "occasions_between",
    "parse_agreement",
]
