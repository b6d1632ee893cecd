"""Index configs: canonical form and validation."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from proxy import errors, identifiers
from proxy.store import human, index_configs, uris
from tests.support.index_documents import web_logs_config

STRUCT = "quickwit_config::index_config::IndexConfig"
NIL = "00000000000000000000000000"
TS = {"name": "ts", "type": "datetime", "fast": True}
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


def minimal(**changes: Any) -> dict[str, Any]:
    return {
        "version": "0.9",
        "index_id": "web-logs",
        "index_uri": "s3://acme/web-logs",
        "doc_mapping": {},
    } | changes


def mapping(*fields: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return minimal(doc_mapping={"field_mappings": list(fields)} | changes)


def decode(config: object) -> dict[str, Any]:
    return index_configs.decode(json.dumps(config))


def refused(config: object) -> str:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(config)
    assert caught.value.struct_name == STRUCT
    return caught.value.message


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


@pytest.mark.parametrize("index_id", ["abc", "a" * 255, "Z-_.9"])
def test_identifiers_are_accepted(index_id: str) -> None:
    assert decode(minimal(index_id=index_id))["index_id"] == index_id


@pytest.mark.parametrize("index_id", ["", "ab", "9abc", "_abc", "a:bc", "abc\n", "a" * 256, "été"])
def test_other_index_ids_are_refused(index_id: str) -> None:
    assert refused(minimal(index_id=index_id)) == (
        f"index ID `{index_id}` is invalid: identifiers must match the following regular "
        r"expression: `^[a-zA-Z][a-zA-Z0-9-_\.]{2,254}$`"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "invalid type: a list of 0 elements, expected an object"),
        ({}, "missing field `version`"),
        (minimal(version="0.6"), "unknown version `0.6`, expected one of `0.7`, `0.8`, `0.9`"),
        (minimal(version="0.10"), "unknown version `0.10`"),
        (minimal(version=None), "field `version` is null, expected a string"),
        (minimal(x=1), "unknown field `x`"),
        (minimal(index_id=5), "field `index_id` is an integer, expected a string"),
        (minimal(index_uri=None), "missing `index_uri`"),
        (minimal(index_uri=""), "field `index_uri` is no URI: the URI is empty"),
        (minimal(index_uri="ftp://a"), "field `index_uri` is no URI: unknown URI protocol `ftp`"),
        ({"version": "0.9", "index_id": "abc"}, "missing field `doc_mapping`"),
        (minimal(doc_mapping=None), "field `doc_mapping` is null, expected an object"),
        (minimal(indexing_settings=None), "field `indexing_settings` is null"),
        (minimal(indexing_settings={"x": 1}), "unknown field `indexing_settings.x`"),
        (minimal(ingest_settings={"x": 1}), "unknown field `ingest_settings.x`"),
        (minimal(search_settings={"x": 1}), "unknown field `search_settings.x`"),
        (minimal(retention={"period": "1d", "x": 1}), "unknown field `retention.x`"),
        (minimal(retention={}), "missing field `retention.period`"),
        (minimal(ingest_settings={"min_shards": 0}), "field `ingest_settings.min_shards` is out"),
        (
            minimal(indexing_settings={"resources": {"heap_size": "much"}}),
            "field `indexing_settings.resources.heap_size` must be a size",
        ),
        (
            minimal(indexing_settings={"resources": {"heap_size": 1.5}}),
            "field `indexing_settings.resources.heap_size` is a floating point number",
        ),
        (
            minimal(indexing_settings={"resources": {"heap_size": None}}),
            "field `indexing_settings.resources.heap_size` is null",
        ),
        (
            minimal(indexing_settings={"resources": {"x": 1}}),
            "unknown field `indexing_settings.resources.x`",
        ),
        (
            minimal(indexing_settings={"merge_policy": {"type": "x"}}),
            "field `indexing_settings.merge_policy.type` must be one of",
        ),
        (
            minimal(indexing_settings={"merge_policy": {"merge_factor": 5}}),
            "missing field `indexing_settings.merge_policy.type`",
        ),
        (
            minimal(indexing_settings={"merge_policy": {"type": "stable_log", "max_merge_ops": 4}}),
            "unknown field `indexing_settings.merge_policy.max_merge_ops`",
        ),
        (
            minimal(indexing_settings={"merge_policy": {"type": "stable_log", "merge_factor": 13}}),
            "merge policy `max_merge_factor` (12) must be at least `merge_factor` (13)",
        ),
        (
            minimal(
                indexing_settings={
                    "merge_policy": {"type": "stable_log", "maturation_period": "soon"}
                }
            ),
            "field `indexing_settings.merge_policy.maturation_period` must be a duration",
        ),
        (
            minimal(retention={"period": "1 day"}),
            "retention policy requires a timestamp field, but the doc mapping does not declare",
        ),
        (
            mapping(TS, timestamp_field="ts") | {"retention": {"period": "always"}},
            "field `retention.period` must be a duration",
        ),
        (
            mapping(TS, timestamp_field="ts")
            | {"retention": {"period": "1 day", "schedule": "whenever"}},
            "failed to parse retention evaluation schedule `whenever`",
        ),
    ],
)
def test_an_invalid_config_names_the_field(config: object, message: str) -> None:
    assert refused(config).startswith(message)


F = {"name": "f", "type": "text"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (mapping(x=1), "unknown field `doc_mapping.x`"),
        (mapping(doc_mapping_uid=None), "field `doc_mapping.doc_mapping_uid` is null"),
        (mapping(doc_mapping_uid="01"), "field `doc_mapping.doc_mapping_uid` is no ULID"),
        (mapping(mode="loose"), "field `doc_mapping.mode` is `loose`, expected one of lenient"),
        (
            mapping(mode="strict", dynamic_mapping={}),
            "field `doc_mapping.dynamic_mapping` is allowed only in mode `dynamic`, not `strict`",
        ),
        (mapping(dynamic_mapping={"x": 1}), "unknown field `doc_mapping.dynamic_mapping.x`"),
        (mapping(max_num_partitions=0), "field `doc_mapping.max_num_partitions` is out of range"),
        (mapping(store_source=1), "field `doc_mapping.store_source` is an integer"),
        (minimal(doc_mapping={"field_mappings": [7]}), "invalid type: an integer"),
        (mapping({"type": "text"}), "missing field `doc_mapping.field_mappings.name`"),
        (mapping({"name": "f"}), "missing field `doc_mapping.field_mappings.type`"),
        (mapping({"name": "f", "type": "int"}), "field `f` has an unknown type: `int`"),
        (
            mapping({"name": "f", "type": "array<object>"}),
            "field `f` has an unknown type: `array<object>`",
        ),
        (mapping({"name": "_source", "type": "text"}), "field name `_source` is reserved"),
        (mapping({"name": ".f", "type": "text"}), "field name `.f` is invalid"),
        (mapping({"name": "f g", "type": "text"}), "field name `f g` is invalid"),
        (mapping(F | {"x": 1}), "unknown field `doc_mapping.field_mappings.f.x`"),
        (
            mapping({"name": "f", "type": "u64", "tokenizer": "raw"}),
            "unknown field `doc_mapping.field_mappings.f.tokenizer`",
        ),
        (
            mapping({"name": "f", "type": "u64", "precision": "seconds"}),
            "unknown field `doc_mapping.field_mappings.f.precision`",
        ),
        (
            mapping({"name": "f", "type": "concatenate", "indexed": True}),
            "unknown field `doc_mapping.field_mappings.f.indexed`",
        ),
        (
            mapping({"name": "f", "type": "json", "fieldnorms": True}),
            "unknown field `doc_mapping.field_mappings.f.fieldnorms`",
        ),
        (
            mapping({"name": "f", "type": "datetime", "input_formats": ["when"]}),
            "field `doc_mapping.field_mappings.f.input_formats` holds an unknown date time format",
        ),
        (
            mapping({"name": "f", "type": "datetime", "fast_precision": "days"}),
            "field `doc_mapping.field_mappings.f.fast_precision` is `days`",
        ),
        (
            mapping(F | {"indexed": False, "record": "freq"}),
            "fields `doc_mapping.field_mappings.f.tokenizer` and `record` are allowed only if",
        ),
        (
            mapping(F | {"indexed": False, "fieldnorms": True}),
            "field `doc_mapping.field_mappings.f.fieldnorms` is allowed only if indexed",
        ),
        (
            mapping(F | {"fast": "yes"}),
            "field `doc_mapping.field_mappings.f.fast` is a string of 3 characters",
        ),
        (
            mapping({"name": "f", "type": "array<bytes>", "fast": True}),
            "field `f` of type `array<bytes>` cannot be fast",
        ),
        (
            mapping({"name": "f", "type": "object", "field_mappings": []}),
            "field `doc_mapping.field_mappings.f.field_mappings` must hold at least one",
        ),
        (
            mapping({"name": "f", "type": "concatenate"}),
            "field `doc_mapping.field_mappings.f.concatenate_fields` must name at least one field",
        ),
        (mapping(F, F), "duplicated field definition `f`"),
        (
            mapping(
                {"name": "o", "type": "object", "field_mappings": [F, F]},
            ),
            "duplicated field definition `f`",
        ),
        (
            mapping({"name": "c", "type": "concatenate", "concatenate_fields": ["x"]}),
            "concatenate field uses an unknown field `x`",
        ),
        (
            mapping(
                {"name": "f", "type": "ip"},
                {"name": "c", "type": "concatenate", "concatenate_fields": ["f"]},
            ),
            "field `f` is not supported inside a concatenate field",
        ),
        (
            mapping(
                {"name": "c", "type": "concatenate", "include_dynamic_fields": True}, mode="strict"
            ),
            "field `c` includes dynamic fields, but the mode is not dynamic",
        ),
        (mapping(timestamp_field="ts"), "could not find timestamp field `ts` in field mappings"),
        (mapping(TS, timestamp_field=".ts"), "timestamp field `.ts` must neither start nor end"),
        (mapping(F, timestamp_field="f"), "timestamp field `f` should be a datetime field"),
        (
            mapping(TS | {"fast": False}, timestamp_field="ts"),
            "timestamp field `ts` should be a fast field",
        ),
        (
            mapping(TS | {"type": "array<datetime>"}, timestamp_field="ts"),
            "timestamp field `ts` should be single-valued",
        ),
        (mapping(F | {"tokenizer": "x"}), "unknown tokenizer `x` for field `f`"),
        (
            mapping(dynamic_mapping={"tokenizer": "x"}),
            "unknown tokenizer `x` for field `_dynamic`",
        ),
        (
            mapping(tokenizers=[{"name": "raw", "type": "simple"}]),
            "custom tokenizer `raw` has the name of a built-in tokenizer",
        ),
        (
            mapping(tokenizers=[{"name": "t", "type": "simple"}] * 2),
            "duplicated custom tokenizer: `t`",
        ),
        (
            mapping(tokenizers=[{"name": "t", "type": "ngram", "min_gram": 3, "max_gram": 2}]),
            "tokenizer `t` needs 0 < min_gram <= max_gram",
        ),
        (
            mapping(tokenizers=[{"name": "t", "type": "magic"}]),
            "tokenizer `t` has an unknown type: `magic`",
        ),
        (
            mapping(tokenizers=[{"name": "t", "type": "simple", "filters": ["x"]}]),
            "tokenizer `t` has an unknown filter: `x`",
        ),
        (
            mapping(tokenizers=[{"name": "t", "type": "regex", "pattern": "a", "x": 1}]),
            "unknown field `doc_mapping.tokenizers.x`",
        ),
        (mapping(tag_fields=["f"]), "tag field `f` is unknown"),
        (mapping(F, tag_fields=["f"]), "tag field `f` needs the `raw` tokenizer"),
        (
            mapping({"name": "f", "type": "bool"}, tag_fields=["f"]),
            "tag field `f` is not allowed on `bool` fields",
        ),
        (
            mapping({"name": "f", "type": "u64", "indexed": False}, tag_fields=["f"]),
            "tag field `f` must be indexed",
        ),
        (
            mapping(F) | {"search_settings": {"default_search_fields": ["f", "f"]}},
            "duplicated default search field: `f`",
        ),
        (
            mapping(F, mode="lenient") | {"search_settings": {"default_search_fields": ["g"]}},
            "unknown default search field `g`",
        ),
        (
            mapping(F | {"indexed": False}) | {"search_settings": {"default_search_fields": ["f"]}},
            "default search field `f` is not indexed",
        ),
        (
            mapping(dynamic_mapping={"indexed": False})
            | {"search_settings": {"default_search_fields": ["x.y"]}},
            "default search field `x.y` is not indexed",
        ),
    ],
)
def test_an_invalid_doc_mapping_is_refused(config: object, message: str) -> None:
    assert refused(config).startswith(message)


@pytest.mark.parametrize("name", ["f", "o.g", "o.h\\.i", "j.any.path"])
def test_default_search_fields_are_found(name: str) -> None:
    inner = [{"name": "g", "type": "u64"}, {"name": "h.i", "type": "text"}]
    fields: list[dict[str, Any]] = [F, {"name": "o", "type": "object", "field_mappings": inner}]
    config = mapping(*fields, {"name": "j", "type": "json"}, mode="strict")

    decoded = decode(config | {"search_settings": {"default_search_fields": [name]}})

    assert decoded["search_settings"]["default_search_fields"] == [name]


@pytest.mark.parametrize(("name", "field"), [("o.ts", "ts"), ("o.a\\.b", "a.b")])
def test_the_timestamp_field_can_be_nested(name: str, field: str) -> None:
    nested = {"name": "o", "type": "object", "field_mappings": [TS | {"name": field}]}

    assert decode(mapping(nested, timestamp_field=name))["doc_mapping"]["timestamp_field"] == name


@pytest.mark.parametrize("text", ["", "nope", "{", '{"a":Infinity}', '{"a":1e999}', "\ufeff{}"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        index_configs.decode(text)

    assert caught.value.struct_name == STRUCT
