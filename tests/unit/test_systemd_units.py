"""The units as data: who may open what, what happens after a crash, and how far each service is walled in.

What the walls do is tried inside the booted image (tests/image_lab); here stands that nobody takes one away unnoticed.

Mutations tried, each turns a test here red:
  tillsyn-eye.service: leave out `PrivateNetwork=yes`                       -> the camera has no network
  tillsyn-link.service: SupplementaryGroups=tillsyn-camera                  -> the access matrix
  tillsyn-guard.service: leave out ExecStopPost                             -> park after guard and eye
  tillsyn-guard.service: RestartPreventExitStatus=1                         -> a wrong configuration is not tried again
  tillsyn-park.service: leave out `Before=network-pre.target`               -> park comes before the network
  tillsyn-safe.target: Conflicts= without tillsyn-eye.socket                -> safe mode has no camera
  tillsyn-guard.service: leave out `ProtectSystem=strict` (slow lane)       -> exposure
  00-tillsyn.preset: leave out `disable *`                                  -> nothing else starts by itself
  60-tillsyn.rules: MODE="0660" for vcio                                    -> the firmware's mailbox
  tillsyn-setup.service: the condition on `done` without its `!`            -> set-up starts on a device that is not ...
  tillsyn-setup.service: SupplementaryGroups=tillsyn-guard                  -> the access matrix
  tillsyn-upkeep.service: LoadCredential=key.pem:…                         -> upkeep finds what its unit leaves it
  tillsyn-renew.service: leave out -/dev/shm                                -> the memory that all may write
  dbus/tillsyn-setup.conf: leave out the link's part                        -> the bus lets set-up ...
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gateway.config import UpkeepConfig, load
from gateway.services import commands, slots
from gateway.services.erase import EraseConfig
from gateway.services.erase import read as read_erase
from provisioning.wizard import commands as wizard

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd" / "unit"
IMAGE = ROOT / "image-build"
SERVICES = ("guard", "eye", "link", "park", "tunnel", "fresh", "setup", "renew", "upkeep")
LIMITS = {
    "guard": 0.5,
    "eye": 0.7,
    "link": 1.5,
    "park": 1.5,
    "tunnel": 1.5,
    "fresh": 0.5,
    "setup": 1.5,
    "renew": 1.5,
    "upkeep": 1.5,
}
"""Of `systemd-analyze security`: a linter of privileges, no proof."""
BOARDS = sorted(path.name for path in (IMAGE / "board").iterdir())


def lines(unit: str) -> list[tuple[str, str]]:
    """(key, value) of a unit file in order; sections don't matter where keys don't repeat across them."""
    found = []
    for line in (UNITS / unit).read_text().splitlines():
        if "=" in line and not line.startswith(("#", ";")):
            key, value = line.split("=", 1)
            found.append((key.strip(), value.strip()))
    return found


def values(unit: str, key: str) -> list[str]:
    return [value for name, value in lines(unit) if name == key]


def words(unit: str, key: str) -> set[str]:
    return {word for value in values(unit, key) for word in value.split()}


def tillsyn_commands() -> set[str]:
    parser = argparse.ArgumentParser()
    known = parser.add_subparsers()
    for module in (commands, slots, wizard):
        module.register(known)
    return set(known.choices)


@pytest.mark.slow
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_what_a_unit_starts_exists(unit):
    started = [value.lstrip("+-!:@") for name, value in lines(unit) if re.match(r"Exec(Start|Stop|StopPost)$", name)]
    assert started
    for command in started:
        program, *rest = command.split()
        if program == "/usr/bin/tillsyn":
            assert rest[0] in tillsyn_commands()
        place = IMAGE / "root" / program.lstrip("/")
        assert place.is_file(), program
        assert place.stat().st_mode & 0o111


def test_only_the_tunnel_may_set_up_an_interface():
    rights = {service: words(f"tillsyn-{service}.service", "CapabilityBoundingSet") for service in SERVICES}
    assert rights == {**{service: set() for service in SERVICES}, "tunnel": {"CAP_NET_ADMIN"}}


@pytest.mark.parametrize("service", ["guard", "eye", "park", "fresh"])
def test_who_decides_or_sees_has_no_network(service):
    unit = f"tillsyn-{service}.service"
    assert values(unit, "PrivateNetwork") == ["yes"]
    assert values(unit, "RestrictAddressFamilies") == ["AF_UNIX"]
    assert values(unit, "IPAddressDeny") == ["any"]


def test_the_groups_are_the_access_matrix():
    matrix = {service: words(f"tillsyn-{service}.service", "SupplementaryGroups") for service in SERVICES}
    assert matrix == {
        "guard": {"tillsyn-pins"},
        "eye": {"tillsyn-camera"},
        "link": set(),
        "park": {"tillsyn-pins"},
        "tunnel": set(),
        "fresh": {"tillsyn-pins"},
        "setup": set(),
        "renew": set(),
        "upkeep": set(),
    }


def test_no_service_is_root_and_those_share_a_user_that_stand_in_for_one_another():
    users = {service: values(f"tillsyn-{service}.service", "User") for service in SERVICES}
    # Park is the guard's own hands when the guard is gone; it has the same pins and less of everything else. Fresh is
    # in the guard's place before there is one, renew in the wizard's after it.
    assert users == {
        "guard": ["tillsyn-guard"],
        "eye": ["tillsyn-eye"],
        "link": ["tillsyn-link"],
        "park": ["tillsyn-guard"],
        "tunnel": ["tillsyn-tunnel"],
        "fresh": ["tillsyn-guard"],
        "setup": ["tillsyn-setup"],
        "renew": ["tillsyn-setup"],
        "upkeep": ["tillsyn-upkeep"],
    }


@pytest.mark.parametrize("service", [service for service in SERVICES if service != "eye"])
def test_only_the_eye_may_have_a_device_node(service):
    assert values(f"tillsyn-{service}.service", "PrivateDevices") == ["yes"]
    assert values(f"tillsyn-{service}.service", "DeviceAllow") == []


def test_the_eye_may_open_cameras_and_nothing_else():
    assert values("tillsyn-eye.service", "DevicePolicy") == ["closed"]
    assert set(values("tillsyn-eye.service", "DeviceAllow")) == {"char-video4linux rw", "char-media rw"}
    assert "-/dev/vcio" in words("tillsyn-eye.service", "InaccessiblePaths")


def test_the_firmwares_mailbox_is_for_root_alone():
    rules = (ROOT / "systemd" / "udev" / "60-tillsyn.rules").read_text()
    assert re.search(r'^KERNEL=="vcio", GROUP="root", MODE="0600"$', rules, re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_reads_anothers_state_or_secrets(service):
    hidden = words(f"tillsyn-{service}.service", "InaccessiblePaths")
    assert "-/var/lib/tillsyn/secret" in hidden
    own = {"fresh": "guard"}.get(service, service)
    assert {f"-/var/lib/tillsyn/{name}" for name in ("guard", "link", "tunnel") if name != own} <= hidden
    if service not in ("setup", "renew"):
        assert {"-/var/lib/tillsyn/setup", "-/var/lib/tillsyn/factory"} <= hidden


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_leaves_anything_in_the_memory_that_all_may_write(service):
    assert "-/dev/shm" in words(f"tillsyn-{service}.service", "InaccessiblePaths")


def test_both_ends_of_a_check_park():
    assert values("tillsyn-guard.service", "ExecStopPost") == [
        "/usr/bin/tillsyn park --config /var/lib/tillsyn/config/park.toml"
    ]
    assert values("tillsyn-eye.service", "ExecStopPost") == ["+/usr/lib/tillsyn/park-unguarded"]


def test_park_comes_before_the_network():
    before = words("tillsyn-park.service", "Before")
    assert {"network-pre.target", "systemd-networkd.service", "tillsyn-guard.service"} <= before
    assert "network-pre.target" in words("tillsyn-park.service", "Wants")
    assert values("tillsyn-park.service", "DefaultDependencies") == ["no"]


@pytest.mark.parametrize("service", ["guard", "eye", "link", "tunnel", "fresh", "setup", "upkeep"])
def test_a_service_is_watched(service):
    unit = f"tillsyn-{service}.service"
    assert values(unit, "Type") == ["notify"]
    assert values(unit, "WatchdogSec") == ["5"]
    assert values(unit, "WatchdogSignal") == ["SIGKILL"]


@pytest.mark.parametrize("service", ["guard", "link", "tunnel", "upkeep"])
def test_a_wrong_configuration_is_not_tried_again(service):
    assert values(f"tillsyn-{service}.service", "RestartPreventExitStatus") == ["78"]
    assert values(f"tillsyn-{service}.service", "Restart") == ["always"]


def test_upkeep_finds_what_its_unit_leaves_it():
    """Mutations: another name of the credential in the unit; the asked restart in another directory."""
    unit = "tillsyn-upkeep.service"
    (started,) = values(unit, "ExecStart")
    config = load(IMAGE / "root" / started.split()[-1].lstrip("/"), UpkeepConfig)
    (credential,) = values(unit, "LoadCredential")
    assert config.cert == config.key == f"/run/credentials/{unit}/{credential.split(':')[0]}"
    assert config.restart == values("tillsyn-restart.path", "PathExists")[0]
    assert Path(config.restart).parent == Path("/run") / values(unit, "RuntimeDirectory")[0]
    assert config.state_dir in {path.lstrip("-") for path in words(unit, "ReadWritePaths")}
    assert config.upkeep_socket == values("tillsyn-upkeep.socket", "ListenSequentialPacket")[0]
    program = (IMAGE / "root/usr/lib/tillsyn/take-place").read_text()
    assert "restart tillsyn-link.service tillsyn-upkeep.service" in program


def test_who_judges_a_try_does_not_wait_for_what_is_judged():
    """Mutation: tillsyn-guard.service in its After=."""
    assert words("tillsyn-healthy.service", "After") == {"tillsyn-slot.service"}


def test_upkeep_is_stopped_before_the_guard_whose_loss_it_would_tell():
    """Mutation: leave out After=tillsyn-guard.service. What is started after another is stopped before it."""
    assert "tillsyn-guard.service" in words("tillsyn-upkeep.service", "After")


def test_an_eye_is_never_started_by_anybody_but_its_socket():
    assert values("tillsyn-eye.service", "Restart") == ["no"]
    assert "WantedBy" not in dict(lines("tillsyn-eye.service"))


def test_a_crash_loop_ends_in_safe_mode_without_camera_but_with_a_voice():
    assert values("tillsyn-guard.service", "OnFailure") == ["tillsyn-safe.target"]
    assert int(values("tillsyn-guard.service", "StartLimitBurst")[0]) <= 20
    assert words("tillsyn-safe.target", "Conflicts") == {
        "tillsyn-eye.service",
        "tillsyn-eye.socket",
        "tillsyn-guard.service",
        "tillsyn-guard.socket",
    }
    assert "tillsyn-link.service" in words("tillsyn-safe.target", "Wants")
    assert values("tillsyn-link.service", "StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize(
    ("socket", "path", "group"),
    [
        ("tillsyn-guard.socket", "/run/tillsyn/guard.sock", "tillsyn-link"),
        ("tillsyn-eye.socket", "/run/tillsyn/eye.sock", "tillsyn-guard"),
        ("tillsyn-tunnel.socket", "/run/tillsyn/tunnel.sock", "tillsyn-guard"),
        ("tillsyn-upkeep.socket", "/run/tillsyn/upkeep.sock", "tillsyn-guard"),
    ],
)
def test_a_socket_lets_in_one_user(socket, path, group):
    assert values(socket, "ListenSequentialPacket") == [path]
    assert values(socket, "SocketGroup") == [group]
    assert values(socket, "SocketMode") == ["0660"]


def test_set_up_starts_on_a_device_that_is_not_set_up_or_after_the_physical_act_and_stays_gone():
    assert set(values("tillsyn-setup.service", "ConditionPathExists")) >= {
        "|!/var/lib/tillsyn/setup/done",
        "|/run/tillsyn-setup/act",
    }
    assert values("tillsyn-setup.service", "Restart") == ["on-failure"]
    assert values("tillsyn-setup.path", "PathExists") == ["/run/tillsyn-setup/act"]
    # No socket unit: the port would be open while the door is closed.
    assert not list(UNITS.glob("tillsyn-setup.socket"))
    assert values("tillsyn-setup.service", "ExecStopPost") == ["+/usr/lib/tillsyn/setup-door close"]
    assert values("tillsyn-fresh.service", "ConditionPathExists")[-1] == "!/var/lib/tillsyn/config/guard.toml"


def test_a_returned_device_is_erased_before_anything_else_of_ours_and_starts_anew():
    """Mutations: a service out of Before=; a socket out of what is stopped; the mark's name; the tree of a service."""
    unit = "tillsyn-erase.service"
    others = {f"tillsyn-{name}.service" for name in SERVICES} - {"tillsyn-eye.service", "tillsyn-park.service"}
    assert words(unit, "Before") == others | {"tillsyn-joined.service"}
    assert values(unit, "SuccessAction") == ["reboot-force"]
    (stop,) = values(unit, "ExecStartPre")
    assert {path.name for path in UNITS.glob("tillsyn-*.socket")} <= set(stop.split())
    config = return_config()
    assert config.volume is not None
    carry = Path(config.volume.carry)
    selection = (IMAGE / "root/usr/lib/tillsyn/with-selection").read_text()
    assert f"directory={carry.parent}\n" in selection
    assert f'[ ! -e "$directory/{carry.name}" ] || : >/run/tillsyn/carried\n' in selection
    assert values("tillsyn-erase.path", "PathExists") == [config.mark]
    assert values(unit, "ConditionPathExists") == [f"|{config.mark}", f"|{config.begun}", "|/run/tillsyn/carried"]
    assert {"tillsyn-data.service", "tillsyn-slot.service"} <= words(unit, "After"), "who says that something waits"
    assert config.volume.key == f"/run/credentials/{unit}/{values(unit, 'ImportCredential')[0]}"
    assert set(values(unit, "ImportCredential")) == set(values("tillsyn-data.service", "ImportCredential"))
    program = (IMAGE / "root/usr/lib/tillsyn/data-partition").read_text()
    made = re.findall(r"^\t\tinstall -d (.*)$", program, re.MULTILINE)
    folders = {word for line in made for word in re.sub(r"-[mog] \S+", "", line).split()}
    kept = {".", "config", "factory", "upkeep", "rauc"}
    assert {f"/var/lib/tillsyn/{name}" for name in folders - kept} == set(config.trees)


