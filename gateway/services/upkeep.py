"""Upkeep: installs updates, tries them once, and judges whether they stay. Has RAUC; no camera and no broker.

Unit: tillsyn-upkeep, a user of its own. It obeys offers that the guard has verified, begins and restarts only while the
guard allows it, and tells the guard how far it is; the guard signs that. The update's way is `gateway.update.machine`;
this service keeps its state, carries out its effects and restarts nothing by itself: a file asks a small root service
for it (`restart` in the configuration).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from gateway.config import UpkeepConfig
from gateway.core.boottime import boot_id, boottime_s
from gateway.core.error import ConfigError
from gateway.core.log_digest import LogDigest
from gateway.edge.bundle_proxy import BundleProxy, client_tls
from gateway.edge.installer_rauc import BundleRefusedError, Rauc, RaucError
from gateway.edge.log_systemd import start_logging
from gateway.edge.service_systemd import feed_watchdog, harden, listening_socket, run_until_signal
from gateway.edge.slots_tryboot import SelectionFaultError, boot_facts
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.message import UpdateOffer
from gateway.update import gate, machine
from gateway.update.offer import version_key

LOG = logging.getLogger("tillsyn.upkeep")

LOOK_EVERY_S: Final = 5.0
SILENT_AFTER_S: Final = 10.0
"""A guard that says nothing for so long allows nothing and is not well."""
AGAIN_S: Final = 2.0
TEST_EVERY_S: Final = 60.0
STATE: Final = "update.json"
GATE_MARK: Final = "gate"
"""Beside the state while this service judges a try: `tillsyn-healthy` then leaves the slot to it."""
MAX_UNSAID: Final = 64
_VERSION: Final = re.compile(r'^VERSION_ID="?([0-9.]+)"?$', re.MULTILINE)


def running_version(os_release: Path) -> str:
    """The running system's version. Raises ConfigError."""
    try:
        found = _VERSION.search(os_release.read_text())
    except OSError as exc:
        raise ConfigError(f"{os_release}: {exc.strerror}") from exc
    if found is None or found[1].count(".") != 2:
        raise ConfigError(f"{os_release}: no VERSION_ID of three numbers")
    return found[1]


