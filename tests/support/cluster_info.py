"""Asking nodes who the primary is."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from proxy.lifecycle import NodeLifecycle
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from tests.support.nodes import address
from tests.support.routers import Caller

_METHOD = "/metastore.proxy.v1.ProxyService/GetClusterInfo"


async def ask(
    node: NodeLifecycle, *, own_only: bool = False, timeout: float = 10.0
) -> pb.GetClusterInfoResponse:
    """Return what a node answers; the library's error when that is one."""
    async with grpc.aio.insecure_channel(address(node)) as channel:
        answer = await channel.unary_unary(
            _METHOD,
            pb.GetClusterInfoRequest.SerializeToString,
            pb.GetClusterInfoResponse.FromString,
        )(pb.GetClusterInfoRequest(own_only=own_only), timeout=timeout)
    assert isinstance(answer, pb.GetClusterInfoResponse)
    return answer


async def ready_members(node: NodeLifecycle) -> list[str]:
    """Return the node ids of all that a node knows to be ready; none without a primary."""
    try:
        answer = await ask(node)
    except grpc.aio.AioRpcError:
        return []
    return sorted(one.node_id for one in (*answer.primaries, *answer.members) if one.ready)


async def refusal_of(node: NodeLifecycle, *, own_only: bool = False, timeout: float = 10.0) -> str:
    """Return why a node cannot name the primary, which it must say itself: UNAVAILABLE."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(node, own_only=own_only, timeout=timeout)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value.details() or ""


async def refused(node: NodeLifecycle, rpc: str, request: bytes = b"", **metadata: str) -> Any:
    """Return the error of a call that a node must refuse."""
    async with Caller(address(node)) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await caller.unary(rpc, request, **metadata)
    return failed.value


def told(error: Any) -> dict[str, Any]:
    """Return the trailing metadata of an error."""
    return dict(error.trailing_metadata() or ())
