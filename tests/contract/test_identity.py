"""GetClusterIdentity."""

from __future__ import annotations

import asyncio
import uuid

from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore


async def identity(metastore: Metastore) -> str:
    response = await metastore.call("GetClusterIdentity", pb.GetClusterIdentityRequest())
    return str(response.uuid)


async def test_the_identity_is_a_lower_case_hyphenated_uuid_of_version_4(
    metastore: Metastore,
) -> None:
    value = await identity(metastore)

    assert value == str(uuid.UUID(value))
    assert uuid.UUID(value).version == 4


async def test_the_identity_is_the_same_on_each_call(metastore: Metastore) -> None:
    assert await identity(metastore) == await identity(metastore)


async def test_concurrent_first_calls_agree(metastore: Metastore) -> None:
    values = await asyncio.gather(*(identity(metastore) for _ in range(8)))

    assert len(set(values)) == 1


async def test_the_identity_is_stored_under_its_key(metastore: Metastore) -> None:
    value = await identity(metastore)

    stored = await metastore.sql.fetchval("SELECT value FROM kv WHERE key = 'cluster_identity'")
    assert stored == value


async def test_an_identity_that_quickwit_stored_is_kept(metastore: Metastore) -> None:
    stored = "6c9f8a14-57a3-4a0b-9d0e-0f5b1f2c3d4e"
    await metastore.sql.execute("INSERT INTO kv VALUES ('cluster_identity', $1)", stored)

    assert await identity(metastore) == stored
    assert await metastore.sql.fetchval("SELECT count(*) FROM kv WHERE value = $1", stored) == 1
