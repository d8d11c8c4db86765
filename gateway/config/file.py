"""The configuration files of the services, as closed schemas.

Unknown or missing keys, wrong types and values out of range raise ConfigError with the file's name and the key: there
are no defaults for anything that decides who sees what.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.core.error import ConfigError
from gateway.protocol.message import Ring

GatewayId = Annotated[str, Meta(pattern=r"^gw-[a-z0-9-]{1,40}\Z")]
AbsolutePath = Annotated[str, Meta(pattern=r"^/.{1,200}\Z")]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections."""


Pin = Annotated[int, Meta(ge=2, le=27)]
"""A GPIO number of the header."""


class TiltConfig(Config, frozen=True):
    """The second servo, where there is one; its values as MountConfig's."""

    pin: Pin
    parked_deg: float
    aim_deg: float
    min_deg: float = 0.0
    max_deg: float = 180.0
    min_pulse_us: float = 500.0
    max_pulse_us: float = 2500.0
    max_speed_deg_s: float = 110.0
    max_accel_deg_s2: float = 360.0


class MountConfig(Config, frozen=True):
    """Servo, lamp and what else hangs on the header's pins, with the servo's calibration: see gateway.mount.Calibration
    for units and meaning, and docs/hardware.md for the wiring.

    `hardware` drives the servo by the board's PWM block; `lgpio` is the fallback for boards without it, coarse and
    audible. What is None is not fitted.
    """

    driver: Literal["bench", "hardware", "lgpio"]
    pan_pin: Pin
    lamp_pin: Pin
    parked_deg: float = 90.0
    aim_deg: float = 10.0
    min_deg: float = 0.0
    max_deg: float = 180.0
    min_pulse_us: float = 500.0
    max_pulse_us: float = 2500.0
    max_speed_deg_s: float = 110.0
    max_accel_deg_s2: float = 360.0
    tilt: TiltConfig | None = None
    end_stop_pin: Pin | None = None
    """Closed to ground when the camera is up."""
    sensor_power_pin: Pin | None = None
    """High feeds the sensor."""
    button_pin: Pin | None = None
    """The resident's button, closed to ground while it is pressed."""
    tamper_pin: Pin | None = None
    """A reed switch or an accelerometer's output, closed to ground while the camera hangs in its place."""

    def pins(self) -> dict[str, int]:
        """What is fitted, by its name, with its pin."""
        named = {
            "pan_pin": self.pan_pin,
            "lamp_pin": self.lamp_pin,
            "tilt.pin": None if self.tilt is None else self.tilt.pin,
            "end_stop_pin": self.end_stop_pin,
            "sensor_power_pin": self.sensor_power_pin,
            "button_pin": self.button_pin,
            "tamper_pin": self.tamper_pin,
        }
        return {name: pin for name, pin in named.items() if pin is not None}


class GuardConfig(Config, frozen=True):
    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1)]
    groups: list[str]
    state_dir: AbsolutePath
    guard_socket: AbsolutePath
    control_socket: AbsolutePath
    """For the resident's hand: `tillsyn pause`, `tillsyn stop`, and the button's service."""
    eye_socket: AbsolutePath
    device_key: AbsolutePath
    ledger_key: AbsolutePath
    roots: AbsolutePath
    """JSON list of the root keys' JWKs."""
    trust: AbsolutePath
    """The root-signed trust statement, as it was provisioned."""
    mount: MountConfig
    lamp_brightness: Annotated[float, Meta(ge=0.05, le=1.0)]
    demand_isolation: bool
    """Refuse to run where a network interface but a downed loopback is in sight."""
    world: AbsolutePath | None = None
    """Directory of the simulated home when the driver is `bench`."""
    witness: Annotated[str, Meta(max_length=300)] | None = None
    """The vkey of the witness whose cosignatures are kept; None: none are believed, and no payload is ever erased."""
    retention_days: Annotated[int, Meta(ge=15, le=3650)] = 30
    """How long after its cosignature a record keeps its payload here."""
    setup_socket: AbsolutePath | None = None
    """For the installer's wizard; without it this device can't be set up by one."""
    act_path: AbsolutePath | None = None
    """Appears when somebody did set-up's physical act: the wizard may listen again."""
    demand_cross_check: bool = False
    tunnel_socket: AbsolutePath | None = None
    """Of `tillsyn-tunnel`, for orders; None where there is no tunnel."""
    upkeep_socket: AbsolutePath | None = None
    """Where `tillsyn-upkeep` listens; without it this device takes no updates."""
    release_ring: Ring = "all"
    """Which ring this device is of; a release that is not signed as far as it is refused."""
    rtc: AbsolutePath | None = None
    """A battery-backed clock to compare the centre's time with, for example /sys/class/rtc/rtc0."""
    power: AbsolutePath | None = None
    """Where the firmware says how the board is fed, /sys on a Raspberry Pi; None where nothing says it."""


