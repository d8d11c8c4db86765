"""Homes and checks: the grant, commands out and signed replies back, what is known of a home, its log."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
from starlette.responses import Response, StreamingResponse

from centre.answer import answer, error
from centre.api import answers
from centre.api.endpoint import Call, Endpoint, Query, number
from centre.config import MAX_GRANT_HOMES
from centre.exchange import NoAnswerError
from centre.export import fhir
from centre.export.account import account_of_lines
from centre.relay import ice_servers
from centre.relay_api import relay
from centre.role import ANYBODY, AT_THE_DESK, OPERATOR, READS_LOGS, CentreRole, granted
from centre.state import CentreState, Home
from centre.store import AskedOpening, SentAgreement
from gateway.agreement import AGREEMENT_MAX_BYTES
from gateway.core.error import TransientError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol import strict_json
from gateway.protocol.envelope import MAX_ENVELOPE_BYTES, sign, split, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import (
    KINDS,
    ROLE_FOR,
    AgreementPut,
    AgreementWithdraw,
    Challenge,
    Close,
    Confirmation,
    DeviceReturn,
    Grant,
    Lease,
    Message,
    Occasion,
    Open,
    audience,
)
from gateway.protocol.message import Id as IdText

GRANT_LIFE_S: Final = 8 * 3600
_GRANT_SLACK_S: Final = 60.0
"""A grant begins this long before now: the home's whole clock interval must lie after its beginning."""
LEASE_EVERY_S: Final = 5
MAX_LOG_ROWS: Final = 200
MISSED_S: Final = 30 * 86_400.0
CLAIM_LIFE_S: Final = 90.0
"""A page renews its claim every 30 s; one that vanished keeps a check from the others no longer than this."""
_LAST = Query("last", 1, 0, 1, "0 leaves out the newest outcomes.")
_AFTER = Query("after", -1, -1, 2**53, "Only records above this number.")
_NEWEST = Query("newest", 0, 1, MAX_LOG_ROWS, "Only that many, the newest.")


class KeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public half of a P-256 key made in the browser (RFC 7517): kty, crv, x, y."""

    jwk: dict[str, str]


class ClaimBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    line: IdText
    occasion: Occasion


async def config(call: Call) -> Response:
    state = call.state
    return answer(
        {
            "who": call.who,
            "roles": call.session.account.roles,
            "unit": call.session.account.unit,
            "ice_policy": state.ice.policy,
            "ice_servers": ice_servers(state.ice, None),
            "lease_every_s": LEASE_EVERY_S,
            "now_unix_s": state.clock(),
            "witness": None if state.cosigner is None else str(state.cosigner.public),
        }
    )


async def grant(call: Call) -> Response:
    state, account = call.state, call.session.account
    try:
        key = VerifyingKey.from_jwk(call.body.jwk)
    except RefusedError:
        return error(400, "malformed", 'Send {"jwk": {"kty", "crv", "x", "y"}} with a public P-256 key.')
    roles = granted(account.roles)
    if not roles:
        return error(403, "wrong-role", "Your account signs nothing, so it gets no grant.")
    now_unix_s = state.clock()
    disabled = await asyncio.to_thread(state.store.disabled, state.installations)
    seen = {home.gateway: home for home in list(state.homes.values()) if account.sees(home)}
    fits_by_name = len(seen) <= MAX_GRANT_HOMES
    groups = {group for home in seen.values() for group in home.groups}
    made = Grant(
        sub=account.who,
        name_ref=account.who,
        roles=roles,
        cnf=Confirmation(key.jwk()),
        epoch=state.grant_epoch,
        nbf=now_unix_s - _GRANT_SLACK_S,
        exp=now_unix_s + GRANT_LIFE_S,
        # A grant by groups can't leave one home out; that no command is forwarded to it holds there as well.
        homes=sorted(set(seen) - set(disabled)) if fits_by_name else [],
        groups=[] if fits_by_name else sorted(groups if account.groups is None else groups & account.groups),
    )
    envelope = sign(made, state.issuing_key)
    digest = hashlib.sha256(envelope).hexdigest()
    await asyncio.to_thread(state.store.put_grant, made, grant_sha256=digest, kid=key.kid)
    return answer(
        {
            "grant": envelope.decode("ascii"),
            "kid": key.kid,
            "exp_unix_s": made.exp,
            "who": account.who,
            "roles": roles,
        }
    )


# Homes


async def homes(call: Call) -> Response:
    last = number(call.request, _LAST) == 1
    return answer(await asyncio.to_thread(_known, call.state, list(call.state.homes.values()), None, call, last))


async def home(call: Call) -> Response:
    one = call.the_home
    (facts,) = await asyncio.to_thread(_known, call.state, [one], one.gateway, call, True)
    return answer(facts)


def _known(state: CentreState, homes: list[Home], only: str | None, call: Call, last: bool) -> list[dict[str, Any]]:
    """What is known of these homes, or of `only` one: all of it in one thread, for an operator waits. Blocking."""
    store = state.store
    known = store.home_states(only, last=last)
    disabled = store.disabled({home.gateway: home.install_epoch for home in homes})
    witnessed = store.witnessed(only)
    checks = _checks(state, only)
    return [
        _facts(home, known[home.gateway], disabled, witnessed, checks)
        for home in homes
        if home.gateway in known and call.session.account.sees(home)
    ]


_Checks = tuple[dict[str, dict[str, Any]], dict[str, int]]
"""Each home's newest check, and how many were missed."""


