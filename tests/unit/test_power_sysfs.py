"""What the firmware says of the board's feeding, read from a tree like a Raspberry Pi's sysfs."""

import pytest

from gateway.edge.bench_world import BenchWorld
from gateway.edge.power_sysfs import FLAGS, Power, read_power


@pytest.mark.parametrize("under_voltage", [False, True])
@pytest.mark.parametrize("throttled", [False, True])
def test_both_places_are_read(tmp_path, under_voltage, throttled):
    world = BenchWorld(tmp_path)
    world.say_firmware(under_voltage=under_voltage, throttled=throttled)
    assert read_power(world.sysfs) == Power(under_voltage, throttled)


def test_the_alarm_of_another_chip_is_not_ours(tmp_path):
    # Mutation: take any hwmon's in0_lcrit_alarm.
    other = tmp_path / "class/hwmon/hwmon0"
    other.mkdir(parents=True)
    (other / "name").write_text("cpu_thermal\n")
    (other / "in0_lcrit_alarm").write_text("1\n")
    assert read_power(tmp_path) == Power(None, None)


@pytest.mark.parametrize(("flags", "expected"), [
    ("0", Power(False, False)),
    ("50005", Power(True, True)),
    ("50000", Power(False, False)),  # was so since the boot, and is no more
    ("8", Power(False, True)),
    ("2", Power(False, True)),
    ("nonsense", Power(None, None)),
    ("", Power(None, None)),
])  # fmt: skip
def test_the_flags_alone_say_what_is_now(tmp_path, flags, expected):
    # Mutation: UNDER_VOLTAGE = 0x10001.
    path = tmp_path / FLAGS
    path.parent.mkdir(parents=True)
    path.write_text(flags + "\n")
    assert read_power(tmp_path) == expected


def test_either_place_is_enough_for_under_voltage(tmp_path):
    world = BenchWorld(tmp_path)
    world.say_firmware(under_voltage=True)
    (world.sysfs / FLAGS).write_text("0\n")
    assert read_power(world.sysfs).under_voltage is True
    (world.sysfs / FLAGS).unlink()
    assert read_power(world.sysfs) == Power(True, None)


def test_a_board_that_says_nothing_is_not_starved(tmp_path):
    assert read_power(tmp_path / "none") == Power(None, None)
