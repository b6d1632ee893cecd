"""Index configs: canonical form."""

from __future__ import annotations

import os
from typing import Any

import pytest

from proxy import identifiers
from proxy.store import human, uris
from tests.support.index_configs import TS, decode, mapping, minimal
from tests.support.index_documents import web_logs_config

NIL = "00000000000000000000000000"
BASIC = {"stored": True, "indexed": True, "fast": False}
NUMERIC = BASIC | {"coerce": True, "output_format": "number"}
TEXT = {
    "indexed": True,
    "tokenizer": "default",
    "record": "basic",
    "fieldnorms": False,
    "stored": True,
    "fast": False,
}
JSON_FIELD = {
    "indexed": True,
    "tokenizer": "raw",
    "record": "basic",
    "stored": True,
    "expand_dots": True,
    "fast": False,
}
DATETIME = {
    "input_formats": ["rfc3339", "unix_timestamp"],
    "output_format": "rfc3339",
    "fast_precision": "seconds",
} | BASIC


def test_a_canonical_config_stays_as_it_is() -> None:
    assert decode(web_logs_config()) == web_logs_config()


def test_the_canonical_form_of_a_canonical_form_is_itself() -> None:
    once = decode(minimal())

    assert decode(once) == once


def test_defaults_are_spelled_out() -> None:
    config = decode(minimal())

    uid = config["doc_mapping"].pop("doc_mapping_uid")
    assert len(identifiers.decode_ulid(uid)) == 16
    assert uid != NIL
    assert config == {
        "version": "0.9",
        "index_id": "web-logs",
        "index_uri": "s3://acme/web-logs",
        "doc_mapping": {
            "mode": "dynamic",
            "dynamic_mapping": JSON_FIELD | {"fast": {"normalizer": "raw"}},
            "field_mappings": [],
            "timestamp_field": None,
            "tag_fields": [],
            "max_num_partitions": 200,
            "index_field_presence": False,
            "store_document_size": False,
            "store_source": False,
            "tokenizers": [],
        },
        "indexing_settings": {
            "commit_timeout_secs": 60,
            "docstore_compression_level": 8,
            "docstore_blocksize": 1_000_000,
            "split_num_docs_target": 10_000_000,
            "merge_policy": {
                "type": "stable_log",
                "min_level_num_docs": 100_000,
                "merge_factor": 10,
                "max_merge_factor": 12,
                "maturation_period": "2days",
            },
            "resources": {"heap_size": 2_000_000_000},
        },
        "ingest_settings": {"min_shards": 1},
        "search_settings": {"default_search_fields": []},
        "retention": None,
    }


def test_each_index_gets_a_doc_mapping_uid_of_its_own() -> None:
    uids = {decode(minimal())["doc_mapping"]["doc_mapping_uid"] for _ in range(3)}

    assert len(uids) == 3


@pytest.mark.parametrize("version", ["0.7", "0.8"])
@pytest.mark.parametrize("uid", [{}, {"doc_mapping_uid": "01J5ZQ3V7Y8M4N6P2R9S0T1VWY"}])
def test_older_configs_get_the_nil_uid_and_are_stored_as_0_9(
    version: str, uid: dict[str, str]
) -> None:
    config = decode(minimal(version=version, doc_mapping=uid))

    assert config["version"] == "0.9"
    assert config["doc_mapping"]["doc_mapping_uid"] == NIL


def test_a_given_doc_mapping_uid_is_kept_in_upper_case() -> None:
    config = decode(minimal(doc_mapping={"doc_mapping_uid": "01j5zq3v7y8m4n6p2r9s0t1vwy"}))

    assert config["doc_mapping"]["doc_mapping_uid"] == "01J5ZQ3V7Y8M4N6P2R9S0T1VWY"


