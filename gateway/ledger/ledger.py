"""Writing the ledger: a record is on the disk before `append` returns, or the caller hears that it is not.

Theory of operation. The caller acts only on what `append` has returned, so a power cut can lose nothing that was acted
on; it can leave half a line at the very end, which nobody acted on, and `open` cuts that off. After a failed fsync the
kernel may have thrown the pages away and say "fine" to the next one, so an I/O error is final: the ledger is dead, the
process is to make everything safe and start over, and `open` looks at what is really there. A full disk is no such
error. Then nothing is opened any more, but what ends a check must still be said: for that a reserve of written bytes
is kept and given up.

Calls block, for milliseconds on a good disk. One thread, one process: the directory is locked.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.core.error import LedgerUnwritableError
from gateway.ledger.checkpoint import Checkpoint, sign_checkpoint
from gateway.ledger.disk import NO_ROOM, PARTIAL_SUFFIX, Disk, replace_durably, sync_directory, write_all
from gateway.ledger.note import NoteSigner, VerifierKey
from gateway.ledger.record import Record, RecordKind, new_line, parse_line
from gateway.ledger.refused import Finding, LedgerRefusedError
from gateway.ledger.segment import CHECKPOINT, CHECKPOINTS, PUBLIC_KEY, RESERVE, SEGMENTS, segment_path, segment_paths
from gateway.ledger.tree import EMPTY_ROOT
from gateway.ledger.verify import Audit, Checkpoints, audit, read_public_key

SEGMENT_BYTES = 1024 * 1024
RESERVE_BYTES = 64 * 1024
CLOSING = frozenset(
    {
        RecordKind.CLOSED,
        RecordKind.HEARTBEAT,
        RecordKind.VERDICT,
        RecordKind.WITHDRAWN,
        RecordKind.PAUSED,
        RecordKind.MISSED_CHECK,
        RecordKind.HANDOVER,
        RecordKind.RETURNED,
    }
)
"""Kinds that make things safer, bound what happened or call somebody; a full disk must not silence them."""


@dataclass(frozen=True, slots=True)
class AppendedRecord:
    """A record that is on the disk. `line` is what stands in the file, newline included."""

    seq: int
    leaf_hash: bytes
    line: bytes


class Ledger:
    """An open ledger; made by `Ledger.open`, ended by `close` or a `with` block."""

    def __init__(self, path: Path, signer: NoteSigner, disk: Disk, segment_bytes: int, lock_fd: int) -> None:
        self._path = path
        self._signer = signer
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._lock_fd: int | None = lock_fd
        self._fd: int | None = None
        self._dead: str | None = None
        self._state: Audit
        self._reserve_ok = False
        self._recovered_tail_bytes = 0

    @classmethod
    def open(
        cls,
        path: Path,
        signer: NoteSigner,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        disk: Disk | None = None,
        witnessed: bytes | None = None,
    ) -> Self:
        """Open the ledger in directory `path`, or begin one, after checking everything that stands in it.

        `signer`'s name is the log's origin. A torn last line is cut off and counted in `recovered_tail_bytes`; the
        caller appends a boot record that says so. `witnessed` is a cosigned checkpoint that was kept beside the ledger,
        which must extend it. Raises IntegrityError (a LedgerRefusedError), with nothing changed,
        if the ledger is not what was written; LedgerUnwritableError if another process has it or the disk fails.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / SEGMENTS).mkdir(mode=0o700, exist_ok=True)
            lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LedgerUnwritableError(f"the ledger cannot be opened: {error}") from error
        ledger = cls(path, signer, disk or Disk(), segment_bytes, lock_fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ledger._start(witnessed)
        except OSError as error:
            ledger.close()
            raise LedgerUnwritableError(f"the ledger cannot be opened: {error}") from error
        except BaseException:
            ledger.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the files and the lock. Writes nothing; may be called again."""
        fds, self._fd, self._lock_fd = (self._fd, self._lock_fd), None, None
        self._dead = self._dead or "closed"
        for fd in fds:
            if fd is not None:
                with suppress(OSError):
                    os.close(fd)

    @property
    def size(self) -> int:
        """Number of records, which is also the next record's seq."""
        return self._state.tree.size

    @property
    def root(self) -> bytes:
        return self._state.tree.root()

    @property
    def last_record(self) -> Record | None:
        """The newest record that still has its body."""
        return self._state.last_record

    @property
    def checkpoint_size(self) -> int:
        return self._state.checkpoints.latest.size

    @property
    def latest_checkpoint(self) -> Checkpoint:
        """The newest one that is signed and stored."""
        return self._state.checkpoints.latest

    @property
    def signed(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that were found when the ledger was opened, oldest first, until the next one is signed."""
        checkpoints = self._state.checkpoints
        return (*(each for _, each in checkpoints.earlier), checkpoints.latest)

    @property
    def verifier(self) -> VerifierKey:
        """The key under which this ledger's checkpoints verify."""
        return self._signer.verifier

    @property
    def erased(self) -> int:
        """How many records, from the oldest on, have no body any more."""
        return self._state.erased

    @property
    def recovered_tail_bytes(self) -> int:
        """Length of the torn last line that `open` cut off, 0 if there was none."""
        return self._recovered_tail_bytes

    @property
    def reserve_ok(self) -> bool:
        """False while there is no room kept back for a closing record; then nothing may be opened."""
        return self._reserve_ok

    def append(self, record: Record) -> AppendedRecord:
        """Write `record` durably, then return.

        Raises ValueError, with nothing written, if it breaks the schema. Raises LedgerUnwritableError if it could not
        be made durable: after a full disk the ledger goes on taking closing kinds, and the others once there is room;
        after any other error, or an interruption, it is dead and must be opened anew.
        """
        self._require_alive()
        state = self._state
        stored = new_line(record, seq=self.size, prev=state.prev)
        line = stored.encode()
        with self._done_or_dead(f"record {stored.seq} could not be written"):
            if record.kind is RecordKind.OPENED and not self._make_reserve():
                raise _NoRoomError("there is no reserve for the closing record")
            self._write(line, closing=record.kind in CLOSING)
            # Persist before acting: the caller acts on our return. A failed fdatasync is never tried again.
            self._disk.fdatasync(self._segment_fd)
            state.last_segment_bytes += len(line)
            state.tree.append(leaf_hash := stored.leaf_hash())
            state.prev = leaf_hash.hex()
            state.last_record = stored.record()
        return AppendedRecord(stored.seq, leaf_hash, line)

    def checkpoint(self) -> bytes:
        """Sign size and root as a C2SP checkpoint, keep it durably, and return it.

        With nothing appended since the last one, that one is returned and nothing is written. Raises
        LedgerUnwritableError as `append` does.
        """
        self._require_alive()
        old = self._state.checkpoints
        if old.latest.size == self.size:
            return old.latest_note
        latest = Checkpoint(self._signer.name, self.size, self.root)
        note = self._signer.sign(latest.text())
        with self._done_or_dead("the checkpoint could not be kept"), _full_disk_changes_nothing():
            # The old one goes to the log before the new one takes its place: cut off in between, it stands in both.
            whole_bytes = self._log_checkpoint(old)
            replace_durably(self._disk, self._path / CHECKPOINT, note)
            self._state.checkpoints = Checkpoints(latest, note, (), whole_bytes, 0)
        return note

    def erase(self, before_seq: int) -> int:
        """Remove the bodies of all records below `before_seq`, and say how many. The tree and its root stay.

        Only records under a signed checkpoint may go: ValueError otherwise. Segments are rewritten one by one, oldest
        first, each wholly or not at all; cut off in between, the next call goes on. Raises LedgerUnwritableError as
        `append` does, and LedgerRefusedError (and is dead) if a segment is no longer what was written.
        """
        self._require_alive()
        if not 0 <= before_seq <= self.checkpoint_size:
            raise ValueError(f"records below {self.checkpoint_size} may be erased, not below {before_seq}")
        starts = self._state.segment_starts
        done = self._state.erased
        with self._done_or_dead("records could not be erased"), _full_disk_changes_nothing():
            if starts[-1] < before_seq:
                # The segment that is being written is never rewritten.
                self._rotate()
            # Bodies go from the oldest on, so a segment that ends below those that are gone has none left.
            older = [n for n, start in enumerate(starts[:-1]) if start < before_seq and starts[n + 1] > done]
            erased = sum(self._erase_in_segment(number, before_seq) for number in older)
            self._state.erased = max(done, before_seq)
            return erased

    def _start(self, witnessed: bytes | None) -> None:
        if not (self._path / PUBLIC_KEY).exists():
            self._begin()
        key = read_public_key(self._path)
        if key != self._signer.verifier:
            raise LedgerRefusedError(
                Finding.KEY_SUBSTITUTED, f"{PUBLIC_KEY}: the key is {key}, not {self._signer.verifier}"
            )
        last_segment = segment_paths(self._path)[-1]
        # After a failed fsync the page cache can hold what the disk does not, and call it clean. What is judged must be
        # what a power cut would leave; and what is judged good must be on the disk before it is signed.
        fd = self._disk.open(last_segment, os.O_RDONLY)
        try:
            self._disk.fsync(fd)
            self._disk.drop_cache(fd)
        finally:
            self._disk.close(fd)
        state = audit(self._path, key, witnessed=witnessed, check_earlier_signatures=False)
        self._state = state
        self._fd = self._disk.open(last_segment, os.O_WRONLY | os.O_APPEND)
        if state.torn_tail is not None:
            self._disk.truncate(self._fd, state.last_segment_bytes)
            self._disk.fsync(self._fd)
            self._recovered_tail_bytes = state.torn_tail.size_bytes
        sync_directory(self._disk, self._path / SEGMENTS)
        for directory in (self._path, self._path / SEGMENTS):
            for partial in directory.glob("*" + PARTIAL_SUFFIX):
                self._disk.unlink(partial)
        self._make_reserve()

    def _begin(self) -> None:
        # The public key comes last: without it nothing was ever appended, or somebody took it away.
        first, checkpoint = segment_path(self._path, 0), self._path / CHECKPOINT
        empty = sign_checkpoint(self._signer, 0, EMPTY_ROOT)
        whole = [each for each in first.parent.iterdir() if each.suffix != PARTIAL_SUFFIX]
        remains = [each for each in whole if each != first or each.stat().st_size]
        if remains or (self._path / CHECKPOINTS).exists() or (checkpoint.exists() and checkpoint.read_bytes() != empty):
            raise LedgerRefusedError(Finding.REMOVED, f"{PUBLIC_KEY}: the file is missing, the ledger is there")
        replace_durably(self._disk, first, b"")
        replace_durably(self._disk, checkpoint, empty)
        replace_durably(self._disk, self._path / PUBLIC_KEY, f"{self._signer.verifier}\n".encode())
        sync_directory(self._disk, self._path.parent)

    def _require_alive(self) -> None:
        if self._dead is not None:
            raise LedgerUnwritableError(f"nothing more is written: {self._dead}")

    @contextmanager
    def _done_or_dead(self, fault: str) -> Iterator[None]:
        # Dead until done: whatever ends the block early, an interruption too, leaves us not knowing what is on the
        # disk. The one exception is a full disk with everything undone.
        self._dead = fault
        try:
            yield
        except _NoRoomError as error:
            self._dead = None
            raise LedgerUnwritableError(f"{fault}: {error}") from error
        except OSError as error:
            raise LedgerUnwritableError(f"{fault}: {error}") from error
        self._dead = None

    @property
    def _segment_fd(self) -> int:
        assert self._fd is not None
        return self._fd

    def _write(self, line: bytes, *, closing: bool) -> None:
        try:
            self._put(line)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._disk.truncate(self._segment_fd, self._state.last_segment_bytes)
            if not (closing and self._release_reserve()):
                raise _NoRoomError(str(error)) from error
            self._put(line)

    def _put(self, line: bytes) -> None:
        used_bytes = self._state.last_segment_bytes
        if used_bytes and used_bytes + len(line) > self._segment_bytes:
            self._rotate()
        write_all(self._disk, self._segment_fd, line)

    def _rotate(self) -> None:
        path = segment_path(self._path, len(self._state.segment_starts))
        fd = self._disk.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            self._disk.fsync(fd)
            sync_directory(self._disk, path.parent)
        except OSError as error:
            # Not even a full disk is forgiven here: there may be a newer segment now, and what went to the old one
            # after that would stand in the middle.
            self._disk.close(fd)
            raise LedgerUnwritableError(f"{path.name} could not be begun: {error}") from error
        self._disk.close(self._segment_fd)
        self._fd = fd
        self._state.segment_starts.append(self.size)
        self._state.last_segment_bytes = 0

    def _make_reserve(self) -> bool:
        reserve = self._path / RESERVE
        try:
            self._reserve_ok = self._reserve_ok or (reserve.exists() and reserve.stat().st_size == RESERVE_BYTES)
            if not self._reserve_ok:
                # Random bytes, so that a compressing file system cannot make them take less than they say.
                replace_durably(self._disk, reserve, os.urandom(RESERVE_BYTES))
                self._reserve_ok = True
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
        return self._reserve_ok

    def _release_reserve(self) -> bool:
        if not self._reserve_ok:
            return False
        self._reserve_ok = False
        self._disk.unlink(self._path / RESERVE)
        # ext4 gives freed blocks out again only when the removal is committed.
        sync_directory(self._disk, self._path)
        return True

    def _log_checkpoint(self, old: Checkpoints) -> int:
        fd = self._disk.open(self._path / CHECKPOINTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            # Also heals what an earlier attempt left half written.
            self._disk.truncate(fd, old.whole_bytes)
            write_all(self._disk, fd, old.latest_note)
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)
        return old.whole_bytes + len(old.latest_note)

    def _erase_in_segment(self, number: int, before_seq: int) -> int:
        path = segment_path(self._path, number)
        lines, erased = [], 0
        for line_number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            try:
                stored = parse_line(line)
            except ValueError as error:
                where = f"{SEGMENTS}/{path.name} line {line_number}"
                raise LedgerRefusedError(Finding.EDITED, f"{where}: {error}") from error
            if stored.seq < before_seq and stored.record() is not None:
                stored, erased = stored.erased(), erased + 1
            lines.append(stored.encode())
        if erased:
            replace_durably(self._disk, path, b"".join(lines))
        return erased


class _NoRoomError(Exception):
    """The disk is full, and all that was begun is undone."""


@contextmanager
def _full_disk_changes_nothing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _NoRoomError(str(error)) from error
        raise
