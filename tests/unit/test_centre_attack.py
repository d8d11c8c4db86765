"""Who is not allowed to gets nothing, and it is written down: other people's sessions, shifts that are over, answers
that no home signed, requests from elsewhere, words of the wrong form in every field, names of other people's things.

Mutations that turn it red: leave `account.sees` out of `centre.api.endpoint._admit`; leave the role's test out there;
leave `call.state.store.audit` out of `centre.api.endpoint.route`; let `centre.api.handovers._may_see` be always true;
leave `account.sees` out of `centre.api.plan.end_draft`; leave out who has all homes of a rollout in
`centre.api.fleet.change`; leave `_audit` out of `centre.boundary`; refuse no origin there; take a hostile word for a
field's value without its schema (`strict_json.loads` alone in `centre.api.endpoint._admit`).
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)
from test_centre_app import DUE, NOW_UNIX_S, ORIGIN, FakeBroker, a_world, command, make_state
from update_support import offer

from centre.api.answers import Answer
from centre.app import ENDPOINTS, make_app
from centre.login import sha256
from centre.role import ANYBODY, CentreRole
from centre.rollout import Criteria, Place
from centre.state import Account
from centre.store import HandoverStart
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Challenge, Close, Open

pytestmark = pytest.mark.slow

ROLES = [role.value for role in CentreRole]
HOST = "127.0.0.1:8080"
JWK = SigningKey.generate().verifying.jwk()


def _account(who: str, *roles: str, **more: Any) -> Account:
    return Account(who, roles, sha256(f"token-of-{who}"), **more)


class Court:
    """A centre with an account of each role, one that sees another group's homes only, and a hand-over of each unit."""

    def __init__(self, folder: Path) -> None:
        self.broker = FakeBroker()
        state, self.homes = make_state(folder, self.broker, answer_limit_s=0.2)
        accounts = {role: _account(role, role, unit="hv-1" if role == "home-care" else None) for role in ROLES}
        accounts["elsewhere"] = _account(
            "elsewhere", *(r for r in ROLES if r != "home-care"), groups=frozenset({"g-9"})
        )
        accounts["hv-2"] = _account("hv-2", "home-care", unit="hv-2")
        self.state = replace(state, accounts=dict(state.accounts) | accounts)
        for unit in ("hv-1", "hv-2"):
            start = HandoverStart(
                f"h-{unit}", "gw-a", 1, "n", f"2026-11-18T2{unit[-1]}:30", "x", unit, [], 5, NOW_UNIX_S
            )
            assert self.state.store.put_handover(start)
        assert self.state.store.put_draft(
            "d-a", gateway="gw-a", agreement_json="{}", who="system", now_unix_s=NOW_UNIX_S, most=9
        )
        assert self.state.store.put_rollout(
            "r-a", offer_jws="x", offer=offer(), criteria=Criteria(), places=[Place("gw-a", 0)], who="release",
            now_unix_s=NOW_UNIX_S,
        )  # fmt: skip
        self.app = make_app(self.state)

    def client(self, who: str | None) -> httpx.AsyncClient:
        headers = {"Origin": ORIGIN} if who is None else {"Authorization": f"Bearer token-of-{who}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url=ORIGIN, headers=headers)

    def audit(self) -> list[dict[str, Any]]:
        return self.state.store.audit_rows(after=0, limit=10_000)


BODIES: dict[str, Any] = {
    "grant": {"jwk": JWK},
    "claim": {"line": "night-1", "occasion": DUE.occasion},
    "release": {"line": "night-1", "occasion": DUE.occasion},
    "fault.take": {"code": "home-silent"},
    "return.close": {"why": "lost"},
    "handover.done": {"outcome": "visited"},
    "plan.meaning": {"agreement": {}},
    "draft.put": {"agreement": {}},
    "passkey.finish": {"login": "x", "credential": "{}"},
    "passkey.remove": {"credential_id": "x"},
    "fleet.plan": {"offer": "a.b.c", "criteria": {"abort_percent": 2.0, "min_executed": 10, "needs_approval": True}},
    "fleet.begin": {"offer": "a.b.c", "plan": "0" * 64, "criteria": {"silent_s": 60.0, "soak_s": 60.0}},
}


async def _ask(client: httpx.AsyncClient, endpoint: Any, **names: str) -> httpx.Response:
    path = endpoint.path.format(**(NAMES | names))
    more: dict[str, Any] = {}
    if endpoint.method == "POST":
        more = (
            {"content": "x", "headers": {"Content-Type": "text/plain"}}
            if endpoint.is_text
            else {"json": BODIES.get(endpoint.name, {})}
        )
    return await client.request(endpoint.method, f"/api/v1{path}", **more)


NAMES = {"gateway": "gw-a", "handover": "h-hv-1", "draft": "d-1", "rollout": "r-1", "act": "pause"}
CALLABLE = [endpoint for endpoint in ENDPOINTS if endpoint.name != "events"]


def test_each_endpoint_lets_in_its_roles_and_nobody_else(tmp_path: Path) -> None:
    court = Court(tmp_path)

    async def play() -> None:
        async with court.client(None) as stranger:
            for endpoint in CALLABLE:
                assert (await _ask(stranger, endpoint)).status_code == 401, endpoint.name
        for role in ROLES:
            async with court.client(role) as client:
                for endpoint in CALLABLE:
                    response = await _ask(client, endpoint)
                    refused = response.status_code == 403 and response.json()["error"] == "wrong-role"
                    grants_nothing = endpoint.name == "grant" and role in ("home-care", "auditor", "system")
                    assert refused == (role not in endpoint.roles or grants_nothing), (
                        role,
                        endpoint.name,
                        response.text,
                    )

    asyncio.run(play())
    refusals = [row for row in court.audit() if row["code"] == "wrong-role"]
    expected = sum(role not in endpoint.roles for role in ROLES for endpoint in CALLABLE)
    assert len(refusals) >= expected > 40, "every refusal is in the audit log"
    court.state.store.close()


def test_no_name_of_anothers_home_or_hand_over_opens_anything(tmp_path: Path) -> None:
    court = Court(tmp_path)

    async def play() -> None:
        async with court.client("elsewhere") as client:
            for endpoint in CALLABLE:
                if "{gateway}" in endpoint.path:
                    there, nowhere = await _ask(client, endpoint), await _ask(client, endpoint, gateway="gw-none")
                    assert there.status_code == 404, endpoint.name
                    assert there.text == nowhere.text, "a home of others and no home sound the same"
            assert (await client.get("/api/v1/homes")).json() == []
            assert (await client.get("/api/v1/plan")).json() == []
            assert (await client.get("/api/v1/queue")).json()["handovers"] == []
            assert (await client.get("/api/v1/handovers")).json() == []
            assert (await client.post("/api/v1/handovers/h-hv-1/acknowledge", json={})).status_code == 404
            for of_others in ("/drafts/d-a/end", "/fleet/rollouts/r-a/pause"):
                nowhere = of_others.replace("-a/", "-none/")
                there, none = [await client.post(f"/api/v1{path}", json={}) for path in (of_others, nowhere)]
                assert (there.status_code, there.text) == (404, none.text), of_others
            for path in ("/drafts", "/fleet/rollouts", "/fleet/rollouts/r-a/executions"):
                assert (await client.get(f"/api/v1{path}")).json() == [], path
        async with court.client("hv-2") as client:
            assert [row["id"] for row in (await client.get("/api/v1/handovers")).json()] == ["h-hv-2"]
            for endpoint in CALLABLE:
                if "{handover}" in endpoint.path:
                    there, nowhere = await _ask(client, endpoint), await _ask(client, endpoint, handover="h-none")
                    assert (there.status_code, there.text) == (404, nowhere.text), endpoint.name
            assert (await client.post("/api/v1/handovers/h-hv-2/acknowledge", json={})).status_code == 200

    asyncio.run(play())
    assert court.state.store.handover("h-hv-1")["state"] == "open"
    assert court.state.store.draft("d-a")["state"] == "waiting"
    assert [row["status"] for row in court.state.store.rollouts()] == ["in-progress"]
    assert {row["who"] for row in court.audit() if row["status"] == 404} == {"elsewhere", "hv-2"}
    court.state.store.close()


def test_a_command_is_only_for_the_account_the_shift_and_the_key_it_was_granted_to(tmp_path: Path) -> None:
    async def play() -> None:
        async with a_world(tmp_path) as world:
            await world.log_in()
            key, grant = await world.granted()
            challenge = Challenge("gw-a/1", "j-1")
            other = {"Authorization": "Bearer token-of-op-2", "Content-Type": "text/plain"}
            body = command(key, grant, challenge)
            stolen = await world.client.post("/api/v1/homes/gw-a/commands", content=body, headers=other)
            assert (stolen.status_code, stolen.json()["error"]) == (403, "other-account")
            forged = await world.send(command(SigningKey.generate(), grant, challenge))
            assert forged.status_code == 403
            late = replace(world.state, clock=lambda: NOW_UNIX_S + 9 * 3600)
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=make_app(late)), base_url=ORIGIN, headers={"Origin": ORIGIN}
            ) as client:
                headers = {"Authorization": "Bearer token-of-op-1", "Content-Type": "text/plain"}
                over = await client.post("/api/v1/homes/gw-a/commands", content=body, headers=headers)
                assert (over.status_code, over.json()["error"]) == (403, "grant-expired")
            assert world.broker.published == [], "nothing of it went to a home"
            codes = [
                row["code"] for row in world.state.store.audit_rows(after=0, limit=100) if row["what"] == "command"
            ]
            assert codes == ["other-account", forged.json()["error"], "grant-expired"]

    asyncio.run(play())


