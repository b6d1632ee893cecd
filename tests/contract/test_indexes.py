"""Indexes: CreateIndex, DeleteIndex, and what every RPC that names an index by UID refuses."""

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
from tests.support.index_calls import (
    INDEX_CONFIG,
    NIL,
    SOURCE_CONFIG,
    add_split,
    create,
    list_ids,
    make,
    not_found,
    read,
    refused,
    rows,
)
from tests.support.index_documents import (
    compact,
    kafka_config,
    web_logs_config,
)
from tests.support.making import source_config, uid_text, unknown_index

# CreateIndex


async def test_create_answers_what_it_stored(metastore: Metastore) -> None:
    response = await create(metastore)

    (row,) = await metastore.sql.fetch("SELECT * FROM indexes")
    uid = identifiers.index_uid_text(response.index_uid)
    assert (row["index_uid"], row["index_id"]) == (uid, "web-logs")
    assert row["index_metadata_json"] == response.index_metadata_json
    document = json.loads(response.index_metadata_json)
    assert document["version"] == "0.9"
    assert document["index_uid"] == uid
    assert document["index_config"] == web_logs_config()
    assert (document["checkpoint"], document["sources"]) == ({}, [])


async def test_create_sets_the_creation_time_from_the_clock(metastore: Metastore) -> None:
    before = await metastore.sql.fetchval("SELECT floor(extract(EPOCH FROM now()))::bigint")

    document = json.loads((await create(metastore)).index_metadata_json)

    column = await metastore.sql.fetchval(
        "SELECT floor(extract(EPOCH FROM create_timestamp))::bigint FROM indexes"
    )
    assert before - 1 <= document["create_timestamp"] <= column + 1
    assert column >= before


async def test_create_chooses_the_incarnation(metastore: Metastore) -> None:
    first = await create(metastore)
    await metastore.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=first.index_uid))

    second = await create(metastore)

    assert first.index_uid.index_id == second.index_uid.index_id == "web-logs"
    assert len(second.index_uid.incarnation_id) == 16
    assert first.index_uid.incarnation_id != second.index_uid.incarnation_id


async def test_create_adds_sources_with_empty_checkpoints(metastore: Metastore) -> None:
    sources = [
        kafka_config("kafka-b"),
        kafka_config("kafka-a"),
        source_config("_ingest-source", "ingest"),
    ]

    document = json.loads((await create(metastore, None, *sources)).index_metadata_json)

    assert document["checkpoint"] == {"kafka-b": {}, "kafka-a": {}, "_ingest-source": {}}
    assert document["sources"][:2] == sources[:2]
    assert document["sources"][2] == {
        "version": "0.9",
        "source_id": "_ingest-source",
        "num_pipelines": 1,
        "enabled": True,
        "source_type": "ingest",
        "input_format": "json",
    }


async def test_create_keeps_a_given_doc_mapping_uid(metastore: Metastore) -> None:
    document = json.loads((await create(metastore)).index_metadata_json)

    assert (
        document["index_config"]["doc_mapping"]["doc_mapping_uid"] == "01J5ZQ3V7Y8M4N6P2R9S0T1VWY"
    )


async def test_create_makes_up_a_missing_doc_mapping_uid(metastore: Metastore) -> None:
    config = web_logs_config()
    del config["doc_mapping"]["doc_mapping_uid"]

    document = json.loads((await create(metastore, config)).index_metadata_json)

    uid = document["index_config"]["doc_mapping"]["doc_mapping_uid"]
    assert len(identifiers.decode_ulid(uid)) == 16
    assert uid != NIL


@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_create_with_an_older_config_forces_the_nil_uid(
    metastore: Metastore, version: str
) -> None:
    document = json.loads(
        (await create(metastore, web_logs_config() | {"version": version})).index_metadata_json
    )

    assert document["index_config"]["version"] == "0.9"
    assert document["index_config"]["doc_mapping"]["doc_mapping_uid"] == NIL


async def test_create_normalizes_the_index_uri(metastore: Metastore) -> None:
    config = web_logs_config() | {"index_uri": "/data/../idx/./web-logs/"}

    document = json.loads((await create(metastore, config)).index_metadata_json)

    assert document["index_config"]["index_uri"] == "file:///idx/web-logs"


