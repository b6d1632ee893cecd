"""The data of the benchmark: 1,000,000 splits in 1,000 indexes, as many indexers leave them.

A tenth of the splits is in the first index, so that lists of one index and of all can be compared;
the others share the rest evenly. Metadata of 10,000 indexes is there, most of them empty.
Each document has about 1.2 KB: a multi-tenant index tags each split with the tenants in it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from proxy.demo import dataset

TENANTS: Final = 5_000
TENANTS_OF_A_SPLIT: Final = 36
START: Final = 1_750_000_000
SPLIT_SECONDS: Final = 60
# ULIDs whose time is fixed: the same data in each run.
_ULID: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_COLUMNS: Final = (
    "index_uid",
    "split_id",
    "split_state",
    "time_range_start",
    "time_range_end",
    "tags",
    "split_metadata_json",
    "delete_opstamp",
    "maturity_timestamp",
    "node_id",
    "create_timestamp",
    "update_timestamp",
    "publish_timestamp",
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


def ulid(number: int) -> str:
    """Return the ULID that stands for a number."""
    digits = []
    for _ in range(26):
        number, digit = divmod(number, 32)
        digits.append(_ULID[digit])
    return "".join(reversed(digits))


def index_uid(number: int) -> str:
    """Return the UID of an index, which is one string for each number."""
    return f"logs-{number:04}:{ulid((1 << 125) + number)}"


def split(uid: str, number: int, rng: random.Random) -> dict[str, Any]:
    """Return the metadata of one split, in the writer's key order."""
    start = START + number * SPLIT_SECONDS
    documents = rng.randrange(10_000, 10_000_000)
    tenants = rng.sample(range(TENANTS), TENANTS_OF_A_SPLIT)
    return {
        "version": "0.9",
        "split_id": ulid((1 << 124) + number * 7_919),
        "index_uid": uid,
        "partition_id": rng.getrandbits(63),
        "source_id": dataset.SOURCE_ID,
        # The schema has a hash index on these: many splits of few nodes make its chains long, and
        # writes slow with and without a metastore in front.
        "node_id": f"indexer-{number % 200}",
        "num_docs": documents,
        "uncompressed_docs_size_in_bytes": documents * 412,
        "time_range": {"start": start, "end": start + SPLIT_SECONDS - 1},
        "create_timestamp": start + SPLIT_SECONDS,
        "maturity": {"type": "immature", "maturation_period_millis": 172_800_000},
        "tags": sorted(["tenant_id!", *(f"tenant_id:{tenant}" for tenant in tenants)]),
        "footer_offsets": {"start": documents * 61, "end": documents * 61 + 48_211},
        "delete_opstamp": 0,
        "num_merge_ops": number % 3,
        "doc_mapping_uid": "0" * 26,
    }


