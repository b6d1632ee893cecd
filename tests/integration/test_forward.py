"""A replica's node with `proxy.forward`: what it cannot serve itself is served elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy.config import NodeConfig
from proxy.demo.postgres import PostgresPair
from proxy.demo.postgres_host import free_port
from proxy.node import Node
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.store import migrations
from tests.support.nodes import address, node_config, running
from tests.support.pairs import QuickPair
from tests.support.postgres import opened
from tests.support.routers import Caller
from tests.support.waiting import until

DATABASE = "quickwit"
LIST_INDEXES = pb.ListIndexesMetadataRequest(index_id_patterns=["*"]).SerializeToString()
LIST_TEMPLATES = pb.ListIndexTemplatesRequest().SerializeToString()
LIST_SPLITS = pb.ListSplitsRequest(
    query_json='{"index_uids":["i:00000000000000000000000000"],"node_id":null,"limit":null,'
    '"offset":null,"split_states":[],"tags":null,"time_range":{"start":"Unbounded",'
    '"end":"Unbounded"},"max_time_range_end":null,"delete_opstamp":{"start":"Unbounded",'
    '"end":"Unbounded"},"update_timestamp":{"start":"Unbounded","end":"Unbounded"},'
    '"create_timestamp":{"start":"Unbounded","end":"Unbounded"},"mature":"Unbounded",'
    '"sort_by":"None","after_split":null}'
).SerializeToString()


@pytest.fixture
async def pair() -> AsyncIterator[PostgresPair]:
    """A migrated pair of the test's own, whose servers it may stop."""
    async with QuickPair() as made:
        await made.create_database(DATABASE)
        async with opened(made.primary_uri(DATABASE)) as database:
            await migrations.apply(database)
        await made.wait_caught_up()
        yield made


def forwarding(
    config: NodeConfig, primary: list[str], replicas: list[str], **more: Any
) -> NodeConfig:
    proxy = replace(
        config.proxy,
        forward=True,
        primary=tuple(primary),
        replicas=tuple(replicas),
        probe_interval=0.1,
        shutdown_delay=0.0,
        **more,
    )
    return replace(config, proxy=proxy)


class Setup:
    def __init__(self, primary: Node, replica: Node, caller: Caller) -> None:
        self.primary = primary
        self.replica = replica
        self.caller = caller

    async def served(self, rpc: str, request: bytes, **metadata: str) -> tuple[str, str]:
        _, facts = await self.caller.unary(rpc, request, **metadata)
        return facts["x-metastore-served-by"], facts.get("x-metastore-route", "")


@asynccontextmanager
async def served(pair: PostgresPair, **more: Any) -> AsyncIterator[Setup]:
    """A primary's node, and a replica's node that passes on, with itself among its replicas."""
    async with AsyncExitStack() as stack:
        config = node_config(Role.METASTORE, pair.primary_uri(DATABASE), node_id="primary-1")
        config = replace(config, proxy=replace(config.proxy, heartbeat_interval=0.1))
        primary = await stack.enter_async_context(running(config))
        config = node_config(Role.READ_REPLICA, pair.standby_uri(DATABASE), node_id="replica-1")
        own = f"127.0.0.1:{config.grpc_listen_port}"
        config = forwarding(config, [address(primary)], [own], **more)
        replica = await stack.enter_async_context(running(config))
        await until(lambda: replica.readiness.serves_itself)
        caller = await stack.enter_async_context(Caller(address(replica)))
        yield Setup(primary, replica, caller)


async def health(caller: Caller, service: str) -> bool:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_reads_of_the_six_are_served_here_and_others_go_on(pair: PostgresPair) -> None:
    async with served(pair) as setup:
        assert await setup.served("ListIndexesMetadata", LIST_INDEXES) == ("replica-1", "")
        assert await setup.served("ListIndexTemplates", LIST_TEMPLATES) == ("primary-1", "primary")
        allowed = {"x_metastore_allow_replica": "true"}
        assert await setup.served("ListIndexTemplates", LIST_TEMPLATES, **allowed) == (
            "replica-1",
            "",
        )
        strict = {"x_metastore_consistency": "primary"}
        assert await setup.served("ListIndexesMetadata", LIST_INDEXES, **strict) == (
            "primary-1",
            "primary",
        )