@pytest.mark.parametrize("index_id", ["abc", "a" * 255, "Z9-_.z"])
async def test_create_accepts_every_valid_id(metastore: Metastore, index_id: str) -> None:
    response = await create(metastore, web_logs_config(index_id))

    assert await uid_text(metastore, index_id) == identifiers.index_uid_text(response.index_uid)
    assert (await read(metastore, index_id=index_id))["index_config"]["index_id"] == index_id
    assert await list_ids(metastore, index_id) == [index_id]


async def test_create_is_not_idempotent(metastore: Metastore) -> None:
    await create(metastore)

    error = await refused(
        metastore,
        "CreateIndex",
        pb.CreateIndexRequest(index_config_json=compact(web_logs_config())),
    )

    assert error.payload() == {"AlreadyExists": {"index": {"index_id": "web-logs"}}}
    assert str(error) == "index `web-logs` already exist(s)"


async def test_create_ten_times_at_once_makes_one_index(metastore: Metastore) -> None:
    outcomes = await asyncio.gather(*(create(metastore) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(outcome, pb.CreateIndexResponse) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, errors.AlreadyExists) for outcome in outcomes) == 9
    assert len(await rows(metastore)) == 1


async def test_create_refuses_a_source_named_twice(metastore: Metastore) -> None:
    sources = [kafka_config("kafka-a"), kafka_config("kafka-a", enabled=False)]
    request = pb.CreateIndexRequest(
        index_config_json=compact(web_logs_config()),
        source_configs_json=[compact(source) for source in sources],
    )

    error = await refused(metastore, "CreateIndex", request)

    assert error.payload() == {
        "AlreadyExists": {"source": {"index_id": "web-logs", "source_id": "kafka-a"}}
    }


async def test_a_source_named_twice_comes_before_an_index_in_use(metastore: Metastore) -> None:
    await create(metastore)
    request = pb.CreateIndexRequest(
        index_config_json=compact(web_logs_config()),
        source_configs_json=[compact(kafka_config())] * 2,
    )

    error = await refused(metastore, "CreateIndex", request)

    assert isinstance(error, errors.AlreadyExists)
    assert error.entity == errors.source("web-logs", "kafka-a")


def changed(path: str, value: Any) -> str:
    """Return the web-logs config with one field replaced, or removed for `...`."""
    config = web_logs_config()
    *parents, last = path.split("/")
    target: Any = config
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return compact(config)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "{",
        '{"version":NaN}',
        changed("version", ...),
        changed("version", "0.6"),
        changed("version", 0.9),
        changed("index_id", ...),
        changed("index_id", "ab"),
        changed("index_id", "a" * 256),
        changed("index_id", "web logs"),
        changed("index_id", "web-logs\n"),
        changed("index_id", "1web"),
        changed("index_uri", ...),
        changed("index_uri", "ftp://x"),
        changed("doc_mapping", ...),
        changed("doc_mapping/timestamp_field", "nope"),
        changed("doc_mapping/timestamp_field", None),
        changed("doc_mapping/doc_mapping_uid", "short"),
        changed("doc_mapping/max_num_partitions", -1),
        changed("indexing_settings/merge_policy/max_merge_factor", 7),
        changed("search_settings/default_search_fields", ["message", "message"]),
        changed("retention/period", "for ever"),
        changed("unknown", 1),
        changed("doc_mapping/unknown", 1),
        changed("ingest_settings/min_shards", 0),
    ],
)
async def test_create_refuses_a_config_that_is_not_valid(metastore: Metastore, text: str) -> None:
    error = await refused(metastore, "CreateIndex", pb.CreateIndexRequest(index_config_json=text))

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == INDEX_CONFIG
    assert await rows(metastore) == []


@pytest.mark.parametrize(
    "source",
    [
        "",
        "[]",
        "{}",
        compact(kafka_config(version="0.6")),
        compact(kafka_config("x")),
        compact(kafka_config(source_type="stdin")),
        compact(kafka_config(source_type="nats")),
        compact(kafka_config(num_pipelines=0)),
        compact(kafka_config(params={})),
        compact(kafka_config(unknown=1)),
    ],
)
async def test_create_refuses_a_source_that_is_not_valid(metastore: Metastore, source: str) -> None:
    request = pb.CreateIndexRequest(
        index_config_json=compact(web_logs_config()),
        source_configs_json=[compact(kafka_config()), source],
    )

    error = await refused(metastore, "CreateIndex", request)

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == SOURCE_CONFIG


# DeleteIndex