@pytest.mark.parametrize(
    ("field", "stored"),
    [
        ({"type": "u64"}, NUMERIC),
        ({"type": "i64", "fast": True}, NUMERIC | {"fast": True}),
        ({"type": "array<f64>", "description": "d"}, {"description": "d"} | NUMERIC),
        ({"type": "bool", "description": None}, BASIC),
        ({"type": "ip", "indexed": False}, BASIC | {"indexed": False}),
        ({"type": "bytes"}, BASIC | {"input_format": "base64", "output_format": "base64"}),
        ({"type": "datetime"}, DATETIME),
        ({"type": "datetime", "input_formats": []}, DATETIME),
        (
            {"type": "datetime", "input_formats": ["RFC3339", "rfc3339", "%Y-%m-%d"]},
            DATETIME | {"input_formats": ["rfc3339", "%Y-%m-%d"]},
        ),
        (
            {"type": "array<datetime>", "precision": "nanoseconds"},
            DATETIME | {"fast_precision": "nanoseconds"},
        ),
        ({"type": "text"}, TEXT),
        ({"type": "text", "tokenizer": None, "record": None}, TEXT),
        ({"type": "text", "fast": True}, TEXT | {"fast": {"normalizer": "raw"}}),
        (
            {"type": "array<text>", "fast": {"normalizer": "lowercase"}},
            TEXT | {"fast": {"normalizer": "lowercase"}},
        ),
        (
            {"type": "text", "indexed": False},
            {"indexed": False, "fieldnorms": False, "stored": True, "fast": False},
        ),
        ({"type": "json"}, JSON_FIELD),
        (
            {"type": "json", "indexed": False},
            {"indexed": False, "stored": True, "expand_dots": True, "fast": False},
        ),
        (
            {"type": "concatenate", "include_dynamic_fields": True},
            {
                "concatenate_fields": [],
                "include_dynamic_fields": True,
                "tokenizer": "default",
                "record": "basic",
            },
        ),
        (
            {"type": "object", "x": 1, "field_mappings": [{"name": "a.b", "type": "bool"}]},
            {"field_mappings": [{"name": "a.b", "type": "bool"} | BASIC]},
        ),
    ],
)
def test_options_of_a_field_are_spelled_out(field: dict[str, Any], stored: dict[str, Any]) -> None:
    config = decode(mapping({"name": "f"} | field))

    expected = {"name": "f", "type": field["type"]} | stored
    assert config["doc_mapping"]["field_mappings"] == [expected]


def test_a_dynamic_mapping_has_the_defaults_of_a_json_field() -> None:
    config = decode(mapping(dynamic_mapping={"tokenizer": "default"}))

    assert config["doc_mapping"]["dynamic_mapping"] == JSON_FIELD | {"tokenizer": "default"}


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_other_modes_have_no_dynamic_mapping(mode: str) -> None:
    assert "dynamic_mapping" not in decode(mapping(mode=mode))["doc_mapping"]


def test_tag_fields_are_a_sorted_set() -> None:
    fields = [{"name": name, "type": "u64"} for name in ("b", "a", "B")]

    config = decode(mapping(*fields, tag_fields=["b", "a", "B", "a"]))

    assert config["doc_mapping"]["tag_fields"] == ["B", "a", "b"]


def test_the_old_name_of_store_document_size_is_read() -> None:
    assert decode(mapping(document_length=True))["doc_mapping"]["store_document_size"] is True


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        ({"type": "no_merge"}, {"type": "no_merge"}),
        (
            {"type": "default", "maturation_period": "48h", "merge_factor": 12},
            {
                "type": "stable_log",
                "min_level_num_docs": 100_000,
                "merge_factor": 12,
                "max_merge_factor": 12,
                "maturation_period": "2days",
            },
        ),
        (
            {"type": "limit_merge", "max_finalize_merge_operations": 0},
            {
                "type": "limit_merge",
                "merge_factor": 10,
                "max_merge_factor": 12,
                "max_merge_ops": 4,
                "maturation_period": "2days",
            },
        ),
        (
            {
                "type": "limit_merge",
                "max_finalize_merge_operations": 3,
                "max_finalize_split_num_docs": None,
            },
            {
                "type": "limit_merge",
                "merge_factor": 10,
                "max_merge_factor": 12,
                "max_merge_ops": 4,
                "maturation_period": "2days",
                "max_finalize_merge_operations": 3,
            },
        ),
    ],
)
def test_merge_policies(policy: dict[str, Any], stored: dict[str, Any]) -> None:
    config = decode(minimal(indexing_settings={"merge_policy": policy}))

    assert config["indexing_settings"]["merge_policy"] == stored


