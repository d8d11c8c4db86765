"""The log that cannot lie: what the gateway did, in records that show it if anybody changes them.

Every opening, refusal and closing is one record, durable before the gateway acts on it (`Ledger.append`). The records
are chained, their hashes form a Merkle tree, and the tree's size and root are signed as checkpoints that a witness
elsewhere keeps (`Ledger.checkpoint`). Anybody with a copy and the public key can check it (`verify_directory`). No
record names anybody; after the time of retention the bodies go and the evidence stays (`Ledger.erase`).

Blocking, one thread, one writing process. Errors: LedgerUnwritableError and IntegrityError of gateway.core.error.
"""

from gateway.ledger.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint, verify_checkpoint
from gateway.ledger.cosignature import CosignerKey
from gateway.ledger.disk import Disk
from gateway.ledger.ledger import AppendedRecord, Ledger
from gateway.ledger.note import NoteError, NoteSigner, VerifierKey, parse_note, verify_note
from gateway.ledger.read import RecordFeed, StoredRecord, UnclosedCheck, read_records, unclosed_check
from gateway.ledger.record import LIFTED, RESTATED, Record, RecordKind, StoredLine, parse_line
from gateway.ledger.refused import Finding, LedgerRefusedError
from gateway.ledger.tree import (
    EMPTY_ROOT,
    CompactTree,
    consistency_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from gateway.ledger.verify import VerifyReport, verify_directory

__all__ = [
    "EMPTY_ROOT",
    "LIFTED",
    "RESTATED",
    "AppendedRecord",
    "Checkpoint",
    "CompactTree",
    "CosignerKey",
    "Disk",
    "Finding",
    "Ledger",
    "LedgerRefusedError",
    "NoteError",
    "NoteSigner",
    "Record",
    "RecordFeed",
    "RecordKind",
    "StoredLine",
    "StoredRecord",
    "UnclosedCheck",
    "VerifierKey",
    "VerifyReport",
    "consistency_proof",
    "inclusion_proof",
    "parse_checkpoint",
    "parse_line",
    "parse_note",
    "read_records",
    "sign_checkpoint",
    "unclosed_check",
    "verify_checkpoint",
    "verify_consistency",
    "verify_directory",
    "verify_inclusion",
    "verify_note",
]
