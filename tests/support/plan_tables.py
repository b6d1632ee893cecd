"""The tables that plans are made for: many splits, and as many rows of every other kind as matter.

Splits and indexes are those of `tests.bench.corpus`; the rest is filled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench import corpus
from tests.support.plans import Sql

# Splits in each state that calls name at once.
NAMED: Final = 1_000
# Rows of each of the other tables, and the indexes that they belong to.
SIDE_ROWS: Final = 20_000
SIDE_INDEXES: Final = 20
TABLES: Final = (
    "splits",
    "indexes",
    "metrics_splits",
    "sketch_splits",
    "shards",
    "delete_tasks",
    "index_templates",
    "kv",
)


@dataclass(frozen=True)
class Named:
    """Splits of an index by their state."""

    uid: str
    published: Sequence[str]
    marked: Sequence[str]
    staged: Sequence[str]


_FILL_PARQUET: Final = """
INSERT INTO parquet_splits (
    split_id, split_state, index_uid, time_range_start, time_range_end, metric_names, num_rows,
    size_bytes, split_metadata_json, sort_fields, window_start, window_duration_secs
)
SELECT
    'split-' || lpad(n::text, 8, '0'), CASE n % 50 WHEN 0 THEN 'Staged' ELSE 'Published' END,
    ($1::text[])[1 + n % cardinality($1::text[])], 1750000000 + n, 1750000060 + n,
    ARRAY['cpu.usage'], 1, 1, repeat('m', 1000), 'metric_name', 1750000000 + n / 60 * 60, 60
FROM generate_series(1, $2::int) AS n
"""
_FILL_SHARDS: Final = """
INSERT INTO shards (
    index_uid, source_id, shard_id, leader_id, publish_position_inclusive, doc_mapping_uid
)
SELECT
    ($1::text[])[1 + n % cardinality($1::text[])], '_ingest-source', 'shard-' || n, 'ingester', '',
    repeat('0', 26)
FROM generate_series(1, $2::int) AS n
"""
_FILL_DELETE_TASKS: Final = """
INSERT INTO delete_tasks (index_uid, delete_query_json)
SELECT ($1::text[])[1 + n % cardinality($1::text[])], '{"query_ast":""}'
FROM generate_series(1, $2::int) AS n
"""


async def prepare(sql: Sql) -> Named:
    """Fill other tables, and change the state of some splits of the large index; return those.

    Within a transaction of the caller, who takes it back.
    """
    uid = corpus.index_uid(0)
    found = await sql.fetch(
        "SELECT split_id FROM splits WHERE index_uid = $1 ORDER BY split_id LIMIT $2",
        uid,
        4 * NAMED,
    )
    # Of a small table not all, so that it makes a difference which are read.
    each = len(found) // 4
    published, marked, staged = (
        [row[0] for row in found[n * each : (n + 1) * each]] for n in range(3)
    )
    for state, ids in (("MarkedForDeletion", marked), ("Staged", staged)):
        await sql.execute(
            "UPDATE splits SET split_state = $1 WHERE index_uid = $2 AND split_id = ANY($3)",
            state,
            uid,
            ids,
        )
    uids = [corpus.index_uid(number) for number in range(SIDE_INDEXES)]
    for table in ("metrics_splits", "sketch_splits"):
        await sql.execute(_FILL_PARQUET.replace("parquet_splits", table), uids, SIDE_ROWS)
    await sql.execute(_FILL_SHARDS, uids, SIDE_ROWS)
    await sql.execute(_FILL_DELETE_TASKS, uids, SIDE_ROWS)
    return Named(uid, published, marked, staged)


async def analyze(sql: Sql) -> None:
    """Let PostgreSQL count and sample."""
    for table in TABLES:
        await sql.execute(f"ANALYZE {table}")


async def forget_statistics(sql: Sql) -> None:
    """Leave the tables as after a restore, for the rest of the transaction: not analyzed."""
    for table in TABLES:
        await sql.execute(f"DELETE FROM pg_statistic WHERE starelid = '{table}'::regclass")
        await sql.execute(
            f"UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = '{table}'::regclass"
        )
