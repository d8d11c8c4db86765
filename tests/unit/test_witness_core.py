"""What a witness says, as a pure function, and cosignatures byte for byte as C2SP has them.

Mutations that turn it red, each tried: sign without the line `time`; key id with type 0x01; cosign at another root of
the same size; take a proof with an old size of zero; leave out the comparison of the lines with the known root.
"""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from ledger_support import ORIGIN, a_record, new_signer

from centre.witness import (
    Cosigner,
    CosignerKey,
    Finding,
    Head,
    Peaks,
    Ruling,
    findings,
    format_submission,
    parse_submission,
    rule,
    rule_by_lines,
)
from gateway.ledger import Checkpoint, NoteError, consistency_proof, sign_checkpoint
from gateway.ledger.record import FIRST_PREV, new_line
from gateway.ledger.tree import leaf_hash, root_of

# Source: the test vectors of github.com/transparency-dev/formats, a witness that is in use.
REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
LEAVES = [leaf_hash(bytes([number])) for number in range(40)]


def cosigner() -> Cosigner:
    return Cosigner("witness.example.com/w1", Ed25519PrivateKey.generate())


def checkpoint(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return Checkpoint(ORIGIN, size, root_of(leaves[:size]))


def head(size: int) -> Head:
    return Head(size, root_of(LEAVES[:size]))


def lines(count: int) -> tuple[list[bytes], list[bytes]]:
    """(raw lines, their leaves) of a ledger."""
    prev, raws, leaves = FIRST_PREV, [], []
    for seq in range(count):
        line = new_line(a_record(attempt=seq), seq=seq, prev=prev)
        prev = line.leaf_hash().hex()
        raws.append(line.encode())
        leaves.append(line.leaf_hash())
    return raws, leaves


def test_a_cosigners_key_of_another_implementation_is_read_and_written_alike():
    key = CosignerKey.parse(REMORA)
    assert str(key) == REMORA
    assert key.key_id.hex() == "da77ade7"
    for wrong in (
        REMORA[:-1],
        REMORA.replace("da77ade7", "da77ade8"),
        "a+b",
        "x+0+" + base64.b64encode(b"\4").decode(),
    ):
        with pytest.raises(NoteError):
            CosignerKey.parse(wrong)


def test_a_cosignature_has_the_specified_bytes():
    signer, witness = new_signer(), cosigner()
    note = sign_checkpoint(signer, 7, root_of(LEAVES[:7]))
    line = witness.cosign(checkpoint(7), unix_s=1679315147)
    dash, name, encoded = line.decode().rstrip("\n").split(" ")
    assert (dash, name) == ("\N{EM DASH}", "witness.example.com/w1")
    raw = base64.b64decode(encoded)
    assert len(raw) == 4 + 8 + 64
    assert raw[4:12] == bytes.fromhex("00000000641850cb"), "as in the specification's example"
    text = note.decode().partition("\n\n")[0] + "\n"
    signed = b"cosignature/v1\ntime 1679315147\n" + text.encode()
    witness.private_key.public_key().verify(raw[12:], signed)
    assert witness.public.verify(note + line) == 1679315147


def test_a_cosignature_holds_for_one_checkpoint_one_time_and_one_witness():
    signer, witness = new_signer(), cosigner()
    note = sign_checkpoint(signer, 7, root_of(LEAVES[:7]))
    line = witness.cosign(checkpoint(7), unix_s=1679315147)
    raw = bytearray(base64.b64decode(line.split(b" ")[2]))
    raw[11] ^= 1
    later = line.rsplit(b" ", 1)[0] + b" " + base64.b64encode(raw) + b"\n"
    for wrong in (sign_checkpoint(signer, 8, root_of(LEAVES[:8])) + line, note + later, note):
        with pytest.raises(NoteError):
            witness.public.verify(wrong)
    with pytest.raises(NoteError):
        cosigner().public.verify(note + line)


@given(old=st.integers(0, 40), new=st.integers(0, 40), known=st.integers(0, 40))
def test_an_honest_log_is_cosigned_exactly_when_it_extends_what_is_known(old, new, known):
    proof = consistency_proof(LEAVES[:new], old) if old <= new else ()
    ruling = rule(head(known), checkpoint(new), old_size=old, proof=proof)
    if old > new:
        assert ruling is Ruling.TOO_OLD_SIZE
    elif old != known:
        assert ruling is Ruling.OTHER_OLD_SIZE
    else:
        assert ruling is Ruling.CONSISTENT


@pytest.mark.slow
@given(known=st.integers(1, 40), new=st.integers(1, 40), changed=st.integers(0, 39))
def test_a_log_that_changed_what_was_cosigned_is_never_cosigned(known, new, changed):
    if changed >= known or known > new:
        return
    forked = [leaf_hash(b"x") if at == changed else leaf for at, leaf in enumerate(LEAVES)]
    proof = consistency_proof(forked[:new], known)
    ruling = rule(head(known), checkpoint(new, forked), old_size=known, proof=proof)
    assert ruling is (Ruling.FORKED if known == new else Ruling.BAD_PROOF)


def test_the_first_checkpoint_needs_no_proof_and_may_have_none():
    assert rule(Head(), checkpoint(9), old_size=0, proof=()) is Ruling.CONSISTENT
    assert rule(Head(), checkpoint(9), old_size=0, proof=(LEAVES[0],)) is Ruling.BAD_PROOF
    assert rule(head(9), checkpoint(9), old_size=9, proof=(LEAVES[0],)) is Ruling.BAD_PROOF


@pytest.mark.slow
@given(sizes=st.lists(st.integers(0, 12), max_size=5))
def test_peaks_grow_to_the_same_root_as_the_whole_tree(sizes):
    peaks, size = Peaks(), 0
    for step in sizes:
        new = min(size + step, len(LEAVES))
        peaks, size = peaks.extended(LEAVES[size:new]), new
        assert peaks.root() == root_of(LEAVES[:size])
        assert Peaks.from_hex(size, peaks.to_hex()) == peaks
    with pytest.raises(ValueError):
        Peaks.from_hex(size, peaks.to_hex() + "00" * 32)


def test_with_the_lines_no_proof_is_needed_and_a_false_line_is_found():
    raws, leaves = lines(9)

    def ruled(known: int, compared: int, new: int, held: list[bytes] | None, root: bytes | None = None) -> Ruling:
        peaks = Peaks().extended(leaves[:compared])
        signed = Checkpoint(ORIGIN, new, root or root_of(leaves[:new]))
        return rule_by_lines(Head(known, root_of(leaves[:known])), peaks, signed, held)

    assert ruled(4, 4, 9, raws[4:]) is Ruling.CONSISTENT
    assert ruled(4, 0, 9, raws) is Ruling.CONSISTENT
    assert ruled(4, 4, 9, None) is Ruling.GAP
    assert ruled(4, 4, 9, raws[4:], root=b"\0" * 32) is Ruling.FORKED
    other, _ = lines(9)
    assert ruled(4, 4, 9, [*raws[4:8], other[8]]) is Ruling.FORKED
    assert ruled(4, 0, 9, [*other[:4], *raws[4:]]) is Ruling.LINES_FALSE, "what was witnessed is not these lines'"
    assert ruled(4, 4, 9, [*raws[4:8], raws[7]]) is Ruling.LINES_FALSE, "a line under another's number"
    forged = raws[8].replace(b'"attempt":8', b'"attempt":7')
    assert ruled(4, 4, 9, [*raws[4:8], forged]) is Ruling.LINES_FALSE, "a body that is not its digest's"


@pytest.mark.slow
@given(old=st.integers(0, 2**53 - 1), hashes=st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_a_submission_is_read_as_it_was_written(old, hashes):
    note = sign_checkpoint(new_signer(), 7, LEAVES[0])
    submission = parse_submission(format_submission(old, hashes, note))
    assert (submission.old_size, list(submission.proof), submission.untrusted_note) == (old, hashes, note)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"old 1\n",
        b"old 01\n\nx\n",
        b"old -1\n\nx\n",
        b"old 1 \n\nx\n",
        b"Old 1\n\nx\n",
        b"1\n\nx\n",
        b"old 1\nAAAA\n\nx\n",
        b"old 1\n" + b"A" * 43 + b"\n\nx\n",
        b"old 1\r\n\r\nx\n",
        b"old 99999999999999999999\n\nx\n",
        b"old 1\n" + (base64.b64encode(b"\0" * 32) + b"\n") * 64 + b"\nx\n",
        b"old 1\n\n" + b"x" * 7000,
        "old \N{ARABIC-INDIC DIGIT ONE}\n\nx\n".encode(),
    ],
)
def test_what_is_no_submission_is_refused(wrong):
    with pytest.raises(NoteError):
        parse_submission(wrong)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, []),
        ({"lines": 9}, [Finding.GAP]),
        ({"witnessed_size": 11}, [Finding.GAP]),
        ({"unwitnessed_since_unix_s": 1e6 - 25 * 3600}, []),
        ({"unwitnessed_since_unix_s": 1e6 - 27 * 3600}, [Finding.STALE_CHECKPOINT]),
        ({"heard_unix_s": 1e6 - 3601}, [Finding.SILENT]),
        ({"lines": 9, "heard_unix_s": 0.0}, [Finding.GAP, Finding.SILENT]),
    ],
)
def test_the_daily_comparison_finds_gaps_stale_checkpoints_and_silence(facts, expected):
    good = {
        "lines": 10,
        "extent": 10,
        "witnessed_size": 10,
        "unwitnessed_since_unix_s": None,
        "heard_unix_s": 1e6 - 300,
        "now_unix_s": 1e6,
    }
    assert findings(**good | facts) == expected
