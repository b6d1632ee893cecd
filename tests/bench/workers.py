"""What a second worker gives a node in small reads.

What is promised is for workers that have a core each, and callers and PostgreSQL need the cores of
this machine as well. So the processor time of a call is measured: with a core each a node serves as
many calls per second as its busiest worker serves in a second of processor time, the others beside
it. The parent's processor time counts as well, one half for each of two workers.

A call takes more of it on a machine that does more, and where fewer calls share a connection. So
both are measured at the same load: two callers, processes of their own with routing clients, call
one node of two workers, or, in turn with it, two nodes of one worker. Either way each caller has a
connection to each worker.
"""

from __future__ import annotations

import asyncio
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


@dataclass(frozen=True)
class Times:
    """Processor seconds of a node's processes; `parent` is 0 where one process is the node."""

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
    """Of one round: calls answered, and the processor times of the nodes that answered them."""

    calls: int
    nodes: Sequence[Times]

    @property
    def capacity(self) -> float:
        """Calls per second of a node, one of several alike, whose workers have a core each."""
        return self.calls / sum(node.busiest for node in self.nodes)


def processor_times(node: NodeProcess) -> Times:
    """Return what a node's processes have used so far."""
    parent = psutil.Process(node.pid)
    own, *others = (sum(one.cpu_times()[:2]) for one in (parent, *parent.children()))
    return Times(own, others) if others else Times(0.0, [own])


async def measure(stage: Stage, report: Report, rounds: int) -> None:
    """Measure a node of two workers against nodes of one."""
    nodes = [
        stage.node(f"workers-{number}", Role.METASTORE, stage.uri, workers=workers)
        for number, workers in enumerate((1, 1, 2))
    ]
    try:
        for node in nodes:
            node.start()
            await node.wait_ready()
        one, two = await interleaved(
            rounds, lambda: _round(stage, nodes[:2]), lambda: _round(stage, nodes[2:])
        )
        for caller in (stage.caller, stage.second_caller):
            await caller("leave")
    finally:
        for node in nodes:
            node.kill()
    _tell(report, one, two)


async def _round(stage: Stage, nodes: Sequence[NodeProcess]) -> Round:
    """Load nodes by two callers, each of which calls all of them."""
    callers, targets = (stage.caller, stage.second_caller), [node.address for node in nodes]
    # Connected before the clock starts.
    await asyncio.gather(*(caller("join", targets=targets) for caller in callers))
    before = [processor_times(node) for node in nodes]
    found = await asyncio.gather(
        *(
            caller(
                "routed_calls",
                targets=targets,
                requests=requests,
                seconds=SECONDS,
                concurrency=AT_ONCE,
            )
            for caller, requests in zip(callers, _requests(), strict=True)
        )
    )
    used = [processor_times(node) - was for node, was in zip(nodes, before, strict=True)]
    return Round(sum(one["count"] for one in found), used)


def _requests() -> tuple[list[str], list[str]]:
    """Return what each of the callers asks, so that no two calls at once ask the same."""
    all_of_them = metadata_requests(500)
    return all_of_them[:250], all_of_them[250:]


def _tell(report: Report, one: Sequence[Round], two: Sequence[Round]) -> None:
    share = median(each.nodes[0].share for each in two)
    parent = median(each.nodes[0].parent for each in two)
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
