"""Quickwit's `ClusterService`: hands a starting node the state of the whole cluster at once.

Facts: Quickwit's nodes ask any READY member, whatever its role, at start and after a reset. A wrong
cluster is `internal`, with the JSON of Quickwit's `ClusterError` under `qw-error-bin`; messages are
limited to 64 MiB. Members without keys are left out.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn, cast

import grpc

from proxy import errors
from proxy.gossip.cluster import MemberRecord
from proxy.proto.quickwit import cluster_pb2 as pb

CLUSTER_SERVICE: Final = "quickwit.cluster.ClusterService"
MAX_ANSWER: Final = 64 * 1024 * 1024
# What a repeated message costs beyond its own bytes, at most.
_FRAMING: Final = 16

_Context = grpc.aio.ServicerContext[pb.FetchClusterStateRequest, pb.FetchClusterStateResponse]


def cluster_service(
    cluster_id: str,
    snapshot: Callable[[], Awaitable[list[MemberRecord]]],
    *,
    max_message_size: int = MAX_ANSWER,
) -> grpc.GenericRpcHandler:
    """Return the service's handlers. An answer over the limit leaves out the largest members."""
    limit = min(MAX_ANSWER, max_message_size)

    async def fetch(
        request: pb.FetchClusterStateRequest, context: _Context
    ) -> pb.FetchClusterStateResponse:
        if request.cluster_id != cluster_id:
            await _refuse(context, grpc.StatusCode.INTERNAL, "internal", "wrong cluster")
        try:
            members = await snapshot()
        except errors.MetastoreError as error:
            await _refuse(context, grpc.StatusCode.UNAVAILABLE, "unavailable", str(error))
        return answer(cluster_id, members, limit)

    handler = grpc.unary_unary_rpc_method_handler(
        cast("Any", fetch),
        request_deserializer=pb.FetchClusterStateRequest.FromString,
        response_serializer=pb.FetchClusterStateResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(CLUSTER_SERVICE, {"FetchClusterState": handler})


def answer(
    cluster_id: str, members: Iterable[MemberRecord], limit: int
) -> pb.FetchClusterStateResponse:
    """Return the members as a message of at most `limit` bytes.

    Small ones first: those of metastores are small, and without them a node cannot start. What is
    left out comes by gossip.
    """
    states = sorted((_node_state(member) for member in members), key=pb.NodeState.ByteSize)
    response = pb.FetchClusterStateResponse(cluster_id=cluster_id)
    size = response.ByteSize()
    for state in states:
        size += state.ByteSize() + _FRAMING
        if size > limit:
            break
        response.node_states.append(state)
    return response


def _node_state(member: MemberRecord) -> pb.NodeState:
    who = member.member_id
    return pb.NodeState(
        chitchat_id=pb.ChitchatId(
            node_id=who.node_id, generation_id=who.generation, gossip_advertise_addr=who.address
        ),
        key_values=[
            pb.VersionedKeyValue(
                key=one.key,
                value=one.value,
                version=one.version,
                status=cast("pb.DeletionStatus.ValueType", one.status),
            )
            for one in member.records
        ],
        max_version=member.max_version,
        last_gc_version=member.last_gc_version,
    )


async def _refuse(context: _Context, code: grpc.StatusCode, variant: str, message: str) -> NoReturn:
    label = {"internal": "internal error", "unavailable": "service unavailable"}[variant]
    payload = json.dumps({variant: message}, separators=(",", ":")).encode()
    await context.abort(code, f"{label}: {message}", ((errors.ERROR_METADATA_KEY, payload),))
