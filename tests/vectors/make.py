"""Writes the hostile inputs beside this file: one fault a file, named by the fault. Deterministic.

    python tests/vectors/make.py

A vector is a JSON object: `about` (one sentence), `target` (what it is given to), `expect` (a refusal code, or
`accepted`), and either `input`, the raw bytes, or a recipe for one message that is good but for the fault named. The
keys are made at run time, so a recipe says who signs, not with what. tests/unit/protocol_support.py reads it:

* raw bytes: text, `{"b64": …}`, `{"times": n, "of": …}`, or a list of these; `${kid:operator}`, `${jwk:issuer}`,
  `${nonce}`, `${now-3600}` and the like stand for what is known at run time.
* one message: `kind`; `key` (whose kid it names and who signs; `by` if another signs); `header` and `payload` (members
  that differ), `…_replace` (in the canonical JSON text) or `…_raw` (the whole part); `sign` (how); `signed_as` (the
  signature is of this other message); `compact` (how `${h}`, `${p}` and `${s}` are joined).
* target `command`: `grant`, `command`, `envelope` (how they are joined), and `gate`: the state in which it arrives.
  `spends_nonce` marks the refusals that come after the nonce was used up.
* target `trust`: `held` roots and the `tokens`; `agreement`: `set`, the members that differ; `statement`: `token`.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OPEN_TYP = "tillsyn.check.open+jws"

Vector = dict[str, Any]
_vectors: dict[str, Vector] = {}


def put(name: str, about: str, target: str, expect: str = "malformed", **rest: Any) -> None:
    if name in _vectors:
        raise ValueError(f"two vectors are called {name}")
    _vectors[name] = {"about": about, "target": target, "expect": expect, **rest}


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode("ascii")}


def times(count: int, of: Any) -> dict[str, Any]:
    return {"times": count, "of": of}


def command(name: str, about: str, expect: str = "malformed", **rest: Any) -> None:
    """A good open but for what `rest` says of the command."""
    gate = rest.pop("gate", None)
    spends = rest.pop("spends_nonce", None)
    extra: Vector = {} if gate is None else {"gate": gate}
    if spends:
        extra["spends_nonce"] = True
    put(name, about, "command", expect, command=rest, **extra)


def grant(name: str, about: str, expect: str = "malformed", **rest: Any) -> None:
    """A good open under a grant that differs."""
    extra: Vector = {"gate": rest.pop("gate")} if "gate" in rest else {}
    if "command" in rest:
        extra["command"] = rest.pop("command")
    put(name, about, "command", expect, grant=rest, **extra)


def good() -> None:
    """What must be accepted, so that no refusal below can have a trivial cause."""
    command("accepted/plain-open", "The message from which every recipe differs by one fault.", "accepted")
    command("accepted/high-s", "WebCrypto makes signatures with a high S.", "accepted", sign="high-s")
    command("accepted/low-s", "Other signers make a low S only.", "accepted", sign="low-s")
    command(
        "accepted/white-space-in-header",
        "A signature is over bytes: white space in the header JSON changes nothing.",
        "accepted",
        header_raw='\n{ "typ" : "tillsyn.check.open+jws",\t"alg": "ES256", "kid": "${kid:operator}" } ',
    )
    command(
        "accepted/escaped-letters-in-header",
        "A JSON escape is another spelling of the same header.",
        "accepted",
        header_replace=[['"ES256"', '"\\u0045S256"']],
    )
    put(
        "accepted/exactly-16384-bytes",
        "The limit itself is allowed.",
        "command",
        "accepted",
        total_bytes=16384,
    )
    grant("accepted/grant-by-group", "A grant may name a group of homes.", "accepted",
          payload={"homes": [], "groups": ["hv-centrum"]})  # fmt: skip
    grant("accepted/grant-of-twelve-hours", "Twelve hours are the longest shift.", "accepted",
          payload={"nbf": "${now-3600}", "exp": "${now+39600}"})  # fmt: skip
    grant("accepted/grant-of-a-later-epoch", "A device that lags behind takes newer grants.", "accepted",
          payload={"epoch": 6})  # fmt: skip
    grant("accepted/grant-with-a-role-twice", "A role named twice is still one role.", "accepted",
          payload={"roles": ["operator", "operator"]})  # fmt: skip
    command("accepted/nonce-at-thirty-seconds", "A nonce lives 30 s, the last instant included.", "accepted",
            gate={"later_s": 30.0})  # fmt: skip
    for role in ("operator", "planner", "steward"):
        put(f"accepted/close-by-{role}", "Closing needs no permission beyond being authentic.", "command", "accepted",
            grant={"payload": {"roles": [role]}}, command={"kind": "check.close"})  # fmt: skip
    put("accepted/close-under-a-revoked-grant", "A dead grant may still close: the result is only safer.", "command",
        "accepted", grant={"payload": {"epoch": 4}}, command={"kind": "check.close"})  # fmt: skip
    put("accepted/close-of-a-check-that-is-over", "A late close is no error.", "command", "accepted",
        command={"kind": "check.close", "payload": {"check": "c-long-ago"}})  # fmt: skip
    put("accepted/withdrawal-under-a-revoked-grant", "Withdrawing consent outlives the grant.", "command", "accepted",
        grant={"payload": {"epoch": 4, "roles": ["steward"]}}, command={"kind": "agreement.withdraw"})  # fmt: skip
    for name, gate in (("", {}), ("-on-a-disabled-device", {"obstacle": "integrity-alarm", "attested": False})):
        put(f"accepted/return{name}", "A steward takes the device back, whatever state it is in.", "command",
            "accepted", grant={"payload": {"roles": ["steward"]}}, command={"kind": "device.return"},
            gate=gate)  # fmt: skip
    put("accepted/withdrawal-on-a-disabled-device", "No obstacle stands in the way of withdrawing.", "command",
        "accepted", grant={"payload": {"roles": ["planner"]}}, command={"kind": "agreement.withdraw"},
        gate={"obstacle": "integrity-alarm", "attested": False})  # fmt: skip


def headers() -> None:
    for spelling in ("none", "None", "NONE", "nOnE"):
        slug = {"none": "lower", "None": "title", "NONE": "upper", "nOnE": "mixed"}[spelling]
        command(f"envelope/alg-none-{slug}", "RFC 8725 §2.1: no signature at all, in a spelling a filter may miss.",
                header={"alg": spelling}, compact="${h}.${p}.")  # fmt: skip
        command(f"envelope/alg-none-{slug}-with-signature", "alg none, and yet a good signature.",
                header={"alg": spelling})  # fmt: skip
    for secret in ("pem", "der", "jwk", "empty"):
        command(f"envelope/alg-hs256-secret-{secret}", "RFC 8725 §2.1: a MAC with what everybody knows as its secret.",
                header={"alg": "HS256"}, sign=f"hs256:{secret}")  # fmt: skip
        command(f"envelope/alg-es256-mac-{secret}", "The same MAC, under the right alg.", "bad-signature",
                sign=f"hs256:{secret}")  # fmt: skip
    for alg, by in (("RS256", "rsa"), ("PS256", "rsa"), ("ES384", "p384"), ("ES512", "p521"), ("ES256K", "k256"),
                    ("EdDSA", "ed25519"), ("Ed25519", "ed25519")):  # fmt: skip
        command(f"envelope/alg-{alg.lower()}", f"A signature made with {alg}.", header={"alg": alg}, by=by)
    for name, value, about in (
        ("empty", "", "alg is an empty string."),
        ("lower-case", "es256", "alg is case-sensitive (RFC 7515 §4.1.1)."),
        ("trailing-space", "ES256 ", "alg with a space behind it."),
        ("trailing-newline", "ES256\n", "alg with a newline behind it."),
        ("nul", "ES256\0", "alg cut short for those who read up to NUL."),
        ("full-width", "\uff25\uff33256", "Full-width letters that normalise to ES256."),
        ("array", ["ES256"], "alg is an array that holds the right word."),
        ("object", {"ES256": 1}, "alg is an object."),
        ("number", 256, "alg is a number."),
        ("true", True, "alg is a boolean."),
        ("null", None, "alg is null."),
        ("rsa-name-of-es256", "SHA256withECDSA", "Another name for the same algorithm."),
    ):
        command(f"envelope/alg-{name}", about, header={"alg": value})
    command("envelope/alg-missing", "No alg.", header={"alg": "${absent}"})
    command("envelope/alg-duplicate-none-first", "Two algs: parsers differ on which counts.",
            header_replace=[['"alg":"ES256"', '"alg":"none","alg":"ES256"']])  # fmt: skip
    command("envelope/alg-duplicate-none-last", "Two algs, the other way round.",
            header_replace=[['"alg":"ES256"', '"alg":"ES256","alg":"none"']])  # fmt: skip
    command("envelope/alg-duplicate-escaped", "The same member twice, once written with an escape.",
            header_replace=[['"alg":"ES256"', '"alg":"ES256","\\u0061lg":"ES256"']])  # fmt: skip
    for name, value in (
        ("jwk", "${jwk:other}"),
        ("jku", "https://forger.example/keys"),
        ("x5u", "https://forger.example/chain"),
        ("x5c", ["MIIB"]),
        ("x5t", "AAAA"),
        ("x5t-s256", "AAAA"),
        ("crit", ["exp"]),
        ("crit-empty", []),
        ("b64-false", False),
        ("b64-true", True),
        ("cty", "JWT"),
        ("zip", "DEF"),
        ("epk", "${jwk:other}"),
        ("iat", 1),
        ("proto", {}),
        ("upper-case-alg", "none"),
        ("empty-name", ""),
    ):
        member = {"x5t-s256": "x5t#S256", "crit-empty": "crit", "b64-false": "b64", "b64-true": "b64",
                  "proto": "__proto__", "upper-case-alg": "ALG", "empty-name": ""}.get(name, name)  # fmt: skip
        by = {"by": "other"} if name == "jwk" else {}
        command(f"envelope/header-{name}", f"The header carries {member or 'a member without a name'}.",
                header={member: value}, **by)  # fmt: skip
    command("envelope/b64-false-and-crit", "RFC 7797: an unencoded payload, announced as the RFC asks.",
            header={"b64": False, "crit": ["b64"]}, signed_over="payload")  # fmt: skip

    for name, value, about in (
        ("path-traversal", "../../../etc/passwd", "A kid that is a path (RFC 8725 §3.10)."),
        ("sql", "x' OR '1'='1", "A kid that is SQL."),
        ("url", "https://forger.example/k", "A kid that is an address."),
        ("empty", "", "An empty kid."),
        ("long", "k" * 300, "A kid that is long, yet inside the header's limit."),
        ("upper-case", "K-OPERATOR", "A kid that nobody has."),
        ("of-the-issuer", "${kid:issuer}", "The issuer's kid where the person's must stand."),
        ("of-the-root", "${kid:root}", "The root's kid."),
        ("of-another-person", "${kid:other}", "A key that exists, but which the grant does not name."),
        ("trailing-newline", "${kid:operator}\n", "The right kid and a newline."),
        ("padded", "${kid:operator}=", "The right kid, padded."),
    ):
        command(f"envelope/kid-{name}", about, "unknown-key", header={"kid": value})
    for name, value in (("number", 1), ("null", None), ("array", ["${kid:operator}"]), ("object", {}), ("true", True)):
        command(f"envelope/kid-{name}", "kid is no string.", header={"kid": value})
    command("envelope/kid-missing", "No kid.", header={"kid": "${absent}"})
    command("envelope/kid-nul", "A NUL in the kid.", header={"kid": "${kid:operator}\0"})
    command("envelope/kid-lone-surrogate", "A kid that is no text.", header_replace=[['"kid":"', '"kid":"\\ud800']])
    command("envelope/kid-duplicate", "Two kids.",
            header_replace=[['"kid":"', '"kid":"${kid:other}","kid":"']])  # fmt: skip

    for name, value, about in (
        ("jwt", "JWT", "A JWT's typ."),
        ("without-suffix", "tillsyn.check.open", "No +jws."),
        ("without-prefix", "check.open+jws", "No tillsyn."),
        ("prefix-twice", "tillsyn.tillsyn.check.open+jws", "The prefix twice."),
        ("suffix-twice", "tillsyn.check.open+jws+jws", "The suffix twice."),
        ("upper-case", "TILLSYN.CHECK.OPEN+JWS", "Media types ignore case; this profile does not."),
        ("media-type", "application/tillsyn.check.open+jws", "The long form of RFC 7515 §4.1.9."),
        ("unknown-kind", "tillsyn.check.record+jws", "A kind that there is not."),
        ("empty", "", "An empty typ."),
        ("only-affixes", "tillsyn.+jws", "No kind between prefix and suffix."),
        ("leading-space", " tillsyn.check.open+jws", "A space in front."),
        ("trailing-newline", "tillsyn.check.open+jws\n", "A newline behind."),
        ("parameter", "tillsyn.check.open+jws; v=1", "A media type's parameter."),
        ("look-alike", "tillsyn.check.op\u0435n+jws", "A Cyrillic letter in the kind."),
        ("null", None, "null."),
        ("array", [OPEN_TYP], "An array."),
        ("number", 7, "A number."),
    ):
        command(f"envelope/typ-{name}", about, header={"typ": value})
    command("envelope/typ-missing", "No typ.", header={"typ": "${absent}"})

    for name, raw, about in (
        ("array", '["ES256"]', "An array."),
        ("string", '"ES256"', "A string."),
        ("null", "null", "null."),
        ("number", "1", "A number."),
        ("not-json", "ES256", "No JSON."),
        ("two-objects", "{}{}", "Two JSON texts."),
        ("comment", '{"alg":"ES256",/**/"kid":"${kid:operator}","typ":"tillsyn.check.open+jws"}', "A comment."),
        ("trailing-comma", '{"alg":"ES256","kid":"${kid:operator}","typ":"tillsyn.check.open+jws",}', "A comma more."),
        ("nested", '{"alg":"ES256","kid":{"a":{"b":{}}},"typ":"tillsyn.check.open+jws"}', "Objects in a header."),
        ("bom", "\ufeff" + '{"alg":"ES256","kid":"${kid:operator}","typ":"tillsyn.check.open+jws"}', "A BOM."),
    ):
        command(f"envelope/header-is-{name}", about, header_raw=raw)
    command("envelope/header-brackets", "As many brackets as the header's limit lets through.",
            header_raw=times(511, "["))  # fmt: skip
    command("envelope/header-too-long", "The header is limited to 512 bytes before it is parsed.",
            header={"kid": "k" * 600})  # fmt: skip
    command("envelope/header-513-bytes-of-space", "One byte beyond the limit, all of it white space.",
            header_raw=[
                '{"alg":"ES256","kid":"${kid:operator}","typ":"tillsyn.check.open+jws"}', times(443, " ")
            ])  # fmt: skip
    command("envelope/header-invalid-utf8", "A header that is not UTF-8.",
            header_raw=['{"alg":"ES256","kid":"', b64(b"\xff\xfe"), '","typ":"tillsyn.check.open+jws"}'])  # fmt: skip
    command("envelope/header-utf16", "A header in UTF-16.",
            header_raw=b64('{"alg":"ES256","kid":"k","typ":"tillsyn.check.open+jws"}'.encode("utf-16")))  # fmt: skip


def forms() -> None:
    for name, compact, about in (
        ("padding", "${h|pad}.${p}.${s}", "Padding behind the header."),
        ("padding-signature", "${h}.${p}.${s|pad}", "Padding behind the signature."),
        ("standard-alphabet", "${h}.${p|standard}.${s}", "The standard base64 alphabet."),
        ("stray-bits", "${h}.${p}.${s|stray}", "A second spelling of the same signature."),
        ("newline-behind", "${h}.${p}.${s}\n", "A newline behind the last part."),
        ("carriage-return", "${h}.${p}.${s}\r", "A carriage return behind the last part."),
        ("newline-in-front", "\n${h}.${p}.${s}", "A newline in front."),
        ("space-inside", "${h}. ${p}.${s}", "A space between the parts."),
        ("folded", "${h}.${p|folded}.${s}", "A line folded as e-mail does."),
        ("nul-behind", "${h}.${p}.${s}\0", "A NUL behind the last part."),
        ("non-ascii", "${h}.${p}.${s}\u00e5", "A letter outside ASCII behind the signature."),
        ("percent", "${h}.${p}.${s}%3D", "Percent encoding."),
        ("empty-header", ".${p}.${s}", "No header."),
        ("empty-payload", "${h}..${s}", "A detached payload."),
        ("empty-signature", "${h}.${p}.", "No signature."),
        ("two-parts", "${h}.${p}", "Two parts."),
        ("one-part", "${h}", "One part."),
        ("four-parts", "${h}.${p}.${s}.${s}", "Four parts."),
        ("five-parts", "${h}..${p}.${s}.${s}", "The five parts of a JWE."),
        ("trailing-dot", "${h}.${p}.${s}.", "A dot behind."),
        ("leading-dot", ".${h}.${p}.${s}", "A dot in front."),
        ("header-one-letter-short", "${h|first-letter-lost}.${p}.${s}", "The first letter was lost."),
        ("json-flattened", '{"payload":"${p}","protected":"${h}","signature":"${s}"}', "RFC 7515 §7.2.2."),
        ("json-general", '{"payload":"${p}","signatures":[{"protected":"${h}","signature":"${s}"}]}', "§7.2.1."),
        ("json-unprotected-alg", '{"payload":"${p}","header":{"alg":"ES256"},"signature":"${s}"}',
         "alg in the unprotected header."),
        ("bearer", "Bearer ${h}.${p}.${s}", "The scheme of an HTTP header in front."),
        ("sd-jwt", "${h}.${p}.${s}~WyJhIl0~", "Disclosures behind, as in SD-JWT."),
    ):  # fmt: skip
        # At any offset some of these letters give the two digits in which the alphabets differ.
        payload = {"payload": {"offer": "?>?~?>?~~?>?"}} if name == "standard-alphabet" else {}
        command(f"base64/{name}", about, compact=compact, **payload)
    command("base64/one-letter-signature", "One letter of base64url is no byte.", compact="${h}.${p}.A")
    command("base64/payload-flipped", "One letter of the payload changed.", "bad-signature",
            compact="${h}.${p|flip}.${s}")  # fmt: skip
    command("envelope/nested-jws", "A good message as the payload of another (RFC 7519 §5.2).",
            payload_raw="${jws:check.open}")  # fmt: skip
    command("envelope/nested-jws-with-cty", "The same, announced by cty.", payload_raw="${jws:check.open}",
            header={"cty": "tillsyn.check.open+jws"})  # fmt: skip
    for name, raw, about in (
        ("empty", "", "Nothing at all."),
        ("tilde", "~", "Only the separator."),
        ("tildes", times(16384, "~"), "Only separators, as many as fit."),
        ("dots", times(16384, "."), "Only dots."),
        ("letters", times(16384, "A"), "Only letters."),
        ("binary", b64(bytes(range(256)) * 8), "Every byte there is."),
        ("zeros", times(16384, "\0"), "Only NUL."),
        ("beyond-16384-bytes", times(16385, "A"), "One byte too many, before anything is parsed."),
        ("one-mebibyte", times(1 << 20, "A.A.A~"), "Six MiB of something that looks like parts."),
        ("html", "<html><body>502 Bad Gateway</body></html>", "A proxy's error page."),
        ("json-command", '{"aud":"gw-a/2","jti":"j-1","check":"c-1"}', "A command without any envelope."),
        ("cbor", b64(b"\xd8\x3d\xd2\x84\x43\xa1\x01\x26"), "A CWT."),
        ("cbor-indefinite", b64(b"\x9f" * 4096), "CBOR arrays of indefinite length."),
        ("gzip", b64(b"\x1f\x8b\x08\x00\x00\x00\x00\x00"), "Compressed."),
    ):
        put(f"envelope/raw-{name}", about, "command", input=raw)
    put("envelope/16385-bytes", "A good command, one byte beyond the limit.", "command", total_bytes=16385)
    for name, envelope, about in (
        ("no-grant", "${command}", "A person's command without a grant (F57)."),
        ("grant-alone", "${grant}", "A grant without a command (F57)."),
        ("empty-grant", "~${command}", "Nothing before the separator."),
        ("empty-command", "${grant}~", "Nothing behind the separator."),
        ("grant-twice", "${grant}~${grant}", "A grant where the command must stand."),
        ("command-twice", "${command}~${command}", "A command where the grant must stand."),
        ("swapped", "${command}~${grant}", "Command and grant in the wrong order."),
        ("two-grants", "${grant}~${grant}~${command}", "Two grants."),
        ("two-commands", "${grant}~${command}~${command}", "Two commands."),
        ("trailing-separator", "${grant}~${command}~", "A separator behind."),
        ("newline-behind-separator", "${grant}~\n${command}", "A newline between the two."),
        ("two-separators", "${grant}~~${command}", "Two separators."),
        ("joined-by-comma", "${grant},${command}", "Another separator."),
        ("joined-by-dot", "${grant}.${command}", "Six parts."),
        ("byte-order-mark", "\ufeff${grant}~${command}", "A BOM in front."),
    ):
        put(f"envelope/{name}", about, "command", envelope=envelope)


def signatures() -> None:
    for how, about in (
        ("63-bytes", "Cut by one byte."),
        ("65-bytes", "One byte more."),
        ("65-bytes-in-front", "One byte more, in front."),
        ("32-bytes", "r only."),
        ("128-bytes", "Twice."),
        ("der", "DER instead of raw r and s."),
        ("zeros", "r = s = 0, which CVE-2022-21449 took."),
        ("ones", "All bits set."),
        ("garbage", "Letters."),
        ("r-0", "r = 0."),
        ("s-0", "s = 0."),
        ("r-n", "r = n."),
        ("s-n", "s = n."),
        ("r-n-s-n", "r = s = n."),
        ("r-1-s-1", "r = s = 1."),
        ("s-beyond-n", "s beyond n."),
        ("swapped", "s before r."),
        ("r-trimmed", "r without its leading zero byte (F50)."),
        ("s-trimmed", "s without its leading zero byte, which a lenient reader takes for the same number."),
        ("sha-384", "The right key, another hash."),
        ("digest-as-signature", "The digest in place of the signature."),
        ("flip:0", "The first bit flipped."),
        ("flip:255", "The last bit of r flipped."),
        ("flip:256", "The first bit of s flipped."),
        ("flip:511", "The last bit flipped."),
    ):
        command(f"signature/{how.replace(':', '-bit-')}", about, "bad-signature", sign=how)
    for by, about in (
        ("other", "Signed by another person."),
        ("issuer", "Signed by the issuer in a person's name."),
        ("root", "Signed by the root in a person's name."),
        ("p384", "Signed by a P-384 key."),
        ("k256", "Signed by a secp256k1 key: 64 bytes, too."),
        ("ed25519", "Signed by an Ed25519 key: 64 bytes, too."),
        ("rsa", "Signed by an RSA key."),
    ):
        command(f"signature/by-{by}", about, "bad-signature", by=by)
    command("signature/of-another-message", "The signature of another open.", "bad-signature",
            signed_as={"payload": {"jti": "j-2"}})  # fmt: skip
    command("signature/of-another-header", "The header was changed after signing.", "bad-signature",
            header_raw='{"kid":"${kid:operator}","alg":"ES256","typ":"tillsyn.check.open+jws"}',
            signed_as={"header_raw": '{"alg":"ES256","kid":"${kid:operator}","typ":"tillsyn.check.open+jws"}'}
            )  # fmt: skip
    for over in ("payload", "decoded", "payload-part"):
        command(f"signature/over-{over}", "The signature is not over the signing input.", "bad-signature",
                signed_over=over)  # fmt: skip
    command("signature/payload-unparsable-and-unsigned", "A payload is not parsed before its signature holds.",
            "bad-signature", payload_raw=times(8000, "["), by="other")  # fmt: skip
    put("signature/grant-unparsable-and-unsigned", "Nor is a grant's.", "command", "bad-signature",
        grant={"payload_raw": times(4000, "["), "by": "other"})  # fmt: skip
    put("signature/grant-before-command", "The grant is verified first.", "command", "bad-signature",
        grant={"by": "other"}, command={"by": "other", "header": {"kid": "${kid:other}"}})  # fmt: skip


def confusions() -> None:
    """A message of one kind is never taken for another."""
    for kind, typ in (
        ("check.challenge", "agreement.withdraw"),
        ("agreement.withdraw", "check.challenge"),
        ("check.close", "agreement.withdraw"),
        ("check.lease", "check.close"),
        ("check.challenge", "check.open"),
    ):
        command(f"kind/{kind}-retyped-as-{typ}", "The typ was changed after signing.", "bad-signature", kind=kind,
                header={"typ": f"tillsyn.{typ}+jws"}, signed_as={"header": {}})  # fmt: skip
    for kind, typ in (
        ("check.open", "check.challenge"),
        ("check.challenge", "check.open"),
        ("check.open", "check.close"),
        ("check.close", "check.open"),
        ("check.lease", "check.verdict"),
        ("check.verdict", "check.lease"),
        ("agreement.put", "check.open"),
        ("check.open", "agreement.put"),
        ("grant", "check.open"),
        ("time", "check.open"),
    ):
        put(f"kind/{kind}-signed-as-{typ}", "A payload of one kind, signed under the typ of another.", "command",
            grant={"payload": {"roles": ["operator", "planner"]}},
            command={"kind": kind, "key": "operator", "header": {"typ": f"tillsyn.{typ}+jws"}})  # fmt: skip
    for kind in ("grant", "trust.put", "time", "time.ask", "refused", "accepted"):
        command(f"kind/{kind}-as-command", "A kind that no person may sign.", kind=kind, key="operator")
    put("kind/trust.put-as-grant", "Even in front of a command, trust is the root's alone.", "command",
        "unknown-key", grant={"kind": "trust.put", "key": "issuer"})  # fmt: skip
    for kind in ("check.open", "time", "agreement.put"):
        put(f"kind/{kind}-as-grant", "The issuer's signature on another kind is no grant.", "command",
            grant={"kind": kind, "key": "issuer"})  # fmt: skip
    put("kind/grant-payload-as-time", "A grant's payload under the time statement's typ.", "statement",
        token={"kind": "grant", "header": {"typ": "tillsyn.time+jws"}})  # fmt: skip
    put("kind/grant-as-time", "A grant is no time statement.", "statement", token={"kind": "grant"})
    put("kind/time-ask-as-time", "The question is not the answer.", "statement",
        token={"kind": "time.ask", "key": "issuer"})  # fmt: skip
    put("kind/time-as-trust", "A time statement is no trust statement, even from the root.", "trust",
        tokens=[{"kind": "time", "key": "root"}])  # fmt: skip
    put("kind/grant-as-trust", "A grant is no trust statement.", "trust", tokens=[{"kind": "grant", "key": "root"}])


def payloads() -> None:
    for name, raw, about in (
        ("array", "[]", "An array."),
        ("null", "null", "null."),
        ("number", "1", "A number."),
        ("string", '"open"', "A string."),
        ("empty-object", "{}", "An object without members."),
        ("not-json", "open, please", "No JSON."),
        ("white-space", "   ", "White space only."),
        ("brackets", times(8000, "["), "Thousands of open brackets within 16 KiB."),
        ("closed-brackets", [times(4000, "["), times(4000, "]")], "As many, all closed again."),
        ("braces", times(1300, '{"a":'), "Objects in objects."),
        ("invalid-utf8", b64(b'{"jti":"\xff\xfe"}'), "Not UTF-8."),
        ("utf16", b64('{"jti":"j-1"}'.encode("utf-16-le")), "UTF-16."),
        ("msgpack", b64(b"\x82\xa3aud\xa6gw-a/2"), "MessagePack."),
    ):
        command(f"payload/is-{name}", about, payload_raw=raw)
    for name, old, new, about in (
        ("duplicate-key", '"attempt":1', '"attempt":1,"attempt":1', "The same member twice, even if equal."),
        ("duplicate-key-differs", '"attempt":1', '"attempt":1,"attempt":2', "Two values for one member."),
        ("duplicate-key-escaped", '"attempt":1', '"attempt":1,"\\u0061ttempt":2', "The second written with an escape."),
        ("attempt-float", '"attempt":1', '"attempt":1.0', "A float is no integer."),
        ("attempt-exponent", '"attempt":1', '"attempt":1e0', "Nor is this."),
        ("attempt-nan", '"attempt":1', '"attempt":NaN', "NaN is no JSON."),
        ("attempt-infinity", '"attempt":1', '"attempt":Infinity', "Nor is Infinity."),
        ("attempt-minus-infinity", '"attempt":1', '"attempt":-Infinity', "Nor its opposite."),
        ("attempt-1e999", '"attempt":1', '"attempt":1e999', "A number that becomes infinite."),
        ("attempt-minus-zero", '"attempt":1', '"attempt":-0', "Zero is no attempt, however it is written."),
        ("attempt-leading-zero", '"attempt":1', '"attempt":01', "A leading zero."),
        ("attempt-plus", '"attempt":1', '"attempt":+1', "A plus sign."),
        ("attempt-hex", '"attempt":1', '"attempt":0x1', "Hexadecimal."),
        ("attempt-beyond-2-53", '"attempt":1', '"attempt":9007199254740993', "Other parsers would round it."),
        ("attempt-2-63", '"attempt":1', '"attempt":9223372036854775808', "Beyond a signed 64-bit integer."),
        ("attempt-2-32-plus-1", '"attempt":1', '"attempt":4294967297', "1, for those who keep 32 bits."),
        ("attempt-5000-digits", '"attempt":1', ['"attempt":', times(5000, "9")], "Quadratic for a naive parser."),
        ("overlong-utf8", '"jti":"j-1"', ['"jti":"', b64(b"\xc0\xaf"), '"'], "A slash in two bytes."),
        ("utf8-surrogate", '"jti":"j-1"', ['"jti":"', b64(b"\xed\xa0\x80"), '"'], "A surrogate, encoded."),
        ("truncated-utf8", '"jti":"j-1"', ['"jti":"', b64(b"\xe2\x82"), '"'], "A character cut in half."),
        ("raw-newline-in-string", '"jti":"j-1"', '"jti":"j-1\n"', "A raw control character."),
        ("single-quotes", '"jti":"j-1"', "'jti':'j-1'", "Other quotes."),
        ("comment", '"attempt":1', '"attempt":1/* once */', "A comment."),
        ("trailing-comma", '"version":4}', '"version":4,}', "A comma more."),
        ("trailing-object", '"version":4}', '"version":4}{}', "Another object behind."),
        ("trailing-nul", '"version":4}', '"version":4}\0', "A NUL behind."),
        ("unterminated", '"version":4}', '"version":4', "The end is missing."),
        ("bom", '{"agreement"', '\ufeff{"agreement"', "A BOM in front."),
    ):
        command(f"payload/{name}", about, payload_replace=[[old, new]])
    for name, member, value, about in (
        ("unknown-field", "force", True, "A member that the schema does not know."),
        ("unknown-field-proto", "__proto__", {"attempt": 1}, "A member with a meaning elsewhere."),
        ("field-in-other-case", "Attempt", 1, "A member's name in another case."),
        ("extra-type-tag", "type", "Open", "A tag that some decoders choose the type by."),
        ("aud-missing", "aud", "${absent}", "For nobody."),
        ("jti-missing", "jti", "${absent}", "Without an id."),
        ("nonce-missing", "nonce", "${absent}", "Without a nonce."),
        ("offer-missing", "offer", "${absent}", "Without an offer."),
        ("nonce-null", "nonce", None, "null is no nonce."),
        ("attempt-string", "attempt", "1", "A string is no integer."),
        ("attempt-true", "attempt", True, "A boolean is no integer."),
        ("attempt-null", "attempt", None, "Nor is null."),
        ("attempt-array", "attempt", [1], "Nor is an array."),
        ("attempt-0", "attempt", 0, "Below the range."),
        ("attempt-10", "attempt", 10, "Beyond the range."),
        ("attempt-minus-1", "attempt", -1, "Negative."),
        ("version-0", "version", 0, "Below the range."),
        ("version-beyond-2-31", "version", 2**31 + 1, "Beyond the range."),
        ("jti-number", "jti", 1, "A number is no id."),
        ("jti-empty", "jti", "", "An empty id."),
        ("jti-65-characters", "jti", "j" * 65, "An id that is too long."),
        ("jti-newline-at-end", "jti", "j-1\n", "`$` would let it through."),
        ("jti-newline-in-front", "jti", "\nj-1", "`^` in another mode would."),
        ("jti-space", "jti", "j 1", "A space in an id."),
        ("jti-markup", "jti", "<script>", "Markup in an id."),
        ("jti-nul", "jti", "j\0", "A NUL in an id."),
        ("jti-lone-surrogate", "jti", "j\ud800", "Half a character."),
        ("jti-full-width-digit", "jti", "j-\uff11", "A digit outside ASCII."),
        ("jti-combining", "jti", "j\u0301", "A combining mark."),
        ("line-look-alike", "line", "night-\u0406", "A Cyrillic letter that looks like one of ours."),
        ("agreement-look-alike", "agreement", "\u0430-1", "A Cyrillic a."),
        ("agreement-zero-width", "agreement", "a-1\u200b", "A character that nobody sees."),
        ("agreement-right-to-left", "agreement", "\u202ea-1", "Text that turns round."),
        ("occasion-with-seconds-and-letters", "occasion", "2026-11-23T23:30 CET", "Letters in an occasion."),
        ("occasion-newline-at-end", "occasion", "2026-11-23T23:30\n", "A newline behind it."),
        ("occasion-arabic-digits", "occasion", "\u0662026-11-23T23:30", "Other digits."),
        ("nonce-21-characters", "nonce", "A" * 21, "Fewer than 128 bits."),
        ("nonce-23-characters", "nonce", "A" * 23, "More than 128 bits."),
        ("nonce-padded", "nonce", "A" * 21 + "=", "Padding in the nonce."),
        ("nonce-standard-alphabet", "nonce", "A" * 21 + "+", "The other alphabet."),
        ("nonce-newline-at-end", "nonce", "${nonce}\n", "A newline behind it."),
        ("offer-empty", "offer", "", "An empty offer."),
        ("offer-8193-characters", "offer", "v" * 8193, "An offer that is too large."),
        ("offer-object", "offer", {"type": "offer", "sdp": "v=0"}, "The browser's object, not its text."),
        ("offer-nul", "offer", "v=0\0", "A NUL in the offer."),
        ("aud-list", "aud", ["gw-a/2"], "A list of audiences, as a JWT may have."),
        ("aud-star", "aud", "*", "For everybody."),
        ("aud-prefix-only", "aud", "gw-a/", "Without an install epoch."),
        ("aud-epoch-leading-zero", "aud", "gw-a/02", "A second spelling of the epoch."),
        ("aud-newline-at-end", "aud", "gw-a/2\n", "A newline behind it."),
        ("aud-upper-case", "aud", "GW-A/2", "Another case."),
    ):
        command(f"payload/{name}", about, payload={member: value})
    command("payload/nested-duplicate-key", "The same member twice, inside.", kind="agreement.put",
            payload_replace=[['"lamp":"dim"', '"lamp":"dim","lamp":"on"']])  # fmt: skip
    command("payload/nine-deep", "Nested deeper than eight.", kind="agreement.put",
            payload={"agreement": {"a": [[[[[[[1]]]]]]]}})  # fmt: skip
    command("payload/nested-lone-surrogate", "Half a character in a list of lists.", kind="agreement.put",
            payload={"agreement": {"a": [["\ud800"]]}})  # fmt: skip
    for name, value, about in (
        ("0", 0, "Counters start at 1."),
        ("minus-1", -1, "Negative."),
        ("beyond-a-million", 1_000_001, "Beyond the range."),
        ("true", True, "A boolean."),
        ("string", "1", "A string."),
    ):
        command(f"payload/counter-{name}", about, kind="check.lease", payload={"counter": value},
                gate={"running": "operator"})  # fmt: skip
    for name, value in (("upper-case", "SEEN"), ("unknown", "probably"), ("empty", ""), ("true", True), ("null", None)):
        command(f"payload/verdict-{name}", "A verdict that there is not.", kind="check.verdict",
                payload={"verdict": value}, gate={"running": "operator"})  # fmt: skip


def grants() -> None:
    grant("grant/by-an-unknown-issuer", "An issuer that the trust store does not hold.", "unknown-key", key="stranger")
    grant("grant/by-the-root", "The root signs trust, not grants.", "unknown-key", key="root")
    grant("grant/by-the-operator", "A grant that the person made for itself.", "unknown-key", key="operator")
    grant("grant/by-another-in-the-issuers-name", "The issuer's kid, another key.", "bad-signature", by="operator")
    grant("grant/by-the-root-in-the-issuers-name", "The issuer's kid, the root's key.", "bad-signature", by="root")
    grant("grant/of-another-person", "A stolen grant, signed under with one's own key.", "bad-signature",
          command={"by": "other"})  # fmt: skip
    grant("grant/of-another-person-honest-kid", "A stolen grant, and one's own kid.", "unknown-key",
          command={"key": "other"})  # fmt: skip
    grant("grant/names-another-key", "The grant binds another key.", "unknown-key",
          payload={"cnf": {"jwk": "${jwk:other}"}})  # fmt: skip
    grant("grant/signature-flipped", "One bit of the grant's signature.", "bad-signature", sign="flip:300")
    grant("grant/signature-zeros", "r = s = 0.", "bad-signature", sign="zeros")
    grant("grant/signature-der", "DER.", "bad-signature", sign="der")
    grant("grant/payload-flipped", "One letter of the grant.", "bad-signature", compact="${h}.${p|flip}.${s}")
    grant("grant/role-added-after-signing", "A role was added after signing.", "bad-signature",
          payload={"roles": ["operator", "planner"]}, signed_as={"payload": {}})  # fmt: skip
    grant("grant/alg-none", "A grant without a signature.", header={"alg": "none"}, compact="${h}.${p}.")
    grant("grant/stray-bits", "A second spelling of the grant's signature.", compact="${h}.${p}.${s|stray}")
    grant("grant/revoked-epoch", "An epoch below the device's.", "unknown-key", payload={"epoch": 4})
    grant("grant/epoch-0", "The lowest epoch.", "unknown-key", payload={"epoch": 0})
    grant("grant/epoch-raised-on-the-device", "The device's epoch rose after the grant was issued.", "unknown-key",
          gate={"trust_epoch": 6})  # fmt: skip
    grant("grant/challenge-under-a-revoked-epoch", "A dead grant gets no nonce.", "unknown-key", payload={"epoch": 4},
          command={"kind": "check.challenge"})  # fmt: skip
    grant("grant/lease-under-a-revoked-epoch", "A dead grant keeps no check open.", "unknown-key",
          payload={"epoch": 4}, command={"kind": "check.lease"}, gate={"running": "operator"})  # fmt: skip
    for name, payload, about in (
        ("epoch-minus-1", {"epoch": -1}, "A negative epoch."),
        ("epoch-true", {"epoch": True}, "A boolean."),
        ("epoch-string", {"epoch": "5"}, "A string."),
        ("nbf-is-exp", {"nbf": "${now+3600}", "exp": "${now+3600}"}, "A shift without length."),
        ("nbf-after-exp", {"nbf": "${now+3600}", "exp": "${now-3600}"}, "A shift that ends before it begins."),
        ("twelve-hours-and-a-second", {"nbf": "${now-3600}", "exp": "${now+39601}"}, "Longer than a shift."),
        ("for-ever", {"nbf": 0, "exp": 253402300799}, "Until the year 9999."),
        ("exp-beyond-9999", {"exp": 253402300800}, "Beyond what a date can be."),
        ("nbf-negative", {"nbf": -1}, "Before 1970."),
        ("nbf-string", {"nbf": "0"}, "A string."),
        ("exp-null", {"exp": None}, "null."),
        ("exp-true", {"exp": True}, "A boolean."),
        ("exp-missing", {"exp": "${absent}"}, "Without an end."),
        ("cnf-missing", {"cnf": "${absent}"}, "Without a key: a bearer's grant."),
        ("cnf-empty", {"cnf": {}}, "No key in cnf."),
        ("cnf-kid", {"cnf": {"kid": "${kid:operator}"}}, "The key by name only (RFC 7800 §3.4)."),
        ("cnf-jku", {"cnf": {"jku": "https://forger.example/k"}}, "The key by address (RFC 7800 §3.5)."),
        ("cnf-jwk-and-kid", {"cnf": {"jwk": "${jwk:operator}", "kid": "k"}}, "Two ways to name the key."),
        ("cnf-with-private-part", {"cnf": {"jwk": "${jwk:with-private-part}"}}, "The private key travels along."),
        ("cnf-p384", {"cnf": {"jwk": "${jwk:p384}"}}, "A P-384 key."),
        ("cnf-secp256k1", {"cnf": {"jwk": "${jwk:k256}"}}, "A secp256k1 key."),
        ("cnf-p256-name-p384-point", {"cnf": {"jwk": "${jwk:p256-name-p384-point}"}}, "The curve's name is wrong."),
        ("cnf-p256-name-k256-point", {"cnf": {"jwk": "${jwk:p256-name-k256-point}"}}, "A point of another curve."),
        ("cnf-off-curve", {"cnf": {"jwk": "${jwk:off-curve}"}}, "A point that is not on the curve (RFC 8725 §2.5)."),
        ("cnf-at-infinity", {"cnf": {"jwk": "${jwk:at-infinity}"}}, "Zero for both coordinates."),
        ("cnf-leading-zero-stripped", {"cnf": {"jwk": "${jwk:leading-zero-stripped}"}}, "31 bytes (RFC 7518 §6.2.1)."),
        ("cnf-leading-zero-added", {"cnf": {"jwk": "${jwk:leading-zero-added}"}}, "33 bytes."),
        ("cnf-beyond-the-prime", {"cnf": {"jwk": "${jwk:beyond-the-prime}"}}, "x = p: a second name for one point."),
        ("cnf-padded", {"cnf": {"jwk": "${jwk:padded}"}}, "A coordinate with padding."),
        ("cnf-symmetric", {"cnf": {"jwk": {"kty": "oct", "k": "AAAA"}}}, "A shared secret."),
        ("cnf-rsa", {"cnf": {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}}, "An RSA key."),
        ("cnf-okp", {"cnf": {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}}}, "An Ed25519 key."),
        ("roles-empty", {"roles": []}, "No role at all."),
        ("roles-unknown", {"roles": ["viewer"]}, "A role that there is not (F56)."),
        ("roles-unknown-beside-known", {"roles": ["operator", "viewer"]}, "One role known, one not."),
        ("roles-upper-case", {"roles": ["OPERATOR"]}, "Another case."),
        ("roles-string", {"roles": "operator"}, "No list."),
        ("roles-six", {"roles": ["operator"] * 6}, "More roles than there are."),
        ("roles-missing", {"roles": "${absent}"}, "None named."),
        ("homes-star", {"homes": ["*"]}, "Every home."),
        ("homes-string", {"homes": "gw-a"}, "No list."),
        ("homes-65", {"homes": ["gw-a"] * 65}, "Too many homes."),
        ("groups-17", {"groups": ["hv-centrum"] * 17}, "Too many groups."),
        ("unknown-field", {"admin": True}, "A member that the schema does not know."),
        ("name-in-clear", {"name": "Astrid"}, "Personal data has no field."),
        ("name-ref-space", {"name_ref": "Astrid L"}, "A name where a reference must stand."),
        ("sub-missing", {"sub": "${absent}"}, "Without a subject."),
    ):
        grant(f"grant/{name}", about, payload=payload)
    for name, about, change in (
        ("cnf-extra-field", "A JWK with use and alg.", '"kty":"EC","use":"sig","alg":"ES256"'),
        ("cnf-extra-x5u", "A JWK with an address.", '"kty":"EC","x5u":"https://forger.example"'),
        ("cnf-lower-case-kty", "Another case.", '"kty":"ec"'),
        ("cnf-kty-number", "A number for a string.", '"kty":1'),
        ("cnf-kty-duplicate", "The same member twice.", '"kty":"EC","kty":"EC"'),
    ):
        grant(f"grant/{name}", about, payload_replace=[['"kty":"EC"', change]])
    grant("grant/nbf-nan", "A NaN compares false with everything.",
          payload_replace=[['"sub":"s-1"', '"sub":"s-1","nbf":NaN']], payload={"nbf": "${absent}"})  # fmt: skip
    grant("grant/exp-1e999", "An end that becomes infinite.",
          payload_replace=[['"sub":"s-1"', '"sub":"s-1","exp":1e999']], payload={"exp": "${absent}"})  # fmt: skip
    grant("grant/homes-of-another-gateway", "A grant for another home.", "wrong-role", payload={"homes": ["gw-b"]})
    grant("grant/home-with-a-longer-name", "A name that begins like ours.", "wrong-role", payload={"homes": ["gw-a1"]})
    grant("grant/groups-of-others", "A group that this home is not in.", "wrong-role",
          payload={"homes": [], "groups": ["hv-norra"]})  # fmt: skip
    grant("grant/neither-homes-nor-groups", "A grant for no home is not one for all.", "wrong-role",
          payload={"homes": "${absent}"})  # fmt: skip
    grant("grant/group-named-as-the-gateway", "A group may not stand for a home.", "wrong-role",
          payload={"homes": [], "groups": ["gw-a"]})  # fmt: skip
    for role in ("planner", "installer", "steward", "release"):
        grant(f"grant/{role}-opens", f"The role {role} opens nothing.", "wrong-role", payload={"roles": [role]})
    for kind in ("agreement.put", "agreement.withdraw", "tunnel.put", "config.put"):
        grant(f"grant/operator-signs-{kind}", f"The role operator may not sign {kind}.", "wrong-role",
              command={"kind": kind})  # fmt: skip
    for role in ("operator", "planner", "steward"):
        grant(f"grant/{role}-signs-trust", "No granted person signs trust.", payload={"roles": [role]},
              command={"kind": "trust.put", "key": "operator"})  # fmt: skip
    grant("grant/installer-closes", "Not even closing is for a role without checks.", "wrong-role",
          payload={"roles": ["installer"]}, command={"kind": "check.close"})  # fmt: skip
    grant("grant/shift-over", "The shift is over, by the whole interval.", "unknown-key", gate={"later_s": 1.0},
          payload={"nbf": "${now-7200}", "exp": "${now-60}"})  # fmt: skip
    grant("grant/shift-ends-inside-the-interval", "The shift may be over already.", "unknown-key",
          payload={"nbf": "${now-7200}", "exp": "${now+1}"})  # fmt: skip
    grant("grant/shift-begins-inside-the-interval", "The shift may not have begun.", "unknown-key",
          payload={"nbf": "${now+1}", "exp": "${now+7200}"})  # fmt: skip
    for name in ("shift-over", "shift-ends-inside-the-interval", "shift-begins-inside-the-interval"):
        _vectors[f"grant/{name}"]["spends_nonce"] = True
    for name, aud in (
        ("another-gateway", "gw-b/2"),
        ("another-install-epoch", "gw-a/1"),
        ("a-later-install-epoch", "gw-a/3"),
        ("epoch-with-more-digits", "gw-a/22"),
        ("longer-name", "gw-ab/2"),
    ):
        command(f"device/{name}", "A command for another device, or for this one in another life (F52).",
                "wrong-device", payload={"aud": aud})  # fmt: skip
    for kind in ("check.close", "check.challenge", "check.lease"):
        command(f"device/{kind}-of-another-gateway", "Void here, whatever it asks.", "wrong-device", kind=kind,
                payload={"aud": "gw-b/2"})  # fmt: skip
    command("device/provisioned-anew", "A command from before the device was installed anew.", "wrong-device",
            gate={"install_epoch": 3, "agreement": {"install_epoch": 3}})  # fmt: skip


def replays() -> None:
    for name, gate, expect, about in (
        ("used-nonce", {"nonce": "used"}, "nonce-used", "Last night's open once more (F53)."),
        ("expired-nonce", {"later_s": 30.001}, "nonce-expired", "One millisecond too late."),
        ("expired-long-ago", {"later_s": 3600.0}, "nonce-expired", "An hour too late, and never swept."),
        ("nonce-of-another-key", {"nonce": "other-key"}, "nonce-unknown", "Another person's nonce."),
        ("nonce-of-another-boot", {"nonce": "other-boot"}, "nonce-unknown", "A nonce from before the restart."),
        ("nonce-pushed-out", {"nonce": "pushed-out"}, "nonce-unknown", "The fifth oldest of one key."),
        ("nonce-of-a-time-statement", {"nonce": "of-a-time-statement"}, "nonce-unknown", "Nonces have one purpose."),
    ):
        command(f"replay/{name}", about, expect, gate=gate, spends_nonce=expect == "nonce-expired")
    command("replay/nonce-guessed", "A nonce that nobody gave out.", "nonce-unknown", payload={"nonce": "A" * 22})
    command("replay/nonce-with-case-changed", "A nonce is compared exactly.", "nonce-unknown",
            payload={"nonce": "a" * 22})  # fmt: skip
    for name, gate, expect, about, spends in (
        ("while-another-check-runs", {"running": "other"}, "busy", "One check at a time.", True),
        ("while-the-own-check-runs", {"running": "operator"}, "busy", "Not even one's own again.", True),
        ("without-an-agreement", {"agreement": None}, "not-agreed", "There is no agreement.", True),
        ("after-withdrawal", {"withdrawn": True}, "withdrawn", "The resident said no.", True),
        ("while-paused", {"paused_until_unix_s": 4e9}, "paused", "The resident asked for peace.", True),
        ("before-the-clock-is-known", {"attested": False}, "clock-untrusted", "A floor is no time.", True),
        ("after-seen", {"outcome": "seen"}, "budget-spent", "The resident was seen already.", True),
        ("while-an-attempt-is-unclosed", {"outcome": "open"}, "outside-window", "The last attempt has no end.", True),
        ("without-consent", {"agreement": {"consent/resident": None}}, "no-consent", "Nobody consented.", True),
        ("without-the-cohabitants-consent", {"agreement": {"consent/cohabitant": {"given": None}}}, "no-consent",
         "The cohabitant did not.", True),
        ("after-the-window", {"agreement": {"lines/0/start": "23:00", "lines/0/window_min": 5}}, "not-agreed",
         "The occasion is no longer in the agreement.", True),
        ("before-the-window", {"agreement": {"lines/0/start": "23:45"}}, "not-agreed",
         "The occasion was moved.", True),
        ("mount-not-parked", {"obstacle": "not-parked"}, "not-parked", "The mount is not where it must be.", False),
        ("mount-fault", {"obstacle": "mount-fault"}, "mount-fault", "The mount is broken.", False),
        ("camera-fault", {"obstacle": "camera-fault"}, "camera-fault", "The camera is broken.", False),
        ("integrity-alarm", {"obstacle": "integrity-alarm"}, "integrity-alarm", "The ledger was tampered with.", False),
        ("ledger-unwritable", {"obstacle": "ledger-unwritable"}, "ledger-unwritable", "Nothing can be noted.", False),
        ("after-the-return", {"returned": 1}, "returned", "The device goes back.", False),
    ):  # fmt: skip
        command(f"state/{name}", about, expect, gate=gate, spends_nonce=spends)
    for name, payload, expect, about in (
        ("another-agreement", {"agreement": "a-2"}, "not-agreed", "An agreement that is not ours."),
        ("older-version", {"version": 3}, "stale-version", "The agreement was renewed since."),
        ("newer-version", {"version": 5}, "stale-version", "A version that the device has not."),
        ("another-line", {"line": "night-2"}, "not-agreed", "A line that was not agreed."),
        ("yesterday", {"occasion": "2026-11-22T23:30"}, "outside-window", "Yesterday's occasion."),
        ("tomorrow", {"occasion": "2026-11-24T23:30"}, "outside-window", "Tomorrow's occasion."),
        ("another-minute", {"occasion": "2026-11-23T23:31"}, "not-agreed", "One minute off."),
        ("occasion-is-no-date", {"occasion": "2026-02-30T23:30"}, "not-agreed", "A day that there is not."),
        ("attempt-2", {"attempt": 2}, "budget-spent", "The second attempt before the first."),
        ("attempt-9", {"attempt": 9}, "budget-spent", "Far beyond the agreed number."),
        ("offer-without-fingerprint", {"offer": "v=0\r\n"}, "malformed", "An offer to nobody."),
        ("offer-with-two-fingerprints",
         {"offer": "v=0\r\na=fingerprint:sha-256 ${fp}\r\na=fingerprint:sha-256 ${fp-other}\r\n"}, "malformed",
         "Two ends of the tunnel."),
    ):  # fmt: skip
        command(f"state/{name}", about, expect, payload=payload, spends_nonce=True)
    for kind, role in (("check.challenge", "operator"), ("agreement.put", "planner"), ("setup.enter", "steward"),
                       ("tunnel.put", "steward"), ("config.put", "steward")):  # fmt: skip
        put(f"state/{kind}-after-the-return", "The device goes back: no command but one that closes is obeyed.",
            "command", "returned", grant={"payload": {"roles": [role]}}, command={"kind": kind},
            gate={"returned": 1})  # fmt: skip
    steward = {"payload": {"roles": ["steward"]}}
    put("accepted/config.put", "A steward tells of the broker's new address.", "command", "accepted", grant=steward,
        command={"kind": "config.put"})  # fmt: skip
    address = {"version": 2, "broker_host": "10.90.0.3", "broker_port": 8883, "broker_name": "broker.example"}
    for name, change in (
        ("host-with-a-newline", {"broker_host": "10.90.0.3\n"}),
        ("host-that-is-an-url", {"broker_host": "mqtts://broker.example"}),
        ("port-0", {"broker_port": 0}),
        ("a-ca-of-its-own", {"ca": "-----BEGIN CERTIFICATE-----"}),
        ("half-a-fallback", {"fallback": {"broker_host": "broker.example", "broker_port": 443}}),
    ):
        put(f"payload/config.put-{name}", "Another address is an address, and brings no trust along.", "command",
            grant=steward, command={"kind": "config.put", "payload": {"settings": address | change}})  # fmt: skip
    for name, expect, payload, grant, gate in (
        ("older-order", "stale-version", {"version": 2}, steward, {"returned": 3}),
        ("same-version-with-another-nonce", "stale-version", {"version": 3}, steward, {"returned": 3}),
        ("of-an-earlier-installation", "wrong-device", {"aud": "gw-a/1"}, steward, {}),
        ("by-an-operator", "wrong-role", {}, {}, {}),
    ):
        put(f"state/device.return-{name}", "An order to return that does not count here.", "command", expect,
            grant=grant, command={"kind": "device.return", "payload": payload}, gate=gate)  # fmt: skip
    for kind in ("check.lease", "check.verdict"):
        command(f"state/{kind}-of-no-check", "No check runs.", "not-agreed", kind=kind)
        command(f"state/{kind}-of-another-check", "Another check runs.", "not-agreed", kind=kind,
                payload={"check": "c-2"}, gate={"running": "operator"})  # fmt: skip
        command(f"state/{kind}-by-another-key", "Somebody else opened this check.", "wrong-role", kind=kind,
                gate={"running": "other"})  # fmt: skip


def agreements() -> None:
    for name, changes, expect, about in (
        ("same-version", {"version": 4}, "stale-version", "The version in force, once more."),
        ("older-version", {"version": 3}, "stale-version", "An older version."),
        ("another-gateway", {"gateway": "gw-b"}, "wrong-device", "Another device's agreement."),
        ("older-install-epoch", {"install_epoch": 1}, "wrong-device", "An agreement from before."),
        ("later-install-epoch", {"install_epoch": 3}, "wrong-device", "An agreement for after."),
        ("version-0", {"version": 0}, "malformed", "Versions start at 1."),
        ("version-float", {"version": 5.0}, "malformed", "A float is no version."),
        ("no-lines", {"lines": []}, "malformed", "Nothing was agreed."),
        ("thirteen-lines", {"lines": [{}] * 13}, "malformed", "Too many lines."),
        ("max-s-181", {"lines/0/max_s": 181}, "malformed", "Longer than three minutes."),
        ("window-241", {"lines/0/window_min": 241}, "malformed", "A window of more than four hours."),
        ("recheck-4-times", {"lines/0/recheck/times": 4}, "malformed", "More re-checks than there may be."),
        ("rrule-secondly", {"lines/0/rrule": "FREQ=SECONDLY"}, "malformed", "Every second."),
        ("rrule-not-one", {"lines/0/rrule": "every night"}, "malformed", "No RRULE."),
        ("rrule-newline", {"lines/0/rrule": "FREQ=DAILY\nEXDATE:20261124"}, "malformed", "A second line in the rule."),
        ("rrule-interval-0", {"lines/0/rrule": "FREQ=DAILY;INTERVAL=0"}, "malformed", "A rule that never moves on."),
        ("zone-path", {"timezone": "../../etc/localtime"}, "malformed", "A time zone that is a path."),
        ("zone-leap-seconds", {"timezone": "right/Europe/Stockholm"}, "malformed", "A zone that counts leap seconds."),
        ("start-24", {"lines/0/start": "24:00"}, "malformed", "A time that there is not."),
        ("valid-backwards", {"valid/until": "2026-10-31"}, "malformed", "It ends before it begins."),
        ("consent-missing", {"consent": "${absent}"}, "malformed", "Nothing is said of consent."),
        ("consent-true", {"consent/resident": True}, "malformed", "Consent is more than a yes."),
        ("name-of-the-resident", {"name": "Astrid"}, "malformed", "Personal data has no field."),
        ("picture-record", {"picture/mode": "record"}, "malformed", "A mode that there is not."),
        ("camera-always-on", {"always_on": True}, "malformed", "A member that the schema does not know."),
        ("newer", {}, "accepted", "A newer version of one's own is taken."),
    ):
        put(f"agreement/{name}", about, "agreement", expect, set=changes)
    for name, raw, about in (
        ("empty", "", "Nothing."),
        ("brackets", times(100_000, "["), "10^5 brackets."),
        ("brackets-within-the-limit", times(16_000, "["), "As many brackets as the limit lets through."),
        ("invalid-utf8", b64(b'{"agreement":"\xff"}'), "Not UTF-8."),
        ("nan", '{"version":NaN}', "NaN."),
        ("duplicate-key", '{"version":5,"version":6}', "Two versions."),
        ("long-integer", ['{"version":', times(5000, "9"), "}"], "A version of 5000 digits."),
        ("16385-bytes", times(16385, " "), "One byte too many."),
    ):
        put(f"agreement/raw-{name}", about, "agreement", input=raw)


def trusts() -> None:
    new = {"version": 3, "roots": ["${jwk:new-root}"]}
    both = {"version": 3, "roots": ["${jwk:root}", "${jwk:new-root}"]}
    new_signs = {"key": "new-root"}
    for name, tokens, expect, about in (
        ("plain", [{}], "accepted", "The roots stay; one signature is enough."),
        ("rotated", [{"payload": new}, {"payload": new} | new_signs], "accepted", "Old and new root both sign."),
        ("root-added", [{"payload": both}, {"payload": both} | new_signs], "accepted", "One root more, by both."),
        ("rotated-without-second-signature", [{"payload": new}], "bad-signature",
         "Roots change only with a new root's signature."),
        ("rotated-second-by-the-old-root", [{"payload": new}, {"payload": new}], "unknown-key",
         "The old root signs twice."),
        ("rotated-second-in-the-new-roots-name",
         [{"payload": new}, {"payload": new, "key": "new-root", "by": "root"}], "bad-signature",
         "The old root in the new one's name."),
        ("rotated-by-the-new-root-alone", [{"payload": new} | new_signs], "unknown-key", "The new root by itself."),
        ("rotated-by-the-new-root-twice", [{"payload": new} | new_signs] * 2, "unknown-key", "Twice."),
        ("rotated-wrong-order", [{"payload": new} | new_signs, {"payload": new}], "unknown-key", "New before old."),
        ("rotated-statements-differ", [{"payload": new}, {"payload": new | {"epoch": 0}} | new_signs],
         "bad-signature", "Two statements that are not the same."),
        ("rotated-versions-differ", [{"payload": new}, {"payload": new | {"version": 4}} | new_signs],
         "bad-signature", "Two versions."),
        ("rotated-second-is-garbage", [{"payload": new}, "garbage"], "malformed", "The second is no JWS."),
        ("rotated-second-is-empty", [{"payload": new}, ""], "malformed", "The second is missing behind its mark."),
        ("three-parts", [{"payload": new}, {"payload": new} | new_signs, {"payload": new}], "malformed",
         "Three signatures."),
        ("second-signature-and-no-new-roots", [{}, {}], "malformed", "A second part that nobody would verify."),
        ("garbage-behind", [{}, "garbage"], "malformed", "Bytes behind the statement that no signature covers."),
        ("by-the-issuer", [{"key": "issuer"}], "unknown-key", "The issuing key raises itself."),
        ("by-the-issuer-in-the-roots-name", [{"by": "issuer"}], "bad-signature", "In the root's name."),
        ("by-an-operator", [{"key": "operator"}], "unknown-key", "A person."),
        ("by-a-stranger", [{"key": "stranger"}], "unknown-key", "Nobody."),
        ("alg-none", [{"header": {"alg": "none"}, "compact": "${h}.${p}."}], "malformed", "Unsigned."),
        ("epoch-lowered-after-signing", [{"payload": {"epoch": 0}, "signed_as": {"payload": {}}}], "bad-signature",
         "Changed after signing."),
        ("root-p384", [{"payload": {"roots": ["${jwk:p384}"]}}], "malformed", "A root on another curve."),
        ("root-off-curve", [{"payload": {"roots": ["${jwk:off-curve}"]}}], "malformed", "A point that is none."),
        ("root-with-private-part", [{"payload": {"roots": ["${jwk:with-private-part}"]}}], "malformed",
         "A private key in public."),
        ("issuer-p384", [{"payload": {"issuers": ["${jwk:p384}"]}}], "malformed", "An issuer on another curve."),
        ("no-roots", [{"payload": {"roots": []}}], "malformed", "Nobody could ever change it again."),
        ("no-issuers", [{"payload": {"issuers": []}}], "malformed", "Nobody could grant anything."),
        ("five-roots", [{"payload": {"roots": ["${jwk:root}"] * 5}}], "malformed", "More than four."),
        ("version-0", [{"payload": {"version": 0}}], "malformed", "Versions start at 1."),
        ("epoch-minus-1", [{"payload": {"epoch": -1}}], "malformed", "A negative epoch."),
        ("unknown-field", [{"payload": {"threshold": 1}}], "malformed", "A member that the schema does not know."),
        ("duplicate-roots-member", [{"payload_replace": [['"version":2', '"version":2,"version":3']]}], "malformed",
         "Two versions in one statement."),
        ("empty", [""], "malformed", "Nothing."),
    ):  # fmt: skip
        put(f"trust/{name}", about, "trust", expect, tokens=tokens)
    put("trust/tildes", "Only separators.", "trust", input=times(100_000, "~"))
    for name, tokens, expect, about in (
        ("newer", [{}], "accepted", "A newer statement is taken."),
        ("rotated", [{"payload": new}, {"payload": new} | new_signs], "accepted", "New roots, signed by both."),
        ("same-version", [{"payload": {"version": 1}}], "stale-version", "The version in force, once more."),
        ("lower-epoch", [{"payload": {"epoch": 4}}], "stale-version", "It would bring dead grants back to life."),
        ("by-the-issuer", [{"key": "issuer"}], "unknown-key", "The issuing key raises itself."),
        ("by-an-operator", [{"key": "operator"}], "unknown-key", "A person."),
        ("by-another-in-the-roots-name", [{"by": "other"}], "bad-signature", "In the root's name."),
        ("rotated-without-second-signature", [{"payload": new}], "bad-signature", "Half a rotation."),
        ("with-a-command-behind", [{}, {"kind": "check.open", "key": "operator"}], "malformed",
         "A command behind a trust statement is not carried along."),
    ):  # fmt: skip
        put(f"trust/delivered-{name}", about, "command", expect, tokens=tokens)
    put("trust/rollback-to-the-old-root", "After the rotation the old root signs nothing more (F58).", "trust",
        "unknown-key", held=["new-root"], tokens=[{}])  # fmt: skip


def times_told() -> None:
    for name, token, expect, about in (
        ("plain", {}, "accepted", "The answer to our question."),
        ("wrong-nonce", {"payload": {"nonce": "A" * 22}}, "nonce-unknown", "The answer to another question."),
        ("another-gateway", {"payload": {"gateway": "gw-b"}}, "wrong-device", "Another device's answer."),
        ("by-a-stranger", {"key": "stranger"}, "unknown-key", "A clock that nobody knows."),
        ("by-the-root", {"key": "root"}, "unknown-key", "The root tells no time."),
        ("by-an-operator", {"key": "operator"}, "unknown-key", "A person tells no time."),
        ("by-an-operator-in-the-issuers-name", {"by": "operator"}, "bad-signature", "In the issuer's name."),
        ("time-changed-after-signing", {"payload": {"unix_s": 0}, "signed_as": {"payload": {}}}, "bad-signature",
         "The hands were moved."),
        ("unix-s-negative", {"payload": {"unix_s": -1}}, "malformed", "Before 1970."),
        ("unix-s-beyond-9999", {"payload": {"unix_s": 253402300800}}, "malformed", "After 9999."),
        ("unix-s-string", {"payload": {"unix_s": "1"}}, "malformed", "A string."),
        ("unix-s-true", {"payload": {"unix_s": True}}, "malformed", "A boolean."),
        ("unix-s-1e999", {"payload": {"unix_s": "${absent}"},
                          "payload_replace": [['"radius_s":1.0', '"radius_s":1.0,"unix_s":1e999']]}, "malformed",
         "A time that becomes infinite."),
        ("radius-negative", {"payload": {"radius_s": -1}}, "malformed", "Surer than sure."),
        ("radius-3601", {"payload": {"radius_s": 3601}}, "malformed", "Coarser than an hour."),
        ("radius-nan", {"payload_replace": [['"radius_s":1.0', '"radius_s":NaN']]}, "malformed", "NaN."),
        ("radius-missing", {"payload": {"radius_s": "${absent}"}}, "malformed", "Without an error."),
        ("with-a-zone", {"payload": {"zone": "UTC"}}, "malformed", "A member that the schema does not know."),
        ("alg-none", {"header": {"alg": "none"}, "compact": "${h}.${p}."}, "malformed", "Unsigned."),
    ):  # fmt: skip
        put(f"time/{name}", about, "statement", expect, token=token)
    put("time/nobody-asked", "An answer without a question.", "statement", "nonce-unknown", token={},
        gate={"asked": False})  # fmt: skip
    put("time/answer-to-an-earlier-question", "A new question voids the one before.", "statement", "nonce-unknown",
        token={}, gate={"asked_again": True})  # fmt: skip
    put("time/heard-twice", "An answer counts once.", "statement", "nonce-unknown", token={},
        gate={"heard_before": True})  # fmt: skip
    put("time/two-joined", "Two statements joined.", "statement", token={"compact": "${h}.${p}.${s}~${h}.${p}.${s}"})
    put("time/raw-unsigned", "JSON without an envelope.", "statement", input='{"unix_s":1}')


def sdps() -> None:
    ours = "a=fingerprint:sha-256 ${fp}\r\n"
    for name, raw, expect, about in (
        ("one", ours, "accepted", "Exactly one."),
        ("lower-case-hex", "a=fingerprint:sha-256 ${fp-lower}\r\n", "accepted", "RFC 8122 asks for upper case."),
        ("upper-case-name", "a=fingerprint:SHA-256 ${fp}\r\n", "accepted", "Names of hashes ignore case."),
        ("the-same-twice", ["m=audio\r\n", ours, "m=video\r\n", ours], "accepted", "The same for each medium."),
        ("the-same-in-both-cases", [ours, "a=fingerprint:sha-256 ${fp-lower}\r\n"], "accepted", "Still one."),
        ("bare-newlines", "v=0\na=fingerprint:sha-256 ${fp}\n", "accepted", "Without carriage returns."),
        ("sixteen-candidates", [ours, times(16, "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n")], "accepted",
         "As many candidates as there may be."),
        ("none", "v=0\r\ns=-\r\n", "malformed", "No fingerprint."),
        ("empty", "", "malformed", "Nothing."),
        ("two-that-differ", [ours, "a=fingerprint:sha-256 ${fp-other}\r\n"], "malformed", "Who sees the picture?"),
        ("session-and-medium-differ", [ours, "m=video 9 x 96\r\n", "a=fingerprint:sha-256 ${fp-other}\r\n"],
         "malformed", "One for the session, another for the medium."),
        ("sha-1", "a=fingerprint:sha-1 ${fp-sha1}\r\n", "malformed", "A broken hash."),
        ("sha-512-only", "a=fingerprint:sha-512 ${fp-sha512}\r\n", "malformed", "Another hash."),
        ("sha-256-and-sha-512", [ours, "a=fingerprint:sha-512 ${fp-sha512}\r\n"], "malformed",
         "Chromium took the sha-512 one."),
        ("sha-512-and-sha-256", ["a=fingerprint:sha-512 ${fp-sha512}\r\n", ours], "malformed", "In the other order."),
        ("md5", [ours, "a=fingerprint:md5 00\r\n"], "malformed", "An old hash beside the good one."),
        ("sha-256-named-sha-512", "a=fingerprint:sha-512 ${fp}\r\n", "malformed", "The name and the length differ."),
        ("sha-512-named-sha-256", "a=fingerprint:sha-256 ${fp-sha512}\r\n", "malformed", "Too long for its name."),
        ("one-byte-short", "a=fingerprint:sha-256 00:11\r\n", "malformed", "Two bytes."),
        ("without-colons", ["a=fingerprint:sha-256 ", times(32, "AB"), "\r\n"], "malformed", "No colons."),
        ("not-hex", ["a=fingerprint:sha-256 ", times(31, "GG:"), "GG\r\n"], "malformed", "Letters beyond F."),
        ("full-width-hex", ["a=fingerprint:sha-256 ", times(31, "\uff21\uff21:"), "\uff21\uff21\r\n"], "malformed",
         "Letters that normalise to A."),
        ("trailing-text", "a=fingerprint:sha-256 ${fp} extra\r\n", "malformed", "Something behind it."),
        ("two-spaces", "a=fingerprint:sha-256  ${fp}\r\n", "malformed", "Two spaces."),
        ("tab", "a=fingerprint:sha-256\t${fp}\r\n", "malformed", "A tab."),
        ("no-hash-name", "a=fingerprint: ${fp}\r\n", "malformed", "Which hash?"),
        ("no-value", "a=fingerprint:sha-256\r\n", "malformed", "No value."),
        ("no-colon-behind-attribute", [ours, "a=fingerprint\r\n"], "malformed", "An attribute without a value."),
        ("upper-case-attribute", [ours, "A=FINGERPRINT:sha-256 ${fp-other}\r\n"], "malformed",
         "A line that a lenient reader takes."),
        ("mixed-case-attribute", [ours, "a=Fingerprint:sha-256 ${fp-other}\r\n"], "malformed", "Likewise."),
        ("hidden-behind-line-separator", [ours, "s=x\u2028a=fingerprint:sha-256 ${fp-other}\r\n"], "malformed",
         "A line that only some readers see."),
        ("hidden-behind-carriage-return", [ours, "s=x\ra=fingerprint:sha-256 ${fp-other}\r\n"], "malformed",
         "Likewise, behind a bare carriage return."),
        ("hidden-behind-form-feed", [ours, "s=x\u000ca=fingerprint:sha-256 ${fp-other}\r\n"], "malformed",
         "Likewise, behind a form feed."),
        ("indented-only", " a=fingerprint:sha-256 ${fp}\r\n", "malformed", "Not at the start of a line."),
        ("257-lines", [ours, times(256, "a=x\r\n")], "malformed", "Too many lines."),
        ("seventeen-candidates", [ours, times(17, "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n")], "malformed",
         "Too many places to call."),
        ("a-hundred-thousand-lines", [ours, times(100_000, "\n")], "malformed", "Far too many lines."),
        ("long-line", ["a=fingerprint:sha-256 ", times(8000, "A:")], "malformed", "A pattern's worst case."),
    ):  # fmt: skip
        put(f"sdp/{name}", about, "sdp", expect, input=raw)


def jsons() -> None:
    for name, raw, expect, about in (
        ("brackets-100000", times(100_000, "["), "malformed", "10^5 brackets."),
        ("brackets-16384", times(16_384, "["), "malformed", "As many as the limit lets through."),
        ("brackets-after-closing-ones", ["[", times(8000, "]"), times(8000, "[")], "malformed", "Depth below zero."),
        ("depth-8", "[[[[[[[[1]]]]]]]]", "accepted", "Eight deep."),
        ("depth-9", "[[[[[[[[[1]]]]]]]]]", "malformed", "Nine deep."),
        ("depth-9-mixed", '{"a":[{"a":[{"a":[{"a":[{}]}]}]}]}', "malformed", "Nine deep, objects and arrays."),
        ("brackets-in-a-string", ['["', times(1000, "["), '"]'], "accepted", "Text is not structure."),
        ("brackets-behind-an-escaped-quote", ['["\\"', times(1000, "["), '"]'], "accepted", "Nor behind this."),
        ("brackets-behind-an-escaped-backslash", ['["\\\\"', times(1000, "["), "]"], "malformed", "But here it is."),
        ("16384-bytes", [times(16_383, " "), "1"], "accepted", "The limit itself."),
        ("16385-bytes", [times(16_384, " "), "1"], "malformed", "One byte beyond the limit."),
        ("2-53", "9007199254740992", "accepted", "The largest integer."),
        ("minus-2-53", "-9007199254740992", "accepted", "The smallest integer."),
        ("beyond-2-53", "9007199254740993", "malformed", "One beyond."),
        ("beyond-minus-2-53", "-9007199254740993", "malformed", "One below."),
        ("integer-of-5000-digits", times(5000, "9"), "malformed", "More digits than Python converts."),
        ("integer-of-16000-digits", times(16_000, "9"), "malformed", "Quadratic for a naive parser."),
        ("float-of-5000-digits", ["0.", times(5000, "9")], "malformed", "A long fraction."),
        ("zero-exponent-long", ["1e", times(5000, "0")], "malformed", "A long exponent."),
        ("1e308", "1e308", "accepted", "A large float."),
        ("1e309", "1e309", "malformed", "Infinite."),
        ("minus-1e999", "-1e999", "malformed", "Infinite, below zero."),
        ("minus-zero", "-0", "accepted", "An odd way to write nothing."),
        ("nan", "NaN", "malformed", "No JSON."),
        ("infinity", "[Infinity]", "malformed", "No JSON."),
        ("minus-infinity", '{"a":-Infinity}', "malformed", "No JSON."),
        ("leading-zero", "01", "malformed", "Octal?"),
        ("dot-first", ".5", "malformed", "Nothing before the point."),
        ("dot-last", "5.", "malformed", "Nothing behind the point."),
        ("arabic-digits", "\u0661", "malformed", "Digits outside ASCII."),
        ("duplicate-key", '{"a":1,"a":1}', "malformed", "Twice the same."),
        ("duplicate-key-nested", '[{"b":{"a":1,"a":2}}]', "malformed", "Inside."),
        ("duplicate-key-escaped", '{"a":1,"\\u0061":2}', "malformed", "Two spellings of one name."),
        ("duplicate-empty-key", '{"":1,"":2}', "malformed", "Names without letters."),
        ("keys-that-differ-in-case", '{"a":1,"A":2}', "accepted", "Two names."),
        ("lone-high-surrogate", '{"a":"\\ud800"}', "malformed", "Half a character."),
        ("lone-low-surrogate", '{"a":"\\udc00"}', "malformed", "The other half."),
        ("surrogates-in-the-wrong-order", '{"a":"\\udc00\\ud800"}', "malformed", "Both halves, swapped."),
        ("lone-surrogate-in-key", '{"\\ud800":1}', "malformed", "In a name."),
        ("lone-surrogate-at-the-top", '"\\ud800"', "malformed", "As the whole text."),
        ("lone-surrogate-in-nested-list", '{"a":[["\\ud800"]]}', "malformed", "In a list of lists."),
        ("surrogate-pair", '"\\ud83d\\ude00"', "accepted", "A whole character."),
        ("nul-escaped", '{"a":"\\u0000"}', "malformed", "A NUL, escaped."),
        ("nul-in-nested-list", '[["\\u0000"]]', "malformed", "In a list of lists."),
        ("nul-in-key", '{"\\u0000":1}', "malformed", "In a name."),
        ("nul-raw", '"\0"', "malformed", "A NUL, raw."),
        ("nul-behind", "1\0", "malformed", "Behind the text."),
        ("control-character-raw", '"\u0001"', "malformed", "Raw control characters are not allowed."),
        ("bom", "\ufeff1", "malformed", "A BOM."),
        ("utf-16", b64('{"a":1}'.encode("utf-16")), "malformed", "UTF-16, which json.loads would guess."),
        ("utf-32", b64('{"a":1}'.encode("utf-32")), "malformed", "UTF-32, likewise."),
        ("utf-16-without-bom", b64('{"a":1}'.encode("utf-16-le")), "malformed", "UTF-16 without a BOM."),
        ("invalid-utf8", b64(b'"\xff"'), "malformed", "Not UTF-8."),
        ("overlong-utf8", b64(b'"\xc0\xa2"'), "malformed", "A quotation mark in two bytes."),
        ("overlong-nul", b64(b'"\xc0\x80"'), "malformed", "A NUL in two bytes."),
        ("encoded-surrogate", b64(b'"\xed\xa0\x80"'), "malformed", "CESU-8."),
        ("beyond-unicode", b64(b'"\xf4\x90\x80\x80"'), "malformed", "Beyond U+10FFFF."),
        ("empty", "", "malformed", "Nothing."),
        ("white-space", " \n\t", "malformed", "White space."),
        ("form-feed", "\u000c1", "malformed", "White space that JSON does not know."),
        ("trailing-comma", "[1,]", "malformed", "A comma more."),
        ("single-quotes", "'a'", "malformed", "Other quotes."),
        ("comment", "1//", "malformed", "A comment."),
        ("two-values", "1 2", "malformed", "Two texts."),
        ("bad-escape", '"\\x41"', "malformed", "An escape that there is not."),
        ("short-escape", '"\\u004"', "malformed", "Three digits."),
        ("underscore-escape", '"\\u0_41"', "malformed", "An escape that int() would read."),
        ("unterminated-string", '"', "malformed", "No end."),
        ("unterminated-escape", '"\\', "malformed", "No end, after a backslash."),
        ("quotes-16384", times(16_384, '"'), "malformed", "Quotation marks only."),
        ("backslashes-16383", ['"', times(16_381, "\\"), '"'], "malformed", "Backslashes only."),
        ("python-true", "True", "malformed", "Another language's word."),
        ("undefined", "undefined", "malformed", "Likewise."),
    ):
        put(f"json/{name}", about, "json", expect, input=raw)


def vectors() -> dict[str, Vector]:
    """Every vector by its path without `.json`."""
    _vectors.clear()
    for room in (good, headers, forms, signatures, confusions, payloads, grants, replays, agreements, trusts,
                 times_told, sdps, jsons):  # fmt: skip
        room()
    return dict(_vectors)


def rendered() -> dict[Path, str]:
    """What the tree must hold: path and content, in ASCII, so that nothing hostile is invisible."""
    return {
        HERE / f"{name}.json": json.dumps(vector, indent=1, ensure_ascii=True) + "\n"
        for name, vector in vectors().items()
    }


def main() -> int:
    wanted = rendered()
    for path in HERE.rglob("*.json"):
        if path not in wanted:
            path.unlink()
    for path, content in wanted.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