def return_config() -> EraseConfig:
    return read_erase(IMAGE / "root/usr/lib/tillsyn/erase.toml")


def test_what_take_place_makes_a_home_from_goes_before_the_home():
    """Else a cut in between would let it make the home again. Mutation: guard/identity/guard.toml behind the others."""
    arming = [name.removeprefix("/var/lib/tillsyn/") for name in return_config().arming]
    assert arming[:2] == ["guard/identity/guard.toml", "setup/link/link.toml"]
    program = (IMAGE / "root/usr/lib/tillsyn/take-place").read_text()
    put = re.findall(r'"\$config/([a-z.]+)"', program)
    gone = {Path(name).name for name in (*return_config().arming, *return_config().files)}
    assert set(put) - {"tunnel-template.toml"} <= gone
    assert {"roots.json", "trust.jws", "tunnel.json", "centre.nft"} <= gone


def test_only_the_guard_and_the_wizard_may_enter_the_directory_that_is_theirs():
    """Its sockets belong to the wizard's group; whoever is in the guard's could speak as the resident's hand."""
    (line,) = [
        each
        for each in (ROOT / "systemd/tmpfiles/tillsyn.conf").read_text().splitlines()
        if each.startswith("d /run/tillsyn-setup")
    ]
    assert line.split()[:5] == ["d", "/run/tillsyn-setup", "2770", "tillsyn-guard", "tillsyn-setup"]
    writes = {service: words(f"tillsyn-{service}.service", "ReadWritePaths") for service in SERVICES}
    assert [service for service in SERVICES if "-/run/tillsyn-setup" in writes[service]] == ["guard", "fresh", "setup"]


