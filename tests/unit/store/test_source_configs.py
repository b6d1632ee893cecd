"""Source configs: canonical form and validation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from proxy.store import source_configs
from tests.support.index_documents import kafka_config

STRUCT = "quickwit_config::source_config::SourceConfig"
SQS = {"type": "sqs", "queue_url": "https://sqs.acme/q", "message_type": "s3_notification"}
SQS_STORED = SQS | {
    "deduplication_window_duration_secs": 3600,
    "deduplication_window_max_messages": 100_000,
    "deduplication_cleanup_interval_secs": 60,
}


def source(source_type: str, params: Any = ..., **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"version": "0.9", "source_id": "src", "source_type": source_type}
    if params is not ...:
        config["params"] = params
    return config | changes


def decode(config: object) -> dict[str, Any]:
    return source_configs.decode(json.dumps(config))


def refused(config: object) -> str:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(config)
    assert caught.value.struct_name == STRUCT
    return caught.value.message


def test_a_canonical_config_stays_as_it_is() -> None:
    text = json.dumps(kafka_config())

    assert json.dumps(source_configs.decode(text)) == text


def test_defaults_are_spelled_out() -> None:
    assert decode(source("void", None)) == {
        "version": "0.9",
        "source_id": "src",
        "num_pipelines": 1,
        "enabled": True,
        "source_type": "void",
        "params": None,
        "input_format": "json",
    }


@pytest.mark.parametrize("version", ["0.8", "0.9"])
def test_both_current_layouts_are_stored_as_0_9(version: str) -> None:
    assert decode(kafka_config(version=version)) == kafka_config()


def test_the_0_7_layout_is_converted() -> None:
    old = kafka_config(version="0.7", desired_num_pipelines=4, max_num_pipelines_per_indexer=9)
    del old["num_pipelines"]

    assert decode(old) == kafka_config(num_pipelines=4)


def test_num_pipelines_of_the_0_7_layout_is_the_number_per_indexer() -> None:
    assert decode(kafka_config(version="0.7", num_pipelines=9))["num_pipelines"] == 1


@pytest.mark.parametrize("source_type", ["ingest", "ingest-api", "ingest-cli"])
@pytest.mark.parametrize("params", [..., None, {}])
def test_ingest_sources_have_no_params_key(source_type: str, params: Any) -> None:
    assert "params" not in decode(source(source_type, params))


@pytest.mark.parametrize("params", [..., None, {}])
def test_void_has_null_params(params: Any) -> None:
    assert decode(source("void", params))["params"] is None


@pytest.mark.parametrize(
    ("source_type", "params", "stored"),
    [
        ("file", {"filepath": "s3://b/k.json"}, {"filepath": "s3://b/k.json"}),
        ("file", {"filepath": "/data/../a/./b.json"}, {"filepath": "file:///a/b.json"}),
        ("file", {"notifications": [SQS]}, {"notifications": [SQS_STORED]}),
        ("file", {"filepath": None, "notifications": [SQS]}, {"notifications": [SQS_STORED]}),
        (
            "file",
            {"notifications": [SQS_STORED | {"deduplication_cleanup_interval_secs": 0, "x": 1}]},
            {"notifications": [SQS_STORED | {"deduplication_cleanup_interval_secs": 0}]},
        ),
        ("kafka", {"topic": "t", "client_params": None}, {"topic": "t"}),
        ("kafka", {"topic": "t", "enable_backfill_mode": False}, {"topic": "t"}),
        (
            "kafka",
            {"enable_backfill_mode": True, "client_log_level": "debug", "topic": "t"},
            {"topic": "t", "client_log_level": "debug", "enable_backfill_mode": True},
        ),
        ("kinesis", {"stream_name": "s"}, {"stream_name": "s"}),
        ("kinesis", {"stream_name": "s", "region": "r"}, {"stream_name": "s", "region": "r"}),
        (
            "kinesis",
            {"stream_name": "s", "endpoint": "http://e", "region": None},
            {"stream_name": "s", "endpoint": "http://e"},
        ),
        (
            "pubsub",
            {"subscription": "s"},
            {
                "subscription": "s",
                "credentials_file": None,
                "project_id": None,
                "max_messages_per_pull": None,
            },
        ),
        (
            "pulsar",
            {"topics": ["a", "b"], "address": "pulsar://h:6650"},
            {
                "topics": ["a", "b"],
                "address": "pulsar://h:6650",
                "consumer_name": "quickwit",
                "authentication": None,
            },
        ),
        (
            "pulsar",
            {
                "topics": [],
                "address": "pulsar+ssl://h",
                "consumer_name": "c",
                "authentication": {"token": "x"},
            },
            {
                "topics": [],
                "address": "pulsar+ssl://h",
                "consumer_name": "c",
                "authentication": {"token": "x"},
            },
        ),
        (
            "vec",
            {"docs": ["ab", [0, 255]], "batch_num_docs": 1},
            {"docs": [[97, 98], [0, 255]], "batch_num_docs": 1, "partition": ""},
        ),
    ],
)
def test_params_are_stored_in_canonical_form(source_type: str, params: Any, stored: Any) -> None:
    assert decode(source(source_type, params))["params"] == stored


@pytest.mark.parametrize(
    "source_id", ["_ingest-cli-source", "_ingest-api-source", "_ingest-source"]
)
def test_reserved_ids_are_exempt_from_the_rule(source_id: str) -> None:
    assert decode(source("ingest", source_id=source_id))["source_id"] == source_id


@pytest.mark.parametrize("source_id", ["abc", "a" * 255, "Z-_.9"])
def test_identifiers_are_accepted(source_id: str) -> None:
    assert decode(source("void", None, source_id=source_id))["source_id"] == source_id


@pytest.mark.parametrize(
    "source_id", ["", "ab", "9abc", "_abc", "a b c", "abc\n", "a" * 256, "_ingest-other", "été"]
)
def test_other_ids_are_refused(source_id: str) -> None:
    assert refused(source("void", None, source_id=source_id)) == (
        f"source ID `{source_id}` is invalid: identifiers must match the following regular "
        r"expression: `^[a-zA-Z][a-zA-Z0-9-_\.]{2,254}$`"
    )


@pytest.mark.parametrize(
    ("alias", "stored"),
    [
        ("json", "json"),
        ("plain", "plain_text"),
        ("plain_text", "plain_text"),
        ("otlp_logs_proto", "otlp_logs_protobuf"),
        ("otlp_trace_json", "otlp_traces_json"),
        ("otlp_trace_proto", "otlp_traces_protobuf"),
        ("otlp_trace_protobuf", "otlp_traces_protobuf"),
        ("otlp_traces_proto", "otlp_traces_protobuf"),
    ],
)
def test_aliases_of_input_formats(alias: str, stored: str) -> None:
    assert decode(source("void", None, input_format=alias))["input_format"] == stored


def test_a_transform_gets_its_default_timezone() -> None:
    config = decode(source("void", None, transform={"script": ".a = 1"}))

    assert config["transform"] == {"script": ".a = 1", "timezone": "UTC"}
    assert list(config)[-2:] == ["transform", "input_format"]


def test_a_null_transform_is_left_out() -> None:
    assert "transform" not in decode(source("void", None, transform=None))


@pytest.mark.parametrize(
    ("source_type", "params"),
    [
        ("kafka", {"topic": "t"}),
        ("pubsub", {"subscription": "s"}),
        ("file", {"notifications": [SQS]}),
    ],
)
def test_some_sources_may_have_several_pipelines(source_type: str, params: Any) -> None:
    assert decode(source(source_type, params, num_pipelines=7))["num_pipelines"] == 7


@pytest.mark.parametrize(
    ("source_type", "params"),
    [
        ("void", None),
        ("ingest", ...),
        ("file", {"filepath": "/x"}),
        ("kinesis", {"stream_name": "s"}),
        ("pulsar", {"topics": [], "address": "pulsar://h"}),
    ],
)
def test_other_sources_have_one_pipeline(source_type: str, params: Any) -> None:
    message = refused(source(source_type, params, num_pipelines=2))

    assert message.startswith(f"field `num_pipelines` is 2, but a source of type `{source_type}`")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "invalid type: a list of 0 elements, expected an object"),
        ({}, "missing field `version`"),
        (source("void", None, version="1.0"), "unknown version `1.0`"),
        (source("void", None, version=0.9), "field `version` is a floating point number"),
        (source("void", None, extra=1), "unknown field `extra`"),
        (source("void", None, desired_num_pipelines=1), "unknown field `desired_num_pipelines`"),
        (source("void", None, source_id=5), "field `source_id` is an integer"),
        ({"version": "0.9", "source_type": "void"}, "missing field `source_id`"),
        ({"version": "0.9", "source_id": "src"}, "missing field `source_type`"),
        (source("void", None, num_pipelines=0), "field `num_pipelines` must be at least 1, got 0"),
        (source("void", None, num_pipelines=-1), "field `num_pipelines` is out of range"),
        (source("void", None, num_pipelines=1.5), "field `num_pipelines` is a floating point"),
        (source("void", None, enabled="yes"), "field `enabled` is a string of 3 characters"),
        (source("void", None, input_format="xml"), "unknown `input_format` `xml`"),
        (source("void", {"a": 1}), "field `params` must be null for a source of type `void`"),
        (source("ingest", {"a": 1}), "field `params` must be null for a source of type `ingest`"),
        (source("stdin"), "a source of type `stdin` is only for local ingestion"),
        (source("nats", {}), "unknown `source_type` `nats`"),
        (source("kafka"), "missing field `params`"),
        (source("kafka", None), "field `params` is null, expected an object"),
        (source("kafka", {}), "missing field `params.topic`"),
        (source("kafka", {"topic": "t", "x": 1}), "unknown field `params.x`"),
        (
            source("kinesis", {"stream_name": "s", "region": "r", "endpoint": "e"}),
            "fields `params.region` and `params.endpoint` exclude each other",
        ),
        (source("pubsub", {}), "missing field `params.subscription`"),
        (
            source("pubsub", {"subscription": "s", "max_messages_per_pull": 2**31}),
            "field `params.max_messages_per_pull` is out of range",
        ),
        (
            source("pulsar", {"topics": [], "address": "http://h"}),
            "field `params.address` must look like `pulsar://host:port/path`",
        ),
        (
            source("pulsar", {"topics": [1], "address": "pulsar://h"}),
            "field `params.topics` holds an integer, expected strings",
        ),
        (
            source("pulsar", {"topics": [], "address": "pulsar://h", "authentication": {"a": 1}}),
            "field `params.authentication` must hold either `token` or `oauth2`",
        ),
        (
            source(
                "pulsar",
                {"topics": [], "address": "pulsar://h", "authentication": {"oauth2": {}}},
            ),
            "missing field `params.authentication.oauth2.issuer_url`",
        ),
        (
            source("vec", {"docs": [[256]], "batch_num_docs": 1}),
            "field `params.docs` must be a list of strings or lists of bytes",
        ),
        (source("file", {}), "field `params` must hold either `filepath` or exactly one"),
        (
            source("file", {"notifications": [SQS, SQS]}),
            "field `params` must hold either `filepath` or exactly one notification, got 2",
        ),
        (
            source("file", {"filepath": "/a", "notifications": [SQS]}),
            "fields `params.notifications` and `params.filepath` exclude each other",
        ),
        (source("file", {"filepath": "ftp://a"}), "field `params.filepath` is no URI: unknown"),
        (
            source("file", {"notifications": [{"type": "kafka"}]}),
            "field `params.notifications.type` must be `sqs`",
        ),
        (
            source("file", {"notifications": [SQS | {"message_type": "x"}]}),
            "field `params.notifications.message_type` must be",
        ),
        (
            source("file", {"notifications": [{"type": "sqs", "message_type": "raw_uri"}]}),
            "missing field `params.notifications.queue_url`",
        ),
        (
            source("void", None, transform={"script": "", "zone": ""}),
            "unknown field `transform.zone`",
        ),
        (source("void", None, transform={}), "missing field `transform.script`"),
        (
            source("void", None, transform={"script": ""}, input_format="otlp_logs_proto"),
            "field `transform` is not supported with `input_format` `otlp_logs_protobuf`",
        ),
    ],
)
def test_an_invalid_config_names_the_field(config: object, message: str) -> None:
    assert refused(config).startswith(message)


@pytest.mark.parametrize("text", ["", "{", '{"version":NaN}', '"\\ud800"', "[" * 100_000])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        source_configs.decode(text)

    assert caught.value.struct_name == STRUCT


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (source("ingest"), True),
        (source("file", {"notifications": [SQS]}), True),
        (source("file", {"filepath": "/a"}), False),
        (source("file", {"filepath": "/a", "notifications": []}), False),
        (source("file"), False),
        (source("ingest-api"), False),
        (source("ingest-cli"), False),
        (source("kafka", {"topic": "t"}), False),
        (source("void", None), False),
        ({}, False),
    ],
)
def test_which_sources_are_tracked_by_shards(config: dict[str, Any], *, expected: bool) -> None:
    assert source_configs.is_shard_tracked(config) is expected


def test_a_config_of_an_older_layout_is_the_same() -> None:
    old = kafka_config(version="0.7", desired_num_pipelines=2)
    del old["num_pipelines"], old["input_format"]

    assert source_configs.same(old, kafka_config())
    assert not source_configs.same(old, kafka_config(enabled=False))


def test_a_stored_config_of_an_unknown_type_is_not_the_same() -> None:
    assert not source_configs.same(source("future", {"a": 1}), kafka_config())
