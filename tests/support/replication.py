"""What a node says of its database, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from google.protobuf.message import Message

from proxy.client.wire import read_failure
from proxy.node import Node
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.routing.catalogue import RPCS
from tests.support.nodes import address


class Told:
    """A node as a caller with metadata sees it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def replication(self, timeout: float = 5.0) -> proxy_pb2.GetReplicationResponse:
        """Return the answer of `GetReplication`."""
        answer = await self.channel.unary_unary(
            "/metastore.proxy.v1.ProxyService/GetReplication",
            proxy_pb2.GetReplicationRequest.SerializeToString,
            proxy_pb2.GetReplicationResponse.FromString,
        )(proxy_pb2.GetReplicationRequest(), timeout=timeout)
        assert isinstance(answer, proxy_pb2.GetReplicationResponse)
        return answer

    async def lag(self) -> float | None:
        """Return the lag that `GetReplication` tells."""
        answer = await self.replication()
        return answer.lag if answer.HasField("lag") else None

    async def call(
        self, rpc_name: str, request: Message | None = None, **metadata: str
    ) -> dict[str, str | bytes]:
        """Call an RPC with metadata (`min_lsn="0/1"`); return the trailing metadata."""
        raw = b"" if request is None else request.SerializeToString()
        call = self.channel.unary_unary(RPCS[rpc_name].path)(
            raw,
            timeout=30,
            metadata=[(f"x-metastore-{name.replace('_', '-')}", v) for name, v in metadata.items()],
        )
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise read_failure(error).error from error
        return dict(await call.trailing_metadata())


@asynccontextmanager
async def telling(node: Node) -> AsyncIterator[Told]:
    """Connect to a node."""
    async with grpc.aio.insecure_channel(address(node)) as channel:
        yield Told(channel)
