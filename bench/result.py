"""One line of the table, and the median that stands in it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Side:
    """Repeated measurements of one thing; what counts is the median, what warns is the spread."""

    name: str
    samples: tuple[float, ...]

    @classmethod
    def of(cls, name: str, samples: Sequence[float]) -> Side:
        return cls(name, tuple(samples))

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "median": round(self.median, 4),
            "least": round(min(self.samples), 4),
            "most": round(max(self.samples), 4),
            "rounds": len(self.samples),
            "samples": [round(sample, 4) for sample in self.samples[:MAX_SAMPLES]],
        }


@dataclass(frozen=True, slots=True)
class Result:
    """Ours against what stands beside it. `aim` is the largest ratio that we want, where we want one."""

    topic: str
    unit: str
    ours: Side
    beside: Side | None = None
    aim: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ratio of the two medians."""
        return None if self.beside is None or not self.beside.median else self.ours.median / self.beside.median

    def json(self) -> dict[str, Any]:
        return {
            **{key: value for key, value in asdict(self).items() if key in ("topic", "unit", "aim", "note")},
            "ours": self.ours.json(),
            "beside": None if self.beside is None else self.beside.json(),
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "met": None if self.ratio is None or self.aim is None else self.ratio <= self.aim,
        }


def table(results: Sequence[Result]) -> str:
    """The results as text; a ratio above its aim is marked."""
    lines = []
    topic = ""
    for result in results:
        if result.topic != topic:
            topic = result.topic
            lines += ["", topic]
        words = f"  {result.ours.name:<44} {_span(result.ours):>26} {result.unit:<9}"
        if result.beside is not None and result.ratio is not None:
            aim = (
                ""
                if result.aim is None
                else f" (aim ≤ {result.aim:g}{'' if result.ratio <= result.aim else ': MISSED'})"
            )
            words += f" {_span(result.beside):>26} {result.beside.name:<34} ratio {result.ratio:.2f}{aim}"
        lines.append(words.rstrip())
        if result.note:
            lines.append(f"      {result.note}")
    return "\n".join(lines)


def _span(side: Side) -> str:
    if len(side.samples) == 1:
        return f"{side.median:.4g}"
    return f"{side.median:.4g} [{min(side.samples):.4g}, {max(side.samples):.4g}]"
