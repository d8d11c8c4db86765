"""The tunnel's service on a real disk, with a tunnel that is a word list; time is moved by hand.

Mutations that turn these red, each tried: the state not written; the new key written 0644; the old key's file not
removed; the key file's mode not asked; any key taken for a credential; the mode of a credential not asked; the trial's
time counted from BOOTTIME 0; the older key applied with the newer settings.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import TunnelConfig
from gateway.core.error import ConfigError
from gateway.edge.tunnel_port import TunnelError
from gateway.ipc import frame
from gateway.protocol.message import TunnelSettings
from gateway.protocol.tunnel_key import new_private_key, public_key
from gateway.services.tunnel import AGAIN_EVERY_S, Tunnel, TunnelFiles
from gateway.tunnel import TRIAL_S
from provisioning.authority import tunnel_config

CENTRE_KEY = public_key(new_private_key())


@dataclass
class FakeTunnel:
    """A port that notes what was applied, and answers as it is told."""

    files: Any = None
    answers: set[str] = field(default_factory=set)
    """Addresses under which the centre would answer."""
    applied: list[tuple[TunnelSettings, str]] = field(default_factory=list)
    broken: bool = False

    async def apply(self, settings: TunnelSettings, private_key: bytes) -> None:
        if self.broken:
            raise TunnelError("broken")
        kept = TunnelFiles(self.files)  # what a power cut in this moment would leave
        assert kept.state.current.settings == settings, "applied before it was kept"
        self.applied.append((settings, public_key(private_key)))

    async def reached(self) -> bool:
        return bool(self.applied) and self.applied[-1][0].address in self.answers

    async def remove(self) -> None:
        pass


@dataclass
class World:
    folder: Path
    now_s: float = 1000.0
    port: FakeTunnel = field(default_factory=FakeTunnel)
    tunnel: Tunnel = field(init=False)
    config: TunnelConfig = field(init=False)

    def __post_init__(self) -> None:
        self.public = tunnel_config.enrol(
            self.folder,
            address="10.90.128.1",
            centre=["10.90.0.1"],
            centre_key=CENTRE_KEY,
            endpoint_host="centre.example",
            endpoint_port=51820,
        )
        self.config = TunnelConfig(
            interface="tillsyn0",
            driver="wg",
            tunnel_socket=str(self.folder / "tunnel.sock"),
            state_dir=str(self.folder / "state"),
            settings=str(self.folder / tunnel_config.SETTINGS_FILE),
            key=str(self.folder / tunnel_config.KEY_FILE),
        )
        self.port.files = self.config
        self.start()

    def start(self) -> None:
        """As after a power cut: nothing is left but the disk."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.close()
        self.tunnel = Tunnel(TunnelFiles(self.config), self.port, listener, lambda: self.now_s)

    def look(self, *, after_s: float = 5.0) -> None:
        self.now_s += after_s
        asyncio.run(self.tunnel.look())

    def order(self, version: int, address: str, *, renew_key: bool) -> frame.TunnelTaken:
        settings = TunnelSettings(version, address, ["10.90.0.1"], CENTRE_KEY, "centre.example", 51820, 1200)
        order = frame.TunnelOrder(msgspec.json.encode(settings), renew_key)
        return asyncio.run(self.tunnel.order(order))

    @property
    def address(self) -> str:
        return self.port.applied[-1][0].address


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_enrolments_settings_are_applied_with_the_enrolments_key(world: World) -> None:
    world.look()
    assert world.address == "10.90.128.1"
    assert world.port.applied[-1][1] == world.public


def test_a_new_key_is_made_here_kept_private_and_only_its_public_half_is_told(world: World) -> None:
    world.port.answers = {"10.90.128.1", "10.90.128.2"}
    world.look()
    taken = world.order(2, "10.90.128.2", renew_key=True)
    assert taken.version == 2
    assert taken.public_key != world.public
    assert world.port.applied[-1] == (world.tunnel.files.state.current.settings, taken.public_key)
    (new,) = (world.folder / "state").glob("tunnel-*.key")
    assert new.stat().st_mode & 0o777 == 0o600
    assert public_key(new.read_bytes()) == taken.public_key