def test_the_bus_lets_set_up_and_the_tunnel_speak_with_networkmanager_and_no_other_user_of_ours():
    """Tried on a real bus by `make networkmanager-contract`."""
    policies = ET.parse(ROOT / "systemd/dbus/tillsyn-setup.conf").getroot().findall("policy")
    whole = {
        (policy.get("user"), rule.tag, rule.get("send_destination", "").rpartition(".")[2])
        for policy in policies
        for rule in policy
        if set(rule.attrib) == {"send_destination"}
    }
    users = re.findall(r"^u +(tillsyn-\w+)", (ROOT / "systemd/sysusers/tillsyn.conf").read_text(), re.MULTILINE)
    allowed = {"NetworkManager": {"tillsyn-setup", "tillsyn-tunnel"}, "Avahi": {"tillsyn-setup"}}
    for name, those in allowed.items():
        assert {user for user, tag, to in whole if (tag, to) == ("deny", name)} == set(users) - those
    assert {user for user, tag, _ in whole if tag == "allow"} == {"tillsyn-setup"}


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("tillsyn-*.service")))
def test_nobody_of_ours_dumps_core(unit):
    assert values(unit, "LimitCORE") == ["0"]


def test_nothing_else_starts_by_itself():
    preset = (IMAGE / "root/usr/lib/systemd/system-preset/00-tillsyn.preset").read_text().splitlines()
    rules = [line for line in preset if line and not line.startswith("#")]
    assert rules[-1] == "disable *"
    assert not [line for line in rules if re.search(r"getty|ssh|console|serial", line)]


