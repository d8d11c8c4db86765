"""What it costs to verify a command, and to refuse what is none. One thread, one core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from functools import partial

import msgspec
from aiortc import RTCConfiguration, RTCPeerConnection
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from bench.result import Result, Side
from gateway.core.refusal import RefusedError
from gateway.protocol import sdp, strict_json
from gateway.protocol.envelope import MAX_ENVELOPE_BYTES, TrustStore, sign, split, verify_command
from gateway.protocol.key import SigningKey, b64url_encode
from gateway.protocol.message import Confirmation, Grant, Lease, Message, Open, Role, audience

TOPIC = "4  Envelope"
GATEWAY = "gw-bench"


def measure(*, rounds: int, seconds: float) -> list[Result]:
    """`rounds` turns of ours and beside, each for about `seconds`."""
    issuing, person = SigningKey.generate(), SigningKey.generate()
    trust = TrustStore(1, 0, {}, {issuing.verifying.kid: issuing.verifying})
    grant = _grant(issuing, person)
    aud = audience(GATEWAY, 1)
    results = []
    commands: dict[str, Message] = {
        "check.open with its SDP": Open(
            aud, "j-bench", b64url_encode(bytes(16)), "a-bench", 1, "night-1", "2026-11-23T23:30", 1, _offer()
        ),
        "check.lease": Lease(aud, "c-bench", 1),
    }
    for name, message in commands.items():
        envelope = grant + b"~" + sign(message, person)
        ours, beside = alternately(
            partial(_verify, envelope, trust),
            _bare_verify(envelope, (issuing, person)),
            rounds,
            seconds,
        )
        per_s = f"{1e6 / Side.of('', ours).median:.0f} commands a second"
        results.append(
            Result(
                TOPIC,
                "µs",
                Side.of(f"verify_command, {name}", ours),
                Side.of("its two bare ECDSA verifies", beside),
                note=f"{per_s}; {len(envelope)} bytes",
            )
        )
    results += _refusals(issuing, person, trust, rounds=rounds, seconds=seconds / 4)
    return results


def _refusals(
    issuing: SigningKey, person: SigningKey, trust: TrustStore, *, rounds: int, seconds: float
) -> list[Result]:
    document = _document(MAX_ENVELOPE_BYTES)
    header = b64url_encode(
        strict_json.dumps({"alg": "ES256", "kid": issuing.verifying.kid, "typ": "tillsyn.grant+jws"})
    )
    command = sign(Lease(audience(GATEWAY, 1), "c-bench", 1), person)
    room = MAX_ENVELOPE_BYTES - len(header) - len(command) - 3 - 86
    forged = f"{header}.{'A' * (room // 4 * 4)}.{b64url_encode(bytes([1] * 64))}".encode() + b"~" + command
    garbage = {
        "random bytes": os.urandom(MAX_ENVELOPE_BYTES),
        "JSON": document,
        "brackets": b"[" * MAX_ENVELOPE_BYTES,
        "dots and letters": (b"A" * 2700 + b".") * 5 + b"A" * 2700 + b"~" + b"A" * 100,
        "one byte too many": b"A" * (MAX_ENVELOPE_BYTES + 1),
        "a false signature of a known key": forged,
    }
    costs = {}
    for name, untrusted in garbage.items():
        costs[name] = alternately(partial(_refuse, untrusted, trust), lambda: json.loads(document), rounds, seconds)
    dearest = max(
        (name for name in garbage if name != "a false signature of a known key"), key=lambda n: sum(costs[n][0])
    )
    results = [
        Result(
            TOPIC,
            "µs",
            Side.of(f"refuse 16 KiB: {name}", costs[name][0]),
            Side.of("json.loads of 16 KiB", costs[name][1]),
            note=note,
        )
        for name, note in (
            (
                dearest,
                "the dearest of " + ", ".join(name for name in garbage if name != "a false signature of a known key"),
            ),
            ("a false signature of a known key", ""),
        )
    ]
    strict, plain = alternately(lambda: strict_json.loads(document), lambda: json.loads(document), rounds, seconds)
    results.append(
        Result(
            TOPIC,
            "µs",
            Side.of("strict_json.loads of 16 KiB (after a signature)", strict),
            Side.of("json.loads of the same", plain),
        )
    )
    return results


def alternately(
    ours: Callable[[], object], beside: Callable[[], object], rounds: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Time two calls in turns; the mean of each turn in µs."""
    calls = (ours, beside)
    counts = [max(1, int(seconds / max(_once_s(call), 1e-7))) for call in calls]
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, count, samples in zip(calls, counts, spent, strict=True):
            began_s = time.perf_counter()
            for _ in range(count):
                call()
            samples.append((time.perf_counter() - began_s) * 1e6 / count)
    return spent


def _once_s(call: Callable[[], object]) -> float:
    call()
    began_s = time.perf_counter()
    for _ in range(5):
        call()
    return (time.perf_counter() - began_s) / 5


def _verify(envelope: bytes, trust: TrustStore) -> None:
    verify_command(envelope, trust, audience=audience(GATEWAY, 1), gateway=GATEWAY, groups=frozenset())


def _refuse(untrusted: bytes, trust: TrustStore) -> None:
    with contextlib.suppress(RefusedError):
        _verify(untrusted, trust)
        raise AssertionError("garbage was taken")


def _bare_verify(envelope: bytes, keys: tuple[SigningKey, SigningKey]) -> Callable[[], None]:
    """The floor: nothing but `cryptography` over the same bytes, with keys and signatures ready to use."""
    ready = []
    for part, key in zip(envelope.split(b"~"), keys, strict=True):
        taken = split(part)
        r, s = int.from_bytes(taken.signature[:32]), int.from_bytes(taken.signature[32:])
        ready.append((key.verifying.point, utils.encode_dss_signature(r, s), taken.signed))
    algorithm = ec.ECDSA(hashes.SHA256())

    def verify() -> None:
        for point, signature, signed in ready:
            point.verify(signature, signed, algorithm)

    return verify


def _grant(issuing: SigningKey, person: SigningKey) -> bytes:
    now = time.time()
    grant = Grant(
        sub="op-bench",
        name_ref="op-bench",
        roles=[Role.OPERATOR],
        cnf=Confirmation(person.verifying.jwk()),
        epoch=0,
        nbf=now - 300.0,
        exp=now + 3600.0,
        homes=[GATEWAY],
    )
    return sign(grant, issuing)


def _offer() -> str:
    """An offer as the operator's page makes it, for a command of real size."""

    async def make() -> str:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.addTransceiver("video", direction="recvonly")
        pc.createDataChannel("check")
        await pc.setLocalDescription(await pc.createOffer())
        words = pc.localDescription.sdp
        await pc.close()
        return sdp.keep_sha256(words)

    return asyncio.run(make())


def _document(size_bytes: int) -> bytes:
    """A JSON document of exactly this size, as full of small values as a ledger or an agreement is."""
    items: list[dict[str, object]] = []
    while len(msgspec.json.encode(items)) < size_bytes - 128:
        items.append({"id": f"night-{len(items)}", "start": "23:30", "window_min": 60, "max_s": 60.5, "seen": True})
    text = msgspec.json.encode(items)
    return text + b" " * (size_bytes - len(text))
