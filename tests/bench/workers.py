"""What a second worker gives a node in small reads.

Run with `python -m tests.bench.workers`. Two nodes, of one worker and of two, are loaded in turn:
IndexMetadata by as many routing clients as there are workers, each in a process of its own and with
connections to all workers.

Callers, PostgreSQL and workers share this machine's cores. Where these are few the calls per second
show that rather than the workers, so the capacity is told as well: calls per second of the workers'
processor time, times the workers, which is what a node serves whose workers have a core each.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from proxy.client import ClientOptions, RoutingClient
from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.demo.processes import NodeProcess
from proxy.demo.watchdog import Watchdog
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role

ROUNDS: Final = 5
SECONDS: Final = 3.0
CALLERS: Final = 24
WORKERS: Final = (1, 2)
REQUEST: Final = pb.IndexMetadataRequest(index_id="hdfs-logs")


@dataclass(frozen=True)
class Figures:
    """Of one round: calls per second, with a core for each worker, and the workers' shares."""

    rate: float
    capacity: float
    shares: list[float]


async def call(address: str) -> None:
    """Be the callers: say when all is connected, then how many calls were answered in how long."""
    options = ClientOptions(share_reads=False)
    async with RoutingClient([address], options=options) as client:
        await client.wait_ready()
        until = time.monotonic() + 1.5
        done = 0

        async def caller() -> None:
            nonlocal done
            while time.monotonic() < until:
                await client.index_metadata(REQUEST)
                done += 1

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        sys.stdout.write("warm\n")
        sys.stdout.flush()
        sys.stdin.readline()
        done, began = 0, time.monotonic()
        until = began + SECONDS
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        sys.stdout.write(json.dumps([done, time.monotonic() - began]) + "\n")


def processor_times(node: NodeProcess) -> list[float]:
    """Return the processor seconds of each process that serves."""
    parent = psutil.Process(node.pid)
    serving = parent.children() or [parent]
    return [sum(process.cpu_times()[:2]) for process in serving]


async def measure(node: NodeProcess, workers: int) -> Figures:
    """Measure one round."""
    callers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.workers", node.address),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(workers)
    ]
    await asyncio.gather(*map(_line, callers))
    before = processor_times(node)
    for one in callers:
        if one.stdin is not None:
            one.stdin.write(b"go\n")
    made = [json.loads(line) for line in await asyncio.gather(*map(_line, callers))]
    used = [after - was for was, after in zip(before, processor_times(node), strict=True)]
    for one in callers:
        await one.communicate()
    done = sum(count for count, _ in made)
    rate = sum(count / seconds for count, seconds in made)
    return Figures(rate, len(used) * done / sum(used), [each / sum(used) for each in used])


async def _line(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise RuntimeError("the callers have no pipe")
    return await process.stdout.readline()


async def run(report: Callable[[str], object]) -> None:
    """Measure, and report."""
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-bench-"))
    watchdog = Watchdog(directory)
    found: dict[int, list[Figures]] = {workers: [] for workers in WORKERS}
    try:
        async with PostgresPair() as pair:
            await pair.create_database("quickwit")
            nodes = {}
            for workers in WORKERS:
                environ = {
                    "METASTORE_PROXY_WORKERS": str(workers),
                    "QW_METASTORE_URI": pair.primary_uri("quickwit"),
                    "QW_GOSSIP_LISTEN_PORT": "0",
                }
                node = NodeProcess(
                    f"workers-{workers}", Role.METASTORE, directory, environ, watchdog=watchdog
                )
                nodes[workers] = node
                node.start()
                await node.wait_ready()
            async with RoutingClient([nodes[1].address], allow_writes=True) as client:
                made = pb.CreateIndexRequest(index_config_json=dataset.index_config())
                await client.call("CreateIndex", made)
            for _ in range(ROUNDS):
                for workers, node in nodes.items():
                    found[workers].append(await measure(node, workers))
            for node in nodes.values():
                await node.terminate()
    finally:
        watchdog.close()
    _tell(found, report)


def _tell(found: dict[int, list[Figures]], report: Callable[[str], object]) -> None:
    report(f"{'workers':>8}{'calls/s':>10}{'calls/s, a core each':>22}   share of each worker")
    for workers, figures in found.items():
        rate = statistics.median(one.rate for one in figures)
        capacity = statistics.median(one.capacity for one in figures)
        shares = ", ".join(f"{share:.0%}" for share in figures[-1].shares)
        report(f"{workers:>8}{rate:>10.0f}{capacity:>22.0f}   {shares}")
    for name in ("rate", "capacity"):
        ratios = sorted(
            getattr(two, name) / getattr(one, name)
            for one, two in zip(found[1], found[2], strict=True)
        )
        middle = statistics.median(ratios)
        report(f"two to one by {name}: {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(call(sys.argv[1]))
    else:
        asyncio.run(run(lambda line: sys.stdout.write(f"{line}\n")))