def _checks(state: CentreState, only: str | None) -> _Checks:
    since_unix_s = state.clock() - MISSED_S
    return state.store.last_checks(only), state.store.handovers_begun(since_unix_s, only=only)


def _facts(
    home: Home,
    known: dict[str, Any],
    disabled: dict[str, Any],
    witnessed: dict[tuple[str, int], dict[str, Any]],
    checks: _Checks,
) -> dict[str, Any]:
    clock = None
    if known["clock_state"] is not None:
        clock = {
            "state": known["clock_state"],
            "lo_unix_s": known["clock_lo_unix_s"],
            "hi_unix_s": known["clock_hi_unix_s"],
        }
    return {
        "gateway": home.gateway,
        "install_epoch": home.install_epoch,
        "audience": audience(home.gateway, home.install_epoch),
        "device_jwk": home.device_key.jwk(),
        "groups": sorted(home.groups),
        "online": known["online"],
        "tunnel": known["tunnel"],
        "heard_unix_s": known["heard_unix_s"],
        "sw": known["sw"],
        "clock": clock,
        "obstacle": known["obstacle"],
        "agreement": known["agreement"],
        "version": known["version"],
        "due": known["due"],
        "last": known["last"],
        "last_check": checks[0].get(home.gateway),
        "missed": checks[1].get(home.gateway, 0),
        "signal": known["signal"],
        "disabled": disabled.get(home.gateway),
        "witnessed": _witness_facts(home, witnessed.get((home.gateway, home.install_epoch))),
    }


def _witness_facts(home: Home, newest: dict[str, Any] | None) -> dict[str, Any] | None:
    """None: the home's ledger key is not known here, so nothing of it is witnessed yet."""
    if home.ledger_key is None:
        return None
    if newest is None:
        return {"size": 0, "at_unix_s": None, "is_cosigned": False}
    return {name: newest[name] for name in ("size", "at_unix_s", "is_cosigned")}


async def checkpoint(call: Call) -> Response:
    """The newest witnessed checkpoint as a note, for `tillsyn ledger verify` beside a copy of the ledger."""
    one = call.the_home
    newest = (await asyncio.to_thread(call.state.store.witnessed, one.gateway)).get((one.gateway, one.install_epoch))
    if newest is None:
        return error(404, "not-witnessed", "No checkpoint of this home has been witnessed yet.")
    return Response(newest["note"], media_type="text/plain; charset=utf-8")


async def ledger(call: Call) -> Response:
    newest = number(call.request, _NEWEST) or None
    after = number(call.request, _AFTER)
    return answer(
        await asyncio.to_thread(call.state.store.ledger_rows, call.the_home.gateway, after=after, newest=newest)
    )


async def audit_events(call: Call) -> Response:
    """The home's log as the centre has it, as a FHIR R4 Bundle of AuditEvents."""
    state, one = call.state, call.the_home
    lines = await asyncio.to_thread(state.store.ledger_lines, one.gateway)
    account = await asyncio.to_thread(account_of_lines, one.gateway, lines)
    content = fhir.bundle(account, None, now=datetime.fromtimestamp(state.clock(), UTC))
    return Response(fhir.encode(content), media_type="application/fhir+json")


async def outcomes(call: Call) -> Response:
    after = number(call.request, _AFTER)
    rows = await asyncio.to_thread(call.state.store.outcomes_after, max(0, after), limit=200)
    account = call.session.account
    mine = {home.gateway for home in list(call.state.homes.values()) if account.sees(home)}
    return answer([row for row in rows if row["gateway"] in mine])


# Claims


async def claim(call: Call) -> Response:
    state, one, body = call.state, call.the_home, call.body
    holder = await asyncio.to_thread(
        state.store.take_claim,
        one.gateway,
        one.install_epoch,
        body.line,
        body.occasion,
        who=call.who,
        now_unix_s=state.clock(),
        life_s=CLAIM_LIFE_S,
    )
    if holder != call.who:
        return error(409, "claimed", f"{holder} is about to make this check.")
    state.events.send("claim", {"gateway": one.gateway})
    return answer({"who": holder, "life_s": CLAIM_LIFE_S})


