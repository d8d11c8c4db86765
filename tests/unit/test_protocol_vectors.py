"""Every hostile input in tests/vectors/ gets its exact code, costs little and changes nothing.

Mutations that turn a test here red (gateway/protocol/ unless said); the vectors named are among those that fail:
* strict_json: drop `_check_depth` → json/depth-9; drop `if key in result` → payload/duplicate-key
* strict_json: `_check_texts` without its list branch → json/lone-surrogate-in-nested-list
* strict_json: drop `_MAX_NUMBER_CHARS` in `_float` → json/float-of-5000-digits
* key: drop `b64url_encode(data) != text` → base64/stray-bits
* key: drop `0 < r < _ORDER` → none here: OpenSSL refuses as well (the check is a second wall)
* key: drop `len(signature) != SIGNATURE_BYTES` → signature/s-trimmed
* key: drop the comparison with `_FIELD` → grant/cnf-beyond-the-prime
* key: accept further members of a JWK → grant/cnf-with-private-part
* envelope: `_FORM` with `$` for `\\Z` → none: `b64url_decode` refuses as well (a second wall)
* envelope: `set(header) >= _HEADER_FIELDS` → envelope/header-jku, header-b64-false, …
* envelope: drop `alg != "ES256"` → envelope/alg-none-lower-with-signature
* envelope: parse before verifying → signature/payload-unparsable-and-unsigned
* envelope: drop the epoch → grant/revoked-epoch; drop its exception → accepted/close-under-a-revoked-grant
* envelope: drop `untrusted_command.kid != person.kid` → envelope/kid-of-another-person
* envelope: drop `command.aud != audience` → device/another-gateway
* envelope: drop the homes → grant/homes-of-another-gateway
* envelope: make_trust without the second signature → trust/rotated-without-second-signature
* envelope: make_trust without `!= put` → trust/rotated-statements-differ
* message: `$` for `\\Z` in Id → payload/jti-newline-at-end
* sdp: keep the first fingerprint → sdp/two-that-differ
* decision/nonce: `>=` for `>` at LIFE_S → accepted/nonce-at-thirty-seconds
* decision/nonce: drop `issued.kid != kid` → replay/nonce-of-another-key
* decision/gate: `self.nonces.use` moved behind the agreement → state/… with `spends_nonce`
* decision/gate: drop `check_shift` → grant/shift-over; drop the epoch in `_trust` → trust/delivered-lower-epoch
* decision/gate: `==` for `<=` of versions in `_newer` → agreement/older-version
"""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
from protocol_support import REFUSAL_LIMIT_S, VECTORS, deliver, load_vectors

from gateway.core.refusal import RefusalCode

LOADED = load_vectors()


def _maker():
    spec = importlib.util.spec_from_file_location("tests_vectors_make", VECTORS / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LOADED)
def test_a_hostile_input_is_refused_with_its_code_at_once_and_without_effect(name):
    vector = LOADED[name]
    delivery = deliver(vector)
    assert delivery.code == vector["expect"], f"{vector['about']} {str(delivery.result)[:200]}"
    if vector["expect"] == "accepted":
        return
    assert delivery.same_facts, "a refusal changed what the gate decides by"
    assert delivery.same_nonces is not vector.get("spends_nonce", False)
    assert delivery.code_again != "accepted", "refused once, taken when it came again"
    if delivery.same_nonces and delivery.code_again is not None:
        assert delivery.code_again == delivery.code
    if delivery.result.who is not None:
        assert vector["expect"] != "bad-signature", "a sender is named who proved nothing"
    # The best of three: the machine may be busy, and the first use of a library pays for its tables.
    costs_s = [delivery.cost_s]
    while min(costs_s) > REFUSAL_LIMIT_S and len(costs_s) < 3:
        costs_s.append(deliver(vector).cost_s)
    assert min(costs_s) <= REFUSAL_LIMIT_S


def test_the_files_are_what_make_py_writes():
    maker = _maker()
    wanted = maker.rendered()
    assert {path for path in VECTORS.rglob("*") if path.is_file() and "__pycache__" not in path.parts} == {
        *wanted,
        VECTORS / "make.py",
    }
    assert all(path.read_text("ascii") == content for path, content in wanted.items()), "run tests/vectors/make.py"
    assert maker.rendered() == wanted


def test_no_vector_holds_a_key():
    """Keys are made at run time; what a file may hold of one is a placeholder."""
    for name, vector in LOADED.items():
        text = json.dumps(vector)
        assert not re.search(r"BEGIN [A-Z ]*KEY", text), name
        assert not re.search(r'"d\\?": ?\\?"', text), name


def test_every_vector_says_what_it_is():
    codes = {code.value for code in RefusalCode} | {"accepted"}
    for name, vector in LOADED.items():
        assert vector["expect"] in codes, name
        assert vector["about"].endswith((".", "?")), name
        assert vector["target"] in {"command", "statement", "trust", "agreement", "sdp", "json"}, name
    assert len(LOADED) >= 160


def test_every_target_has_an_accepted_vector_so_that_no_refusal_is_trivial():
    targets = {vector["target"] for vector in LOADED.values()}
    assert {vector["target"] for vector in LOADED.values() if vector["expect"] == "accepted"} == targets


def test_every_code_the_gate_can_give_has_a_vector():
    elsewhere = {
        RefusalCode.LOW_POWER,
        RefusalCode.UPDATING,
        RefusalCode.RATE_LIMITED,
    }
    assert {vector["expect"] for vector in LOADED.values()} >= {code.value for code in RefusalCode} - {
        code.value for code in elsewhere
    }
