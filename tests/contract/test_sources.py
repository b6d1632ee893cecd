"""What holds for every change of a source: the index it names, broken rows, older metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy import errors
from proxy.proto.quickwit import common_pb2
from tests.support.access import Metastore
from tests.support.index_documents import compact, kafka_config, metadata, metadata_text
from tests.support.making import make_index, unknown_index
from tests.support.sources import (
    add,
    delete,
    refused,
    reset,
    row_version,
    store_old,
    toggle,
    update,
)

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
