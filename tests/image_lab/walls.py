"""What each service's sandbox stops, tried inside the booted image.

A copy of the unit, made on the spot, starts a program in the same walls; it tries what must not be possible and prints
what was. The same program as root is the control: it must be able to.
"""

from __future__ import annotations

import json

from tests.image_lab.machine import Machine

SERVICES = ("guard", "eye", "link", "park", "tunnel")
PROGRAM = r"""
import errno, json, os, socket, sys
own = sys.argv[1]
could = []
def attempt(name, act):
    try:
        act()
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            could.append("absent:" + name)
    else:
        could.append(name)
def opens(path, flags=os.O_RDWR):
    os.close(os.open(path, flags))
def writes(folder):
    path = folder + "/walls-probe"
    opens(path, os.O_RDWR | os.O_CREAT)
    os.unlink(path)
attempt("ip-socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close())
attempt("ip6-socket", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close())
attempt("packet-socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
attempt("camera", lambda: opens("/dev/video0"))
attempt("firmware-mailbox", lambda: opens("/dev/vcio"))
attempt("disk", lambda: opens("/dev/vda", os.O_RDONLY))
attempt("memory", lambda: opens("/dev/mem", os.O_RDONLY))
attempt("pwm", lambda: opens("/run/walls/pwm"))
for name in ("secret", "guard", "link", "tunnel"):
    attempt("read-" + name, lambda: os.listdir("/var/lib/tillsyn/" + name))
for folder in ("/etc", "/usr", "/var/lib/tillsyn", "/var/lib/tillsyn/config", "/var/log", "/run", "/opt", "/dev/shm",
               "/var/lib/tillsyn/guard", "/var/lib/tillsyn/link", "/var/lib/tillsyn/tunnel"):
    attempt("write-" + folder, lambda: writes(folder))
attempt("namespace", lambda: os.unshare(os.CLONE_NEWUSER) if hasattr(os, "unshare") else opens("/nonexistent"))
print("WALLS " + json.dumps(could))
"""
PLACE = "/run/systemd/system"
LEFT_OUT = (
    "#|Exec|Restart|Type=|Requires=|Wants=|After=|Before=|Conflicts=|OnFailure|Watchdog|Condition|StartLimit|NotifyAccess"
    "|RemainAfterExit|LogNamespace|LoadCredential|WantedBy|DefaultDependencies|Documentation|Timeout|PartOf"
)
ALLOWED: dict[str, set[str]] = {
    "guard": {"read-guard", "write-/var/lib/tillsyn/guard", "pwm"},
    "eye": {"camera"},
    "link": {"ip-socket", "ip6-socket", "read-link", "write-/var/lib/tillsyn/link"},
    "park": {"pwm"},
    "tunnel": {"ip-socket", "ip6-socket", "read-tunnel", "write-/var/lib/tillsyn/tunnel"},
}
CONTROL = {"ip-socket", "packet-socket", "camera", "disk", "read-secret", "read-guard", "read-link", "write-/run",
           "write-/var/lib/tillsyn", "write-/var/lib/tillsyn/config", "write-/var/lib/tillsyn/guard"}  # fmt: skip


async def figures(machine: Machine) -> list[str]:
    """`systemd-analyze security` inside the image, for each service."""
    units = " ".join(f"tillsyn-{name}.service" for name in SERVICES)
    said = await machine.order(
        f"for unit in {units}; do systemd-analyze security --no-pager $unit | grep -i 'overall exposure'; done; true",
        limit_s=300.0,
    )
    return [line.replace("→ Overall exposure level for", "").strip() for line in said.splitlines()]


async def tried(machine: Machine) -> list[str]:
    """One line for each service. Raises AssertionError for a hole in a wall, or a control that can't."""
    await machine.order(
        f"modprobe vivid n_devs=1 2>/dev/null; udevadm settle --timeout=60; mkdir -p /run/walls {PLACE}; true"
    )
    await machine.order("install -m 0660 -g tillsyn-pins /dev/null /run/walls/pwm")
    await machine.order(f"cat >/run/walls/try.py <<'END-OF-PROGRAM'\n{PROGRAM}\nEND-OF-PROGRAM")
    control = set(_told(await machine.order("python3 -I /run/walls/try.py root", limit_s=180.0)))
    missing = CONTROL - control
    assert not missing, f"the control could not {sorted(missing)}: {sorted(control)}"
    lines = [f"walls: root could {len(control)} of what is tried"]
    for name in SERVICES:
        unit = f"walls-{name}.service"
        # The real unit with all its drop-ins; only what is started and how it is started again is another.
        await machine.order(
            f"systemctl cat tillsyn-{name}.service | grep -vE '^({LEFT_OUT})' >{PLACE}/{unit};"
            f"printf '[Service]\\nType=oneshot\\nStandardOutput=file:/run/walls/{name}.txt\\n"
            f"ExecStart=/usr/bin/python3 -I /run/walls/try.py {name}\\n' >>{PLACE}/{unit}; systemctl daemon-reload",
            limit_s=180.0,
        )
        await machine.try_order(f"systemctl start {unit}", limit_s=180.0)
        could = set(_told(await machine.order(f"cat /run/walls/{name}.txt", limit_s=60.0)))
        holes = {word for word in could if not word.startswith("absent:")} - ALLOWED[name]
        lost = ALLOWED[name] - could
        assert not holes, f"tillsyn-{name} could {sorted(holes)}"
        assert not lost, f"tillsyn-{name} could not {sorted(lost)}: the trial is no trial of its walls"
        lines.append(f"walls: tillsyn-{name} could {', '.join(sorted(ALLOWED[name]))}; nothing else")
    await machine.order(f"rm -rf {PLACE}/walls-*.service /run/walls; systemctl daemon-reload", limit_s=180.0)
    await machine.order("systemctl reset-failed 'walls-*'; modprobe -r vivid; true", limit_s=180.0)
    return lines


def _told(said: str) -> list[str]:
    line = next(line for line in said.splitlines() if line.startswith("WALLS "))
    return list(json.loads(line.removeprefix("WALLS ")))
