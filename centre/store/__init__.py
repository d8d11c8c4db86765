"""What the centre remembers, by SQLAlchemy Core: one module for each subject, one `Store` that has them all.

Every call is one short transaction, durable when it returns. Several worker processes may share a database; what is
unique is unique by a constraint and by the write lock (`centre.store.engine`), not by who wrote it.
"""

from centre.store.alarm import AlarmRows
from centre.store.command import AskedOpening, CommandRows, SentAgreement
from centre.store.desk import DeskRows
from centre.store.draft import DraftRows
from centre.store.engine import STORE_THREADS
from centre.store.enrolment import Enrolment, EnrolmentRows
from centre.store.fleet import FleetRows
from centre.store.handover import HandoverRows, HandoverStart
from centre.store.home import HomeRows
from centre.store.ledger import LedgerRow, LedgerRows, Witnessing
from centre.store.occasion import LONGEST_WINDOW_S, OccasionRows
from centre.store.operation import OperationRows
from centre.store.person import PersonRows
from centre.store.returning import ReturnRows
from centre.store.signal import SignalRows
from centre.store.table import HANDOVERS, METADATA

__all__ = [
    "HANDOVERS",
    "LONGEST_WINDOW_S",
    "METADATA",
    "STORE_THREADS",
    "AskedOpening",
    "Enrolment",
    "HandoverStart",
    "LedgerRow",
    "SentAgreement",
    "Store",
    "Witnessing",
]


class Store(
    HomeRows,
    PersonRows,
    CommandRows,
    OccasionRows,
    HandoverRows,
    LedgerRows,
    AlarmRows,
    EnrolmentRows,
    DeskRows,
    DraftRows,
    SignalRows,
    OperationRows,
    FleetRows,
    ReturnRows,
):
    """Everything that the centre remembers."""
