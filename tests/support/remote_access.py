"""The two remote ways to the metastore: over gRPC to a node, and through the routing client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy.client.wire import read_failure
from proxy.proto.quickwit import metastore_pb2
from proxy.routing.catalogue import RPCS

if TYPE_CHECKING:
    from proxy.client import RoutingClient

METHODS = metastore_pb2.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name


class GrpcWay:
    """Over gRPC to one node, with nothing of our client but the decoding of errors."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def call(self, rpc_name: str, request: Message) -> Any:
        response_class = GetMessageClass(METHODS[rpc_name].output_type)
        invoke = self._channel.unary_unary(
            RPCS[rpc_name].path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_class.FromString,
        )
        try:
            return await invoke(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            raise read_failure(error).error from error

    async def stream(self, rpc_name: str, request: Message) -> AsyncIterator[Any]:
        response_class = GetMessageClass(METHODS[rpc_name].output_type)
        invoke = self._channel.unary_stream(
            RPCS[rpc_name].path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_class.FromString,
        )
        try:
            async for message in invoke(request, timeout=30):
                yield message
        except grpc.aio.AioRpcError as error:
            raise read_failure(error).error from error


class RouterWay:
    """Through the routing client."""

    def __init__(self, client: RoutingClient) -> None:
        self._client = client

    async def call(self, rpc_name: str, request: Message) -> Any:
        return (await self._client.call(rpc_name, request)).response

    async def stream(self, rpc_name: str, request: Message) -> AsyncIterator[Any]:
        async for message in self._client.stream(rpc_name, request):
            yield message
