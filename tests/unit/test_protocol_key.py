"""P-256 keys and ES256: what verifies, what never does, and one name for each key.

Project Wycheproof's file is not in the tree. Where WYCHEPROOF_P1363 names `ecdsa_secp256r1_sha256_p1363_test.json`
(github.com/C2SP/wycheproof, testvectors_v1), one more test is collected that runs all of it; without it the same runner
judges a sample in the same form, made at run time, so nothing is ever skipped.

Mutations that turn a test here red (gateway/protocol/key.py):
* `len(signature) != SIGNATURE_BYTES` dropped → test_the_sample_is_judged_as_wycheproof_would
* `SHA256` → `SHA384` in `verify` → test_the_sample_is_judged_as_wycheproof_would
* refuse a high S → test_the_sample_is_judged_as_wycheproof_would (valid)
* `except InvalidSignature` → return → the same (invalid)
* drop the comparison with `_FIELD` → test_a_coordinate_beyond_the_prime_is_refused
* `len(x) != 32` dropped → test_a_jwk_in_another_form_is_refused
* `set(untrusted) != …` → `>=` → test_a_jwk_in_another_form_is_refused
* drop the comparison with the canonical spelling → test_base64url_has_one_spelling
* `__repr__` dropped → test_a_private_key_is_never_printed
* no curve check in `from_pem` → test_another_kind_of_private_key_is_not_taken
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_support import FIELD, ORDER, _jwk, der_of, foreign_key, key, tried, with_r, with_s

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.key import SigningKey, VerifyingKey, b64url_decode, b64url_encode, thumbprint

FULL_FILE = os.environ.get("WYCHEPROOF_P1363")


def refusal(act) -> RefusalCode:
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.code


# ECDSA, as Project Wycheproof judges it


def judged(document: dict) -> Counter[str]:
    """Run every test of a Wycheproof document; any disagreement fails at once. Gives how many there were of each."""
    assert document["algorithm"] == "ECDSA"
    counted: Counter[str] = Counter()
    for group in document["testGroups"]:
        public = group.get("publicKey") or group["key"]
        assert (public["curve"], group["sha"]) == ("secp256r1", "SHA-256")
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes.fromhex(public["uncompressed"]))
        # Through the JWK, so that the file's special keys test that door, too.
        verifying = VerifyingKey.from_jwk(VerifyingKey.of(point).jwk())
        for test in group["tests"]:
            code, _ = tried(lambda t=test, v=verifying: v.verify(bytes.fromhex(t["sig"]), bytes.fromhex(t["msg"])))
            result = {"accepted": "valid", "bad-signature": "invalid"}[code]
            assert test["result"] in (result, "acceptable"), f"tcId {test['tcId']}: {test['comment']}"
            counted[result] += 1
    return counted


def _signed_until(signer: SigningKey, message: bytes, wanted) -> bytes:
    while not wanted(signature := signer.sign(message)):
        pass
    return signature


def a_sample() -> dict:
    """Wycheproof's cases in small, with a key of this run."""
    signer = SigningKey.generate()
    message = b"123400"
    good = signer.sign(message)
    r, s = int.from_bytes(good[:32]), int.from_bytes(good[32:])
    short_r = _signed_until(signer, message, lambda made: made[0] == 0)
    short_s = _signed_until(signer, message, lambda made: made[32] == 0)
    cases = [
        ("valid", "as it was signed", message, good),
        ("valid", "the other s", message, with_s(good, ORDER - s)),
        ("valid", "low s", message, with_s(good, min(s, ORDER - s))),
        ("valid", "high s", message, with_s(good, max(s, ORDER - s))),
        ("valid", "r with a leading zero byte", message, short_r),
        ("valid", "s with a leading zero byte", message, short_s),
        ("valid", "empty message", b"", signer.sign(b"")),
        ("valid", "long message", b"\0" * 100_000, signer.sign(b"\0" * 100_000)),
        ("invalid", "another message", message + b"\0", good),
        ("invalid", "another key", message, SigningKey.generate().sign(message)),
        ("invalid", "empty", message, b""),
        ("invalid", "DER", message, der_of(good)),
        ("invalid", "r's leading zero stripped", message, short_r[1:]),
        ("invalid", "s's leading zero stripped", message, short_s[:32] + short_s[33:]),
        ("invalid", "zero in front of both", message, b"\0" + good[:32] + b"\0" + good[32:]),
        ("invalid", "swapped", message, good[32:] + good[:32]),
        ("invalid", "cut", message, good[:63]),
        ("invalid", "longer", message, good + b"\0"),
        ("invalid", "twice", message, good + good),
        ("invalid", "-r", message, with_r(good, ORDER - r)),
    ]
    cases += [
        ("invalid", f"bit {at}", message, (int.from_bytes(good) ^ 1 << at).to_bytes(64)) for at in range(0, 512, 37)
    ]
    edges = (0, 1, ORDER - 1, ORDER, ORDER + 1, FIELD - 1, FIELD, FIELD + 1, (1 << 256) - 1)
    for edge in edges:
        cases.append(("invalid", f"r = {edge:x}", message, with_r(good, edge)))
        cases.append(("invalid", f"s = {edge:x}", message, with_s(good, edge)))
        cases += [("invalid", f"{edge:x} and {other:x}", message, edge.to_bytes(32) + other.to_bytes(32))
                  for other in edges]  # fmt: skip
    # A modified r or s that is the same number modulo n, where it fits into 32 bytes.
    cases += [("invalid", "s + n", message, with_s(made, int.from_bytes(made[32:]) + ORDER))
              for made in (good, short_s) if int.from_bytes(made[32:]) + ORDER < 1 << 256]  # fmt: skip
    public = signer.private.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return {
        "algorithm": "ECDSA",
        "testGroups": [
            {
                "publicKey": {"curve": "secp256r1", "uncompressed": public.hex()},
                "sha": "SHA-256",
                "tests": [
                    {"tcId": number, "comment": comment, "msg": msg.hex(), "sig": sig.hex(), "result": result}
                    for number, (result, comment, msg, sig) in enumerate(cases, 1)
                ],
            }
        ],
    }


