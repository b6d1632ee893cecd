"""Slow calls and failures in the logs of every node that they pass, under one ID."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from proxy.config import NodeConfig
from proxy.identifiers import index_uid_message
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.log_lines import written
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch
from tests.support.routers import Caller, router_config, routing
from tests.support.splitting import document, dumped, query
from tests.support.waiting import until

LIST_INDEXES = pb.ListIndexesMetadataRequest(index_id_patterns=["logs-*"]).SerializeToString()
LIST_SPLITS = query(split_states=["Published"]).SerializeToString()
UID = "logs:01K33Z58DJRFAEBXG71GMKMJTW"
ALWAYS = 1e-9


def noting(config: NodeConfig, threshold: float | None) -> NodeConfig:
    proxy = replace(config.proxy, slow_query_threshold=threshold, shutdown_delay=0.0)
    return replace(config, proxy=proxy)


@asynccontextmanager
async def primary(
    scratch: Scratch, threshold: float | None = ALWAYS, *, connections: int = 10
) -> AsyncIterator[tuple[Node, Caller]]:
    config = noting(node_config(Role.METASTORE, scratch.primary_uri, heartbeat=False), threshold)
    config = replace(config, pool=replace(config.pool, max_connections=connections))
    async with running(config) as node, Caller(address(node)) as caller:
        yield node, caller


async def test_a_slow_call_says_what_it_asked_for_and_where_its_time_went(clean: Scratch) -> None:
    with written() as lines:
        async with primary(clean) as (_, caller):
            await caller.unary("ListIndexesMetadata", LIST_INDEXES, x_request_id="abc-1")
    (line,) = lines.of("slow call")
    assert line["level"] == "WARN"
    assert line["rpc"] == "ListIndexesMetadata"
    assert line["request_id"] == "abc-1"
    assert line["filter"] == "index_id_patterns=[logs-*]"
    assert line["code"] == "OK"
    assert line["statements"] == 1
    assert 0 < line["sql_seconds"] <= line["seconds"]
    assert line["bytes"] > 0


async def test_the_wait_for_a_session_is_told_apart_from_the_statement(clean: Scratch) -> None:
    with written() as lines:
        async with primary(clean, connections=1) as (node, caller):
            async with node.database.acquire():
                call = asyncio.create_task(caller.unary("ListIndexesMetadata", LIST_INDEXES))
                await until(lambda: node.database.stats().waiting > 0)
            await call
    (line,) = lines.of("slow call")
    assert line["pool_wait_seconds"] > 0
    assert line["pool_wait_seconds"] + line["sql_seconds"] <= line["seconds"] + 0.001


@pytest.mark.parametrize("threshold", [None, 3600.0])
async def test_a_call_that_is_fast_enough_is_not_mentioned(
    clean: Scratch, threshold: float | None
) -> None:
    with written("debug") as lines:
        async with primary(clean, threshold) as (_, caller):
            await caller.unary("ListIndexesMetadata", LIST_INDEXES)
    assert lines.of("slow call") == []
    assert [line["rpc"] for line in lines.of("call")] == ["ListIndexesMetadata"]


async def test_a_slow_stream_is_seen_at_the_router_and_at_the_node_under_one_id(
    clean: Scratch,
) -> None:
    rows = 250
    stored = dumped(document(index_uid_message(UID), "split"))
    await clean.execute(
        f"INSERT INTO indexes (index_uid, index_id, index_metadata_json) "
        f"VALUES ('{UID}', 'logs', '{{}}');"
        "INSERT INTO splits "
        "(split_id, split_state, tags, split_metadata_json, index_uid, node_id) "
        f"SELECT 'split-' || n, 'Published', '{{}}', '{stored}', '{UID}', 'indexer-1' "
        f"FROM generate_series(1, {rows}) n"
    )
    with written() as lines:
        async with primary(clean) as (node, _):
            config = noting(router_config([address(node)]), ALWAYS)
            async with routing(config) as router, Caller(address(router)) as caller:
                messages = [one async for one in caller.stream("ListSplits", LIST_SPLITS)]
    assert len(messages) == 3
    at_router, at_node = sorted(lines.of("slow call"), key=lambda line: "rows" in line)
    assert at_router["request_id"] == at_node["request_id"]
    assert at_router["filter"] == at_node["filter"] == "split_states=[Published]"
    assert at_router["bytes"] == at_node["bytes"] == sum(map(len, messages))
    assert at_router["messages"] == at_node["messages"] == 3
    assert (at_router["served_by"], at_router["route"], at_router["attempts"]) == (
        "node-1",
        "fallback",
        1,
    )
    assert at_node["rows"] == rows
    assert at_node["sql_seconds"] > 0
    assert "sql_seconds" not in at_router


async def failure(
    caller: Caller, template_id: str, **metadata: str
) -> tuple[grpc.StatusCode, list[Any]]:
    request = pb.GetIndexTemplateRequest(template_id=template_id).SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.unary("GetIndexTemplate", request, **metadata)
    told = caught.value.trailing_metadata() or ()
    return caught.value.code(), [value for key, value in told if key == "x-request-id"]


async def test_a_failure_tells_its_caller_under_which_id_the_logs_have_it(clean: Scratch) -> None:
    with written() as lines:
        async with primary(clean) as (node, at_node):
            config = noting(router_config([address(node)]), ALWAYS)
            async with routing(config) as router, Caller(address(router)) as at_router:
                assert await failure(at_node, "one", x_request_id="a/1") == (
                    grpc.StatusCode.NOT_FOUND,
                    ["a/1"],
                )
                _, (made,) = await failure(at_router, "two")
    found = [(line["request_id"], line["code"]) for line in lines.of("slow call")]
    # The same line of the router is a repetition, here where both write to one log.
    assert found == [("a/1", "NOT_FOUND"), (made, "NOT_FOUND")]


async def test_a_call_that_its_caller_takes_back_is_cancelled_and_no_error(clean: Scratch) -> None:
    with written() as lines:
        async with primary(clean, connections=1) as (node, caller), node.database.acquire():
            call = asyncio.create_task(caller.unary("ListIndexesMetadata", LIST_INDEXES))
            await until(lambda: node.database.stats().waiting > 0)
            call.cancel()
            await until(lambda: bool(lines.of("slow call")))
    (line,) = lines.of("slow call")
    assert line["code"] == "CANCELLED"
