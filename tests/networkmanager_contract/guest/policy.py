"""Runs in the namespace, with a cable at whose far end nobody gives addresses: who of our users the bus lets through to
NetworkManager and to Avahi (systemd/dbus, systemd/networkmanager).

Mutations, each tried and red: `auth-polkit=root-only`; the link's part out of tillsyn-setup.conf; Avahi out of set-up's
part of it.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys

from provisioning.wizard.name_dbus import announce
from provisioning.wizard.network_dbus import NetworkError, NmNetwork

PATIENCE_S = 240.0
MAY = "no-address, announced"
"""It was let try, and found nobody who gives addresses."""
MAY_NOT = "refused, not announced"
EXPECTED = {
    "tillsyn-setup": MAY,
    **dict.fromkeys(("tillsyn-guard", "tillsyn-eye", "tillsyn-link", "tillsyn-upkeep"), MAY_NOT),
}


async def tried() -> str:
    """What somebody who is this process's user may do."""
    network = NmNetwork(cables=(20,))
    try:
        got = str((await network.join_cable()).value)
    except NetworkError:
        got = "refused"
    finally:
        await network.close()
    return f"{got}, {'announced' if await announce('gw-policy') else 'not announced'}"


def found(user: str) -> str:
    words = [sys.executable, __file__, user]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout.strip()


if user := " ".join(sys.argv[1:]):
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    print(asyncio.run(tried()))
else:
    got = {user: found(user) for user in EXPECTED}
    print(f"case the-bus-lets-set-up-through-alone: {'held' if got == EXPECTED else f'FAILED {got}'}")
    sys.exit(got != EXPECTED)
