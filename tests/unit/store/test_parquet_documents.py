"""Decoding, canonical form and row of parquet split metadata."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from proxy.store import parquet_documents
from tests.support.parquet_samples import metadata

STRUCT = "quickwit_parquet_engine::split::metadata::ParquetSplitMetadata"


def decode(**keys: Any) -> parquet_documents.ParquetSplit:
    return parquet_documents.decode(json.dumps(metadata(**keys)))


def test_a_canonical_document_stays_as_it_is() -> None:
    document = metadata(
        window_start=-60,
        window_duration_secs=60,
        low_cardinality_tags={"env": ["prod"], "service": ["api", "web"]},
        row_keys_proto=[0, 255],
        zonemap_regexes={"host": "a.*"},
        rg_partition_prefix_len=2,
        maturity={"type": "immature", "maturation_period_millis": 1500},
        partition_id=2**64 - 1,
    )

    assert parquet_documents.decode(json.dumps(document)).document == document


def test_what_is_missing_gets_its_default() -> None:
    required = {
        key: value
        for key, value in metadata().items()
        if key
        not in {
            "kind",
            "partition_id",
            "maturity",
            "parquet_file",
            "window_duration_secs",
            "sort_fields",
            "num_merge_ops",
        }
    }

    assert parquet_documents.decode(json.dumps(required)).document == metadata()


@pytest.mark.parametrize(
    "keys",
    [
        {"window_start": None, "window_duration_secs": 60},
        {"window_start": 60, "window_duration_secs": 0},
        {"window_start": 60, "window_duration_secs": None},
    ],
)
def test_half_a_window_is_normalized_away(keys: dict[str, Any]) -> None:
    split = decode(**keys)

    assert "window_start" not in split.document
    assert split.document["window_duration_secs"] == 0
    assert split.row()["window_start"] is None
    assert split.row()["window_duration_secs"] == 0


@pytest.mark.parametrize(
    ("key", "value"), [("zonemap_regexes", {}), ("rg_partition_prefix_len", 0)]
)
def test_empty_optional_fields_are_left_out(key: str, value: Any) -> None:
    assert key not in decode(**{key: value}).document


@pytest.mark.parametrize("key", ["window_start", "row_keys_proto"])
def test_null_reads_as_none_where_the_field_is_optional(key: str) -> None:
    text = json.dumps({**metadata(), key: None})

    assert key not in parquet_documents.decode(text).document


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("maturity", "an object"),
        ("zonemap_regexes", "an object"),
        ("kind", "a string"),
        ("num_merge_ops", "an integer"),
        ("window_duration_secs", "an integer"),
    ],
)
def test_null_is_refused_where_the_field_has_a_default(key: str, expected: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        parquet_documents.decode(json.dumps({**metadata(), key: None}))

    assert caught.value.message == f"field `{key}` is null, expected {expected}"


def test_an_empty_row_key_is_not_no_row_key() -> None:
    split = decode(row_keys_proto=[])

    assert split.document["row_keys_proto"] == []
    assert split.row()["row_keys"] == "\\x"


def test_sets_are_sorted_and_unique() -> None:
    split = decode(
        metric_names=["b", "a", "b"],
        high_cardinality_tag_keys=["z", "y", "z"],
        low_cardinality_tags={"service": ["web", "api", "web"]},
    )

    assert split.document["metric_names"] == ["a", "b"]
    assert split.document["high_cardinality_tag_keys"] == ["y", "z"]
    assert split.document["low_cardinality_tags"] == {"service": ["api", "web"]}


def test_unknown_keys_are_kept() -> None:
    assert decode(from_the_future={"a": [1]}).document["from_the_future"] == {"a": [1]}


def test_excess_nanoseconds_are_carried() -> None:
    split = decode(created_at={"secs_since_epoch": 5, "nanos_since_epoch": 2_000_000_001})

    assert split.document["created_at"] == {"secs_since_epoch": 7, "nanos_since_epoch": 1}


@pytest.mark.parametrize(
    ("maturity", "expected"),
    [
        (None, 0),
        ({"type": "mature"}, 0),
        ({"type": "immature", "maturation_period_millis": 0}, 1_787_000_000),
        ({"type": "immature", "maturation_period_millis": 999}, 1_787_000_000),
        ({"type": "immature", "maturation_period_millis": 172_800_000}, 1_787_172_800),
    ],
)
def test_the_maturity_time_is_creation_plus_whole_seconds(
    maturity: dict[str, Any] | None, expected: int
) -> None:
    assert decode(maturity=maturity).maturity_timestamp == expected


def test_a_maturity_that_no_timestamp_can_hold_is_an_invalid_argument() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        decode(maturity={"type": "immature", "maturation_period_millis": 2**64 - 1})

    assert caught.value.message == (
        "split `s1` becomes mature at 18446745860709551 s, after the last time that can be "
        "stored (9224318015999 s): shorten `maturity.maturation_period_millis`"
    )


def test_the_row_of_a_split() -> None:
    split = decode(
        low_cardinality_tags={"service": ["web"], "region": [], "custom": ["x"]},
        row_keys_proto=[1, 255],
        zonemap_regexes={"host": "h.*"},
        window_start=3600,
        window_duration_secs=900,
    )

    row = split.row()

    assert json.loads(row.pop("split_metadata_json")) == split.document
    assert row == {
        "split_id": "s1",
        "index_uid": "web-logs:01J5ZQ3V7Y8M4N6P2R9S0T1VWX",
        "time_range_start": 100,
        "time_range_end": 200,
        "metric_names": ["cpu.usage"],
        "tag_service": ["web"],
        "tag_env": None,
        "tag_datacenter": None,
        "tag_region": [],
        "tag_host": None,
        "high_cardinality_tag_keys": [],
        "num_rows": 10,
        "size_bytes": 1000,
        "window_start": 3600,
        "window_duration_secs": 900,
        "sort_fields": "",
        "num_merge_ops": 0,
        "row_keys": "\\x01ff",
        "zonemap_regexes": {"host": "h.*"},
        "maturity_timestamp": 0,
    }


@pytest.mark.parametrize(
    "key",
    [
        "split_id",
        "index_uid",
        "time_range",
        "num_rows",
        "size_bytes",
        "metric_names",
        "low_cardinality_tags",
        "high_cardinality_tag_keys",
        "created_at",
    ],
)
def test_a_required_field_that_is_missing_is_named(key: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(**{key: None})

    assert (caught.value.struct_name, caught.value.message) == (STRUCT, f"missing field `{key}`")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "Logs", "field `kind` is `Logs`, expected `Metrics` or `Sketches`"),
        ("split_id", 1, "field `split_id` is an integer, expected a string"),
        (
            "num_rows",
            2**63,
            (
                "field `num_rows` is out of range: 9223372036854775808 is not between 0 and "
                "9223372036854775807"
            ),
        ),
        ("num_rows", True, "field `num_rows` is a boolean, expected an integer"),
        (
            "size_bytes",
            -1,
            "field `size_bytes` is out of range: -1 is not between 0 and 9223372036854775807",
        ),
        (
            "num_merge_ops",
            2**31,
            "field `num_merge_ops` is out of range: 2147483648 is not between 0 and 2147483647",
        ),
        ("time_range", {"start_secs": 1}, "missing field `time_range.end_secs`"),
        ("metric_names", ["a", 1], "field `metric_names` holds an integer, expected strings"),
        (
            "low_cardinality_tags",
            {"env": "prod"},
            (
                "field `low_cardinality_tags.env` is a string of 4 characters, expected a list of "
                "strings"
            ),
        ),
        (
            "created_at",
            {"secs_since_epoch": 1, "nanos_since_epoch": 1, "micros": 1},
            "unknown field `created_at.micros`",
        ),
        (
            "created_at",
            {"secs_since_epoch": 2**63 - 1, "nanos_since_epoch": 1_000_000_000},
            "field `created_at` is later than a time can be",
        ),
        (
            "maturity",
            {"type": "ripe"},
            "field `maturity.type` is `ripe`, expected `mature` or `immature`",
        ),
        ("maturity", {"type": "immature"}, "missing field `maturity.maturation_period_millis`"),
        (
            "row_keys_proto",
            "AQ==",
            "field `row_keys_proto` is a string of 4 characters, expected a list of bytes",
        ),
        (
            "row_keys_proto",
            [256],
            "field `row_keys_proto` must be a list of integers from 0 to 255",
        ),
        (
            "row_keys_proto",
            [True],
            "field `row_keys_proto` must be a list of integers from 0 to 255",
        ),
        (
            "zonemap_regexes",
            {"host": 1},
            "field `zonemap_regexes.host` is an integer, expected a string",
        ),
    ],
)
def test_a_field_of_the_wrong_form_is_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(**{key: value})

    assert (caught.value.struct_name, caught.value.message) == (STRUCT, message)


def test_a_window_that_ends_after_the_last_second_is_refused() -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(window_start=2**63 - 1, window_duration_secs=1)

    assert caught.value.message == (
        "field `window_start` is out of range: the window ends after 2^63 - 1 s"
    )


def test_a_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        parquet_documents.decode("{")

    assert caught.value.struct_name == STRUCT
