"""Signed messages out of an input's bytes: resigned with the real key, so that what comes behind the signature is
reached too.

    byte 0, low two bits   how the rest is read: RAW bytes; PAYLOAD, signed; HEADER, NUL, payload, signed; EDITS (two
                           bytes where, one byte what) of a good message
    byte 0, the rest       the state of the gate, for the target `gate`
    byte 1                 the kind, by its place in KINDS; the highest bit: a second signature, by a new root

`${jwk:name}` and `${kid}` in header or payload stand for keys, which are made when the fuzzing starts, so that an
input that was kept means the same under the next run's keys. Only RAW inputs with real signatures don't.
"""

from __future__ import annotations

import functools
import json
from random import Random
from typing import Any, Final

from fuzz_mutation import changed_json
from protocol_support import AGREEMENT, NOW_UNIX_S, PAYLOADS, Forge, changed, key, load_vectors

from gateway.protocol import strict_json
from gateway.protocol.key import b64url_encode
from gateway.protocol.message import KINDS

RAW, PAYLOAD, HEADER, EDITS = range(4)
KIND_NAMES: Final = tuple(KINDS)
NONCE_BYTES: Final = bytes([7]) * 16
NONCE: Final = b64url_encode(NONCE_BYTES)
ALL_ROLES: Final = ["operator", "planner", "steward"]
_SECOND_SIGNATURE: Final = 0x80
_KEYS: Final = ("operator", "issuer", "root", "new-root")

_CLOCK = {"state": "attested", "lo_unix_s": NOW_UNIX_S - 1.0, "hi_unix_s": NOW_UNIX_S + 1.0}
_DUE = {
    "line": "night-1", "occasion": "2026-11-23T23:30", "status": "due", "attempt": 1,
    "opens_unix_s": NOW_UNIX_S - 600.0, "closes_unix_s": NOW_UNIX_S + 1200.0, "max_s": 60,
}  # fmt: skip
_FROM_DEVICE: dict[str, dict[str, Any]] = {
    "check.challenged": {
        "gateway": "gw-a", "re": "j-1", "nonce": NONCE, "life_s": 30.0, "clock": _CLOCK, "agreement": "a-1",
        "version": 4, "due": [_DUE],
    },
    "check.opened": {
        "gateway": "gw-a", "re": "j-1", "check": "c-1", "answer": "v=0\r\n", "max_s": 60, "lease_every_s": 1.0,
        "lease_life_s": 3.0,
    },
    "device.returning": {
        "gateway": "gw-a", "install_epoch": 2, "re": "j-1", "version": 1, "nonce": NONCE, "ledger_size": 9,
    },
    "device.returned": {
        "gateway": "gw-a", "install_epoch": 2, "version": 1, "who": "p-1", "second": "p-2", "ledger_size": 9,
        "time_lo": NOW_UNIX_S, "time_hi": NOW_UNIX_S + 2.0, "cosigned_size": 8, "cosigned_root": "ab" * 32,
    },
    "check.missed": {
        "gateway": "gw-a", "line": "night-1", "occasion": "2026-11-23T23:30", "why": "missed-check", "attempts": 0,
        "ended_unix_s": NOW_UNIX_S - 60.0, "ledger_size": 9,
    },
    "health": {
        "gateway": "gw-a", "boot": "b-1", "uptime_s": 300.0, "sw": "0.1.0", "clock": _CLOCK, "ledger_size": 9,
        "temperature_c": 48.5, "throttled": ["under-voltage"], "outbox_items": 2,
    },
    "update.offer": {
        "statement": 3, "version": "0.2.0", "compatible": "tillsyn-qemu", "url": "https://u.example/0.2.0.raucb",
        "manifest_sha256": "ab" * 32, "size_bytes": 1000, "ring": "all", "not_before": NOW_UNIX_S - 60.0,
        "deadline": NOW_UNIX_S + 86400.0, "stated": NOW_UNIX_S - 60.0, "expires": NOW_UNIX_S + 86400.0,
    },
    "update.report": {
        "gateway": "gw-a", "statement": 3, "version": "0.2.0", "running": "0.1.0", "phase": "downloading",
        "percent": 40,
    },
    "log": {
        "gateway": "gw-a", "boot": "b-1",
        "lines": [{"service": "guard", "level": "warning", "event": "link-lost", "count": 2}],
    },
    "setup.protocol": {
        "gateway": "gw-a", "install_epoch": 1, "ledger_size": 9, "time_lo": NOW_UNIX_S, "time_hi": NOW_UNIX_S + 2.0,
        "lines": [{"name": "camera", "how": "measured", "is_good": True, "value": "15 fps"}],
    },
    "signal": {
        "gateway": "gw-a", "check": "c-1", "frames": 300,
        "view": {
            "t_us": 12_500_000, "view": "dark", "luma": 0.05, "contrast": 0.02, "sharpness": 0.1, "motion": 0.0,
            "aim": "commanded",
        },
    },
    "check.closed": {
        "gateway": "gw-a", "check": "c-1", "why": "verdict", "who": "p-1", "line": "night-1",
        "occasion": "2026-11-23T23:30", "attempt": 1, "watched_s": 12.5, "frames": 300, "parked": True,
        "ledger_size": 7, "next": "recheck", "next_unix_s": NOW_UNIX_S + 900.0, "verdict": "not_seen",
    },
    "hello": {
        "gateway": "gw-a", "install_epoch": 2, "boot": "b-1", "sw": "0.1.0", "clock": _CLOCK, "agreement": "a-1",
        "version": 4, "due": [_DUE], "obstacle": "not-parked",
    },
}  # fmt: skip


