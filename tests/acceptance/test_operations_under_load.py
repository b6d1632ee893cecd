"""Nodes of each role drained, stopped, started again and reloaded while callers read and write.

Half of the callers have our client and know both routers. The others have a plain gRPC channel to
one address, behind which connections are spread over the routers that are ready, as by a Service of
Kubernetes. Not one call may fail.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from proxy import errors
from proxy.client import ClientOptions, RoutingClient
from proxy.demo.processes import NodeProcess
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.balancer import Balancer, balancing
from tests.support.fleet import Fleet, fleet
from tests.support.routers import Caller
from tests.support.waiting import until

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "proxy", "drain")
CALLERS = 8
# Plain channels, so that some are with either router.
CHANNELS = 4
OWN_CONNECTION: dict[str, Any] = {"grpc.use_local_subchannel_pool": 1}
DEADLINE = 10.0
RPCS = ("IndexMetadata", "CreateIndexTemplate")
KINDS = tuple(f"{who} {rpc}" for who in ("ours", "plain") for rpc in RPCS)
Make = Callable[[str, Any], Awaitable[Any]]


class Load:
    """What the callers have made of it. A failure is kept as text, with who saw it."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []

    async def call(self, who: str, number: int, make: Make) -> None:
        """Read and write in turn, until cancelled."""
        index = f"index-{number}"
        template = json.dumps(
            {
                "template_id": f"{who}-{number}",
                "version": "0.9",
                "index_id_patterns": [f"{who}-{number}-*"],
                "doc_mapping": {},
            }
        )
        requests = [
            ("IndexMetadata", pb.IndexMetadataRequest(index_id=index)),
            (
                "CreateIndexTemplate",
                pb.CreateIndexTemplateRequest(index_template_json=template, overwrite=True),
            ),
        ]
        while True:
            for rpc, request in requests:
                try:
                    await make(rpc, request)
                except (errors.MetastoreError, grpc.aio.AioRpcError) as error:
                    self.failures.append(f"{who} {rpc}: {error!r}")
                self.done[f"{who} {rpc}"] += 1

    async def goes_on(self, calls: int = 50) -> None:
        """Wait until each kind of caller has made so many calls more."""
        before = self.done.copy()
        await until(
            lambda: all(self.done[kind] >= before[kind] + calls for kind in KINDS),
            lambda: (dict(self.done), self.failures[:3]),
            timeout=60,
        )


@asynccontextmanager
async def loading(running: Fleet, balancer: Balancer) -> AsyncIterator[Load]:
    """Keep the callers calling inside the block."""
    load = Load()
    addresses = [router.address for router in running.routers]
    ours = RoutingClient(addresses, allow_writes=True, options=ClientOptions(share_reads=False))
    async with ours as client, AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(Caller(balancer.address, **OWN_CONNECTION))
            for _ in range(CHANNELS)
        ]
        turns = itertools.cycle(channels)
        await client.wait_until(lambda now: len(now.serving_primaries) == len(addresses))

        async def by_client(rpc: str, request: Any) -> None:
            await client.call(rpc, request, timeout=DEADLINE)

        async def by_channel(rpc: str, request: Any) -> None:
            await next(turns).unary(rpc, request.SerializeToString(), timeout=DEADLINE)

        async with asyncio.TaskGroup() as tasks:
            made = [
                tasks.create_task(load.call(who, number, make))
                for number in range(CALLERS)
                for who, make in (("ours", by_client), ("plain", by_channel))
            ]
            try:
                await load.goes_on()
                yield load
            finally:
                for task in made:
                    task.cancel()


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Fleet]:
    """Two nodes of each role."""
    async with fleet(nodes_per_standby=2) as made:
        await made.start_standin()
        async with made.client() as client:
            await client.wait_ready()
            await made.create_indexes(client, CALLERS)
        await asyncio.gather(made.start_router(), made.start_router())
        yield made


@pytest.fixture
async def balancer(running: Fleet) -> AsyncIterator[Balancer]:
    async with balancing() as made:
        made.endpoints = [endpoint(router) for router in running.routers]
        yield made


def endpoint(node: NodeProcess) -> tuple[str, int]:
    return node.host, node.grpc_port


