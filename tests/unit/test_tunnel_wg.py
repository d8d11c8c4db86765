"""WireGuard by its tools: what is said when the kernel's own can't be had.

Mutation that turns it red, tried: the warning without the complaint.
"""

from __future__ import annotations

import asyncio

import pytest

from gateway.edge.tunnel_port import TunnelError
from gateway.edge.tunnel_wg import WgTunnel
from gateway.protocol.message import TunnelSettings
from gateway.protocol.tunnel_key import new_private_key, public_key

REFUSES = ("sh", "-c", "echo 'Error: the device is busy.' >&2; exit 2", "sh")
"""Words before each command that let none of them run."""


def test_why_the_kernels_own_was_not_made_is_said(caplog):
    # It may be no more than a command that took too long; without the reason it reads as a kernel that can't.
    settings = TunnelSettings(
        1, "10.90.128.17", ["10.90.0.1"], public_key(new_private_key()), "centre.example", 51820, 1280
    )
    with pytest.raises(TunnelError):
        asyncio.run(WgTunnel("tillsyn9", before=REFUSES).apply(settings, new_private_key()))
    assert "the device is busy" in caplog.text