def _moment(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _row(uid: str, number: int, rng: random.Random) -> tuple[object, ...]:
    document = split(uid, number, rng)
    bounds, created = document["time_range"], document["create_timestamp"]
    return (
        uid,
        document["split_id"],
        "Published",
        bounds["start"],
        bounds["end"],
        document["tags"],
        json.dumps(document, separators=(",", ":")),
        0,
        _moment(created + 172_800),
        document["node_id"],
        _moment(created),
        _moment(created + 5),
        _moment(created + 5),
    )


def index_metadata(uid: str) -> str:
    """Return the metadata of an index as the metastore stores it."""
    index_id = uid.partition(":")[0]
    config = json.loads(dataset.index_config())
    config |= {"index_id": index_id, "index_uri": f"s3://quickwit/{index_id}"}
    return json.dumps(
        {
            "version": "0.9",
            "index_uid": uid,
            "index_config": config,
            "checkpoint": {dataset.SOURCE_ID: {f"{n:020}": f"{n * 77:020}" for n in range(12)}},
            "create_timestamp": START,
            "sources": [json.loads(dataset.source_config())],
        },
        separators=(",", ":"),
    )


async def fill_indexes(sql: asyncpg.Connection[asyncpg.Record], first: int, count: int) -> None:
    """Insert indexes."""
    await sql.copy_records_to_table(
        "indexes",
        columns=("index_uid", "index_id", "index_metadata_json", "create_timestamp"),
        records=(
            (uid, uid.partition(":")[0], index_metadata(uid), _moment(START))
            for uid in map(index_uid, range(first, first + count))
        ),
    )


# Documents are made once and copied under other IDs by the database.
_TEMPLATES: Final = 10_000
_COPY_ROWS: Final = f"""
INSERT INTO splits ({", ".join(_COLUMNS)})
SELECT
    uid,
    $2 || lpad(n::text, 8, '0'),
    split_state, time_range_start, time_range_end, tags,
    replace(
        replace(split_metadata_json, made.index_uid, uid),
        made.split_id, $2 || lpad(n::text, 8, '0')
    ),
    delete_opstamp, maturity_timestamp, node_id,
    create_timestamp, update_timestamp, publish_timestamp
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (uid, place)
CROSS JOIN generate_series(0, $3::int - 1) AS piece
CROSS JOIN LATERAL (SELECT (place - 1) * $3 + piece AS n) AS numbered
JOIN made ON made.place = n % (SELECT count(*) FROM made)
"""
_INDEXES: Final = """
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS statement
FROM pg_index WHERE indrelid = 'splits'::regclass AND NOT indisprimary ORDER BY 1
"""
# For a session that fills a table: foreign keys are not checked.
_FAST: Final = {"session_replication_role": "replica", "maintenance_work_mem": "256MB"}


@dataclass(frozen=True)
class Group:
    """Indexes that get as many splits each."""

    first: int
    indexes: int
    each: int

    def halved(self) -> tuple[Group, Group]:
        """Return the two halves of the indexes."""
        half = self.indexes // 2
        return Group(self.first, half, self.each), Group(
            self.first + half, self.indexes - half, self.each
        )


async def fill_splits(uri: str, one: Group, others: Group) -> None:
    """Insert the splits of `one` index, in one piece, and those of many `others`.

    By two sessions at once; the table's secondary indexes are made when all rows are there.
    """
    sql = await asyncpg.connect(uri, server_settings=_FAST)
    try:
        indexes = await sql.fetch(_INDEXES)
        for index in indexes:
            await sql.execute(f"DROP INDEX {index['name']}")
        await sql.execute("ALTER TABLE splits SET (autovacuum_enabled = false)")
        columns = ", ".join(_COLUMNS)
        await sql.execute(
            f"CREATE UNLOGGED TABLE made AS SELECT {columns}, 0 AS place FROM splits LIMIT 0"
        )
        records = _templates(min(_TEMPLATES, one.each + others.indexes * others.each))
        await sql.copy_records_to_table("made", columns=(*_COLUMNS, "place"), records=records)
        await sql.execute("ANALYZE made")
        await _copy(uri, one)
        await asyncio.gather(*(_copy(uri, half) for half in others.halved()))
        for index in indexes:
            await sql.execute(index["statement"], timeout=600)
        await sql.execute("DROP TABLE made")
        await sql.execute("ALTER TABLE splits RESET (autovacuum_enabled)")
    finally:
        await sql.close()


async def _copy(uri: str, group: Group) -> None:
    sql = await asyncpg.connect(uri, server_settings=_FAST)
    try:
        uids = [index_uid(number) for number in range(group.first, group.first + group.indexes)]
        prefix = ulid((1 << 124) + group.first)[:18]
        await sql.execute(_COPY_ROWS, uids, prefix, group.each, timeout=600)
    finally:
        await sql.close()


def _templates(count: int) -> Iterator[tuple[object, ...]]:
    rng = random.Random(8)
    for number in range(count):
        yield (*_row(index_uid(0), number, rng), number)
