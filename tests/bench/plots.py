"""The figures as two small SVG files, each a row of bars against their bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from tests.bench.results import Figure, Report

WIDTH: Final = 760
ROW: Final = 30
LABEL: Final = 400
_FONT: Final = "font-family='system-ui, sans-serif' font-size='13'"
_GOOD, _BAD, _PLAIN = "#2f7d4f", "#b3402e", "#5a6b7b"


def bars(title: str, figures: list[Figure]) -> str:
    """Return an SVG: for each figure a bar as long as the part of its bound that it takes.

    The line is the bound; a bar that has to stay below it is good when it ends before the line, one
    that has to reach it when it passes it.
    """
    scale = (WIDTH - LABEL - 70) / 1.6
    bound = LABEL + scale
    height = 44 + ROW * len(figures)
    lines = [
        (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' "
            f"viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{escape(title)}'>"
        ),
        "<rect width='100%' height='100%' fill='white'/>",
        f"<text x='12' y='22' {_FONT} font-weight='600' fill='#222'>{escape(title)}</text>",
    ]
    for number, one in enumerate(figures):
        y = 36 + ROW * number
        part = one.value / one.bound if one.bound else 1.0
        colour = _PLAIN if one.is_met is None else _GOOD if one.is_met else _BAD
        length = max(2.0, min(part, 1.55) * scale)
        sign = "≥" if one.at_least else "≤"
        value = f"{one.value:.2f}" if one.value < 100 else f"{one.value:.0f}"
        told = value if one.bound is None else f"{value} ({sign} {one.bound:g})"
        lines += [
            (
                f"<text x='{LABEL - 10}' y='{y + 16}' {_FONT} fill='#222' text-anchor='end'>"
                f"{escape(one.name)}</text>"
            ),
            (
                f"<rect x='{LABEL}' y='{y + 3}' width='{length:.1f}' height='18' rx='2' "
                f"fill='{colour}'/>"
            ),
            f"<text x='{LABEL + length + 6:.1f}' y='{y + 16}' {_FONT} fill='#222'>{told}</text>",
        ]
    lines += [
        (
            f"<line x1='{bound:.1f}' x2='{bound:.1f}' y1='32' y2='{height - 6}' stroke='#222' "
            "stroke-dasharray='4 3'/>"
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def write(report: Report, directory: Path) -> None:
    """Write `less_is_better.svg` and `more_is_better.svg`."""
    directory.mkdir(parents=True, exist_ok=True)
    bounded = [one for one in report.figures if one.bound]
    for name, at_least, title in (
        ("less_is_better", False, "At most the bound (dashed)"),
        ("more_is_better", True, "At least the bound (dashed)"),
    ):
        chosen = [one for one in bounded if one.at_least is at_least]
        text = bars(title, chosen)
        (directory / f"{name}.svg").write_text(text, encoding="utf-8")