def nodes_of(running: Fleet, role: Role) -> list[NodeProcess]:
    return [node for node in running.nodes if node.role is role]


async def metric(node: NodeProcess, name: str) -> float:
    """Return a sample of a node's metrics."""
    async with aiohttp.ClientSession() as http, http.get(f"{node.rest_url}/metrics") as response:
        found = re.search(rf"^{re.escape(name)} (\S+)$", await response.text(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def eligible(router: NodeProcess) -> float:
    """Return how many backends a router can send reads to, or writes."""
    async with aiohttp.ClientSession() as http, http.get(f"{router.rest_url}/metrics") as response:
        text = await response.text()
    return len(re.findall(r'^metastore_proxy_backend_eligibility\{.*"eligible"\} 1', text, re.M))


async def _has_all(router: NodeProcess, running: Fleet) -> bool:
    return await eligible(router) >= len(running.nodes) - len(running.routers)


def logged(node: NodeProcess, message: str) -> int:
    return node.log_path.read_text(encoding="utf-8").count(message)


async def drain(node: NodeProcess, running: Fleet) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "--data-dir", str(running.directory), "--node-id", node.node_id],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def drain_by_command(node: NodeProcess, running: Fleet) -> None:
    done = await drain(node, running)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is not ready any more" in done.stdout
    assert "is drained after" in done.stdout
    await node.wait_status(503)


@pytest.mark.parametrize("by_command", [False, True], ids=["SIGTERM", "drain"])
async def test_no_call_fails_while_a_node_of_each_role_is_restarted(
    running: Fleet, balancer: Balancer, by_command: bool
) -> None:
    roles = [Role.ROUTER] if by_command else list(Role)
    nodes = [nodes_of(running, role)[0] for role in roles]
    seconds: dict[str, float] = {}
    async with loading(running, balancer) as load:
        for node in nodes:
            # As Kubernetes does: the endpoint goes when the process is told to end, not before.
            balancer.endpoints = [one for one in balancer.endpoints if one != endpoint(node)]
            began = time.monotonic()
            if by_command:
                await drain_by_command(node, running)
            assert await node.terminate() == 0
            seconds[node.role.value] = round(time.monotonic() - began, 2)
            await load.goes_on()
        for node in nodes:
            node.start()
        for node in nodes:
            await node.wait_ready()
        for router in running.routers:
            await until(lambda: _has_all(router, running))  # noqa: B023
        balancer.endpoints = [endpoint(router) for router in running.routers]
        await load.goes_on()
    log.info("stopped within %s s: %s", seconds, dict(load.done))
    assert load.failures == []


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


async def test_a_broken_file_changes_nothing_and_a_good_one_loses_no_call(
    running: Fleet, balancer: Balancer
) -> None:
    router = running.routers[0]
    path = running.config_path(router)
    good = path.read_text(encoding="utf-8")
    failures = 'metastore_proxy_config_reloads_total{result="failure"}'
    successes = 'metastore_proxy_config_reloads_total{result="success"}'
    failed, succeeded = await metric(router, failures), await metric(router, successes)
    async with loading(running, balancer) as load:
        for broken in ("{", '{"version": "0.8", "proxy": {"serve_stail": true}}'):
            before = await metric(router, failures)
            write(path, broken)
            router.reload()
            await until(lambda: _is(router, failures, before + 1))  # noqa: B023
            assert await _has_all(router, running)
            await load.goes_on()
        one_only = json.loads(good)
        one_only["proxy"]["replicas"] = one_only["proxy"]["replicas"][:1]
        one_only["proxy"]["max_lag"] = "20s"
        write(path, json.dumps(one_only))
        router.reload()
        await until(lambda: _is(router, successes, succeeded + 1))
        assert await eligible(router) == len(running.nodes) - len(running.routers) - 1
        await load.goes_on()
        write(path, good)
        router.reload()
        await until(lambda: _has_all(router, running))
        await load.goes_on()
    log.info("reloaded: %s", dict(load.done))
    assert load.failures == []
    assert await metric(router, failures) == failed + 2
    assert logged(router, "configuration not reloaded: nothing is changed") == 2
    assert logged(router, "configuration reloaded") == 2


async def _is(node: NodeProcess, name: str, value: float) -> bool:
    return await metric(node, name) == value