def payload_of(kind: str) -> bytes:
    """A good payload of a kind, keys left as placeholders; a grant gives every role of a command."""
    payload = dict(_FROM_DEVICE.get(kind) or PAYLOADS[kind])
    if kind == "grant":
        payload |= {"roles": ALL_ROLES, "nbf": NOW_UNIX_S - 3600, "exp": NOW_UNIX_S + 25200}
    known = {"${nonce}": NONCE, "${asked}": NONCE, "${now}": NOW_UNIX_S}
    payload = {name: known.get(value, value) if isinstance(value, str) else value for name, value in payload.items()}
    return strict_json.dumps(payload)


def signed(kind: str, payload: bytes, header: bytes | None = None, by: str | None = None) -> bytes:
    """One JWS; the signature is real whatever header and payload say."""
    by = by or {"grant": "issuer", "time": "issuer", "trust.put": "root"}.get(kind, "operator")
    header = _header(kind, by) if header is None else _filled(header).replace(b"${kid}", _kid(by))
    text = f"{b64url_encode(header)}.{b64url_encode(_filled(payload))}".encode()
    return text + b"." + b64url_encode(key(by).sign(text)).encode()


@functools.cache
def good(kind: str) -> bytes:
    """A message of that kind as it travels: a command behind its grant, everything else alone."""
    return _joined(kind, signed(kind, payload_of(kind)))


def untrusted_of(data: bytes) -> tuple[bytes, str]:
    """The message that an input says, and the kind it is meant as."""
    mode, kind = data[:1], KIND_NAMES[(data[1] & 0x7F) % len(KIND_NAMES)] if len(data) > 1 else "check.open"
    rest = data[2:]
    match mode[0] & 3 if mode else RAW:
        case 1:
            made = signed(kind, rest)
            if kind == "trust.put" and data[1] & _SECOND_SIGNATURE:
                made += b"~" + signed(kind, rest, by="new-root")
            return _joined(kind, made), kind
        case 2:
            header, _, payload = rest.partition(b"\0")
            return _joined(kind, signed(kind, payload, header)), kind
        case 3:
            made = bytearray(good(kind))
            for at in range(0, min(len(rest), 96) - 2, 3):
                made[int.from_bytes(rest[at : at + 2]) % len(made)] = rest[at + 2]
            return bytes(made), kind
        case _:
            return rest, kind


def signed_parts(untrusted: bytes) -> list[bytes]:
    """What the signatures are over."""
    return [part.rpartition(b".")[0] for part in untrusted.split(b"~")]


def as_input(mode: int, kind: str, rest: bytes, *, state: int = 0, second: bool = False) -> bytes:
    return bytes([mode | state << 2, KIND_NAMES.index(kind) | (_SECOND_SIGNATURE if second else 0)]) + rest


