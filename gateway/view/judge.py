"""From a second's measures to one word, with hysteresis.

Order of the words: dark, then frozen, because of an old picture nothing else is worth saying; covered before misaimed
and blurred, because without structure neither can be told. The thresholds stand
in a module of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.protocol.picture import Aim, View, ViewSignal
from gateway.view import thresholds
from gateway.view.measure import Measures
from gateway.view.signature import Signature

SLACK: Final = 1.15
"""Who is in a state leaves it only beyond 1.15 times the threshold by which it was entered."""
PATIENCE: Final = 2
"""Seconds in a row that another word must be found before it is said."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said now, and what was found instead for how many seconds."""

    view: View
    signal: ViewSignal
    found: View
    found_for: int = 1


def judge(measures: Measures, before: Judged | None, *, signature: Signature | None, t_us: int) -> Judged:
    """The next word. The first second speaks at once; after that another word needs two seconds in a row."""
    said = None if before is None else before.view
    found = _find(measures, said, signature)
    found_for = before.found_for + 1 if before is not None and before.found is found else 1
    view = found if said is None or found is said or found_for >= PATIENCE else said
    # Of a picture without structure, or an old one, nobody can say where the camera points.
    can_compare = signature is not None and found in (View.CLEAR, View.MISAIMED, View.BLURRED)
    signal = ViewSignal(
        t_us=t_us,
        view=view,
        luma=round(measures.luma, 3),
        contrast=round(measures.contrast, 3),
        sharpness=round(measures.sharpness, 3),
        motion=round(measures.motion, 3),
        aim=Aim.MEASURED if can_compare else Aim.COMMANDED,
    )
    return Judged(view, signal, found, found_for)


def _find(measures: Measures, said: View | None, signature: Signature | None) -> View:
    def below(value: float, threshold: float, view: View) -> bool:
        return value < threshold * (SLACK if said is view else 1.0)

    # Before frozen: black is clipped and has no noise, so a dark picture may stand still without being an old one.
    if below(measures.luma, thresholds.DARK_LUMA, View.DARK):
        return View.DARK
    if below(measures.change, thresholds.FROZEN_CHANGE, View.FROZEN):
        return View.FROZEN
    if below(measures.structure, thresholds.COVERED_STRUCTURE, View.COVERED):
        return View.COVERED
    if signature is not None and below(signature.likeness(measures), thresholds.MISAIMED_LIKENESS, View.MISAIMED):
        return View.MISAIMED
    if below(measures.sharpness, thresholds.BLURRED_SHARPNESS, View.BLURRED):
        return View.BLURRED
    return View.CLEAR
