"""Long lists of splits: against the database's own COPY, through the router, in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from tests.bench import corpus, echo
from tests.bench.results import Figure, Report
from tests.bench.stage import STALL_BOUND, Stage, cpu, interleaved, memory
from tests.support.splitting import query
from tests.support.waiting import until

COLUMNS = (
    "split_state, update_timestamp, publish_timestamp, create_timestamp, index_uid, "
    "delete_opstamp, split_metadata_json"
)
_MIB = 1024 * 1024


def one_index() -> str:
    """Return the query for the splits of the largest index."""
    return query(index_uids=[corpus.index_uid(0)], split_states=["Published"]).query_json


def everything() -> str:
    """Return the query for all published splits."""
    return query(split_states=["Published"]).query_json


def _select(where: str) -> str:
    return f"SELECT {COLUMNS} FROM splits WHERE {where} AND split_state = 'Published'"


async def measure(stage: Stage, report: Report, rounds: int) -> None:
    """Measure lists of 100,000 splits."""
    caller, wanted = stage.caller, one_index()
    rows = _select(f"index_uid = '{corpus.index_uid(0)}'")
    request = query(index_uids=[corpus.index_uid(0)], split_states=["Published"])
    await caller(
        "keep",
        target=stage.primary.address,
        rpc="ListSplits",
        request=request.SerializeToString().hex(),
        echo_target=stage.echo_address,
    )
    used: dict[str, float] = {}

    async def timed(name: str, pid: int | None, target: str, rpc: str = "ListSplits") -> Any:
        before = cpu(pid)
        found = await caller("stream", target=target, rpc=rpc, query=wanted)
        used[name] = cpu(pid) - before
        return found

    kinds = {
        "copy": lambda: stage.copy(rows),
        "cursor": lambda: caller("floor_cursor", uri=stage.uri, sql=rows),
        "echo": lambda: timed("echo", stage.echo_pid, stage.echo_address, echo.STREAM),
        "direct": lambda: timed("node", stage.primary.pid, stage.primary.address),
        "routed": lambda: timed("router", stage.router.pid, stage.router.address),
        "client": lambda: caller(
            "routed_stream", primary=stage.primary.address, replicas=[], query=wanted
        ),
    }
    if stage.envoy_address:
        kinds["envoy"] = lambda: timed("envoy", stage.primary.pid, stage.envoy_address)
    samples = dict(zip(kinds, await interleaved(rounds, *kinds.values()), strict=True))
    seconds = {
        name: [one if isinstance(one, float) else one["seconds"] for one in values]
        for name, values in samples.items()
    }
    note = ", ".join(f"{name} {value:.2f}" for name, value in used.items() if name != "envoy")
    count = f"{stage.many:,} splits"
    report.facts["bytes of the list"] = samples["direct"][0]["bytes"]
    report.ratio(
        "1",
        f"list of {count} / COPY",
        seconds["direct"],
        seconds["copy"],
        bound=1.7,
        note=f"processor seconds: {note}",
    )
    firsts = [one["first"] * 1000 for one in samples["direct"]]
    report.add(
        Figure("1", "first message (ms)", sorted(firsts)[len(firsts) // 2], "ms", 50, False, firsts)
    )
    report.ratio(
        "1", f"list of {count}, router / direct", seconds["routed"], seconds["direct"], bound=1.8
    )
    if "envoy" in seconds:
        report.ratio("1", f"list of {count}, Envoy / direct", seconds["envoy"], seconds["direct"])
    report.ratio(
        "1", f"list of {count}, routing client / direct", seconds["client"], seconds["direct"]
    )
    report.ratio("1", f"list of {count} / asyncpg cursor", seconds["direct"], seconds["cursor"])
    report.ratio(
        "1", f"list of {count} / echo of the same bytes", seconds["direct"], seconds["echo"]
    )
    report.facts["direct"] = seconds["direct"]


async def measure_large(stage: Stage, report: Report, rounds: int) -> None:
    """Measure lists of 1,000,000 splits: their rate, and what they take of memory."""
    caller = stage.caller
    small, large, grown = [], [], []
    for number in range(rounds + 1):
        one = await caller(
            "stream", target=stage.primary.address, rpc="ListSplits", query=one_index()
        )
        before = memory(stage.primary.pid)
        async with watching(stage.primary.pid) as peak:
            other = await caller(
                "stream", target=stage.primary.address, rpc="ListSplits", query=everything()
            )
        grown.append((peak[0] - before) / _MIB)
        if number:
            small.append(one["bytes"] / one["seconds"] / _MIB)
            large.append(other["bytes"] / other["seconds"] / _MIB)
    total = stage.all_splits
    report.ratio(
        "2",
        f"rate of {total:,} splits / of {stage.many:,}",
        large,
        small,
        bound=0.6,
        at_least=True,
        unit="MiB/s",
    )
    report.add(
        Figure("2", "growth of the node's memory (MiB)", max(grown), "MiB", 64, False, grown)
    )


@asynccontextmanager
async def watching(pid: int | None) -> AsyncIterator[list[int]]:
    """Give the most memory that a process has within the block, in bytes, as the only item."""
    peak = [memory(pid)]

    async def watch() -> None:
        while True:
            peak[0] = max(peak[0], memory(pid))
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch(), name="watch memory")
    try:
        yield peak
    finally:
        task.cancel()


STALLED = 16


async def measure_stalled(stage: Stage, report: Report, rounds: int) -> None:
    """Measure what callers hold that stop reading, and for how long they hold a session."""
    held, freed = [], []
    for _ in range(rounds):
        before = most = memory(stage.primary.pid)
        stalling = asyncio.create_task(
            stage.caller(
                "stall",
                target=stage.primary.address,
                query=everything(),
                streams=STALLED,
                seconds=STALL_BOUND + 2,
            )
        )
        await until(partial(_all_hold, stage), timeout=60)
        while await _sessions(stage):
            most = max(most, memory(stage.primary.pid))
            await asyncio.sleep(0.05)
        free = time.monotonic()
        since = (await stalling)["since"]
        held.append((most - before) / STALLED / _MIB)
        freed.append(free - since)
    report.add(
        Figure("2", "memory of a stream that nobody reads (MiB)", max(held), "MiB", 4, False, held)
    )
    slowest = max(freed)
    report.add(
        Figure(
            "2",
            f"its session is free after (s), bound {STALL_BOUND:g} s",
            slowest,
            "s",
            STALL_BOUND + 1,
            False,
            freed,
        )
    )


async def _all_hold(stage: Stage) -> bool:
    return await _sessions(stage) >= STALLED


async def _sessions(stage: Stage) -> int:
    """Return how many sessions of nodes are in a transaction."""
    return int(
        await stage.pair.primary.value(
            "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL "
            "AND datname = 'quickwit' AND application_name = 'quickwit-metastore'"
        )
    )


LISTS = 64


async def measure_crowd(stage: Stage, report: Report, small: list[str]) -> None:
    """Measure 64 lists at once, and the small reads beside them."""
    beside: list[dict[str, Any]] = []
    async with watching(stage.primary.pid) as peak:
        lists = asyncio.create_task(
            stage.caller("crowd", target=stage.primary.address, query=one_index(), lists=LISTS)
        )
        while not lists.done():
            beside.append(
                await stage.second_caller(
                    "paced",
                    target=stage.primary.address,
                    rpc="IndexMetadata",
                    requests=small,
                    seconds=2.0,
                    rate=20.0,
                )
            )
    sizes = (await lists)["sizes"]
    finished = sum(size == sizes[0] > 0 for size in sizes)
    report.add(Figure("7", "lists at once that finish, of 64", finished, "", LISTS, True))
    report.add(Figure("7", "the node's memory meanwhile (MiB)", peak[0] / _MIB, "MiB", 400))
    latencies = sorted(value * 1000 for one in beside for value in one["latencies"])
    p99 = latencies[int(len(latencies) * 0.99)]
    report.add(
        Figure(
            "7",
            "p99 of small reads beside them (ms)",
            p99,
            "ms",
            250,
            note=f"{len(latencies)} calls, 20 per second",
        )
    )
