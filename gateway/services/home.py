"""A stand-in for systemd: runs one home's processes in the foreground, for demos, tests and boards on a bench.

It does what the units in systemd/ ask of systemd, and no more: guard and eye in an empty network namespace, sockets
made before the services and passed to them, the eye started by the first connection to its socket, watchdogs that
SIGKILL, restarts, and park after the guard or the eye has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from gateway.config.file import AbsolutePath, Config
from gateway.core.error import EXIT_CONFIG, ConfigError
from gateway.edge.isolation_unshare import isolation
from gateway.edge.service_systemd import die_with_parent, run_until_signal

LOG = logging.getLogger("tillsyn.home")

WATCHDOG_S: Final = 5.0
"""From READY on, as systemd's WatchdogSec."""
START_LIMIT_S: Final = 20.0
"""Until READY, as TimeoutStartSec: a busy board may take long to load the eye's libraries."""
RESTART_S: Final = 0.3
STOP_LIMIT_S: Final = 6.0


class HomeConfig(Config, frozen=True):
    """The configuration files of one home's services, and where their sockets are."""

    guard: AbsolutePath
    eye: AbsolutePath
    link: AbsolutePath
    park: AbsolutePath
    run_dir: AbsolutePath
    isolate: bool
    """Start guard and eye without any network; see gateway.edge.isolation_unshare for how."""
    max_restarts: Annotated[int, Meta(ge=0, le=1000)] = 20
    tunnel: AbsolutePath | None = None
    """Without it there is no tunnel, and link's way out is the machine's own."""
    fresh: AbsolutePath | None = None
    """With it the device may belong to nobody yet: this runs in the guard's place until `guard` is there."""
    setup: AbsolutePath | None = None
    """The installer's wizard; it runs until it ends by itself with status 0, and again after a physical act."""
    act: AbsolutePath | None = None
    """What appears at a physical act; the wizard takes it away."""


@dataclass(slots=True)
class _Service:
    """One unit: what it runs, what socket it is given, whether it parks the mount when it has ended."""

    name: str
    command: Sequence[str]
    listener: socket.socket | None
    parks_after: bool
    isolated: bool
    process: asyncio.subprocess.Process | None = None
    starts: int = 0


