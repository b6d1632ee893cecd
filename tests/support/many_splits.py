"""An index with many splits, all but alike, made by the database."""

from __future__ import annotations

import json

import asyncpg

from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.postgres import Scratch
from tests.support.splitting import dumped

UID = "web-logs:01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
METADATA = {
    "version": "0.9",
    "split_id": "ID",
    "index_uid": UID,
    "partition_id": 0,
    "source_id": "source",
    "node_id": "indexer-1",
    "num_docs": 10,
    "uncompressed_docs_size_in_bytes": 1024,
    "time_range": {"start": 100, "end": 199},
    "create_timestamp": 1_700_000_000,
    "maturity": {"type": "mature"},
    "tags": [f"tenant:{number:012}" for number in range(40)],
    "footer_offsets": {"start": 1000, "end": 2000},
    "delete_opstamp": 0,
    "num_merge_ops": 0,
    "doc_mapping_uid": "0" * 26,
}


async def fill(sql: asyncpg.Connection, count: int, tags: list[str] | None = None) -> None:
    """Insert splits `0` to `count - 1`, of about 1.2 KB each unless their tags are given."""
    metadata = METADATA if tags is None else {**METADATA, "tags": tags}
    await sql.execute(
        "INSERT INTO indexes (index_uid, index_id, index_metadata_json) VALUES ($1, $2, '{}')",
        UID,
        "web-logs",
    )
    await sql.execute(
        """
        INSERT INTO splits (index_uid, split_id, split_state, tags, node_id, split_metadata_json)
        SELECT $1, n::text, 'Published', '{}', 'indexer-1', replace($2, '"ID"', '"' || n || '"')
        FROM generate_series(0, $3::int - 1) AS n
        """,
        UID,
        dumped(metadata),
        count,
    )


async def filled_with(scratch: Scratch, count: int) -> Scratch:
    """Return a database after `fill`."""
    sql = await asyncpg.connect(scratch.primary_uri)
    try:
        await fill(sql, count)
    finally:
        await sql.close()
    return scratch


def numbers(message: pb.ListSplitsResponse) -> list[int]:
    """Return the numbers of the splits in a message."""
    return [int(split["split_id"]) for split in json.loads(message.splits_serialized_json)]
