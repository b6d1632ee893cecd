"""Source RPCs: changes of the sources and checkpoints in the metadata of an index.

Facts: each is one transaction under the lock of the index's row; an unknown index or another
incarnation is `NotFound(Index)`; what changes nothing writes nothing.
"""

from __future__ import annotations

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import index_metadata, requests, source_configs, sqlstate
from proxy.store.index_metadata import IndexMetadata
from proxy.store.pool import Database
from proxy.store.queries import query


async def add_source(db: Database, request: pb.AddSourceRequest) -> pb.EmptyResponse:
    """Add a source with an empty checkpoint, or with the one it left behind.

    `AlreadyExists` if the source ID is taken, `JsonDeserializeError` for a config that is not
    valid, `NotFound` for the index.
    """
    index_uid = requests.required_index_uid(request)
    config = source_configs.decode(request.source_config_json)
    source_id = config["source_id"]

    def change(metadata: IndexMetadata) -> bool:
        if metadata.source(source_id) is not None:
            raise errors.AlreadyExists(errors.source(metadata.index_id, source_id))
        metadata.sources.append(config)
        metadata.checkpoint.setdefault(source_id, {})
        return True

    await index_metadata.mutate(db, index_uid, change)
    return pb.EmptyResponse()


async def update_source(db: Database, request: pb.UpdateSourceRequest) -> pb.EmptyResponse:
    """Replace the config of a source; its checkpoint stays.

    `NotFound` for the index or the source, `JsonDeserializeError` for a config that is not valid.
    An identical config is success without a write.
    """
    index_uid = requests.required_index_uid(request)
    config = source_configs.decode(request.source_config_json)

    def change(metadata: IndexMetadata) -> bool:
        current = metadata.existing_source(config["source_id"])
        if source_configs.same(current, config):
            return False
        metadata.sources[metadata.sources.index(current)] = config
        return True

    await index_metadata.mutate(db, index_uid, change)
    return pb.EmptyResponse()


async def toggle_source(db: Database, request: pb.ToggleSourceRequest) -> pb.EmptyResponse:
    """Enable or disable a source. `NotFound` for the index or the source."""
    index_uid = requests.required_index_uid(request)

    def change(metadata: IndexMetadata) -> bool:
        source = metadata.existing_source(request.source_id)
        if source.get("enabled", True) == request.enable:
            return False
        source["enabled"] = request.enable
        return True

    await index_metadata.mutate(db, index_uid, change)
    return pb.EmptyResponse()


async def delete_source(db: Database, request: pb.DeleteSourceRequest) -> pb.EmptyResponse:
    """Remove a source with its checkpoint and all its shards, in one transaction.

    `NotFound` for the index or the source.
    """
    index_uid = requests.required_index_uid(request)

    def change(metadata: IndexMetadata) -> bool:
        metadata.sources.remove(metadata.existing_source(request.source_id))
        metadata.checkpoint.pop(request.source_id, None)
        return True

    with sqlstate.raw():
        async with db.transaction() as session:
            await index_metadata.mutate_in(session, index_uid, change)
            await session.execute(query("sources/delete_shards"), index_uid, request.source_id)
    return pb.EmptyResponse()


async def reset_source_checkpoint(
    db: Database, request: pb.ResetSourceCheckpointRequest
) -> pb.EmptyResponse:
    """Forget how far a source has been read; the source and its shards stay.

    `NotFound` for the index only: an unknown source is success without a write.
    """
    index_uid = requests.required_index_uid(request)

    def change(metadata: IndexMetadata) -> bool:
        return metadata.checkpoint.pop(request.source_id, None) is not None

    await index_metadata.mutate(db, index_uid, change)
    return pb.EmptyResponse()
