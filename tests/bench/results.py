"""What was measured: figures with their floors and bounds, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any


@dataclass
class Figure:
    """One measured figure. `line` is the promise it belongs to, `bound` what was promised.

    `samples` and `floors` are the raw values, in `unit`, one of each for a round; `noise` is the
    spread of the floor, which is the machine's. `part` is what `--only` calls it.
    """

    line: str
    name: str
    value: float
    unit: str = ""
    bound: float | None = None
    at_least: bool = False
    samples: Sequence[float] = ()
    floors: Sequence[float] = ()
    note: str = ""
    is_difference: bool = False
    part: str = ""

    @property
    def rounds(self) -> list[float]:
        """The figure of each round by itself, lowest first; empty where there was one alone."""
        if not self.floors:
            return sorted(self.samples)
        pairs = zip(self.samples, self.floors, strict=True)
        if self.is_difference:
            return sorted(sample - floor for sample, floor in pairs)
        return sorted(sample / floor for sample, floor in pairs)

    @property
    def noise(self) -> float:
        """The half of the floor's samples in the middle, as a part of their median."""
        return spread(self.floors or self.samples)

    @property
    def is_met(self) -> bool | None:
        """Whether the bound holds; None where there is none."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def spread(samples: Sequence[float]) -> float:
    """Return the distance of the quartiles as a part of the median; 0 for too few samples."""
    if len(samples) < 4:
        return 0.0
    ordered, middle = sorted(samples), median(samples)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / middle if middle else 0.0


@dataclass
class Report:
    """All figures of one run."""

    figures: list[Figure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, figure: Figure) -> None:
        """Take a figure."""
        self.figures.append(figure)

    def ratio(
        self,
        line: str,
        name: str,
        samples: Sequence[float],
        floors: Sequence[float],
        *,
        bound: float | None = None,
        at_least: bool = False,
        unit: str = "s",
        note: str = "",
    ) -> Figure:
        """Add the ratio of two medians."""
        value = median(samples) / median(floors)
        found = Figure(line, name, value, unit, bound, at_least, samples, floors, note)
        self.add(found)
        return found

    def repeated(self, rounds: Sequence[Report]) -> None:
        """Add the figures of parts that have been measured again and again.

        What is counted, and memory, is that of the worst round, anything else the median of all.
        """
        for found in zip(*(one.figures for one in rounds), strict=True):
            values = [one.value for one in found]
            first = found[0]
            worst = min(values) if first.at_least else max(values)
            value = worst if first.unit in ("", "MiB") else median(values)
            self.add(replace(first, value=value, samples=values))

    def get(self, name: str) -> Figure | None:
        """Return a figure by its name."""
        return next((one for one in self.figures if one.name == name), None)

    def table(self) -> str:
        """Return the figures as lines of text."""
        lines = [
            (
                f"{'line':4} {'what':58} {'figure':>7} {'bound':>7} {'met':>4} {'rounds':>15} "
                f"{'noise':>6}"
            )
        ]
        for one in self.figures:
            bound = "" if one.bound is None else f"{'>=' if one.at_least else '<='}{one.bound:g}"
            met = {None: "", True: "yes", False: "NO"}[one.is_met]
            rounds, noise = spread_of(one), f"{one.noise:.0%}" if one.noise else ""
            lines.append(
                f"{one.line:4} {one.name:58} {number(one.value):>7} {bound:>7} {met:>4} "
                f"{rounds:>15} {noise:>6}"
            )
            detail = _detail(one)
            if detail:
                lines.append(f"     {detail}")
        return "\n".join(lines)

    def document(self) -> str:
        """Return everything as JSON."""
        figures = [
            {**asdict(one), "noise": one.noise, "is_met": one.is_met} for one in self.figures
        ]
        document = {"machine": machine(), "facts": self.facts, "figures": figures}
        return json.dumps(_rounded(document), indent=1) + "\n"

    @classmethod
    def read(cls, document: str) -> Report:
        """Return what `document` has written."""
        told = json.loads(document)
        derived = ("noise", "is_met")
        figures = [
            Figure(**{key: value for key, value in one.items() if key not in derived})
            for one in told["figures"]
        ]
        return cls(figures, {**told["facts"], "machine": told["machine"]})


def number(value: float) -> str:
    """Return a figure in as many digits as it is worth."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def spread_of(one: Figure) -> str:
    """Return the lowest and the highest of a figure's rounds."""
    rounds = one.rounds
    return f"{number(rounds[0])} to {number(rounds[-1])}" if len(rounds) > 1 else ""


def _rounded(value: Any) -> Any:
    """Return a document whose numbers have five digits: what follows is noise."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _detail(one: Figure) -> str:
    parts = []
    if one.samples and one.floors:
        parts.append(f"{median(one.samples):.4g} {one.unit} to {median(one.floors):.4g} {one.unit}")
    if one.note:
        parts.append(one.note)
    return "; ".join(parts)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
