"""AddSource: configs in canonical form, what is refused, and several at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_documents import compact, kafka_config
from tests.support.making import make_index, source_config
from tests.support.sources import (
    MALFORMED,
    POSITIONS,
    SOURCE_CONFIG,
    add,
    document,
    refused,
    set_checkpoint,
)


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
