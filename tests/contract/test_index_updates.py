"""UpdateIndex: what it replaces, what it refuses, and what runs beside it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy import errors, identifiers
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_calls import (
    NEW_UID,
    NIL,
    OLD_LOGS_UID,
    create,
    not_found,
    read,
    refused,
    store_document,
    store_old,
)
from tests.support.index_documents import (
    compact,
    kafka_config,
    metadata,
    web_logs_config,
)
from tests.support.making import unknown_index

# UpdateIndex


def update_request(uid: common_pb2.IndexUid, config: dict[str, Any]) -> pb.UpdateIndexRequest:
    request = pb.UpdateIndexRequest(
        index_uid=uid,
        doc_mapping_json=compact(config["doc_mapping"]),
        indexing_settings_json=compact(config["indexing_settings"]),
        ingest_settings_json=compact(config["ingest_settings"]),
        search_settings_json=compact(config["search_settings"]),
    )
    if config["retention"] is not None:
        request.retention_policy_json_opt = compact(config["retention"])
    return request


async def update(
    metastore: Metastore, uid: common_pb2.IndexUid, config: dict[str, Any]
) -> dict[str, Any]:
    response = await metastore.call("UpdateIndex", update_request(uid, config))
    document: dict[str, Any] = json.loads(response.index_metadata_serialized_json)
    return document


async def version_of_row(metastore: Metastore) -> tuple[Any, ...]:
    """Return what PostgreSQL changes whenever it writes the row again."""
    (row,) = await metastore.sql.fetch("SELECT ctid, xmin FROM indexes")
    return tuple(row)


def new_mapping(**changes: Any) -> dict[str, Any]:
    config = web_logs_config()
    config["doc_mapping"] |= {"doc_mapping_uid": NEW_UID, "max_num_partitions": 7} | changes
    return config


async def test_update_replaces_all_five_parts(metastore: Metastore) -> None:
    uid = (await create(metastore, None, kafka_config())).index_uid
    config = new_mapping() | {
        "indexing_settings": web_logs_config()["indexing_settings"]
        | {"merge_policy": {"type": "no_merge"}},
        "ingest_settings": {"min_shards": 5},
        "search_settings": {"default_search_fields": []},
        "retention": {"period": "7 days", "schedule": "hourly"},
    }

    answer = await update(metastore, uid, config)

    assert answer == await read(metastore, index_uid=uid)
    assert answer["index_config"] == config
    assert (answer["sources"], answer["checkpoint"]) == ([kafka_config()], {"kafka-a": {}})


async def test_update_without_retention_clears_it(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid

    answer = await update(metastore, uid, web_logs_config() | {"retention": None})

    assert answer["index_config"] == web_logs_config() | {"retention": None}


async def test_update_with_nothing_new_writes_nothing(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid
    before = await version_of_row(metastore)

    answer = await update(metastore, uid, web_logs_config())

    assert answer == await read(metastore, index_uid=uid)
    assert await version_of_row(metastore) == before


async def test_update_again_with_the_same_is_idempotent(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid
    first = await update(metastore, uid, new_mapping())
    before = await version_of_row(metastore)

    assert await update(metastore, uid, new_mapping()) == first
    assert await version_of_row(metastore) == before


async def test_update_with_an_equal_mapping_keeps_the_stored_uid(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid
    config = web_logs_config() | {"ingest_settings": {"min_shards": 8}}
    config["doc_mapping"]["doc_mapping_uid"] = NEW_UID

    answer = await update(metastore, uid, config)

    mapping = answer["index_config"]["doc_mapping"]
    assert mapping["doc_mapping_uid"] == "01J5ZQ3V7Y8M4N6P2R9S0T1VWY"
    assert answer["index_config"]["ingest_settings"] == {"min_shards": 8}


async def test_update_back_to_an_older_mapping_with_its_uid(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid
    await update(metastore, uid, new_mapping())

    assert (await update(metastore, uid, web_logs_config()))["index_config"] == web_logs_config()


async def test_update_answers_the_column_s_creation_time(metastore: Metastore) -> None:
    uid = await store_old(metastore, "0.8")
    config = web_logs_config("old-logs")
    config["doc_mapping"] = metadata("0.8")["index_config"]["doc_mapping"]

    answer = await update(metastore, uid, config)

    assert answer["create_timestamp"] == 42
    assert answer == await read(metastore, index_uid=uid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"doc_mapping_uid": "01J5ZQ3V7Y8M4N6P2R9S0T1VWY"},
            "new doc mapping UID should differ from the current one",
        ),
        ({"timestamp_field": None}, "updating timestamp field is not allowed"),
        ({"tokenizers": []}, "updating tokenizers is allowed only by adding new ones"),
        ({"tag_fields": ["nobody"]}, "invalid doc mapping"),
        ({"tokenizers": web_logs_config()["doc_mapping"]["tokenizers"][:1]}, "updating tokenizers"),
    ],
)
async def test_update_refuses_a_mapping_that_cannot_follow(
    metastore: Metastore, change: dict[str, Any], message: str
) -> None:
    uid = (await create(metastore)).index_uid

    error = await refused(metastore, "UpdateIndex", update_request(uid, new_mapping(**change)))

    assert isinstance(error, errors.InvalidArgument)
    assert error.message.startswith(message)


async def test_update_checks_a_new_mapping_with_the_new_search_settings(
    metastore: Metastore,
) -> None:
    uid = (await create(metastore)).index_uid
    config = new_mapping() | {"search_settings": {"default_search_fields": ["digest"]}}

    error = await refused(metastore, "UpdateIndex", update_request(uid, config))

    assert error.payload() == {"InvalidArgument": {"message": "invalid doc mapping"}}


async def test_update_does_not_check_search_fields_of_an_equal_mapping(
    metastore: Metastore,
) -> None:
    uid = (await create(metastore)).index_uid
    config = web_logs_config() | {"search_settings": {"default_search_fields": ["digest"]}}

    assert (await update(metastore, uid, config))["index_config"] == config


@pytest.mark.parametrize("index_id", ["web-logs", "nope"])
async def test_update_of_an_unknown_index(metastore: Metastore, index_id: str) -> None:
    await create(metastore)

    error = await refused(
        metastore, "UpdateIndex", update_request(unknown_index(index_id), web_logs_config())
    )

    assert error.payload() == not_found(index_id)


@pytest.mark.parametrize(
    ("field", "struct"),
    [
        ("doc_mapping_json", "quickwit_doc_mapper::doc_mapping::DocMapping"),
        ("indexing_settings_json", "quickwit_config::index_config::IndexingSettings"),
        ("ingest_settings_json", "quickwit_config::index_config::IngestSettings"),
        ("search_settings_json", "quickwit_config::index_config::SearchSettings"),
        ("retention_policy_json_opt", "quickwit_config::index_config::RetentionPolicy"),
    ],
)
@pytest.mark.parametrize("text", ["", "[]", "{", '{"unknown_key":1}'])
async def test_update_with_a_malformed_part(
    metastore: Metastore, field: str, struct: str, text: str
) -> None:
    uid = (await create(metastore)).index_uid
    request = update_request(uid, web_logs_config())
    setattr(request, field, text)

    error = await refused(metastore, "UpdateIndex", request)

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == struct


async def test_malformed_parts_come_before_the_unknown_index(metastore: Metastore) -> None:
    request = update_request(unknown_index(), web_logs_config())
    request.doc_mapping_json = "{"

    assert isinstance(await refused(metastore, "UpdateIndex", request), errors.JsonDeserializeError)


async def test_update_of_a_broken_row(metastore: Metastore) -> None:
    uid = identifiers.index_uid_message(OLD_LOGS_UID)
    await store_document(metastore, OLD_LOGS_UID, '{"version":"0.9"')

    error = await refused(metastore, "UpdateIndex", update_request(uid, web_logs_config()))

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == "IndexMetadata"


def as_clients_see(version: str) -> dict[str, Any]:
    config: dict[str, Any] = metadata(version)["index_config"]
    mapping = config["doc_mapping"] | {"doc_mapping_uid": NIL, "store_document_size": False}
    del mapping["partition_key"]
    settings = config["indexing_settings"] | {"resources": {"heap_size": 50_000_000}}
    return {
        "doc_mapping": mapping,
        "indexing_settings": settings,
        "ingest_settings": {"min_shards": 1},
        "search_settings": config["search_settings"],
        "retention": None,
    }


@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_update_of_older_metadata_with_nothing_new(
    metastore: Metastore, version: str
) -> None:
    uid = await store_old(metastore, version)
    before = await version_of_row(metastore)

    answer = await update(metastore, uid, as_clients_see(version))

    assert answer == metadata(version) | {"create_timestamp": 42}
    assert await version_of_row(metastore) == before


@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_update_of_older_metadata_keeps_unknown_keys(
    metastore: Metastore, version: str
) -> None:
    uid = await store_old(metastore, version)
    config = as_clients_see(version) | {"ingest_settings": {"min_shards": 2}}

    answer = await update(metastore, uid, config)

    expected = metadata(version) | {"create_timestamp": 42}
    expected["index_config"]["ingest_settings"] = {"min_shards": 2}
    assert answer == expected
    stored = await metastore.sql.fetchval("SELECT index_metadata_json FROM indexes")
    assert '"partition_id":18446744073709551615,"ratio":0.1,"note":"ünïcode"' in stored


@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_a_new_mapping_moves_older_metadata_to_0_9(
    metastore: Metastore, version: str
) -> None:
    uid = await store_old(metastore, version)
    config = as_clients_see(version)
    config["doc_mapping"] |= {"doc_mapping_uid": NEW_UID, "store_source": True}

    answer = await update(metastore, uid, config)

    assert answer["index_config"]["version"] == "0.9"
    assert answer["index_config"]["doc_mapping"] == config["doc_mapping"]


@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_a_new_mapping_needs_another_uid_than_nil(metastore: Metastore, version: str) -> None:
    uid = await store_old(metastore, version)
    config = as_clients_see(version)
    config["doc_mapping"]["store_source"] = True

    error = await refused(metastore, "UpdateIndex", update_request(uid, config))

    assert isinstance(error, errors.InvalidArgument)


async def test_updates_at_once_are_one_after_the_other(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid
    wanted = [web_logs_config() | {"ingest_settings": {"min_shards": n}} for n in range(11, 21)]

    answers = await asyncio.gather(*(update(metastore, uid, config) for config in wanted))

    shards = [answer["index_config"]["ingest_settings"]["min_shards"] for answer in answers]
    assert shards == list(range(11, 21))
    final = (await read(metastore, index_uid=uid))["index_config"]
    assert final in wanted


async def test_update_and_sources_at_once_lose_nothing(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid
    config = web_logs_config() | {"ingest_settings": {"min_shards": 77}}
    adds = [
        metastore.call(
            "AddSource",
            pb.AddSourceRequest(
                index_uid=uid, source_config_json=compact(kafka_config(f"kafka-{number}"))
            ),
        )
        for number in range(5)
    ]

    await asyncio.gather(*adds, update(metastore, uid, config))

    document = await read(metastore, index_uid=uid)
    assert document["index_config"] == config
    assert len(document["sources"]) == 5


async def test_update_waits_for_the_lock_of_another_node(metastore: Metastore) -> None:
    uid = (await create(metastore)).index_uid
    config = web_logs_config() | {"ingest_settings": {"min_shards": 77}}
    async with metastore.sql.transaction():
        text = await metastore.sql.fetchval("SELECT index_metadata_json FROM indexes FOR UPDATE")
        waiting = asyncio.create_task(update(metastore, uid, config))
        await wait_for_a_blocked_session(metastore)
        document = json.loads(text) | {"x_other_node": 1}
        await metastore.sql.execute(
            "UPDATE indexes SET index_metadata_json = $1", compact(document)
        )

    answer = await waiting

    assert answer["x_other_node"] == 1
    assert answer["index_config"] == config


async def wait_for_a_blocked_session(metastore: Metastore) -> None:
    for _ in range(500):
        if await metastore.sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            return
        await asyncio.sleep(0.01)
    pytest.fail("no session waits for a lock")
