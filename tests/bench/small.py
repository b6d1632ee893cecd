"""Small reads: a node against the bare echo, the router and Envoy against the node."""

from __future__ import annotations

from statistics import median
from typing import Any

from proxy.proto.quickwit import metastore_pb2 as pb
from tests.bench import corpus, echo
from tests.bench.results import Figure, Report
from tests.bench.stage import Stage, interleaved
from tests.support.splitting import query

SECONDS = 1.0
AT_ONCE = 16
# Of the measure of how even nodes are used.
READS = 4_000
AT_ONCE_SPREAD = [1, 8, 16]


def metadata_requests(count: int) -> list[str]:
    """Return `IndexMetadata` of as many indexes: no two calls at once ask the same."""
    ids = [corpus.index_uid(number).partition(":")[0] for number in range(count)]
    return [pb.IndexMetadataRequest(index_id=one).SerializeToString().hex() for one in ids]


def list_requests(count: int) -> list[str]:
    """Return lists of ten splits."""
    return [
        query(
            index_uids=[corpus.index_uid(number)],
            split_states=["Published"],
            limit=10,
        )
        .SerializeToString()
        .hex()
        for number in range(1, count)
    ]


async def measure(stage: Stage, report: Report, rounds: int) -> None:
    """Measure a node's small reads against an echo of as many bytes."""
    for rpc, requests, echoed in (
        ("IndexMetadata", metadata_requests(500), echo.UNARY),
        ("ListSplits", list_requests(500), echo.STREAM),
    ):
        what = rpc if rpc == "IndexMetadata" else "ListSplits of 10"
        await stage.caller(
            "keep",
            target=stage.primary.address,
            rpc=rpc,
            request=requests[0],
            echo_target=stage.echo_address,
        )
        bare, node = await interleaved(
            rounds,
            lambda requests=requests, echoed=echoed: _calls(
                stage, stage.echo_address, echoed, requests
            ),
            lambda requests=requests, rpc=rpc: _calls(stage, stage.primary.address, rpc, requests),
        )
        report.ratio(
            "3",
            f"{what}: calls/s of a node / of the echo",
            [one["rate"] for one in node],
            [one["rate"] for one in bare],
            bound=0.5,
            at_least=True,
            unit="/s",
            note=f"{AT_ONCE} at once",
        )
        half = {
            echoed: median(one["rate"] for one in bare) / 2,
            rpc: median(one["rate"] for one in node) / 2,
        }
        bare, node = await interleaved(
            rounds,
            lambda requests=requests, echoed=echoed, half=half: _paced(
                stage, stage.echo_address, echoed, requests, half[echoed]
            ),
            lambda requests=requests, rpc=rpc, half=half: _paced(
                stage, stage.primary.address, rpc, requests, half[rpc]
            ),
        )
        report.ratio(
            "3",
            f"{what}: p99 at half load / the echo's",
            [one["p99"] * 1000 for one in node],
            [one["p99"] * 1000 for one in bare],
            bound=3,
            unit="ms",
        )


async def measure_router(stage: Stage, report: Report, rounds: int) -> None:
    """Measure what the router, and in its place a bare proxy and Envoy, add to a small read."""
    requests = metadata_requests(500)
    targets = {
        "direct": stage.primary.address,
        "router": stage.router.address,
        "bare grpc.aio": stage.passing_address,
    }
    if stage.envoy_address:
        targets["Envoy"] = stage.envoy_address

    def kinds(concurrency: int) -> list[Any]:
        return [
            lambda target=target: _calls(stage, target, "IndexMetadata", requests, concurrency)
            for target in targets.values()
        ]

    alone = dict(zip(targets, await interleaved(rounds, *kinds(1)), strict=True))
    at_once = dict(zip(targets, await interleaved(rounds, *kinds(AT_ONCE)), strict=True))
    for name in targets:
        if name == "direct":
            continue
        is_ours = name == "router"
        took, direct = ([one["p50"] * 1000 for one in alone[kind]] for kind in (name, "direct"))
        report.add(
            Figure(
                "1",
                f"a small read through {name}: added (ms)",
                # Of each round: the machine is not as fast in all of them.
                median(one - other for one, other in zip(took, direct, strict=True)),
                "ms",
                0.8 if is_ours else None,
                samples=took,
                floors=direct,
                is_difference=True,
            )
        )
        report.ratio(
            "1",
            f"small reads/s through {name} / direct, {AT_ONCE} at once",
            [one["rate"] for one in at_once[name]],
            [one["rate"] for one in at_once["direct"]],
            bound=0.45 if is_ours else None,
            at_least=True,
            unit="/s",
        )


async def measure_spread(stage: Stage, report: Report, rounds: int) -> None:
    """Measure how even three replica nodes are used, by few callers and by many."""
    # Not scaled: of a few hundred reads a twentieth more or less is chance.
    found = [
        await stage.caller(
            "served_by",
            primary=stage.primary.address,
            replicas=[one.address for one in stage.replicas],
            ids=[corpus.index_uid(number).partition(":")[0] for number in range(500)],
            count=READS,
            at_once=AT_ONCE_SPREAD,
        )
        for _ in range(rounds)
    ]
    even = READS / len(stage.replicas)
    for callers in map(str, AT_ONCE_SPREAD):
        counts = [
            [one[callers]["served"].get(node.node_id, 0) for node in stage.replicas]
            for one in found
        ]
        farthest = [max(abs(count - even) for count in each) / even for each in counts]
        report.add(
            Figure(
                "6",
                f"three replica nodes: farthest from even, {callers} at once",
                median(farthest),
                # Where the cores are full one node or the other gets none for a while, and what is
                # slow for longer than a moment is given less: then it may be farther off.
                bound=0.05,
                samples=farthest,
                note=f"of {READS} reads {counts[-1]}",
            )
        )


async def _calls(
    stage: Stage, target: str, rpc: str, requests: list[str], concurrency: int = AT_ONCE
) -> dict[str, Any]:
    return await stage.caller(
        "calls",
        target=target,
        rpc=rpc,
        requests=requests,
        seconds=SECONDS,
        concurrency=concurrency,
    )


async def _paced(
    stage: Stage, target: str, rpc: str, requests: list[str], rate: float
) -> dict[str, Any]:
    return await stage.caller(
        "paced", target=target, rpc=rpc, requests=requests, seconds=SECONDS, rate=rate
    )