async def test_delete_removes_the_index_with_all_that_cascades(metastore: Metastore) -> None:
    uids = await make(metastore, "index-a", "index-b")
    uid = await uid_text(metastore, "index-a")
    for number, state in enumerate(("Staged", "Published", "MarkedForDeletion")):
        await add_split(metastore, uid, f"s{number}", state, 1)
    await metastore.sql.execute(
        "INSERT INTO shards (index_uid, source_id, shard_id, leader_id, doc_mapping_uid)"
        " VALUES ($1, 's', 'x', 'n', $2)",
        uid,
        NIL,
    )
    await metastore.sql.execute(
        "INSERT INTO delete_tasks (index_uid, delete_query_json) VALUES ($1, '{}')", uid
    )

    response = await metastore.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uids["index-a"]))

    assert response == pb.EmptyResponse()
    assert await list_ids(metastore, "*") == ["index-b"]
    for table in ("splits", "shards", "delete_tasks"):
        assert await metastore.sql.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_delete_twice_is_not_found(metastore: Metastore) -> None:
    uids = await make(metastore, "index-a")
    request = pb.DeleteIndexRequest(index_uid=uids["index-a"])
    await metastore.call("DeleteIndex", request)

    assert (await refused(metastore, "DeleteIndex", request)).payload() == not_found("index-a")


async def test_delete_of_another_incarnation_is_not_found(metastore: Metastore) -> None:
    await make(metastore, "web-logs")

    error = await refused(
        metastore, "DeleteIndex", pb.DeleteIndexRequest(index_uid=unknown_index("web-logs"))
    )

    assert error.payload() == not_found("web-logs")


async def test_delete_with_metrics_splits_left_is_a_database_error(metastore: Metastore) -> None:
    uids = await make(metastore, "index-a")
    await metastore.sql.execute(
        "INSERT INTO metrics_splits (split_id, split_state, index_uid, time_range_start,"
        " time_range_end, metric_names, num_rows, size_bytes, split_metadata_json)"
        " VALUES ('m', 'Published', $1, 0, 1, '{}', 1, 1, '{}')",
        await uid_text(metastore, "index-a"),
    )

    error = await refused(
        metastore, "DeleteIndex", pb.DeleteIndexRequest(index_uid=uids["index-a"])
    )

    assert isinstance(error, errors.Db)
    assert error.message.startswith("error returned from database: ")
    assert "metrics_splits" in error.message


# What every RPC that names an index by UID refuses

Build = Callable[..., Any]
NAMING: list[tuple[str, Build]] = [
    ("UpdateIndex", pb.UpdateIndexRequest),
    ("DeleteIndex", pb.DeleteIndexRequest),
]


@pytest.mark.parametrize(("rpc", "build"), NAMING)
async def test_a_missing_index_uid_is_invalid(metastore: Metastore, rpc: str, build: Build) -> None:
    error = await refused(metastore, rpc, build())

    assert error.payload() == {"InvalidArgument": {"message": "field `index_uid` is required"}}


@pytest.mark.parametrize(("rpc", "build"), [*NAMING, ("IndexMetadata", pb.IndexMetadataRequest)])
@pytest.mark.parametrize("length", [1, 15, 17])
async def test_an_incarnation_of_the_wrong_length_is_invalid(
    metastore: Metastore, rpc: str, build: Build, length: int
) -> None:
    uid = common_pb2.IndexUid(index_id="web-logs", incarnation_id=b"x" * length)

    error = await refused(metastore, rpc, build(index_uid=uid))

    assert error.payload() == {
        "InvalidArgument": {
            "message": f"field `index_uid.incarnation_id` must be 16 bytes, got {length}"
        }
    }


@pytest.mark.parametrize("index_id", ["", "web:logs"])
async def test_an_index_id_that_no_uid_can_have_is_invalid(
    metastore: Metastore, index_id: str
) -> None:
    request = pb.DeleteIndexRequest(index_uid=unknown_index(index_id))

    error = await refused(metastore, "DeleteIndex", request)

    assert isinstance(error, errors.InvalidArgument)
    assert error.message.startswith("field `index_uid.index_id` must be a non-empty ID without `:`")


async def test_a_nul_character_is_invalid(metastore: Metastore) -> None:
    error = await refused(metastore, "IndexMetadata", pb.IndexMetadataRequest(index_id="a\0b"))

    assert isinstance(error, errors.InvalidArgument)
