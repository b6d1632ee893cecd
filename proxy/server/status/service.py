"""`GetStatus` of the proxy's own gRPC service: what the status page shows, for the command line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.server.proxy_service import PROXY_SERVICE

_Context = grpc.aio.ServicerContext[pb.GetStatusRequest, pb.GetStatusResponse]


def status_service(status: Callable[[], Awaitable[pb.GetStatusResponse]]) -> grpc.GenericRpcHandler:
    """Return the handler of one method; the service's others are another's."""

    async def get_status(_request: pb.GetStatusRequest, _context: _Context) -> pb.GetStatusResponse:
        return await status()

    handler = grpc.unary_unary_rpc_method_handler(
        cast("Any", get_status),
        request_deserializer=pb.GetStatusRequest.FromString,
        response_serializer=pb.GetStatusResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(PROXY_SERVICE, {"GetStatus": handler})
