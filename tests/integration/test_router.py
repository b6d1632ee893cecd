"""A router in front of scripted nodes: what goes through it comes out as it went in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy import errors
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.router_node import RouterNode
from proxy.routing.catalogue import RPCS
from tests.support.fake_node import FakeNode, fail
from tests.support.nodes import address
from tests.support.routers import Caller, router_config, routing
from tests.support.waiting import until

ANSWER = b"\x0a\x03abc\xff not a message"


class Setup:
    """A primary, two replicas, a router before them, and a caller."""

    def __init__(
        self, primary: FakeNode, replicas: list[FakeNode], router: RouterNode, caller: Caller
    ) -> None:
        self.primary = primary
        self.replicas = replicas
        self.router = router
        self.caller = caller

    @property
    def nodes(self) -> list[FakeNode]:
        return [self.primary, *self.replicas]

    def script(self, unary: Any) -> None:
        for node in self.nodes:
            node.unary = unary

    async def all_serving(self) -> None:
        await until(lambda: len(self.router.client.backends().serving_replicas) == 2)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(FakeNode("primary-1", role="metastore"))
        replicas = [
            await stack.enter_async_context(FakeNode(f"replica-{number}")) for number in (1, 2)
        ]
        config = router_config([primary.address], [one.address for one in replicas])
        router = await stack.enter_async_context(routing(config))
        caller = await stack.enter_async_context(Caller(address(router)))
        made = Setup(primary, replicas, router, caller)
        await made.all_serving()
        yield made


async def echo(name: str, raw: bytes, _context: Any) -> bytes:
    return name.encode() + b"|" + raw


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS.values() if not rpc.is_streaming], ids=str)
async def test_each_unary_rpc_passes_as_bytes_on_the_right_route(setup: Setup, rpc: Any) -> None:
    setup.script(echo)
    request = b"\xff\x00 these bytes are no message"
    answer, facts = await setup.caller.unary(rpc.name, request)
    assert answer == rpc.name.encode() + b"|" + request
    on_replica = rpc.is_stale_tolerant
    assert facts["x-metastore-route"] == ("replica" if on_replica else "primary")
    assert facts["x-metastore-served-by"].startswith("replica-" if on_replica else "primary-1")
    assert facts["x-metastore-role"] == ("metastore_read_replica" if on_replica else "metastore")


async def test_a_stream_passes_as_bytes(setup: Setup) -> None:
    messages = [b"\xff" + bytes([number]) * 100_000 for number in range(20)]

    async def stream(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    for node in setup.nodes:
        node.stream = stream
    call = setup.caller.stream("ListSplits", b"\x00")
    assert [message async for message in call] == messages
    assert dict(await call.trailing_metadata())["x-metastore-route"] == "replica"


async def test_the_callers_metadata_goes_along(setup: Setup) -> None:
    await setup.caller.unary("IndexMetadata", traceparent="00-abc-def-01", custom_bin_="x")
    (seen,) = [one for node in setup.replicas for one in node.metadata]
    assert seen["traceparent"] == "00-abc-def-01"
    assert seen["x-metastore-forwarded"].startswith("router-1/")


async def test_a_position_goes_along_and_a_bound_does_not(setup: Setup) -> None:
    await setup.caller.unary(
        "IndexMetadata", x_metastore_allow_replica="true", x_metastore_want_lsn="true"
    )
    await setup.caller.unary("CreateIndex")
    (read,) = [one for node in setup.replicas for one in node.metadata]
    (write,) = setup.primary.metadata
    assert read["x-metastore-want-lsn"] == "true"
    assert "x-metastore-want-lsn" not in write


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-metastore-max-lag", "soon"),
        ("x-metastore-min-lsn", "12"),
        ("x-metastore-allow-replica", "yes"),
        ("x-metastore-consistency", "strong"),
        ("x-metastore-want-lsn", "1"),
    ],
)
async def test_metadata_that_does_not_parse_is_refused(
    setup: Setup, header: str, value: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("IndexMetadata", **{header: value})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert header in (caught.value.details() or "")
    assert not any(node.calls for node in setup.nodes)


async def test_the_callers_deadline_holds_at_the_node(setup: Setup) -> None:
    left: list[float | None] = []

    async def note(_name: str, _raw: bytes, context: Any) -> bytes:
        left.append(context.time_remaining())
        return b""

    setup.script(note)
    await setup.caller.unary("CreateIndex", timeout=7.0)
    await setup.caller.unary("IndexMetadata", timeout=3.0)
    await setup.caller.unary("CreateIndex", timeout=None)
    assert left[0] is not None
    assert 6.0 < left[0] < 7.1
    assert left[1] is not None
    assert 2.0 < left[1] < 3.1
    assert left[2] is None or left[2] > 3600


async def test_a_call_past_its_deadline_is_ended_at_the_node(setup: Setup) -> None:
    async def hang(_name: str, _raw: bytes, _context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    setup.script(hang)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex", timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: setup.primary.cancelled == 1)


async def test_the_end_of_the_callers_call_ends_the_call_at_the_node(setup: Setup) -> None:
    started = asyncio.Event()

    async def hang(_name: str, _raw: bytes, _context: Any) -> bytes:
        started.set()
        await asyncio.Event().wait()
        return b""

    setup.script(hang)
    for rpc in ("CreateIndex", "IndexMetadata"):
        started.clear()
        call = asyncio.create_task(setup.caller.unary(rpc, timeout=None))
        await started.wait()
        before = sum(node.cancelled for node in setup.nodes)
        call.cancel()
        await asyncio.wait({call})
        await until(lambda: sum(node.cancelled for node in setup.nodes) == before + 1)  # noqa: B023
    await until(lambda: setup.router.in_flight == 0)


async def test_leaving_a_stream_ends_it_at_the_node(setup: Setup) -> None:
    async def endless(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield bytes(500_000)

    for node in setup.nodes:
        node.stream = endless
    call = setup.caller.stream("ListSplits", timeout=None)
    assert len(await call.read()) == 500_000
    call.cancel()
    await until(lambda: sum(node.cancelled for node in setup.nodes) == 1)
    await until(lambda: setup.router.in_flight == 0)


@pytest.mark.parametrize("rpc", ["CreateIndex", "IndexMetadata"])
async def test_an_error_keeps_its_code_text_and_details(setup: Setup, rpc: str) -> None:
    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.NotFound(errors.index("missing")))
        return b""

    setup.script(refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary(rpc)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "index `missing` not found"
    payload = dict(caught.value.trailing_metadata() or ())["qw-error-bin"]
    assert payload == errors.NotFound(errors.index("missing")).to_json()
    assert sum(node.calls[rpc] for node in setup.nodes) == 1


async def test_an_error_of_a_later_version_passes_byte_for_byte(setup: Setup) -> None:
    payload = b'{"Quarantined":{"index_id":"i","until":5}}'

    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            "quarantined",
            (("qw-error-bin", payload), ("x-other", "kept")),
        )
        return b""

    setup.script(refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex")
    metadata = dict(caught.value.trailing_metadata() or ())
    assert metadata["qw-error-bin"] == payload
    assert metadata["x-other"] == "kept"
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "quarantined"


async def test_a_failed_read_goes_on_to_another_replica(setup: Setup) -> None:
    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.Unavailable("going away"))
        return b""

    setup.replicas[0].unary = refuse
    setup.replicas[1].unary = echo
    for _ in range(5):
        answer, facts = await setup.caller.unary("IndexMetadata", b"x")
        assert answer == b"IndexMetadata|x"
        assert facts["x-metastore-served-by"] == "replica-2"


async def test_a_write_is_sent_once(setup: Setup) -> None:
    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.Db("deadlock"))
        return b""

    setup.script(refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert setup.primary.calls["CreateIndex"] == 1


async def test_a_total_outage_is_unavailable_with_the_reason(setup: Setup) -> None:
    for node in setup.nodes:
        await node.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("IndexMetadata", timeout=5.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    payload = dict(caught.value.trailing_metadata() or ())["qw-error-bin"]
    assert isinstance(payload, bytes)
    assert "Unavailable" in json.loads(payload)


async def test_a_request_over_the_limit_is_refused_as_by_a_node(setup: Setup) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await setup.caller.unary("CreateIndex", bytes(20 * 1024 * 1024 + 1))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "grpc.max_message_size" in (caught.value.details() or "")


# Health and readiness


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


# Loops


async def test_two_routers_that_name_each_other_do_not_loop() -> None:
    async with AsyncExitStack() as stack:
        first = router_config(["127.0.0.1:1"], node_id="same-id")
        port = first.grpc_listen_port
        second = router_config([f"127.0.0.1:{port}"], node_id="same-id")
        first = router_config(
            [f"127.0.0.1:{second.grpc_listen_port}"], node_id="same-id", port=port
        )
        one = await stack.enter_async_context(routing(first, wait=False))
        await stack.enter_async_context(routing(second, wait=False))
        caller = await stack.enter_async_context(Caller(address(one)))
        for rpc in ("IndexMetadata", "CreateIndex"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.unary(rpc, timeout=20.0)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_router_that_names_itself_refuses_at_once() -> None:
    config = router_config(["127.0.0.1:1"])
    config = router_config([f"127.0.0.1:{config.grpc_listen_port}"], port=config.grpc_listen_port)
    async with routing(config, wait=False) as router, Caller(address(router)) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.unary("IndexMetadata", timeout=20.0)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_router_behind_a_router_serves(setup: Setup) -> None:
    setup.script(echo)
    config = router_config([address(setup.router)], node_id="router-2")
    async with routing(config) as outer, Caller(address(outer)) as caller:
        answer, facts = await caller.unary("IndexMetadata", b"x")
        assert answer == b"IndexMetadata|x"
        assert facts["x-metastore-served-by"].startswith("replica-")
        (seen,) = [one for node in setup.replicas for one in node.metadata]
        hops = seen["x-metastore-forwarded"].split(",")
        assert [hop.partition("/")[0] for hop in hops] == ["router-2", "router-1"]


@pytest.mark.parametrize("rpc", ["IndexMetadata", "ListShards"])
@pytest.mark.parametrize(
    ("wish", "route"),
    [
        ({}, "replica"),
        ({"x_metastore_consistency": "primary"}, "primary"),
        ({"x_metastore_max_lag": "0"}, "fallback"),
    ],
)
async def test_a_wish_holds_at_a_router_behind_a_router(
    setup: Setup, rpc: str, wish: dict[str, str], route: str
) -> None:
    config = router_config([address(setup.router)], node_id="router-2")
    async with routing(config) as outer, Caller(address(outer)) as caller:
        allowed = {"x_metastore_allow_replica": "true"}
        _, facts = await caller.unary(rpc, **allowed, **wish)
        assert facts["x-metastore-route"] == route


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


async def test_what_a_node_says_beside_its_answer_goes_along(setup: Setup) -> None:
    async def talkative(_name: str, _raw: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(
            (("x-other", "kept"), ("x-metastore-lsn", "16/B374D848"), ("x-metastore-lag", "0.5"))
        )
        return b""

    setup.script(talkative)
    for rpc in ("IndexMetadata", "CreateIndex"):
        _, facts = await setup.caller.unary(rpc)
        assert facts["x-other"] == "kept"
        assert facts["x-metastore-lsn"] == "16/B374D848"
        assert facts["x-metastore-lag"] == "0.500"
