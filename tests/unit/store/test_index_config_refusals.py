"""Index configs: what is refused, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import errors
from proxy.store import index_configs
from tests.support.index_configs import STRUCT, TS, decode, mapping, minimal, refused


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
