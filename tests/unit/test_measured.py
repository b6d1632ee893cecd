"""What the README says of speed is what was measured, and is drawn from it."""

from __future__ import annotations

import pytest

from tests.bench import plots, readme
from tests.bench.results import Figure, Report


@pytest.fixture(scope="module")
def report() -> Report:
    return Report.read(readme.FIGURES.read_text(encoding="utf-8"))


def test_the_readme_has_the_figures_that_were_measured(report: Report) -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.written(text, report) == text, "run `python -m tests.bench.readme FILE`"


@pytest.mark.parametrize("name", plots.PLOTS)
def test_plots_show_the_figures_that_were_measured(report: Report, name: str) -> None:
    drawn = (readme.MEASURED / f"{name}.svg").read_text(encoding="utf-8")
    assert plots.PLOTS[name](report) == drawn


def test_every_promise_was_measured_at_full_size(report: Report) -> None:
    lines = {one.line for one in report.figures if one.bound is not None}
    assert lines == {"1", "2", "3", "4", "5", "6", "7", "plans"}
    assert report.facts["scale"] == 1
    # A figure of several rounds has five of them at least.
    assert all(
        len(one.rounds) >= (3 if one.line == "7" else 5) for one in report.figures if one.rounds
    )


def test_every_way_to_a_list_is_drawn(report: Report) -> None:
    assert plots.long_list(report).count("<rect x=") == 7
    assert plots.small_reads(report).count("<rect x=") == 5


def test_a_table_says_what_was_missed() -> None:
    report = Report()
    report.facts["machine"] = {"cores": 2, "processor": "any", "python": "3.11.7"}
    report.ratio("1", "slow", [2.0, 4.0, 6.0], [2.0, 2.0, 2.0], bound=1.7)
    report.ratio("1", "quick", [9.0, 8.0, 7.0], [2.0, 2.0, 2.0], bound=1.7, at_least=True)
    report.add(
        Figure("1", "added", 1.5, "ms", 2, samples=[4, 5], floors=[3, 3], is_difference=True)
    )
    assert [line for line in readme.section(report).splitlines() if line.startswith("| 1")] == [
        "| 1 | slow | ≤ 1.7 | 2.00 **missed** | 1.00 to 3.00 | 4.00 to 2.00 s |  |",
        "| 1 | quick | ≥ 1.7 | 4.00 | 3.50 to 4.50 | 8.00 to 2.00 s |  |",
        "| 1 | added | ≤ 2 | 1.50 | 1.00 to 2.00 | 4.50 to 3.00 ms |  |",
    ]
    assert Report.read(report.document()).figures == report.figures


def test_a_readme_without_a_place_for_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the figures"):
        readme.written("# metastore-proxy\n", Report())
