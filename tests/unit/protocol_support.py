"""The other side, whole: it signs, lies and replays, with keys made at run time.

A vector (tests/vectors/) is either raw bytes (`input`) or a recipe that says how one message differs from a good one;
`Forge` makes its bytes and `deliver` gives them to the room that must refuse them. `${name}` in a recipe stands for
what is known at run time only: kids, keys, the nonce, the time. tests/vectors/make.py explains the words.
"""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from gateway.agreement import Attempt, LocalState, parse_agreement
from gateway.check import Facts
from gateway.core.interval_clock import Attestation, IntervalClock
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import Gate, Identity, Returned
from gateway.protocol import sdp, strict_json
from gateway.protocol.envelope import TrustStore, make_trust
from gateway.protocol.key import SigningKey, VerifyingKey, b64url_encode

VECTORS = Path(__file__).parents[1] / "vectors"
GATEWAY = "gw-a"
INSTALL_EPOCH = 2
AUDIENCE = f"{GATEWAY}/{INSTALL_EPOCH}"
GROUPS = frozenset({"hv-centrum"})
EPOCH = 5
NOW_UNIX_S = int(datetime(2026, 11, 23, 22, 40, tzinfo=UTC).timestamp())
"""Ten minutes into the window of the agreement below (23:30 in Stockholm is 22:30 UTC)."""
BOOT_S = 1000.0
"""BOOTTIME at which the clock was attested and the nonce was given out."""
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
FIELD = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
REFUSAL_LIMIT_S = 0.05
"""Source: requirement F51."""

FINGERPRINT = ":".join(f"{byte:02X}" for byte in hashlib.sha256(b"operator").digest())
OTHER_FINGERPRINT = ":".join(f"{byte:02X}" for byte in hashlib.sha256(b"somebody else").digest())
SHA512_FINGERPRINT = ":".join(f"{byte:02X}" for byte in hashlib.sha512(b"operator").digest())
SHA1_FINGERPRINT = ":".join(f"{byte:02X}" for byte in hashlib.sha1(b"operator").digest())
OFFER = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"
    f"a=fingerprint:sha-256 {FINGERPRINT}\r\na=setup:actpass\r\n"
)
AGREEMENT: dict[str, Any] = {
    "agreement": "a-1",
    "version": 4,
    "gateway": GATEWAY,
    "install_epoch": INSTALL_EPOCH,
    "timezone": "Europe/Stockholm",
    "valid": {"from": "2026-11-01", "until": "2027-10-31"},
    "consent": {"resident": {"given": "2026-10-30", "how": "signed", "ref": "c-1"}, "cohabitant": None},
    "lines": [
        {
            "id": "night-1",
            "rrule": "FREQ=DAILY",
            "start": "23:30",
            "window_min": 30,
            "max_s": 60,
            "recheck": {"after_min": 15, "times": 1},
        }
    ],
    "picture": {"mode": "clear"},
    "lamp": "dim",
    "if_not_seen": [{"do": "visit", "unit": "hv-centrum", "within_min": 45}],
    "pauses": [],
    "resident_ref": "r-1",
}
PAYLOADS: dict[str, dict[str, Any]] = {
    "grant": {
        "sub": "s-1",
        "name_ref": "p-1",
        "roles": ["operator"],
        "cnf": {"jwk": "${jwk:operator}"},
        "epoch": EPOCH,
        "nbf": "${now-3600}",
        "exp": "${now+25200}",
        "homes": [GATEWAY],
    },
    "check.challenge": {"aud": AUDIENCE, "jti": "j-1"},
    "check.open": {
        "aud": AUDIENCE,
        "jti": "j-1",
        "nonce": "${nonce}",
        "agreement": "a-1",
        "version": 4,
        "line": "night-1",
        "occasion": "2026-11-23T23:30",
        "attempt": 1,
        "offer": OFFER,
    },
    "check.lease": {"aud": AUDIENCE, "check": "c-1", "counter": 1},
    "check.verdict": {"aud": AUDIENCE, "jti": "j-1", "check": "c-1", "counter": 2, "verdict": "seen"},
    "check.close": {"aud": AUDIENCE, "jti": "j-1", "check": "c-1"},
    "agreement.put": {"aud": AUDIENCE, "jti": "j-1", "agreement": AGREEMENT | {"version": 5}},
    "agreement.withdraw": {"aud": AUDIENCE, "jti": "j-1"},
    "tunnel.put": {
        "aud": AUDIENCE,
        "jti": "j-1",
        "settings": {
            "version": 2,
            "address": "10.90.128.1",
            "centre": ["10.90.0.1"],
            "centre_key": "A" * 43 + "=",
            "endpoint_host": "centre.example",
            "endpoint_port": 51820,
            "mtu_bytes": 1200,
        },
    },
    "config.put": {
        "aud": AUDIENCE,
        "jti": "j-1",
        "settings": {
            "version": 2,
            "broker_host": "10.90.0.3",
            "broker_port": 8883,
            "broker_name": "broker.example",
            "fallback": {
                "broker_host": "broker.example",
                "broker_port": 443,
                "relay_host": "relay.example",
                "relay_port": 443,
            },
        },
    },
    "setup.enter": {"aud": AUDIENCE, "jti": "j-1", "at": 1_764_000_000.0},
    "device.erase": {"aud": AUDIENCE, "jti": "j-1", "version": 1, "code": "012345"},
    "device.return": {"aud": AUDIENCE, "jti": "j-1", "version": 1, "nonce": "A" * 22},
    "trust.put": {"version": 2, "epoch": EPOCH, "roots": ["${jwk:root}"], "issuers": ["${jwk:issuer}"]},
    "time": {"gateway": GATEWAY, "nonce": "${asked}", "unix_s": "${now}", "radius_s": 1.0},
    "time.ask": {"gateway": GATEWAY, "nonce": "${asked}"},
    "refused": {"gateway": GATEWAY, "re": "j-1", "code": "busy"},
    "accepted": {"gateway": GATEWAY, "re": "j-1"},
}