def test_an_opening_of_a_check_that_another_has_claimed_is_refused_and_closing_never_is(tmp_path: Path) -> None:
    async def play() -> None:
        async with a_world(tmp_path) as world:
            await world.log_in()
            key, grant = await world.granted()
            world.broker.on_publish = world.home.answer
            headers = {"Authorization": "Bearer token-of-op-2"}
            body = {"line": "night-1", "occasion": DUE.occasion}
            taken = await world.client.post("/api/v1/homes/gw-a/claim", json=body, headers=headers)
            assert taken.json() == {"who": "op-2", "life_s": 90.0}
            opening = Open("gw-a/1", "j-2", "A" * 22, "a-1", 4, "night-1", DUE.occasion, 1, "v=0")
            refused = await world.send(command(key, grant, opening))
            assert (refused.status_code, refused.json()["error"]) == (409, "claimed")
            assert (await world.client.post("/api/v1/homes/gw-a/claim", json=body)).status_code == 409
            assert (await world.send(command(key, grant, Close("gw-a/1", "j-3", "c-1")))).status_code == 200
            given = await world.client.post("/api/v1/homes/gw-a/release", json=body, headers=headers)
            assert given.json() == {"done": True}
            assert (await world.client.post("/api/v1/homes/gw-a/claim", json=body)).status_code == 200

    asyncio.run(play())


