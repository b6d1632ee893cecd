"""The first half of every publish: advancing a source's checkpoint under the lock of its index.

Facts: sources of type `ingest`, and `file` sources with notifications, keep their positions in
the table `shards`, guarded by publish tokens; all others in `checkpoint` of the index metadata.
The same conflict is `FailedPrecondition` for the latter and `InvalidArgument` for the former.
"""

from __future__ import annotations

from datetime import UTC, datetime

from proxy import errors
from proxy.store import checkpoints, source_configs
from proxy.store.index_metadata import LockedIndex
from proxy.store.pool import Session
from proxy.store.queries import query


async def apply_checkpoint_delta(
    session: Session,
    locked: LockedIndex,
    delta: checkpoints.CheckpointDelta,
    publish_token: str | None,
) -> None:
    """Apply a delta to the metadata of a locked index, or to the shards of its source.

    The caller saves the metadata in the same transaction, and rolls back on any error.
    `NotFound(Source)` for an unknown source, even with an empty delta; then, shard-tracked:
    `InvalidArgument` (no token, or an incompatible delta), `NotFound(Shard)`,
    `InvalidPublishToken`; otherwise `FailedPrecondition` on an incompatible delta.
    Database errors pass through.
    """
    source = locked.metadata.source(delta.source_id)
    if source is None:
        raise errors.NotFound(errors.source(locked.index_id, delta.source_id))
    if not source_configs.is_shard_tracked(source):
        checkpoints.apply_delta(locked.metadata.checkpoint, delta, locked.index_id)
        return
    if publish_token is None:
        raise errors.InvalidArgument(
            f"publish token is required for publishing splits for source `{delta.source_id}`"
        )
    await _advance_shards(session, locked.index_uid, delta, publish_token)


async def _advance_shards(
    session: Session, index_uid: str, delta: checkpoints.CheckpointDelta, publish_token: str
) -> None:
    if not delta.partitions:
        return
    shard_ids = list(delta.partitions)
    rows = await session.fetch(query("splits/lock_shards"), index_uid, delta.source_id, shard_ids)
    queue = f"{index_uid}/{delta.source_id}"
    if len(rows) != len(shard_ids):
        raise errors.NotFound(errors.shard(queue))
    for row in rows:
        if row["publish_token"] is None or row["publish_token"] != publish_token:
            raise errors.InvalidPublishToken(f"{queue}/{row['shard_id']}")
    stored = {row["shard_id"]: row["publish_position_inclusive"] for row in rows}
    problem = checkpoints.incompatibility(stored, delta)
    if problem is not None:
        raise errors.InvalidArgument(problem)
    # This server's clock, as for every shard: ages are compared with it, not with the database's.
    now = datetime.now(UTC).replace(tzinfo=None)
    positions = [interval.end for interval in delta.partitions.values()]
    await session.execute(
        query("splits/advance_shards"), index_uid, delta.source_id, shard_ids, positions, now
    )
