"""The README's figures: a table and plots of what `make bench` measured.

    make bench BENCH_JSON=file
    python -m tests.bench.readme file

Keeps the file as `tests/bench/measured/figures.json`, draws the plots beside it, and writes the
table into the README.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench import plots
from tests.bench.results import Figure, Report, number, spread_of

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
MEASURED: Final = Path(__file__).parent / "measured"
FIGURES: Final = MEASURED / "figures.json"
BEGIN: Final = "<!-- figures: written by python -m tests.bench.readme -->\n"
END: Final = "<!-- end of figures -->\n"
_TITLES: Final = {
    "promises": "Each promise as a part of its bound",
    "long_list": "A list of 100,000 splits by each way to get it",
    "small_reads": "Small reads per second",
}


def section(report: Report) -> str:
    """Return what stands between the markers: where it was measured, the table, the plots."""
    machine = report.facts["machine"]
    seconds = report.facts.get("seconds", 0.0)
    noise = median(one.noise for one in report.figures if one.floors)
    lines = [
        (
            f"Measured on {machine['cores']} cores ({machine['processor']}) with Python "
            f"{machine['python']}, in {seconds / 60:.1f} minutes; the floors themselves vary by "
            f"{noise:.0%} (distance of their quartiles, median of all)."
        ),
        "",
        "| | what | bound | figure | lowest to highest round | ours to the floor | `--only` |",
        "|---|---|---|---|---|---|---|",
        *(_row(one) for one in report.figures),
        "",
        *(
            f"![{_TITLES[name]}]({(MEASURED / name).relative_to(ROOT)}.svg)\n"
            for name in plots.PLOTS
        ),
    ]
    return "\n".join(lines)


def _row(one: Figure) -> str:
    bound = "" if one.bound is None else f"{'≥' if one.at_least else '≤'} {one.bound:g}"
    met = {None: "", True: "", False: " **missed**"}[one.is_met]
    medians = ""
    if one.samples and one.floors:
        ours, floor = (number(median(values)) for values in (one.samples, one.floors))
        medians = f"{ours} to {floor} {one.unit}"
    cells = (
        one.line,
        one.name,
        bound,
        f"{number(one.value)}{met}",
        spread_of(one),
        medians,
        one.part,
    )
    return f"| {' | '.join(cells)} |"


def written(readme: str, report: Report) -> str:
    """Return the README with the figures of a report. `ValueError` if it has no markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("README.md has no place for the figures")
    return f"{before}{begin}{section(report)}{end}{after}"


def refresh(document: str) -> None:
    """Keep a run's JSON, and make table and plots of it."""
    report = Report.read(document)
    MEASURED.mkdir(exist_ok=True)
    FIGURES.write_text(document, encoding="utf-8")
    plots.write(report, MEASURED)
    README.write_text(written(README.read_text(encoding="utf-8"), report), encoding="utf-8")


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.readme", description=__doc__)
    parser.add_argument("file", type=Path, help="what BENCH_JSON has written")
    refresh(parser.parse_args().file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