class Home:
    """The supervisor. `pids` says who runs, for whoever wants to break something."""

    def __init__(self, config: HomeConfig) -> None:
        self._config = config
        self._run_dir = Path(config.run_dir)
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._isolation: list[str] = []
        if config.isolate:
            way = isolation()
            if way is None:
                raise ConfigError(
                    "this machine lets nobody make a network namespace (not root, and no user namespaces), so guard "
                    "and eye can't be kept from the network. Run as root, or set isolate = false to try things out."
                )
            self._isolation = way
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._notify_path = self._run_dir / "notify"
        self._notify_path.unlink(missing_ok=True)
        self._notify.bind(str(self._notify_path))
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._allowed_until_s: dict[int, float] = {}
        verbose = ["--verbose"] if LOG.isEnabledFor(logging.INFO) else []
        tillsyn = [sys.executable, "-m", "gateway.cli", *verbose]
        self._park = [*tillsyn, "park", "--config", config.park]
        self.guard = _Service(
            "guard", [*tillsyn, "guard", "--config", config.guard], self._listen("guard.sock"), True, True
        )
        self.eye = _Service("eye", [*tillsyn, "eye", "--config", config.eye], self._listen("eye.sock"), True, True)
        self.link = _Service("link", [*tillsyn, "link", "--config", config.link], None, False, False)
        self.tunnel: _Service | None = None
        if config.tunnel is not None:
            self.tunnel = _Service("tunnel", [*tillsyn, "tunnel", "--config", config.tunnel], None, False, False)
        self.fresh = _Service("fresh", [*tillsyn, "fresh", "--config", config.fresh or ""], None, False, True)
        self.setup = _Service("setup", [*tillsyn, "setup", "--config", config.setup or ""], None, False, False)

    @property
    def pids(self) -> dict[str, int]:
        return {
            service.name: service.process.pid
            for service in (self.guard, self.eye, self.link, self.tunnel, self.fresh, self.setup)
            if service is not None and service.process is not None and service.process.returncode is None
        }

    async def run(self) -> None:
        """Park, then run guard and link until cancelled, and an eye whenever the guard asks for one."""
        try:
            await self._run_park()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_link(), name="link")
                if self.tunnel is not None:
                    group.create_task(self._keep(self.tunnel), name="tunnel")
                group.create_task(self._eyes(), name="eyes")
                group.create_task(self._watch(), name="watchdog")
                if self._config.setup is not None:
                    group.create_task(self._set_up(), name="setup")
                await self._until_enrolled()
                # Not a task of the group: a stop reaches it first and waits for it, so that a check ends because the
                # service was asked to stop, and not because the link went away before the guard had heard of it.
                await self._keep(self.guard)
        finally:
            for service in (self.guard, self.eye, self.link):
                if service.listener is not None:
                    service.listener.close()
            self._notify.close()

    async def _keep(self, service: _Service) -> None:
        """Run a service, again and again; raises ConfigError when it says that its configuration is wrong."""
        while True:
            code = await self._run_once(service)
            if code == EXIT_CONFIG:
                raise ConfigError(f"{service.name} refuses its configuration; see its message above")
            if service.starts > self._config.max_restarts:
                raise ConfigError(f"{service.name} ended {service.starts} times; giving up with the camera off")
            LOG.warning("%s ended with %s; starting it again", service.name, code)
            await asyncio.sleep(RESTART_S)

    async def _keep_link(self) -> None:
        while not _is_there(self._config.link):  # noqa: ASYNC110 - another process, the wizard, writes it
            await asyncio.sleep(RESTART_S)
        await self._keep(self.link)

    async def _until_enrolled(self) -> None:
        while self._config.fresh is not None and not _is_there(self._config.guard):
            if await self._run_once(self.fresh) == EXIT_CONFIG:
                raise ConfigError("fresh refuses its configuration; see its message above")
            await asyncio.sleep(RESTART_S)

    async def _set_up(self) -> None:
        while True:
            while (code := await self._run_once(self.setup)) != 0:
                if code == EXIT_CONFIG:
                    raise ConfigError("setup refuses its configuration; see its message above")
                LOG.warning("setup ended with %s; starting it again", code)
                await asyncio.sleep(RESTART_S)
            if self._config.act is None:
                return
            while not _is_there(self._config.act):  # noqa: ASYNC110 - another process, the guard, makes it
                await asyncio.sleep(RESTART_S)

    async def _eyes(self) -> None:
        assert self.eye.listener is not None
        while True:
            await _readable(self.eye.listener)
            if await self._run_once(self.eye) == EXIT_CONFIG:
                raise ConfigError("eye refuses its configuration; see its message above")

    async def _run_once(self, service: _Service) -> int:
        service.starts += 1
        process = await self._start(service)
        service.process = process
        self._allowed_until_s[process.pid] = time.monotonic() + START_LIMIT_S
        self._write_pids()
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)
            self._allowed_until_s.pop(process.pid, None)
            service.process = None
            self._write_pids()
            if service.parks_after and not (service is self.eye and self.guard.process is not None):
                # The guard parks by itself after an eye has ended; when the guard is gone, nobody else would.
                await self._run_park()

    async def _start(self, service: _Service) -> asyncio.subprocess.Process:
        environment = dict(os.environ)
        environment["NOTIFY_SOCKET"] = str(self._notify_path)
        environment["WATCHDOG_USEC"] = str(int(WATCHDOG_S * 1e6))
        listener = service.listener
        command = list(service.command)
        # The service must see its own pid in LISTEN_PID, as systemd does it; only its own process can know it.
        command = ["/bin/sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh", *command] if listener else command
        if self._isolation and service.isolated:
            command = [*self._isolation, *command]

        def prepare() -> None:
            die_with_parent()
            if listener is not None:
                os.dup2(listener.fileno(), 3)
                os.set_inheritable(3, True)

        return await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            preexec_fn=prepare,
            pass_fds=(3,) if listener is not None else (),
            stdin=asyncio.subprocess.DEVNULL,
        )

    async def _watch(self) -> None:
        """Take signs of life; SIGKILL who gives none, as systemd's watchdog would after its SIGABRT."""
        while True:
            await asyncio.sleep(0.25)
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._take_notice()
            now_s = time.monotonic()
            for pid, until_s in list(self._allowed_until_s.items()):
                if now_s > until_s:
                    LOG.error("process %d gives no sign of life: killed", pid)
                    self._allowed_until_s[pid] = now_s + WATCHDOG_S
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _take_notice(self) -> None:
        data, ancillary, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(12))
        for level, kind, credentials in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = int.from_bytes(credentials[:4], sys.byteorder, signed=True)
                if pid in self._allowed_until_s and (b"WATCHDOG=1" in data or b"READY=1" in data):
                    self._allowed_until_s[pid] = time.monotonic() + WATCHDOG_S

    async def _run_park(self) -> None:
        process = await asyncio.create_subprocess_exec(*self._park, stdin=asyncio.subprocess.DEVNULL)
        if await process.wait() != 0:
            LOG.error("park failed: the mount may not be up")

    def _listen(self, name: str) -> socket.socket:
        path = self._run_dir / name
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        old = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        listener.listen(4)
        return listener

    def _write_pids(self) -> None:
        # Whole or not at all: others read it while it is written.
        written = self._run_dir / "pids.new"
        written.write_text("".join(f"{name} {pid}\n" for name, pid in self.pids.items()))
        written.replace(self._run_dir / "pids")


def _is_there(path: str) -> bool:
    return Path(path).exists()


async def _readable(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(listener, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(listener)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def main(config: HomeConfig) -> None:
    """Run one home until SIGTERM. Raises ConfigError."""
    home = Home(config)
    try:
        run_until_signal(home.run())
    except* ConfigError as errors:
        raise ConfigError(str(errors.exceptions[0])) from None