def seeds(states: int = 1) -> list[bytes]:
    """Good messages of every kind in every state, and every hostile vector, as bytes and as header and payload."""
    found = [as_input(PAYLOAD, kind, payload_of(kind), state=state) for kind in KIND_NAMES for state in range(states)]
    found += [as_input(HEADER, kind, _plain_header(kind) + b"\0" + payload_of(kind)) for kind in KIND_NAMES]
    found += [as_input(EDITS, kind, b"\x00\x20A") for kind in KIND_NAMES]
    found += [as_input(RAW, kind, good(kind)) for kind in KIND_NAMES]
    rotated = json.loads(payload_of("trust.put")) | {"roots": ["${jwk:new-root}"]}
    found.append(as_input(PAYLOAD, "trust.put", strict_json.dumps(rotated), second=True))
    for vector in load_vectors().values():
        found += _of_vector(vector)
    return found


def change(data: bytes, random: Random) -> bytes | None:
    """The JSON of a signed message changed; None where there is none to change."""
    if len(data) < 3:
        return None
    match data[0] & 3:
        case 1:
            body = changed_json(data[2:], random)
            return None if body is None else data[:2] + body
        case 2:
            header, _, payload = data[2:].partition(b"\0")
            if random.random() < 0.5:
                header = changed_json(header, random) or header
            else:
                payload = changed_json(payload, random) or payload
            return data[:2] + header + b"\0" + payload
        case _:
            return None


def _of_vector(vector: dict[str, Any]) -> list[bytes]:
    forge, found = Forge(nonce=NONCE, asked=NONCE), []
    match vector:
        case {"target": "command" | "statement", "input": raw}:
            found.append(as_input(RAW, "check.open", forge.raw(raw)))
        case {"target": "command"}:
            found.append(as_input(RAW, "check.open", forge.command(vector)))
            found += _recipe(forge, {"kind": "grant"} | vector.get("grant", {}))
            found += _recipe(forge, vector.get("command", {}))
        case {"target": "statement", "token": token}:
            found.append(as_input(RAW, "time", forge.jws({"kind": "time"} | token)))
            found += _recipe(forge, {"kind": "time"} | token)
        case {"target": "agreement", "set": dict()}:
            body = {"aud": "gw-a/2", "jti": "j-1", "agreement": changed(AGREEMENT | {"version": 5}, vector["set"])}
            found.append(as_input(PAYLOAD, "agreement.put", json.dumps(body).encode()))
        case {"target": "trust", "tokens": tokens}:
            for token in tokens:
                found += _recipe(forge, {"kind": "trust.put"} | token) if isinstance(token, dict) else []
    return found


def _recipe(forge: Forge, recipe: dict[str, Any]) -> list[bytes]:
    """Header and payload of a recipe, if it is more than a good message with its signature or spelling spoilt."""
    kind = recipe.get("kind", "check.open")
    if kind not in KINDS or not {
        "header",
        "header_raw",
        "header_replace",
        "payload",
        "payload_raw",
        "payload_replace",
    } & (set(recipe)):
        return []
    header, payload = forge.parts(recipe, "operator")
    header = header.replace(_kid("operator"), b"${kid}")
    for name in _KEYS:
        payload = payload.replace(strict_json.dumps(key(name).verifying.jwk()), b'"${jwk:%s}"' % name.encode())
    return [as_input(HEADER, kind, header + b"\0" + payload)]


def _joined(kind: str, made: bytes) -> bytes:
    match kind:
        case "grant":
            return made + b"~" + signed("check.challenge", payload_of("check.challenge"))
        case "time" | "trust.put":
            return made
        case _:
            return _good_grant() + b"~" + made


@functools.cache
def _good_grant() -> bytes:
    return signed("grant", payload_of("grant"))


@functools.cache
def _kid(name: str) -> bytes:
    return key(name).verifying.kid.encode()


def _plain_header(kind: str) -> bytes:
    return strict_json.dumps({"alg": "ES256", "kid": "${kid}", "typ": f"tillsyn.{kind}+jws"})


@functools.cache
def _header(kind: str, by: str) -> bytes:
    return _plain_header(kind).replace(b"${kid}", _kid(by))


@functools.cache
def _jwk(name: str) -> bytes:
    return strict_json.dumps(key(name).verifying.jwk())


def _filled(text: bytes) -> bytes:
    if b"${" in text:
        for name in _KEYS:
            text = text.replace(b'"${jwk:%s}"' % name.encode(), _jwk(name))
    return text
