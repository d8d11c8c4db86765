"""The eye does not start where its memory could be written to a disk.

Mutations that turn these red, each tried (edge/service_systemd.py): zram not left out; `"0"` → `"max"`; only the own
group asked.
"""

from __future__ import annotations

import pytest

from gateway.core.error import ConfigError
from gateway.edge.service_systemd import demand_no_swap

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
DISK = "/dev/mmcblk0p3                          partition\t102396\t\t0\t\t-2\n"
ZRAM = "/dev/zram0                              partition\t102396\t\t0\t\t100\n"
FILE = "/var/swap                               file\t\t102396\t\t0\t\t-2\n"


@pytest.fixture
def machine(tmp_path):
    def make(swaps: str | None, limits: dict[str, str] | None = None) -> None:
        proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (cgroups / "system.slice" / "tillsyn-eye.service").mkdir(parents=True)
        (proc / "self" / "cgroup").write_text("0::/system.slice/tillsyn-eye.service\n")
        if swaps is not None:
            (proc / "swaps").write_text(HEAD + swaps)
        for group, limit in (limits or {}).items():
            (cgroups / group / "memory.swap.max").write_text(limit + "\n")
        demand_no_swap(proc, cgroups)

    return make


@pytest.mark.parametrize("swaps", [None, "", ZRAM])
def test_without_swap_on_a_disk_it_starts(machine, swaps):
    machine(swaps)


@pytest.mark.parametrize("swaps", [DISK, FILE, ZRAM + DISK])
@pytest.mark.parametrize("limits", [{}, {"system.slice": "max", "system.slice/tillsyn-eye.service": "1048576"}])
def test_with_swap_on_a_disk_it_does_not(machine, swaps, limits):
    with pytest.raises(ConfigError, match="swap on"):
        machine(swaps, limits)


@pytest.mark.parametrize("group", ["system.slice", "system.slice/tillsyn-eye.service"])
def test_in_a_group_that_may_not_swap_it_starts(machine, group):
    machine(DISK, {group: "0"})


def test_on_a_machine_without_the_second_version_of_control_groups_a_disk_stays_a_disk(machine, tmp_path):
    with pytest.raises(ConfigError):
        machine(DISK)
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/x\n")
    with pytest.raises(ConfigError):
        demand_no_swap(tmp_path / "proc", tmp_path / "cgroup")
