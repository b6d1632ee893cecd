"""The proxy's own gRPC service, on the metastore's port: `metastore.proxy.v1.ProxyService`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, Protocol, cast

import grpc

from proxy import errors
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.server.decoding import decode

PROXY_SERVICE: Final = "metastore.proxy.v1.ProxyService"

_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}

Explain = Callable[[pb.ExplainRouteRequest], pb.ExplainRouteResponse]


class Reporter(Protocol):
    """Whoever can tell a node's replication state."""

    def __call__(self, time_left: float | None, /) -> Awaitable[pb.GetReplicationResponse]:
        """Answer `GetReplication` within `time_left` seconds; None is no bound."""


class ClusterTeller(Protocol):
    """Whoever can tell who the primary is."""

    def __call__(
        self, *, own_only: bool, time_left: float | None
    ) -> Awaitable[pb.GetClusterInfoResponse]:
        """Answer `GetClusterInfo` within `time_left` seconds; None is no bound."""


def proxy_service(
    report: Reporter | None = None,
    explain: Explain | None = None,
    tell_cluster: ClusterTeller | None = None,
) -> grpc.GenericRpcHandler:
    """Return the service's handlers; a method that the node has nothing for is UNIMPLEMENTED."""
    handlers: dict[str, Any] = {}

    if report is not None:

        async def get_replication(
            _request: pb.GetReplicationRequest,
            context: grpc.aio.ServicerContext[pb.GetReplicationRequest, pb.GetReplicationResponse],
        ) -> pb.GetReplicationResponse:
            # The library types the absence of a deadline as if it could not be.
            return await report(cast("float | None", context.time_remaining()))

        handlers["GetReplication"] = grpc.unary_unary_rpc_method_handler(
            cast("Any", get_replication),
            request_deserializer=pb.GetReplicationRequest.FromString,
            response_serializer=pb.GetReplicationResponse.SerializeToString,
        )

    if explain is not None:

        async def explain_route(
            raw: bytes, context: grpc.aio.ServicerContext[bytes, pb.ExplainRouteResponse]
        ) -> pb.ExplainRouteResponse:
            try:
                return explain(decode(pb.ExplainRouteRequest, raw))
            except errors.MetastoreError as error:
                await _abort(context, error)

        handlers["ExplainRoute"] = grpc.unary_unary_rpc_method_handler(
            cast("Any", explain_route),
            response_serializer=pb.ExplainRouteResponse.SerializeToString,
        )

    if tell_cluster is not None:

        async def get_cluster_info(
            request: pb.GetClusterInfoRequest,
            context: grpc.aio.ServicerContext[pb.GetClusterInfoRequest, pb.GetClusterInfoResponse],
        ) -> pb.GetClusterInfoResponse:
            try:
                return await tell_cluster(
                    own_only=request.own_only,
                    time_left=cast("float | None", context.time_remaining()),
                )
            except errors.MetastoreError as error:
                await _abort(context, error)

        handlers["GetClusterInfo"] = grpc.unary_unary_rpc_method_handler(
            cast("Any", get_cluster_info),
            request_deserializer=pb.GetClusterInfoRequest.FromString,
            response_serializer=pb.GetClusterInfoResponse.SerializeToString,
        )

    return grpc.method_handlers_generic_handler(PROXY_SERVICE, handlers)


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any], error: errors.MetastoreError
) -> NoReturn:
    metadata = ((errors.ERROR_METADATA_KEY, error.to_json()),)
    await context.abort(_STATUS[error.code], str(error), metadata)