def load_state(path: Path) -> machine.AnyState:
    """What was kept. What can't be read is forgotten: the guard gives the newest offer again, and no try is judged."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state: machine.AnyState
    try:
        state = msgspec.json.decode(path.read_bytes(), type=machine.AnyState)
    except FileNotFoundError:
        return machine.Idle()
    except (OSError, msgspec.MsgspecError, ValueError) as exc:
        LOG.error("the update's state can't be read: %s", exc)
        return machine.Idle()
    return state


@dataclass(slots=True)
class Upkeep:
    """The running service."""

    config: UpkeepConfig
    rauc: Rauc
    running: str
    tls: ssl.SSLContext | None
    listener: socket.socket
    boot: str = field(default_factory=boot_id)
    now: Callable[[], float] = boottime_s
    look_every_s: float = LOOK_EVERY_S
    state: machine.AnyState = field(default_factory=machine.Idle)
    _channel: Channel[frame.ToUpkeep] | None = None
    _may: frame.UpkeepMay | None = None
    _may_s: float = 0.0
    _unsaid: list[frame.UpdateSaid] = field(default_factory=list)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _group: asyncio.TaskGroup | None = None
    _installing: asyncio.Task[None] | None = None
    _proxy: BundleProxy | None = None
    _tested_s: float = float("-inf")

    async def run(self) -> None:
        self.state = load_state(self._path)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self.feed(self._booted())
                group.create_task(self._hear_guard(), name="guard")
                group.create_task(self._look(), name="look")
                group.create_task(feed_watchdog(), name="watchdog")
        finally:
            self.listener.close()
            if self._proxy is not None:
                await self._proxy.stop()
            await self.rauc.close()

    @property
    def _path(self) -> Path:
        return Path(self.config.state_dir) / STATE

    def _booted(self) -> machine.Booted:
        try:
            _, by_try = boot_facts(Path(self.config.boot))
        except SelectionFaultError as exc:
            # Nobody knows that this is a try: then it is none, and nothing is made good.
            LOG.error("%s", exc)
            by_try = False
        return machine.Booted(self.boot, by_try, self.running)

    async def feed(self, event: machine.Event) -> None:
        """One step and its effects, in their order; one at a time."""
        async with self._turn:
            after, effects = machine.step(self.state, event, now_s=self.now())
            for effect in effects:
                await self._do(effect)
            self.state = after
            self._mark_gate()

    async def _do(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Keep(state):
                replace_durably(Disk(), self._path, msgspec.json.encode(state))
            case machine.Install(offer):
                assert self._group is not None
                self._installing = self._group.create_task(self._install(offer), name="install")
            case machine.StopInstalling():
                if self._installing is not None:
                    self._installing.cancel()
            case machine.Restart():
                self._ask_restart("try")
            case machine.RestartBack():
                self._ask_restart("back")
            case machine.MarkGood():
                await self.rauc.mark_good()
            case machine.Report(offer, phase, why, percent):
                LOG.info("update %s: %s %s", offer.version, phase, why or "")
                self._say(frame.UpdateSaid(offer.statement, offer.version, phase, why, percent, offer.manifest_sha256))
            case _:
                raise AssertionError(effect)

    def _mark_gate(self) -> None:
        mark = Path(self.config.state_dir) / GATE_MARK
        if isinstance(self.state, machine.Rebooting | machine.Gated):
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def _ask_restart(self, word: str) -> None:
        path = Path(self.config.restart)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(f"{word}\n")
        partial.rename(path)

    async def _install(self, offer: UpdateOffer) -> None:
        """The whole of one installation; what comes of it is the machine's next event."""
        proxy = BundleProxy(offer.url, offer.size_bytes, self.tls, self.config.rate_bytes_s)
        self._proxy = proxy
        proxy.may_flow.set()
        event: machine.Event
        try:
            source = await proxy.start()
            facts = await self.rauc.inspect(source)
            why = difference(facts.compatible, facts.version, facts.manifest_sha256, offer)
            if why is not None:
                event = machine.Refused(why)
            else:
                # Not before: RAUC counts the look at the bundle as a progress of its own.
                self.rauc.on_progress = lambda percent: self._later(machine.Progressed(percent))
                await self.rauc.install(source, limit_s=machine.DOWNLOAD_LIMIT_S + 3600.0)
                event = machine.Finished()
        except BundleRefusedError as exc:
            LOG.warning("bundle refused: %s", exc)
            event = machine.Refused("size-differs" if proxy.size_differs else exc.why)
        except RaucError as exc:
            LOG.warning("installation broke off: %s", exc)
            event = machine.Refused("size-differs") if proxy.size_differs else machine.Interrupted("broke-off")
        finally:
            self.rauc.on_progress = lambda _: None
            self._proxy = None
            await proxy.stop()
        await self.feed(event)

    def _later(self, event: machine.Event) -> None:
        assert self._group is not None
        self._group.create_task(self.feed(event), name="progress")

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self.look_every_s)
            await self.look()

    async def look(self) -> None:
        """One round: what the guard allows and says just now."""
        now_s = self.now()
        may = self._may if self._channel is not None and now_s - self._may_s < SILENT_AFTER_S else None
        if self._proxy is not None and may is not None:
            # In the hour before an occasion, and in it, the home's line and the card are left alone.
            (self._proxy.may_flow.set if may.restart else self._proxy.may_flow.clear)()
        if isinstance(self.state, machine.Gated) and may is not None and now_s - self._tested_s >= TEST_EVERY_S:
            self._tested_s = now_s
            self._tell(frame.TryEye())
        if may is None:
            await self.feed(machine.Looked(self.boot, False, False, False, None))
            return
        facts = gate.Facts(
            parked=may.parked,
            guard_well=may.guard_well,
            ledger_verifies=may.ledger_verifies,
            eye_well=may.eye_well,
            reach=gate.Reach(may.broker, may.tunnel),
            restarts=may.restarts,
        )
        await self.feed(machine.Looked(self.boot, may.install, may.restart, may.is_over, facts))

    async def _hear_guard(self) -> None:
        """One guard at a time; a new connection is the restarted one."""
        loop = asyncio.get_running_loop()
        compatible = await self._compatible()
        while True:
            sock, _ = await loop.sock_accept(self.listener)
            channel: Channel[frame.ToUpkeep] = Channel(sock, frame.ToUpkeep)
            self._channel, self._may = channel, None
            try:
                channel.send(frame.UpkeepIs(compatible, self.running, self.state.floor, self.state.statement))
                while self._unsaid:
                    channel.send(self._unsaid.pop(0))
                while True:
                    got, _ = await channel.receive()
                    await self._hear(got)
            except ChannelLostError as exc:
                LOG.info("guard: %s", exc)
            finally:
                channel.close()
                self._channel = None
            # A guard that went is not steady, however short it was.
            await self.feed(machine.Looked(self.boot, False, False, False, None))

    async def _compatible(self) -> str:
        while True:
            try:
                return await self.rauc.compatible()
            except (RaucError, BundleRefusedError) as exc:
                LOG.info("not yet: %s", exc)
                await asyncio.sleep(AGAIN_S)

    async def _hear(self, got: frame.ToUpkeep) -> None:
        match got:
            case frame.UpkeepMay():
                self._may, self._may_s = got, self.now()
            case frame.UpdateOrdered(content, is_newer):
                try:
                    offer = msgspec.json.decode(content, type=UpdateOffer)
                except msgspec.MsgspecError as exc:
                    LOG.error("the guard's order is none: %s", exc)
                    return
                newer_here = is_newer and version_key(offer.version) > version_key(self.running)
                await self.feed(machine.Taken(offer, newer_here))
            case _:
                pass

    def _say(self, said: frame.UpdateSaid) -> None:
        if not self._tell(said):
            self._unsaid.append(said)
            del self._unsaid[:-MAX_UNSAID]

    def _tell(self, word: frame.Frame) -> bool:
        if self._channel is None:
            return False
        try:
            self._channel.send(word)
        except ChannelLostError:
            return False
        return True


def difference(compatible: str, version: str, manifest_sha256: str, offer: UpdateOffer) -> str | None:
    """How a bundle differs from its offer; None when it is the one that was offered."""
    if compatible != offer.compatible:
        return "wrong-compatible"
    if manifest_sha256 != offer.manifest_sha256:
        return "manifest-differs"
    return "wrong-version" if version != offer.version else None


def main(config: UpkeepConfig) -> None:
    """Run until SIGTERM. Raises ConfigError for what can't be read."""
    harden()
    start_logging("upkeep", LogDigest("upkeep"))
    try:
        tls = client_tls(config.ca, config.cert, config.key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"{config.ca}, {config.cert}, {config.key}: {exc}") from exc

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            running = running_version(Path(config.os_release))
            listener = listening_socket(Path(config.upkeep_socket))
            await Upkeep(config, Rauc(config.bus), running, tls, listener).run()

    run_until_signal(run())
