"""UpdateSource and ToggleSource: what changes, what stays, what writes nothing."""

from __future__ import annotations

import asyncio
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
    document,
    refused,
    row_version,
    set_checkpoint,
    source_not_found,
    toggle,
    update,
)


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
