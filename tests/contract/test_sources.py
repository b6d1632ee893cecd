"""Sources: AddSource, UpdateSource, ToggleSource, DeleteSource, ResetSourceCheckpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from proxy import errors, identifiers
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_documents import compact, kafka_config, metadata, metadata_text
from tests.support.making import make_index, source_config, uid_text, unknown_index

NIL = "00000000000000000000000000"
OLD_LOGS_UID = "old-logs:01HQ2W3E4R5T6Y7Q8A9S0D1F2G"
SOURCE_CONFIG = "quickwit_config::source_config::SourceConfig"
POSITIONS = {"00000000000000000000": "00000000000000000041", "": "~"}


async def document(metastore: Metastore, index_id: str = "web-logs") -> dict[str, Any]:
    """Return the stored metadata of an index."""
    text = await metastore.sql.fetchval(
        "SELECT index_metadata_json FROM indexes WHERE index_id = $1", index_id
    )
    parsed: dict[str, Any] = json.loads(text)
    return parsed


async def set_checkpoint(metastore: Metastore, checkpoint: dict[str, Any]) -> None:
    changed = await document(metastore) | {"checkpoint": checkpoint}
    await metastore.sql.execute("UPDATE indexes SET index_metadata_json = $1", compact(changed))


async def store_old(metastore: Metastore, version: str) -> common_pb2.IndexUid:
    await metastore.sql.execute(
        "INSERT INTO indexes (index_uid, index_id, index_metadata_json, create_timestamp)"
        " VALUES ($1, 'old-logs', $2, to_timestamp(42))",
        OLD_LOGS_UID,
        metadata_text(version),
    )
    return identifiers.index_uid_message(OLD_LOGS_UID)


async def add_shard(metastore: Metastore, source_id: str, shard_id: str) -> None:
    await metastore.sql.execute(
        "INSERT INTO shards (index_uid, source_id, shard_id, leader_id, doc_mapping_uid)"
        " VALUES ($1, $2, $3, 'n', $4)",
        await uid_text(metastore),
        source_id,
        shard_id,
        NIL,
    )


async def shards(metastore: Metastore) -> list[tuple[str, str]]:
    rows = await metastore.sql.fetch("SELECT source_id, shard_id FROM shards ORDER BY 1, 2")
    return [tuple(row) for row in rows]


async def row_version(metastore: Metastore) -> tuple[Any, ...]:
    """Return what PostgreSQL changes whenever it writes the row again."""
    (row,) = await metastore.sql.fetch("SELECT ctid, xmin FROM indexes")
    return tuple(row)


async def tables(metastore: Metastore) -> list[Any]:
    indexes = await metastore.sql.fetch("SELECT * FROM indexes ORDER BY index_uid")
    return [[tuple(row) for row in indexes], await shards(metastore)]


async def refused(metastore: Metastore, rpc: str, request: Any) -> errors.MetastoreError:
    """Return the error of a call, having seen that it left the tables as they were."""
    before = await tables(metastore)
    with pytest.raises(errors.MetastoreError) as caught:
        await metastore.call(rpc, request)
    assert await tables(metastore) == before
    return caught.value


def add(uid: common_pb2.IndexUid, config: dict[str, Any]) -> pb.AddSourceRequest:
    return pb.AddSourceRequest(index_uid=uid, source_config_json=compact(config))


def update(uid: common_pb2.IndexUid, config: dict[str, Any]) -> pb.UpdateSourceRequest:
    return pb.UpdateSourceRequest(index_uid=uid, source_config_json=compact(config))


def toggle(uid: common_pb2.IndexUid, source_id: str, *, enable: bool) -> pb.ToggleSourceRequest:
    return pb.ToggleSourceRequest(index_uid=uid, source_id=source_id, enable=enable)


def delete(uid: common_pb2.IndexUid, source_id: str) -> pb.DeleteSourceRequest:
    return pb.DeleteSourceRequest(index_uid=uid, source_id=source_id)


def reset(uid: common_pb2.IndexUid, source_id: str) -> pb.ResetSourceCheckpointRequest:
    return pb.ResetSourceCheckpointRequest(index_uid=uid, source_id=source_id)


def source_not_found(source_id: str) -> dict[str, Any]:
    return {"NotFound": {"source": {"index_id": "web-logs", "source_id": source_id}}}


# AddSource


async def test_add_stores_the_config_and_an_empty_checkpoint(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    response = await metastore.call("AddSource", add(uid, kafka_config()))

    stored = await document(metastore)
    assert response == pb.EmptyResponse()
    assert stored["sources"] == [kafka_config()]
    assert stored["checkpoint"] == {"kafka-a": {}}


async def test_add_keeps_other_sources_and_checkpoints(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config("kafka-b"))
    await set_checkpoint(metastore, {"kafka-b": POSITIONS, "unregistered": POSITIONS})

    await metastore.call("AddSource", add(uid, kafka_config()))

    stored = await document(metastore)
    assert stored["sources"] == [kafka_config("kafka-b"), kafka_config()]
    assert stored["checkpoint"] == {
        "kafka-b": POSITIONS,
        "unregistered": POSITIONS,
        "kafka-a": {},
    }


async def test_add_keeps_the_checkpoint_that_a_source_left_behind(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    await set_checkpoint(metastore, {"kafka-a": POSITIONS})

    await metastore.call("AddSource", add(uid, kafka_config()))

    assert (await document(metastore))["checkpoint"] == {"kafka-a": POSITIONS}


async def test_add_twice_is_refused(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())

    error = await refused(metastore, "AddSource", add(uid, kafka_config(enabled=False)))

    assert error.payload() == {
        "AlreadyExists": {"source": {"index_id": "web-logs", "source_id": "kafka-a"}}
    }
    assert str(error) == "source `web-logs/kafka-a` already exist(s)"


@pytest.mark.parametrize(
    "source_id", ["abc", "a" * 255, "_ingest-source", "_ingest-api-source", "_ingest-cli-source"]
)
async def test_add_accepts_every_valid_id(metastore: Metastore, source_id: str) -> None:
    uid = await make_index(metastore)

    await metastore.call("AddSource", add(uid, source_config(source_id, "ingest")))

    assert [source["source_id"] for source in (await document(metastore))["sources"]] == [source_id]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"version": "0.8", "source_id": "src", "source_type": "ingest-api"},
            {"source_type": "ingest-api"},
        ),
        (
            {"version": "0.9", "source_id": "src", "source_type": "void", "params": {}},
            {"source_type": "void", "params": None},
        ),
        (
            {
                "version": "0.7",
                "source_id": "src",
                "source_type": "file",
                "params": {"filepath": "/var/log/x.json"},
                "max_num_pipelines_per_indexer": 4,
            },
            {"source_type": "file", "params": {"filepath": "file:///var/log/x.json"}},
        ),
    ],
)
async def test_add_spells_out_defaults(
    metastore: Metastore, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    uid = await make_index(metastore)

    await metastore.call("AddSource", add(uid, config))

    common = {
        "version": "0.9",
        "source_id": "src",
        "num_pipelines": 1,
        "enabled": True,
        "input_format": "json",
    }
    assert (await document(metastore))["sources"] == [common | expected]


MALFORMED = [
    "",
    "{",
    "[]",
    "null",
    "{}",
    compact(kafka_config(version="1.0")),
    compact(kafka_config("ab")),
    compact(kafka_config("9kafka")),
    compact(kafka_config("a" * 256)),
    compact(kafka_config("kafka-a\n")),
    compact(kafka_config(num_pipelines=0)),
    compact(kafka_config(num_pipelines=-1)),
    compact(kafka_config(enabled="true")),
    compact(kafka_config(source_type="stdin")),
    compact(kafka_config(source_type="nats")),
    compact(kafka_config(source_type=None)),
    compact(kafka_config(params=None)),
    compact(kafka_config(input_format="csv")),
    compact(kafka_config(unknown=1)),
    compact(source_config("src") | {"num_pipelines": 2}),
    compact(source_config("src") | {"source_type": "file", "params": {"notifications": []}}),
]


@pytest.mark.parametrize("text", MALFORMED)
async def test_add_refuses_a_config_that_is_not_valid(metastore: Metastore, text: str) -> None:
    uid = await make_index(metastore)
    request = pb.AddSourceRequest(index_uid=uid, source_config_json=text)

    error = await refused(metastore, "AddSource", request)

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == SOURCE_CONFIG


async def test_ten_sources_added_at_once_are_all_there(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    ids = [f"kafka-{number}" for number in range(10)]

    await asyncio.gather(
        *(metastore.call("AddSource", add(uid, kafka_config(source_id))) for source_id in ids)
    )

    stored = await document(metastore)
    assert sorted(source["source_id"] for source in stored["sources"]) == ids
    assert sorted(stored["checkpoint"]) == ids


async def test_one_source_added_ten_times_at_once_is_added_once(metastore: Metastore) -> None:
    uid = await make_index(metastore)

    outcomes = await asyncio.gather(
        *(metastore.call("AddSource", add(uid, kafka_config())) for _ in range(10)),
        return_exceptions=True,
    )

    assert outcomes.count(pb.EmptyResponse()) == 1
    assert sum(isinstance(outcome, errors.AlreadyExists) for outcome in outcomes) == 9


async def test_add_waits_for_the_lock_of_another_node(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    async with metastore.sql.transaction():
        text = await metastore.sql.fetchval("SELECT index_metadata_json FROM indexes FOR UPDATE")
        waiting = asyncio.create_task(metastore.call("AddSource", add(uid, kafka_config("mine"))))
        await wait_for_a_blocked_session(metastore)
        theirs = json.loads(text)
        theirs["sources"].append(kafka_config("theirs"))
        theirs["checkpoint"]["theirs"] = POSITIONS
        await metastore.sql.execute("UPDATE indexes SET index_metadata_json = $1", compact(theirs))

    await waiting

    stored = await document(metastore)
    assert stored["sources"] == [kafka_config("theirs"), kafka_config("mine")]
    assert stored["checkpoint"] == {"theirs": POSITIONS, "mine": {}}


async def test_add_to_an_index_that_is_deleted_meanwhile(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    async with metastore.sql.transaction():
        await metastore.sql.execute("DELETE FROM indexes")
        waiting = asyncio.create_task(metastore.call("AddSource", add(uid, kafka_config())))
        await wait_for_a_blocked_session(metastore)

    with pytest.raises(errors.NotFound) as caught:
        await waiting

    assert caught.value.payload() == {"NotFound": {"index": {"index_id": "web-logs"}}}


async def wait_for_a_blocked_session(metastore: Metastore) -> None:
    for _ in range(500):
        if await metastore.sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            return
        await asyncio.sleep(0.01)
    pytest.fail("no session waits for a lock")


# UpdateSource


async def test_update_replaces_the_config_in_its_place(metastore: Metastore) -> None:
    configs = [kafka_config(f"kafka-{letter}") for letter in "abc"]
    uid = await make_index(metastore, "web-logs", *configs)
    new = source_config("kafka-b", "ingest")

    await metastore.call("UpdateSource", update(uid, new))

    stored = await document(metastore)
    assert [stored["sources"][0], stored["sources"][2]] == [configs[0], configs[2]]
    assert stored["sources"][1] == {
        "version": "0.9",
        "source_id": "kafka-b",
        "num_pipelines": 1,
        "enabled": True,
        "source_type": "ingest",
        "input_format": "json",
    }


async def test_update_leaves_the_checkpoint_alone(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    await set_checkpoint(metastore, {"kafka-a": POSITIONS})

    await metastore.call(
        "UpdateSource", update(uid, kafka_config(params={"topic": "another", "client_params": {}}))
    )

    stored = await document(metastore)
    assert stored["checkpoint"] == {"kafka-a": POSITIONS}
    assert stored["sources"][0]["params"]["topic"] == "another"


@pytest.mark.parametrize(
    "same",
    [
        kafka_config(),
        kafka_config(version="0.8"),
        kafka_config(transform=None),
        kafka_config(params=kafka_config()["params"] | {"enable_backfill_mode": False}),
    ],
)
async def test_update_with_an_identical_config_writes_nothing(
    metastore: Metastore, same: dict[str, Any]
) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    before = await row_version(metastore)

    await metastore.call("UpdateSource", update(uid, same))

    assert await row_version(metastore) == before


async def test_update_again_is_idempotent(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    request = update(uid, kafka_config(num_pipelines=9))
    await metastore.call("UpdateSource", request)
    before = await row_version(metastore)

    await metastore.call("UpdateSource", request)

    assert await row_version(metastore) == before
    assert (await document(metastore))["sources"][0]["num_pipelines"] == 9


async def test_update_of_an_unknown_source(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())

    error = await refused(metastore, "UpdateSource", update(uid, kafka_config("nope")))

    assert error.payload() == source_not_found("nope")
    assert str(error) == "source `web-logs/nope` not found"


@pytest.mark.parametrize("text", MALFORMED)
async def test_update_refuses_a_config_that_is_not_valid(metastore: Metastore, text: str) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    request = pb.UpdateSourceRequest(index_uid=uid, source_config_json=text)

    error = await refused(metastore, "UpdateSource", request)

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == SOURCE_CONFIG


async def test_updates_of_different_sources_at_once_lose_nothing(metastore: Metastore) -> None:
    ids = [f"kafka-{number}" for number in range(8)]
    uid = await make_index(metastore, "web-logs", *map(kafka_config, ids))

    await asyncio.gather(
        *(
            metastore.call("UpdateSource", update(uid, kafka_config(source_id, num_pipelines=n)))
            for n, source_id in enumerate(ids, 3)
        )
    )

    pipelines = [source["num_pipelines"] for source in (await document(metastore))["sources"]]
    assert pipelines == list(range(3, 11))


# ToggleSource


@pytest.mark.parametrize("enabled", [True, False])
async def test_toggle_sets_enabled_and_nothing_else(metastore: Metastore, *, enabled: bool) -> None:
    uid = await make_index(
        metastore, "web-logs", kafka_config(enabled=not enabled), kafka_config("kafka-b")
    )

    await metastore.call("ToggleSource", toggle(uid, "kafka-a", enable=enabled))

    assert (await document(metastore))["sources"] == [
        kafka_config(enabled=enabled),
        kafka_config("kafka-b"),
    ]


@pytest.mark.parametrize("enabled", [True, False])
async def test_toggle_to_the_same_writes_nothing(metastore: Metastore, *, enabled: bool) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config(enabled=enabled))
    before = await row_version(metastore)

    await metastore.call("ToggleSource", toggle(uid, "kafka-a", enable=enabled))

    assert await row_version(metastore) == before


@pytest.mark.parametrize("source_id", ["nope", "", "KAFKA-A", "a" * 300])
async def test_toggle_of_an_unknown_source(metastore: Metastore, source_id: str) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())

    error = await refused(metastore, "ToggleSource", toggle(uid, source_id, enable=False))

    assert error.payload() == source_not_found(source_id)


async def test_toggle_of_a_source_without_the_key(metastore: Metastore) -> None:
    uid = await make_index(metastore, "web-logs", kafka_config())
    changed = await document(metastore)
    del changed["sources"][0]["enabled"]
    await metastore.sql.execute("UPDATE indexes SET index_metadata_json = $1", compact(changed))
    before = await row_version(metastore)

    await metastore.call("ToggleSource", toggle(uid, "kafka-a", enable=True))
    assert await row_version(metastore) == before

    await metastore.call("ToggleSource", toggle(uid, "kafka-a", enable=False))
    assert (await document(metastore))["sources"][0]["enabled"] is False


# DeleteSource


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


# What all five have in common

Build = Callable[[common_pb2.IndexUid], Any]
ALL: dict[str, Build] = {
    "AddSource": lambda uid: add(uid, kafka_config("kafka-new")),
    "UpdateSource": lambda uid: update(uid, kafka_config(num_pipelines=5)),
    "ToggleSource": lambda uid: toggle(uid, "kafka-a", enable=False),
    "DeleteSource": lambda uid: delete(uid, "kafka-a"),
    "ResetSourceCheckpoint": lambda uid: reset(uid, "kafka-a"),
}


@pytest.mark.parametrize("rpc", ALL)
@pytest.mark.parametrize("index_id", ["web-logs", "nope", "a" * 255])
async def test_an_unknown_index_or_incarnation_is_not_found(
    metastore: Metastore, rpc: str, index_id: str
) -> None:
    await make_index(metastore, "web-logs", kafka_config())

    error = await refused(metastore, rpc, ALL[rpc](unknown_index(index_id)))

    assert error.payload() == {"NotFound": {"index": {"index_id": index_id}}}


@pytest.mark.parametrize("rpc", ALL)
async def test_the_nil_incarnation_is_not_found(metastore: Metastore, rpc: str) -> None:
    await make_index(metastore, "web-logs", kafka_config())

    error = await refused(metastore, rpc, ALL[rpc](common_pb2.IndexUid(index_id="web-logs")))

    assert error.payload() == {"NotFound": {"index": {"index_id": "web-logs"}}}


@pytest.mark.parametrize("rpc", ALL)
async def test_a_missing_index_uid_is_invalid(metastore: Metastore, rpc: str) -> None:
    request = ALL[rpc](unknown_index())
    request.ClearField("index_uid")

    error = await refused(metastore, rpc, request)

    assert error.payload() == {"InvalidArgument": {"message": "field `index_uid` is required"}}


@pytest.mark.parametrize("rpc", ALL)
async def test_an_incarnation_of_the_wrong_length_is_invalid(
    metastore: Metastore, rpc: str
) -> None:
    uid = common_pb2.IndexUid(index_id="web-logs", incarnation_id=b"x" * 15)

    error = await refused(metastore, rpc, ALL[rpc](uid))

    assert error.payload() == {
        "InvalidArgument": {"message": "field `index_uid.incarnation_id` must be 16 bytes, got 15"}
    }


@pytest.mark.parametrize("rpc", ALL)
@pytest.mark.parametrize("text", ["{", '{"version":"0.9"}', metadata_text("0.8") + "]"])
async def test_a_broken_row_is_reported_and_left_alone(
    metastore: Metastore, rpc: str, text: str
) -> None:
    uid = await store_old(metastore, "0.8")
    await metastore.sql.execute("UPDATE indexes SET index_metadata_json = $1", text)

    error = await refused(metastore, rpc, ALL[rpc](uid))

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == "IndexMetadata"


Expect = Callable[[dict[str, Any]], object]


def _added(stored: dict[str, Any]) -> None:
    stored["sources"].append(kafka_config("kafka-new"))
    stored["checkpoint"]["kafka-new"] = {}


OLD: dict[str, tuple[Build, Expect]] = {
    "AddSource": (ALL["AddSource"], _added),
    "UpdateSource": (
        lambda uid: update(uid, kafka_config("kafka-old")),
        lambda stored: stored.update(sources=[kafka_config("kafka-old")]),
    ),
    "ToggleSource": (
        lambda uid: toggle(uid, "kafka-old", enable=False),
        lambda stored: stored["sources"][0].update(enabled=False),
    ),
    "DeleteSource": (
        lambda uid: delete(uid, "kafka-old"),
        lambda stored: (stored["sources"].clear(), stored["checkpoint"].pop("kafka-old")),
    ),
    "ResetSourceCheckpoint": (
        lambda uid: reset(uid, "kafka-old"),
        lambda stored: stored["checkpoint"].pop("kafka-old"),
    ),
}


@pytest.mark.parametrize("rpc", OLD)
@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_older_metadata_is_changed_and_keeps_its_unknown_keys(
    metastore: Metastore, rpc: str, version: str
) -> None:
    build, expect = OLD[rpc]
    uid = await store_old(metastore, version)

    await metastore.call(rpc, build(uid))

    expected = metadata(version) | {"create_timestamp": 42}
    expect(expected)
    text = await metastore.sql.fetchval("SELECT index_metadata_json FROM indexes")
    assert text == compact(expected)


@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_an_older_source_is_compared_by_meaning(metastore: Metastore, version: str) -> None:
    uid = await store_old(metastore, version)
    before = await row_version(metastore)
    same = kafka_config("kafka-old", params={"topic": "old", "client_params": {}})

    await metastore.call("UpdateSource", update(uid, same))

    assert await row_version(metastore) == before