async def release(call: Call) -> Response:
    one, body = call.the_home, call.body
    done = await asyncio.to_thread(
        call.state.store.release_claim, one.gateway, one.install_epoch, body.line, body.occasion, who=call.who
    )
    call.state.events.send("claim", {"gateway": one.gateway})
    return answer({"done": done})


# Commands


class _BadCommandError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


def _read_command(call: Call, untrusted: bytes) -> Message:
    """A command of this session's account; raises _BadCommandError.

    The home checks all of this again and more. Here it keeps one account from using another's grant, and rubbish off
    the broker. The command's audience is left to the home, whose refusal is signed.
    """
    state = call.state
    malformed = _BadCommandError(400, "malformed", "The command is not <grant>~<command>, signed. Reload the console.")
    try:
        untrusted_grant, untrusted_command = untrusted.split(b"~")
        issuer = state.issuing_key.verifying
        its_grant = verify(untrusted_grant, {issuer.kid: issuer}, Grant)
        kind = KINDS[split(untrusted_command).kind]
        if kind not in ROLE_FOR or kind is Lease:
            raise malformed
        person = VerifyingKey.from_jwk(its_grant.cnf.jwk)
        command = verify(untrusted_command, {person.kid: person}, kind)
    except (ValueError, KeyError) as exc:
        raise malformed from exc
    except RefusedError as exc:
        if exc.code is RefusalCode.MALFORMED:
            raise malformed from exc
        raise _BadCommandError(
            403, exc.code.value, "The signature is not one that this centre gave a grant for. Reload the console."
        ) from exc
    if its_grant.name_ref != call.who:
        raise _BadCommandError(403, "other-account", "This grant belongs to another account. Log in again.")
    if its_grant.exp <= state.clock() and kind not in (Close, AgreementWithdraw):
        raise _BadCommandError(403, "grant-expired", "Your shift's grant has ended. Reload the console for a new one.")
    return command


def _opening(home: Home, command: Message) -> AskedOpening | None:
    if not isinstance(command, Open):
        return None
    return AskedOpening(home.install_epoch, command.line, command.occasion, command.attempt)


def _agreement(home: Home, command: Message) -> SentAgreement | None:
    """What of an `agreement.put` is needed once the home has accepted it; nothing of one that it can only refuse."""
    if not isinstance(command, AgreementPut):
        return None
    name, version = command.agreement.get("agreement"), command.agreement.get("version")
    text = strict_json.dumps(command.agreement).decode()
    if not isinstance(name, str) or len(name) > 64 or type(version) is not int or len(text) > AGREEMENT_MAX_BYTES:
        return None
    return SentAgreement(home.install_epoch, name, version, text)


async def command(call: Call) -> Response:
    state, one = call.state, call.the_home
    try:
        message = _read_command(call, call.body)
    except _BadCommandError as exc:
        return error(exc.status, exc.code, exc.message)
    refusal = await _obstacle(call, message)
    if refusal is not None:
        return refusal
    jti = str(cast(Any, message).jti)
    if isinstance(message, DeviceReturn):
        kid = split(call.body.split(b"~")[1]).kid
        await asyncio.to_thread(
            state.store.put_return_order,
            one.gateway,
            one.install_epoch,
            message,
            who=call.who,
            kid=kid,
            now_unix_s=state.clock(),
        )
    return await forward(
        state,
        one,
        call.body,
        jti=jti,
        kind=message.KIND,
        who=call.who,
        opening=_opening(one, message),
        agreement=_agreement(one, message),
        may_repeat=isinstance(message, Challenge | Close | AgreementWithdraw | DeviceReturn),
    )


async def _obstacle(call: Call, message: Message) -> Response | None:
    """Why the centre does not carry this command. Closing, withdrawing and taking back are never refused: whatever is
    wrong with a home's log, and whoever holds a claim, the camera may always be closed.
    """
    state, one = call.state, call.the_home
    if isinstance(message, Close | AgreementWithdraw | DeviceReturn):
        return None
    disabled = await asyncio.to_thread(state.store.disabled, {one.gateway: one.install_epoch})
    if disabled:
        return error(
            409,
            "home-disabled",
            "This home's log does not fit what the centre has witnessed, so nothing is sent to it until it has "
            "been installed anew. Report it now, and make the check as a visit.",
        )
    if isinstance(message, Open):
        # Also without a claim before: whoever opens has it, so that two can't open one after the other unawares.
        holder = await asyncio.to_thread(
            state.store.take_claim,
            one.gateway,
            one.install_epoch,
            message.line,
            message.occasion,
            who=call.who,
            now_unix_s=state.clock(),
            life_s=CLAIM_LIFE_S,
        )
        if holder != call.who:
            return error(409, "claimed", f"{holder} is about to make this check.")
        state.desk_cache.forget()
        state.events.send("claim", {"gateway": one.gateway})
    return None


