"""The write RPCs as typed methods."""

from __future__ import annotations

from typing import Unpack

from proxy.client.answers import Answer, CallOptions
from proxy.client.reader import MetastoreReader
from proxy.proto.quickwit import metastore_pb2 as pb


class MetastoreWriter(MetastoreReader):
    """All RPCs of a metastore. A client that was not opened for writes refuses these: `Forbidden`.

    A write is sent once. An error whose `is_certainly_aborted` is False leaves open whether it
    happened; the caller decides whether to repeat it.
    """

    async def create_index(
        self, request: pb.CreateIndexRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.CreateIndexResponse]:
        return await self._caller.call("CreateIndex", request, **options)

    async def update_index(
        self, request: pb.UpdateIndexRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.IndexMetadataResponse]:
        return await self._caller.call("UpdateIndex", request, **options)

    async def delete_index(
        self, request: pb.DeleteIndexRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("DeleteIndex", request, **options)

    async def stage_splits(
        self, request: pb.StageSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("StageSplits", request, **options)

    async def publish_splits(
        self, request: pb.PublishSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("PublishSplits", request, **options)

    async def mark_splits_for_deletion(
        self, request: pb.MarkSplitsForDeletionRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("MarkSplitsForDeletion", request, **options)

    async def delete_splits(
        self, request: pb.DeleteSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("DeleteSplits", request, **options)

    async def add_source(
        self, request: pb.AddSourceRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("AddSource", request, **options)

    async def update_source(
        self, request: pb.UpdateSourceRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("UpdateSource", request, **options)

    async def toggle_source(
        self, request: pb.ToggleSourceRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("ToggleSource", request, **options)

    async def delete_source(
        self, request: pb.DeleteSourceRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("DeleteSource", request, **options)

    async def reset_source_checkpoint(
        self, request: pb.ResetSourceCheckpointRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("ResetSourceCheckpoint", request, **options)

    async def create_delete_task(
        self, request: pb.DeleteQuery, **options: Unpack[CallOptions]
    ) -> Answer[pb.DeleteTask]:
        return await self._caller.call("CreateDeleteTask", request, **options)

    async def update_splits_delete_opstamp(
        self, request: pb.UpdateSplitsDeleteOpstampRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.UpdateSplitsDeleteOpstampResponse]:
        return await self._caller.call("UpdateSplitsDeleteOpstamp", request, **options)

    async def open_shards(
        self, request: pb.OpenShardsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.OpenShardsResponse]:
        return await self._caller.call("OpenShards", request, **options)

    async def acquire_shards(
        self, request: pb.AcquireShardsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.AcquireShardsResponse]:
        return await self._caller.call("AcquireShards", request, **options)

    async def delete_shards(
        self, request: pb.DeleteShardsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.DeleteShardsResponse]:
        return await self._caller.call("DeleteShards", request, **options)

    async def prune_shards(
        self, request: pb.PruneShardsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("PruneShards", request, **options)

    async def create_index_template(
        self, request: pb.CreateIndexTemplateRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("CreateIndexTemplate", request, **options)

    async def delete_index_templates(
        self, request: pb.DeleteIndexTemplatesRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("DeleteIndexTemplates", request, **options)

    async def get_cluster_identity(
        self, request: pb.GetClusterIdentityRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.GetClusterIdentityResponse]:
        return await self._caller.call("GetClusterIdentity", request, **options)

    async def stage_metrics_splits(
        self, request: pb.StageMetricsSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("StageMetricsSplits", request, **options)

    async def publish_metrics_splits(
        self, request: pb.PublishMetricsSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("PublishMetricsSplits", request, **options)

    async def mark_metrics_splits_for_deletion(
        self, request: pb.MarkMetricsSplitsForDeletionRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("MarkMetricsSplitsForDeletion", request, **options)

    async def delete_metrics_splits(
        self, request: pb.DeleteMetricsSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("DeleteMetricsSplits", request, **options)

    async def stage_sketch_splits(
        self, request: pb.StageSketchSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("StageSketchSplits", request, **options)

    async def publish_sketch_splits(
        self, request: pb.PublishSketchSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("PublishSketchSplits", request, **options)

    async def mark_sketch_splits_for_deletion(
        self, request: pb.MarkSketchSplitsForDeletionRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("MarkSketchSplitsForDeletion", request, **options)

    async def delete_sketch_splits(
        self, request: pb.DeleteSketchSplitsRequest, **options: Unpack[CallOptions]
    ) -> Answer[pb.EmptyResponse]:
        return await self._caller.call("DeleteSketchSplits", request, **options)