class ParkConfig(Config, frozen=True):
    """`tillsyn park` needs nothing but the mount."""

    mount: MountConfig
    world: AbsolutePath | None = None


class EyeConfig(Config, frozen=True):
    camera: Annotated[str, Meta(min_length=1, max_length=500)]
    eye_socket: AbsolutePath
    demand_isolation: bool
    width_px: Annotated[int, Meta(ge=160, le=1920)] = 1280
    height_px: Annotated[int, Meta(ge=120, le=1080)] = 720
    fps: Annotated[int, Meta(ge=1, le=30)] = 15
    bit_rate_bps: Annotated[int, Meta(ge=50_000, le=8_000_000)] = 1_500_000
    world: AbsolutePath | None = None
    picture_limit_s: Annotated[float, Meta(ge=1.0, le=5.0)] = 1.0
    """A camera that gives no picture for this long has failed. More than 1 s only where the machine is emulated."""
    may_swap: bool = False
    """Start also where this process's memory could be swapped to a disk; to try things out only."""


class FallbackConfig(Config, frozen=True):
    """How the centre is reached where the tunnel is not: both over TLS, as a rule on port 443."""

    broker_host: str
    """Name or address in the broker's certificate."""
    broker_port: Annotated[int, Meta(ge=1, le=65535)]
    relay_host: str
    """Name or address in the relay's certificate, which our own CA issued."""
    relay_port: Annotated[int, Meta(ge=1, le=65535)]


class LinkConfig(Config, frozen=True):
    gateway: GatewayId
    guard_socket: AbsolutePath
    broker_host: str
    broker_port: Annotated[int, Meta(ge=1, le=65535)]
    broker_name: str
    ca: AbsolutePath
    cert: AbsolutePath
    key: AbsolutePath
    outbox: AbsolutePath
    """The file that keeps what must reach the centre until the broker has it."""
    ice_addresses: Annotated[list[str], Meta(max_length=4)] = msgspec.field(default_factory=list)
    """Addresses that may be offered to the operator, on a bench without a tunnel; no other of the home's is."""
    tunnel_interface: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,14}\Z")] | None = None
    """The tunnel's interface: its addresses are offered to the operator, and `broker_host` is reached through it."""
    fallback: FallbackConfig | None = None
    """Without it a home whose network lets no tunnel through stays away."""
    spread_s: Annotated[float, Meta(ge=1.0, le=900.0)] = 30.0
    """The homes of one broker come back within so long after it was restarted; 30 s is for some thousand of them."""

    def __post_init__(self) -> None:
        if bool(self.ice_addresses) is (self.tunnel_interface is not None):
            raise ValueError("give either ice_addresses or tunnel_interface")


class TunnelConfig(Config, frozen=True):
    interface: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,14}\Z")]
    driver: Literal["wg", "networkmanager"]
    """Who makes the interface: this service with WireGuard's tools, or NetworkManager when asked over D-Bus."""
    tunnel_socket: AbsolutePath
    """Where the guard's orders come in."""
    state_dir: AbsolutePath
    settings: AbsolutePath
    """The enrolment's settings (`tunnel.json`); later ones stand in `state_dir`."""
    key: AbsolutePath
    """The enrolment's private key (`tunnel.key`, mode 0600)."""


class UpkeepConfig(Config, frozen=True):
    upkeep_socket: AbsolutePath
    """Where the guard connects: verified offers and permissions come in, reports go out."""
    state_dir: AbsolutePath
    os_release: AbsolutePath
    """Names the running system's version as VERSION_ID."""
    boot: AbsolutePath
    """What the initial RAM disk says of this boot: which slot, and whether it is a try."""
    restart: AbsolutePath
    """A file that asks for a restart: `try` for the other slot once, `back` for the old one."""
    ca: AbsolutePath
    """Of the server with the bundles."""
    cert: AbsolutePath
    key: AbsolutePath
    rate_bytes_s: Annotated[int, Meta(ge=10_000, le=100_000_000)] = 1_000_000
    """So fast an update is fetched at most."""
    bus: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    """D-Bus address of RAUC; None is the system bus."""


C = TypeVar("C", bound=Config)


def load(path: Path, kind: type[C]) -> C:
    """Read `path` as `kind`; raises ConfigError that names the file and what to mend."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind, strict=True)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}. Name an existing file with --config.") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
