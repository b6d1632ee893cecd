"""The conditions that a ListParquetSplitsQuery means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from proxy.store import parquet_query
from tests.support.parquet_samples import INDEX_UID, list_query

STRUCT = "quickwit_metastore::metastore::ListParquetSplitsQuery"
UPDATED = "extract(epoch FROM update_timestamp)::bigint"
CREATED = "extract(epoch FROM create_timestamp)::bigint"
WINDOW_END = "window_start + window_duration_secs"


def decode(**keys: Any) -> parquet_query.SqlConditions:
    return parquet_query.decode(json.dumps(list_query(**keys)))


def included(value: Any) -> dict[str, Any]:
    return {"Included": value}


def excluded(value: Any) -> dict[str, Any]:
    return {"Excluded": value}


def between(start: Any, end: Any) -> dict[str, Any]:
    return {"start": start, "end": end}


def test_a_query_without_filters_names_the_index_alone() -> None:
    assert decode() == parquet_query.SqlConditions("index_uid = $1", None, (INDEX_UID,))


def test_only_six_fields_are_required() -> None:
    required = (
        "index_uid",
        "time_range",
        "delete_opstamp",
        "update_timestamp",
        "create_timestamp",
        "mature",
    )
    query = {key: value for key, value in list_query().items() if key in required}

    assert parquet_query.decode(json.dumps(query)) == decode()
    for key in required:
        with pytest.raises(errors.JsonDeserializeError) as caught:
            parquet_query.decode(json.dumps({k: v for k, v in query.items() if k != key}))
        assert caught.value.message == f"missing field `{key}`"


def test_a_lower_case_incarnation_is_written_in_upper_case() -> None:
    assert decode(index_uid=INDEX_UID.lower()).values == (INDEX_UID,)


@pytest.mark.parametrize(
    ("keys", "sql", "values"),
    [
        (
            {"split_states": ["Staged", "Published"]},
            "split_state = ANY ($2::text[])",
            (["Staged", "Published"],),
        ),
        ({"metric_names": ["a"]}, "metric_names && $2::text[]", (["a"],)),
        ({"tag_service": "s"}, "tag_service @> ARRAY[$2::text]", ("s",)),
        ({"tag_env": "e"}, "tag_env @> ARRAY[$2::text]", ("e",)),
        ({"tag_datacenter": "d"}, "tag_datacenter @> ARRAY[$2::text]", ("d",)),
        ({"tag_region": "r"}, "tag_region @> ARRAY[$2::text]", ("r",)),
        ({"tag_host": "$1; --"}, "tag_host @> ARRAY[$2::text]", ("$1; --",)),
        ({"tag_env": ""}, "tag_env @> ARRAY[$2::text]", ("",)),
        ({"sort_fields": ""}, "sort_fields = $2", ("",)),
        ({"node_id": "n"}, "node_id = $2", ("n",)),
        ({"after_split_id": "s"}, "split_id > $2", ("s",)),
        ({"max_time_range_end": -1}, "time_range_end <= $2::bigint", (-1,)),
        (
            {"time_range": between(included(1), included(2))},
            "time_range_end >= $2::bigint AND time_range_start <= $3::bigint",
            (1, 2),
        ),
        (
            {"time_range": between(excluded(1), excluded(2))},
            "time_range_end > $2::bigint AND time_range_start < $3::bigint",
            (1, 2),
        ),
        (
            {"time_range": between(included(1), excluded(2)), "sort_fields": "ts"},
            f"{WINDOW_END} >= $2::bigint AND window_start < $3::bigint AND sort_fields = $4",
            (1, 2, "ts"),
        ),
        (
            {"delete_opstamp": between(included(1), excluded(2))},
            "delete_opstamp >= $2::bigint AND delete_opstamp < $3::bigint",
            (1, 2),
        ),
        (
            {"delete_opstamp": between(included(2**63), included(2**63))},
            "delete_opstamp > $2::bigint",
            (2**63 - 1,),
        ),
        (
            {"update_timestamp": between(excluded(-1), included(2))},
            f"{UPDATED} > $2::bigint AND {UPDATED} <= $3::bigint",
            (-1, 2),
        ),
        (
            {"create_timestamp": between(included(1), excluded(2))},
            f"{CREATED} >= $2::bigint AND {CREATED} < $3::bigint",
            (1, 2),
        ),
        (
            {"mature": included([2026, 233, 18, 59, 3, 120000000, 0, 0, 0])},
            "maturity_timestamp <= to_timestamp($2::double precision)",
            (1787338743.0,),
        ),
        (
            {"mature": excluded("2026-08-21 18:59:03.12 +00:00:00")},
            "maturity_timestamp > to_timestamp($2::double precision)",
            (1787338743.0,),
        ),
        (
            {"mature": included([-9999, 1, 0, 0, 0, 0, 0, 0, 0])},
            "maturity_timestamp <= to_timestamp($2::double precision)",
            (-210866803200.0,),
        ),
    ],
)
def test_what_each_field_means(keys: dict[str, Any], sql: str, values: tuple[Any, ...]) -> None:
    expected = parquet_query.SqlConditions(f"index_uid = $1 AND {sql}", None, (INDEX_UID, *values))

    assert decode(**keys) == expected


def test_filters_are_joined_in_one_conjunction() -> None:
    conditions = decode(tag_env="prod", tag_host="h", after_split_id="s", limit=5)

    assert conditions == parquet_query.SqlConditions(
        "index_uid = $1 AND tag_env @> ARRAY[$2::text] AND tag_host @> ARRAY[$3::text] "
        "AND split_id > $4",
        5,
        (INDEX_UID, "prod", "h", "s"),
    )


@pytest.mark.parametrize(("limit", "expected"), [(None, None), (0, 0), (2**64 - 1, 2**63 - 1)])
def test_the_limit(limit: int | None, expected: int | None) -> None:
    assert decode(limit=limit).limit == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"index_uid": "web-logs"},
            (
                "field `index_uid` is not `<index_id>:<ULID>`: 'web-logs' is not an index UID "
                "(`<index_id>:<ULID>`)"
            ),
        ),
        ({"index_uid": None}, "field `index_uid` is null, expected a string"),
        ({"split_states": ["Gone"]}, "field `split_states` holds unknown state `Gone`"),
        (
            {"split_states": None},
            "field `split_states` is null, expected a list of strings",
        ),
        (
            {"time_range": {"start": "Unbounded"}},
            "missing field `time_range.end`",
        ),
        (
            {"time_range": between("unbounded", "Unbounded")},
            (
                "field `time_range.start` is a string of 9 characters, expected `Unbounded`, "
                "`Included` or `Excluded`"
            ),
        ),
        (
            {"time_range": between({"Included": 1, "Excluded": 2}, "Unbounded")},
            (
                "field `time_range.start` is an object of 2 keys, expected `Unbounded`, "
                "`Included` or `Excluded`"
            ),
        ),
        (
            {"time_range": between(included(2**63), "Unbounded")},
            (
                "field `time_range.start.Included` is out of range: 9223372036854775808 is not "
                "between -9223372036854775808 and 9223372036854775807"
            ),
        ),
        (
            {"delete_opstamp": between(included(-1), "Unbounded")},
            (
                "field `delete_opstamp.start.Included` is out of range: -1 is not between 0 and "
                "18446744073709551615"
            ),
        ),
        (
            {"update_timestamp": between(included(1.5), "Unbounded")},
            (
                "field `update_timestamp.start.Included` is a floating point number, expected an "
                "integer"
            ),
        ),
        (
            {"mature": included([2026, 366, 0, 0, 0, 0, 0, 0, 0])},
            "field `mature.Included` is no datetime: day of year 366 is not between 1 and 365",
        ),
        (
            {"mature": 1},
            "field `mature` is an integer, expected `Unbounded`, `Included` or `Excluded`",
        ),
        (
            {"limit": -1},
            "field `limit` is out of range: -1 is not between 0 and 18446744073709551615",
        ),
        ({"tag_env": 1}, "field `tag_env` is an integer, expected a string"),
    ],
)
def test_a_field_of_the_wrong_form_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(**keys)

    assert (caught.value.struct_name, caught.value.message) == (STRUCT, message)
