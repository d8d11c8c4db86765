"""From Start to the first decoded frame, through the whole system and through a bare aiortc session.

How the mount is counted apart. A frame leaves once the mount has arrived and the path is up; the longer of the two is
what the operator waits for. So a check is timed with two mounts: the default and the quickest that a
calibration allows (0.23 s). From both the time is taken away in which the path was up and the mount was not yet there
(`Timeline.without_mount_s`); what is left is compared, and the default mount, which is what homes have, is only the
cross-check: less is taken away with the quick one, so the aim stands there. The two should agree. Where they don't, the
machine was busy with something else. Measured are the mount's arrival at the bench's pins (20 ms steps) and the
operator's own connection; that the camera gives pictures before either is assumed, and counts against us if it is not.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from bench import child
from bench.clip import Clip
from bench.result import Result, Side
from bench.session import QUICK_MOUNT, System, Timeline, bare, system
from gateway.mount.calibration import Calibration
from gateway.mount.profile import Profile

TOPIC = "1  Start → first decoded frame"
AIM = 1.3


async def measure(directory: Path, clip: Clip, *, rounds: int) -> list[Result]:
    film = f"file:{clip.mp4}"
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(child.running("bench.bare_sender", str(clip.ts)))
        systems = {
            name: await stack.enter_async_context(system(directory / name, camera, mount))
            for name, camera, mount in (
                ("film-default", film, None),
                ("film-quick", film, QUICK_MOUNT),
                ("room-quick", "room", QUICK_MOUNT),
            )
        }
        seen: dict[str, list[Timeline]] = {"bare": [], **{name: [] for name in systems}}
        await _bare(sender)  # the receiving end's own first time
        for _ in range(rounds):
            for name, home in systems.items():
                seen["bare"].append(await _bare(sender))
                seen[name].append(await _check(home))
    return _results(seen)


async def _check(home: System) -> Timeline:
    look, timeline = await home.open()
    await home.close(look)
    return timeline


async def _bare(sender: child.Child) -> Timeline:
    async with bare(sender, decode=False) as look:
        return look.timeline


def _results(seen: dict[str, list[Timeline]]) -> list[Result]:
    beside = Side.of("bare aiortc, same film", [1000.0 * timeline.frame_s for timeline in seen["bare"]])
    quick, default, room = seen["film-quick"], seen["film-default"], seen["room-quick"]

    def rest(name: str, timelines: list[Timeline], aim: float | None = None, note: str = "") -> Result:
        return Result(
            TOPIC, "ms", Side.of(name, [1000.0 * t.without_mount_s for t in timelines]), beside, aim=aim, note=note
        )

    results = [
        rest("film, without the mount (quick mount)", quick, AIM, _steps(quick, seen["bare"])),
        rest("film, without the mount (default mount)", default),
        rest("room (libx264), without the mount (quick)", room),
        Result(TOPIC, "ms", Side.of("film, in all, default mount", [1000.0 * t.frame_s for t in default])),
        Result(TOPIC, "ms", Side.of("film, in all, quick mount", [1000.0 * t.frame_s for t in quick])),
    ]
    for name, timelines, limits in (
        ("default", default, Calibration()),
        ("quick", quick, Calibration(**QUICK_MOUNT)),
    ):
        planned = Profile(limits.parked_deg, limits.aim_deg, limits.max_speed_deg_s, limits.max_accel_deg_s2)
        arrived = [1000.0 * t.mount_s for t in timelines if t.mount_s is not None]
        if arrived:
            results.append(
                Result(
                    TOPIC,
                    "ms",
                    Side.of(f"the {name} mount's arrival", arrived),
                    Side.of("its profile", [1000.0 * planned.duration_s]),
                )
            )
    return results


def _steps(ours: list[Timeline], beside: list[Timeline]) -> str:
    words = []
    for label, of in (("ours", ours), ("bare", beside)):
        offer, answer, connected, frame = (
            Side.of(name, [1000.0 * getattr(t, name) for t in of]).median
            for name in ("offer_s", "answer_s", "connected_s", "frame_s")
        )
        words.append(f"{label}: offer {offer:.0f}, answer {answer:.0f}, connected {connected:.0f}, frame {frame:.0f}")
    return "medians in ms after Start; " + "; ".join(words)