@pytest.mark.parametrize("endpoint", [e for e in CALLABLE if e.method == "POST"], ids=lambda e: e.name)
def test_no_page_from_elsewhere_can_speak_in_a_sessions_name(tmp_path: Path, endpoint: Any) -> None:
    async def play() -> None:
        async with a_world(tmp_path) as world:
            await world.log_in()  # a cookie, as a browser has it
            for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}):
                world.client.headers.update(headers)
                response = await _ask(world.client, endpoint)
                assert (response.status_code, response.json()["error"]) == (403, "wrong-origin")
            refused = world.state.store.audit_rows(after=0, limit=100)
            assert [(row["who"], row["code"]) for row in refused][-3:] == [("op-1", "wrong-origin")] * 3
            world.client.cookies.clear()  # whoever has no session writes nothing
            assert (await _ask(world.client, endpoint)).status_code == 403
            assert world.state.store.audit_rows(after=0, limit=100) == refused
            world.client.headers.update({"Origin": ORIGIN, "Host": "evil.example"})
            assert (await _ask(world.client, endpoint)).status_code == 421

    asyncio.run(play())


HOSTILE: Any = [
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a\u0000b",
    "x" * 5000,
    "%00",
    "{{7*7}}",
    "19121212-1212",
    None,
    -1,
    2**60,
    1e308,
    [],
    {},
    True,
]


