"""The newest checkpoint of this ledger that the witness cosigned, kept beside the ledger.

What a witness has seen can't be taken back: a ledger that is shorter at the next start, or another one, was cut or
forked. Beside it stands how far the ledger had been cosigned on each day, for retention. One file, replaced whole; a
file that does not hold what we wrote is an integrity alarm, one that is missing proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.core.error import ConfigError, IntegrityError
from gateway.ledger import Checkpoint, CosignerKey, NoteError, VerifierKey, verify_checkpoint
from gateway.ledger.disk import Disk, replace_durably

DAY_S: Final = 86_400.0
MAX_DAYS: Final = 4000
MAX_FILE_BYTES: Final = 256 * 1024


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    note: Annotated[str, Meta(max_length=8192)]
    days: Annotated[list[tuple[int, float]], Meta(max_length=MAX_DAYS)]


@dataclass(frozen=True, slots=True)
class Cosigned:
    """`note` is the signed checkpoint with the cosignature. `days` has (size, when), one a day, oldest first."""

    note: bytes
    checkpoint: Checkpoint
    unix_s: float
    days: tuple[tuple[int, float], ...] = ()

    def followed_by(self, later: Cosigned, *, keep_days: int) -> Cosigned:
        """`later` with the days so far; of each day the first stands, for what it covers has waited longest."""
        recent = [day for day in self.days if later.unix_s - day[1] < (keep_days + 7) * DAY_S]
        # What is older has done its work, except the newest of it: it says how much may be erased already.
        days = [*self.days[: len(self.days) - len(recent)][-1:], *recent]
        if not days or later.unix_s - days[-1][1] >= DAY_S:
            days.append((later.checkpoint.size, later.unix_s))
        return Cosigned(later.note, later.checkpoint, later.unix_s, tuple(days))

    def size_before(self, unix_s: float) -> int:
        """How many records had been cosigned by then, as far as the days say."""
        return max((size for size, at_unix_s in self.days if at_unix_s <= unix_s), default=0)


def read_witness_key(vkey: str) -> CosignerKey:
    """Raises ConfigError."""
    try:
        return CosignerKey.parse(vkey)
    except NoteError as exc:
        raise ConfigError(f"witness: {exc}") from exc


def verify_cosigned(untrusted_note: bytes, ledger_key: VerifierKey, witness: CosignerKey) -> Cosigned:
    """Raises NoteError unless this ledger's key signed it and the witness cosigned it."""
    checkpoint = verify_checkpoint(untrusted_note, ledger_key)
    unix_s = float(witness.verify(untrusted_note))
    return Cosigned(untrusted_note, checkpoint, unix_s, ((checkpoint.size, unix_s),))


def load_cosigned(path: Path, ledger_key: VerifierKey, witness: CosignerKey) -> Cosigned | None:
    """What was kept, None if nothing was. Raises IntegrityError when it is not what was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise IntegrityError(f"{path.name}: {exc.strerror}") from exc
    try:
        kept = msgspec.json.decode(content, type=_File, strict=True)
        found = verify_cosigned(kept.note.encode(), ledger_key, witness)
    except (msgspec.MsgspecError, NoteError, UnicodeError) as exc:
        raise IntegrityError(f"{path.name}: {exc}") from exc
    return Cosigned(found.note, found.checkpoint, found.unix_s, tuple(kept.days))


def store_cosigned(path: Path, cosigned: Cosigned) -> None:
    """Durable when it returns. Raises OSError."""
    file = _File(cosigned.note.decode(), [*cosigned.days][-MAX_DAYS:])
    replace_durably(Disk(), path, msgspec.json.encode(file))
