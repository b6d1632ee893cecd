"""What a router answers itself: health, explanations, that it has no database."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from tests.support.routers import Caller
from tests.support.scripted_router import Setup
from tests.support.waiting import until


async def vector(caller: Caller) -> dict[str, bool]:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    found = {}
    for service in ("", "quickwit.metastore.MetastoreService", "read.stale", "write"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        found[service] = answer.status == health_pb2.HealthCheckResponse.SERVING
    return found


async def test_the_health_vector_follows_the_backends(setup: Setup) -> None:
    assert all((await vector(setup.caller)).values())
    await setup.primary.show(False)
    await until(lambda: not setup.router.client.backends().serving_primaries)
    await until_vector(setup.caller, write=False, read=True)
    for node in setup.replicas:
        await node.show(False)
    await until_vector(setup.caller, write=False, read=False)
    url = f"http://127.0.0.1:{setup.router.config.rest_listen_port}/health/readyz"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.status == 503
        assert "no backend serves" in (await response.json())["failures"]["backend_serves"]
    await setup.primary.show(True)
    await until_vector(setup.caller, write=True, read=True)


async def until_vector(caller: Caller, *, write: bool, read: bool) -> None:
    expected = {
        "": read,
        "quickwit.metastore.MetastoreService": read,
        "read.stale": read,
        "write": write,
    }
    async with asyncio.timeout(10):
        # The vector is asked over the wire, so that each look is a step of its own.
        while await vector(caller) != expected:
            pass


# Explaining


async def explain(caller: Caller, **request: Any) -> pb.ExplainRouteResponse:
    send = caller.channel.unary_unary(
        "/metastore.proxy.v1.ProxyService/ExplainRoute",
        pb.ExplainRouteRequest.SerializeToString,
        pb.ExplainRouteResponse.FromString,
    )
    answer: pb.ExplainRouteResponse = await send(pb.ExplainRouteRequest(**request), timeout=10)
    return answer


async def test_explain_route_names_each_backend_and_sends_nothing(setup: Setup) -> None:
    addresses = {one.address for one in setup.nodes}
    replicas = {one.address for one in setup.replicas}
    answer = await explain(setup.caller, rpc="IndexMetadata")
    assert {one.address for one in answer.verdicts} == addresses
    assert (answer.route, answer.chosen in replicas) == ("replica", True)
    assert all(one.eligible for one in answer.verdicts if one.role == "replica")
    write = await explain(setup.caller, rpc="CreateIndex")
    assert (write.route, write.chosen) == ("primary", setup.primary.address)
    assert not any(one.eligible for one in write.verdicts if one.role == "replica")
    bounded = await explain(setup.caller, rpc="IndexMetadata", max_lag=1.0)
    assert (bounded.route, bounded.chosen) == ("fallback", setup.primary.address)
    assert {one.reason for one in bounded.verdicts if one.role == "replica"} == {
        "its lag is unknown"
    }
    allowed = await explain(setup.caller, rpc="ListShards", allow_replica=True)
    assert allowed.route == "replica"
    strict = await explain(setup.caller, rpc="IndexMetadata", consistency="primary")
    assert (strict.route, strict.chosen) == ("primary", setup.primary.address)
    assert all(one.explanation for one in (answer, write, bounded, allowed, strict))
    assert not any(node.calls for node in setup.nodes)


@pytest.mark.parametrize(
    ("request_fields", "named"),
    [
        ({"rpc": "Nonsense"}, "`rpc`"),
        ({"rpc": "IndexMetadata", "min_lsn": "5"}, "x-metastore-min-lsn"),
        ({"rpc": "IndexMetadata", "consistency": "strong"}, "x-metastore-consistency"),
        ({"rpc": "IndexMetadata", "max_lag": -1.0}, "max_lag"),
        ({"rpc": "IndexMetadata", "max_lag": float("nan")}, "max_lag"),
    ],
)
async def test_explain_route_refuses_what_it_cannot_explain(
    setup: Setup, request_fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await explain(setup.caller, **request_fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in (caught.value.details() or "")


async def test_explain_route_refuses_what_is_no_request(setup: Setup) -> None:
    path = "/metastore.proxy.v1.ProxyService/ExplainRoute"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.channel.unary_unary(path)(b"\x0a\x02\xff\xfe", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "`rpc`" in (caught.value.details() or "")


async def test_a_router_says_that_it_has_no_database(setup: Setup) -> None:
    send = setup.caller.channel.unary_unary(
        "/metastore.proxy.v1.ProxyService/GetReplication",
        pb.GetReplicationRequest.SerializeToString,
        pb.GetReplicationResponse.FromString,
    )
    answer = await send(pb.GetReplicationRequest(), timeout=10)
    assert (answer.node_id, answer.role) == ("router-1", "metastore_router")
    assert not answer.database_reachable
    assert answer.lsn == ""
