"""IndexesMetadata: several at once, and what became of each."""

from __future__ import annotations

import zstandard

from proxy import errors
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_calls import (
    OLD_LOGS_UID,
    make,
    read_many,
    refused,
    store_document,
    store_old,
    unpack,
)
from tests.support.index_documents import compact, metadata
from tests.support.making import unknown_index


def by_id(index_id: str) -> pb.IndexMetadataSubrequest:
    return pb.IndexMetadataSubrequest(index_id=index_id)


def by_uid(uid: common_pb2.IndexUid) -> pb.IndexMetadataSubrequest:
    return pb.IndexMetadataSubrequest(index_uid=uid)


def found(response: pb.IndexesMetadataResponse) -> list[str]:
    return [
        document["index_config"]["index_id"]
        for document in unpack(response.indexes_metadata_json_zstd)
    ]


async def test_several_indexes_by_id_and_by_uid(metastore: Metastore) -> None:
    uids = await make(metastore, "index-a", "index-b", "index-c")

    response = await read_many(metastore, by_id("index-a"), by_uid(uids["index-c"]))

    assert found(response) == ["index-a", "index-c"]
    assert list(response.failures) == []


async def test_no_subrequests_answer_zero_bytes(metastore: Metastore) -> None:
    await make(metastore, "index-a")

    response = await read_many(metastore)

    assert response == pb.IndexesMetadataResponse()
    assert response.indexes_metadata_json_zstd == b""


async def test_several_indexes_prefer_the_id(metastore: Metastore) -> None:
    uids = await make(metastore, "index-a", "index-b")

    response = await read_many(
        metastore, pb.IndexMetadataSubrequest(index_id="index-a", index_uid=uids["index-b"])
    )

    assert found(response) == ["index-a"]
    assert list(response.failures) == []


async def test_what_is_missing_is_echoed_as_it_was_asked(metastore: Metastore) -> None:
    await make(metastore, "index-a")
    unknown = unknown_index("index-a")

    response = await read_many(metastore, by_uid(unknown), by_id("index-a"), by_id("nope"))

    assert found(response) == ["index-a"]
    assert list(response.failures) == [
        pb.IndexMetadataFailure(index_id="nope", reason=pb.INDEX_METADATA_FAILURE_REASON_NOT_FOUND),
        pb.IndexMetadataFailure(
            index_uid=unknown, reason=pb.INDEX_METADATA_FAILURE_REASON_NOT_FOUND
        ),
    ]


async def test_a_subrequest_that_names_nothing_fails_alone(metastore: Metastore) -> None:
    await make(metastore, "index-a")

    response = await read_many(metastore, pb.IndexMetadataSubrequest(), by_id("index-a"))

    assert found(response) == ["index-a"]
    (failure,) = response.failures
    assert failure.reason == pb.INDEX_METADATA_FAILURE_REASON_INTERNAL
    assert not failure.HasField("index_id")
    assert not failure.HasField("index_uid")


async def test_only_failures_still_answer_an_empty_list(metastore: Metastore) -> None:
    response = await read_many(metastore, by_id("nope"), pb.IndexMetadataSubrequest())

    assert unpack(response.indexes_metadata_json_zstd) == []
    assert [failure.reason for failure in response.failures] == [
        pb.INDEX_METADATA_FAILURE_REASON_INTERNAL,
        pb.INDEX_METADATA_FAILURE_REASON_NOT_FOUND,
    ]


async def test_duplicate_subrequests_collapse(metastore: Metastore) -> None:
    uids = await make(metastore, "index-a")

    response = await read_many(
        metastore, by_id("index-a"), by_id("index-a"), by_uid(uids["index-a"])
    )

    assert found(response) == ["index-a"]
    assert list(response.failures) == []


async def test_a_missing_index_asked_for_twice_fails_twice(metastore: Metastore) -> None:
    response = await read_many(metastore, by_id("nope"), by_id("nope"))

    assert [failure.index_id for failure in response.failures] == ["nope", "nope"]


async def test_several_indexes_have_the_column_s_creation_time(metastore: Metastore) -> None:
    await store_old(metastore, "0.7")

    response = await read_many(metastore, by_id("old-logs"))

    assert unpack(response.indexes_metadata_json_zstd) == [
        metadata("0.7") | {"create_timestamp": 42}
    ]


async def test_one_broken_row_fails_the_whole_call(metastore: Metastore) -> None:
    await make(metastore, "index-a")
    await store_document(metastore, OLD_LOGS_UID, '{"version":"0.9"}')
    request = pb.IndexesMetadataRequest(subrequests=[by_id("index-a"), by_id("old-logs")])

    error = await refused(metastore, "IndexesMetadata", request)

    assert error.payload() == {
        "JsonDeserializeError": {
            "struct_name": "IndexMetadata",
            "message": "missing field `index_config`",
        }
    }


async def test_a_uid_of_the_wrong_length_is_invalid(metastore: Metastore) -> None:
    uid = common_pb2.IndexUid(index_id="index-a", incarnation_id=b"123")
    request = pb.IndexesMetadataRequest(subrequests=[by_uid(uid)])

    error = await refused(metastore, "IndexesMetadata", request)

    assert isinstance(error, errors.InvalidArgument)
    assert "must be 16 bytes, got 3" in error.message


async def test_the_frame_does_not_tell_its_size(metastore: Metastore) -> None:
    await make(metastore, "index-a")

    response = await read_many(metastore, by_id("index-a"))

    blob = response.indexes_metadata_json_zstd
    assert blob.startswith(b"\x28\xb5\x2f\xfd")
    assert zstandard.frame_content_size(blob) == -1


async def test_large_lists_are_complete(metastore: Metastore) -> None:
    padding = "x" * 60_000
    for number in range(6):
        uid = f"big-{number}:01HQ2W3E4R5T6Y7Q8A9S0D1F2G"
        document = metadata("0.8") | {"index_uid": uid, "x_padding": padding}
        document["index_config"]["index_id"] = f"big-{number}"
        await store_document(metastore, uid, compact(document))

    response = await read_many(metastore, *(by_id(f"big-{number}") for number in range(6)))

    documents = unpack(response.indexes_metadata_json_zstd)
    assert [document["create_timestamp"] for document in documents] == [42] * 6
    assert all(document["x_padding"] == padding for document in documents)
