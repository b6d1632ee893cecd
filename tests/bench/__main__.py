"""Measures what the promises of speed are about; run by `make bench`.

Every figure is a ratio to a floor that is measured in the same run, in turn with it; medians of
at least five. `--only` runs a part, `--scale 0.1` a quick look with a tenth of the data.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from tests.bench import bulk, lists, plans, profiling, readme, small, workers
from tests.bench.results import Report, machine
from tests.bench.stage import Stage, set_up

Part = Callable[[Stage, Report, int], Awaitable[None]]


async def _crowd(stage: Stage, report: Report, rounds: int) -> None:
    # Each takes most of a minute, and a thousand reads: with more, all takes over ten minutes.
    found = [Report() for _ in range(min(rounds, 3))]
    for one in found:
        await lists.measure_crowd(stage, one, small.metadata_requests(500))
    report.repeated(found)


PARTS: Final[Mapping[str, Part]] = {
    "lists": lists.measure,
    "router": small.measure_router,
    "small": small.measure,
    "metadata": bulk.measure_metadata,
    "writes": bulk.measure_writes,
    "workers": workers.measure,
    "spread": small.measure_spread,
    "large": lists.measure_large,
    "stalled": lists.measure_stalled,
    "crowd": _crowd,
    # The last, as it adds an index.
    "plans": plans.measure,
}


async def _run(options: argparse.Namespace) -> Report:
    report = Report()
    report.facts["scale"] = options.scale
    began = time.perf_counter()
    async with set_up(options.scale) as stage:
        _say(f"set up in {time.perf_counter() - began:.0f} s")
        if options.profile:
            _say(await profiling.measure(stage))
            return report
        for name, part in PARTS.items():
            if options.only and name not in options.only:
                continue
            began, known = time.perf_counter(), len(report.figures)
            await part(stage, report, options.rounds)
            made = Report(report.figures[known:])
            for one in made.figures:
                one.part = name
            _say(f"\n{name} ({time.perf_counter() - began:.0f} s)\n{made.table()}")
    return report


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, and write down what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, help="write all samples to this file")
    parser.add_argument(
        "--readme", action="store_true", help="write the figures into the README as well"
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the data")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each figure")
    parser.add_argument(
        "--profile", action="store_true", help="show where the processor time goes instead"
    )
    options = parser.parse_args()
    facts = machine()
    began = time.perf_counter()
    _say(f"{facts['cores']} cores, Python {facts['python']}, load before {facts['load'][0]:.1f}")
    report = asyncio.run(_run(options))
    if options.profile:
        return
    report.facts["seconds"] = time.perf_counter() - began
    _say(f"\nall ({report.facts['seconds']:.0f} s)\n{report.table()}")
    if options.json is not None:
        options.json.write_text(report.document(), encoding="utf-8")
    if options.readme:
        readme.refresh(report.document())


if __name__ == "__main__":
    main()
