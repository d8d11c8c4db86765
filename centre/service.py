"""The centre as one process: web server, broker, intake of what the homes say, the answerer of time asks, and the jobs
that look for missed checks and compare the ledgers.

One TaskGroup; a dead task ends the process, and systemd starts it again. Everything that must outlive that is in the
store or in the broker's session.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import uvicorn

from centre import fault, metrics
from centre.app import make_app
from centre.config import CentreConfig, read_issuing_key
from centre.deliver import MailServer, Post, Unit, keep_delivering
from centre.est import Desk, make_desk
from centre.exchange import Exchange
from centre.intake import Intake, subscriptions
from centre.missed import keep_looking, keep_reconciling
from centre.news_postgres import SharedNews
from centre.port import BrokerPort
from centre.relay import read_relay
from centre.rolling import keep_rolling
from centre.state import Account, CentreState, Home, Provider
from centre.store import STORE_THREADS, Store
from centre.witness import read_cosigner, read_ledger_key
from gateway.core.error import ConfigError
from gateway.edge.broker_paho import Broker, BrokerAddress
from gateway.edge.http_uvicorn import Server, server_config
from gateway.protocol.key import VerifyingKey

BROKER_SESSION_S: Final = 24 * 3600
"""So long the broker keeps what the homes say while the centre is away; the homes' own outbox begins before it."""


def make_state(
    config: CentreConfig, *, broker: BrokerPort, origin: str, clock: Callable[[], float] = time.time
) -> CentreState:
    """Build the parts; opens the database and registers the homes. Raises ConfigError, SQLAlchemyError."""
    issuing_key = read_issuing_key(config.issuing_key_path)
    cosigner = None
    if config.witness_key_path is not None:
        cosigner = read_cosigner(config.witness_key_path, config.witness_name)
    homes = {
        home.gateway: Home(
            home.gateway,
            home.install_epoch,
            VerifyingKey.from_jwk(home.device_jwk),
            frozenset(home.groups),
            None if home.ledger_vkey is None else read_ledger_key(home.gateway, home.ledger_vkey),
        )
        for home in config.homes
    }
    store = open_store(config)
    for home in homes.values():
        store.put_home(home.gateway, install_epoch=home.install_epoch, device_kid=home.device_key.kid)
    return CentreState(
        accounts={
            account.who: Account(
                account.who,
                tuple(account.roles),
                account.login_sha256,
                None if account.groups is None else frozenset(account.groups),
                account.unit,
                account.subject,
            )
            for account in config.accounts
        },
        homes=homes,
        issuing_key=issuing_key,
        grant_epoch=config.grant_epoch,
        ice=config.ice,
        origins=frozenset({*_local(origin), *config.http.public_origins}),
        store=store,
        exchange=Exchange(broker),
        clock=clock,
        link_rule=config.login.link,
        oidc=_provider(config),
        cosigner=cosigner,
        relay=read_relay(config.ice),
    )


def open_store(config: CentreConfig) -> Store:
    """The database that the configuration names. Raises ConfigError, SQLAlchemyError."""
    if config.database_url is not None:
        return Store(config.database_url)
    path = config.database_path
    assert path is not None, "centre.config.check"
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder for the database")
    return Store(path)


def _provider(config: CentreConfig) -> Provider | None:
    oidc = config.login.oidc
    if oidc is None:
        return None
    secret = None if oidc.client_secret_path is None else _secret(oidc.client_secret_path).decode()
    return Provider(oidc.issuer, oidc.client_id, secret)


def make_post(config: CentreConfig, *, page: str) -> Post:
    """How home care is told. Raises ConfigError when a file with a secret can't be read."""
    handover = config.handover
    units = {
        unit.unit: Unit(
            unit.unit,
            unit.email,
            unit.webhook_url,
            None if unit.webhook_key_path is None else _secret(unit.webhook_key_path),
        )
        for unit in handover.units
    }
    smtp, mail = handover.smtp, None
    if smtp is not None:
        password = None if smtp.password_path is None else _secret(smtp.password_path).decode()
        mail = MailServer(smtp.host, smtp.port, smtp.sender, smtp.security, smtp.username, password)
    return Post(units, handover.fallback, mail, page)


