"""Who works at the lab's centre beside the operator."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec

from gateway.protocol.message import Role

SECOND = "in-bench"
"""The installer, who confirms what a steward has ordered."""


def stewards(config: Path) -> None:
    """The planner is the steward as well, and somebody else the installer: who begins a rollout, and who erases."""
    table = msgspec.toml.decode(config.read_bytes())
    planner = table["accounts"][1]
    if Role.STEWARD.value not in planner["roles"]:
        planner["roles"].append(Role.STEWARD.value)
    if all(each["who"] != SECOND for each in table["accounts"]):
        table["accounts"].append(
            {"who": SECOND, "roles": [Role.INSTALLER.value], "login_sha256": _sha256(second_token(config))}
        )
    config.write_bytes(msgspec.toml.encode(table))


def second_token(config: Path) -> str:
    """Of the lab's installer; made once, beside the centre's configuration."""
    path = config.with_name("second.token")
    if not path.exists():
        path.write_text(secrets.token_urlsafe(24))
        path.chmod(0o600)
    return path.read_text()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
