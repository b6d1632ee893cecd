"""Many callers that read at once, and what became of each read."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy import errors
from proxy.client import Answer

Read = Callable[[int], Awaitable[Answer[Any]]]
Check = Callable[[Answer[Any], float], None]


@dataclass
class Report:
    """What the callers saw. Times are seconds."""

    total: int = 0
    failures: list[errors.MetastoreError] = field(default_factory=list)
    slowest: float = 0.0
    served: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def routes(self) -> Counter[str]:
        """How many answers came by each route."""
        found: Counter[str] = Counter()
        for (_, route), count in self.served.items():
            found[route] += count
        return found

    def __str__(self) -> str:
        rate = self.total / self.seconds if self.seconds else 0.0
        return (
            f"{self.total} reads in {self.seconds:.1f} s ({rate:.0f}/s), slowest "
            f"{self.slowest:.3f} s, {len(self.failures)} failed, {dict(self.served)}"
        )


async def read_many(count: int, callers: int, read: Read, check: Check | None = None) -> Report:
    """Make `count` reads from `callers` tasks; `check` gets each answer and when its call began."""
    report = Report()
    began = time.monotonic()
    left = iter(range(count))

    async def caller() -> None:
        for number in left:
            started = time.monotonic()
            report.total += 1
            try:
                answer = await read(number)
            except errors.MetastoreError as error:
                report.failures.append(error)
                # A caller that is refused does not come back in the same instant.
                await asyncio.sleep(0.005)
                continue
            finally:
                report.slowest = max(report.slowest, time.monotonic() - started)
            report.served[answer.served_by, answer.route] += 1
            if check is not None:
                check(answer, started)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
    report.seconds = time.monotonic() - began
    return report


def kinds(failures: Sequence[errors.MetastoreError]) -> Counter[str]:
    """Return how many failures there are of each variant."""
    return Counter(error.variant for error in failures)