@pytest.mark.parametrize(
    ("size", "stored"),
    [
        (20_000_000, 20_000_000),
        ("50.0 MB", 50_000_000),
        ("2 GB", 2_000_000_000),
        ("1GiB", 2**30),
        ("512", 512),
    ],
)
def test_sizes_are_stored_as_integers(size: Any, stored: int) -> None:
    resources = {"heap_size": size, "max_merge_write_throughput": "20 MB"}

    config = decode(minimal(indexing_settings={"resources": resources}))

    assert config["indexing_settings"]["resources"] == {"heap_size": stored}


def test_settings_of_metrics_builds_are_kept() -> None:
    parquet = {
        "parquet_merge_policy": {"merge_factor": 5},
        "parquet_indexing": {"sort_fields": "a"},
    }

    settings = decode(minimal(indexing_settings=parquet))["indexing_settings"]

    assert parquet.items() <= settings.items()


def test_validate_docs_is_written_only_when_off() -> None:
    assert decode(minimal(ingest_settings={"validate_docs": True}))["ingest_settings"] == {
        "min_shards": 1
    }
    off = {"min_shards": 2, "validate_docs": False}
    assert decode(minimal(ingest_settings=off))["ingest_settings"] == off


def test_retention_gets_its_default_schedule() -> None:
    config = decode(mapping(TS, timestamp_field="ts") | {"retention": {"period": "90 days"}})

    assert config["retention"] == {"period": "90 days", "schedule": "hourly"}


@pytest.mark.parametrize(
    "schedule", ["hourly", "@daily", " weekly ", "0 0 * * * *", "0 0 0 1,15 * ? *"]
)
def test_schedules_that_are_accepted(schedule: str) -> None:
    assert human.schedule_problem(schedule) is None


@pytest.mark.parametrize(
    "schedule", ["", "sometimes", "* * * * *", "0 0 * * * * * *", "0 0 $ * * *"]
)
def test_schedules_that_are_refused(schedule: str) -> None:
    assert str(human.schedule_problem(schedule)).startswith(
        "failed to parse retention evaluation schedule"
    )


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("48 hours", "2days"),
        ("2days", "2days"),
        ("1day", "1day"),
        ("90m", "1h 30m"),
        ("1.5h", "1h 30m"),
        ("15ms 3us", "15ms 3us"),
        ("1year 2months", "1year 2months"),
        ("0", "0s"),
        ("30 days", "30days"),
        ("90 days", "2months 29days 2h 52m 48s"),
    ],
)
def test_durations_in_canonical_form(text: str, stored: str) -> None:
    assert human.canonical_duration(text) == stored


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("s3://bucket/a/../b/", "s3://bucket/a/../b/"),
        ("ram:///x", "ram:///x"),
        ("gs://b", "gs://b"),
        ("azure://acc/c", "azure://acc/c"),
        ("postgres://u:p@h/db", "postgresql://u:p@h/db"),
        ("pg://h/db", "postgresql://h/db"),
        ("file:///a//b/./c/../d/", "file:///a/b/d"),
        ("file:///../..", "file:///"),
        ("/var/lib/x", "file:///var/lib/x"),
        ("x/y", f"file://{os.getcwd()}/x/y".replace("file:////", "file:///")),
        ("~/x", f"file://{os.path.expanduser('~')}/x"),
    ],
)
def test_uris_in_canonical_form(uri: str, stored: str) -> None:
    assert uris.normalize(uri) == stored


@pytest.mark.parametrize("uri", ["", "ftp://u:secret@h/x", "S3://bucket", "~other/x"])
def test_uris_that_are_refused_are_not_shown(uri: str) -> None:
    with pytest.raises(ValueError, match="URI") as caught:
        uris.normalize(uri)

    assert "secret" not in str(caught.value)