def _secret(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc


async def run(config: CentreConfig, *, ready: Callable[[str], None] = lambda _url: None) -> None:
    """Run until cancelled; `ready` gets the console's URL once it answers.

    Raises ConfigError (wrong configuration, address in use), or an ExceptionGroup with what ended a task. On
    cancellation pages are let go, requests get 3 s to end, then sockets and database are closed.
    """
    # Everything that touches the store does so in a thread of this pool; its default is too small on two processors for
    # a page's question not to wait for another's.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(STORE_THREADS, "store"))
    address = BrokerAddress(
        config.broker.host,
        config.broker.port,
        config.broker.ca_path,
        config.broker.cert_path,
        config.broker.key_path,
        config.broker.server_name,
    )
    broker = Broker(
        address,
        client_id=config.broker.client_id,
        subscriptions=subscriptions(shares=config.broker.shares),
        session_expiry_s=BROKER_SESSION_S,
    )
    listening = listen(config.http.host, config.http.port)
    host, port = listening.getsockname()[:2]
    origin = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with contextlib.closing(listening):
        state = make_state(config, broker=broker, origin=origin)
        with contextlib.closing(state.store):
            post = make_post(config, page=f"{[*config.http.public_origins, origin][0]}/")
            desk = None if config.est is None else make_desk(config.est, state)
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(each, name="beside") for each in _beside(config, state)]
                try:
                    await _run_parts(state, broker, post, listening, ready=lambda: ready(f"{origin}/"), desk=desk)
                finally:
                    for task in beside:
                        task.cancel()


def _beside(config: CentreConfig, state: CentreState) -> Iterator[Coroutine[Any, Any, None]]:
    """What only some centres run."""
    if config.database_url is not None:
        yield SharedNews(config.database_url, state.events).run()
    if config.metrics_port is not None:
        yield _show_metrics(config.metrics_port, state)


async def _show_metrics(port: int, state: CentreState) -> None:
    with contextlib.closing(listen("127.0.0.1", port)) as listening:
        server = Server(server_config(metrics.make_app(state)), lambda: None)
        try:
            await server.serve(sockets=[listening])
        finally:
            if server.started:
                await server.shutdown(sockets=[listening])


async def _run_parts(
    state: CentreState,
    broker: BrokerPort,
    post: Post,
    listening: socket.socket,
    *,
    ready: Callable[[], None],
    desk: Desk | None = None,
) -> None:
    intake = Intake(state, broker)
    if desk is not None:
        desk.admit_all()
    server = Server(server_config(make_app(state, desk)), ready)
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.run(), name="broker")
        group.create_task(intake.run(), name="intake")
        group.create_task(intake.answer_time(), name="time")
        group.create_task(keep_looking(state), name="missed")
        group.create_task(keep_reconciling(state), name="reconcile")
        group.create_task(fault.keep_looking(state), name="faults")
        group.create_task(keep_delivering(state, post), name="deliveries")
        group.create_task(keep_rolling(state, broker), name="rollouts")
        group.create_task(_serve(server, state, listening), name="http")
        if desk is not None:
            group.create_task(_enrol(desk), name="enrolment")


async def _enrol(desk: Desk) -> None:
    with contextlib.closing(listen(desk.config.host, desk.config.port)) as listening:
        await desk.serve(listening)


def _local(origin: str) -> tuple[str, ...]:
    """A passkey needs a host's name, and an address has none: the console answers to `localhost` as well."""
    return origin, f"http://localhost:{origin.rpartition(':')[2]}"


async def _serve(server: uvicorn.Server, state: CentreState, listening: socket.socket) -> None:
    try:
        await server.serve(sockets=[listening])
    finally:
        state.events.close()
        state.exchange.close()
        if server.started:
            await server.shutdown(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError when the address is in use."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=64)
    except OSError as exc:
        raise ConfigError(f"http: can't listen on {host} port {port}: {exc.strerror}") from exc
