"""ListIndexesMetadata of more indexes than one fetch has rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
import zstandard

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import indexes
from proxy.store.pool import Database
from tests.support.postgres import Scratch
from tests.support.splitting import dumped
from tests.support.waiting import until

ULID = "01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
METADATA = {
    "version": "0.9",
    "index_uid": f"ID:{ULID}",
    "index_config": {
        "version": "0.9",
        "index_id": "ID",
        "index_uri": "ram:///ID",
        "doc_mapping": {"field_mappings": [], "note": "x" * 500},
    },
    "checkpoint": {},
    "create_timestamp": 1,
    "sources": [],
}
EVERYTHING = pb.ListIndexesMetadataRequest(index_id_patterns=["*"])


@pytest.fixture
async def sql(clean: Scratch) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the pool."""
    connection = await asyncpg.connect(clean.primary_uri)
    yield connection
    await connection.close()


async def fill(sql: asyncpg.Connection, first: int, count: int) -> None:
    """Insert indexes; every other one was made at the time that its document says."""
    await sql.execute(
        """
        INSERT INTO indexes (index_uid, index_id, index_metadata_json, create_timestamp)
        SELECT
            id || ':' || $1, id, replace($2, 'ID', id), to_timestamp(1 + n % 2) AT TIME ZONE 'UTC'
        FROM generate_series($3::int, $4::int) AS n, LATERAL (SELECT 'index-' || n AS id) AS named
        """,
        ULID,
        dumped(METADATA),
        first,
        first + count - 1,
    )


async def listed(database: Database) -> dict[str, int]:
    """Return the time of each index by its ID."""
    answer = await indexes.list_indexes_metadata(database, EVERYTHING)
    packed = zstandard.ZstdDecompressor().decompressobj()
    found = json.loads(packed.decompress(answer.indexes_metadata_json_zstd))
    times = {one["index_config"]["index_id"]: one["create_timestamp"] for one in found}
    assert len(times) == len(found)
    return times


async def test_all_are_listed_whatever_their_number(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    known = 0
    # Nothing, one batch, one row more, full batches only, and a rest.
    for count in (0, 1000, 1001, 2000, 2345):
        if count > known:
            await fill(sql, known, count - known)
        known = count
        expected = {f"index-{n}": 1 + n % 2 for n in range(count)}
        assert await listed(shared_database) == expected
    stats = shared_database.stats()
    assert stats.open == stats.idle


async def test_a_broken_document_far_down_fails_the_list(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, 0, 1500)
    await sql.execute("UPDATE indexes SET index_metadata_json = '{' WHERE index_id = 'index-1400'")
    with pytest.raises(errors.JsonDeserializeError):
        await listed(shared_database)
    await sql.execute("DELETE FROM indexes WHERE index_id = 'index-1400'")
    assert len(await listed(shared_database)) == 1499


async def test_a_cancelled_list_gives_its_session_back(
    sql: asyncpg.Connection, shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(sql, 0, 2500)
    packing = asyncio.Event()

    async def pack(*_: object) -> None:
        packing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(indexes.asyncio, "to_thread", pack)
    task = asyncio.create_task(listed(shared_database))
    await packing.wait()
    assert shared_database.stats().idle < shared_database.stats().open
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: shared_database.stats().idle == shared_database.stats().open)
    monkeypatch.undo()
    assert len(await listed(shared_database)) == 2500