def test_what_reaches_nobody_is_left_after_ten_minutes_and_its_key_destroyed(world: World) -> None:
    world.port.answers = {"10.90.128.1"}
    world.look()
    world.order(2, "10.90.128.2", renew_key=True)
    world.look(after_s=TRIAL_S - 10.0)
    assert world.address == "10.90.128.2"
    world.look(after_s=10.0)
    assert world.address == "10.90.128.1"
    assert world.port.applied[-1][1] == world.public
    assert list((world.folder / "state").glob("tunnel-*.key")) == []
    # The guard gives the same order again at its next start: it was tried.
    assert world.order(2, "10.90.128.2", renew_key=True).version == 2
    assert world.address == "10.90.128.1"


def test_a_power_cut_in_the_middle_of_a_trial_begins_it_anew_and_still_ends_it(world: World) -> None:
    world.look()
    world.order(2, "10.90.128.2", renew_key=True)
    world.look(after_s=TRIAL_S / 2)
    world.start()
    world.look()
    assert world.address == "10.90.128.2"
    world.look(after_s=TRIAL_S - 1.0)
    assert world.address == "10.90.128.2"
    world.look(after_s=2.0)
    assert world.address == "10.90.128.1"


def test_what_was_reached_stays_after_a_power_cut(world: World) -> None:
    world.port.answers = {"10.90.128.2"}
    world.look()
    world.order(2, "10.90.128.2", renew_key=False)
    world.look()
    world.start()
    world.look()
    assert world.tunnel.files.state.trial is None
    assert world.address == "10.90.128.2"


def test_an_unanswered_tunnel_is_made_anew_from_time_to_time(world: World) -> None:
    world.look()
    count = len(world.port.applied)
    world.look(after_s=AGAIN_EVERY_S + 1.0)
    assert len(world.port.applied) == count + 1
    world.port.answers = {"10.90.128.1"}
    world.look()
    world.look(after_s=AGAIN_EVERY_S + 1.0)
    assert len(world.port.applied) == count + 1


def test_a_tunnel_that_can_not_be_made_yet_is_made_at_a_later_look(world: World) -> None:
    world.port.broken = True
    world.look()
    world.port.broken = False
    world.look()
    assert world.address == "10.90.128.1"


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_may_read_is_refused(world: World, mode: int) -> None:
    Path(world.config.key).chmod(mode)
    with pytest.raises(ConfigError, match="others"):
        TunnelFiles(world.config)


def test_a_credential_of_the_unit_has_the_mask_of_its_access_list_for_a_mode(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Path(world.config.key)
    key.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key.parent))
    assert public_key(TunnelFiles(world.config).private_key(TunnelFiles(world.config).state.in_force)) == world.public
    key.chmod(0o444)
    with pytest.raises(ConfigError, match="others"):
        TunnelFiles(world.config)
    key.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key.parent / "elsewhere"))
    with pytest.raises(ConfigError, match="others"):
        TunnelFiles(world.config)


def test_damaged_state_means_no_tunnel_and_not_another_one(world: World) -> None:
    world.look()
    world.order(2, "10.90.128.2", renew_key=False)
    path = world.folder / "state" / "tunnel-state.json"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConfigError):
        TunnelFiles(world.config)


def test_an_order_that_is_none_changes_nothing(world: World) -> None:
    world.look()
    for hostile in (b"{}", b"\xff", b'{"version": 9}'):
        with pytest.raises((msgspec.MsgspecError, ValueError)):
            asyncio.run(world.tunnel.order(frame.TunnelOrder(hostile, renew_key=True)))
    assert world.tunnel.files.state.high_water == 1
