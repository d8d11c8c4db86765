"""Durability: what `append` returned is on the disk, and a failing disk is never talked round."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from errno import EDQUOT, EIO, ENOSPC
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_support import Fault, QuickDisk, SmallDisk, WatchedDisk, a_ledger, a_record, new_signer

from gateway.core.error import IntegrityError, LedgerUnwritableError
from gateway.ledger import (
    Ledger,
    LedgerRefusedError,
    RecordKind,
    UnclosedCheck,
    consistency_proof,
    read_records,
    unclosed_check,
    verify_checkpoint,
    verify_consistency,
    verify_directory,
)
from gateway.ledger.ledger import CLOSING, RESERVE_BYTES
from gateway.ledger.tree import root_of

SEGMENT = "000000.log"


@pytest.fixture
def signer():
    return new_signer()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger"


def segment(path: Path, number: int = 0) -> Path:
    return path / "segments" / f"{number:06d}.log"


def seqs(path: Path) -> list[int]:
    return [each.seq for each in read_records(path)]


def test_what_was_appended_is_read_back_in_order(path, signer):
    with Ledger.open(path, signer) as ledger:
        appended = [ledger.append(a_record(attempt=number)) for number in range(5)]
        root = ledger.root
    stored = list(read_records(path))
    assert [each.body.attempt for each in stored] == [0, 1, 2, 3, 4]
    assert [(each.seq, each.leaf_hash, each.line) for each in stored] == [
        (each.seq, each.leaf_hash, each.line) for each in appended
    ]
    assert root_of(each.leaf_hash for each in stored) == root


def test_a_ledger_goes_on_where_it_stopped(path, signer):
    a_ledger(path, signer, 3)
    with Ledger.open(path, signer) as ledger:
        assert (ledger.size, ledger.checkpoint_size, ledger.recovered_tail_bytes) == (3, 3, 0)
        assert ledger.last_record.attempt == 2
        assert ledger.append(a_record()).seq == 3
    assert verify_directory(path).uncovered == 1


def test_a_record_is_synced_before_append_returns(path, signer):
    # F04. Mutation: remove the fdatasync in Ledger.append -> red.
    disk = WatchedDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        disk.calls.clear()
        ledger.append(a_record())
        disk.calls.append(("returned", ""))
    assert disk.calls == [("write", SEGMENT), ("fdatasync", SEGMENT), ("returned", "")]


def test_a_power_cut_takes_nothing_that_was_returned(tmp_path, signer):
    # F04, F05. Mutations: remove the fdatasync in append, or the fsync in _log_checkpoint or replace_durably -> red.
    for appended in range(8):
        path, disk = tmp_path / str(appended), WatchedDisk()
        with Ledger.open(path, signer, segment_bytes=900, disk=disk) as ledger:
            for _ in range(appended):
                ledger.append(a_record())
                ledger.checkpoint()
            disk.cut_power()
        report = verify_directory(path)
        assert (report.size, report.checkpoint_size) == (appended, appended)
        assert (report.torn_tail_bytes, report.torn_checkpoint_bytes) == (0, 0)


def test_a_segment_is_begun_durably_before_it_is_written(path, signer):
    # F05. Mutation: remove either sync in _rotate -> red.
    disk = WatchedDisk()
    with Ledger.open(path, signer, segment_bytes=1, disk=disk) as ledger:
        ledger.append(a_record())
        disk.calls.clear()
        ledger.append(a_record())
    new = "000001.log"
    assert disk.calls == [
        ("open", new),
        ("fsync", new),
        ("open", "segments"),
        ("fsync", "segments"),
        ("write", new),
        ("fdatasync", new),
    ]


def test_a_segment_that_was_begun_and_left_empty_is_used(path, signer):
    # F05: the cut after the file's creation and before its first line.
    a_ledger(path, signer, 3)
    segment(path, 1).touch()
    assert verify_directory(path).size == 3
    with Ledger.open(path, signer) as ledger:
        ledger.append(a_record())
    assert segment(path, 1).stat().st_size
    assert seqs(path) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_torn_last_line_is_cut_off_at_every_byte(path, signer, tmp_path):
    # F04. Mutation: leave the tail and append behind it -> red.
    a_ledger(path, signer, 3, signed=False)
    whole = segment(path).read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole)):
        segment(path).write_bytes(whole[:cut])
        assert verify_directory(path).torn_tail_bytes == cut - start
        with Ledger.open(path, signer, disk=QuickDisk()) as ledger:
            assert (ledger.size, ledger.recovered_tail_bytes) == (2, cut - start)
            ledger.append(a_record(RecordKind.BOOT))
        assert seqs(path) == [0, 1, 2]


@pytest.mark.slow
@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=200).filter(lambda junk: b"\n" not in junk[:-1]))
def test_any_half_written_bytes_after_the_last_line_are_cut_off(tmp_path_factory, junk):
    path, signer = tmp_path_factory.mktemp("torn") / "ledger", new_signer()
    a_ledger(path, signer, 2)
    whole = segment(path).read_bytes()
    segment(path).write_bytes(whole + junk)
    with Ledger.open(path, signer, disk=QuickDisk()) as ledger:
        assert (ledger.size, ledger.recovered_tail_bytes) == (2, len(junk))
    assert segment(path).read_bytes() == whole


def test_a_torn_line_under_a_checkpoint_is_an_alarm_and_left_as_it_is(path, signer):
    # F12. Mutation: cut the tail before looking at the checkpoint -> red.
    a_ledger(path, signer, 3)
    whole = segment(path).read_bytes()
    segment(path).write_bytes(whole[:-1])
    with pytest.raises(IntegrityError, match=r"rolled back.*covers 3 records, the ledger has 2"):
        Ledger.open(path, signer)
    assert segment(path).read_bytes() == whole[:-1]


def test_a_broken_line_before_the_last_is_an_alarm(path, signer):
    # F13.
    a_ledger(path, signer, 3, signed=False)
    content = bytearray(segment(path).read_bytes())
    content[20] ^= 1
    segment(path).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"segments/000000.log line 1: the CRC"):
        Ledger.open(path, signer)


def test_a_rolled_back_ledger_is_an_alarm(path, signer, tmp_path):
    # F12: writes were silently dropped; only the checkpoint got through.
    a_ledger(path, signer, 5)
    segment(path).write_bytes(b"".join(segment(path).read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(IntegrityError, match="rolled back"):
        Ledger.open(path, signer)


def test_another_history_under_the_same_checkpoint_is_an_alarm(path, signer, tmp_path):
    a_ledger(path, signer, 4)
    other = a_ledger(tmp_path / "other", signer, 4)
    shutil.copy(segment(other), segment(path))
    with pytest.raises(IntegrityError, match="root differs"):
        Ledger.open(path, signer)


def test_another_key_does_not_open_the_ledger(path, signer):
    a_ledger(path, signer, 1)
    with pytest.raises(LedgerRefusedError, match="key-substituted"):
        Ledger.open(path, new_signer())


@pytest.mark.parametrize("name", ["ledger.pub", "checkpoint", "segments/000000.log"])
def test_a_missing_file_is_an_alarm_and_no_new_beginning(path, signer, name):
    a_ledger(path, signer, 2)
    (path / name).unlink()
    with pytest.raises(LedgerRefusedError, match="removed"):
        Ledger.open(path, signer)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_a_beginning_that_was_cut_off_begins_again(path, signer, call):
    for name in ("000000.log", "checkpoint", "ledger.pub", "reserve"):
        target = name if call == "rename" else name + ".tmp"
        disk = WatchedDisk(faults=[Fault(call, target, EIO)])
        if (call, name) == ("write", "000000.log"):
            continue
        with pytest.raises(LedgerUnwritableError):
            Ledger.open(path, signer, disk=disk)
        assert not disk.faults
        with Ledger.open(path, signer) as ledger:
            assert ledger.size == 0
        shutil.rmtree(path)


def test_two_writers_never_have_the_ledger_at_once(path, signer):
    # Mutation: no flock -> red.
    with Ledger.open(path, signer) as ledger:
        with pytest.raises(LedgerUnwritableError):
            Ledger.open(path, signer)
        ledger.append(a_record())
    Ledger.open(path, signer).close()


def test_what_is_judged_at_open_is_what_the_disk_has(path, signer):
    # F11. Mutation: audit before the cache is dropped -> red.
    order: list[str] = []

    class Watching(QuickDisk):
        def fsync(self, fd):
            order.append("fsync " + WatchedDisk.path_of(fd).name)

        def drop_cache(self, fd):
            order.append("drop " + WatchedDisk.path_of(fd).name)

    a_ledger(path, signer, 2)
    segment(path).write_bytes(b"broken\n" + segment(path).read_bytes())
    with pytest.raises(IntegrityError):
        Ledger.open(path, signer, disk=Watching())
    assert order == [f"fsync {SEGMENT}", f"drop {SEGMENT}"]


@pytest.mark.parametrize("call", ["write", "fdatasync"])
@pytest.mark.parametrize("kind", [RecordKind.REFUSED, RecordKind.CLOSED])
def test_an_io_error_is_final_even_if_the_disk_recovers(path, signer, call, kind):
    # F11. Mutation: clear _dead on OSError, or retry the fdatasync -> red.
    disk = WatchedDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        ledger.append(a_record())
        disk.faults.append(Fault(call, SEGMENT, EIO, short=7))
        disk.calls.clear()
        with pytest.raises(LedgerUnwritableError):
            ledger.append(a_record(kind))
        assert disk.calls.count(("fdatasync", SEGMENT)) == (call == "fdatasync")
        disk.calls.clear()
        for attempt in (lambda: ledger.append(a_record(RecordKind.CLOSED)), ledger.checkpoint, lambda: ledger.erase(0)):
            with pytest.raises(LedgerUnwritableError, match="nothing more"):
                attempt()
        assert not disk.calls
    with Ledger.open(path, signer) as ledger:
        assert ledger.size in (1, 2)
    assert verify_directory(path).torn_tail_bytes == 0


def test_a_failed_fdatasync_is_final_even_when_it_says_the_disk_is_full(path, signer):
    disk = WatchedDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        disk.faults.append(Fault("fdatasync", SEGMENT, ENOSPC))
        with pytest.raises(LedgerUnwritableError):
            ledger.append(a_record(RecordKind.CLOSED))
        with pytest.raises(LedgerUnwritableError, match="nothing more"):
            ledger.append(a_record(RecordKind.CLOSED))


def test_an_interrupted_append_leaves_the_ledger_dead(path, signer):
    class Interrupted(QuickDisk):
        def fdatasync(self, fd):
            raise KeyboardInterrupt

    with Ledger.open(path, signer, disk=Interrupted()) as ledger:
        with pytest.raises(KeyboardInterrupt):
            ledger.append(a_record())
        with pytest.raises(LedgerUnwritableError, match="nothing more"):
            ledger.append(a_record())


def test_a_file_size_limit_of_the_kernel_is_an_error_like_any_other(path, signer):
    ledger = Ledger.open(path, signer)
    ledger.append(a_record())
    before, limits = segment(path).read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(LedgerUnwritableError):
            ledger.append(a_record())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        ledger.close()
    assert len(segment(path).read_bytes()) == len(before) + 10
    with Ledger.open(path, signer) as ledger:
        assert (ledger.size, ledger.recovered_tail_bytes) == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(RecordKind))
@pytest.mark.parametrize("room_bytes", [0, 40])
def test_on_a_full_disk_only_what_closes_is_written(path, signer, kind, room_bytes):
    # F08. Mutations: no reserve; reserve for all kinds; partial line left -> red.
    disk = SmallDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        ledger.append(a_record(RecordKind.OPENED, check="c-1"))
        before = segment(path).read_bytes()
        disk.room_bytes = room_bytes
        if kind in CLOSING:
            ledger.append(a_record(kind, check="c-1"))
            assert (ledger.size, ledger.reserve_ok) == (2, False)
        else:
            with pytest.raises(LedgerUnwritableError):
                ledger.append(a_record(kind))
            assert segment(path).read_bytes() == before
            assert ledger.reserve_ok
            # The check that runs can still be closed.
            ledger.append(a_record(RecordKind.CLOSED, check="c-1"))
            ledger.checkpoint()
    report = verify_directory(path)
    assert (report.size, report.torn_tail_bytes) == (2, 0)


def test_the_reserve_has_room_for_a_whole_check_to_end(path, signer):
    disk = SmallDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        disk.room_bytes = 0
        for _ in range(60):
            ledger.append(a_record(RecordKind.HEARTBEAT))
        ledger.append(a_record(RecordKind.CLOSED))
    assert seqs(path) == list(range(61))


def test_nothing_is_opened_without_a_reserve_until_there_is_room_again(path, signer):
    # F08. Mutation: drop the reserve test in append -> red.
    disk = SmallDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        disk.room_bytes = 0
        ledger.append(a_record(RecordKind.CLOSED))
        disk.room_bytes = RESERVE_BYTES - 1
        with pytest.raises(LedgerUnwritableError, match="reserve"):
            ledger.append(a_record(RecordKind.OPENED))
        ledger.append(a_record(RecordKind.REFUSED))
        disk.room_bytes = RESERVE_BYTES + 1000
        ledger.append(a_record(RecordKind.OPENED))
        assert ledger.reserve_ok
    assert (path / "reserve").stat().st_size == RESERVE_BYTES


def test_a_ledger_opens_on_a_disk_without_room_for_the_reserve(path, signer):
    with Ledger.open(path, signer, disk=SmallDisk(room_bytes=4000)) as ledger:
        assert not ledger.reserve_ok
        with pytest.raises(LedgerUnwritableError, match="reserve"):
            ledger.append(a_record(RecordKind.OPENED))
        ledger.append(a_record(RecordKind.BOOT))
    assert not (path / "reserve.tmp").exists()
    with Ledger.open(path, signer) as ledger:
        assert ledger.reserve_ok


@pytest.mark.parametrize("errno", [ENOSPC, EDQUOT])
def test_without_inodes_the_closing_record_still_gets_its_segment(path, signer, errno):
    # F09: the new segment cannot be created; the reserve's own inode helps out.
    disk = WatchedDisk()
    with Ledger.open(path, signer, segment_bytes=1, disk=disk) as ledger:
        ledger.append(a_record(RecordKind.OPENED))
        disk.faults += [Fault("open", "000001.log", errno), Fault("open", "000001.log", errno)]
        with pytest.raises(LedgerUnwritableError):
            ledger.append(a_record(RecordKind.LIVE))
        ledger.append(a_record(RecordKind.CLOSED))
        assert not ledger.reserve_ok
    assert seqs(path) == [0, 1]


def test_a_segment_that_could_not_be_begun_durably_is_final(path, signer):
    disk = WatchedDisk()
    with Ledger.open(path, signer, segment_bytes=1, disk=disk) as ledger:
        ledger.append(a_record())
        disk.faults.append(Fault("fsync", "segments", ENOSPC))
        for _ in range(2):
            with pytest.raises(LedgerUnwritableError):
                ledger.append(a_record(RecordKind.CLOSED))
    with Ledger.open(path, signer) as ledger:
        assert ledger.append(a_record()).seq == 1


def test_a_record_that_breaks_the_schema_changes_nothing(path, signer):
    with Ledger.open(path, signer) as ledger:
        with pytest.raises(ValueError, match="schema"):
            ledger.append(a_record(who="Anna Svensson"))
        assert ledger.append(a_record()).seq == 0


def test_checkpoints_are_kept_and_each_extends_the_one_before(path, signer):
    notes = []
    with Ledger.open(path, signer) as ledger:
        for number in range(6):
            for _ in range(number):
                ledger.append(a_record())
            notes.append(ledger.checkpoint())
            assert ledger.checkpoint() == notes[-1]
    assert (path / "checkpoint").read_bytes() == notes[-1]
    assert (path / "checkpoints.log").read_bytes() == b"".join(notes[:-1])
    leaves = [each.leaf_hash for each in read_records(path)]
    new = verify_checkpoint(notes[-1], signer.verifier)
    for note in notes:
        old = verify_checkpoint(note, signer.verifier)
        proof = consistency_proof(leaves, old.size)
        assert verify_consistency(old.size, old.root, new.size, new.root, proof)
        assert verify_directory(path, witnessed=note).size == new.size


@pytest.mark.parametrize(
    "fault",
    [
        Fault("write", "checkpoints.log", ENOSPC, short=9),
        Fault("fsync", "checkpoints.log", ENOSPC),
        Fault("write", "checkpoint.tmp", ENOSPC, short=9),
        Fault("rename", "checkpoint", ENOSPC),
    ],
    ids=lambda fault: f"{fault.call}-{fault.name}",
)
def test_a_checkpoint_without_room_is_made_later(path, signer, fault):
    disk = WatchedDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        ledger.append(a_record())
        ledger.checkpoint()
        ledger.append(a_record())
        disk.faults.append(fault)
        with pytest.raises(LedgerUnwritableError):
            ledger.checkpoint()
        assert verify_directory(path).checkpoint_size == 1
        ledger.append(a_record(RecordKind.CLOSED))
        ledger.checkpoint()
    report = verify_directory(path)
    assert (report.checkpoint_size, report.torn_checkpoint_bytes) == (3, 0)


@pytest.mark.slow
def test_a_checkpoint_cut_off_at_any_byte_of_its_log_does_no_harm(path, signer):
    a_ledger(path, signer, 3)
    log, latest = path / "checkpoints.log", (path / "checkpoint").read_bytes()
    whole = log.read_bytes()
    for cut in range(0, len(latest) + 1, 7):
        log.write_bytes(whole + latest[:cut])
        assert verify_directory(path).torn_checkpoint_bytes == cut % len(latest)
        with Ledger.open(path, signer, disk=QuickDisk()) as ledger:
            ledger.append(a_record())
            ledger.checkpoint()
        assert verify_directory(path).torn_checkpoint_bytes == 0
        whole, latest = log.read_bytes(), (path / "checkpoint").read_bytes()


def test_a_checkpoint_that_hits_a_broken_disk_is_final(path, signer):
    disk = WatchedDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        ledger.append(a_record())
        disk.faults.append(Fault("fsync", "checkpoint.tmp", EIO))
        for _ in range(2):
            with pytest.raises(LedgerUnwritableError):
                ledger.checkpoint()


def test_erasing_takes_the_bodies_and_leaves_the_root(path, signer):
    # R38. Mutation: put anything of the body into the leaf -> red.
    with Ledger.open(path, signer, segment_bytes=1200) as ledger:
        for number in range(10):
            ledger.append(a_record(who=f"op-{number}"))
        note, root = ledger.checkpoint(), ledger.root
        assert ledger.erase(7) == 7
        assert ledger.erase(7) == 0
        assert ledger.root == root
        ledger.append(a_record())
    assert [each.body is None for each in read_records(path)] == [True] * 7 + [False] * 4
    everything = b"".join(each.read_bytes() for each in path.rglob("*") if each.is_file())
    assert [b'"op-%d"' % number in everything for number in range(10)] == [False] * 7 + [True] * 3
    report = verify_directory(path, witnessed=note)
    assert (report.size, report.erased, report.records, report.uncovered) == (11, 7, 4, 1)
    with Ledger.open(path, signer) as ledger:
        assert ledger.erase(10) == 3


def test_only_records_under_a_checkpoint_are_erased(path, signer):
    with Ledger.open(path, signer) as ledger:
        ledger.append(a_record())
        with pytest.raises(ValueError, match="may be erased"):
            ledger.erase(1)


@pytest.mark.slow
@pytest.mark.parametrize("errno", [EIO, ENOSPC])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_an_erasing_that_was_cut_off_leaves_each_segment_old_or_new(path, signer, call, errno):
    a_ledger(path, signer, 9, segment_bytes=1200)
    root = verify_directory(path).root_hex
    disk = WatchedDisk()
    with Ledger.open(path, signer, disk=disk) as ledger:
        disk.faults.append(Fault(call, "000001.log" + ("" if call == "rename" else ".tmp"), errno, short=100))
        with pytest.raises(LedgerUnwritableError):
            ledger.erase(9)
        report = verify_directory(path)
        assert (report.root_hex, report.size) == (root, 9)
        assert 0 < report.erased < 9
    with Ledger.open(path, signer) as ledger:
        ledger.erase(9)
    assert (verify_directory(path).erased, verify_directory(path).root_hex) == (9, root)


def test_partial_files_of_a_cut_are_ignored_and_removed(path, signer):
    a_ledger(path, signer, 2)
    partials = [segment(path).with_suffix(".log.tmp"), path / "checkpoint.tmp"]
    for partial in partials:
        partial.write_bytes(b"half")
    assert verify_directory(path).size == 2
    Ledger.open(path, signer).close()
    assert not any(partial.exists() for partial in partials)


def test_a_check_that_was_cut_off_is_found_with_the_last_sign_of_it(path, signer):
    # R36.
    kinds = RecordKind
    with Ledger.open(path, signer, disk=QuickDisk()) as ledger:

        def found(kind, check, boottime):
            ledger.append(a_record(kind, check=check, boottime=boottime))
            unclosed = unclosed_check(read_records(path))
            assert unclosed is None or isinstance(unclosed, UnclosedCheck)
            return unclosed and (unclosed.opened.check, unclosed.last_seen.boottime)

        assert found(kinds.BOOT, None, 1.0) is None
        assert found(kinds.OPENED, "c-1", 2.0) == ("c-1", 2.0)
        assert found(kinds.LIVE, "c-1", 3.0) == ("c-1", 3.0)
        assert found(kinds.REFUSED, None, 4.0) == ("c-1", 3.0)
        assert found(kinds.HEARTBEAT, "c-1", 5.0) == ("c-1", 5.0)
        assert found(kinds.CLOSED, "c-0", 6.0) == ("c-1", 5.0)
        assert found(kinds.CLOSED, "c-1", 7.0) is None
        assert found(kinds.OPENED, "c-2", 8.0) == ("c-2", 8.0)


WRITER = """
import sys
from pathlib import Path
from ledger_support import a_record, new_signer
from gateway.ledger import Ledger
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gateway.ledger import NoteSigner
signer = NoteSigner("tillsyn/gw-test", Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sys.argv[2])))
with Ledger.open(Path(sys.argv[1]), signer, segment_bytes=2000) as ledger:
    while True:
        print(ledger.append(a_record()).seq, flush=True)
        if ledger.size % 5 == 0:
            ledger.checkpoint()
"""


@pytest.mark.slow
def test_kill_9_takes_no_acknowledged_record(path, signer):
    # R35 for the process; for the power see tests/faults. Mutation: buffer lines in `append` -> red.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", WRITER, str(path), signer.private_key.private_bytes_raw().hex()]
    expected = 0
    for lines in (1, 2, 13, 40):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            acknowledged = [int(process.stdout.readline()) for _ in range(lines)]
            process.send_signal(signal.SIGKILL)
            acknowledged += [
                int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
            ]
        assert acknowledged == list(range(expected, expected + len(acknowledged)))
        expected = verify_directory(path, str(signer.verifier)).size
        assert expected > acknowledged[-1]
    assert seqs(path) == list(range(expected))
