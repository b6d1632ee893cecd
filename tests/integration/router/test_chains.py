"""Routers before routers, and before themselves."""

from __future__ import annotations

from contextlib import AsyncExitStack

import grpc
import pytest

from tests.support.nodes import address
from tests.support.routers import Caller, router_config, routing
from tests.support.scripted_router import Setup, echo


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
