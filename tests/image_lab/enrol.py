"""What an enrolment leaves on the data partition, written there from outside between two boots.

The image takes no configuration from QEMU: it finds these files where the wizard or an enrolment by hand puts them. The
keys and settings are those of a bench home (`provisioning.bench_home`), with a tunnel to the net-lab's centre.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import msgspec

from provisioning.authority import tunnel_config
from provisioning.bench_home import BenchHome
from tests.image_lab.card import Card
from tests.net_lab.network import CENTRE_BROKER, CENTRE_RELAY

STATE = "/var/lib/tillsyn"
CONFIG = f"{STATE}/config"
WORLD = f"{STATE}/world"
FILM = "/run/lab/film.avi"
BENCH_GROUP = 973
KEPT = ("roots.json", "trust.jws", "ca.pem", "tunnel.json")
PICTURE_LIMIT_S = 5.0
"""Emulated, a first picture takes longer than the second that a board has; see EyeConfig."""


def new_data_key() -> str:
    return secrets.token_hex(32)


def files(home: BenchHome) -> dict[str, tuple[bytes, int, int, int]]:
    """Name on the data partition to (content, mode, uid, gid)."""
    made = home.directory / "home"

    def table(name: str) -> dict[str, Any]:
        return dict(msgspec.toml.decode((made / name).read_bytes()))

    sockets = {
        f"{name}_socket": f"/run/tillsyn/{name}.sock" for name in ("guard", "control", "eye", "tunnel", "upkeep")
    }
    guard = table("guard.toml")
    guard |= {key: value for key, value in sockets.items() if key in guard or key == "upkeep_socket"}
    guard |= {
        "state_dir": f"{STATE}/guard",
        "device_key": "/run/credentials/tillsyn-guard.service/device.pem",
        "ledger_key": "/run/credentials/tillsyn-guard.service/ledger.pem",
        "roots": f"{CONFIG}/roots.json",
        "trust": f"{CONFIG}/trust.jws",
        "demand_isolation": True,
        "world": WORLD,
        "power": f"{WORLD}/sys",
    }
    eye = table("eye.toml") | {
        "camera": f"file:{FILM}",
        "eye_socket": sockets["eye_socket"],
        "demand_isolation": True,
        "world": WORLD,
        "may_swap": False,
        "picture_limit_s": PICTURE_LIMIT_S,
    }
    link = table("link.toml") | {
        "guard_socket": sockets["guard_socket"],
        "ca": f"{CONFIG}/ca.pem",
        "cert": "/run/credentials/tillsyn-link.service/key.pem",
        "key": "/run/credentials/tillsyn-link.service/key.pem",
        "outbox": f"{STATE}/link/outbox.sqlite",
    }
    tunnel = table("tunnel.toml") | {
        "tunnel_socket": sockets["tunnel_socket"],
        "state_dir": f"{STATE}/tunnel",
        "settings": f"{CONFIG}/tunnel.json",
        "key": "/run/credentials/tillsyn-tunnel.service/tunnel.key",
    }
    park = table("park.toml") | {"world": WORLD}
    public = {
        "guard.toml": msgspec.toml.encode(guard),
        "eye.toml": msgspec.toml.encode(eye),
        "link.toml": msgspec.toml.encode(link),
        "tunnel.toml": msgspec.toml.encode(tunnel),
        "park.toml": msgspec.toml.encode(park),
        "centre.nft": tunnel_config.device_filter([CENTRE_BROKER, CENTRE_RELAY]).encode(),
        **{name: (made / name).read_bytes() for name in KEPT},
    }
    secret = {name: (made / name).read_bytes() for name in ("device.pem", "ledger.pem", "tunnel.key")}
    # Certificate and key in one file, as the wizard leaves them.
    secret["link-key.pem"] = (made / "cert.pem").read_bytes() + (made / "key.pem").read_bytes()
    return {
        **{f"config/{name}": (content, 0o644, 0, 0) for name, content in public.items()},
        **{f"secret/{name}": (content, 0o600, 0, 0) for name, content in secret.items()},
        "world/": (b"", 0o2770, 0, BENCH_GROUP),
    }


def enrol(card: Card, key_hex: str, home: BenchHome, scratch: Path) -> int:
    """Write them. Returns how many sectors of the card changed."""
    data = card.data(key_hex, scratch / "data.plain")
    assert data.label == "tillsyn-data", f"the first boot did not make the data partition: {data.label!r}"
    data.put(files(home), scratch)
    return data.write_back()
