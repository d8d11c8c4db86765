"""A throw-away home and centre on one machine: keys, certificates, configuration files, all made on the spot.

For demos, tests and benchmarks. Everything lies below one directory that only this user can read; nothing of it is good
anywhere else. The parts that are made are the real ones: an own CA, a root and an issuing key, a device with its keys,
an agreement signed by a planner.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.ledger import CosignerKey, NoteSigner
from gateway.protocol.envelope import sign
from gateway.protocol.key import SigningKey, b64url_encode
from gateway.protocol.message import AgreementPut, Confirmation, Grant, Message, Role, TrustPut, audience
from gateway.protocol.tunnel_key import new_private_key, public_key
from provisioning.authority import broker_config, relay_config, tunnel_config
from provisioning.authority.secret_file import write_secret
from provisioning.authority.x509 import CertificateAuthority

ADDRESS: Final = "127.0.0.1"
OPERATOR: Final = "op-demo"
PLANNER: Final = "pl-demo"
LINE: Final = "night-1"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts are when they are on networks of their own, with a tunnel between home and centre."""

    tunnel_interface: str
    tunnel_network: str
    """The homes' part of it."""
    tunnel_home: str
    tunnel_broker: str
    tunnel_relay: str
    public_broker: str
    """WireGuard's endpoint too; the broker listens on port 443 there."""
    public_relay: str
    console_origin: str
    endpoint_port: int = 51820
    tls_port: int = 443
    relay_port: int = 3478


@dataclass(frozen=True, slots=True)
class BenchHome:
    """What was made, and the secrets a test or a demo needs to act as centre, planner or operator."""

    directory: Path
    gateway: str
    install_epoch: int
    broker_port: int
    login_token: str
    planner_token: str
    device: SigningKey
    root: SigningKey
    issuing: SigningKey
    planner: SigningKey
    release: SigningKey
    authority: CertificateAuthority
    places: Places | None = None

    @property
    def endpoint_config(self) -> Path:
        """WireGuard's at the centre, for `wg setconf`."""
        return self.directory / "endpoint" / "wg.conf"

    @property
    def relay_config(self) -> Path:
        return self.directory / "relay" / "turnserver.conf"

    @property
    def world(self) -> Path:
        return self.directory / "world"

    @property
    def ledger(self) -> Path:
        return self.directory / "home" / "state" / "ledger"

    @property
    def control_socket(self) -> Path:
        return self.directory / "home" / "run" / "control.sock"

    @property
    def home_config(self) -> Path:
        return self.directory / "home" / "home.toml"

    @property
    def centre_config(self) -> Path:
        return self.directory / "centre" / "centre.toml"

    @property
    def broker_config(self) -> Path:
        return self.directory / "broker" / "mosquitto.conf"

    @property
    def audience(self) -> str:
        return audience(self.gateway, self.install_epoch)

    def grant(
        self, key: SigningKey, who: str, roles: tuple[Role, ...], *, life_s: float = 8 * 3600.0, epoch: int = 0
    ) -> bytes:
        """A shift grant by the issuing key, from five minutes ago on."""
        now = time.time() - 300.0
        grant = Grant(
            sub=who,
            name_ref=who,
            roles=list(roles),
            cnf=Confirmation(key.verifying.jwk()),
            epoch=epoch,
            nbf=now,
            exp=now + life_s,
            homes=[self.gateway],
        )
        return sign(grant, self.issuing)

    def command(self, message: Message, key: SigningKey, grant: bytes) -> bytes:
        """`<grant>~<command>`."""
        return grant + b"~" + sign(message, key)

    def agreement_put(self, agreement: dict[str, Any]) -> bytes:
        """The planner's signed command that puts `agreement` in force."""
        grant = self.grant(self.planner, PLANNER, (Role.PLANNER,))
        return self.command(AgreementPut(self.audience, new_id("j"), agreement), self.planner, grant)


def new_id(prefix: str) -> str:
    return f"{prefix}-{b64url_encode(secrets.token_bytes(9))}"


