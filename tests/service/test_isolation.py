"""Whoever holds the camera or decides has no network: asked of the kernel, from inside their namespaces.

Mutation that turns it red: leave `self._isolation` empty in services.home (or `isolate = false`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running_bench import bench, run, watching

from gateway.edge.isolation_unshare import isolation

pytestmark = pytest.mark.service

_PROBE = """
import socket, sys
reached = []
for address, port in [a.rsplit(":", 1) for a in sys.argv[1:]]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as s:
            s.settimeout(2)
            try:
                s.connect((address, int(port)))
                reached.append(address)
            except OSError:
                pass
print(" ".join(reached))
"""


def _reached_from(pid: int, targets: list[str]) -> list[str]:
    done = subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "--", sys.executable, "-c", _PROBE, *targets],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


def test_this_machine_can_take_the_network_away():
    assert isolation() is not None, "neither root nor unprivileged user namespaces: the separation can't be shown here"


def test_guard_and_eye_reach_no_ip_address_and_link_does(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home):
            targets = [f"127.0.0.1:{home.home.broker_port}"]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect(("192.0.2.1", 9))
                    targets.append(f"{probe.getsockname()[0]}:{home.home.broker_port}")
                except OSError:
                    pass  # this machine has no address but loopback
            targets += ["192.0.2.1:443", "10.0.0.1:53"]
            pids = home.running.pids()
            ours = os.readlink("/proc/self/ns/net")
            for name in ("guard", "eye"):
                assert os.readlink(f"/proc/{pids[name]}/ns/net") != ours
                assert _reached_from(pids[name], targets) == []
                interfaces = Path(f"/proc/{pids[name]}/net/dev").read_text().splitlines()[2:]
                assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
            assert os.readlink(f"/proc/{pids['guard']}/ns/net") != os.readlink(f"/proc/{pids['eye']}/ns/net")
            # The probe itself works: from the link's place the broker is reached.
            assert "127.0.0.1" in _reached_from(pids["link"], targets)

    run(work())


@pytest.mark.parametrize("service", ["guard", "eye"])
def test_a_service_that_sees_a_network_refuses_to_start(tmp_path: Path, service: str):
    from provisioning import bench_home

    home = bench_home.make(tmp_path / "bench")
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", service, "--config", str(home.home_config.parent / f"{service}.toml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "network in sight" in done.stderr
