"""Grants by hand: only what a device would take is signed.

Mutations that turn a test here red:
* shift_grant.py: `hours <= LONGEST_HOURS` → `<= 24` → test_a_grant_longer_than_a_shift…
* shift_grant.py: drop the check for homes and groups → test_a_grant_for_nothing_is_refused
* signer.py: drop `"d" in value` → test_a_private_key_handed_in_is_refused_by_name
* secret_file.py: drop `mode & 0o077` → tests/unit/test_authority_files.py
"""

from __future__ import annotations

import json

import pytest
from test_authority_files import Ceremony

from gateway.protocol.envelope import verify
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.protocol.message import Grant

pytestmark = pytest.mark.slow


@pytest.fixture
def ceremony(tmp_path, capfd):
    made = Ceremony(tmp_path, capfd)
    made.key("issuer", "i1")
    made.path("person.jwk").write_text(json.dumps(SigningKey.generate().verifying.jwk()))
    return made


def grant(ceremony, **changed):
    words = {
        "--issuer": ceremony.path("i1/issuer.pem"), "--jwk": ceremony.path("person.jwk"), "--who": "op-7",
        "--role": "operator", "--home": "gw-a1", "--hours": 8, "--epoch": 0,
    } | {f"--{name}": value for name, value in changed.items()}  # fmt: skip
    return ceremony("grant", *(f"{name}={value}" for name, value in words.items() if value is not None))


def issuer_of(ceremony):
    key = VerifyingKey.from_jwk(json.loads(ceremony.path("i1/issuer.jwk").read_text()))
    return {key.kid: key}


def test_a_grant_is_one_line_that_verifies_under_the_issuer(ceremony):
    answer = grant(ceremony, group="west")
    assert answer.status == 0, answer.err
    assert answer.out.count("\n") == 1
    made = verify(answer.out.strip().encode(), issuer_of(ceremony), Grant)
    assert (made.name_ref, made.homes, made.groups) == ("op-7", ["gw-a1"], ["west"])


@pytest.mark.parametrize("hours", ["12.001", "24", "0", "-1", "nan", "inf"])
def test_a_grant_longer_than_a_shift_or_of_no_time_is_refused(ceremony, hours):
    answer = grant(ceremony, hours=hours)
    assert answer.status == 1
    assert answer.out == ""


def test_twelve_hours_are_a_shift(ceremony):
    assert grant(ceremony, hours="12").status == 0


def test_a_grant_for_nothing_is_refused(ceremony):
    assert grant(ceremony, home=None).status == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("home", "gw-A"), ("home", "#"), ("home", "gw-+"), ("group", "a b"), ("who", "Anna Svensson"), ("who", ""),
        ("epoch", "-1"),
    ],
)  # fmt: skip
def test_what_a_device_would_call_malformed_is_not_signed(ceremony, name, value):
    answer = grant(ceremony, **{name: value})
    assert answer.status == 1
    assert answer.out == ""


def test_a_role_that_does_not_exist_is_refused(ceremony):
    assert grant(ceremony, role="viewer").status == 2


def test_a_private_key_handed_in_is_refused_by_name(ceremony):
    jwk = json.loads(ceremony.path("person.jwk").read_text()) | {"d": "AAAA"}
    ceremony.path("person.jwk").write_text(json.dumps(jwk))
    answer = grant(ceremony)
    assert answer.status == 78
    assert "private key" in answer.err


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kty":"EC"}', "\x00", '{"kty":"RSA","n":"AQAB","e":"AQAB"}'])
def test_what_is_no_public_key_is_refused(ceremony, content):
    ceremony.path("person.jwk").write_text(content)
    answer = grant(ceremony)
    assert answer.status == 78
    assert "person.jwk" in answer.err


def test_the_issuing_key_is_nobodys_own(ceremony):
    assert grant(ceremony, jwk=ceremony.path("i1/issuer.jwk")).status == 1
