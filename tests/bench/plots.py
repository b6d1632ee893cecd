"""The figures as small SVG files: what was promised, a long list, and small reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final
from xml.sax.saxutils import escape

from tests.bench.results import Figure, Report, number

WIDTH: Final = 760
ROW: Final = 26
_LABEL: Final = 372
_TOP: Final = 40
# Room for what stands behind the longest bar.
_AFTER: Final = 130
_FONT: Final = "font-family='system-ui, sans-serif' font-size='13'"
_GOOD, _BAD, _OURS, _OTHERS = "#2f7d4f", "#b3402e", "#2f6f9f", "#9aa5b1"


@dataclass(frozen=True)
class Bar:
    """One bar: its label, what it stands for, what is written behind it, and its colour."""

    label: str
    value: float
    told: str
    colour: str
    lowest: float
    highest: float


def svg(title: str, bars: Sequence[Bar], *, bound: float | None = None) -> str:
    """Return a plot of bars from 0 on, each with a line from its lowest to its highest round.

    `bound` is where a dashed line stands.
    """
    longest = max([bar.highest for bar in bars] + ([] if bound is None else [bound * 1.1]))
    scale = (WIDTH - _LABEL - _AFTER) / longest
    height = _TOP + ROW * len(bars) + 8
    lines = [
        (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' "
            f"viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{escape(title)}'>"
        ),
        "<rect width='100%' height='100%' fill='white'/>",
        _text(12, 22, title, "font-weight='600'"),
    ]
    for place, bar in enumerate(bars):
        lines += _bar(bar, _TOP + ROW * place, scale)
    if bound is not None:
        x = f"{_LABEL + bound * scale:.1f}"
        lines.append(
            f"<line x1='{x}' x2='{x}' y1='{_TOP - 6}' y2='{height - 6}' stroke='#222' "
            "stroke-dasharray='4 3'/>"
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    length = max(2.0, bar.value * scale)
    low, high = (f"{_LABEL + each * scale:.1f}" for each in (bar.lowest, bar.highest))
    behind = _LABEL + max(bar.value, bar.highest) * scale + 8
    return [
        _text(_LABEL - 10, y + 15, bar.label, "text-anchor='end'"),
        (
            f"<rect x='{_LABEL}' y='{y + 2}' width='{length:.1f}' height='18' rx='2' "
            f"fill='{bar.colour}'/>"
        ),
        f"<line x1='{low}' x2='{high}' y1='{y + 11}' y2='{y + 11}' stroke='#222'/>",
        _text(behind, y + 15, bar.told),
    ]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y}' {_FONT} fill='#222' {more}>{escape(text)}</text>"


def promises(report: Report) -> str:
    """Return all figures that have a bound, each as the part of its bound that it takes."""
    return svg(
        "Each promise as a part of its bound (dashed): shorter is better",
        [_promise(one) for one in report.figures if one.bound],
        bound=1.0,
    )


def _promise(one: Figure) -> Bar:
    bound = one.bound or 1.0

    def part(value: float) -> float:
        # Of what has to reach its bound the inverse is drawn; cut where it leaves the plot.
        return min(2.0, max(0.0, bound / value if one.at_least and value else value / bound))

    ends = sorted(map(part, (one.rounds or [one.value])))
    sign = "≥" if one.at_least else "≤"
    told = f"{number(one.value)} ({sign} {bound:g})"
    colour = _GOOD if one.is_met else _BAD
    return Bar(one.name, part(one.value), told, colour, ends[0], ends[-1])


def long_list(report: Report) -> str:
    """Return how long a list of 100,000 splits takes, by each way to get it."""
    shown = {
        "asyncpg, a cursor": ("asyncpg cursor", "floors"),
        "bare grpc.aio, the same bytes": ("echo of the same bytes", "floors"),
        'psql -c "COPY (...) TO STDOUT"': ("/ COPY", "floors"),
        "a node": ("/ COPY", "samples"),
        "the routing client": ("routing client / direct", "samples"),
        "the router, and a node": ("router / direct", "samples"),
        "Envoy, and a node": ("Envoy / direct", "samples"),
    }
    return svg(
        "A list of 100,000 splits of 1.2 KB, seconds: shorter is better",
        _raw(report, "list of", shown, ours=("a node", "the rout")),
    )


def small_reads(report: Report) -> str:
    """Return how many small reads are served in a second."""
    shown = {
        "bare grpc.aio, as many bytes": ("IndexMetadata: calls/s of a node", "floors"),
        "a node": ("IndexMetadata: calls/s of a node", "samples"),
        "the router, and a node": ("small reads/s through router", "samples"),
        "a bare grpc.aio proxy, and a node": ("small reads/s through bare grpc.aio", "samples"),
        "Envoy, and a node": ("small reads/s through Envoy", "samples"),
    }
    return svg(
        "IndexMetadata, calls per second of 16 callers: longer is better",
        _raw(report, "", shown, ours=("a node", "the router")),
    )


def _raw(
    report: Report, begins: str, shown: Mapping[str, tuple[str, str]], *, ours: tuple[str, ...]
) -> list[Bar]:
    """Return bars of raw samples; a figure that was not measured has none."""
    bars = []
    for label, (wanted, which) in shown.items():
        found = [
            one
            for one in report.figures
            if one.name.startswith(begins) and wanted in one.name and getattr(one, which)
        ]
        if not found:
            continue
        values = getattr(found[0], which)
        middle = median(values)
        colour = _OURS if label.startswith(ours) else _OTHERS
        bars.append(Bar(label, middle, number(middle), colour, min(values), max(values)))
    return bars


PLOTS: Final = {
    "promises": promises,
    "long_list": long_list,
    "small_reads": small_reads,
}


def write(report: Report, directory: Path) -> None:
    """Write all plots, each to a file of its name."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        (directory / f"{name}.svg").write_text(plot(report), encoding="utf-8")
