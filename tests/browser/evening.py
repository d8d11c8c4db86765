"""The whole evening as docs/installer.md tells it, played by an installer with a phone and the people at the centre."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from installer import Installer

STEPS = ("contact", "network", "line", "enrol", "compare", "inform", "consent", "receipt", "aim", "check", "alarm",
         "protocol", "done")  # fmt: skip


@dataclass
class Clock:
    """When each step was over, in seconds from the first page."""

    began_s: float = field(default_factory=time.monotonic)
    marks: list[tuple[str, float]] = field(default_factory=list)

    def mark(self, step: str) -> None:
        self.marks.append((step, time.monotonic() - self.began_s))

    def in_words(self) -> str:
        before, words = 0.0, []
        for step, at_s in self.marks:
            words.append(f"{step} {at_s - before:.1f}")
            before = at_s
        return f"{before:.1f} s from the first page to the signed protocol: " + ", ".join(words)


async def whole(one: Installer, clock: Clock) -> None:
    """From the first page to a device that is set up, with the port closed."""
    await one.enter()
    await one.at("network")
    clock.mark("contact")
    await from_network(one, clock)
    await from_check(one, clock)


async def from_network(one: Installer, clock: Clock) -> None:
    """Up to the ticks."""
    await one.join()
    await one.at("line", 30.0)
    clock.mark("network")
    await one.test_line()
    await one.press("go-on")
    await one.at("enrol")
    clock.mark("line")
    await one.enrol()
    await one.at("compare")
    await one.compare()
    await one.at("inform", 40.0)
    clock.mark("enrolment")
    await one.inform()
    await one.at("consent")
    await one.consent()
    await one.at("receipt")
    await one.receipt()
    await one.at("aim")
    clock.mark("papers")
    await one.aim()
    await one.tick()
    await one.at("check")
    clock.mark("aim")


async def from_check(one: Installer, clock: Clock) -> None:
    """The acceptance, and the end."""
    running = one.running
    await running.agree()
    await running.make_check()
    await one.at("alarm")
    clock.mark("check")
    await one.press("alarm")
    await running.answer_alarm()
    await one.at("protocol")
    clock.mark("alarm")
    await one.press("sign")
    await one.page.wait_for_selector('form[action="/do/send"]')
    await one.look("signed")
    await one.press("send")
    await one.at("done")
    clock.mark("protocol")
