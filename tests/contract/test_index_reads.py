"""Reads of indexes: IndexMetadata, IndexesMetadata, ListIndexesMetadata, ListIndexStats."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard

from proxy import errors, identifiers
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_calls import (
    EMPTY_CAUSE,
    OLD_LOGS_UID,
    add_split,
    create,
    list_ids,
    make,
    not_found,
    read,
    read_many,
    refused,
    stats,
    store_document,
    store_old,
    unpack,
)
from tests.support.index_documents import (
    compact,
    kafka_config,
    metadata,
    metadata_text,
)
from tests.support.making import uid_text, unknown_index

# IndexMetadata


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


# IndexesMetadata


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


# ListIndexesMetadata and ListIndexStats: patterns

IDS = ["web-logs", "web_logs", "webxlogs", "app-logs", "Web-logs", "app"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], sorted(IDS)),
        (["web-logs"], ["web-logs"]),
        (["web_logs"], ["web_logs"]),
        (["web*"], ["web-logs", "web_logs", "webxlogs"]),
        (["web_*"], ["web-logs", "web_logs", "webxlogs"]),
        (["web_log*"], ["web-logs", "web_logs", "webxlogs"]),
        (["web-l*"], ["web-logs"]),
        (["*logs"], ["Web-logs", "app-logs", "web-logs", "web_logs", "webxlogs"]),
        (["*-*"], ["Web-logs", "app-logs", "web-logs"]),
        (["app*"], ["app", "app-logs"]),
        (["app"], ["app"]),
        (["app", "web-logs"], ["app", "web-logs"]),
        (["app", "app*"], ["app", "app-logs"]),
        (["*", "-web*"], ["Web-logs", "app", "app-logs"]),
        (["*", "-web*", "-app"], ["Web-logs", "app-logs"]),
        (["*", "-web_logs"], ["Web-logs", "app", "app-logs", "web-logs", "webxlogs"]),
        (["-app-logs", "app*"], ["app"]),
        (["app*", "-*"], []),
        (["nothing-like-it"], []),
        (["nothing*"], []),
        (["*", "not valid", "x"], sorted(IDS)),
        (["WEB*"], []),
    ],
)
async def test_patterns(metastore: Metastore, patterns: list[str], expected: list[str]) -> None:
    await make(metastore, *IDS)

    assert await list_ids(metastore, *patterns) == expected
    assert sorted(await stats(metastore, *patterns)) == expected


@pytest.mark.parametrize(
    ("patterns", "cause"),
    [
        ([], EMPTY_CAUSE),
        (["-web*"], EMPTY_CAUSE),
        (["we"], "index ID pattern `we` is invalid: an index ID must have at least 3 characters"),
        (["w**"], "index ID pattern `w**` is invalid: patterns must not contain"),
        (["*", "-a'b"], "index ID pattern `a'b` is invalid: patterns must match"),
        (["web-logs", ""], "index ID pattern `` is invalid: patterns must match"),
        (["web-logs%"], "index ID pattern `web-logs%` is invalid: patterns must match"),
        (["a" * 256], "is invalid: patterns must match"),
    ],
)
@pytest.mark.parametrize(
    ("rpc", "operation"),
    [
        ("ListIndexesMetadata", "list_indexes_metadata"),
        ("ListIndexStats", "list_index_stats"),
    ],
)
async def test_bad_patterns_are_internal(
    metastore: Metastore, rpc: str, operation: str, patterns: list[str], cause: str
) -> None:
    request: Any
    if rpc == "ListIndexStats":
        request = pb.ListIndexStatsRequest(index_id_patterns=patterns)
    else:
        request = pb.ListIndexesMetadataRequest(index_id_patterns=patterns)

    error = await refused(metastore, rpc, request)

    assert isinstance(error, errors.Internal)
    assert error.message == f"failed to build `{operation}` SQL query"
    assert cause in error.cause


async def test_listing_nothing_is_an_empty_list(metastore: Metastore) -> None:
    assert await list_ids(metastore, "*") == []
    assert await stats(metastore, "*") == {}


async def test_listing_fails_on_a_broken_row_it_matches(metastore: Metastore) -> None:
    await make(metastore, "index-a")
    await store_document(metastore, OLD_LOGS_UID, "{}")

    error = await refused(
        metastore, "ListIndexesMetadata", pb.ListIndexesMetadataRequest(index_id_patterns=["*"])
    )

    assert isinstance(error, errors.JsonDeserializeError)
    assert error.struct_name == "IndexMetadata"
    assert await list_ids(metastore, "index-*") == ["index-a"]


async def test_listing_has_the_column_s_creation_time(metastore: Metastore) -> None:
    await store_old(metastore, "0.8")

    response = await metastore.call(
        "ListIndexesMetadata", pb.ListIndexesMetadataRequest(index_id_patterns=["old-logs"])
    )

    assert unpack(response.indexes_metadata_json_zstd) == [
        metadata("0.8") | {"create_timestamp": 42}
    ]


# ListIndexStats: counts


async def test_stats_count_splits_and_add_up_sizes_by_state(metastore: Metastore) -> None:
    await make(metastore, "index-a", "index-b")
    uid = await uid_text(metastore, "index-a")
    for split_id, state, size in (
        ("s1", "Staged", 10),
        ("s2", "Published", 20),
        ("s3", "Published", 5_000_000_000),
        ("s4", "MarkedForDeletion", 7),
    ):
        await add_split(metastore, uid, split_id, state, size)

    entry = (await stats(metastore, "*"))["index-a"]

    assert identifiers.index_uid_text(entry.index_uid) == uid
    assert entry.staged == pb.SplitStats(num_splits=1, total_size_bytes=10)
    assert entry.published == pb.SplitStats(num_splits=2, total_size_bytes=5_000_000_020)
    assert entry.marked_for_deletion == pb.SplitStats(num_splits=1, total_size_bytes=7)


async def test_stats_of_an_index_without_splits_are_present_and_zero(metastore: Metastore) -> None:
    await make(metastore, "index-a")

    entry = (await stats(metastore, "index-a"))["index-a"]

    for field in ("staged", "published", "marked_for_deletion"):
        assert entry.HasField(field)
        assert getattr(entry, field) == pb.SplitStats()


async def test_stats_refuse_a_state_that_nobody_knows(metastore: Metastore) -> None:
    await make(metastore, "index-a")
    await add_split(metastore, await uid_text(metastore, "index-a"), "s1", "Lost", 1)

    error = await refused(
        metastore, "ListIndexStats", pb.ListIndexStatsRequest(index_id_patterns=["*"])
    )

    assert error.payload() == {"Internal": {"message": "invalid split state", "cause": "Lost"}}
