"""The read RPCs as typed methods."""

from __future__ import annotations

from typing import Any, Protocol, Unpack

from google.protobuf.message import Message

from proxy.client.answers import Answer, CallOptions, Metadata
from proxy.client.streams import AnswerStream
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.consistency import Consistency

SplitStream = AnswerStream[pb.ListSplitsResponse]


class Caller(Protocol):
    """Whatever makes a call by the RPC's name."""

    async def call(
        self,
        rpc_name: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        consistency: Consistency | None = None,
        min_lsn: str | None = None,
    ) -> Answer[Any]:
        """Make a unary call."""

    def stream(
        self,
        rpc_name: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        consistency: Consistency | None = None,
        min_lsn: str | None = None,
    ) -> AnswerStream[Any]:
        """Make a call whose answer is a stream."""


class MetastoreReader:
    """All that can be read from a metastore, and no method that writes.

    Each method makes the RPC of its name. `timeout` (seconds, for all attempts together) defaults
    to the catalogue's deadline; see `CallOptions` for the others. A failed call raises a
    `MetastoreError`; cancelling the caller cancels the call.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list_splits(
        self, request: pb.ListSplitsRequest, **options: Unpack[CallOptions]
    ) -> SplitStream:
        """Return the stream; the call begins when it is first read."""
        return self._caller.stream("ListSplits", request, **options)

    async def index_metadata(
        self, request: pb.IndexMetadataRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.IndexMetadataResponse]:
        return await self._caller.call("IndexMetadata", request, **options)

    async def indexes_metadata(
        self, request: pb.IndexesMetadataRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.IndexesMetadataResponse]:
        return await self._caller.call("IndexesMetadata", request, **options)

    async def list_indexes_metadata(
        self, request: pb.ListIndexesMetadataRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListIndexesMetadataResponse]:
        return await self._caller.call("ListIndexesMetadata", request, **options)

    async def list_index_stats(
        self, request: pb.ListIndexStatsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListIndexStatsResponse]:
        return await self._caller.call("ListIndexStats", request, **options)

    async def last_delete_opstamp(
        self, request: pb.LastDeleteOpstampRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.LastDeleteOpstampResponse]:
        return await self._caller.call("LastDeleteOpstamp", request, **options)

    async def list_delete_tasks(
        self, request: pb.ListDeleteTasksRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListDeleteTasksResponse]:
        return await self._caller.call("ListDeleteTasks", request, **options)

    async def list_stale_splits(
        self, request: pb.ListStaleSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListSplitsResponse]:
        return await self._caller.call("ListStaleSplits", request, **options)

    async def list_shards(
        self, request: pb.ListShardsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListShardsResponse]:
        return await self._caller.call("ListShards", request, **options)

    async def get_index_template(
        self, request: pb.GetIndexTemplateRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.GetIndexTemplateResponse]:
        return await self._caller.call("GetIndexTemplate", request, **options)

    async def find_index_template_matches(
        self, request: pb.FindIndexTemplateMatchesRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.FindIndexTemplateMatchesResponse]:
        return await self._caller.call("FindIndexTemplateMatches", request, **options)

    async def list_index_templates(
        self, request: pb.ListIndexTemplatesRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListIndexTemplatesResponse]:
        return await self._caller.call("ListIndexTemplates", request, **options)

    async def list_metrics_splits(
        self, request: pb.ListMetricsSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListMetricsSplitsResponse]:
        return await self._caller.call("ListMetricsSplits", request, **options)

    async def list_sketch_splits(
        self, request: pb.ListSketchSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.ListSketchSplitsResponse]:
        return await self._caller.call("ListSketchSplits", request, **options)