def agreement_now(home: BenchHome, *, version: int = 1, offset_min: int = 0, max_s: int = 60) -> dict[str, Any]:
    """An agreement with one line whose occasion began `offset_min` minutes before the running minute.

    Negative offsets make an occasion that is not yet due. The window is an hour.
    """
    start = datetime.now(UTC) - timedelta(minutes=offset_min)
    today = start.date()
    return {
        "agreement": "a-demo",
        "version": version,
        "gateway": home.gateway,
        "install_epoch": home.install_epoch,
        "timezone": "UTC",
        "valid": {
            "from": (today - timedelta(days=2)).isoformat(),
            "until": (today + timedelta(days=360)).isoformat(),
        },
        "consent": {
            "resident": {
                "given": (today - timedelta(days=3)).isoformat(),
                "how": "signed-at-installation",
                "ref": "c-demo",
            },
            "cohabitant": None,
        },
        "lines": [
            {
                "id": LINE,
                "rrule": "FREQ=DAILY",
                "start": start.strftime("%H:%M"),
                "window_min": 60,
                "max_s": max_s,
                "recheck": {"after_min": 15, "times": 1},
            }
        ],
        "picture": {"mode": "clear"},
        "lamp": "dim",
        "if_not_seen": [
            {"do": "call-resident", "within_min": 5},
            {"do": "visit", "unit": "hv-demo", "within_min": 45},
        ],
        "pauses": [],
        "resident_ref": "r-demo",
    }


def make(
    directory: Path,
    *,
    camera: str = "room",
    isolate: bool = True,
    http_port: int = 0,
    broker_port: int | None = None,
    gateway: str = "gw-demo",
    ice_address: str = ADDRESS,
    places: Places | None = None,
) -> BenchHome:
    """Make everything below `directory` (new or empty). Raises OSError, and FileExistsError when it was used before."""
    directory = directory.absolute()
    home_dir, centre_dir, broker_dir, world = (directory / name for name in ("home", "centre", "broker", "world"))
    for each in (
        directory,
        home_dir,
        home_dir / "run",
        home_dir / "state",
        centre_dir,
        broker_dir,
        world,
    ):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    broker_port = broker_port or free_port()

    authority = CertificateAuthority.make("tillsyn bench CA")
    for folder in (home_dir, centre_dir, broker_dir):
        (folder / "ca.pem").write_bytes(authority.pem())
    for folder, name, servers in (
        (home_dir, gateway, ()),
        (centre_dir, broker_config.CENTRE, ()),
        (
            broker_dir,
            "broker",
            ("localhost", ADDRESS, *(() if places is None else (places.tunnel_broker, places.public_broker))),
        ),
    ):
        identity = authority.issue(name, server_names=servers)
        (folder / "cert.pem").write_bytes(identity.certificate)
        write_secret(folder / "key.pem", identity.key)

    root, issuing, device, planner, release = (SigningKey.generate() for _ in range(5))
    ledger_key = Ed25519PrivateKey.generate()
    write_secret(centre_dir / "issuing.pem", issuing.to_pem())
    write_secret(home_dir / "device.pem", device.to_pem())
    write_secret(home_dir / "ledger.pem", _ed25519_pem(ledger_key))
    witness_key = Ed25519PrivateKey.generate()
    write_secret(centre_dir / "witness.pem", _ed25519_pem(witness_key))
    witness = CosignerKey("tillsyn/centre", witness_key.public_key().public_bytes_raw())
    (home_dir / "roots.json").write_text(json.dumps([root.verifying.jwk()]))
    trust = TrustPut(
        version=1,
        epoch=0,
        roots=[root.verifying.jwk()],
        issuers=[issuing.verifying.jwk()],
        releases=[release.verifying.jwk()],
    )
    (home_dir / "trust.jws").write_bytes(sign(trust, root))

    home = BenchHome(
        directory,
        gateway,
        1,
        broker_port,
        secrets.token_urlsafe(24),
        secrets.token_urlsafe(24),
        device,
        root,
        issuing,
        planner,
        release,
        authority,
        places,
    )
    if places is not None:
        _write_tunnel(home, places)
    _write_broker(home, broker_dir)
    _write_home(home, home_dir, str(witness), camera=camera, isolate=isolate, ice_address=ice_address)
    _write_centre(home, http_port, str(NoteSigner(f"tillsyn/{gateway}", ledger_key).verifier))
    return home


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def _write_broker(home: BenchHome, folder: Path) -> None:
    acl = folder / "acl"
    acl.write_text(broker_config.acl([home.gateway]))
    acl.chmod(0o600)
    user = getpass.getuser() if os.getuid() == 0 else "root"  # ignored by Mosquitto where it isn't root
    home.broker_config.write_text(
        broker_config.mosquitto_conf(
            address=ADDRESS if home.places is None else home.places.tunnel_broker,
            port=home.broker_port,
            also=() if home.places is None else ((home.places.public_broker, home.places.tls_port),),
            ca=folder / "ca.pem",
            certificate=folder / "cert.pem",
            key=folder / "key.pem",
            acl=acl,
            user=user,
        )
    )


