"""The metastore on one database: a handler for each RPC, and the refusal of writes on a replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from proxy import errors
from proxy.routing.catalogue import Rpc
from proxy.store import (
    delete_tasks,
    identity,
    indexes,
    parquet_splits,
    requests,
    shards,
    sources,
    split_lists,
    splits,
    templates,
)
from proxy.store.pool import Database

# A handler takes the message type of its own RPC, which the protobuf descriptor fixes.
UnaryHandler = Callable[[Database, Any], Awaitable[Message]]

UNARY: Final[Mapping[str, UnaryHandler]] = {
    "CreateIndex": indexes.create_index,
    "UpdateIndex": indexes.update_index,
    "IndexMetadata": indexes.index_metadata,
    "IndexesMetadata": indexes.indexes_metadata,
    "ListIndexesMetadata": indexes.list_indexes_metadata,
    "DeleteIndex": indexes.delete_index,
    "ListIndexStats": indexes.list_index_stats,
    "StageSplits": splits.stage_splits,
    "PublishSplits": splits.publish_splits,
    "MarkSplitsForDeletion": splits.mark_splits_for_deletion,
    "DeleteSplits": splits.delete_splits,
    "ListStaleSplits": splits.list_stale_splits,
    "UpdateSplitsDeleteOpstamp": splits.update_splits_delete_opstamp,
    "AddSource": sources.add_source,
    "UpdateSource": sources.update_source,
    "ToggleSource": sources.toggle_source,
    "DeleteSource": sources.delete_source,
    "ResetSourceCheckpoint": sources.reset_source_checkpoint,
    "LastDeleteOpstamp": delete_tasks.last_delete_opstamp,
    "CreateDeleteTask": delete_tasks.create_delete_task,
    "ListDeleteTasks": delete_tasks.list_delete_tasks,
    "OpenShards": shards.open_shards,
    "AcquireShards": shards.acquire_shards,
    "DeleteShards": shards.delete_shards,
    "PruneShards": shards.prune_shards,
    "ListShards": shards.list_shards,
    "CreateIndexTemplate": templates.create_index_template,
    "GetIndexTemplate": templates.get_index_template,
    "FindIndexTemplateMatches": templates.find_index_template_matches,
    "ListIndexTemplates": templates.list_index_templates,
    "DeleteIndexTemplates": templates.delete_index_templates,
    "GetClusterIdentity": identity.get_cluster_identity,
    "StageMetricsSplits": parquet_splits.stage_metrics_splits,
    "PublishMetricsSplits": parquet_splits.publish_metrics_splits,
    "ListMetricsSplits": parquet_splits.list_metrics_splits,
    "MarkMetricsSplitsForDeletion": parquet_splits.mark_metrics_splits_for_deletion,
    "DeleteMetricsSplits": parquet_splits.delete_metrics_splits,
    "StageSketchSplits": parquet_splits.stage_sketch_splits,
    "PublishSketchSplits": parquet_splits.publish_sketch_splits,
    "ListSketchSplits": parquet_splits.list_sketch_splits,
    "MarkSketchSplitsForDeletion": parquet_splits.mark_sketch_splits_for_deletion,
    "DeleteSketchSplits": parquet_splits.delete_sketch_splits,
}

STREAMING: Final = {"ListSplits": split_lists.list_splits}


class PostgresMetastore:
    """All 43 RPCs on one `Database`.

    On a read-only database a write raises `Forbidden` before any statement is sent; the session
    itself would refuse it as well. Raises `MetastoreError`s only.
    """

    def __init__(self, database: Database, *, max_message_size: int) -> None:
        self.database = database
        self._max_message_size = max_message_size

    async def unary(self, rpc: Rpc, request: Message) -> Message:
        """Serve one unary RPC."""
        self._admit(rpc, request)
        return await UNARY[rpc.name](self.database, request)

    def stream(self, rpc: Rpc, request: Any) -> AsyncIterator[Message]:
        """Serve one streaming RPC. Close the iterator to give its session back early."""
        self._admit(rpc, request)
        return STREAMING[rpc.name](self.database, request, max_message_size=self._max_message_size)

    def _admit(self, rpc: Rpc, request: Message) -> None:
        if self.database.read_only and not rpc.is_read:
            raise errors.Forbidden(
                f"{rpc.name} is a write and this node serves a read-only replica: "
                "only a `metastore` node takes it"
            )
        requests.refuse_nul(request)
