"""Two JOSE implementations that are not ours read what we sign, and we read what they sign.

`jose` (npm, in Node.js) is what a browser's side may use; joserfc is the other implementation in Python. Without
Node.js these tests fail: a contract that nobody checks is none. The package is installed by its lock file into a
temporary directory.

Mutations that turn a test here red (gateway/protocol/):
* key.thumbprint: another order of members → test_a_key_has_the_same_name_everywhere
* key.sign: DER instead of r and s → test_jose_verifies_what_we_sign, test_joserfc_verifies_what_we_sign
* key.sign/verify: another hash → all of them
* envelope.sign: a header of our own → test_the_others_read_the_header_that_we_wrote
* key.verify: refuse a high S → test_we_verify_what_jose_signs (jose's WebCrypto makes both)
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from joserfc import jwk as rfc_jwk
from joserfc import jws as rfc_jws
from joserfc.errors import JoseError

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.envelope import TrustStore, VerifiedCommand, sign, verify, verify_command
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.protocol.message import Challenge, Confirmation, Grant, Open, Role, TimeStatement

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "jose"
INSTALL_LIMIT_S = 90
ANSWER_LIMIT_S = 20
NOW_UNIX_S = 1_795_470_000
GATEWAY = "gw-a"
OPEN = {
    "aud": f"{GATEWAY}/2",
    "jti": "j-1",
    "nonce": "A" * 22,
    "agreement": "a-1",
    "version": 4,
    "line": "night-1",
    "occasion": "2026-11-23T23:30",
    "attempt": 1,
    "offer": "v=0\r\ns=\u00e5\u00e4\u00f6 \U0001f319\r\n",
}


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: `make apt-test` installs it; the contract with jose can't be checked"
    return found


@pytest.fixture(scope="module")
def jose(tmp_path_factory):
    """Gives a list of orders to the script and returns its answers."""
    node, npm = _program("node"), _program("npm")
    place = tmp_path_factory.mktemp("jose")
    for name in ("package.json", "package-lock.json", "sign.mjs"):
        shutil.copy(HERE / name, place)
    install = [npm, "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    made = subprocess.run(install, cwd=place, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    assert made.returncode == 0, f"npm ci could not install jose:\n{made.stderr}"

    def ask(*orders: dict) -> list[dict]:
        lines = "".join(json.dumps(order) + "\n" for order in orders)
        answered = subprocess.run(
            [node, "sign.mjs"],
            cwd=place,
            input=lines,
            capture_output=True,
            text=True,
            timeout=ANSWER_LIMIT_S,
            check=False,
        )
        assert answered.returncode == 0, answered.stderr
        return [json.loads(line) for line in answered.stdout.splitlines()]

    return ask


def granted(jwk: dict[str, str], jws: bytes) -> VerifiedCommand:
    """What the device makes of a command, under a grant that we issue to that key."""
    issuer = SigningKey.generate()
    grant = Grant("s-1", "p-1", [Role.OPERATOR], Confirmation(jwk), 1, NOW_UNIX_S, NOW_UNIX_S + 3600, homes=[GATEWAY])
    trust = TrustStore(1, 1, {}, {issuer.verifying.kid: issuer.verifying})
    untrusted = sign(grant, issuer) + b"~" + jws
    return verify_command(untrusted, trust, audience=f"{GATEWAY}/2", gateway=GATEWAY, groups=frozenset())


def typ(kind: str) -> str:
    return f"tillsyn.{kind}+jws"


def test_we_verify_what_jose_signs(jose):
    # Eight keys, so that both halves of S and, now and then, a leading zero are among them.
    order = {"do": "sign", "alg": "ES256", "header": {"typ": typ("check.open")}, "payload": OPEN}
    for answer in jose(*[order] * 8):
        result = granted(answer["jwk"], answer["jws"].encode())
        assert isinstance(result.command, Open)
        assert {name: getattr(result.command, name) for name in OPEN} == OPEN
        assert (result.who, result.role) == ("p-1", Role.OPERATOR)


@pytest.mark.parametrize(
    ("alg", "header"),
    [
        ("ES384", {}),
        ("RS256", {}),
        ("Ed25519", {}),
        ("ES256", {"cty": "JWT"}),
        ("ES256", {"b64": True, "crit": ["b64"]}),
        ("ES256", {"jku": "https://forger.example/keys"}),
        ("ES256", {"typ": "JWT"}),
    ],
)
def test_we_refuse_what_jose_signs_outside_the_profile(jose, alg, header):
    (answer,) = jose({"do": "sign", "alg": alg, "header": {"typ": typ("check.open")} | header, "payload": OPEN})
    ours = SigningKey.generate().verifying.jwk()
    jwk = answer["jwk"] if answer["jwk"].get("crv") == "P-256" else ours
    with pytest.raises(RefusedError) as caught:
        granted(jwk, answer["jws"].encode())
    assert caught.value.code is RefusalCode.MALFORMED


def test_jose_verifies_what_we_sign(jose):
    ours, other = SigningKey.generate(), SigningKey.generate()
    jws = [sign(Open(**OPEN), ours).decode() for _ in range(8)]
    good = jose(*[{"do": "verify", "jws": made, "jwk": ours.verifying.jwk()} for made in jws])
    assert [answer["payload"] for answer in good] == [OPEN] * 8
    (bad,) = jose({"do": "verify", "jws": jws[0], "jwk": other.verifying.jwk()})
    assert bad == {"error": "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"}


def test_the_others_read_the_header_that_we_wrote(jose):
    ours = SigningKey.generate()
    jws = sign(Challenge(f"{GATEWAY}/2", "j-1"), ours).decode()
    written = {"alg": "ES256", "kid": ours.verifying.kid, "typ": typ("check.challenge")}
    (answer,) = jose({"do": "verify", "jws": jws, "jwk": ours.verifying.jwk()})
    assert answer["header"] == written
    assert rfc_jws.extract_compact(jws.encode()).protected == written


def test_a_key_has_the_same_name_everywhere(jose):
    keys = [SigningKey.generate().verifying for _ in range(8)]
    answers = jose(*[{"do": "thumbprint", "jwk": key.jwk()} for key in keys])
    assert [answer["kid"] for answer in answers] == [key.kid for key in keys]
    assert [rfc_jwk.ECKey.import_key(key.jwk()).thumbprint() for key in keys] == [key.kid for key in keys]


def test_joserfc_verifies_what_we_sign():
    ours, other = SigningKey.generate(), SigningKey.generate()
    jws = sign(TimeStatement(GATEWAY, "A" * 22, 1.5e9, 0.5), ours)
    theirs = rfc_jwk.ECKey.import_key(ours.verifying.jwk())
    read = rfc_jws.deserialize_compact(jws, theirs, algorithms=["ES256"])
    assert json.loads(read.payload) == {"gateway": GATEWAY, "nonce": "A" * 22, "unix_s": 1.5e9, "radius_s": 0.5}
    with pytest.raises(JoseError):
        rfc_jws.deserialize_compact(jws, rfc_jwk.ECKey.import_key(other.verifying.jwk()), algorithms=["ES256"])


def test_we_verify_what_joserfc_signs():
    for _ in range(8):
        theirs = rfc_jwk.ECKey.generate_key("P-256")
        jwk = {name: value for name, value in theirs.as_dict(private=False).items() if name != "kid"}
        kid = theirs.thumbprint()
        header = {"alg": "ES256", "kid": kid, "typ": typ("check.open")}
        jws = rfc_jws.serialize_compact(header, json.dumps(OPEN), theirs, algorithms=["ES256"])
        assert granted(jwk, jws.encode()).kid == kid
        statement = {"gateway": GATEWAY, "nonce": "A" * 22, "unix_s": 1, "radius_s": 0}
        told = rfc_jws.serialize_compact(header | {"typ": typ("time")}, json.dumps(statement), theirs)
        keys = {kid: VerifyingKey.from_jwk(jwk)}
        assert verify(told.encode(), keys, TimeStatement) == TimeStatement(GATEWAY, "A" * 22, 1.0, 0.0)


def test_the_lock_file_names_no_host():
    """Which registry is used is the machine's business; what is installed is fixed by its hash."""
    lock = json.loads((HERE / "package-lock.json").read_text())
    assert "://" not in json.dumps(lock)
    installed = {name: package for name, package in lock["packages"].items() if name}
    assert list(installed) == ["node_modules/jose"]
    assert installed["node_modules/jose"]["integrity"].startswith("sha512-")
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    assert wanted == {"jose": installed["node_modules/jose"]["version"]}