def _write_home(home: BenchHome, folder: Path, witness: str, *, camera: str, isolate: bool, ice_address: str) -> None:
    world = str(home.world)
    mount = {
        "driver": "bench",
        "pan_pin": 12,
        "lamp_pin": 18,
        "end_stop_pin": 27,
        "sensor_power_pin": 23,
        "button_pin": 17,
        "tamper_pin": 22,
    }
    run_dir = folder / "run"
    _write_toml(
        folder / "guard.toml",
        {
            "gateway": home.gateway,
            "install_epoch": home.install_epoch,
            "groups": ["demo"],
            "state_dir": str(folder / "state"),
            "guard_socket": str(run_dir / "guard.sock"),
            "control_socket": str(run_dir / "control.sock"),
            "eye_socket": str(run_dir / "eye.sock"),
            "device_key": str(folder / "device.pem"),
            "ledger_key": str(folder / "ledger.pem"),
            "roots": str(folder / "roots.json"),
            "trust": str(folder / "trust.jws"),
            "witness": witness,
            "lamp_brightness": 0.2,
            **({} if home.places is None else {"tunnel_socket": str(run_dir / "tunnel.sock")}),
            "demand_isolation": isolate,
            "world": world,
            "power": f"{world}/sys",
            "mount": mount,
        },
    )
    _write_toml(
        folder / "eye.toml",
        {
            "camera": camera,
            "eye_socket": str(run_dir / "eye.sock"),
            "demand_isolation": isolate,
            "world": world,
            # A bench runs where its user works, swap or not.
            "may_swap": True,
        },
    )
    _write_toml(
        folder / "link.toml",
        {
            "gateway": home.gateway,
            "guard_socket": str(run_dir / "guard.sock"),
            "broker_host": ADDRESS if home.places is None else home.places.tunnel_broker,
            "broker_port": home.broker_port,
            "broker_name": "localhost",
            "ca": str(folder / "ca.pem"),
            "cert": str(folder / "cert.pem"),
            "key": str(folder / "key.pem"),
            "outbox": str(folder / "state" / "outbox.sqlite"),
            # One home, which has nobody to come back beside.
            "spread_s": 1.0,
            **({"ice_addresses": [ice_address]} if home.places is None else _way_out(home.places)),
        },
    )
    _write_toml(folder / "park.toml", {"world": world, "mount": mount})
    _write_toml(
        home.home_config,
        {
            "guard": str(folder / "guard.toml"),
            "eye": str(folder / "eye.toml"),
            "link": str(folder / "link.toml"),
            "park": str(folder / "park.toml"),
            "run_dir": str(run_dir),
            "isolate": isolate,
            **({} if home.places is None else {"tunnel": str(folder / "tunnel.toml")}),
        },
    )


def _way_out(places: Places) -> dict[str, Any]:
    return {
        "tunnel_interface": places.tunnel_interface,
        "fallback": {
            "broker_host": places.public_broker,
            "broker_port": places.tls_port,
            "relay_host": places.public_relay,
            "relay_port": places.tls_port,
        },
    }


