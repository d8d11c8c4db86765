"""Configuration is read strictly: what isn't exactly right is refused, by the file's name.

Mutations of gateway/config/file.py that turn these red, each tried: `forbid_unknown_fields` or `strict=True` left out;
a default for `demand_isolation`; `le` of `fps` left out; `\\Z` of a pattern left out; ValueError not caught in `load`.
"""

from pathlib import Path

import pytest
import tomli_w

from gateway.config import EyeConfig, GuardConfig, LinkConfig, ParkConfig, load
from gateway.config.file import MountConfig
from gateway.core.error import ConfigError
from gateway.services.mount_parts import mount_parts

MOUNT = {"driver": "bench", "pan_pin": 18, "lamp_pin": 17}
GOOD = {
    GuardConfig: {
        "gateway": "gw-test",
        "install_epoch": 1,
        "groups": ["north"],
        "state_dir": "/var/lib/tillsyn",
        "guard_socket": "/run/tillsyn/guard.sock",
        "control_socket": "/run/tillsyn/control.sock",
        "eye_socket": "/run/tillsyn/eye.sock",
        "device_key": "/etc/tillsyn/device.key",
        "ledger_key": "/etc/tillsyn/ledger.key",
        "roots": "/etc/tillsyn/roots.json",
        "trust": "/etc/tillsyn/trust.jws",
        "mount": MOUNT,
        "lamp_brightness": 0.3,
        "demand_isolation": True,
    },
    EyeConfig: {"camera": "room", "eye_socket": "/run/tillsyn/eye.sock", "demand_isolation": True},
    LinkConfig: {
        "gateway": "gw-test",
        "guard_socket": "/run/tillsyn/guard.sock",
        "broker_host": "10.0.0.1",
        "broker_port": 8883,
        "broker_name": "broker.test",
        "ca": "/etc/tillsyn/ca.pem",
        "cert": "/etc/tillsyn/cert.pem",
        "key": "/etc/tillsyn/key.pem",
        "outbox": "/var/lib/tillsyn/outbox.sqlite",
        "ice_addresses": ["10.0.0.2"],
    },
    ParkConfig: {"mount": MOUNT},
}
KINDS = list(GOOD)
KEYS = [(kind, key) for kind, keys in GOOD.items() for key in keys]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "service.toml"


def load_as(kind, path, values):
    path.write_bytes(tomli_w.dumps(values).encode())
    return load(path, kind)


def assert_refused(kind, path, values, *words):
    with pytest.raises(ConfigError) as caught:
        load_as(kind, path, values)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_loads_as_it_is_written(kind, path):
    config = load_as(kind, path, GOOD[kind])
    for key, value in GOOD[kind].items():
        assert getattr(config, key) == (MountConfig(**value) if key == "mount" else value)
    with pytest.raises(AttributeError):
        config.extra = 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_refused(kind, path):
    assert_refused(kind, path, GOOD[kind] | {"debug": True}, "debug")


def test_an_unknown_key_of_a_section_is_refused(path):
    assert_refused(ParkConfig, path, {"mount": MOUNT | {"tilt_pin": 5}}, "tilt_pin")


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_missing_key_is_refused(kind, key, path):
    values = {name: value for name, value in GOOD[kind].items() if name != key}
    assert_refused(kind, path, values, key)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_value_of_another_type_is_refused_and_never_turned_into_the_right_one(kind, key, path):
    good = GOOD[kind][key]
    for wrong in ([], {}, "1", 1, 1.5, True, "true", "0.3"):
        if isinstance(wrong, type(good)) and type(wrong) is type(good) and wrong not in ([], {}):
            continue
        if (isinstance(good, float) and type(wrong) in (int, float)) or (key == "groups" and wrong == []):
            continue
        assert_refused(kind, path, GOOD[kind] | {key: wrong}, key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (GuardConfig, {"gateway": "gw-TEST"}),
        (GuardConfig, {"gateway": "test"}),
        (GuardConfig, {"gateway": "gw-test\n"}),
        (GuardConfig, {"gateway": "gw-" + "x" * 41}),
        (GuardConfig, {"gateway": "gw-a/b"}),
        (GuardConfig, {"install_epoch": 0}),
        (GuardConfig, {"state_dir": "var/lib"}),
        (GuardConfig, {"state_dir": ""}),
        (GuardConfig, {"device_key": "/x\n"}),
        (GuardConfig, {"lamp_brightness": 0.0}),
        (GuardConfig, {"lamp_brightness": 1.1}),
        (GuardConfig, {"lamp_brightness": float("nan")}),
        (GuardConfig, {"lamp_brightness": float("inf")}),
        (GuardConfig, {"mount": MOUNT | {"driver": "none"}}),
        (GuardConfig, {"mount": MOUNT | {"pan_pin": 1}}),
        (GuardConfig, {"mount": MOUNT | {"lamp_pin": 28}}),
        (EyeConfig, {"camera": ""}),
        (EyeConfig, {"fps": 0}),
        (EyeConfig, {"fps": 31}),
        (EyeConfig, {"width_px": 1921}),
        (EyeConfig, {"height_px": 119}),
        (EyeConfig, {"bit_rate_bps": 8_000_001}),
        (LinkConfig, {"broker_port": 0}),
        (LinkConfig, {"broker_port": 65536}),
        (LinkConfig, {"ice_addresses": []}),
        (LinkConfig, {"ice_addresses": ["10.0.0.2"] * 5}),
        (LinkConfig, {"ice_addresses": [1]}),
    ],
)
def test_a_value_out_of_range_is_refused(kind, change, path):
    assert_refused(kind, path, GOOD[kind] | change, next(iter(change)))


@pytest.mark.parametrize(
    "content",
    [b"", b"camera = ", b"\xff\xfe", b'camera = "a"\ncamera = "b"\n', b"[[mount]]\n", b"= 1\n", b"\x00"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_toml_or_says_a_thing_twice_is_refused(kind, content, path):
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        load(path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_can_not_be_read_is_refused(kind, tmp_path):
    for missing in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError) as caught:
            load(missing, kind)
        assert str(missing) in str(caught.value)


@pytest.mark.parametrize("change", [{"parked_deg": float("nan")}, {"aim_deg": 90.0}, {"max_pulse_us": 5000.0}])
def test_a_mount_that_can_not_be_driven_is_refused_before_it_is(change, path):
    config = load_as(ParkConfig, path, {"mount": MOUNT | change})
    with pytest.raises(ConfigError):
        mount_parts(config.mount, str(path.parent / "world"))


@pytest.mark.parametrize("more", [{"button_pin": 17}, {"tilt": {"pin": 18, "parked_deg": 0.0, "aim_deg": 0.0}}])
def test_a_pin_that_is_named_twice_is_refused(more, path):
    # Mutation: drop the loop over the pins in mount_parts.
    config = load_as(ParkConfig, path, {"mount": MOUNT | more})
    with pytest.raises(ConfigError, match="twice"):
        mount_parts(config.mount, str(path.parent / "world"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_decides_who_sees_what_has_no_default(kind):
    # A default here would be a service that runs with a network in sight, or shows the wrong home.
    decisive = {"demand_isolation", "gateway", "groups", "roots", "trust", "ice_addresses", "broker_name", "camera"}
    for name in decisive & set(kind.__struct_fields__):
        assert name in GOOD[kind], name
    assert Path(GOOD[GuardConfig]["roots"]).is_absolute()
