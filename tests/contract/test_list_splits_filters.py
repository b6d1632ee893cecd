"""ListSplits: every field of the query."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import errors
from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import common_pb2
from tests.support.access import Metastore
from tests.support.making import make_index
from tests.support.split_queries import OPEN
from tests.support.split_tags import tag
from tests.support.splitting import document, found, mark, published, set_opstamp, stage

ALL_STATES = ["Staged", "Published", "MarkedForDeletion"]


def moment(seconds: int, nanosecond: int = 0) -> list[int]:
    """Return a moment of 1 January 1970 as nine integers."""
    clock = [seconds // 3600, seconds // 60 % 60, seconds % 60]
    return [1970, 1, *clock, nanosecond, 0, 0, 0]


async def three_states(metastore: Metastore) -> common_pb2.IndexUid:
    uid = await make_index(metastore)
    await published(metastore, uid, "published")
    await stage(metastore, uid, "staged", "marked")
    await mark(metastore, uid, "marked")
    return uid


class TestIdentity:
    async def test_index_uids(self, metastore: Metastore) -> None:
        texts = {}
        for name in ("one", "two", "three"):
            uid = await make_index(metastore, name)
            await stage(metastore, uid, f"in-{name}")
            texts[name] = index_uid_text(uid)

        assert await found(metastore) == {"in-one", "in-two", "in-three"}
        assert await found(metastore, index_uids=[texts["one"]]) == {"in-one"}
        two = [texts["one"], texts["three"], texts["one"]]
        assert await found(metastore, index_uids=two) == {"in-one", "in-three"}
        assert await found(metastore, index_uids=[]) == set()

    async def test_another_incarnation_matches_nothing(self, metastore: Metastore) -> None:
        await three_states(metastore)
        uid = "web-logs:01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
        assert await found(metastore, index_uids=[uid]) == set()

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ([], {"staged", "published", "marked"}),
            (["Staged"], {"staged"}),
            (["Published"], {"published"}),
            (["MarkedForDeletion"], {"marked"}),
            (["Staged", "Published"], {"staged", "published"}),
            (["Staged", "Staged"], {"staged"}),
            (ALL_STATES, {"staged", "published", "marked"}),
        ],
    )
    async def test_split_states(
        self, metastore: Metastore, wanted: list[str], expected: set[str]
    ) -> None:
        await three_states(metastore)
        assert await found(metastore, split_states=wanted) == expected

    async def test_node_id(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(
            metastore,
            uid,
            document(uid, "a", node_id="indexer-1"),
            document(uid, "b", node_id="indexer-2/0"),
        )
        assert await found(metastore, node_id="indexer-1") == {"a"}
        assert await found(metastore, node_id="indexer-2") == {"b"}
        assert await found(metastore, node_id="indexer-2/0") == set()
        assert await found(metastore, node_id="") == set()

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"included_split_ids": []}, {"staged", "published", "marked"}),
            ({"included_split_ids": ["staged", "no", "staged"]}, {"staged"}),
            ({"excluded_split_ids": []}, {"staged", "published", "marked"}),
            ({"excluded_split_ids": ["staged", "no"]}, {"published", "marked"}),
            (
                {"included_split_ids": ["staged", "marked"], "excluded_split_ids": ["marked"]},
                {"staged"},
            ),
        ],
    )
    async def test_split_ids(
        self, metastore: Metastore, changes: dict[str, Any], expected: set[str]
    ) -> None:
        await three_states(metastore)
        assert await found(metastore, **changes) == expected

    async def test_a_hundred_thousand_ids(self, metastore: Metastore) -> None:
        await three_states(metastore)
        many = [f"other-{number}" for number in range(100_000)]
        assert await found(metastore, excluded_split_ids=many) == await found(metastore)
        assert await found(metastore, included_split_ids=[*many, "staged"]) == {"staged"}


TIME_BOUNDS = [
    # Ranges [10, 20], [20, 30], [30, 30] and none.
    ({"start": {"Included": 20}}, {"a", "b", "c", "none"}),
    ({"start": {"Excluded": 20}}, {"b", "c", "none"}),
    ({"start": {"Included": 30}}, {"b", "c", "none"}),
    ({"start": {"Excluded": 30}}, {"none"}),
    ({"start": {"Included": 31}}, {"none"}),
    ({"end": {"Included": 20}}, {"a", "b", "none"}),
    ({"end": {"Excluded": 20}}, {"a", "none"}),
    ({"end": {"Included": 10}}, {"a", "none"}),
    ({"end": {"Excluded": 10}}, {"none"}),
    ({"end": {"Included": 30}}, {"a", "b", "c", "none"}),
    ({"start": {"Included": 20}, "end": {"Excluded": 30}}, {"a", "b", "none"}),
    ({"start": {"Excluded": 20}, "end": {"Included": 25}}, {"b", "none"}),
    ({"start": {"Included": 21}, "end": {"Excluded": 21}}, {"none", "b"}),
    ({"start": {"Included": -(2**63)}, "end": {"Included": 2**63 - 1}}, {"a", "b", "c", "none"}),
    ({}, {"a", "b", "c", "none"}),
]
SECOND_BOUNDS = [
    # Columns 50, 51, 51.5 and 52 seconds after the epoch.
    ({"start": {"Included": 51}}, {"51", "51.5", "52"}),
    ({"start": {"Excluded": 51}}, {"51.5", "52"}),
    ({"end": {"Included": 51}}, {"50", "51"}),
    ({"end": {"Excluded": 51}}, {"50"}),
    ({"start": {"Included": 51}, "end": {"Included": 51}}, {"51"}),
    ({"start": {"Excluded": 51}, "end": {"Excluded": 52}}, {"51.5"}),
    ({"start": {"Excluded": 52}}, set()),
    ({"end": {"Excluded": 50}}, set()),
    ({"start": {"Included": -1}, "end": {"Included": 99}}, {"50", "51", "51.5", "52"}),
    ({}, {"50", "51", "51.5", "52"}),
]


class TestTimes:
    async def ranges(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(
            metastore,
            uid,
            document(uid, "a", time_range={"start": 10, "end": 20}),
            document(uid, "b", time_range={"start": 20, "end": 30}),
            document(uid, "c", time_range={"start": 30, "end": 30}),
            "none",
        )

    @pytest.mark.parametrize(("bounds", "expected"), TIME_BOUNDS)
    async def test_time_range(
        self, metastore: Metastore, bounds: dict[str, Any], expected: set[str]
    ) -> None:
        await self.ranges(metastore)
        assert await found(metastore, time_range={**OPEN, **bounds}) == expected

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [
            (19, set()),
            (20, {"a"}),
            (29, {"a"}),
            (30, {"a", "b", "c"}),
            (2**63 - 1, {"a", "b", "c"}),
            (None, {"a", "b", "c", "none"}),
        ],
    )
    async def test_max_time_range_end(
        self, metastore: Metastore, limit: int | None, expected: set[str]
    ) -> None:
        await self.ranges(metastore)
        assert await found(metastore, max_time_range_end=limit) == expected

    @pytest.mark.parametrize("column", ["update_timestamp", "create_timestamp"])
    @pytest.mark.parametrize(("bounds", "expected"), SECOND_BOUNDS)
    async def test_timestamps_are_compared_with_full_precision(
        self, metastore: Metastore, column: str, bounds: dict[str, Any], expected: set[str]
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "50", "51", "51.5", "52")
        await metastore.sql.execute(
            f"UPDATE splits SET {column} = to_timestamp(split_id::float8) AT TIME ZONE 'UTC'"
        )
        assert await found(metastore, **{column: {**OPEN, **bounds}}) == expected

    @pytest.mark.parametrize(
        ("bounds", "expected"),
        [
            ({"start": {"Included": 5}}, {"5", "9"}),
            ({"start": {"Excluded": 5}}, {"9"}),
            ({"end": {"Included": 5}}, {"0", "5"}),
            ({"end": {"Excluded": 5}}, {"0"}),
            ({"start": {"Included": 1}, "end": {"Excluded": 9}}, {"5"}),
            ({"start": {"Included": 2**64 - 1}}, set()),
            ({"start": {"Excluded": 2**63 - 1}}, set()),
            ({"end": {"Excluded": 2**64 - 1}}, {"0", "5", "9"}),
            ({}, {"0", "5", "9"}),
        ],
    )
    async def test_delete_opstamp(
        self, metastore: Metastore, bounds: dict[str, Any], expected: set[str]
    ) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, "0", "5", "9")
        await set_opstamp(metastore, uid, 5, "5")
        await set_opstamp(metastore, uid, 9, "9")
        assert await found(metastore, delete_opstamp={**OPEN, **bounds}) == expected

    @pytest.mark.parametrize(
        ("bound", "expected"),
        [
            ("Unbounded", {"mature", "at-100", "at-200"}),
            ({"Included": moment(99)}, {"mature"}),
            ({"Included": moment(100)}, {"mature", "at-100"}),
            ({"Included": moment(99, 999_999_999)}, {"mature"}),
            ({"Included": moment(200)}, {"mature", "at-100", "at-200"}),
            ({"Excluded": moment(99)}, {"at-100", "at-200"}),
            ({"Excluded": moment(100)}, {"at-200"}),
            ({"Excluded": moment(200)}, set()),
            ({"Excluded": moment(199, 999_999_999)}, {"at-200"}),
            ({"Included": [1969, 365, 23, 59, 59, 0, 0, 0, 0]}, {"mature"}),
            ({"Included": [1970, 1, 1, 1, 40, 0, 1, 0, 0]}, {"mature", "at-100"}),
            ({"Included": "1970-01-01 00:01:40.0 +00:00:00"}, {"mature", "at-100"}),
            ({"Excluded": "1970-01-01 01:01:40.5 +01:00:00"}, {"at-200"}),
        ],
    )
    async def test_mature(self, metastore: Metastore, bound: Any, expected: set[str]) -> None:
        uid = await make_index(metastore)

        def immature(at: int) -> dict[str, Any]:
            maturity = {"type": "immature", "maturation_period_millis": 50_999}
            return document(uid, f"at-{at}", create_timestamp=at - 50, maturity=maturity)

        await stage(metastore, uid, "mature", immature(100), immature(200))
        assert await found(metastore, mature=bound) == expected


class TestTags:
    @pytest.mark.parametrize(
        ("tags", "expected"),
        [
            (None, {"a", "b", "ab", "none"}),
            (tag("a"), {"a", "ab"}),
            (tag("a", is_present=False), {"b", "none"}),
            (tag("A"), set()),
            ({"And": []}, {"a", "b", "ab", "none"}),
            ({"Or": []}, {"a", "b", "ab", "none"}),
            ({"And": [tag("a"), tag("b")]}, {"ab"}),
            ({"Or": [tag("a"), tag("b")]}, {"a", "b", "ab"}),
            ({"And": [tag("a"), tag("b", is_present=False)]}, {"a"}),
            ({"Or": [tag("a"), tag("b", is_present=False)]}, {"a", "ab", "none"}),
            ({"And": [tag("a", is_present=False), tag("b", is_present=False)]}, {"none"}),
            (
                {"Or": [tag("a", is_present=False), tag("b", is_present=False)]},
                {"a", "b", "none"},
            ),
            ({"And": [tag("a"), {"Or": [tag("b"), tag("c")]}]}, {"ab"}),
            ({"Or": [{"And": [tag("a"), tag("b")]}, {"And": [tag("b")]}]}, {"b", "ab"}),
            ({"And": [tag("a"), {"Or": []}]}, {"a", "ab"}),
            ({"Or": [tag("b"), {"And": []}]}, {"a", "b", "ab", "none"}),
        ],
    )
    async def test_filters(
        self, metastore: Metastore, tags: dict[str, Any] | None, expected: set[str]
    ) -> None:
        uid = await make_index(metastore)
        await stage(
            metastore,
            uid,
            document(uid, "a", tags=["a"]),
            document(uid, "b", tags=["b"]),
            document(uid, "ab", tags=["a", "b"]),
            "none",
        )
        assert await found(metastore, tags=tags) == expected

    @pytest.mark.parametrize(
        "text", ["$1", "'", "''; --", '"', "\\", "a,b", "{x}", "", "NULL", "é😀", "$tag$", "%"]
    )
    async def test_unusual_tags(self, metastore: Metastore, text: str) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, document(uid, "with", tags=[text]), "without")
        assert await found(metastore, tags=tag(text)) == {"with"}
        assert await found(metastore, tags=tag(text, is_present=False)) == {"without"}
        both = {"Or": [tag(text), tag("other")]}
        assert await found(metastore, tags=both) == {"with"}

    async def test_many_tags(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, document(uid, "with", tags=["tag-99999"]), "without")
        many = [tag(f"tag-{number}") for number in range(100_000)]
        assert await found(metastore, tags={"Or": many}) == {"with"}

    async def test_deep_filters(self, metastore: Metastore) -> None:
        uid = await make_index(metastore)
        await stage(metastore, uid, document(uid, "with", tags=["a"]), "without")
        deep = tag("a")
        for level in range(62):
            deep = {"Or" if level % 2 else "And": [deep]}
        assert await found(metastore, tags=deep) == {"with"}
        with pytest.raises(errors.JsonDeserializeError, match="recursion limit"):
            await found(metastore, tags={"And": [deep]})


async def test_filters_are_a_conjunction(metastore: Metastore) -> None:
    uid = await make_index(metastore)
    good = {"tags": ["a"], "time_range": {"start": 1, "end": 2}, "node_id": "n"}
    await published(
        metastore,
        uid,
        document(uid, "good", **good),
        document(uid, "untagged", **{**good, "tags": []}),
        document(uid, "elsewhere", **{**good, "node_id": "m"}),
        document(uid, "late", **{**good, "time_range": {"start": 9, "end": 9}}),
        document(uid, "excluded", **good),
    )
    await stage(metastore, uid, document(uid, "staged", **good))
    changes = {
        "index_uids": [index_uid_text(uid)],
        "split_states": ["Published"],
        "tags": tag("a"),
        "time_range": {**OPEN, "end": {"Included": 5}},
        "node_id": "n",
        "excluded_split_ids": ["excluded"],
    }
    assert await found(metastore, **changes) == {"good"}
