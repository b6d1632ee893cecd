"""Listing metrics and sketch splits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from tests.support.access import Metastore
from tests.support.making import ULID_TEXT, make_index, uid_text, unknown_index
from tests.support.parquet_index import ParquetIndex
from tests.support.parquet_samples import Family, list_query

STRUCT = "quickwit_parquet_engine::split::metadata::ParquetSplitMetadata"


async def test_splits_are_listed_by_id_whatever_their_state(index: ParquetIndex) -> None:
    await index.stage("c", "a", "b")
    await index.publish("b")
    await index.mark("c")

    records = await index.list()

    assert [(r["metadata"]["split_id"], r["state"]) for r in records] == [
        ("a", "Staged"),
        ("b", "Published"),
        ("c", "MarkedForDeletion"),
    ]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], ["marked", "published", "staged"]),
        (["Staged"], ["staged"]),
        (["Published", "MarkedForDeletion"], ["marked", "published"]),
    ],
)
async def test_the_state_filter(
    index: ParquetIndex, states: list[str], expected: list[str]
) -> None:
    await index.stage("staged", "published", "marked")
    await index.publish("published")
    await index.mark("marked")

    assert await index.ids(split_states=states) == expected


async def test_the_index_of_the_query_counts_not_that_of_the_request(index: ParquetIndex) -> None:
    other = await make_index(index.metastore, "other")
    await index.stage("s1")

    found = await index.family.list(index.metastore, other, list_query(index.text))

    assert [record["metadata"]["split_id"] for record in found] == ["s1"]
    other_query = list_query(await uid_text(index.metastore, "other"))
    assert await index.family.list(index.metastore, index.uid, other_query) == []


async def test_an_unknown_index_has_no_splits(metastore: Metastore, family: Family) -> None:
    query = list_query(f"nowhere:{ULID_TEXT}")

    assert await family.list(metastore, unknown_index("nowhere"), query) == []


INCLUDED_EDGES = [
    ({"Included": 200}, "Unbounded", True),
    ({"Excluded": 200}, "Unbounded", False),
    ({"Included": 201}, "Unbounded", False),
    ({"Excluded": 199}, "Unbounded", True),
    ("Unbounded", {"Included": 100}, True),
    ("Unbounded", {"Excluded": 100}, False),
    ("Unbounded", {"Included": 99}, False),
    ("Unbounded", {"Excluded": 101}, True),
    ({"Included": 150}, {"Excluded": 160}, True),
    ({"Included": 300}, {"Included": 400}, False),
]


@pytest.mark.parametrize(("start", "end", "is_found"), INCLUDED_EDGES)
async def test_the_time_range_is_that_of_the_data(
    index: ParquetIndex, start: Any, end: Any, is_found: bool
) -> None:
    await index.stage("s1")

    found = await index.ids(time_range={"start": start, "end": end})

    assert found == (["s1"] if is_found else [])


@pytest.mark.parametrize(("start", "end", "is_found"), INCLUDED_EDGES)
async def test_with_sort_fields_the_time_range_is_that_of_the_window(
    index: ParquetIndex, start: Any, end: Any, is_found: bool
) -> None:
    outside = {"start_secs": 10_000, "end_secs": 20_000}
    await index.stage(
        "s1", time_range=outside, sort_fields="ts", window_start=100, window_duration_secs=100
    )

    found = await index.ids(time_range={"start": start, "end": end}, sort_fields="ts")

    assert found == (["s1"] if is_found else [])


async def test_in_a_compaction_scope_splits_without_a_window_are_left_out(
    index: ParquetIndex,
) -> None:
    await index.stage("s1", sort_fields="ts")
    everything = {"start": {"Included": -(2**63)}, "end": {"Included": 2**63 - 1}}

    assert await index.ids(sort_fields="ts", time_range=everything) == []
    assert await index.ids(sort_fields="ts") == ["s1"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], ["a", "ab", "c"]), (["cpu"], ["a", "ab"]), (["mem", "disk"], ["ab", "c"]), (["x"], [])],
)
async def test_the_metric_name_filter_is_an_overlap(
    index: ParquetIndex, names: list[str], expected: list[str]
) -> None:
    await index.stage("a", metric_names=["cpu"])
    await index.stage("ab", metric_names=["cpu", "mem"])
    await index.stage("c", metric_names=["disk"])

    assert await index.ids(metric_names=names) == expected


@pytest.mark.parametrize("tag", ["service", "env", "datacenter", "region", "host"])
async def test_a_tag_filter_asks_for_one_of_the_values(index: ParquetIndex, tag: str) -> None:
    await index.stage("both", low_cardinality_tags={tag: ["x", "y'$1"]})
    await index.stage("other", low_cardinality_tags={tag: ["z"]})
    await index.stage("empty", low_cardinality_tags={tag: []})
    await index.stage("none")

    assert await index.ids(**{f"tag_{tag}": "x"}) == ["both"]
    assert await index.ids(**{f"tag_{tag}": "y'$1"}) == ["both"]
    assert await index.ids(**{f"tag_{tag}": ""}) == []


async def test_the_sort_fields_filter_is_exact(index: ParquetIndex) -> None:
    await index.stage("s1", sort_fields="ts|host")
    await index.stage("s2")

    assert await index.ids(sort_fields="ts|host") == ["s1"]
    assert await index.ids(sort_fields="ts") == []
    assert await index.ids(sort_fields="") == ["s2"]


async def test_any_node_id_selects_nothing(index: ParquetIndex) -> None:
    await index.stage("s1")

    assert await index.ids(node_id="indexer-1") == []


@pytest.mark.parametrize(
    ("bounds", "is_found"),
    [
        ({"start": {"Included": 0}, "end": {"Included": 0}}, True),
        ({"start": {"Excluded": 0}, "end": "Unbounded"}, False),
        ({"start": "Unbounded", "end": {"Excluded": 0}}, False),
        ({"start": "Unbounded", "end": {"Excluded": 1}}, True),
        ({"start": {"Included": 2**64 - 1}, "end": "Unbounded"}, False),
        ({"start": "Unbounded", "end": {"Included": 2**64 - 1}}, True),
    ],
)
async def test_the_delete_opstamp_filter(
    index: ParquetIndex, bounds: dict[str, Any], is_found: bool
) -> None:
    await index.stage("s1")

    assert await index.ids(delete_opstamp=bounds) == (["s1"] if is_found else [])


@pytest.mark.parametrize("column", ["update_timestamp", "create_timestamp"])
@pytest.mark.parametrize(
    ("bounds", "is_found"),
    [
        ({"start": {"Included": 1767225601}, "end": {"Included": 1767225601}}, True),
        ({"start": {"Excluded": 1767225600}, "end": {"Excluded": 1767225602}}, True),
        ({"start": {"Excluded": 1767225601}, "end": "Unbounded"}, False),
        ({"start": "Unbounded", "end": {"Included": 1767225600}}, False),
        ({"start": "Unbounded", "end": {"Excluded": 1767225601}}, False),
    ],
)
async def test_times_are_compared_rounded_to_the_nearest_second(
    index: ParquetIndex, column: str, bounds: dict[str, Any], is_found: bool
) -> None:
    await index.stage("s1")
    await index.update(f"{column} = '2026-01-01 00:00:00.6'")

    assert await index.ids(**{column: bounds}) == (["s1"] if is_found else [])


@pytest.mark.parametrize(
    ("stored", "expected"),
    [("2026-01-01 00:00:00.4", 1767225600), ("2026-01-01 00:00:00.6", 1767225601)],
)
async def test_the_update_time_is_rounded_to_the_nearest_second(
    index: ParquetIndex, stored: str, expected: int
) -> None:
    await index.stage("s1")
    await index.update(f"update_timestamp = '{stored}'")

    assert [record["update_timestamp"] for record in await index.list()] == [expected]


@pytest.mark.parametrize(
    ("mature", "expected"),
    [
        ("Unbounded", ["mature", "young"]),
        ({"Included": [2026, 229, 20, 53, 19, 0, 0, 0, 0]}, ["mature"]),
        ({"Included": [2026, 229, 20, 53, 20, 0, 0, 0, 0]}, ["mature", "young"]),
        ({"Excluded": [2026, 229, 20, 53, 19, 999999999, 0, 0, 0]}, ["young"]),
        ({"Excluded": [2026, 229, 20, 53, 20, 0, 0, 0, 0]}, []),
        ({"Excluded": "2026-08-17 22:53:19.0 +02:00:00"}, ["young"]),
    ],
)
async def test_the_maturity_filter(index: ParquetIndex, mature: Any, expected: list[str]) -> None:
    await index.stage("mature")
    await index.stage("young", maturity={"type": "immature", "maturation_period_millis": 0})

    assert await index.ids(mature=mature) == expected


@pytest.mark.parametrize(("latest", "is_found"), [(199, False), (200, True), (None, True)])
async def test_the_latest_end_of_the_time_range(
    index: ParquetIndex, latest: int | None, is_found: bool
) -> None:
    await index.stage("s1")

    assert await index.ids(max_time_range_end=latest) == (["s1"] if is_found else [])


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [
        (None, None, ["a", "b", "c", "d"]),
        (None, 2, ["a", "b"]),
        ("b", 1, ["c"]),
        ("b", None, ["c", "d"]),
        ("bb", 10, ["c", "d"]),
        ("d", 10, []),
        (None, 0, []),
        ("", 2**64 - 1, ["a", "b", "c", "d"]),
    ],
)
async def test_pages(
    index: ParquetIndex, after: str | None, limit: int | None, expected: list[str]
) -> None:
    await index.stage("d", "b", "a", "c")

    assert await index.ids(after_split_id=after, limit=limit) == expected


async def test_pages_cover_everything_once(index: ParquetIndex) -> None:
    names = [f"s{n:03}" for n in range(25)]
    await index.stage(*reversed(names))

    seen: list[str] = []
    while page := await index.ids(after_split_id=seen[-1] if seen else None, limit=10):
        seen += page

    assert seen == names


async def test_filters_combine(index: ParquetIndex) -> None:
    await index.stage("s1", "s2", low_cardinality_tags={"env": ["prod"]}, metric_names=["cpu"])
    await index.stage("s3", low_cardinality_tags={"env": ["dev"]}, metric_names=["cpu"])
    await index.publish("s1", "s3")

    found = await index.ids(
        tag_env="prod",
        metric_names=["cpu"],
        split_states=["Published"],
        time_range={"start": {"Included": 0}, "end": {"Excluded": 1000}},
        limit=500,
    )

    assert found == ["s1"]


async def test_an_unknown_stored_state_reads_as_staged(index: ParquetIndex) -> None:
    await index.stage("s1")
    await index.update("split_state = 'ScheduledForDeletion'")

    assert [record["state"] for record in await index.list()] == ["Staged"]


async def test_a_stored_document_that_cannot_be_read_fails_the_list(index: ParquetIndex) -> None:
    await index.stage("s1")
    await index.update("split_metadata_json = '{}'")

    with pytest.raises(errors.Internal) as caught:
        await index.list()

    label = index.family.label
    assert caught.value.message == f"failed to deserialize {label} split 's1'"
    assert caught.value.cause == (
        f"failed to deserialize `{STRUCT}` from JSON: missing field `created_at`"
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("{}", "missing field `index_uid`"),
        (
            json.dumps(list_query(split_states=["Gone"])),
            "field `split_states` holds unknown state `Gone`",
        ),
    ],
)
async def test_a_query_that_cannot_be_decoded(
    metastore: Metastore, family: Family, query: str, message: str
) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        await family.list(metastore, unknown_index(), query)

    assert caught.value.struct_name == "quickwit_metastore::metastore::ListParquetSplitsQuery"
    assert caught.value.message == message
