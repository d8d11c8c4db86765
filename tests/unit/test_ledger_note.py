"""Signed notes and checkpoints in exactly the form of C2SP, and nothing but that form."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_support import ORIGIN, new_signer

from gateway.ledger import NoteError, VerifierKey, parse_checkpoint, parse_note, sign_checkpoint, verify_note
from gateway.ledger.checkpoint import verify_checkpoint
from gateway.ledger.note import MAX_NOTE_BYTES, decode_base64

# Source: the example of golang.org/x/mod/sumdb/note, from which the specification comes.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
ROOT = bytes(range(32))


def test_a_note_of_another_implementation_verifies():
    key = VerifierKey.parse(GO_VKEY)
    assert str(key) == GO_VKEY
    assert verify_note(GO_NOTE, key).startswith("If you think")


def test_a_checkpoint_has_the_specified_bytes():
    signer = new_signer()
    note = sign_checkpoint(signer, 7, ROOT)
    text, _, signature = note.decode().partition("\n\n")
    assert text == f"{ORIGIN}\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    dash, name, encoded = signature.split(" ")
    assert (dash, name) == ("\N{EM DASH}", ORIGIN)
    assert decode_base64(encoded.rstrip("\n"))[:4] == signer.verifier.key_id
    checkpoint = verify_checkpoint(note, signer.verifier)
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (ORIGIN, 7, ROOT)


def test_the_same_checkpoint_is_signed_to_the_same_bytes():
    signer = new_signer()
    assert sign_checkpoint(signer, 7, ROOT) == sign_checkpoint(signer, 7, ROOT)


def test_a_change_at_any_byte_is_refused():
    # Mutation: decode base64 without the comparison with its canonical spelling -> red.
    signer = new_signer()
    note = sign_checkpoint(signer, 7, ROOT)
    for at in range(len(note)):
        for mask in (1, 4, 0x20):
            changed = note[:at] + bytes([note[at] ^ mask]) + note[at + 1 :]
            with pytest.raises(NoteError):
                verify_checkpoint(changed, signer.verifier)


def test_another_keys_signature_is_ignored_but_not_enough():
    ours, theirs = new_signer(), new_signer("witness.example/w")
    note = sign_checkpoint(ours, 7, ROOT)
    extra = theirs.sign(parse_note(note).untrusted_text).rpartition(b"\n\n")[2]
    assert verify_note(note + extra, ours.verifier) == verify_note(note, ours.verifier)
    with pytest.raises(NoteError, match="not signed by"):
        verify_note(note, theirs.verifier)


def test_a_key_of_the_same_name_is_another_key():
    note = sign_checkpoint(new_signer(), 7, ROOT)
    with pytest.raises(NoteError, match="not signed by"):
        verify_note(note, new_signer().verifier)


def test_a_checkpoint_of_another_origin_is_refused():
    signer = new_signer()
    with pytest.raises(NoteError, match="other"):
        verify_checkpoint(signer.sign("other\n7\n" + "A" * 43 + "=\n"), signer.verifier)


@pytest.mark.parametrize(
    "note",
    {
        "empty": b"",
        "no signature": b"text\n",
        "no blank line": "text\n— a AAAAAAA=\n".encode(),
        "no end": "text\n\n— a AAAAAAA=".encode(),
        "hyphen for dash": b"text\n\n- a AAAAAAA=\n",
        "no name": "text\n\n—  AAAAAAA=\n".encode(),
        "plus in name": "text\n\n— a+b AAAAAAA=\n".encode(),
        "only a key id": "text\n\n— a AAAAAA==\n".encode(),
        "control character": "a\rb\n\n— a AAAAAAA=\n".encode(),
        "loose bits": "text\n\n— a AAAAAAB=\n".encode(),
        "no UTF-8": b"\xff\n\n",
        "too many": b"text\n\n" + 17 * "— a AAAAAAA=\n".encode(),
        "too long": b"t" * MAX_NOTE_BYTES + "\n\n— a AAAAAAA=\n".encode(),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_malformed_note_is_refused(note):
    with pytest.raises(NoteError):
        parse_note(note[1])


@pytest.mark.parametrize(
    "text",
    {
        "empty": "",
        "no root": "o\n1\n",
        "leading zero": "o\n01\n{}\n",
        "minus": "o\n-1\n{}\n",
        "plus": "o\n+1\n{}\n",
        "space": "o\n1 \n{}\n",
        "other digits": "o\n\N{ARABIC-INDIC DIGIT ONE}\n{}\n",
        "too large": "o\n9007199254740992\n{}\n",
        "no origin": "\n1\n{}\n",
        "short root": "o\n1\nAAAA\n",
        "no end": "o\n1\n{}",
        "extension": "o\n1\n{}\nextension\n",
        "empty line": "o\n1\n{}\n\n",
    }.items(),
    ids=lambda item: item[0],
)
def test_a_malformed_checkpoint_is_refused(text):
    with pytest.raises(NoteError):
        parse_checkpoint(text[1].format("A" * 43 + "="))


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "a",
        GO_VKEY + " ",
        GO_VKEY.replace("c7", "C7"),
        GO_VKEY.replace("c74f", "c74e"),
        GO_VKEY.replace("+AR", "+Ag"),
    ],
)
def test_a_malformed_vkey_is_refused(vkey):
    with pytest.raises(NoteError):
        VerifierKey.parse(vkey)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_note_parser(untrusted):
    with suppress(NoteError):
        parse_note(untrusted)


@pytest.mark.slow
@given(st.text(max_size=100))
def test_no_text_breaks_the_parsers_of_checkpoints_and_keys(untrusted):
    for parse in (parse_checkpoint, VerifierKey.parse):
        with suppress(NoteError):
            parse(untrusted)
