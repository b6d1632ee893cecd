"""What goes along with a call through a router: both ways, before and after the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from proxy.routing.catalogue import RPCS
from tests.support.fake_node import FakeNode
from tests.support.nodes import address
from tests.support.routers import Caller, router_config, routing
from tests.support.waiting import until

READS = ["IndexMetadata", "ListSplits", "CreateIndex"]


@asynccontextmanager
async def routed(*, lag: str = "0.250") -> AsyncIterator[tuple[FakeNode, Caller]]:
    """Run a node that is both primary and replica to a router, and a caller of the router."""
    async with (
        FakeNode("primary-1", role="metastore", lag=lag) as node,
        routing(router_config([node.address])) as router,
        Caller(address(router)) as caller,
    ):
        await until(lambda: bool(router.client.backends().serving_primaries))
        yield node, caller


async def call(caller: Caller, rpc: str, *metadata: tuple[str, str | bytes]) -> Any:
    """Make a call to its end; return it."""
    channel, path = caller.channel, RPCS[rpc].path
    if RPCS[rpc].is_streaming:
        made: Any = channel.unary_stream(path)(b"", timeout=10, metadata=metadata)
        async for _ in made:
            pass
    else:
        made = channel.unary_unary(path)(b"", timeout=10, metadata=metadata)
        await made
    return made


@pytest.mark.parametrize("rpc", READS)
async def test_the_details_of_a_status_go_along(rpc: str) -> None:
    details = (("grpc-status-details-bin", b"\x08\x09"), ("own-bin", b"\x00\xff"))

    async def refuse(_name: str, _raw: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so", details)
        return b""

    async def refuse_stream(_raw: bytes, context: Any) -> AsyncIterator[bytes]:
        await refuse("", b"", context)
        yield b""

    async with routed() as (node, caller):
        node.unary, node.stream = refuse, refuse_stream
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(caller, rpc)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert set(details) <= set(caught.value.trailing_metadata() or ())


@pytest.mark.parametrize("size", [10, 2_000_000])
@pytest.mark.parametrize("rpc", READS)
async def test_what_a_node_says_before_its_answer_comes_before_it(rpc: str, size: int) -> None:
    headers = (("x-early", "1"), ("early-bin", b"\x01"))

    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((*headers, ("x-metastore-served-by", "early")))
        return bytes(size)

    async def stream(_raw: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(headers)
        yield bytes(size)
        yield bytes(size)

    async with routed() as (node, caller):
        node.unary, node.stream = unary, stream
        made = await call(caller, rpc)
        assert tuple(await made.initial_metadata()) == headers
        trailers = dict(await made.trailing_metadata())
        assert trailers["x-metastore-served-by"] == "primary-1"
        assert "x-early" not in trailers


async def test_all_hops_go_along() -> None:
    async with routed() as (node, caller):
        await call(
            caller,
            "CreateIndex",
            ("x-metastore-forwarded", "one/1"),
            ("x-metastore-forwarded", "two/2"),
        )
        (seen,) = node.metadata
    assert seen["x-metastore-forwarded"].startswith("one/1,two/2,router-1/")


@pytest.mark.parametrize(
    ("said", "told"), [("0.1239", "0.124"), ("0.1231", "0.124"), ("0", "0.000")]
)
async def test_a_lag_is_never_rounded_down(said: str, told: str) -> None:
    async with routed(lag=said) as (_, caller):
        made = await call(caller, "CreateIndex")
        assert dict(await made.trailing_metadata())["x-metastore-lag"] == told