async def test_writes_are_refused_as_ever(pair: PostgresPair) -> None:
    async with served(pair) as setup:
        for rpc in ("CreateIndex", "GetClusterIdentity"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await setup.caller.unary(rpc)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_no_read_is_lost_when_the_standby_goes_and_returns(pair: PostgresPair) -> None:
    async with served(pair) as setup:
        url = f"http://127.0.0.1:{setup.replica.config.rest_listen_port}/health/readyz"
        for stop in (pair.standby.kill, pair.standby.stop):
            answers: list[str] = []
            done = asyncio.Event()

            async def read(answers: list[str] = answers, done: asyncio.Event = done) -> None:
                while not done.is_set():
                    answers.append((await setup.served("ListIndexesMetadata", LIST_INDEXES))[0])
                    call = setup.caller.stream("ListSplits", LIST_SPLITS)
                    assert [message async for message in call] == []
                    facts = dict(await call.trailing_metadata())
                    answers.append(facts["x-metastore-served-by"])

            readers = [asyncio.create_task(read()) for _ in range(4)]
            await until(lambda answers=answers: "replica-1" in answers)
            await stop()
            await until(lambda: not setup.replica.readiness.serves_itself)
            answers.clear()
            await until(lambda answers=answers: len(answers) > 20)
            assert set(answers) == {"primary-1"}
            assert setup.replica.readiness.is_ready
            assert await health(setup.caller, "")
            assert not await health(setup.caller, "read.stale")
            async with aiohttp.ClientSession() as http, http.get(url) as response:
                assert response.status == 200
            await pair.standby.start()
            await until(lambda: setup.replica.readiness.serves_itself)
            answers.clear()
            await until(lambda answers=answers: len(answers) > 20)
            done.set()
            await asyncio.gather(*readers)
            assert "replica-1" in answers


async def test_a_replica_over_its_bound_passes_on(pair: PostgresPair) -> None:
    async with served(pair, max_lag=0.5) as setup:
        await until(lambda: setup.replica.vector().fresh)
        assert await setup.served("ListIndexesMetadata", LIST_INDEXES) == ("replica-1", "")
        await pair.pause_replay()

        async def is_passed_on() -> bool:
            by = await setup.served("ListIndexesMetadata", LIST_INDEXES)
            return by == ("primary-1", "fallback")

        await until(is_passed_on)
        await pair.resume_replay()
        await until(lambda: setup.replica.vector().fresh)
        assert (await setup.served("ListIndexesMetadata", LIST_INDEXES))[0] == "replica-1"


async def test_a_callers_own_bound_and_position_pass_on(pair: PostgresPair) -> None:
    async with served(pair) as setup:
        await until(lambda: setup.replica.vector().fresh)
        await pair.pause_replay()
        try:
            async with Caller(address(setup.primary)) as writer:
                _, facts = await writer.unary("GetClusterIdentity", x_metastore_want_lsn="true")
            position = {"x_metastore_min_lsn": facts["x-metastore-lsn"]}
            by = await setup.served("ListIndexesMetadata", LIST_INDEXES, **position)
            assert by == ("primary-1", "fallback")
            bound = {"x_metastore_max_lag": "0.2"}

            async def is_passed_on() -> bool:
                by = await setup.served("ListIndexesMetadata", LIST_INDEXES, **bound)
                return by == ("primary-1", "fallback")

            await until(is_passed_on)
            assert (await setup.served("ListIndexesMetadata", LIST_INDEXES))[0] == "replica-1"
        finally:
            await pair.resume_replay()


@pytest.mark.parametrize("serve_stale", [True, False])
async def test_without_a_primary_a_replica_over_its_bound_answers_labelled(
    pair: PostgresPair, serve_stale: bool
) -> None:
    async with served(pair, max_lag=0.3, serve_stale=serve_stale) as setup:
        await until(lambda: setup.replica.vector().fresh)
        await setup.primary.close()
        await until(lambda: not setup.replica.vector().fresh)
        if serve_stale:
            assert await setup.served("ListIndexesMetadata", LIST_INDEXES) == (
                "replica-1",
                "stale",
            )
            series, labels = "metastore_proxy_stale_answers_total", {"rpc": "list_indexes_metadata"}
            assert setup.replica.metrics.registry.get_sample_value(series, labels) == 1.0
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await setup.served("ListIndexesMetadata", LIST_INDEXES)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_two_replicas_that_name_each_other_do_not_loop(pair: PostgresPair) -> None:
    async with AsyncExitStack() as stack:
        configs = [
            node_config(Role.READ_REPLICA, pair.standby_uri(DATABASE), node_id=f"replica-{number}")
            for number in (1, 2)
        ]
        targets = [f"127.0.0.1:{config.grpc_listen_port}" for config in configs]
        dead = f"127.0.0.1:{free_port()}"
        nodes = [
            await stack.enter_async_context(running(forwarding(config, [dead], targets)))
            for config in configs
        ]
        await pair.standby.kill()
        await until(lambda: not any(node.readiness.serves_itself for node in nodes))
        await until(lambda: not any(node.readiness.is_ready for node in nodes))
        caller = await stack.enter_async_context(Caller(address(nodes[0])))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.unary("ListIndexesMetadata", LIST_INDEXES, timeout=20.0)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_that_was_passed_on_is_not_passed_on_again(pair: PostgresPair) -> None:
    async with served(pair) as setup:
        passed = {"x_metastore_forwarded": "somebody/1234"}
        by = await setup.served("ListIndexTemplates", LIST_TEMPLATES, **passed)
        assert by == ("replica-1", "")
        await pair.standby.kill()
        await until(lambda: not setup.replica.readiness.serves_itself)
        with pytest.raises(grpc.aio.AioRpcError):
            await setup.served("ListIndexesMetadata", LIST_INDEXES, **passed)
        assert (await setup.served("ListIndexesMetadata", LIST_INDEXES))[0] == "primary-1"


async def test_errors_from_elsewhere_arrive_whole(pair: PostgresPair) -> None:
    async with served(pair) as setup:
        request = pb.GetIndexTemplateRequest(template_id="missing").SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await setup.caller.unary("GetIndexTemplate", request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        metadata = dict(caught.value.trailing_metadata() or ())
        assert metadata["x-metastore-served-by"] == "primary-1"
        assert metadata["qw-error-bin"]


async def explained(node: Node, **request: Any) -> Any:
    async with Caller(address(node)) as caller:
        send = caller.channel.unary_unary(
            "/metastore.proxy.v1.ProxyService/ExplainRoute",
            proxy_pb2.ExplainRouteRequest.SerializeToString,
            proxy_pb2.ExplainRouteResponse.FromString,
        )
        return await send(proxy_pb2.ExplainRouteRequest(**request), timeout=10)


async def test_a_node_explains_where_it_would_send_a_call(pair: PostgresPair) -> None:
    async with served(pair) as setup:
        for node, expected in ((setup.replica, address(setup.primary)), (setup.primary, "")):
            answer = await explained(node, rpc="ListShards")
            assert (answer.route, answer.chosen) == ("primary", expected)
            assert answer.verdicts
        itself = await explained(setup.replica, rpc="ListSplits")
        assert (itself.route, itself.chosen) == ("replica", "")
        assert itself.explanation.startswith("node replica-1 serves ListSplits itself")
        assert (itself.verdicts[0].node_id, itself.verdicts[0].eligible) == ("replica-1", True)
        strict = await explained(setup.replica, rpc="ListSplits", consistency="primary")
        assert (strict.route, strict.chosen) == ("primary", address(setup.primary))
        assert not strict.verdicts[0].eligible
        # A node that forwards refuses writes all the same.
        write = await explained(setup.replica, rpc="CreateIndex")
        assert (write.route, write.chosen) == ("", "")
