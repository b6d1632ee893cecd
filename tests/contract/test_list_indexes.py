"""ListIndexesMetadata and ListIndexStats."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import errors, identifiers
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.index_calls import (
    EMPTY_CAUSE,
    OLD_LOGS_UID,
    add_split,
    list_ids,
    make,
    refused,
    stats,
    store_document,
    store_old,
    unpack,
)
from tests.support.index_documents import metadata
from tests.support.making import uid_text

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
