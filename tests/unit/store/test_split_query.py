"""`ListSplitsQuery`: decoding."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import JsonDeserializeError
from proxy.store import split_query
from proxy.store.split_query import Bound, ListSplitsQuery, Range, SortBy, Tag
from tests.support.split_queries import ALL, OPEN, UID, ULID, parsed

STRUCT = "quickwit_metastore::metastore::ListSplitsQuery"
REQUIRED = (
    "split_states",
    "time_range",
    "delete_opstamp",
    "update_timestamp",
    "create_timestamp",
    "mature",
    "sort_by",
)


def problem(**changes: Any) -> str:
    with pytest.raises(JsonDeserializeError) as caught:
        parsed(**changes)
    assert caught.value.struct_name == STRUCT
    return caught.value.message


class TestParsing:
    def test_the_widest_query(self) -> None:
        assert parsed() == ListSplitsQuery()

    def test_the_required_keys_suffice(self) -> None:
        text = json.dumps({key: ALL[key] for key in REQUIRED})
        assert split_query.parse(text) == ListSplitsQuery()

    @pytest.mark.parametrize("key", REQUIRED)
    def test_names_a_missing_key(self, key: str) -> None:
        document = {name: value for name, value in ALL.items() if name != key}
        with pytest.raises(JsonDeserializeError) as caught:
            split_query.parse(json.dumps(document))
        assert caught.value.message == f"missing field `{key}`"
        assert caught.value.struct_name == STRUCT

    @pytest.mark.parametrize("key", REQUIRED)
    def test_a_required_key_is_not_nullable(self, key: str) -> None:
        assert key in problem(**{key: None})

    def test_every_field(self) -> None:
        query = parsed(
            index_uids=[UID, f"other:{ULID.lower()}"],
            node_id="indexer-1",
            limit=1000,
            offset=7,
            split_states=["Published", "Staged", "MarkedForDeletion"],
            tags={"Tag": {"is_present": True, "tag": "a:1"}},
            time_range={"start": {"Included": 100}, "end": {"Excluded": -200}},
            max_time_range_end=300,
            delete_opstamp={"start": {"Excluded": 0}, "end": {"Included": 2**64 - 1}},
            update_timestamp={"start": {"Included": 1}, "end": "Unbounded"},
            create_timestamp={"start": "Unbounded", "end": {"Excluded": 2}},
            mature={"Excluded": [2026, 233, 18, 59, 3, 120000000, 0, 0, 0]},
            sort_by="IndexUid",
            after_split=[UID, "split-1"],
            included_split_ids=["a", "b"],
            excluded_split_ids=["c"],
        )
        assert query == ListSplitsQuery(
            index_uids=(UID, f"other:{ULID}"),
            node_id="indexer-1",
            limit=1000,
            offset=7,
            split_states=("Published", "Staged", "MarkedForDeletion"),
            tags=Tag("a:1", is_present=True),
            time_range=Range(Bound(100, is_included=True), Bound(-200, is_included=False)),
            max_time_range_end=300,
            delete_opstamp=Range(Bound(0, is_included=False), Bound(2**64 - 1, is_included=True)),
            update_timestamp=Range(start=Bound(1, is_included=True)),
            create_timestamp=Range(end=Bound(2, is_included=False)),
            mature=Bound(1787338743, is_included=False),
            sort_by=SortBy.INDEX_UID,
            after_split=(UID, "split-1"),
            included_split_ids=("a", "b"),
            excluded_split_ids=("c",),
        )

    def test_ignores_unknown_keys(self) -> None:
        assert parsed(extra={"a": [1]}) == ListSplitsQuery()

    def test_an_empty_list_of_indexes_is_not_null(self) -> None:
        assert parsed(index_uids=[]).index_uids == ()

    @pytest.mark.parametrize(
        ("text", "member"),
        [
            ("None", SortBy.NONE),
            ("Staleness", SortBy.STALENESS),
            ("IndexUid", SortBy.INDEX_UID),
            ("MaturityTimestamp", SortBy.MATURITY_TIMESTAMP),
        ],
    )
    def test_sort_orders(self, text: str, member: SortBy) -> None:
        assert parsed(sort_by=text).sort_by is member

    def test_an_unbounded_bound_as_an_object(self) -> None:
        assert parsed(mature={"Unbounded": None}).mature is None

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"index_uids": "x"}, "index_uids"),
            ({"index_uids": [1]}, "index_uids"),
            ({"index_uids": ["web-logs"]}, "invalid index UID `web-logs`"),
            ({"index_uids": ["web-logs:1"]}, "invalid index UID `web-logs:1`"),
            ({"node_id": 1}, "node_id"),
            ({"limit": -1}, "limit"),
            ({"limit": "1"}, "limit"),
            ({"limit": 1.5}, "limit"),
            ({"limit": 2**64}, "limit"),
            ({"offset": -1}, "offset"),
            ({"offset": True}, "offset"),
            ({"split_states": "Staged"}, "split_states"),
            ({"split_states": ["New"]}, "unknown variant `New`"),
            ({"split_states": [None]}, "split_states"),
            ({"max_time_range_end": 2**63}, "max_time_range_end"),
            ({"max_time_range_end": "5"}, "max_time_range_end"),
            ({"time_range": []}, "time_range"),
            ({"time_range": {"start": "Unbounded"}}, "time_range.end"),
            ({"time_range": {**OPEN, "start": "Open"}}, "unknown variant `Open`"),
            ({"time_range": {**OPEN, "start": {"Included": None}}}, "time_range.start"),
            ({"time_range": {**OPEN, "start": {"Included": 2**63}}}, "time_range.start"),
            ({"time_range": {**OPEN, "end": {"Included": 1, "Excluded": 2}}}, "time_range.end"),
            ({"time_range": {**OPEN, "end": {}}}, "time_range.end"),
            ({"time_range": {**OPEN, "end": "Included"}}, "time_range.end"),
            ({"time_range": {**OPEN, "end": 5}}, "time_range.end"),
            ({"time_range": {**OPEN, "end": {"Unbounded": 5}}}, "time_range.end"),
            ({"delete_opstamp": {**OPEN, "start": {"Included": -1}}}, "delete_opstamp.start"),
            ({"delete_opstamp": {**OPEN, "end": {"Included": 2**64}}}, "delete_opstamp.end"),
            ({"update_timestamp": {**OPEN, "end": {"Included": "1"}}}, "update_timestamp.end"),
            ({"create_timestamp": {**OPEN, "end": {"Excluded": 1.0}}}, "create_timestamp.end"),
            ({"mature": "Included"}, "mature"),
            ({"mature": {"Included": 1787338743}}, "mature"),
            ({"mature": {"Included": "yesterday"}}, "mature"),
            ({"mature": {"Included": []}}, "nine integers"),
            ({"mature": {"Included": [2026, 1, 0, 0, 0, 0, 0, 0]}}, "nine integers"),
            ({"mature": {"Included": [2026, 1, 0, 0, 0, 0.5, 0, 0, 0]}}, "nine integers"),
            ({"mature": {"Included": [2026, True, 0, 0, 0, 0, 0, 0, 0]}}, "nine integers"),
            ({"sort_by": "Random"}, "unknown variant `Random`"),
            ({"sort_by": {"None": None}}, "sort_by"),
            ({"after_split": [UID]}, "after_split"),
            ({"after_split": [UID, "a", "b"]}, "after_split"),
            ({"after_split": [UID, 1]}, "after_split"),
            ({"after_split": ["x", "a"]}, "invalid index UID `x`"),
            ({"included_split_ids": None}, "included_split_ids"),
            ({"included_split_ids": [1]}, "included_split_ids"),
            ({"excluded_split_ids": "a"}, "excluded_split_ids"),
            ({"tags": "Tag"}, "tags"),
            ({"tags": {"Not": []}}, "unknown variant `Not`"),
            ({"tags": {"And": {}}}, "tags.And"),
            ({"tags": {"Tag": {"tag": "a"}}}, "tags.Tag.is_present"),
            ({"tags": {"Tag": {"is_present": True}}}, "tags.Tag.tag"),
            ({"tags": {"Tag": {"is_present": 1, "tag": "a"}}}, "tags.Tag.is_present"),
            ({"tags": {"Or": [{"Tag": {"is_present": True, "tag": 1}}]}}, "tags.Tag.tag"),
            ({"tags": {"Or": [], "And": []}}, "tags"),
            ({"tags": []}, "tags"),
        ],
    )
    def test_names_a_wrong_field(self, changes: dict[str, Any], words: str) -> None:
        assert words in problem(**changes)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "{}x"])
    def test_refuses_other_text(self, text: str) -> None:
        with pytest.raises(JsonDeserializeError) as caught:
            split_query.parse(text)
        assert caught.value.struct_name == STRUCT

    def test_tag_filters_nest_as_deep_as_quickwit_reads_them(self) -> None:
        # 127 containers: the query, two for each level, and two for the leaf.
        leaf: dict[str, Any] = {"Tag": {"is_present": True, "tag": "a"}}

        def nested(levels: int) -> dict[str, Any]:
            tags = leaf
            for _ in range(levels):
                tags = {"And": [tags]}
            return tags

        assert parsed(tags=nested(62)).tags is not None
        assert "recursion limit exceeded" in problem(tags=nested(63))
        assert "recursion limit exceeded" in problem(tags=nested(200))

    def test_a_hundred_thousand_levels_are_refused(self) -> None:
        text = json.dumps(ALL).replace('"tags": null', '"tags": ' + '{"And":[' * 100_000)
        with pytest.raises(JsonDeserializeError):
            split_query.parse(text)


class TestMoments:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ([1970, 1, 0, 0, 0, 0, 0, 0, 0], 0),
            ([1970, 1, 0, 0, 0, 999999999, 0, 0, 0], 0),
            ([1969, 365, 23, 59, 59, 1, 0, 0, 0], -1),
            ([2026, 233, 18, 59, 3, 120000000, 0, 0, 0], 1787338743),
            ([2026, 233, 20, 29, 3, 0, 1, 30, 0], 1787338743),
            ([2026, 233, 17, 29, 3, 0, -1, -30, 0], 1787338743),
            ([2024, 366, 23, 59, 59, 0, 0, 0, 0], 1735689599),
            ([2000, 60, 0, 0, 0, 0, 0, 0, 0], 951782400),
            ([1, 1, 0, 0, 0, 0, 0, 0, 0], -62135596800),
            ([-1, 1, 0, 0, 0, 0, 0, 0, 0], -62198755200),
            ("2026-08-21 18:59:03.12 +00:00:00", 1787338743),
            ("2026-08-21 18:59:03.0 +00:00:00", 1787338743),
            ("2026-08-21T18:59:03Z", 1787338743),
            ("2026-08-21 20:29:03.5 +01:30:00", 1787338743),
            ("2026-08-21T17:29:03-01:30", 1787338743),
            ("2024-02-29 0:00:00.0 +00:00:00", 1709164800),
        ],
    )
    def test_reads_both_forms(self, value: object, seconds: int) -> None:
        assert split_query.unix_seconds(value) == seconds

    @pytest.mark.parametrize(
        "value",
        [
            [2026, 0, 0, 0, 0, 0, 0, 0, 0],
            [2026, 366, 0, 0, 0, 0, 0, 0, 0],
            [2024, 367, 0, 0, 0, 0, 0, 0, 0],
            [10000, 1, 0, 0, 0, 0, 0, 0, 0],
            [2026, 1, 24, 0, 0, 0, 0, 0, 0],
            [2026, 1, 0, 60, 0, 0, 0, 0, 0],
            [2026, 1, 0, 0, 60, 0, 0, 0, 0],
            [2026, 1, 0, 0, 0, 1000000000, 0, 0, 0],
            [2026, 1, 0, 0, 0, -1, 0, 0, 0],
            [2026, 1, 0, 0, 0, 0, 26, 0, 0],
            [2026, 1, 0, 0, 0, 0, 0, 60, 0],
            [2026, 1, 0, 0, 0, 0, 0, 0, -60],
            "2026-13-01 00:00:00 +00:00:00",
            "2026-02-29 00:00:00 +00:00:00",
            "2026-08-21 18:59:03",
            "2026-08-21",
            "",
            None,
            5,
            {},
        ],
    )
    def test_refuses_what_is_no_moment(self, value: object) -> None:
        with pytest.raises(ValueError, match=r".+"):
            split_query.unix_seconds(value)

    @given(st.datetimes(allow_imaginary=False))
    def test_agrees_with_the_calendar(self, moment: Any) -> None:
        import datetime

        utc = moment.replace(tzinfo=datetime.UTC)
        clock = [moment.hour, moment.minute, moment.second, moment.microsecond * 1000]
        fields = [moment.year, moment.timetuple().tm_yday, *clock, 0, 0, 0]
        expected = (utc - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // (
            datetime.timedelta(seconds=1)
        )
        assert split_query.unix_seconds(fields) == expected