def test_the_journal_of_the_system_does_not_outlive_the_boot_and_ours_is_bounded():
    assert "Storage=volatile" in (IMAGE / "root/etc/systemd/journald.conf.d/tillsyn.conf").read_text()
    ours = (IMAGE / "root/etc/systemd/journald@tillsyn.conf").read_text()
    assert "Storage=persistent" in ours
    assert "SystemMaxUse=32M" in ours


def test_there_is_no_swap_and_no_core_pattern_that_writes():
    assert "swap" not in (IMAGE / "root/etc/fstab").read_text()
    assert "kernel.core_pattern = |/bin/false" in (IMAGE / "root/usr/lib/sysctl.d/60-tillsyn.conf").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("board", BOARDS)
def test_exposure_is_below_the_limit_on_every_board(tmp_path, board, service):
    place = tmp_path / "usr/lib/systemd/system"
    shutil.copytree(UNITS, place)
    extra = IMAGE / "board" / board / "usr/lib/systemd/system"
    if extra.is_dir():
        shutil.copytree(extra, place, dirs_exist_ok=True)
    unit = f"tillsyn-{service}.service"
    told = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=yes", f"--root={tmp_path}", unit],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    figure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told.stdout)
    assert figure is not None
    assert float(figure[1]) <= LIMITS[service]
