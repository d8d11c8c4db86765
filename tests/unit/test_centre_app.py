"""The centre's HTTP side and its intake, against a broker in memory and a home that signs, and sometimes lies."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from centre.app import make_app
from centre.config import IceConfig, IceServerConfig
from centre.exchange import Exchange
from centre.intake import Intake
from centre.session import RateLimit
from centre.state import Account, CentreState, Home
from centre.store import Store
from gateway.core.error import TransientError
from gateway.edge.broker_paho import BrokerDown, BrokerUp, Incoming
from gateway.protocol.envelope import TrustStore, sign, verify, verify_command
from gateway.protocol.key import SigningKey, b64url_encode
from gateway.protocol.message import (
    Accepted,
    Challenge,
    Challenged,
    ClockFact,
    Close,
    Closed,
    DueFact,
    Grant,
    Hello,
    Lease,
    Message,
    Refused,
    Role,
    TimeAsk,
    TimeStatement,
    Verdict,
)

pytestmark = pytest.mark.slow

NOW_UNIX_S = 1_795_000_000.0
ORIGIN = "http://127.0.0.1:8080"
TOKEN = "token-of-op-1"
DUE = DueFact("night-1", "2026-11-18T22:30:00+00:00", "due", 1, NOW_UNIX_S - 60, NOW_UNIX_S + 1200, 60)
CLOCK = ClockFact("attested", NOW_UNIX_S - 1, NOW_UNIX_S + 1)


@dataclass(frozen=True)
class Published:
    topic: str
    payload: bytes
    correlation: bytes
    response_topic: str | None
    expiry_s: int | None


class FakeBroker:
    """In memory. `on_publish` plays the homes; `acked` counts what the centre has taken for good."""

    def __init__(self) -> None:
        self.up = True
        self.acked = 0
        self.published: list[Published] = []
        self.on_publish: Callable[[Published], None] = lambda _published: None
        self._events: asyncio.Queue[Incoming | BrokerUp | BrokerDown] = asyncio.Queue()
        self.idle = asyncio.Event()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def next_event(self) -> Incoming | BrokerUp | BrokerDown:
        if self._events.empty():
            self.idle.set()
        return await self._events.get()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        correlation: bytes = b"",
        response_topic: str | None = None,
        expiry_s: int | None = None,
    ) -> asyncio.Future[None]:
        assert not retain
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.up:
            done.set_exception(TransientError("no broker"))
            return done
        published = Published(topic, payload, correlation, response_topic, expiry_s)
        self.published.append(published)
        done.set_result(None)
        self.on_publish(published)
        return done

    def deliver(self, topic: str, payload: bytes, correlation: bytes = b"") -> None:
        def ack() -> None:
            self.acked += 1

        self.idle.clear()
        self._events.put_nowait(Incoming(topic, payload, correlation, None, False, ack))


@dataclass
class FakeHome:
    """The other end: verifies commands as a device does, and answers each with what `reply_to` says."""

    gateway: str
    broker: FakeBroker
    trust: TrustStore
    key: SigningKey = field(default_factory=SigningKey.generate)
    install_epoch: int = 1
    heard: list[Message] = field(default_factory=list)

    def facts(self) -> Home:
        return Home(self.gateway, self.install_epoch, self.key.verifying, frozenset({"g-1"}))

    def take(self, published: Published) -> Message:
        verified = verify_command(
            published.payload,
            self.trust,
            audience=f"{self.gateway}/{self.install_epoch}",
            gateway=self.gateway,
            groups=frozenset(),
        )
        self.heard.append(verified.command)
        return verified.command

    def say(self, branch: str, message: Message, *, key: SigningKey | None = None, correlation: bytes = b"") -> bytes:
        jws = sign(message, key or self.key)
        self.broker.deliver(f"tillsyn/v1/{self.gateway}/{branch}", jws, correlation)
        return jws

    def answer(self, published: Published) -> None:
        command: Any = self.take(published)
        if isinstance(command, Challenge):
            reply: Message = self.challenged(command.jti)
        else:
            reply = Accepted(self.gateway, command.jti)
        self.say("reply", reply, correlation=published.correlation)

    def challenged(self, jti: str, due: list[DueFact] | None = None) -> Challenged:
        return Challenged(self.gateway, jti, "A" * 22, 30.0, CLOCK, "a-1", 4, [DUE] if due is None else due)

    def closed(self, check: str = "c-1") -> Closed:
        return Closed(
            self.gateway, check, "seen", "op-1", "night-1", DUE.occasion, 1, 12.5, 180, True, 9, verdict=Verdict.SEEN
        )


@dataclass
class World:
    broker: FakeBroker
    state: CentreState
    intake: Intake
    homes: dict[str, FakeHome]
    client: httpx.AsyncClient
    app: Any

    @property
    def home(self) -> FakeHome:
        return self.homes["gw-a"]

    async def settle(self) -> None:
        """Until the intake has taken everything that was delivered."""
        await asyncio.wait_for(self.broker.idle.wait(), 5)

    async def log_in(self) -> None:
        response = await self.client.get(f"/login?token={TOKEN}")
        assert response.status_code == 303

    async def granted(self) -> tuple[SigningKey, str]:
        key = SigningKey.generate()
        response = await self.client.post("/api/v1/grants", json={"jwk": key.verifying.jwk()})
        assert response.status_code == 200
        return key, response.json()["grant"]

    async def send(self, body: str | bytes, gateway: str = "gw-a") -> httpx.Response:
        return await self.client.post(
            f"/api/v1/homes/{gateway}/commands", content=body, headers={"Content-Type": "text/plain"}
        )


def make_state(
    folder: Path, broker: FakeBroker, *, answer_limit_s: float = 5.0
) -> tuple[CentreState, dict[str, FakeHome]]:
    issuing = SigningKey.generate()
    trust = TrustStore(1, 0, {}, {issuing.verifying.kid: issuing.verifying})
    homes = {name: FakeHome(name, broker, trust) for name in ("gw-a", "gw-b")}
    store = Store(folder / "centre.sqlite")
    for home in homes.values():
        store.put_home(home.gateway, install_epoch=1, device_kid=home.key.verifying.kid)
    state = CentreState(
        accounts={
            who: Account(who, roles, hashlib.sha256(token.encode()).hexdigest())
            for who, roles, token in (
                ("op-1", (Role.OPERATOR,), TOKEN),
                ("op-2", (Role.OPERATOR, Role.PLANNER), "token-of-op-2"),
            )
        },
        homes={name: home.facts() for name, home in homes.items()},
        issuing_key=issuing,
        grant_epoch=0,
        ice=IceConfig("relay", [IceServerConfig(["turn:127.0.0.1:3478"], "u", "c")]),
        origins=frozenset({ORIGIN}),
        store=store,
        exchange=Exchange(broker, answer_limit_s=answer_limit_s),
        clock=lambda: NOW_UNIX_S,
    )
    return state, homes


@contextlib.asynccontextmanager
async def a_world(folder: Path, *, answer_limit_s: float = 5.0) -> AsyncIterator[World]:
    broker = FakeBroker()
    state, homes = make_state(folder, broker, answer_limit_s=answer_limit_s)
    intake = Intake(state, broker)
    app = make_app(state)
    tasks = [asyncio.create_task(intake.run()), asyncio.create_task(intake.answer_time())]
    transport = httpx.ASGITransport(app=app)
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url=ORIGIN, headers={"Origin": ORIGIN, "Accept-Language": "en"}
        ) as client:
            yield World(broker, state, intake, homes, client, app)
            for task in tasks:
                assert not task.done(), "the intake died"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        state.store.close()


def play(folder: Path, act: Callable[[World], Awaitable[None]], *, answer_limit_s: float = 5.0) -> None:
    async def run() -> None:
        async with a_world(folder, answer_limit_s=answer_limit_s) as world:
            await act(world)

    asyncio.run(run())


def command(key: SigningKey, grant: str, message: Message) -> str:
    return f"{grant}~{sign(message, key).decode()}"


def ledger_line(seq: int, body: dict[str, Any] | None = None) -> bytes:
    line: dict[str, Any] = {"seq": seq, "prev": "0" * 64, "digest": "1" * 64}
    if body is not None:
        line["body"] = body
    content = json.dumps(line, sort_keys=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def test_a_login_link_gives_a_cookie_that_scripts_and_other_sites_cannot_use(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        before = await world.client.get("/")
        assert before.status_code == 401
        assert "login link" in before.text
        response = await world.client.get(f"/login?token={TOKEN}")
        assert (response.status_code, response.headers["location"]) == (303, "/")
        cookie = response.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        after = await world.client.get("/")
        assert after.status_code == 200
        assert "op-1" in after.text

    play(tmp_path, act)


def test_a_wrong_token_gives_no_cookie_and_says_what_to_do(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        for token in ("", "wrong", "x" * 5000, "é"):
            response = await world.client.get("/login", params={"token": token})
            assert response.status_code == 401
            assert "set-cookie" not in response.headers
            assert "not valid" in response.text

    play(tmp_path, act)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/config"),
        ("GET", "/api/v1/homes"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/homes/gw-a/ledger"),
        ("POST", "/api/v1/grants"),
        ("POST", "/api/v1/homes/gw-a/commands"),
        ("POST", "/logout"),
    ],
)
def test_without_a_login_the_api_answers_401_in_words(tmp_path: Path, method: str, path: str) -> None:
    async def act(world: World) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "tillsyn_session=forged"}):
            response = await world.client.request(
                method, path, headers={"Content-Type": "application/json", **headers}, content=b"{}"
            )
            assert response.status_code == 401
            assert set(response.json()) == {"error", "message"}
        assert world.broker.published == []

    play(tmp_path, act)


def test_a_foreign_host_name_is_refused_before_anything_else(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        for host in ("evil.example", "127.0.0.1:8081", "127.0.0.1", ""):
            for path in ("/", f"/login?token={TOKEN}", "/api/v1/homes", "/static/page.js"):
                response = await world.client.get(path, headers={"Host": host})
                assert response.status_code == 421
                assert "set-cookie" not in response.headers

    play(tmp_path, act)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8081", None])
def test_a_post_from_another_origin_is_refused_even_with_the_cookie(tmp_path: Path, origin: str | None) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        del world.client.headers["Origin"]
        headers = {} if origin is None else {"Origin": origin}
        for path in ("/api/v1/grants", "/api/v1/homes/gw-a/commands", "/logout"):
            response = await world.client.post(path, json={}, headers=headers)
            assert (response.status_code, response.json()["error"]) == (403, "wrong-origin")

    play(tmp_path, act)


def test_a_post_that_a_plain_form_could_make_is_refused(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        for content_type in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            response = await world.client.post("/api/v1/grants", content=b"{}", headers={"Content-Type": content_type})
            assert response.status_code == 415

    play(tmp_path, act)


def test_every_answer_carries_the_security_headers(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        for path in ("/", "/api/v1/homes", "/nothing-here", "/static/page.js"):
            headers = (await world.client.get(path)).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")

    play(tmp_path, act)


def test_a_program_needs_no_cookie_and_no_origin_with_its_bearer_token(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        del world.client.headers["Origin"]
        world.client.headers["Authorization"] = f"Bearer {TOKEN}"
        assert (await world.client.get("/api/v1/config")).json()["who"] == "op-1"
        key, grant = await world.granted()
        world.broker.on_publish = world.home.answer
        response = await world.send(command(key, grant, Challenge("gw-a/1", "j-1")))
        assert response.status_code == 200

    play(tmp_path, act)


def test_after_logging_out_the_cookie_is_dead(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        cookie = world.client.cookies["tillsyn_session"]
        assert (await world.client.post("/logout", json={})).status_code == 200
        response = await world.client.get("/api/v1/homes", headers={"Cookie": f"tillsyn_session={cookie}"})
        assert response.status_code == 401

    play(tmp_path, act)


def test_the_configuration_of_the_page_names_account_and_ice(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        facts = (await world.client.get("/api/v1/config")).json()
        assert facts["roles"] == ["operator"]
        assert facts["ice_policy"] == "relay"
        assert facts["ice_servers"] == [{"urls": ["turn:127.0.0.1:3478"], "username": "u", "credential": "c"}]
        assert facts["lease_every_s"] == 5

    play(tmp_path, act)


def test_a_grant_is_for_one_shift_one_key_and_the_account_that_asked(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key = SigningKey.generate()
        facts = (await world.client.post("/api/v1/grants", json={"jwk": key.verifying.jwk()})).json()
        issuer = world.state.issuing_key.verifying
        grant = verify(facts["grant"].encode(), {issuer.kid: issuer}, Grant)
        assert facts["kid"] == key.verifying.kid
        assert facts["exp_unix_s"] == grant.exp == NOW_UNIX_S + 8 * 3600
        assert grant.nbf < NOW_UNIX_S
        assert (grant.name_ref, grant.roles, grant.homes) == ("op-1", [Role.OPERATOR], ["gw-a", "gw-b"])
        assert grant.cnf.jwk == key.verifying.jwk()

    play(tmp_path, act)


def test_a_bad_key_gets_no_grant(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        good = SigningKey.generate().verifying.jwk()
        for body in (
            {},
            {"jwk": 1},
            {"jwk": {**good, "d": "x"}},
            {"jwk": {**good, "x": good["y"]}},
            [],
            {"jwk": good, "roles": []},
        ):
            assert (await world.client.post("/api/v1/grants", json=body)).status_code == 400
        too_large = await world.client.post("/api/v1/grants", json={"jwk": good, "x": "y" * 4000})
        assert too_large.status_code == 413

    play(tmp_path, act)


def test_a_command_goes_out_with_expiry_and_correlation_and_the_signed_reply_comes_back(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        world.broker.on_publish = world.home.answer
        response = await world.send(command(key, grant, Challenge("gw-a/1", "j-1")))
        assert response.status_code == 200
        device = world.home.key.verifying
        reply = verify(response.json()["reply"].encode(), {device.kid: device}, Challenged)
        assert reply.re == "j-1"
        (published,) = world.broker.published
        assert published.topic == "tillsyn/v1/gw-a/command"
        assert published.response_topic == "tillsyn/v1/gw-a/reply"
        assert published.expiry_s == 30
        assert len(published.correlation) == 16
        home = (await world.client.get("/api/v1/homes")).json()[0]
        assert home["agreement"] == "a-1"
        assert [due["line"] for due in home["due"]] == ["night-1"]

    play(tmp_path, act)


def _forged_by_a_stranger(world: World, asked: Published) -> None:
    jti = world.home.take(asked).jti  # type: ignore[attr-defined]
    world.home.say("reply", Accepted("gw-a", jti), key=SigningKey.generate(), correlation=asked.correlation)


def _signed_by_another_home(world: World, asked: Published) -> None:
    jti = world.home.take(asked).jti  # type: ignore[attr-defined]
    other = world.homes["gw-b"].key
    world.home.say("reply", Accepted("gw-a", jti), key=other, correlation=asked.correlation)


def _another_homes_reply_on_its_own_topic(world: World, asked: Published) -> None:
    jti = world.home.take(asked).jti  # type: ignore[attr-defined]
    other = world.homes["gw-b"]
    other.say("reply", Accepted("gw-b", jti), correlation=asked.correlation)


def _own_key_in_another_homes_name(world: World, asked: Published) -> None:
    jti = world.home.take(asked).jti  # type: ignore[attr-defined]
    world.home.say("reply", Accepted("gw-b", jti), correlation=asked.correlation)


def _wrong_correlation(world: World, asked: Published) -> None:
    jti = world.home.take(asked).jti  # type: ignore[attr-defined]
    world.home.say("reply", Accepted("gw-a", jti), correlation=bytes(16))


def _answer_to_another_command(world: World, asked: Published) -> None:
    world.home.take(asked)
    world.home.say("reply", Accepted("gw-a", "j-other"), correlation=asked.correlation)


def _a_command_instead_of_a_reply(world: World, asked: Published) -> None:
    world.home.say("reply", Close("gw-a/1", "j-1", "c-1"), correlation=asked.correlation)


def _rubbish(world: World, asked: Published) -> None:
    for payload in (b"", b"\xff" * 40, b"a.b.c", b"x" * 70_000, b"[" * 1000):
        world.broker.deliver("tillsyn/v1/gw-a/reply", payload, asked.correlation)


@pytest.mark.parametrize(
    "lie",
    [
        _forged_by_a_stranger,
        _signed_by_another_home,
        _another_homes_reply_on_its_own_topic,
        _own_key_in_another_homes_name,
        _wrong_correlation,
        _answer_to_another_command,
        _a_command_instead_of_a_reply,
        _rubbish,
    ],
)
def test_a_reply_that_is_not_the_homes_answer_is_dropped_and_counted(
    tmp_path: Path, lie: Callable[[World, Published], None]
) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        world.broker.on_publish = lambda asked: lie(world, asked)
        response = await world.send(command(key, grant, Challenge("gw-a/1", "j-1")))
        assert (response.status_code, response.json()["error"]) == (504, "no-answer")
        await world.settle()
        assert sum(world.state.store.alarm_counts().values()) >= 1
        assert world.broker.acked >= 1, "what is dropped must not come back"

    play(tmp_path, act, answer_limit_s=0.3)


def test_a_true_reply_still_gets_through_after_a_forged_one(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()

        def both(asked: Published) -> None:
            _forged_by_a_stranger(world, asked)
            world.home.answer(asked)

        world.broker.on_publish = both
        assert (await world.send(command(key, grant, Challenge("gw-a/1", "j-1")))).status_code == 200

    play(tmp_path, act)


def test_an_old_reply_played_again_answers_nothing(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        world.broker.on_publish = world.home.answer
        first = await world.send(command(key, grant, Challenge("gw-a/1", "j-1")))
        assert first.status_code == 200

        def replay(asked: Published) -> None:
            world.broker.deliver("tillsyn/v1/gw-a/reply", first.json()["reply"].encode(), asked.correlation)

        world.broker.on_publish = replay
        assert (await world.send(command(key, grant, Challenge("gw-a/1", "j-2")))).status_code == 504

    play(tmp_path, act, answer_limit_s=0.3)


def test_a_refusal_of_the_home_comes_back_signed_and_is_kept(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()

        def refuse(asked: Published) -> None:
            world.home.say("reply", Refused("gw-a", "j-1", "paused"), correlation=asked.correlation)

        world.broker.on_publish = refuse
        response = await world.send(command(key, grant, Challenge("gw-a/1", "j-1")))
        device = world.home.key.verifying
        assert verify(response.json()["reply"].encode(), {device.kid: device}, Refused).code == "paused"

    play(tmp_path, act)


def test_a_silent_home_and_an_absent_broker_are_told_apart_in_words(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        body = command(key, grant, Challenge("gw-a/1", "j-1"))
        silent = await world.send(body)
        assert (silent.status_code, silent.json()["error"]) == (504, "no-answer")
        assert "Try again" in silent.json()["message"]
        world.broker.up = False
        away = await world.send(body)
        assert (away.status_code, away.json()["error"]) == (503, "broker-down")
        unknown = await world.send(body, gateway="gw-x")
        assert (unknown.status_code, unknown.json()["error"]) == (404, "unknown-home")

    play(tmp_path, act, answer_limit_s=0.05)


def test_a_command_under_another_accounts_grant_never_reaches_the_broker(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        body = command(key, grant, Challenge("gw-a/1", "j-1"))
        world.client.cookies.clear()
        await world.client.get("/login?token=token-of-op-2")
        response = await world.send(body)
        assert (response.status_code, response.json()["error"]) == (403, "other-account")
        assert world.broker.published == []

    play(tmp_path, act)


def test_what_is_no_granted_command_never_reaches_the_broker(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        good = sign(Challenge("gw-a/1", "j-1"), key).decode()
        stranger = SigningKey.generate()
        forged_grant = sign(
            verify(grant.encode(), {world.state.issuing_key.verifying.kid: world.state.issuing_key.verifying}, Grant),
            stranger,
        ).decode()
        for body, status in (
            ("", 400),
            (good, 400),
            (f"{grant}~{good}~{good}", 400),
            (f"{good}~{grant}", 400),
            (f"{grant}~{good.rpartition('.')[0]}.{b64url_encode(bytes(63) + b'x')}", 403),
            (f"{grant}~{sign(Lease('gw-a/1', 'c-1', 1), key).decode()}", 400),
            (f"{grant}~{sign(Challenge('gw-a/1', 'j-1'), stranger).decode()}", 403),
            (f"{forged_grant}~{good}", 403),
            ("x" * 17_000, 413),
        ):
            assert (await world.send(body)).status_code == status, body[:40]
        assert world.broker.published == []

    play(tmp_path, act)


def test_a_grant_that_is_over_may_still_close(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key = SigningKey.generate()
        grant = Grant(
            "op-1", "op-1", [Role.OPERATOR], {"jwk": key.verifying.jwk()}, 0,  # type: ignore[arg-type]
            NOW_UNIX_S - 9 * 3600, NOW_UNIX_S - 1, ["gw-a"],
        )  # fmt: skip
        over = sign(grant, world.state.issuing_key).decode()
        world.broker.on_publish = world.home.answer
        opening = await world.send(command(key, over, Challenge("gw-a/1", "j-1")))
        assert (opening.status_code, opening.json()["error"]) == (403, "grant-expired")
        closing = await world.send(command(key, over, Close("gw-a/1", "j-2", "c-1")))
        assert closing.status_code == 200

    play(tmp_path, act)


def test_a_session_that_sends_too_much_is_told_to_wait(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        statuses = [(await world.send("")).status_code for _ in range(20)]
        assert statuses == [400] * 20
        answers = await asyncio.gather(*(world.send("") for _ in range(60)))
        assert 429 in {response.status_code for response in answers}

    play(tmp_path, act)
    limit = RateLimit()
    assert all(limit.allows("s", now_s=0.0) for _ in range(20))
    assert not limit.allows("s", now_s=0.0)
    assert limit.allows("s", now_s=0.2)
    assert limit.allows("other", now_s=0.2)


def test_a_hello_makes_a_home_known_and_an_older_one_changes_nothing(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        world.home.say("health", Hello("gw-a", 1, "b-1", "0.1", CLOCK, "a-1", 4, [DUE]))
        older = ClockFact("floor", CLOCK.lo_unix_s - 100, None)
        world.home.say("health", Hello("gw-a", 1, "b-1", "0.1", older, "a-1", 3))
        world.broker.deliver("tillsyn/v1/gw-b/status", b'{"online":true}')
        await world.settle()
        first, second = (await world.client.get("/api/v1/homes")).json()
        assert first["online"]
        assert first["heard_unix_s"] == NOW_UNIX_S
        assert (first["version"], first["clock"]["state"]) == (4, "attested")
        assert first["audience"] == "gw-a/1"
        assert first["device_jwk"] == world.home.key.verifying.jwk()
        assert (second["online"], second["heard_unix_s"]) == (True, None)

    play(tmp_path, act)


def test_what_does_not_verify_on_any_branch_is_dropped_and_the_intake_lives(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        stranger = SigningKey.generate()
        world.home.say("health", Hello("gw-a", 1, "b-1", "0.1", CLOCK), key=stranger)
        world.home.say("health", Hello("gw-b", 1, "b-1", "0.1", CLOCK))
        world.home.say("health", Hello("gw-a", 2, "b-1", "0.1", CLOCK))
        world.home.say("ask", TimeAsk("gw-a", "A" * 22), key=stranger)
        world.home.say("reply", world.home.closed(), key=stranger)
        world.home.say("command", Close("gw-a/1", "j-1", "c-1"))
        for topic in ("tillsyn/v1/gw-x/reply", "other/topic", "tillsyn/v1/gw-a/nothing"):
            world.broker.deliver(topic, b"x")
        for payload in (b'{"online":1}', b"[]", b"\xff", b'{"online":true,"online":false}'):
            world.broker.deliver("tillsyn/v1/gw-a/status", payload)
        await world.settle()
        assert world.broker.acked == 13
        assert sum(world.state.store.alarm_counts().values()) == 13
        assert world.broker.published == []
        await world.log_in()
        home = (await world.client.get("/api/v1/homes")).json()[0]
        assert (home["online"], home["heard_unix_s"], home["last"]) == (False, None, [])

    play(tmp_path, act)


def test_a_time_ask_is_answered_by_the_issuing_key_bound_to_the_nonce(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        answered = asyncio.Event()
        world.broker.on_publish = lambda _published: answered.set()
        world.home.say("ask", TimeAsk("gw-a", "N" * 22))
        await asyncio.wait_for(answered.wait(), 5)
        (published,) = world.broker.published
        assert published.topic == "tillsyn/v1/gw-a/time"
        issuer = world.state.issuing_key.verifying
        statement = verify(published.payload, {issuer.kid: issuer}, TimeStatement)
        assert statement == TimeStatement("gw-a", "N" * 22, NOW_UNIX_S, 1.0)

    play(tmp_path, act)


def test_ledger_lines_become_rows_once_each_and_a_second_line_under_a_number_is_an_alarm(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        topic = "tillsyn/v1/gw-a/ledger"
        body = {
            "kind": "closed",
            "who": "op-1",
            "why": "seen",
            "check": "c-1",
            "time_lo": 5.0,
            "watched_s": 12.5,
            "frames": 9,
        }
        for payload in (
            ledger_line(0, {"kind": "boot", "sw": "0.1"}),
            ledger_line(1, body),
            ledger_line(1, body),
            ledger_line(2),
            b"tillsyn/gw-a\n3\nAAAA\n\n\xe2\x80\x94 gw-a AAAA\n",
        ):
            world.broker.deliver(topic, payload)
        await world.settle()
        assert world.state.store.alarm_counts() == {}
        for payload in (
            ledger_line(1, {**body, "why": "unsure"}),
            ledger_line(3)[:-1],
            b"00000000" + ledger_line(3)[8:],
            ledger_line(4, {"kind": "closed", "who": "not a pseudonym"}),
            b"tillsyn/" + b"\xff",
            b"x" * 5000,
        ):
            world.broker.deliver(topic, payload)
        await world.settle()
        assert world.broker.acked == 11
        counts = world.state.store.alarm_counts()
        assert counts == {("gw-a", "integrity-alarm"): 1, ("gw-a", "malformed"): 5}
        await world.log_in()
        rows = (await world.client.get("/api/v1/homes/gw-a/ledger?after=0")).json()
        assert [row["seq"] for row in rows] == [1, 2]
        assert {name: rows[0][name] for name in ("kind", "who", "why", "check", "watched_s", "frames")} == {
            name: body[name] for name in ("kind", "who", "why", "check", "watched_s", "frames")
        }
        newest = (await world.client.get("/api/v1/homes/gw-a/ledger?newest=1")).json()
        assert [row["seq"] for row in newest] == [2]
        for query in ("after=x", "after=-2", "newest=0", "newest=1000"):
            assert (await world.client.get(f"/api/v1/homes/gw-a/ledger?{query}")).status_code == 400
        assert (await world.client.get("/api/v1/homes/gw-x/ledger")).status_code == 404

    play(tmp_path, act)


async def read_events(world: World, *, until: str, cookie: str) -> list[tuple[str, Any]]:
    """Call the application as a server does; httpx's own transport would wait for the stream's end."""
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/api/v1/events",
        "raw_path": b"/api/v1/events", "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(b"host", b"127.0.0.1:8080"), (b"cookie", f"tillsyn_session={cookie}".encode())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert dict(message["headers"])[b"content-type"].startswith(b"text/event-stream")
        else:
            chunks.put_nowait(message["body"])

    task = asyncio.create_task(world.app(scope, receive, send))
    assert await asyncio.wait_for(chunks.get(), 5) == b"retry: 2000\n\n"
    world.home.say("reply", world.home.closed())
    world.broker.deliver("tillsyn/v1/gw-a/reply", b"rubbish")
    events: list[tuple[str, Any]] = []
    while not events or events[-1][0] != until:
        name, data = (await asyncio.wait_for(chunks.get(), 5)).decode().strip().split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return events


def test_open_pages_hear_of_outcomes_changes_and_alarms(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        events = await read_events(world, until="alarm", cookie=world.client.cookies["tillsyn_session"])
        assert [name for name, _ in events] == ["closed", "home", "alarm"]
        closed = events[0][1]
        assert (closed["gateway"], closed["check"], closed["why"]) == ("gw-a", "c-1", "seen")
        assert closed["watched_s"] == 12.5
        assert events[2][1] == {"gateway": "gw-a", "code": "malformed", "count": 1}
        (last,) = (await world.client.get("/api/v1/homes")).json()[0]["last"]
        assert (last["check"], last["who"], last["verdict"]) == ("c-1", "op-1", "seen")
        assert len(world.state.events._queues) == 0, "a page that went away leaves nothing behind"

    play(tmp_path, act)


def test_a_stream_beats_when_nothing_happens_and_a_slow_page_is_let_go(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        stream = world.state.events.listen(heartbeat_s=0.01)
        assert await anext(stream) == b"retry: 2000\n\n"
        assert await anext(stream) == b": still here\n\n"
        for _ in range(65):
            world.state.events.send("home", {"gateway": "gw-a"})
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    play(tmp_path, act)


def test_a_repeated_outcome_is_kept_once(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        for check in ("c-1", "c-1", "c-2", "c-3", "c-4", "c-5", "c-6"):
            world.home.say("reply", world.home.closed(check))
        await world.settle()
        await world.log_in()
        last = (await world.client.get("/api/v1/homes")).json()[0]["last"]
        assert [one["check"] for one in last] == ["c-6", "c-5", "c-4", "c-3", "c-2"]

    play(tmp_path, act)


def test_nothing_that_can_be_guessed_stands_in_a_correlation(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.log_in()
        key, grant = await world.granted()
        world.broker.on_publish = world.home.answer
        for number in range(3):
            await world.send(command(key, grant, Challenge("gw-a/1", f"j-{number}")))
        assert len({b64url_encode(one.correlation) for one in world.broker.published}) == 3

    play(tmp_path, act)
