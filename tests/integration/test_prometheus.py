"""A real Prometheus scrapes a node of every role under load."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import aiohttp
import grpc
import pytest

from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.lifecycle import NodeLifecycle
from proxy.metrics.declaring import Kind, Nodes, Series
from proxy.metrics.series import DECLARED
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.metric_samples import busy
from tests.support.nodes import address, node_config, running
from tests.support.postgres import scratch_database
from tests.support.prometheus import Prometheus, check_metrics, prometheus
from tests.support.routers import Caller, router_config, routing
from tests.support.waiting import until

# What each job exports here: the replica's node does not route, and none has TLS.
GROUPS = {
    "metastore": {Nodes.ALL, Nodes.DATABASE, Nodes.PRIMARY, Nodes.GOSSIP},
    "replica": {Nodes.ALL, Nodes.DATABASE, Nodes.REPLICA, Nodes.GOSSIP},
    "router": {Nodes.ALL, Nodes.ROUTING, Nodes.GOSSIP},
}
# Of the series that come with their first event, those that the load brings about.
BROUGHT_ABOUT = {
    "quickwit_grpc_requests_total",
    "quickwit_grpc_request_duration_seconds",
    "metastore_proxy_routed_calls_total",
}
# Of the server itself, and of the libraries.
NOT_OURS = ("up", "scrape_", "process_", "python_info")


@dataclass
class Scraped:
    """Nodes by job, and the server that scrapes them."""

    nodes: dict[str, NodeLifecycle]
    server: Prometheus


@pytest.fixture(scope="module")
async def load(pg: PostgresPair, migrated_template: str) -> AsyncIterator[Scraped]:
    """Nodes of all roles that serve reads through the router all the time."""
    async with AsyncExitStack() as stack:
        scratch = await stack.enter_async_context(scratch_database(pg, template=migrated_template))
        primary = await stack.enter_async_context(
            running(node_config(Role.METASTORE, scratch.primary_uri))
        )
        replica = await stack.enter_async_context(
            running(node_config(Role.READ_REPLICA, scratch.standby_uri, node_id="replica-1"))
        )
        config = router_config([address(primary)], [address(replica)], max_lag="30s")
        labelled = replace(config, metrics_labels=(("environment", "test"),))
        router = await stack.enter_async_context(routing(labelled))
        nodes: dict[str, NodeLifecycle] = {
            "metastore": primary,
            "replica": replica,
            "router": router,
        }
        targets = {job: f"127.0.0.1:{one.config.rest_listen_port}" for job, one in nodes.items()}
        caller = await stack.enter_async_context(Caller(address(router)))
        made = pb.CreateIndexRequest(index_config_json=dataset.index_config()).SerializeToString()
        await caller.unary("CreateIndex", made)
        await pg.wait_caught_up()
        reading = asyncio.create_task(_read(caller))
        stack.push_async_callback(_end, reading)
        server = await stack.enter_async_context(prometheus(targets))
        yield Scraped(nodes, server)


async def _read(caller: Caller) -> None:
    index_id = json.loads(dataset.index_config())["index_id"]
    known = pb.IndexMetadataRequest(index_id=index_id).SerializeToString()
    unknown = pb.IndexMetadataRequest(index_id="missing").SerializeToString()
    while True:
        await caller.unary("IndexMetadata", known)
        await caller.unary("ListIndexTemplates")
        with pytest.raises(grpc.aio.AioRpcError, match="not found"):
            await caller.unary("IndexMetadata", unknown)
        await asyncio.sleep(0.01)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
    # What the load ran into, if it did not end by being cancelled.
    if not task.cancelled():
        task.result()


def stored(series: Series) -> set[str]:
    """Return the names under which a server stores a series."""
    if series.kind is not Kind.HISTOGRAM:
        return {series.name}
    return {f"{series.name}{suffix}" for suffix in ("_bucket", "_count", "_sum")}


async def test_every_role_is_scraped_and_every_documented_series_returns_data(
    load: Scraped,
) -> None:
    up = dict.fromkeys(load.nodes, "up")

    async def all_up() -> bool:
        return await load.server.targets() == up

    await until(all_up, load.server.log)
    missing: dict[str, set[str]] = {}

    async def complete() -> bool:
        found = await load.server.names()
        for job, groups in GROUPS.items():
            expected = [
                stored(series)
                for series in DECLARED
                if series.nodes in groups and (not series.is_late or series.name in BROUGHT_ABOUT)
            ]
            missing[job] = set().union(*expected) - found.get(job, set())
        return not any(missing.values())

    await until(complete, lambda: missing)
    for job, names in (await load.server.names()).items():
        documented = set().union(*(stored(s) for s in DECLARED if s.nodes in GROUPS[job]))
        ours = {name for name in names if not name.startswith(NOT_OURS)}
        assert ours <= documented


@pytest.mark.parametrize(
    ("expression", "jobs"),
    [
        ("rate(quickwit_grpc_requests_total{status='success'}[5s]) > 0", set(GROUPS)),
        (
            # Not the count: a read that found its replica too old may have been one of them.
            "rate(quickwit_grpc_requests_total{code='not_found', status='error'}[5s]) > 0",
            {"replica", "router"},
        ),
        (
            (
                "histogram_quantile(0.95, sum by (le, job) "
                "(rate(quickwit_grpc_request_duration_seconds_bucket{kind='server'}[5s]))) > 0"
            ),
            set(GROUPS),
        ),
        ("quickwit_metastore_max_connections == 10", {"metastore", "replica"}),
        ("quickwit_metastore_active_connections > 0", {"metastore", "replica"}),
        ("metastore_proxy_ready == 1", set(GROUPS)),
        ("metastore_proxy_build_info{environment='test'} == 1", {"router"}),
        ("rate(metastore_proxy_event_loop_lag_seconds_count[5s]) > 0", set(GROUPS)),
        ("rate(metastore_proxy_pool_wait_seconds_count[5s]) > 0", {"metastore", "replica"}),
        ("metastore_proxy_replica_lag_seconds >= 0", {"metastore", "replica"}),
        ("metastore_proxy_lsn_bytes > 16777216", {"metastore", "replica"}),
        ("metastore_proxy_heartbeat_age_seconds >= 0", {"metastore", "replica"}),
        ("metastore_proxy_migrations{state='applied'} > 20", {"metastore", "replica"}),
        ("metastore_proxy_migrations{state='failed'} == 0", {"metastore", "replica"}),
        (
            "rate(metastore_proxy_routed_calls_total{route='replica', code='ok'}[5s]) > 0",
            {"router"},
        ),
        ("rate(metastore_proxy_routed_calls_total{route='primary'}[5s]) > 0", {"router"}),
        ("metastore_proxy_backend_eligibility{reason='eligible'} == 1", {"router"}),
        ("metastore_proxy_backend_lag_seconds >= 0", {"router"}),
        ("metastore_proxy_backend_lsn_bytes > 16777216", {"router"}),
        ("metastore_proxy_backend_latency_seconds > 0", {"router"}),
        ("metastore_proxy_fallbacks_limit == 32", {"router"}),
        ("metastore_proxy_retry_budget >= 1", {"router"}),
        ("process_resident_memory_bytes > 0 and process_open_fds > 0", set(GROUPS)),
    ],
)
async def test_expressions_return_data(load: Scraped, expression: str, jobs: set[str]) -> None:
    async def returns_data() -> bool:
        return (await load.server.query(expression)).keys() == jobs

    await until(returns_data)


async def test_a_fallback_shows_while_the_replica_is_gone(load: Scraped) -> None:
    """The last test here that finds the replica there."""
    name = "metastore_proxy_fallback_answers_total"
    before = (await load.server.query(name)).get("router", 0.0)
    await load.nodes["replica"].close()

    async def shows() -> bool:
        answers = await load.server.query(f"sum by (job) ({name}) > {before}")
        down = await load.server.query("metastore_proxy_backend_eligibility{reason='down'} == 1")
        up = await load.server.query("up{job='replica'}")
        return bool(answers) and (down, up) == ({"router": 1.0}, {"replica": 0.0})

    await until(shows)


@pytest.mark.parametrize("role", Role)
async def test_promtool_finds_nothing(role: Role) -> None:
    assert await check_metrics((await busy(role).expose()).body) == ""


async def test_promtool_would_find_something() -> None:
    found = await check_metrics(b"# TYPE wrong counter\nwrong 1\n")
    assert "counter metrics should have" in found


async def test_the_endpoint_negotiates(load: Scraped) -> None:
    url = f"http://127.0.0.1:{load.nodes['router'].config.rest_listen_port}/metrics"
    asked = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        async with http.get(url, headers=asked) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text;")
            assert response.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await response.read()).endswith(b"# EOF\n")
        async with http.get(url, headers={"Accept-Encoding": "identity"}) as response:
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert await check_metrics(await response.read()) == ""