@functools.cache
def key(name: str) -> SigningKey:
    """The P-256 key of that name, the same for the whole run."""
    return SigningKey.generate()


@functools.cache
def foreign_key(name: str) -> Any:
    """A key that the profile does not know."""
    match name:
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "k256":
            return ec.generate_private_key(ec.SECP256K1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case _:
            raise ValueError(name)


def _foreign_jwk(name: str) -> dict[str, str]:
    numbers = foreign_key(name).public_key().public_numbers()
    curve, size = {"p384": ("P-384", 48), "k256": ("secp256k1", 32)}[name]
    x, y = b64url_encode(numbers.x.to_bytes(size)), b64url_encode(numbers.y.to_bytes(size))
    return {"kty": "EC", "crv": curve, "x": x, "y": y}


def _jwk(name: str) -> dict[str, str]:
    """A key as JWK, or one spoilt in the way the name says."""
    good = key("operator").verifying.jwk()
    coordinate = int.from_bytes(_bytes_of(good["y"]))
    match name:
        case "with-private-part":
            return good | {"d": b64url_encode(key("operator").private.private_numbers().private_value.to_bytes(32))}
        case "off-curve":
            return good | {"y": b64url_encode((coordinate ^ 1).to_bytes(32))}
        case "at-infinity":
            return good | {"x": b64url_encode(bytes(32)), "y": b64url_encode(bytes(32))}
        case "leading-zero-stripped":
            short = _with_leading_zero().verifying.jwk()
            return short | {"x": b64url_encode(_bytes_of(short["x"])[1:])}
        case "leading-zero-added":
            return good | {"x": b64url_encode(b"\0" + _bytes_of(good["x"]))}
        case "beyond-the-prime":
            return _beyond_the_prime()
        case "padded":
            return good | {"x": good["x"] + "="}
        case "p256-name-p384-point":
            return _foreign_jwk("p384") | {"crv": "P-256"}
        case "p256-name-k256-point":
            return _foreign_jwk("k256") | {"crv": "P-256"}
        case "p384" | "k256":
            return _foreign_jwk(name)
        case _:
            return key(name).verifying.jwk()


def _bytes_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@functools.cache
def _with_leading_zero() -> SigningKey:
    while True:
        found = SigningKey.generate()
        if found.private.public_key().public_numbers().x < 1 << 248:
            return found


def _beyond_the_prime() -> dict[str, str]:
    """(p, sqrt(b)): the point with x = 0, its x written so that only a reduction makes it one."""
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    y = pow(b, (FIELD + 1) // 4, FIELD)
    assert y * y % FIELD == b
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": b64url_encode(FIELD.to_bytes(32)),
        "y": b64url_encode(y.to_bytes(32)),
    }


def der_of(raw: bytes) -> bytes:
    return utils.encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))


