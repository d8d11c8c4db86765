"""tillsyn-setup: the process of the installer's wizard. It is there while a device is being set up, and not afterwards.

The door is open for fifteen minutes without anybody at work behind it. It closes after five wrong codes too, and then
there is no port to knock at until somebody has held the button at the device. When set-up is done the process ends,
with status 0; a later start of it ends at once, unless two hands opened set-up again: a physical act at the device,
and a steward's consent. For the consent alone it waits as long as the door is open, and no longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.core.boottime import boottime_s
from gateway.core.error import ConfigError
from gateway.edge.http_uvicorn import Server, server_config, server_tls
from gateway.edge.service_systemd import feed_watchdog, harden, run_until_signal
from provisioning.authority.secret_file import read_public
from provisioning.enrolment.est_client import EstClient
from provisioning.factory.stub import read_stub
from provisioning.wizard.config import SetupConfig
from provisioning.wizard.enrol import Enroller
from provisioning.wizard.evening import Evening
from provisioning.wizard.guard_client import GuardClient
from provisioning.wizard.keep import Keep
from provisioning.wizard.machine import Step
from provisioning.wizard.name_dbus import announce
from provisioning.wizard.network_dbus import NmNetwork
from provisioning.wizard.pages import Pages

LOG = logging.getLogger("tillsyn.setup")

LOOK_S: Final = 0.2
ANNOUNCE_AGAIN_S: Final = 10.0
"""Avahi may come up later, or be busy when it is asked."""


class Setup:
    """The running service. Raises ConfigError when the device has no stub or no certificate."""

    def __init__(self, config: SetupConfig) -> None:
        self._config = config
        factory = Path(config.factory_dir)
        stub, label = read_stub(factory)
        # A device that was never in a network does not know the time, and its anchor is pinned: see est_client.
        client = EstClient(stub.enrol_at, read_public(factory / "centre-ca.pem"), knows_time=False)
        guard = GuardClient(config.guard_socket)
        state_dir = Path(config.state_dir)
        keep = Keep(state_dir)
        self._network = NmNetwork(config.bus, try_s=config.try_s)
        self._evening = Evening(
            stub,
            label,
            keep,
            guard,
            self._network,
            Enroller(
                stub.gateway,
                guard,
                client,
                state_dir,
                Path(config.link_dir),
                Path(config.link_template),
                None if config.link_named_dir is None else Path(config.link_named_dir),
            ),
            state_dir,
            config.access_point,
            config.linger_s,
        )
        try:
            self._tls = server_tls(factory / "setup-cert.pem", factory / "setup-key.pem")
        except OSError as exc:
            raise ConfigError(f"{factory}: the certificate for set-up can't be used ({exc})") from exc
        self._app = Pages(self._evening).app()

    async def run(self) -> None:
        """Until set-up is done."""
        evening = self._evening
        if self._acted():
            await evening.acted()
            evening.asks = evening.progress.step is Step.DONE
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(self._evening.run(), name="evening"),
                    group.create_task(feed_watchdog(), name="watchdog"),
                ]
                if self._config.announce:
                    beside.append(group.create_task(self._announce(), name="name"))
                await self._doors()
                for task in beside:
                    task.cancel()
        finally:
            await self._network.close()

    async def _announce(self) -> None:
        while not await announce(self._evening.stub.host, self._config.bus):  # noqa: ASYNC110 - another process
            await asyncio.sleep(ANNOUNCE_AGAIN_S)

    async def _doors(self) -> None:
        evening = self._evening
        await evening.settled.wait()
        if evening.progress.step is Step.DONE and not evening.asks:
            await evening.over.wait()
            return
        while not evening.over.is_set():
            if not evening.contact.is_locked and not evening.window.is_over(boottime_s()):
                await self._open_door()
            if evening.over.is_set() or evening.asks:
                return
            LOG.warning("closed until somebody does the physical act: the button held while power comes")
            while not self._acted():  # noqa: ASYNC110 - another process makes the file
                await asyncio.sleep(LOOK_S)
            await evening.acted()

    async def _open_door(self) -> None:
        """Serve until it is over, or the door is to be closed."""
        evening = self._evening
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(_listen(self._config.listen, self._config.port))
            servers = [(Server(server_config(self._app, tls=self._tls), lambda: None), listening)]
            if self._config.portal_port is not None:
                plain = stack.enter_context(_listen(self._config.listen, self._config.portal_port))
                servers.append((Server(server_config(self._portal()), lambda: None), plain))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(server.serve(sockets=[sock])) for server, sock in servers]
                while not (evening.over.is_set() or evening.shut.is_set() or evening.window.is_over(boottime_s())):
                    await asyncio.sleep(LOOK_S)
                    if self._acted():
                        await evening.acted()
                for server, _ in servers:
                    server.should_exit = True
                await asyncio.wait(tasks)

    def _portal(self) -> Starlette:
        """What a phone's captive-portal check finds: everything is at our address."""
        target = f"https://{self._evening.stub.host}.local"
        target += "" if self._config.port == 443 else f":{self._config.port}"

        async def go(_request: Request) -> Response:
            return RedirectResponse(f"{target}/", status_code=302)

        return Starlette(routes=[Route("/{anything:path}", go, methods=["GET", "HEAD"])])

    def _acted(self) -> bool:
        """Whether somebody held the button since the last look; looking takes notice of it."""
        try:
            Path(self._config.act_path).unlink()
        except FileNotFoundError:
            return False
        LOG.info("somebody held the device's button")
        return True


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=16, dualstack_ipv6=host == "::")
    except OSError as exc:
        raise ConfigError(f"can't listen on {host} port {port}: {exc.strerror}") from exc
    with listening:
        yield listening


def main(config: SetupConfig) -> None:
    """Run until set-up is done. Raises ConfigError."""
    harden()
    run_until_signal(Setup(config).run())