async def forward(
    state: CentreState,
    one: Home,
    untrusted: bytes,
    *,
    jti: str,
    kind: str,
    who: str,
    opening: AskedOpening | None = None,
    agreement: SentAgreement | None = None,
    may_repeat: bool = False,
) -> Response:
    """Send something signed to a home and answer with the home's signed reply, unverified by nobody on the way."""
    correlation = secrets.token_bytes(16)
    await asyncio.to_thread(
        state.store.put_command,
        correlation,
        command_sha256=hashlib.sha256(untrusted).hexdigest(),
        gateway=one.gateway,
        kind=kind,
        who=who,
        jti=jti,
        now_unix_s=state.clock(),
        opening=opening,
        agreement=agreement,
    )
    try:
        reply = await state.exchange.ask(
            one.gateway, jti=jti, untrusted_command=untrusted, correlation=correlation, may_repeat=may_repeat
        )
    except NoAnswerError:
        return error(
            504,
            "no-answer",
            "The home did not answer within 12 seconds. Try again once; if it stays silent, follow the routine for a "
            "home that can't be reached.",
        )
    except TransientError:
        return error(
            503, "broker-down", "The centre has no connection to the homes just now. It keeps trying; try again soon."
        )
    return answer({"reply": reply.decode("ascii")})


async def events(call: Call) -> Response:
    if call.state.events.is_full:
        return error(503, "too-many-pages", "Too many console pages are open. Close one, then reload.")
    return StreamingResponse(call.state.events.listen(), media_type="text/event-stream")


_SYSTEM_TOO: Final = AT_THE_DESK | {CentreRole.SYSTEM}

ENDPOINTS: Final = (
    Endpoint("config", "GET", "/config", config, "Who I am, and what the page needs.", answers.ServerFacts),
    Endpoint(
        "grant", "POST", "/grants", grant, "A grant for one shift, for a key of mine.", answers.GrantFacts,
        body=KeyBody, max_bytes=2048,
    ),
    Endpoint("homes", "GET", "/homes", homes, "The homes that I may see.", list[answers.HomeFacts],
             roles=_SYSTEM_TOO, query=(_LAST,)),
    Endpoint("home", "GET", "/homes/{gateway}", home, "One home.", answers.HomeFacts, roles=_SYSTEM_TOO),
    Endpoint(
        "command", "POST", "/homes/{gateway}/commands", command,
        "Send `<grant>~<command>` to a home; the answer is the home's own, signed.", answers.ReplyFacts,
        is_text=True, max_bytes=MAX_ENVELOPE_BYTES, errors=(409, 413, 503, 504),
        roles=frozenset({CentreRole.OPERATOR, CentreRole.PLANNER, CentreRole.STEWARD, CentreRole.INSTALLER}),
    ),
    Endpoint(
        "ledger", "GET", "/homes/{gateway}/ledger", ledger, "Records of a home's log, oldest first.",
        list[answers.LedgerFacts], roles=READS_LOGS | {CentreRole.PLANNER}, query=(_AFTER, _NEWEST),
    ),
    Endpoint("checkpoint", "GET", "/homes/{gateway}/checkpoint", checkpoint, "The newest witnessed checkpoint.", str,
             roles=AT_THE_DESK, media_type="text/plain"),
    Endpoint(
        "audit-events", "GET", "/homes/{gateway}/audit-events", audit_events,
        "A home's log as a FHIR R4 Bundle of AuditEvents.", dict[str, Any],
        roles=frozenset({CentreRole.AUDITOR, CentreRole.SYSTEM}), reads_records=True,
        media_type="application/fhir+json",
    ),
    Endpoint(
        "outcomes", "GET", "/outcomes", outcomes, "How checks ended, above a number, each with its home's signature.",
        list[answers.SignedOutcome], roles=frozenset({CentreRole.SYSTEM, CentreRole.AUDITOR}), query=(_AFTER,),
        reads_records=True,
    ),
    Endpoint("claim", "POST", "/homes/{gateway}/claim", claim, "I am about to make this check.", answers.ClaimFacts,
             roles=OPERATOR, body=ClaimBody, errors=(409,)),
    Endpoint("release", "POST", "/homes/{gateway}/release", release, "I am not, after all.", answers.Done,
             roles=OPERATOR, body=ClaimBody),
    Endpoint("relay", "POST", "/homes/{gateway}/relay", relay,
             "The picture's relay for one check; the home gets its part.", answers.RelayFacts, roles=OPERATOR),
    Endpoint("events", "GET", "/events", events, "Server-sent events: what has changed.", str, roles=ANYBODY,
             media_type="text/event-stream", errors=(503,)),
)  # fmt: skip