def with_s(raw: bytes, s: int) -> bytes:
    return raw[:32] + s.to_bytes(32)


def with_r(raw: bytes, r: int) -> bytes:
    return r.to_bytes(32) + raw[32:]


def _sign_foreign(name: str, signed: bytes) -> bytes:
    private = foreign_key(name)
    match private:
        case ed25519.Ed25519PrivateKey():
            return private.sign(signed)
        case rsa.RSAPrivateKey():
            return private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        case _:
            size = (private.curve.key_size + 7) // 8
            digest = {32: hashes.SHA256(), 48: hashes.SHA384(), 66: hashes.SHA512()}[size]
            r, s = utils.decode_dss_signature(private.sign(signed, ec.ECDSA(digest)))
            return r.to_bytes(size) + s.to_bytes(size)


def _mac(secret_name: str, signed: bytes) -> bytes:
    """HS256 with what everybody knows as the secret (RFC 8725 §2.1)."""
    public = key("operator").private.public_key()
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "jwk": strict_json.dumps(key("operator").verifying.jwk()),
        "empty": b"",
    }[secret_name]
    return hmac.digest(secret, signed, "sha256")


def make_signature(how: str, by: str, signed: bytes) -> bytes:
    """A signature, or what a forger puts in its place."""
    if how.startswith("hs256:"):
        return _mac(how.removeprefix("hs256:"), signed)
    if by in ("p384", "p521", "k256", "ed25519", "rsa"):
        return _sign_foreign(by, signed)
    if how == "sha-384":
        r, s = utils.decode_dss_signature(key(by).private.sign(signed, ec.ECDSA(hashes.SHA384())))
        return r.to_bytes(32) + s.to_bytes(32)
    good = key(by).sign(signed)
    if how.startswith("flip:"):
        flipped = int.from_bytes(good) ^ 1 << (511 - int(how.removeprefix("flip:")))
        return flipped.to_bytes(64)
    if how in ("r-trimmed", "s-trimmed"):
        at = 0 if how == "r-trimmed" else 32
        while good[at]:
            good = key(by).sign(signed)
        return good[:at] + good[at + 1 :]
    r, s = int.from_bytes(good[:32]), int.from_bytes(good[32:])
    other_s = ORDER - s
    ways: dict[str, Callable[[], bytes]] = {
        "plain": lambda: good,
        "none": lambda: b"",
        "der": lambda: der_of(good),
        "high-s": lambda: with_s(good, max(s, other_s)),
        "low-s": lambda: with_s(good, min(s, other_s)),
        "63-bytes": lambda: good[:63],
        "65-bytes": lambda: good + b"\0",
        "65-bytes-in-front": lambda: b"\0" + good,
        "32-bytes": lambda: good[:32],
        "128-bytes": lambda: good + good,
        "zeros": lambda: bytes(64),
        "ones": lambda: b"\xff" * 64,
        "garbage": lambda: b"A" * 64,
        "r-0": lambda: with_r(good, 0),
        "s-0": lambda: with_s(good, 0),
        "r-n": lambda: with_r(good, ORDER),
        "s-n": lambda: with_s(good, ORDER),
        "r-n-s-n": lambda: ORDER.to_bytes(32) * 2,
        "r-1-s-1": lambda: (1).to_bytes(32) * 2,
        "s-beyond-n": lambda: with_s(good, (1 << 256) - 1),
        "swapped": lambda: good[32:] + good[:32],
        "digest-as-signature": lambda: hashlib.sha256(signed).digest() * 2,
    }
    return ways[how]()