def test_the_sample_is_judged_as_wycheproof_would():
    counted = judged(a_sample())
    assert counted["valid"] == 8
    assert counted["invalid"] > 100


def test_the_runner_itself_finds_a_disagreement():
    sample = a_sample()
    sample["testGroups"][0]["tests"][0]["result"] = "invalid"
    with pytest.raises(AssertionError, match="tcId 1"):
        judged(sample)


if FULL_FILE is not None:

    def test_all_of_wycheproof_is_judged_alike():
        document = json.loads(Path(FULL_FILE).read_text())
        assert judged(document).total() == document["numberOfTests"]


@pytest.mark.slow
@given(signature=st.binary(max_size=80), message=st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_are_no_signature(signature, message):
    assert refusal(lambda: key("operator").verifying.verify(signature, message)) is RefusalCode.BAD_SIGNATURE


@given(message=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_what_is_signed_verifies_under_its_own_key_only(message):
    signature = key("operator").sign(message)
    key("operator").verifying.verify(signature, message)
    assert refusal(lambda: key("other").verifying.verify(signature, message)) is RefusalCode.BAD_SIGNATURE


# Keys as JWK


def test_a_jwk_comes_back_as_it_was_and_is_named_by_its_thumbprint():
    verifying = key("operator").verifying
    again = VerifyingKey.from_jwk(verifying.jwk())
    assert again == verifying
    assert again.jwk() == verifying.jwk()
    assert verifying.kid == thumbprint(verifying.jwk()["x"], verifying.jwk()["y"])
    assert len(verifying.kid) == 43


@pytest.mark.parametrize("jwk", [None, 1, "k", [], {}, {"kty": "EC"}, [("kty", "EC")]])
def test_what_is_no_jwk_at_all_is_refused(jwk):
    assert refusal(lambda: VerifyingKey.from_jwk(jwk)) is RefusalCode.MALFORMED


@pytest.mark.parametrize(
    "name",
    [
        "with-private-part",
        "off-curve",
        "at-infinity",
        "leading-zero-stripped",
        "leading-zero-added",
        "padded",
        "p384",
        "k256",
        "p256-name-p384-point",
        "p256-name-k256-point",
    ],
)
def test_a_jwk_in_another_form_is_refused(name):
    assert refusal(lambda: VerifyingKey.from_jwk(_jwk(name))) is RefusalCode.MALFORMED


@pytest.mark.parametrize("changes", [{"x": 1}, {"y": None}, {"x": b"AA"}, {"kty": ["EC"]}, {"crv": "p-256"}, {"x": ""}])
def test_a_jwk_member_of_another_type_is_refused(changes):
    assert refusal(lambda: VerifyingKey.from_jwk(key("operator").verifying.jwk() | changes)) is RefusalCode.MALFORMED


def test_a_coordinate_beyond_the_prime_is_refused():
    """OpenSSL reduces it; the same key would have a second kid. x = 0 and x = p are the smallest pair."""
    beyond = _jwk("beyond-the-prime")
    VerifyingKey.from_jwk(beyond | {"x": b64url_encode(bytes(32))})
    assert refusal(lambda: VerifyingKey.from_jwk(beyond)) is RefusalCode.MALFORMED
    y = int.from_bytes(b64url_decode(beyond["y"]))
    for x, wrong_y in ((0, y + FIELD), (FIELD, y), ((1 << 256) - 1, y)):
        if wrong_y < 1 << 256:
            jwk = beyond | {"x": b64url_encode(x.to_bytes(32)), "y": b64url_encode(wrong_y.to_bytes(32))}
            assert refusal(lambda j=jwk: VerifyingKey.from_jwk(j)) is RefusalCode.MALFORMED


@pytest.mark.slow
@given(
    jwk=st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "d"]),
        st.sampled_from(["EC", "P-256", "AAAA", "A" * 43, "=", "\ud800", "\0", "é"]) | st.text(max_size=44) | st.none(),
    )
)
@settings(max_examples=200, deadline=None)
def test_an_arbitrary_jwk_is_refused_and_raises_nothing_else(jwk):
    assert refusal(lambda: VerifyingKey.from_jwk(jwk)) is RefusalCode.MALFORMED


