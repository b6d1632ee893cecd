"""Source configs: decoding, validation, and the canonical form that is stored.

Facts: layouts 0.9 and 0.8 are the same, 0.7 names the number of pipelines differently; identifiers
follow the identifier rule unless they are reserved; more than one pipeline needs a source that can
share its partitions; `stdin` never reaches the metastore. The canonical form spells out defaults
and leaves out what the source type leaves out. Sources whose checkpoints live in shards are
`ingest` and `file` with notifications; all others have theirs in the index metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from proxy import errors, identifiers
from proxy.store import documents, uris
from proxy.store.documents import Document, Reader

STRUCT: Final = "quickwit_config::source_config::SourceConfig"
VERSION: Final = "0.9"
RESERVED_SOURCE_IDS: Final = frozenset(
    {"_ingest-cli-source", "_ingest-api-source", "_ingest-source"}
)

_I32_MAX: Final = 2**31 - 1
_U32_MAX: Final = 2**32 - 1
_NO_PARAMS: Final = frozenset({"ingest", "ingest-api", "ingest-cli"})
_INPUT_FORMATS: Final = {
    alias: name
    for name, aliases in (
        ("json", ()),
        ("otlp_logs_json", ()),
        ("otlp_logs_protobuf", ("otlp_logs_proto",)),
        ("otlp_traces_json", ("otlp_trace_json",)),
        (
            "otlp_traces_protobuf",
            ("otlp_trace_proto", "otlp_trace_protobuf", "otlp_traces_proto"),
        ),
        ("plain_text", ("plain",)),
    )
    for alias in (name, *aliases)
}
_COMMON_KEYS: Final = frozenset(
    {"version", "source_id", "enabled", "source_type", "params", "transform", "input_format"}
)
_KEYS: Final = {
    "0.9": _COMMON_KEYS | {"num_pipelines"},
    "0.8": _COMMON_KEYS | {"num_pipelines"},
    "0.7": _COMMON_KEYS
    | {"desired_num_pipelines", "max_num_pipelines_per_indexer", "num_pipelines"},
}


def decode(text: str) -> Document:
    """Return the canonical form of a source config. `JsonDeserializeError` if it is not valid."""
    return normalize(documents.parse(text, STRUCT))


def normalize(value: object, struct: str = STRUCT) -> Document:
    """Return the canonical form of a decoded source config.

    `JsonDeserializeError` naming `struct` if the config is not valid.
    """
    reader = Reader(value, struct)
    version = reader.string("version")
    if version not in _KEYS:
        reader.fail(f"unknown version `{version}`, expected one of `0.7`, `0.8`, `0.9`")
    reader.deny_unknown(_KEYS[version])
    source_id = reader.string("source_id")
    if source_id not in RESERVED_SOURCE_IDS:
        problem = identifiers.identifier_problem("source", source_id)
        if problem:
            reader.fail(problem)
    pipelines = "desired_num_pipelines" if version == "0.7" else "num_pipelines"
    config = {
        "version": VERSION,
        "source_id": source_id,
        "num_pipelines": reader.integer(pipelines, 1),
        "enabled": reader.boolean("enabled", True),
        "source_type": reader.string("source_type"),
    }
    _add_params(reader, config)
    _check_pipelines(reader, config)
    _add_formats(reader, config)
    return config


def is_shard_tracked(source: Document) -> bool:
    """Whether the positions of a stored source live in `shards`, not in the index metadata."""
    if source.get("source_type") == "ingest":
        return True
    return source.get("source_type") == "file" and _has_notifications(source)


def same(stored: Document, config: Document) -> bool:
    """Whether a stored source config means the same as a canonical one."""
    try:
        return normalize(stored) == config
    except errors.JsonDeserializeError:
        return stored == config


def _has_notifications(source: Document) -> bool:
    params = source.get("params")
    return isinstance(params, dict) and bool(params.get("notifications"))


def _check_pipelines(reader: Reader, config: Document) -> None:
    count = config["num_pipelines"]
    if count < 1:
        reader.fail("field `num_pipelines` must be at least 1, got 0")
    kind = config["source_type"]
    if count > 1 and not (
        kind in {"kafka", "pubsub"} or (kind == "file" and _has_notifications(config))
    ):
        reader.fail(
            f"field `num_pipelines` is {count}, but a source of type `{kind}` supports only one "
            "pipeline (more are for kafka, pubsub and file with notifications)"
        )


def _add_formats(reader: Reader, config: Document) -> None:
    name = reader.string("input_format", "json")
    input_format = _INPUT_FORMATS.get(name)
    if input_format is None:
        known = ", ".join(sorted(set(_INPUT_FORMATS.values())))
        reader.fail(f"unknown `input_format` `{name}`, expected one of {known}")
    transform = reader.object("transform", None, nullable=True)
    if transform is not None:
        transform.deny_unknown(frozenset({"script", "timezone"}))
        if input_format.startswith("otlp_"):
            reader.fail(f"field `transform` is not supported with `input_format` `{input_format}`")
        config["transform"] = {
            "script": transform.string("script"),
            "timezone": transform.string("timezone", "UTC"),
        }
    config["input_format"] = input_format


def _add_params(reader: Reader, config: Document) -> None:
    kind = config["source_type"]
    if kind == "stdin":
        reader.fail("a source of type `stdin` is only for local ingestion by the command line")
    if kind in _NO_PARAMS or kind == "void":
        if reader.get("params", None) not in (None, {}):
            reader.fail(f"field `params` must be null for a source of type `{kind}`")
        if kind == "void":
            config["params"] = None
        return
    build = _PARAMS.get(kind)
    if build is None:
        known = ", ".join(sorted([*_PARAMS, *_NO_PARAMS, "void"]))
        reader.fail(f"unknown `source_type` `{kind}`, expected one of {known}")
    config["params"] = build(reader.object("params"))


def _backfill(params: Reader) -> Document:
    return {"enable_backfill_mode": True} if params.boolean("enable_backfill_mode", False) else {}


def _kafka(params: Reader) -> Document:
    params.deny_unknown(
        frozenset({"topic", "client_log_level", "client_params", "enable_backfill_mode"})
    )
    built: Document = {"topic": params.string("topic")}
    log_level = params.string("client_log_level", None, nullable=True)
    if log_level is not None:
        built["client_log_level"] = log_level
    client_params = params.get("client_params", None)
    if client_params is not None:
        built["client_params"] = client_params
    return built | _backfill(params)


def _kinesis(params: Reader) -> Document:
    params.deny_unknown(frozenset({"stream_name", "region", "endpoint", "enable_backfill_mode"}))
    built: Document = {"stream_name": params.string("stream_name")}
    places = {
        key: place
        for key in ("region", "endpoint")
        if (place := params.string(key, None, nullable=True)) is not None
    }
    if len(places) > 1:
        params.fail("fields `params.region` and `params.endpoint` exclude each other")
    return built | places | _backfill(params)


def _pubsub(params: Reader) -> Document:
    optional = ("credentials_file", "project_id", "max_messages_per_pull")
    params.deny_unknown(frozenset({"subscription", "enable_backfill_mode", *optional}))
    built: Document = {"subscription": params.string("subscription")} | _backfill(params)
    built["credentials_file"] = params.string("credentials_file", None, nullable=True)
    built["project_id"] = params.string("project_id", None, nullable=True)
    built["max_messages_per_pull"] = params.integer(
        "max_messages_per_pull", None, nullable=True, minimum=-_I32_MAX - 1, maximum=_I32_MAX
    )
    return built


def _pulsar(params: Reader) -> Document:
    params.deny_unknown(frozenset({"topics", "address", "consumer_name", "authentication"}))
    address = params.string("address")
    if not re.search(r"pulsar(\+ssl)?://", address):
        params.fail("field `params.address` must look like `pulsar://host:port/path`")
    authentication = params.object("authentication", None, nullable=True)
    if authentication is not None:
        _check_pulsar_authentication(authentication)
    return {
        "topics": params.strings("topics"),
        "address": address,
        "consumer_name": params.string("consumer_name", "quickwit"),
        "authentication": None if authentication is None else authentication.document,
    }


def _check_pulsar_authentication(authentication: Reader) -> None:
    if set(authentication.document) == {"token"}:
        authentication.string("token")
    elif set(authentication.document) == {"oauth2"}:
        oauth2 = authentication.object("oauth2")
        oauth2.string("issuer_url")
        oauth2.string("credentials_url")
        oauth2.string("audience", None, nullable=True)
        oauth2.string("scope", None, nullable=True)
    else:
        authentication.fail("field `params.authentication` must hold either `token` or `oauth2`")


def _vec(params: Reader) -> Document:
    params.deny_unknown(frozenset({"docs", "batch_num_docs", "partition"}))
    docs: list[Any] = []
    for doc in params.items("docs"):
        raw = list(doc.encode()) if isinstance(doc, str) else doc
        if not isinstance(raw, list) or not all(_is_byte(item) for item in raw):
            params.fail("field `params.docs` must be a list of strings or lists of bytes")
        docs.append(raw)
    return {
        "docs": docs,
        "batch_num_docs": params.integer("batch_num_docs"),
        "partition": params.string("partition", ""),
    }


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _file(params: Reader) -> Document:
    params.deny_unknown(frozenset({"filepath", "notifications"}))
    filepath = params.string("filepath", None, nullable=True)
    notifications = params.items("notifications", [])
    if filepath is not None and notifications:
        params.fail("fields `params.notifications` and `params.filepath` exclude each other")
    if filepath is not None:
        try:
            return {"filepath": uris.normalize(filepath)}
        except ValueError as error:
            params.fail(f"field `params.filepath` is no URI: {error}")
    if len(notifications) != 1:
        params.fail(
            "field `params` must hold either `filepath` or exactly one notification, "
            f"got {len(notifications)} notifications"
        )
    return {"notifications": [_notification(Reader(notifications[0], params.struct_name))]}


def _notification(reader: Reader) -> Document:
    reader.path = "params.notifications."
    if reader.string("type") != "sqs":
        reader.fail("field `params.notifications.type` must be `sqs`")
    message_type = reader.string("message_type")
    if message_type not in {"s3_notification", "raw_uri"}:
        reader.fail(
            "field `params.notifications.message_type` must be `s3_notification` or `raw_uri`"
        )
    built: Document = {
        "type": "sqs",
        "queue_url": reader.string("queue_url"),
        "message_type": message_type,
    }
    for key, default in (
        ("deduplication_window_duration_secs", 3_600),
        ("deduplication_window_max_messages", 100_000),
        ("deduplication_cleanup_interval_secs", 60),
    ):
        built[key] = reader.integer(key, default, maximum=_U32_MAX)
    return built


_PARAMS: Final[dict[str, Callable[[Reader], Document]]] = {
    "file": _file,
    "kafka": _kafka,
    "kinesis": _kinesis,
    "pubsub": _pubsub,
    "pulsar": _pulsar,
    "vec": _vec,
}