def _write_tunnel(home: BenchHome, places: Places) -> None:
    """Both ends of the tunnel, and the relay that stands in it, as an authority and an enrolment would make them."""
    folder, endpoint_dir, relay_dir = (home.directory / name for name in ("home", "endpoint", "relay"))
    for each in (endpoint_dir, relay_dir):
        each.mkdir(mode=0o700)
    centre_key = new_private_key()
    home_key = tunnel_config.enrol(
        folder,
        address=places.tunnel_home,
        centre=[places.tunnel_broker, places.tunnel_relay],
        centre_key=public_key(centre_key),
        endpoint_host=places.public_broker,
        endpoint_port=places.endpoint_port,
    )
    _write_toml(
        folder / "tunnel.toml",
        {
            "interface": places.tunnel_interface,
            "driver": "wg",
            "tunnel_socket": str(folder / "run" / "tunnel.sock"),
            "state_dir": str(folder / "tunnel"),
            "settings": str(folder / tunnel_config.SETTINGS_FILE),
            "key": str(folder / tunnel_config.KEY_FILE),
        },
    )
    peers = tunnel_config.parse_peers(f"{home.gateway} {home_key} {places.tunnel_home}", network=places.tunnel_network)
    conf = tunnel_config.endpoint_conf(centre_key, port=places.endpoint_port, peers=peers)
    write_secret(home.endpoint_config, conf.encode())
    identity = home.authority.issue("relay", server_names=(places.public_relay,))
    (relay_dir / "cert.pem").write_bytes(identity.certificate)
    write_secret(relay_dir / "key.pem", identity.key)
    secret = secrets.token_urlsafe(32)
    write_secret(home.directory / "centre" / "relay.secret", secret.encode())
    conf = relay_config.turnserver_conf(
        listen=places.public_relay,
        relay=places.tunnel_relay,
        homes=places.tunnel_network,
        udp_port=places.relay_port,
        tls_port=places.tls_port,
        realm="tillsyn.bench",
        secret=secret,
        certificate=relay_dir / "cert.pem",
        key=relay_dir / "key.pem",
        user=None,
    )
    write_secret(home.relay_config, conf.encode())


def _ed25519_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_centre(home: BenchHome, http_port: int, ledger_vkey: str) -> None:
    def account(who: str, role: Role, token: str) -> dict[str, Any]:
        return {"who": who, "roles": [role.value], "login_sha256": hashlib.sha256(token.encode()).hexdigest()}

    _write_toml(
        home.centre_config,
        {
            "database_path": "centre.sqlite",
            "login": {"link": "always"},
            "issuing_key_path": "issuing.pem",
            "witness_key_path": "witness.pem",
            "http": {
                "host": ADDRESS,
                "port": http_port,
                **({} if home.places is None else {"public_origins": [home.places.console_origin]}),
            },
            "broker": {
                "host": ADDRESS if home.places is None else home.places.tunnel_broker,
                "port": home.broker_port,
                "server_name": "localhost",
                "client_id": broker_config.CENTRE,
                "ca_path": "ca.pem",
                "cert_path": "cert.pem",
                "key_path": "key.pem",
            },
            "accounts": [
                account(OPERATOR, Role.OPERATOR, home.login_token),
                account(PLANNER, Role.PLANNER, home.planner_token),
            ],
            "homes": [
                {
                    "gateway": home.gateway,
                    "install_epoch": home.install_epoch,
                    "device_jwk": home.device.verifying.jwk(),
                    "groups": ["demo"],
                    "ledger_vkey": ledger_vkey,
                }
            ],
            "ice": {"policy": "all", "servers": []} if home.places is None else _ice(home.places),
        },
    )


def _ice(places: Places) -> dict[str, Any]:
    turn = f"turn:{places.public_relay}:{places.relay_port}?transport="
    return {
        "policy": "relay",
        "servers": [{"urls": [f"{turn}udp", f"{turn}tcp"]}],
        "relay_secret_path": "relay.secret",
    }


def _write_toml(path: Path, table: dict[str, Any]) -> None:
    import msgspec

    path.write_bytes(msgspec.toml.encode(table))
    path.chmod(0o600)
