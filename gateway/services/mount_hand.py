"""`tillsyn mount`: the installer's hand on the neck. Never on the camera, which nothing here can open.

`park` may always be done: it is the safe place, and park's unit does the same. `aim` turns the camera to the bed, so it
is refused while a guard runs (the guard then drives the mount) and where an agreement is in force (the resident's own
camera is not turned by a command line; set-up is the time for it, before there is one). It keeps the aimed place only
as long as somebody looks at it, and parks again whatever happens.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from gateway.config import GuardConfig, ParkConfig, load
from gateway.config.file import MountConfig
from gateway.core.error import ConfigError, HardwareFaultError, TransientError
from gateway.services import park
from gateway.services.mount_parts import MountParts, mount_parts, with_saved_aim

HOLD_S: Final = 60.0
WORDS: Final = {
    "en": {
        "aimed": "The camera points at {deg:g}°. It is off. Press Enter to turn it up (in {s:g} s by itself).",
        "parked": "The camera is turned up.",
        "up": "end stop: up",
        "not-up": "end stop: NOT up",
        "no-stop": "no end stop: whether it is up is not measured",
        "unread": "end stop: can't be read now ({why})",
        "guard": "a guard runs: it drives the mount",
        "no-guard": "no guard runs",
    },
    "sv": {
        "aimed": "Kameran pekar mot {deg:g}°. Den är av. Tryck Enter så fälls den upp (efter {s:g} s av sig själv).",
        "parked": "Kameran är uppfälld.",
        "up": "ändläge: uppe",
        "not-up": "ändläge: INTE uppe",
        "no-stop": "inget ändläge: om den är uppe mäts inte",
        "unread": "ändläge: kan inte läsas nu ({why})",
        "guard": "en guard kör: den styr fästet",
        "no-guard": "ingen guard kör",
    },
}


def do(action: str, path: Path, *, language: str, angle_deg: float | None = None, hold_s: float = HOLD_S) -> None:
    """Do `park`, `aim` or `show` with the guard's or park's file. Raises GatewayError that says why not."""
    config = _load(path)
    words = WORDS[language]
    match action:
        case "park":
            park.main(ParkConfig(config.mount, config.world))
            print(words["parked"])
        case "aim":
            if not isinstance(config, GuardConfig):
                raise ConfigError(f"{path}: to aim, name the guard's file; only that says whether set-up is over")
            _demand_set_up(config)
            _aim(mount_parts(_mount(config), config.world), words, angle_deg, hold_s)
        case _:
            _show(config, words)


def _load(path: Path) -> GuardConfig | ParkConfig:
    try:
        return load(path, GuardConfig)
    except ConfigError as not_guards:
        try:
            return load(path, ParkConfig)
        except ConfigError:
            raise not_guards from None


def _mount(config: GuardConfig | ParkConfig) -> MountConfig:
    """As the guard has it: what the installer aimed stands above the file. Park's file names no state, and asks for no
    aim. Raises ConfigError.
    """
    return with_saved_aim(config.mount, Path(config.state_dir)) if isinstance(config, GuardConfig) else config.mount


def guard_runs(config: GuardConfig) -> bool:
    """Whether somebody answers on the guard's control socket; where that can't be told, somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(config.control_socket)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
        return True


def _demand_set_up(config: GuardConfig) -> None:
    # Here, because park must not wait for what it does not need.
    from gateway.services.guard_state import any_agreement

    if guard_runs(config):
        raise TransientError("a guard runs and drives the mount: stop tillsyn-guard first, in set-up")
    if any_agreement(config):
        raise TransientError(
            "an agreement is in force here: set-up is over, and the camera is turned by checks alone. "
            "`tillsyn mount park` turns it up"
        )


def _aim(parts: MountParts, words: dict[str, str], angle_deg: float | None, hold_s: float) -> None:
    import asyncio

    mount = parts.mount()
    angle_deg = parts.calibration.aim_deg if angle_deg is None else angle_deg
    if not parts.calibration.reaches(angle_deg):
        raise ConfigError(f"the mount is not made for {angle_deg:g}°: its calibration has min_deg and max_deg")

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    # A service manager's stop is no reason to leave the camera on the bed.
    before = signal.signal(signal.SIGTERM, end)
    try:
        try:
            asyncio.run(mount.aim() if angle_deg == parts.calibration.aim_deg else mount.go(angle_deg))
            mount.release()
            print(words["aimed"].format(deg=angle_deg, s=hold_s), flush=True)
            _wait(hold_s)
        finally:
            mount.park_now()
        print(words["parked"])
    finally:
        signal.signal(signal.SIGTERM, before)
        mount.close()


def _wait(hold_s: float) -> None:
    try:
        select.select([sys.stdin], [], [], hold_s)
    except (ValueError, OSError):
        time.sleep(hold_s)  # no standard input that could be waited for


def _show(config: GuardConfig | ParkConfig, words: dict[str, str]) -> None:
    mount = _mount(config)
    for name, pin in mount.pins().items():
        print(f"{name:<17} GPIO {pin}")
    print(f"driver            {mount.driver}")
    print(f"parked, aimed     {mount.parked_deg:g}°, {mount.aim_deg:g}°")
    limits = f"{mount.min_deg:g}° to {mount.max_deg:g}°, {mount.min_pulse_us:g} to {mount.max_pulse_us:g} µs"
    print(f"limits            {limits}")
    print(f"motion            {mount.max_speed_deg_s:g} °/s, {mount.max_accel_deg_s2:g} °/s²")
    if isinstance(config, GuardConfig):
        print(words["guard" if guard_runs(config) else "no-guard"])
    if mount.end_stop_pin is None:
        print(words["no-stop"])
        return
    parts = mount_parts(mount, config.world)
    try:
        with contextlib.closing(parts.mount()) as opened:
            print(words["up" if opened.reads_up() else "not-up"])
    except HardwareFaultError as exc:
        print(words["unread"].format(why=exc))
