"""DeleteSource and ResetSourceCheckpoint: what goes with a source, and what stays."""

from __future__ import annotations

import asyncio

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_documents import kafka_config
from tests.support.making import make_index, source_config, uid_text
from tests.support.sources import (
    NIL,
    POSITIONS,
    add,
    add_shard,
    delete,
    document,
    refused,
    reset,
    row_version,
    set_checkpoint,
    shards,
    source_not_found,
)


async def test_delete_removes_source_checkpoint_and_shards(metastore: Metastore) -> None:
    uid = await make_index(
        metastore, "web-logs", source_config("_ingest-source", "ingest"), kafka_config()
    )
    await set_checkpoint(metastore, {"_ingest-source": {}, "kafka-a": POSITIONS})
    for source_id, shard_id in (
        ("_ingest-source", "s1"),
        ("_ingest-source", "s2"),
        ("other", "s1"),
    ):
        await add_shard(metastore, source_id, shard_id)

    response = await metastore.call("DeleteSource", delete(uid, "_ingest-source"))

    stored = await document(metastore)
    assert response == pb.EmptyResponse()
    assert stored["sources"] == [kafka_config()]
    assert stored["checkpoint"] == {"kafka-a": POSITIONS}
    assert await shards(metastore) == [("other", "s1")]


async def test_delete_of_a_source_without_checkpoint_entry(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    await set_checkpoint(metastore, {})

    await metastore.call("DeleteSource", delete(uid, "kafka-a"))

    stored = await document(metastore)
    assert (stored["sources"], stored["checkpoint"]) == ([], {})


async def test_delete_leaves_the_shards_of_other_indexes(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    await make_index(metastore, "other-logs", kafka_config())
    await metastore.sql.execute(
        "INSERT INTO shards (index_uid, source_id, shard_id, leader_id, doc_mapping_uid)"
        " VALUES ($1, 'kafka-a', 's1', 'n', $2)",
        await uid_text(metastore, "other-logs"),
        NIL,
    )

    await metastore.call("DeleteSource", delete(uid, "kafka-a"))

    assert await shards(metastore) == [("kafka-a", "s1")]


async def test_delete_twice_is_not_found(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    await metastore.call("DeleteSource", delete(uid, "kafka-a"))

    error = await refused(metastore, "DeleteSource", delete(uid, "kafka-a"))

    assert error.payload() == source_not_found("kafka-a")


async def test_delete_of_an_unknown_source_leaves_its_checkpoint_and_shards(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore)
    await set_checkpoint(metastore, {"nope": POSITIONS})
    await add_shard(metastore, "nope", "s1")

    error = await refused(metastore, "DeleteSource", delete(uid, "nope"))

    assert error.payload() == source_not_found("nope")


async def test_a_deleted_source_can_be_added_again_from_the_beginning(
    metastore: Metastore,
) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    await set_checkpoint(metastore, {"kafka-a": POSITIONS})
    await metastore.call("DeleteSource", delete(uid, "kafka-a"))

    await metastore.call("AddSource", add(uid, kafka_config()))

    assert (await document(metastore))["checkpoint"] == {"kafka-a": {}}


async def test_one_source_deleted_five_times_at_once(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())

    outcomes = await asyncio.gather(
        *(metastore.call("DeleteSource", delete(uid, "kafka-a")) for _ in range(5)),
        return_exceptions=True,
    )

    assert outcomes.count(pb.EmptyResponse()) == 1
    assert sum(isinstance(outcome, errors.NotFound) for outcome in outcomes) == 4


# ResetSourceCheckpoint


async def test_reset_removes_the_entry_and_keeps_the_source(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config(), kafka_config("kafka-b"))
    await set_checkpoint(metastore, {"kafka-a": POSITIONS, "kafka-b": POSITIONS})

    response = await metastore.call("ResetSourceCheckpoint", reset(uid, "kafka-a"))

    stored = await document(metastore)
    assert response == pb.EmptyResponse()
    assert stored["checkpoint"] == {"kafka-b": POSITIONS}
    assert stored["sources"] == [kafka_config(), kafka_config("kafka-b")]


async def test_reset_of_every_source_leaves_an_empty_checkpoint(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config(), kafka_config("kafka-b"))

    for source_id in ("kafka-a", "kafka-b"):
        await metastore.call("ResetSourceCheckpoint", reset(uid, source_id))

    assert (await document(metastore))["checkpoint"] == {}


async def test_reset_twice_writes_once(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    await metastore.call("ResetSourceCheckpoint", reset(uid, "kafka-a"))
    before = await row_version(metastore)

    await metastore.call("ResetSourceCheckpoint", reset(uid, "kafka-a"))

    assert await row_version(metastore) == before


@pytest.mark.parametrize("source_id", ["nope", ""])
async def test_reset_of_an_unknown_source_is_success(metastore: Metastore, source_id: str) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    before = await row_version(metastore)

    await metastore.call("ResetSourceCheckpoint", reset(uid, source_id))

    assert await row_version(metastore) == before


async def test_reset_of_an_unregistered_source_removes_its_entry(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await set_checkpoint(metastore, {"gone": POSITIONS})

    await metastore.call("ResetSourceCheckpoint", reset(uid, "gone"))

    assert (await document(metastore))["checkpoint"] == {}


async def test_reset_leaves_shards_alone(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", source_config("_ingest-source", "ingest"))
    await add_shard(metastore, "_ingest-source", "s1")

    await metastore.call("ResetSourceCheckpoint", reset(uid, "_ingest-source"))

    assert await shards(metastore) == [("_ingest-source", "s1")]