_PLACEHOLDER = re.compile(r"\$\{([^}]+)\}")


class Forge:
    """Makes messages by recipe; one for each delivery, because a nonce belongs to one gate."""

    def __init__(self, nonce: str = "A" * 22, asked: str = "B" * 22) -> None:
        self.known: dict[str, str] = {
            "nonce": nonce,
            "asked": asked,
            "offer": OFFER,
            "fp": FINGERPRINT,
            "fp-lower": FINGERPRINT.lower(),
            "fp-other": OTHER_FINGERPRINT,
            "fp-sha512": SHA512_FINGERPRINT,
            "fp-sha1": SHA1_FINGERPRINT,
        }

    def value(self, name: str) -> Any:
        if name in self.known:
            return self.known[name]
        word, _, rest = name.partition(":")
        match word:
            case "kid":
                return key(rest).verifying.kid
            case "jwk":
                return _jwk(rest)
            case "jws":
                return self.jws({"kind": rest}).decode()
            case _ if re.fullmatch(r"now([+-][0-9.]+)?", name):
                offset_s = float(name[3:] or 0)
                return NOW_UNIX_S + (int(offset_s) if offset_s.is_integer() else offset_s)
        raise ValueError(f"a recipe says ${{{name}}}")

    def fill(self, value: Any) -> Any:
        """Placeholders in a JSON value; one that is the whole string may become any JSON value."""
        match value:
            case str():
                if whole := _PLACEHOLDER.fullmatch(value):
                    return self.value(whole[1])
                return _PLACEHOLDER.sub(lambda found: str(self.value(found[1])), value)
            case dict():
                return {name: self.fill(item) for name, item in value.items() if item != "${absent}"}
            case list():
                return [self.fill(item) for item in value]
            case _:
                return value

    def raw(self, value: Any) -> bytes:
        """Raw bytes as a vector writes them: text, {"b64": …}, {"times": n, "of": …}, or a list of these."""
        match value:
            case str():
                return _PLACEHOLDER.sub(lambda found: self._text(found[1]), value).encode("utf-8")
            case {"b64": encoded}:
                return base64.b64decode(encoded, validate=True)
            case {"times": times, "of": part}:
                return self.raw(part) * times
            case list():
                return b"".join(self.raw(part) for part in value)
        raise ValueError(f"not raw bytes: {value!r}")

    def _text(self, name: str) -> str:
        value = self.value(name)
        return value if isinstance(value, str) else strict_json.dumps(value).decode()

    def _part(self, recipe: dict[str, Any], part: str, good: dict[str, Any]) -> bytes:
        if f"{part}_raw" in recipe:
            return self.raw(recipe[f"{part}_raw"])
        content = strict_json.dumps(self.fill(good | recipe.get(part, {})))
        for old, new in recipe.get(f"{part}_replace", []):
            assert content.count(old.encode()) == 1, f"{old!r} must stand exactly once in {content!r}"
            content = content.replace(old.encode(), self.raw(new))
        return content

    def parts(self, recipe: dict[str, Any], key_name: str) -> tuple[bytes, bytes]:
        kind = recipe.get("kind", "check.open")
        header = {"alg": "ES256", "kid": f"${{kid:{key_name}}}", "typ": f"tillsyn.{kind}+jws"}
        return self._part(recipe, "header", header), self._part(recipe, "payload", PAYLOADS[kind])

    def jws(self, recipe: dict[str, Any], *, pad: tuple[int, int] = (0, 0)) -> bytes:
        """One message. `pad` puts spaces behind header and payload."""
        key_name = recipe.get("key", "issuer" if recipe.get("kind") in ("grant", "time") else "operator")
        header, payload = self.parts(recipe, key_name)
        header, payload = header + b" " * pad[0], payload + b" " * pad[1]
        protected, body = b64url_encode(header), b64url_encode(payload)
        signed = f"{protected}.{body}".encode()
        if signed_as := recipe.get("signed_as"):
            other_header, other_payload = self.parts(recipe | signed_as, key_name)
            signed = f"{b64url_encode(other_header)}.{b64url_encode(other_payload)}".encode()
        match recipe.get("signed_over"):
            case "payload":
                signed = payload
            case "decoded":
                signed = header + b"." + payload
            case "payload-part":
                signed = body.encode()
        signature = b64url_encode(make_signature(recipe.get("sign", "plain"), recipe.get("by", key_name), signed))
        parts = {"h": protected, "p": body, "s": signature}
        return _PLACEHOLDER.sub(
            lambda found: _spoil(parts[found[1][0]], found[1][2:]) if found[1][0] in parts else self._text(found[1]),
            recipe.get("compact", "${h}.${p}.${s}"),
        ).encode()

    def command(self, vector: dict[str, Any]) -> bytes:
        """`<grant>~<command>`, or how the vector joins them."""
        grant = {"kind": "grant"} | vector.get("grant", {})
        command = vector.get("command", {})
        if total_bytes := vector.get("total_bytes"):
            return self._of_size(grant, command, total_bytes)
        made = {"grant": self.jws(grant).decode(), "command": self.jws(command).decode()}
        return _PLACEHOLDER.sub(
            lambda found: made[found[1]] if found[1] in made else self._text(found[1]),
            vector.get("envelope", "${grant}~${command}"),
        ).encode()

    def _of_size(self, grant: dict[str, Any], command: dict[str, Any], total_bytes: int) -> bytes:
        # Unpadded base64 leaves out every fourth length, so the header takes what the payload can't.
        first = self.jws(grant) + b"~"
        for header_pad in range(4):
            missing = total_bytes - len(first) - len(self.jws(command, pad=(header_pad, 0)))
            for payload_pad in range(missing * 3 // 4 - 3, missing * 3 // 4 + 4):
                made = first + self.jws(command, pad=(header_pad, payload_pad))
                if len(made) == total_bytes:
                    return made
        raise AssertionError(f"no padding gives {total_bytes} bytes")


def _spoil(text: str, how: str) -> str:
    """A part of a compact JWS in another spelling."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    match how:
        case "":
            return text
        case "pad":
            assert len(text) % 4, "nothing to pad"
            return text + "=" * (-len(text) % 4)
        case "standard":
            other = text.replace("-", "+").replace("_", "/")
            assert other != text, "no letter differs"
            return other
        case "stray":
            assert len(text) % 4, "no bits are over"
            return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]
        case "flip":
            middle = len(text) // 2
            return text[:middle] + alphabet[alphabet.index(text[middle]) ^ 1] + text[middle + 1 :]
        case "folded":
            return text[:10] + "\r\n " + text[10:]
        case "first-letter-lost":
            return text[1:]
    raise ValueError(how)


def a_clock(*, attested: bool = True) -> IntervalClock:
    clock = IntervalClock(NOW_UNIX_S - 3600.0, BOOT_S)
    if not attested:
        return clock
    return clock.with_attestation(Attestation(float(NOW_UNIX_S), 1.0, BOOT_S - 0.2, BOOT_S - 0.1))


def a_trust(version: int = 1, epoch: int = EPOCH) -> TrustStore:
    root, issuer = key("root").verifying, key("issuer").verifying
    return TrustStore(version, epoch, {root.kid: root}, {issuer.kid: issuer})


def changed(value: Any, changes: dict[str, Any]) -> Any:
    """A copy of a JSON value with `{"a/0/b": new}`; "${absent}" takes a member away."""
    value = copy.deepcopy(value)
    for path, new in changes.items():
        *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
        at = value
        for step in steps:
            at = at[step]
        if new == "${absent}":
            del at[last]
        else:
            at[last] = new
    return value


def a_gate(given: dict[str, Any] | None = None) -> Gate:
    """A gate at which the plain open of PAYLOADS is accepted, or as `given` says."""
    given = given or {}
    agreement = None
    if given.get("agreement", {}) is not None:
        agreement = parse_agreement(changed(AGREEMENT, given.get("agreement", {})))
    gate = Gate(
        Identity(GATEWAY, given.get("install_epoch", INSTALL_EPOCH), GROUPS),
        a_trust(epoch=given.get("trust_epoch", EPOCH)),
        a_clock(attested=given.get("attested", True)),
        os.urandom,
        agreement,
        local=LocalState(given.get("withdrawn", False), given.get("paused_until_unix_s")),
        obstacle=RefusalCode(given["obstacle"]) if "obstacle" in given else None,
        returned=Returned(given["returned"]) if "returned" in given else None,
    )
    if runner := given.get("running"):
        kid = key(runner).verifying.kid
        gate.current = Facts("c-1", "p-1", kid, "night-1", "2026-11-23T23:30", 1, 60.0)
    if outcome := given.get("outcome"):
        opened_s = NOW_UNIX_S - 300.0
        closed_s = None if outcome == "open" else opened_s + 30.0
        gate.note_attempt(Attempt("night-1", "2026-11-23T23:30", 1, opened_s, closed_s, outcome))
    return gate


def a_nonce(gate: Gate, how: str) -> str:
    """The nonce that the open will carry."""
    operator = key("operator").verifying.kid
    match how:
        case "fresh":
            return gate.nonces.issue(operator, now_s=BOOT_S)
        case "used":
            nonce = gate.nonces.issue(operator, now_s=BOOT_S)
            gate.nonces.use(nonce, operator, now_s=BOOT_S)
            return nonce
        case "other-key":
            return gate.nonces.issue(key("other").verifying.kid, now_s=BOOT_S)
        case "other-boot":
            return a_gate().nonces.issue(operator, now_s=BOOT_S)
        case "pushed-out":
            nonce = gate.nonces.issue(operator, now_s=BOOT_S)
            for _ in range(4):
                gate.nonces.issue(operator, now_s=BOOT_S)
            return nonce
        case "of-a-time-statement":
            return gate.ask_time(now_s=BOOT_S)
    raise ValueError(how)


def facts_of(gate: Gate) -> dict[str, Any]:
    """Everything the gate decides by. Its values are frozen, so a shallow copy is a snapshot.

    Left out: the nonces, which have a snapshot of their own, and what only makes a known answer cheaper.
    """
    left_out = {"nonces", "random_bytes", "_grants", "_refused"}
    facts = {field.name: getattr(gate, field.name) for field in fields(gate) if field.name not in left_out}
    return facts | {"history": list(gate.history)}


def nonces_of(gate: Gate) -> list[tuple[str, str, float, bool]]:
    return [(nonce, kept.kid, kept.issued_s, kept.used) for nonce, kept in gate.nonces._issued.items()]


@dataclass
class Delivery:
    """What one delivery did: the answer or the refusal, its cost, and whether the gate is as before."""

    code: str
    result: Any
    cost_s: float
    same_facts: bool = True
    same_nonces: bool = True
    code_again: str | None = None
    """What the same bytes got when they came once more, a second later."""


def _timed(act: Callable[[], Any]) -> tuple[str, Any, float]:
    """Nothing but RefusedError is caught: any other exception is a defect and fails the test."""
    start_s = time.thread_time()
    try:
        result, code = act(), "accepted"
    except RefusedError as refused:
        result, code = refused, refused.code.value
    return code, result, time.thread_time() - start_s


def tried(act: Callable[[], Any]) -> tuple[str, Any]:
    """("accepted", the result), or (the refusal's code, the refusal); any other exception goes through."""
    code, result, _ = _timed(act)
    return code, result


def depth_of(value: Any) -> int:
    """How deep a JSON value is nested; 0 for one without brackets."""
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0


def deliver(vector: dict[str, Any]) -> Delivery:
    """Build what the vector says and give it to the room that is its target."""
    match vector["target"]:
        case "command":
            return _deliver_command(vector)
        case "statement":
            return _deliver_statement(vector)
        case "agreement" if "input" not in vector:
            agreement = changed(AGREEMENT | {"version": 5}, vector["set"])
            planner = {"payload": {"roles": ["planner"]}}
            command = {"kind": "agreement.put", "payload": {"agreement": agreement}}
            return _deliver_command(vector | {"grant": planner, "command": command})
        case "agreement":
            untrusted = Forge().raw(vector["input"])
            return Delivery(*_timed(lambda: parse_agreement(untrusted)))
        case "trust":
            untrusted, held = _trust_bytes(vector), _roots(vector.get("held", ["root"]))
            return Delivery(*_timed(lambda: make_trust(untrusted, held)))
        case "sdp":
            text = Forge().raw(vector["input"]).decode("utf-8")
            return Delivery(*_timed(lambda: sdp.only_fingerprint(text)))
        case "json":
            untrusted = Forge().raw(vector["input"])
            return Delivery(*_timed(lambda: strict_json.loads(untrusted)))
    raise ValueError(vector["target"])


def _deliver_command(vector: dict[str, Any]) -> Delivery:
    given = vector.get("gate", {})
    gate = a_gate(given)
    forge = Forge(nonce=a_nonce(gate, given.get("nonce", "fresh")))
    untrusted = _trust_bytes(vector) if "tokens" in vector or "input" in vector else forge.command(vector)
    facts, nonces = facts_of(gate), nonces_of(gate)
    now_s = BOOT_S + given.get("later_s", 1.0)
    code, result, cost_s = _timed(lambda: gate.receive(untrusted, now_s=now_s))
    same_nonces = nonces_of(gate) == nonces
    code_again, _ = tried(lambda: gate.receive(untrusted, now_s=now_s + 1.0))
    return Delivery(code, result, cost_s, facts_of(gate) == facts, same_nonces, code_again)


def _deliver_statement(vector: dict[str, Any]) -> Delivery:
    given = vector.get("gate", {}) | {"attested": False}
    gate = a_gate(given)
    asked = gate.ask_time(now_s=BOOT_S) if given.get("asked", True) else "B" * 22
    if given.get("asked_again"):
        gate.ask_time(now_s=BOOT_S)
    forge = Forge(nonce=a_nonce(gate, "fresh"), asked=asked)
    untrusted = forge.raw(vector["input"]) if "input" in vector else forge.jws({"kind": "time"} | vector["token"])
    if given.get("heard_before"):
        gate.hear_time(untrusted, now_s=BOOT_S + 0.5)
    facts, nonces = facts_of(gate), nonces_of(gate)
    code, result, cost_s = _timed(lambda: gate.hear_time(untrusted, now_s=BOOT_S + 1.0))
    return Delivery(code, result, cost_s, facts_of(gate) == facts, nonces_of(gate) == nonces)


def _roots(names: list[str]) -> dict[str, VerifyingKey]:
    return {key(name).verifying.kid: key(name).verifying for name in names}


def _trust_bytes(vector: dict[str, Any]) -> bytes:
    forge = Forge()
    if "input" in vector:
        return forge.raw(vector["input"])
    return b"~".join(
        forge.raw(token) if isinstance(token, str) else forge.jws({"kind": "trust.put", "key": "root"} | token)
        for token in vector["tokens"]
    )


def load_vectors() -> dict[str, dict[str, Any]]:
    """Every vector in the tree, by its path without `.json`."""
    return {
        path.relative_to(VECTORS).with_suffix("").as_posix(): json.loads(path.read_text("utf-8"))
        for path in sorted(VECTORS.rglob("*.json"))
    }
