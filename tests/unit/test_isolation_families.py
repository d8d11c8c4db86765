"""Guard and eye start under RestrictAddressFamilies=AF_UNIX, where no interface can even be listed.

Mutations tried, each turns a test here red:
  edge/service_systemd.py, `demand_isolation`: leave out `if not _network_families(): return`  -> the first
  edge/service_systemd.py, `_network_families`: EMFILE counts as denied                       -> the second
"""

from __future__ import annotations

import subprocess
import sys

import pytest

FILTER = """
import ctypes, errno, platform, struct
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
# socket(2): its first argument is AF_UNIX (1), or the call fails as systemd lets it fail.
program = [
    (0x20, 0, 0, 0),                            # the call's number
    (0x15, 0, 3, number),                       # is it socket?
    (0x20, 0, 0, 16),                           # its first argument
    (0x15, 1, 0, 1),                            # is it AF_UNIX?
    (0x06, 0, 0, 0x00050000 | errno.EAFNOSUPPORT),
    (0x06, 0, 0, 0x7FFF0000),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0, ctypes.get_errno()
"""
DEMAND = """
from gateway.edge.service_systemd import demand_isolation
demand_isolation()
print("isolated")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_process_that_may_open_no_network_socket_is_isolated():
    done = run(FILTER + DEMAND)
    assert done.stdout.strip() == "isolated", done.stderr


@pytest.mark.slow
def test_a_process_that_merely_has_no_descriptor_left_is_not():
    imported = "import asyncio, ctypes, socket, resource\nimport gateway.edge.service_systemd\n"
    exhausted = "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
    done = run(imported + exhausted + DEMAND)
    assert "isolated" not in done.stdout
    assert done.returncode != 0
