"""IndexMetadata: by ID and by UID, of any version, and what is not found."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_calls import (
    OLD_LOGS_UID,
    create,
    make,
    not_found,
    read,
    refused,
    store_document,
    store_old,
)
from tests.support.index_documents import kafka_config, metadata, metadata_text
from tests.support.making import unknown_index


async def test_metadata_by_id_and_by_uid_is_the_same(metastore: Metastore) -> None:
    response = await create(metastore, None, kafka_config())

    by_id = await read(metastore, index_id="web-logs")

    assert by_id == await read(metastore, index_uid=response.index_uid)
    assert by_id == json.loads(response.index_metadata_json) | {
        "create_timestamp": by_id["create_timestamp"]
    }


async def test_metadata_prefers_the_uid(metastore: Metastore) -> None:
    uids = await make(metastore, "index-a", "index-b")

    document = await read(metastore, index_id="index-a", index_uid=uids["index-b"])

    assert document["index_config"]["index_id"] == "index-b"


async def test_metadata_with_an_unknown_uid_does_not_fall_back_to_the_id(
    metastore: Metastore,
) -> None:
    await make(metastore, "index-a")
    request = pb.IndexMetadataRequest(index_id="index-a", index_uid=unknown_index("index-b"))

    assert (await refused(metastore, "IndexMetadata", request)).payload() == not_found("index-b")


@pytest.mark.parametrize("seconds", [0, 1, 1_700_000_000])
async def test_metadata_has_the_column_s_creation_time(metastore: Metastore, seconds: int) -> None:
    await store_document(metastore, OLD_LOGS_UID, metadata_text("0.8"), seconds)

    document = await read(metastore, index_id="old-logs")

    assert document == metadata("0.8") | {"create_timestamp": seconds}


@pytest.mark.parametrize("version", ["0.7", "0.8"])
async def test_metadata_of_older_versions_is_served_with_unknown_keys(
    metastore: Metastore, version: str
) -> None:
    uid = await store_old(metastore, version)

    response = await metastore.call("IndexMetadata", pb.IndexMetadataRequest(index_uid=uid))

    assert response.index_metadata_serialized_json == metadata_text(version).replace(
        "1700000000", "42"
    )


async def test_metadata_by_unknown_id(metastore: Metastore) -> None:
    error = await refused(metastore, "IndexMetadata", pb.IndexMetadataRequest(index_id="nope"))

    assert error.payload() == not_found("nope")
    assert str(error) == "index `nope` not found"


async def test_metadata_by_unknown_uid(metastore: Metastore) -> None:
    request = pb.IndexMetadataRequest(index_uid=unknown_index("nope"))

    assert (await refused(metastore, "IndexMetadata", request)).payload() == not_found("nope")


async def test_metadata_of_another_incarnation(metastore: Metastore) -> None:
    await make(metastore, "web-logs")
    request = pb.IndexMetadataRequest(index_uid=unknown_index("web-logs"))

    assert (await refused(metastore, "IndexMetadata", request)).payload() == not_found("web-logs")


async def test_metadata_of_nothing(metastore: Metastore) -> None:
    error = await refused(metastore, "IndexMetadata", pb.IndexMetadataRequest())

    assert error.payload() == {
        "Internal": {
            "message": "invalid request: neither `index_id` nor `index_uid` is set",
            "cause": "",
        }
    }


async def test_metadata_by_the_empty_id_is_not_found(metastore: Metastore) -> None:
    error = await refused(metastore, "IndexMetadata", pb.IndexMetadataRequest(index_id=""))

    assert error.payload() == not_found("")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "{}",
        '{"create_timestamp":1}',
        metadata_text("0.8")[:-1],
        metadata_text("0.8") + "}",
    ],
)
async def test_metadata_of_a_broken_row(metastore: Metastore, text: str) -> None:
    await store_document(metastore, OLD_LOGS_UID, text)

    error = await refused(metastore, "IndexMetadata", pb.IndexMetadataRequest(index_id="old-logs"))

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == "IndexMetadata"
