"""The guard: the one who decides. Holds trust, agreement, ledger, mount and lamp; has neither network nor camera.

Unit: tillsyn-guard. It builds its parts (`guard_*.py` beside this file) and runs them in one TaskGroup; what a check
does is in gateway.check, what may happen is in gateway.decision. Order at start: park the mount, open the ledger, close
what a cut left open, then listen.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, assert_never

import msgspec

from gateway.check import machine
from gateway.check.machine import Why
from gateway.config import GuardConfig
from gateway.core.boottime import boot_id, boottime_s
from gateway.core.error import IntegrityError, NotParkedError
from gateway.core.interval_clock import IntervalClock
from gateway.core.log_digest import LogDigest
from gateway.core.refusal import RefusalCode
from gateway.decision import Gate, Identity
from gateway.edge.input_gpiozero import GpiozeroInputs
from gateway.edge.lamp_gpiozero import GpiozeroLamp
from gateway.edge.log_systemd import start_logging
from gateway.edge.mount_port import MountPort
from gateway.edge.power_sysfs import Power, read_power
from gateway.edge.service_systemd import (
    bound_socket,
    demand_isolation,
    feed_watchdog,
    harden,
    listening_socket,
    run_until_signal,
)
from gateway.ipc import frame
from gateway.ledger import Ledger, RecordKind
from gateway.services.cosigned import load_cosigned, read_witness_key
from gateway.services.guard_check import CheckRun
from gateway.services.guard_command import Commands
from gateway.services.guard_config import ConfigSide
from gateway.services.guard_core import Core
from gateway.services.guard_eye import EyeSide
from gateway.services.guard_hand import Hands
from gateway.services.guard_interlock import Interlock
from gateway.services.guard_link import LinkSide
from gateway.services.guard_log import Logs
from gateway.services.guard_missed import MissedChecks
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies
from gateway.services.guard_report import Reports
from gateway.services.guard_return import ORDERED, WITHDRAWN_BY_RETURN, ReturnSide, StoredOrder, load_return
from gateway.services.guard_setup import BEGUN, Door, SetupSide, door_of
from gateway.services.guard_state import (
    Chronicle,
    Remembered,
    close_recovered,
    cosigned_path,
    ledger_path,
    load_device_key,
    load_ledger_key,
    load_trust,
    provisioned_trust,
    read_ledger,
    remember,
    software_version,
)
from gateway.services.guard_time import TimeKeeping
from gateway.services.guard_tunnel import TunnelSide
from gateway.services.guard_update import UpdateSide
from gateway.services.guard_witness import WitnessSide
from gateway.services.mount_parts import mount_parts, with_saved_aim

LOG = logging.getLogger("tillsyn.guard")

TICK_S: Final = 0.25
BEAT_S: Final = 1.0


class Guard:
    """The running service. Made by `build`, run by `run`."""

    def __init__(
        self,
        core: Core,
        inputs: GpiozeroInputs | None,
        read_power: Callable[[], Power] | None,
        *,
        door: Door | None = None,
        begun_unix_s: float | None = None,
        config_settled: int = 1,
        ordered_back: StoredOrder | None = None,
    ) -> None:
        self._core = core
        self._link = link = LinkSide(core)
        self._records = records = Records(core, link)
        self._replies = replies = Replies(core, link, records)
        self._reports = Reports(core, link)
        self._time = TimeKeeping(core, link, records, replies)
        self._eye = eye = EyeSide(core, link)
        self._check = CheckRun(core, link, records, replies, eye)
        self._tunnel = TunnelSide(core, records, replies)
        self._config = ConfigSide(core, link, records, replies, config_settled)
        self._update = UpdateSide(core, link, records, replies, self._reports, eye, begun_unix_s)
        self._return = ReturnSide(core, link, records, replies, ordered_back)
        self._commands = Commands(
            core, link, records, replies, self._reports, eye, self._tunnel, self._config, self._update, self._return
        )
        self._missed = MissedChecks(core, link, records)
        self._witness = WitnessSide(core, records, replies)
        self._hands = hands = Hands(core, records, self._commands)
        self._setup = SetupSide(core, link, records, self._check, door or Door(), hands.resume_after_act, self._return)
        self._return.has_acted = self._setup.has_acted
        self._return.forget_act = self._setup.forget_act
        self._commands.allow_setup = self._setup.allow
        self._hands.on_act = self._setup.act
        self.logs = Logs(core, link)
        self._interlock = Interlock(core, records, self._hands, inputs, read_power)
        core.dispatch = self._check.dispatch
        link.on_frame = self._on_link
        eye.on_command = self._commands.hear
        eye.on_logged = self.logs.hear

    @property
    def gate(self) -> Gate:
        return self._core.gate

    @property
    def chronicle(self) -> Chronicle:
        return self._core.chronicle

    @property
    def state(self) -> machine.State:
        return self._core.state

    @property
    def mount(self) -> MountPort:
        return self._core.mount

    @property
    def lamp(self) -> GpiozeroLamp:
        return self._core.lamp

    def now(self) -> float:
        """BOOTTIME in seconds."""
        return self._core.now()

    async def run(self) -> None:
        """Serve until cancelled. Leaves the sensor off, the mount up and the lamp dark, whatever happens."""
        config = self._core.config
        listener = listening_socket(Path(config.guard_socket))
        control = bound_socket(Path(config.control_socket), 0o660)
        wizard = None if config.setup_socket is None else bound_socket(Path(config.setup_socket), 0o660)
        try:
            async with asyncio.TaskGroup() as group:
                self._core.group = group
                group.create_task(self._link.accept(listener), name="links")
                group.create_task(self._hands.accept(control), name="hands")
                if wizard is not None:
                    group.create_task(self._setup.accept(wizard), name="setup")
                group.create_task(self._update.keep_connected(), name="upkeep")
                group.create_task(self._tick(), name="tick")
                if self._interlock.is_needed:
                    group.create_task(self._interlock.run(), name="interlock")
                group.create_task(self._tunnel.keep_offering(), name="tunnel")
                group.create_task(feed_watchdog(), name="watchdog")
        finally:
            listener.close()
            control.close()
            if wizard is not None:
                wizard.close()
            self._check.make_safe()

    def _on_link(self, got: frame.ToGuardFromLink) -> None:
        self._core.dispatch(machine.LinkHeard())
        match got:
            case frame.Beat():
                pass
            case frame.BrokerChanged(up):
                self._link.broker_up = up
                self._time.ask_soon()
                self._core.hello_due_s = 0.0
                if not up:
                    self._core.dispatch(machine.Fault(Why.BROKER_LOST))
            case frame.CommandArrived(untrusted, correlation):
                self._commands.hear(untrusted, correlation)
            case frame.TimeArrived(untrusted):
                self._time.hear(untrusted)
            case frame.CosignedArrived(untrusted):
                self._witness.hear(untrusted)
            case frame.LinkSettingsAre():
                self._config.hear(got)
            case frame.LinkHealth():
                self._reports.hear_link(got)
                self._return.hear_link(got)
            case frame.Logged():
                self.logs.hear("link", got)
            case frame.OutboxWants(seq):
                self._link.want(seq)
            case _:
                assert_never(got)

    async def _tick(self) -> None:
        beat_s = 0.0
        second_s = 0.0
        while True:
            now_s = self._core.now()
            if now_s - second_s >= 1.0:
                second_s = now_s
                self._replies.each_second(now_s)
            if now_s - beat_s >= BEAT_S:
                beat_s = now_s
                self._link.tell(frame.Beat())
                self._eye.tell(frame.Beat())
                self._setup.beat()
            self._core.dispatch(machine.Tick())
            self._check.heartbeat(now_s)
            self._eye.end_idle(now_s)
            self._link.feed_outbox()
            self._update.look(now_s)
            self._missed.look(now_s)
            self._witness.work(now_s)
            self._return.work(now_s)
            self._time.compare(now_s)
            self._time.ask(now_s)
            self._reports.say_hello(now_s)
            self._reports.say_health(now_s)
            self.logs.flush(now_s)
            await asyncio.sleep(TICK_S)


def build(config: GuardConfig) -> Guard:
    """The guard of this board. Raises ConfigError; MountFaultError when nothing can park."""
    config = msgspec.structs.replace(config, mount=with_saved_aim(config.mount, Path(config.state_dir)))
    parts = mount_parts(config.mount, config.world)
    mount = parts.mount()
    try:
        mount.park_now()
    except NotParkedError as exc:
        # It must be told, and only a running guard can tell it. Nothing opens while the end stop says so.
        LOG.error("mount: %s", exc)
    power = config.power
    return assemble(
        config,
        mount,
        parts.lamp(),
        boot=boot_id(),
        now=boottime_s,
        inputs=parts.inputs(),
        read_power=None if power is None else lambda: read_power(Path(power)),
    )


def assemble(
    config: GuardConfig,
    mount: MountPort,
    lamp: GpiozeroLamp,
    *,
    boot: str,
    now: Callable[[], float],
    inputs: GpiozeroInputs | None = None,
    read_power: Callable[[], Power] | None = None,
) -> Guard:
    """Open the ledger, close what a cut left open; `mount` was sent to park, `now` is BOOTTIME within `boot`.

    A ledger or an agreement that is not what was written doesn't stop the service: it runs on with the camera disabled,
    so that it can say so. Raises ConfigError; LedgerUnwritableError when the disk fails.
    """
    now_s = now()
    Path(config.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    chronicle = Chronicle(None, boot, software_version())
    obstacle: RefusalCode | None = None
    past = Remembered.nothing()
    door, setup_begins = Door(), False
    trust = provisioned_trust(config)
    try:
        signer = load_ledger_key(Path(config.ledger_key), config.gateway)
        if config.witness is not None:
            witness = read_witness_key(config.witness)
            chronicle.cosigned = load_cosigned(cosigned_path(config), signer.verifier, witness)
        witnessed = None if chronicle.cosigned is None else chronicle.cosigned.note
        chronicle.ledger = Ledger.open(ledger_path(config), signer, witnessed=witnessed)
        past = remember(config, read_ledger(config))
        chronicle.book, chronicle.standing = past.book, past.standing
        # The ledger is the only memory of set-up; one that can't be believed opens nothing, and no preview either.
        door = door_of(past.setup)
        setup_begins = config.setup_socket is not None and not door.has_begun
    except IntegrityError as exc:
        LOG.error("integrity alarm: %s", exc)
        obstacle = RefusalCode.INTEGRITY_ALARM
    try:
        # Also beside a ledger that can't be believed: whoever may stop things must still be heard.
        trust = load_trust(config, past.versions.trust)
    except IntegrityError as exc:
        LOG.error("integrity alarm: %s", exc)
        obstacle = RefusalCode.INTEGRITY_ALARM
    floor_unix_s = past.floor_unix_s
    if chronicle.cosigned is not None:
        floor_unix_s = max(floor_unix_s, chronicle.cosigned.unix_s)
    clock = IntervalClock(floor_unix_s, now_s, demand_cross_check=config.demand_cross_check)
    chronicle.append(RecordKind.BOOT, now_s, clock, why="torn-tail" if chronicle.recovered_tail else "start")
    if obstacle is not None:
        chronicle.append(RecordKind.TAMPER, now_s, clock, why=obstacle.value)
    if past.unclosed is not None:
        recovered = close_recovered(
            chronicle, past.unclosed, past.last_seen or past.unclosed, now_s, clock, verdict=past.unclosed_verdict
        )
        past.history[:] = [*(a for a in past.history if a.outcome != "open"), recovered]
    if setup_begins:
        chronicle.append(RecordKind.SETUP, now_s, clock, why=BEGUN)
        door = door.after(BEGUN)
    returned, order = load_return(config, past.standing.returned_version)
    if order is not None and past.standing.returned_version < order.version:
        # The power went between the file and the record.
        named = {"who": order.who, "role": order.role}
        chronicle.append(RecordKind.WITHDRAWN, now_s, clock, why=WITHDRAWN_BY_RETURN, **named)
        chronicle.append(RecordKind.RETURNED, now_s, clock, why=ORDERED, version=order.version, **named)
    chronicle.checkpoint()
    gate = Gate(
        Identity(config.gateway, config.install_epoch, frozenset(config.groups)),
        trust,
        clock,
        os.urandom,
        agreement=past.agreement,
        history=past.history,
        local=past.local,
        obstacle=obstacle,
        moved=past.moved,
        version_floor=past.versions.agreement,
        tunnel_version=past.versions.tunnel,
        config_version=past.versions.config,
        setup_until_unix_s=door.allowed_until_unix_s,
        statement=past.versions.update_statement,
        withdrawn_unix_s=past.withdrawn_unix_s,
        withdrawn_consents=past.withdrawn_consents,
        returned=returned,
    )
    core = Core(config, gate, chronicle, load_device_key(Path(config.device_key)), mount, lamp, now)
    return Guard(
        core,
        inputs,
        read_power,
        door=door,
        begun_unix_s=past.begun_unix_s,
        config_settled=past.versions.config_settled,
        ordered_back=order,
    )


def main(config: GuardConfig) -> None:
    """Run until SIGTERM. Raises ConfigError before anything is touched when this process can see a network."""
    harden()
    if config.demand_isolation:
        demand_isolation()
    digest = LogDigest("guard")
    start_logging("guard", digest)
    guard = build(config)
    guard.logs.digest = digest
    run_until_signal(guard.run())
