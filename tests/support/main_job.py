"""What a deployment is for, done through its router by plain gRPC: splits published, then listed.

An indexer's writes must reach the primary, a searcher's reads must come from replicas, and a read
that asks for what was just written must show it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy.demo import dataset
from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.catalogue import RPCS
from tests.support.remote_access import METHODS

SPLITS = 20
BOUND = 20.0


@dataclass(frozen=True)
class Served:
    """An answer: its messages, and who the router says served it."""

    messages: Sequence[Any]
    trailers: dict[str, str]

    @property
    def by(self) -> str:
        """The node that answered."""
        return self.trailers["x-metastore-served-by"]

    @property
    def route(self) -> str:
        """By which route."""
        return self.trailers["x-metastore-route"]


async def call(channel: grpc.aio.Channel, rpc: str, request: Message, **metadata: str) -> Served:
    """Make a call; `metadata` has `_` for `-`. Raises `grpc.aio.AioRpcError`."""
    answer = GetMessageClass(METHODS[rpc].output_type)
    open_line = channel.unary_stream if RPCS[rpc].is_streaming else channel.unary_unary
    line = open_line(
        RPCS[rpc].path,
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )(
        request,
        timeout=BOUND,
        metadata=tuple((name.replace("_", "-"), value) for name, value in metadata.items()),
    )
    messages = [one async for one in line] if RPCS[rpc].is_streaming else [await line]
    trailers = await line.trailing_metadata() or ()
    return Served(messages, {str(name): str(value) for name, value in trailers})


async def publish(channel: grpc.aio.Channel, index_id: str) -> tuple[str, str]:
    """Create an index and publish splits into it; return its UID and the position to ask for."""
    config = {**json.loads(dataset.index_config()), "index_id": index_id}
    config["index_uri"] = f"ram:///{index_id}"
    created = await call(
        channel,
        "CreateIndex",
        pb.CreateIndexRequest(
            index_config_json=json.dumps(config), source_configs_json=[dataset.source_config()]
        ),
    )
    uid = created.messages[0].index_uid
    splits = [dataset.split(index_uid_text(uid), number) for number in range(SPLITS)]
    await call(
        channel,
        "StageSplits",
        pb.StageSplitsRequest(
            index_uid=uid, split_metadata_list_serialized_json=json.dumps(splits)
        ),
    )
    published = await call(
        channel,
        "PublishSplits",
        pb.PublishSplitsRequest(
            index_uid=uid,
            staged_split_ids=[split["split_id"] for split in splits],
            index_checkpoint_delta_json_opt=dataset.checkpoint_delta(0, SPLITS),
        ),
        x_metastore_want_lsn="true",
    )
    assert {created.route, published.route} == {"primary"}
    return index_uid_text(uid), published.trailers["x-metastore-lsn"]


async def list_published(channel: grpc.aio.Channel, index_uid: str, **metadata: str) -> Served:
    """List the published splits of an index, as a searcher does."""
    request = pb.ListSplitsRequest(query_json=dataset.published_query(index_uid))
    return await call(channel, "ListSplits", request, **metadata)


def split_count(served: Served) -> int:
    """Return how many splits an answer of `ListSplits` has."""
    return sum(len(json.loads(one.splits_serialized_json)) for one in served.messages)
