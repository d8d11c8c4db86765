"""What systemd and a service say to one another: readiness, watchdog, passed sockets. Also the process's own walls.

The protocol is a datagram to NOTIFY_SOCKET and descriptors from 3 on; it needs no library, so the service also runs
where systemd-python isn't installed. Source: sd_notify(3), sd_listen_fds(3), prctl(2).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import resource
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from gateway.core.error import ConfigError

_LISTEN_FDS_START: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_PDEATHSIG: Final = 1


def notify(text: str) -> None:
    """Send one state line; does nothing where nobody listens. Never raises: a lost word is the watchdog's to notice."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(text.encode(), address)
        except OSError:
            return


def watchdog_interval_s() -> float | None:
    """Half of what systemd allows between two signs of life, or None where no watchdog is set."""
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 2_000_000 if usec and usec.isdigit() else None


async def feed_watchdog() -> None:
    """Say READY once, then a sign of life from the event loop itself: a stalled loop is a dead service."""
    notify("READY=1")
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(min(interval_s, 1.0))


def run_until_signal(service: Coroutine[Any, Any, None]) -> None:
    """Run a service until SIGTERM or SIGINT, which cancel it so that its `finally` runs. Raises what it raises."""

    async def run() -> None:
        task = asyncio.ensure_future(service)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            notify("STOPPING=1")

    asyncio.run(run())


def listening_socket(path: Path) -> socket.socket:
    """The socket that systemd passed, else one bound to `path` (mode 0600). Raises ConfigError when that fails."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        passed = socket.socket(fileno=_LISTEN_FDS_START)
        passed.set_inheritable(False)
        passed.setblocking(False)
        return passed
    return bound_socket(path, 0o600)


def bound_socket(path: Path, mode: int) -> socket.socket:
    """A listening socket of our own at `path` with `mode`. Raises ConfigError when that fails."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        old = os.umask(0o777 & ~mode)
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
        sock.listen(4)
    except OSError as exc:
        sock.close()
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    sock.setblocking(False)
    return sock


def harden() -> None:
    """No core dump, no reading of this process's memory by its user: a frame must not reach storage that way."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def demand_no_swap(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
    """Raises ConfigError where this process's memory could be written to a disk as swap.

    Without swap, with swap in compressed memory only (zram), or in a control group that may not swap, it can't.
    mlockall would need a privilege, or an unlimited RLIMIT_MEMLOCK, that nothing else here needs. Source: proc(5),
    cgroup-v2 `memory.swap.max`, MemorySwapMax= in systemd.resource-control(5).
    """
    try:
        lines = (proc / "swaps").read_text().splitlines()[1:]
    except FileNotFoundError:
        # A kernel without swap; or ProcSubset=pid hides it, as in the eye's unit, which has MemorySwapMax=0 itself.
        return
    disks = [line.split()[0] for line in lines if line.strip() and not line.startswith("/dev/zram")]
    if not disks or _may_not_swap(proc, cgroups):
        return
    raise ConfigError(
        f"swap on {', '.join(disks)}: a picture could be written there. Switch it off (swapoff -a), start this service "
        "with MemorySwapMax=0, or set may_swap = true to try things out."
    )


def _may_not_swap(proc: Path, cgroups: Path) -> bool:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        # A limit above us holds for us too.
        groups = [cgroups / own, *(cgroups / own).parents]
        limits = [group / "memory.swap.max" for group in groups if group.is_relative_to(cgroups)]
        return any(limit.is_file() and limit.read_text().strip() == "0" for limit in limits)
    except (OSError, StopIteration):
        return False


def die_with_parent() -> None:
    """SIGTERM when the parent dies; for the stand-in supervisor, whose children must not outlive it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 15, 0, 0, 0)


def demand_isolation() -> None:
    """Raises ConfigError unless no network can be reached from this process.

    Either it may open no socket of a network family at all (RestrictAddressFamilies=AF_UNIX; systemd's PrivateNetwork=
    leaves the loopback up, so its being down can't be asked for there), or it is alone in its network namespace with a
    loopback that is down. Source: systemd.exec(5), network_namespaces(7).
    """
    if not _network_families():
        return
    interfaces = sorted(name for _, name in socket.if_nameindex())
    up = [name for name in interfaces if name != "lo" or _is_up(name)]
    if up:
        raise ConfigError(
            f"network in sight ({', '.join(up)}), but this service must have none. Start it with PrivateNetwork=yes, "
            "or under `unshare --net`; set demand_isolation = false only to try things out."
        )


def _network_families() -> list[socket.AddressFamily]:
    """Families besides AF_UNIX of which this process may open a socket, as far as the kernel tells."""
    allowed = []
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
        kind = socket.SOCK_RAW if family is socket.AF_NETLINK else socket.SOCK_DGRAM
        try:
            socket.socket(family, kind).close()
        except OSError as exc:
            # Anything else, such as no descriptor left, is no promise that it stays impossible.
            if exc.errno not in {errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES}:
                allowed.append(family)
        else:
            allowed.append(family)
    return allowed


def _is_up(name: str) -> bool:
    try:
        flags = int((Path("/sys/class/net") / name / "flags").read_text(), 16)
    except OSError:
        # sysfs may show another namespace's interfaces; then ask the kernel through the socket's own namespace.
        return _can_bind_loopback()
    return bool(flags & 1) and _can_bind_loopback()


def _can_bind_loopback() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 9))
        except OSError:
            return False
        return True
