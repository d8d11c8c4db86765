"""R34: whoever changes the ledger on the disk is found out, whatever they repair on the way."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import msgspec
import pytest
from ledger_support import ORIGIN, QuickDisk, a_ledger, a_record, new_signer

from gateway.ledger import (
    Finding,
    Ledger,
    LedgerRefusedError,
    NoteError,
    StoredLine,
    parse_line,
    read_records,
    sign_checkpoint,
    verify_directory,
)
from gateway.ledger.record import new_line

pytestmark = pytest.mark.slow


@pytest.fixture
def signer():
    return new_signer()


@pytest.fixture
def path(tmp_path, signer):
    """Five records in two segments, all under checkpoints."""
    return a_ledger(tmp_path / "ledger", signer, 5, segment_bytes=1400)


def segment(path: Path, number: int = 0) -> Path:
    return path / "segments" / f"{number:06d}.log"


def lines_of(path: Path) -> list[bytes]:
    return segment(path).read_bytes().splitlines(keepends=True)


def put(path: Path, lines: list[bytes]) -> None:
    segment(path).write_bytes(b"".join(lines))


def refused(path: Path, vkey: str | None = None, **keywords) -> LedgerRefusedError:
    with pytest.raises(LedgerRefusedError) as caught:
        verify_directory(path, vkey, **keywords)
    return caught.value


def with_crc(content: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(content), content)


def test_an_untouched_ledger_verifies_and_says_what_it_has(path, signer):
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    report = verify_directory(path, str(signer.verifier))
    assert segment(path, 1).exists()
    assert (report.size, report.records, report.erased) == (5, 5, 0)
    assert (report.checkpoint_size, report.uncovered, report.torn_tail_bytes) == (5, 0, 0)
    assert report.key_id == signer.verifier.key_id.hex()
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file()} == before


def test_a_ledger_is_verified_while_it_is_written(path, signer):
    with Ledger.open(path, signer, disk=QuickDisk()) as ledger:
        ledger.append(a_record())
        assert verify_directory(path).uncovered == 1


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_one_byte_changed_anywhere_is_refused(tmp_path, signer, mask):
    # Mutation: skip the CRC, the checkpoint, or its signature -> red.
    path = a_ledger(tmp_path / "small", signer, 3)
    for name in ("segments/000000.log", "checkpoint", "ledger.pub"):
        original = (path / name).read_bytes()
        for at in range(len(original)):
            (path / name).write_bytes(original[:at] + bytes([original[at] ^ mask]) + original[at + 1 :])
            error = refused(path)
            assert name in error.message or "checkpoint" in error.message, (name, at)
        (path / name).write_bytes(original)
    assert verify_directory(path).size == 3


def test_one_byte_changed_in_an_unsigned_last_line_is_taken_for_a_torn_write(tmp_path, signer):
    # Mutation: take a line without its newline, with a whole one behind it, for torn -> red.
    path = a_ledger(tmp_path / "small", signer, 3, signed=False)
    original = segment(path).read_bytes()
    last = original.rindex(b"\n", 0, -1) + 1
    for at in range(len(original)):
        segment(path).write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        if at < last:
            refused(path)
        else:
            report = verify_directory(path)
            assert (report.size, report.torn_tail_bytes) == (2, len(original) - last)


def test_an_edited_record_is_refused_with_its_place(path):
    lines = lines_of(path)
    lines[1] = lines[1].replace(b'"attempt":1', b'"attempt":7')
    put(path, lines)
    error = refused(path)
    assert error.code is Finding.EDITED
    assert error.message == "segments/000000.log line 2: the CRC does not fit the line"


def test_an_edited_record_with_its_crc_repaired_is_refused(path):
    lines = lines_of(path)
    lines[1] = with_crc(lines[1][9:-1].replace(b'"attempt":1', b'"attempt":7'))
    put(path, lines)
    assert refused(path).code is Finding.EDITED


def test_an_edited_record_with_crc_and_digest_repaired_is_refused(path):
    # Mutation: no comparison of prev -> red.
    lines = lines_of(path)
    old = parse_line(lines[1])
    lines[1] = new_line(msgspec.structs.replace(old.record(), attempt=7), seq=old.seq, prev=old.prev).encode()
    put(path, lines)
    error = refused(path)
    assert error.code is Finding.EDITED
    assert "line 3" in error.message


def test_a_ledger_rewritten_whole_is_a_fork(tmp_path, path, signer):
    # Mutation: no comparison with the checkpoint's root -> red.
    other = a_ledger(tmp_path / "other", signer, 5, segment_bytes=1400)
    shutil.rmtree(path / "segments")
    shutil.copytree(other / "segments", path / "segments")
    error = refused(path)
    assert error.code is Finding.FORKED
    assert "root differs" in error.message


def test_a_fork_after_an_earlier_checkpoint_is_found_by_the_witness(tmp_path, path, signer):
    witnessed = (path / "checkpoint").read_bytes()
    other = a_ledger(tmp_path / "other", signer, 6)
    assert verify_directory(other).size == 6
    assert refused(other, witnessed=witnessed).code is Finding.FORKED


def test_an_old_copy_put_back_is_found_by_the_witness(tmp_path, path, signer):
    old = shutil.copytree(path, tmp_path / "old")
    with Ledger.open(path, signer, disk=QuickDisk()) as ledger:
        ledger.append(a_record())
        witnessed = ledger.checkpoint()
    assert refused(old, witnessed=witnessed).code is Finding.TRUNCATED


@pytest.mark.parametrize("at", range(4))
def test_a_removed_line_is_refused(tmp_path, signer, at):
    path = a_ledger(tmp_path / "small", signer, 4)
    lines = lines_of(path)
    del lines[at]
    put(path, lines)
    assert refused(path).code is (Finding.TRUNCATED if at == 3 else Finding.REMOVED)


@pytest.mark.parametrize("kept", range(5))
def test_a_ledger_cut_below_its_checkpoint_is_truncated(tmp_path, signer, kept):
    path = a_ledger(tmp_path / "small", signer, 5)
    put(path, lines_of(path)[:kept])
    error = refused(path)
    assert error.code is Finding.TRUNCATED
    assert f"covers 5 records, the ledger has {kept}" in error.message


def test_a_torn_tail_under_the_checkpoint_is_refused(tmp_path, signer):
    path = a_ledger(tmp_path / "small", signer, 3)
    original = segment(path).read_bytes()
    segment(path).write_bytes(original[:-5])
    assert refused(path).code is Finding.TRUNCATED
    segment(path).write_bytes(original[:-5] + b"}}}}\n")
    assert refused(path).code is Finding.EDITED


def test_a_missing_segment_is_refused(path):
    shutil.copy(segment(path, 1), segment(path, 2))
    segment(path, 1).unlink()
    assert refused(path).code is Finding.REMOVED
    segment(path, 2).unlink()
    assert refused(path).code is Finding.TRUNCATED


def test_a_foreign_file_among_the_segments_is_refused(path):
    (path / "segments" / "000000.log.bak").write_bytes(b"")
    assert refused(path).code is Finding.INSERTED


@pytest.mark.parametrize("at", range(3))
def test_two_lines_swapped_are_refused(tmp_path, signer, at):
    path = a_ledger(tmp_path / "small", signer, 4)
    lines = lines_of(path)
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    put(path, lines)
    assert refused(path).code is Finding.REORDERED


@pytest.mark.parametrize("at", range(4))
def test_a_line_that_stands_twice_is_refused(tmp_path, signer, at):
    path = a_ledger(tmp_path / "small", signer, 4)
    lines = lines_of(path)
    put(path, [*lines[: at + 1], lines[at], *lines[at + 1 :]])
    assert refused(path).code is Finding.INSERTED


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("chained", [True, False])
def test_an_inserted_line_with_everything_repaired_is_refused(tmp_path, signer, at, chained):
    path = a_ledger(tmp_path / "small", signer, 4)
    lines = lines_of(path)
    prev = parse_line(lines[at]).prev if chained else "ab" * 32
    put(path, [*lines[:at], new_line(a_record(), seq=at, prev=prev).encode(), *lines[at:]])
    assert refused(path).code is Finding.INSERTED


def test_an_inserted_line_with_the_rest_chained_anew_is_a_fork(tmp_path, signer):
    path = a_ledger(tmp_path / "small", signer, 4)
    stored = [parse_line(line) for line in lines_of(path)]
    bodies = [*[each.record() for each in stored[:2]], a_record(), *[each.record() for each in stored[2:]]]
    lines: list[StoredLine] = []
    for body in bodies:
        prev = lines[-1].leaf_hash().hex() if lines else "0" * 64
        lines.append(new_line(body, seq=len(lines), prev=prev))
    put(path, [line.encode() for line in lines])
    assert refused(path).code is Finding.FORKED


def test_a_body_that_somebody_took_out_of_the_middle_is_refused(tmp_path, signer):
    path = a_ledger(tmp_path / "small", signer, 4)
    lines = lines_of(path)
    lines[2] = parse_line(lines[2]).erased().encode()
    put(path, lines)
    assert refused(path).code is Finding.REMOVED


def test_another_key_in_the_ledgers_place_is_refused(tmp_path, path, signer):
    thief = new_signer()
    key = str(signer.verifier)
    (path / "ledger.pub").write_text(f"{thief.verifier}\n")
    assert refused(path).code is Finding.KEY_SUBSTITUTED
    assert refused(path, key).code is Finding.KEY_SUBSTITUTED
    # Everything signed anew: only whoever has the true key can tell.
    other = a_ledger(tmp_path / "other", thief, 5)
    assert verify_directory(other).size == 5
    assert refused(other, key).code is Finding.KEY_SUBSTITUTED


def test_a_checkpoint_by_another_key_of_the_same_name_is_refused(path):
    root = bytes.fromhex(verify_directory(path).root_hex)
    (path / "checkpoint").write_bytes(sign_checkpoint(new_signer(ORIGIN), 5, root))
    assert refused(path).code is Finding.KEY_SUBSTITUTED


def test_a_key_that_is_none_is_the_callers_mistake(path):
    with pytest.raises(NoteError):
        verify_directory(path, "not a key")


def test_an_older_checkpoint_put_back_is_refused(path):
    notes = (path / "checkpoints.log").read_bytes()
    older = notes[notes.rindex(ORIGIN.encode(), 0, notes.rindex(ORIGIN.encode())) :]
    (path / "checkpoints.log").write_bytes(notes + (path / "checkpoint").read_bytes())
    (path / "checkpoint").write_bytes(older)
    assert refused(path).code is Finding.REMOVED


@pytest.mark.parametrize("lie", ["root", "order", "byte"])
def test_an_earlier_checkpoint_that_does_not_fit_is_refused(path, signer, lie):
    log = path / "checkpoints.log"
    notes = log.read_bytes()
    if lie == "root":
        # Signed with our own key, and still not this ledger's.
        log.write_bytes(notes + sign_checkpoint(signer, 4, bytes(32)))
        expected = Finding.FORKED
    elif lie == "order":
        log.write_bytes(notes + sign_checkpoint(signer, 0, bytes(32)))
        expected = Finding.REORDERED
    else:
        log.write_bytes(notes.replace(ORIGIN.encode(), b"tillsyn/gw-tesT", 1))
        expected = Finding.EDITED
    assert refused(path).code is expected


@pytest.mark.parametrize("name", ["ledger.pub", "checkpoint"])
def test_a_missing_file_is_refused(path, name):
    (path / name).unlink()
    assert refused(path).code is Finding.REMOVED


def test_what_is_no_ledger_is_refused(tmp_path, path):
    assert refused(tmp_path / "nothing").code is Finding.REMOVED
    shutil.rmtree(path / "segments")
    assert refused(path).code is Finding.UNREADABLE
    (path / "checkpoint").unlink()
    (path / "checkpoint").mkdir()
    assert refused(path).code is Finding.UNREADABLE


def test_a_line_without_end_is_read_in_pieces(path):
    with segment(path, 1).open("ab") as file:
        file.write(b"x" * (1 << 20))
    assert refused(path).code is Finding.EDITED


def test_reading_stops_at_the_first_line_that_does_not_fit(path):
    lines = lines_of(path)
    put(path, [lines[0], lines[2]])
    records = read_records(path)
    assert next(records).seq == 0
    with pytest.raises(LedgerRefusedError):
        next(records)
