"""The page docs/view-signals.md: thresholds chosen on one half of the scenes, and what they do on the other.

`python tests/unit/view_table.py` writes it and prints the thresholds that gateway/view/judge.py must have.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from view_scenes import EACH, HEIGHT_PX, NOISES, PLANES_A_SECOND, WIDTH_PX, Scene, scenes

from gateway.protocol.picture import View
from gateway.view import Judged, Measures, Signature, judge, measure
from gateway.view import thresholds as judging

PAGE = Path(__file__).parents[2] / "docs" / "view-signals.md"

RULES: tuple[tuple[str, View, str], ...] = (
    ("DARK_LUMA", View.DARK, "luma"),
    ("FROZEN_CHANGE", View.FROZEN, "change"),
    ("COVERED_STRUCTURE", View.COVERED, "structure"),
    ("MISAIMED_LIKENESS", View.MISAIMED, "likeness"),
    ("BLURRED_SHARPNESS", View.BLURRED, "sharpness"),
)
"""In the order of `judge`: each constant, the word it stands for, and the measure that lies below it."""


@dataclass(frozen=True)
class Seen:
    """A scene's seconds, measured."""

    name: str
    view: View
    seconds: list[Measures]
    signature: Signature

    def values(self, name: str) -> list[float]:
        if name == "likeness":
            return [self.signature.likeness(second) for second in self.seconds]
        return [getattr(second, name) for second in self.seconds]


def look(all_scenes: Iterable[Scene]) -> list[Seen]:
    seen = []
    for scene in all_scenes:
        seconds = [
            measure(scene.planes[start : start + PLANES_A_SECOND])
            for start in range(0, len(scene.planes), PLANES_A_SECOND)
        ]
        seen.append(Seen(scene.name, scene.view, seconds, Signature.of(measure(scene.calibration))))
    return seen


def halves(seen: Sequence[Seen]) -> tuple[list[Seen], list[Seen]]:
    """Every other one of each word: those to choose by, and those to report."""
    chosen_by, reported, count = [], [], Counter[View]()
    for one in seen:
        (reported if count[one.view] % 2 else chosen_by).append(one)
        count[one.view] += 1
    return chosen_by, reported


def choose(seen: Sequence[Seen]) -> dict[str, float]:
    """For each rule in turn the threshold with the fewest mistakes, in the middle of the widest gap (by ratio).

    Scenes that an earlier rule is for are out of a later one's way. Two significant digits.
    """
    left, thresholds = list(seen), {}
    for constant, view, name in RULES:
        values = sorted((value, one.view is view) for one in left for value in one.values(name))
        wrong = sum(is_it for _, is_it in values)
        best = (math.inf, 0.0, 0.0)
        for (low, is_it), (high, _) in itertools.pairwise(values):
            wrong += -1 if is_it else 1
            middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
            best = min(best, (wrong, -_width(low, high), middle))
        thresholds[constant] = float(f"{best[2]:.2g}")
        left = [one for one in left if one.view is not view]
    return thresholds


def _width(low: float, high: float) -> float:
    return high / low if low > 0 else high - low


def word(one: Seen) -> View:
    """What is said at the end of the scene."""
    judged: Judged | None = None
    for number, second in enumerate(one.seconds):
        judged = judge(second, judged, signature=one.signature, t_us=number * 1_000_000)
    assert judged is not None
    return judged.view


def page(seen: Sequence[Seen]) -> str:
    chosen_by, reported = halves(seen)
    said = [(one, word(one)) for one in reported]
    count = Counter(one.view for one in seen)
    lines = [
        "# View signals: how often the words are right",
        "",
        "Made by `python tests/unit/view_table.py`; `tests/unit/test_view_table.py` compares it. Do not edit by hand.",
        "",
        f"{len(seen)} scenes of 4 s, {len(seen) - 9} drawn at random (`tests/unit/view_scenes.py`) and 9 of the demo's",
        f"bedroom: {', '.join(f'{number} {view}' for view, number in count.items())}.",
        f"Sensor noise of {NOISES[0]:g} to {NOISES[-1]:g} grey levels, with and without somebody in bed, the bed used",
        f"and furniture moved since the calibration; {WIDTH_PX} x {HEIGHT_PX} pixels. Every other scene of a word",
        "chose the thresholds, the rest are reported here, as said after the fourth second.",
        "",
        "**They are drawings.** What they show is that the words follow the picture over noise, light and rooms. How",
        "often a real camera in a real bedroom is called something that it isn't was not measured.",
        "",
        "| word | scenes | said | right | precision | recall |",
        "|---|---|---|---|---|---|",
    ]
    for view in EACH:
        there = sum(one.view is view for one, _ in said)
        spoken = sum(one_word is view for _, one_word in said)
        right = sum(one.view is view is one_word for one, one_word in said)
        lines.append(f"| {view} | {there} | {spoken} | {right} | {_share(right, spoken)} | {_share(right, there)} |")
    lines += ["", "| threshold | value | word when the measure is below it |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {value:g} | {_view(name)}: {_measure(name)} |" for name, value in choose(chosen_by).items()
    ]
    lines += ["", "Wrong:", ""]
    wrong = [f"- {one.name}: called {one_word}" for one, one_word in said if one_word is not one.view]
    lines += wrong or ["- none"]
    lines += [
        "",
        "What each measure is, and what the words can't tell apart:",
        "",
        "- An opaque cover that lets no light in looks like a room without light: it is called dark.",
        "- A blur of less than a hundredth of the picture's width is called clear; a person can still be seen in it.",
        "- A camera that turned by less than a tenth of the picture's width may be called clear.",
        "- A room that was refurnished since the calibration may be called misaimed, until it is calibrated again.",
        "- Fog so thick that the contrast goes is called covered.",
        "",
    ]
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


def _view(constant: str) -> View:
    return next(view for name, view, _ in RULES if name == constant)


def _measure(constant: str) -> str:
    return next(measured for name, _, measured in RULES if name == constant)


def main() -> None:
    seen = look(scenes())
    for name, value in choose(halves(seen)[0]).items():
        print(f"{name}: Final = {value:g}   (now {getattr(judging, name):g})")
    PAGE.write_text(page(seen))


if __name__ == "__main__":
    main()