def _fields(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [place, *(found for name, each in value.items() for found in _fields(each, (*place, name)))]
    return [place]


def _with(value: Any, place: tuple[Any, ...], hostile: Any) -> Any:
    if not place:
        return hostile
    return {name: _with(each, place[1:], hostile) if name == place[0] else each for name, each in value.items()}


@pytest.mark.slow
def test_hostile_words_in_every_field_are_refused_and_change_nothing(tmp_path: Path) -> None:
    court = Court(tmp_path)
    everything = replace(court.state, accounts={"all": _account("all", *(r for r in ROLES if r != "home-care"))})
    statuses: set[int] = set()

    async def ask_in_text(path: str) -> None:
        transport = httpx.ASGITransport(app=make_app(everything))
        headers = {"Authorization": "Bearer token-of-all", "Content-Type": "text/plain"}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
            for hostile in HOSTILE:
                for text in (str(hostile), f"{hostile}~{hostile}", f"{hostile}.{hostile}.{hostile}~a.b.c"):
                    response = await client.post(path, content=text.encode())
                    assert response.status_code in (400, 413, 429), (path, text[:40])
                    assert "<script>" not in response.text, "nothing is sent back"

    async def ask(path: str, bodies: list[Any]) -> None:
        # A fresh application for each field: the limit of requests must not be what refuses them.
        transport = httpx.ASGITransport(app=make_app(everything))
        headers = {"Authorization": "Bearer token-of-all"}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
            for body in bodies:
                response = await client.post(
                    path, content=json.dumps(body), headers={"Content-Type": "application/json"}
                )
                statuses.add(response.status_code)
                assert response.status_code in (200, 400, 403, 404, 409, 413), (path, body)
                assert "<script>" not in response.text, "nothing is sent back"

    async def ask_in_address(endpoint: Any) -> None:
        transport = httpx.ASGITransport(app=make_app(everything))
        headers = {"Authorization": "Bearer token-of-all"}
        words = [quote(str(hostile), safe="")[:2000] for hostile in HOSTILE]
        names = re.findall(r"\{(\w+)\}", endpoint.path)
        paths = [endpoint.path.format(**(NAMES | {name: word})) for name in names for word in words]
        paths += [f"{endpoint.path.format(**NAMES)}?{query.name}={word}" for query in endpoint.query for word in words]
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
            for path in paths:
                response = await client.get(f"/api/v1{path}")
                assert response.status_code in (200, 400, 404, 405), path
                assert "<script>" not in response.text, path

    async def play() -> None:
        for endpoint in CALLABLE:
            path = f"/api/v1{endpoint.path.format(**NAMES)}"
            if endpoint.body is not None:
                body = BODIES[endpoint.name]  # a new endpoint with a body gets one there
                for place in _fields(body):
                    await ask(path, [_with(body, place, hostile) for hostile in HOSTILE])
            elif endpoint.is_text:
                await ask_in_text(path)
            if endpoint.method == "GET":
                await ask_in_address(endpoint)

    asyncio.run(play())
    assert 400 in statuses
    row = court.state.store.handover("h-hv-1")
    assert row is not None
    assert row["state"] == "open"
    court.state.store.close()


def test_the_document_names_every_endpoint_and_every_role(tmp_path: Path) -> None:
    court = Court(tmp_path)

    async def play() -> None:
        async with court.client("operator") as client:
            document = (await client.get("/api/v1/openapi.json")).json()
            assert document["openapi"].startswith("3.1")
            named = {each["operationId"] for path in document["paths"].values() for each in path.values()}
            assert named == {endpoint.name for endpoint in ENDPOINTS}
            assert all(endpoint.roles == ANYBODY or endpoint.roles < ANYBODY for endpoint in ENDPOINTS)

    asyncio.run(play())
    court.state.store.close()


def test_no_answer_and_no_row_can_hold_a_name_an_address_or_a_picture() -> None:
    personal = re.compile(r"name|address|street|city|phone|mail|birth|person|photo|image|video|sdp")
    found = [
        f"{kind.__name__}.{field.name}"
        for kind in Answer.__subclasses__()
        for field in msgspec.structs.fields(kind)
        if personal.search(field.name)
    ]
    assert found == []


# The API's own document, asked in every way that it allows


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_api_keeps_what_its_document_promises(tmp_path: Path) -> None:
    """schemathesis: no server error, only documented statuses, types and bodies, whatever is sent.

    Left out are checks of what a schema can't say: a well-formed nonsense is refused, and a program shows its token.
    """
    court = Court(tmp_path)
    all_roles = _account("all", *(role for role in ROLES if role != "home-care"))
    schema = schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", make_app(replace(court.state, accounts={"all": all_roles})), headers={"Host": HOST}
    ).exclude(path="/api/v1/events")
    left_out = [ignored_auth, missing_required_header, negative_data_rejection, positive_data_acceptance]
    left_out.append(unsupported_method)
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=15,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            headers = {"Authorization": "Bearer token-of-all", "Host": HOST}
            case.call_and_validate(base_url=ORIGIN, headers=headers, excluded_checks=left_out)

        ask()
    print(f"{asked} requests")
    assert asked > 200
    court.state.store.close()
