"""Shards for tests of the metastore: opened by a call, or as rows of a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.proto.quickwit import common_pb2, ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.making import DOC_MAPPING_UID, ULID_TEXT, uid_text

SOURCE = "_ingest-source"
OLD_PLAN = "01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
PLAN = "01J5ZQ5B0C1D2E3F4G5H6J7K8M"
NEW_PLAN = "01J6000000000000000000000A"
LEGACY = "indexer-1/web-logs/pipeline-1"


def open_subrequest(
    uid: common_pb2.IndexUid, shard: str = "s1", number: int = 0, **changes: Any
) -> pb.OpenShardSubrequest:
    subrequest = pb.OpenShardSubrequest(
        subrequest_id=number,
        index_uid=uid,
        source_id=SOURCE,
        shard_id=ingest_pb2.ShardId(shard_id=shard.encode()),
        ingester_id="ingester-1",
        doc_mapping_uid=DOC_MAPPING_UID,
    )
    for field, value in changes.items():
        setattr(subrequest, field, value)
    return subrequest


async def open_shards(
    metastore: Metastore, *subrequests: pb.OpenShardSubrequest
) -> list[pb.OpenShardSubresponse]:
    request = pb.OpenShardsRequest(subrequests=subrequests)
    return list((await metastore.call("OpenShards", request)).subresponses)


async def put_shard(
    metastore: Metastore,
    shard: str,
    *,
    source: str = SOURCE,
    position: str = "",
    token: str | None = None,
    state: str = "open",
    age: float = 0.0,
    index_id: str = "web-logs",
) -> None:
    """Insert a shard's row; `age` is in seconds."""
    await metastore.sql.execute(
        """
        INSERT INTO shards (index_uid, source_id, shard_id, leader_id, shard_state,
            publish_position_inclusive, publish_token, doc_mapping_uid, update_timestamp)
        VALUES ($1, $2, $3, 'ingester-1', $4::text::shard_state, $5, $6, $7, $8)
        """,
        await uid_text(metastore, index_id),
        source,
        shard,
        state,
        position,
        token,
        ULID_TEXT,
        datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=age),
    )


async def stored_ids(metastore: Metastore) -> list[str]:
    rows = await metastore.sql.fetch("SELECT shard_id FROM shards ORDER BY shard_id")
    return [row["shard_id"] for row in rows]
