"""What a second worker gives a node in small reads.

Two nodes, of one worker and of two, are loaded in turn by the same callers: two processes, each
with a routing client that has a connection to every worker.

What is promised is for workers that have a core each, and callers and PostgreSQL need the cores of
this machine as well. So the processor time of a call is measured: with a core each a node serves as
many calls per second as its busiest worker serves in a second of processor time, the others beside
it. The parent's processor time counts as well, one half for each of two workers. All workers of a
node are held on one core meanwhile: they are what callers wait for then, and have as many calls
waiting whenever they look as they would under such a load.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import psutil

from proxy.demo.processes import NodeProcess
from proxy.roles import Role
from tests.bench.results import Report
from tests.bench.small import metadata_requests
from tests.bench.stage import Stage, interleaved

SECONDS: Final = 2.0
# Of each of the two callers.
AT_ONCE: Final = 24
MOST: Final = 2


@dataclass(frozen=True)
class Times:
    """Processor seconds of a node's processes; `parent` is 0 where one process does everything."""

    parent: float
    workers: Sequence[float]

    def __sub__(self, before: Times) -> Times:
        """Return what was used since."""
        workers = [now - was for was, now in zip(before.workers, self.workers, strict=True)]
        return Times(self.parent - before.parent, workers)

    @property
    def busiest(self) -> float:
        """What the busiest worker used, with its share of the parent."""
        return max(self.workers) + self.parent / len(self.workers)

    @property
    def share(self) -> float:
        """The part of the busiest worker."""
        return max(self.workers) / sum(self.workers)


@dataclass(frozen=True)
class Round:
    """Of one round: calls answered, and the processor times that they took."""

    calls: int
    times: Times

    @property
    def capacity(self) -> float:
        """Calls per second of a node whose workers have a core each."""
        return self.calls / self.times.busiest


def processor_times(node: NodeProcess) -> Times:
    """Return what a node's processes have used so far."""
    parent = psutil.Process(node.pid)
    own, *others = (sum(one.cpu_times()[:2]) for one in (parent, *parent.children()))
    return Times(own, others) if others else Times(0.0, [own])


def hold_on_one_core(node: NodeProcess) -> None:
    """Let all threads of a node's processes run on the same core."""
    core = {min(os.sched_getaffinity(0))}
    parent = psutil.Process(node.pid)
    for process in (parent, *parent.children()):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, core)


async def measure(stage: Stage, report: Report, rounds: int) -> None:
    """Measure a node of two workers against a node of one."""
    nodes = {}
    try:
        for workers in range(1, MOST + 1):
            nodes[workers] = stage.node(
                f"workers-{workers}", Role.METASTORE, stage.uri, workers=workers
            )
            nodes[workers].start()
            await nodes[workers].wait_ready()
            hold_on_one_core(nodes[workers])
        one, two = await interleaved(
            rounds, lambda: _round(stage, nodes[1]), lambda: _round(stage, nodes[MOST])
        )
        for caller in (stage.caller, stage.second_caller):
            await caller("leave")
    finally:
        for node in nodes.values():
            node.kill()
    _tell(report, one, two)


async def _round(stage: Stage, node: NodeProcess) -> Round:
    callers = (stage.caller, stage.second_caller)
    # Connected before the clock starts.
    await asyncio.gather(*(caller("join", target=node.address) for caller in callers))
    before = processor_times(node)
    found = await asyncio.gather(
        *(
            caller(
                "routed_calls",
                target=node.address,
                # Each begins elsewhere, so that the two do not ask the same at the same time.
                requests=requests,
                seconds=SECONDS,
                concurrency=AT_ONCE,
            )
            for caller, requests in zip(callers, _requests(), strict=True)
        )
    )
    used = processor_times(node) - before
    return Round(sum(one["count"] for one in found), used)


def _requests() -> tuple[list[str], list[str]]:
    all_of_them = metadata_requests(500)
    return all_of_them[:250], all_of_them[250:]


def _tell(report: Report, one: Sequence[Round], two: Sequence[Round]) -> None:
    share = median(each.times.share for each in two)
    parent = median(each.times.parent for each in two)
    report.ratio(
        "6",
        "small reads/s of two workers / one, a core for each",
        [each.capacity for each in two],
        [each.capacity for each in one],
        bound=1.7,
        at_least=True,
        unit="/s",
        note=f"from processor time: the busier did {share:.0%}, their parent used {parent:.2f} s",
    )
