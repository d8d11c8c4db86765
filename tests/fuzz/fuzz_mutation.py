"""Changes that keep the form: a JSON or MessagePack value with one spot made odd, so that what is behind the parser is
reached. libFuzzer's own changes, of bytes, come on top.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec

MAX_SPOTS = 2000
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 9, 10, 2**31, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 0.5, 1e308,
    5e-324, 253402300799, 253402300800, float("inf"), float("nan"),
    "", " ", "\n", "\x00", "\ud800", "\u2028", "0", "true", "é" * 70, "a" * 65, "a" * 9000, "../../etc/passwd",
    "gw-a", "gw-a/2", "gw-b/2", "AAAAAAAAAAAAAAAAAAAAAA", "seen", "operator", "planner", "ES256", "none",
    "2026-11-23T23:30", "2026-03-29", "2028-02-29", "9999-12-31", "02:30", "23:59", "UTC", "Europe/Stockholm",
    "America/Argentina/Buenos_Aires", "Pacific/Apia", "Antarctica/Troll", "FREQ=DAILY", "FREQ=DAILY;COUNT=3660",
    "FREQ=MONTHLY;BYDAY=-1SU", "FREQ=WEEKLY;INTERVAL=99;BYDAY=MO,TU", "FREQ=MONTHLY;BYMONTHDAY=31,-31",
    [], {}, [[]], [{}], {"": None}, [0] * 400, ["x"] * 70,
)  # fmt: skip


def changed_bytes(original: bytes, random: Random) -> bytes:
    """One to eight bytes flipped, put in, taken out or doubled."""
    made = bytearray(original)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        at = random.randrange(len(made) + 1)
        match random.randrange(5):
            case 0 if made:
                made[at % len(made)] ^= 1 << random.randrange(8)
            case 1:
                made[at:at] = random.randbytes(random.choice((1, 2, 8)))
            case 2:
                del made[at : at + random.choice((1, 2, 16))]
            case 3:
                made[at:at] = made[at : at + random.randrange(1, 64)]
            case _ if made:
                made[at % len(made)] = random.choice(b'\x00\xff"{}[],:.~-=\\\n 0')
    return bytes(made)


def changed_json(original: bytes, random: Random) -> bytes | None:
    """Another JSON text of nearly the same value, or None where there was none."""
    try:
        value = json.loads(original)
    except (ValueError, RecursionError):
        return None
    try:
        text = json.dumps(
            changed_value(value, random),
            ensure_ascii=random.random() < 0.7,
            separators=random.choice(((",", ":"), None)),
        )
    except (ValueError, RecursionError):
        return None
    if random.random() < 0.08:  # a member twice, which no value can hold
        text = text.replace("{", '{"aud":"gw-a/2",', 1)
    if random.random() < 0.05:
        text += random.choice((" ", "\n", "\x00", "{}", ","))
    return text.encode("utf-8", errors="surrogatepass")


def changed_msgpack(original: bytes, random: Random) -> bytes | None:
    """The same for MessagePack."""
    try:
        return msgspec.msgpack.encode(changed_value(msgspec.msgpack.decode(original), random))
    except (ValueError, RecursionError, OverflowError, TypeError):
        return None


def changed_value(value: Any, random: Random) -> Any:
    """Change one to three spots of a freshly decoded value, in place."""
    root = [value]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        spots = _spots(root)
        holder, name = random.choice(spots)
        old = holder[name]
        match random.randrange(8):
            case 0 | 1:
                holder[name] = random.choice(ODD)
            case 2:
                other, other_name = random.choice(spots)
                holder[name] = json_copy(other[other_name])
            case 3 if holder is not root:
                del holder[name]
            case 4 if isinstance(holder, dict):
                holder[random.choice(("aud", "x", "__proto__", "", str(name) + " "))] = random.choice(ODD)
            case 5:
                holder[name] = [json_copy(old) for _ in range(random.choice((1, 2, 5, 13)))]
            case _:
                holder[name] = _near(old, random)
    return root[0]


def json_copy(value: Any) -> Any:
    match value:
        case dict():
            return {name: json_copy(item) for name, item in value.items()}
        case list():
            return [json_copy(item) for item in value]
        case _:
            return value


def _near(old: Any, random: Random) -> Any:
    match old:
        case bool():
            return not old
        case int():
            return old + random.choice((-1, 1, 60, -3600, 86400, old))
        case float():
            return old * random.choice((-1.0, 0.5, 2.0)) + random.choice((0.0, 1e-9, 1.0))
        case str():
            at = random.randrange(len(old) + 1)
            letter = random.choice(
                ("", "\n", "\r\n", "0", "9", "-", "=", ";", ",", "Z", "\u0660", "\x0c", "~", ".", "A")
            )
            return old[:at] + letter + old[at + random.randrange(3) :]
        case bytes():
            return changed_bytes(old, random)
        case list():
            return old[: random.randrange(len(old) + 1)] * random.choice((1, 2, 20))
        case _:
            return random.choice(ODD)


def _spots(root: list[Any]) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = [(root, 0)]
    for holder, name in found:
        value = holder[name]
        if len(found) > MAX_SPOTS:
            break
        if isinstance(value, dict):
            found += [(value, inner) for inner in value]
        elif isinstance(value, list):
            found += [(value, inner) for inner in range(len(value))]
    return found
