"""A throw-away factory-fresh device, with the centre and the broker that it will belong to, on one machine.

For the set-up wizard's tests and rehearsals. It is a bench home (`bench_home`) with everything taken away again that an
installation brings: what is left is the image's part (templates of configuration files) and the factory's stub.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from provisioning import bench_home
from provisioning.authority import broker_config
from provisioning.authority.secret_file import write_secret
from provisioning.authority.x509 import private_pem
from provisioning.bench_home import ADDRESS, BenchHome, free_port
from provisioning.factory.stub import Stub, make_stub

INSTALLATION: Final = ("gateway", "install_epoch", "groups", "device_key", "ledger_key", "roots", "trust", "witness")
"""What of guard.toml an installation brings."""
LINK_INSTALLATION: Final = ("gateway", "broker_host", "broker_port", "broker_name", "ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class BenchDevice:
    """What was made."""

    home: BenchHome
    stub: Stub
    est_port: int
    wizard_port: int
    steward_token: str
    """Login of the steward who may consent that set-up is entered again."""

    @property
    def directory(self) -> Path:
        return self.home.directory / "device"

    @property
    def address(self) -> str:
        return f"https://{self.stub.setup.host}.local:{self.wizard_port}/"

    @property
    def act_path(self) -> Path:
        return self.directory / "run" / "act"

    @property
    def ledger(self) -> Path:
        return self.directory / "state" / "ledger"


def make(directory: Path, *, bus: str, camera: str = "room", isolate: bool = True, try_s: float = 8.0) -> BenchDevice:
    """Make everything below `directory`; `bus` is the D-Bus address of NetworkManager's bus."""
    est_port, wizard_port = free_port(), free_port()
    # The stub names the gateway, and its CA is the bench's: so the home is made first, under the stub's name.
    draft = make_stub(enrol_at=f"https://localhost:{est_port}", centre_ca=_any_ca())
    home = bench_home.make(directory, camera=camera, isolate=isolate, gateway=draft.setup.gateway)
    stub = Stub(draft.setup, draft.contact, draft.code, draft.certificate, draft.key, home.authority.pem())
    device = BenchDevice(home, stub, est_port, wizard_port, secrets.token_urlsafe(24))
    _centre(device)
    _broker(device)
    _device(device, bus, isolate=isolate, try_s=try_s)
    return device


def _centre(device: BenchDevice) -> None:
    """The centre knows no home yet, and has the enrolment service."""
    home = device.home
    folder = home.centre_config.parent
    server = home.authority.issue("localhost", server_names=("localhost", ADDRESS))
    (folder / "est-cert.pem").write_bytes(server.certificate)
    write_secret(folder / "est-key.pem", server.key)
    write_secret(folder / "ca-key.pem", private_pem(home.authority.key))
    for name in ("roots.json", "trust.jws"):
        (folder / name).write_bytes((home.directory / "home" / name).read_bytes())
    table = _read(home.centre_config)
    table["homes"] = []
    login = hashlib.sha256(device.steward_token.encode()).hexdigest()
    table["accounts"].append({"who": "steward-demo", "roles": ["steward"], "login_sha256": login})
    table["est"] = {
        "host": ADDRESS,
        "port": device.est_port,
        "cert_path": "est-cert.pem",
        "key_path": "est-key.pem",
        "ca_path": "ca.pem",
        "ca_key_path": "ca-key.pem",
        "roots_path": "roots.json",
        "trust_path": "trust.jws",
        "broker_for_homes": {"host": ADDRESS, "port": home.broker_port, "server_name": "localhost"},
        "groups": ["demo"],
    }
    _write(home.centre_config, table)


def _broker(device: BenchDevice) -> None:
    """By pattern: a home that is enrolled while the broker runs has its branch at once."""
    path = device.home.broker_config.parent / "acl"
    path.write_text(broker_config.acl(None))
    path.chmod(0o600)


def _device(device: BenchDevice, bus: str, *, isolate: bool, try_s: float) -> None:
    """The image's part and the factory's stub; nothing of an installation."""
    made, folder = device.home.directory / "home", device.directory
    for each in (folder, folder / "run", folder / "etc"):
        each.mkdir(mode=0o700)
    run, identity = folder / "run", folder / "guard"
    guard = {key: value for key, value in _read(made / "guard.toml").items() if key not in INSTALLATION}
    guard |= {"state_dir": str(folder / "state"), "act_path": str(run / "act")}
    guard |= {name: str(run / f"{name.removesuffix('_socket')}.sock") for name in guard if name.endswith("_socket")}
    link = {key: value for key, value in _read(made / "link.toml").items() if key not in LINK_INSTALLATION}
    link |= {"guard_socket": str(run / "guard.sock"), "outbox": str(folder / "link" / "outbox.sqlite")}
    # The room is drawn by the processor that everything else runs on: not the camera's patience is tried here.
    eye = _read(made / "eye.toml") | {"eye_socket": str(run / "eye.sock"), "picture_limit_s": 5.0}
    etc = folder / "etc"
    _write(etc / "guard-template.toml", guard)
    _write(etc / "link-template.toml", link)
    _write(etc / "eye.toml", eye)
    _write(etc / "park.toml", _read(made / "park.toml"))
    _write(
        etc / "fresh.toml",
        {
            "gateway": device.stub.setup.gateway,
            "setup_socket": str(run / "setup.sock"),
            "identity_dir": str(identity),
            "guard_template": str(etc / "guard-template.toml"),
            "demand_isolation": isolate,
        },
    )
    _write(
        etc / "setup.toml",
        {
            "factory_dir": str(folder / "factory"),
            "state_dir": str(folder / "setup"),
            "guard_socket": str(run / "setup.sock"),
            "link_dir": str(folder / "link"),
            "link_template": str(etc / "link-template.toml"),
            "act_path": str(run / "act"),
            "listen": ADDRESS,
            "port": device.wizard_port,
            "bus": bus,
            "announce": False,
            "try_s": try_s,
            "linger_s": 4.0,
        },
    )
    device.stub.write(folder / "factory")
    _write(
        device.home.home_config,
        {
            "guard": str(identity / "guard.toml"),
            "eye": str(etc / "eye.toml"),
            "link": str(folder / "link" / "link.toml"),
            "park": str(etc / "park.toml"),
            "fresh": str(etc / "fresh.toml"),
            "setup": str(etc / "setup.toml"),
            "act": str(device.act_path),
            "run_dir": str(run),
            "isolate": isolate,
        },
    )
    # What `bench_home` made for a home that is installed already; the wizard makes its own.
    for path in made.iterdir():
        if path.is_file() and path != device.home.home_config:
            path.unlink()


def _any_ca() -> bytes:
    from provisioning.authority.x509 import CertificateAuthority

    return CertificateAuthority.make("replaced at once").pem()


def _read(path: Path) -> dict[str, Any]:
    return dict(msgspec.toml.decode(path.read_bytes()))


def _write(path: Path, table: dict[str, Any]) -> None:
    path.write_bytes(msgspec.toml.encode(table))
    path.chmod(0o600)