# Private keys


def test_a_private_key_is_never_printed():
    signer = SigningKey.generate()
    secret = signer.private.private_numbers().private_value
    for text in (repr(signer), str(signer), f"{signer}"):
        assert text == f"SigningKey(kid={signer.verifying.kid!r})"
        assert f"{secret:x}" not in text


def test_a_private_key_survives_its_pem():
    signer = SigningKey.generate()
    assert SigningKey.from_pem(signer.to_pem()).verifying == signer.verifying


@pytest.mark.parametrize("name", ["p384", "p521", "k256", "ed25519", "rsa"])
def test_another_kind_of_private_key_is_not_taken(name):
    pem = foreign_key(name).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ValueError, match="P-256"):
        SigningKey.from_pem(pem)


def test_a_point_on_another_curve_is_our_own_mistake():
    with pytest.raises(ValueError, match="P-256"):
        VerifyingKey.of(foreign_key("p384").public_key())


# base64url


@given(content=st.binary(max_size=64))
def test_base64url_comes_back_as_it_was(content):
    assert b64url_decode(b64url_encode(content)) == content


@pytest.mark.slow
@given(text=st.text(st.sampled_from("ABCDwxyz0189-_+/=. \n\r\0é"), max_size=12))
@settings(max_examples=300)
def test_base64url_has_one_spelling(text):
    code, content = tried(lambda: b64url_decode(text))
    if code == "accepted":
        assert base64.urlsafe_b64encode(content).decode().rstrip("=") == text
    else:
        assert code == RefusalCode.MALFORMED
