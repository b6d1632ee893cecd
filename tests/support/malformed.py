"""Malformed variants of valid requests, made from the protobuf descriptors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.support.wire_bytes import (
    BYTES,
    FIXED32,
    FIXED64,
    GROUP,
    VARINT,
    Path,
    delimited,
    dotted,
    number,
    paths,
    replaced,
    tag,
    value_at,
    varint,
)

MANY = 100_000
HUGE = 1_000_000
DEEP = 1_000_000


@dataclass(frozen=True)
class Case:
    """One malformed request. `field` is the way to the field, `what` is wrong with it.

    `key` is the key of the JSON document in the field that is wrong, if it is one.
    """

    rpc: str
    field: str
    what: str
    raw: bytes
    key: str = ""

    def __str__(self) -> str:
        key = f"[{self.key}]" if self.key else ""
        return f"{self.rpc} {self.field}{key}: {self.what}"


Variants = Iterator[tuple[str, bytes]]
# From a field and its valid value to what is wrong and the bytes of the field then.
Treatment = Callable[[FieldDescriptor, Any], Variants]


def cases(rpc: str, request: Message) -> Iterator[Case]:
    """Yield the malformed variants of a request, field by field."""
    for path in paths(request.DESCRIPTOR):
        field, value = path[-1], value_at(request, path)
        for what, raw in _variants(field, value):
            yield Case(rpc, dotted(path), what, replaced(request, path, raw))
        if is_json(field):
            for key, what, text in json_variants(value):
                raw = replaced(request, path, delimited(field, text.encode()))
                yield Case(rpc, dotted(path), what, raw, key)


def long_lists(rpc: str, request: Message) -> Iterator[Case]:
    """Yield the request with 100,000 valid elements in each of its repeated fields."""
    for path in paths(request.DESCRIPTOR):
        if path[-1].is_repeated:
            raw = replaced(request, path, _many(path, value_at(request, path)))
            yield Case(rpc, dotted(path), "100,000 elements", raw)


def oversized(rpc: str, request: Message, size: int) -> Iterator[Case]:
    """Yield the request with more than `size` bytes in each of its texts."""
    for path in paths(request.DESCRIPTOR):
        if path[-1].type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            raw = replaced(request, path, delimited(path[-1], b"a" * size))
            yield Case(rpc, dotted(path), "oversized", raw)


def is_json(field: FieldDescriptor) -> bool:
    """Whether a field holds a JSON document that the metastore reads."""
    return treatment(field) is _json


def _variants(field: FieldDescriptor, value: Any) -> Variants:
    yield "missing", b""
    wrong = VARINT if _is_delimited(field) else BYTES
    content = varint(1)
    yield "wrong wire type", tag(field, wrong) + content + (b"x" if wrong == BYTES else b"")
    yield "64-bit wire type", tag(field, FIXED64) + bytes(8)
    yield "32-bit wire type", tag(field, FIXED32) + bytes(4)
    yield "a group", tag(field, GROUP)
    yield "truncated", tag(field, BYTES) + varint(1000) + b"x"
    treat = treatment(field)
    assert treat is not None
    yield from treat(field, value)


def _is_delimited(field: FieldDescriptor) -> bool:
    return field.type in (
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_BYTES,
        FieldDescriptor.TYPE_MESSAGE,
    )


def _many(path: Path, value: Any) -> bytes:
    field = path[-1]
    if field.message_type is not None:
        return delimited(field, value.SerializeToString()) * MANY
    if not is_json(field):
        return b"".join(delimited(field, f"{value[:6]}{n}".encode()) for n in range(MANY))
    # A document each, with an ID of its own.
    document = json.loads(value)
    key = "split_id" if "split_id" in document else "source_id"
    document = {name: document[name] for name in document if name in _NEEDED | {key}}
    texts = (json.dumps({**document, key: f"id-{n}"}, separators=(",", ":")) for n in range(MANY))
    return b"".join(delimited(field, text.encode()) for text in texts)


# The keys that a source config or a parquet split cannot do without.
_NEEDED = {
    "version",
    "source_type",
    "params",
    "index_uid",
    "time_range",
    "num_rows",
    "size_bytes",
    "metric_names",
    "low_cardinality_tags",
    "high_cardinality_tag_keys",
    "created_at",
}


def _string(field: FieldDescriptor, value: Any) -> Variants:
    yield "empty", delimited(field, b"")
    yield "invalid UTF-8", delimited(field, b"abc\xff")
    yield "surrogate in UTF-8", delimited(field, b"abc\xed\xa0\x80")


def _text(field: FieldDescriptor, value: Any) -> Variants:
    yield from _string(field, value)
    yield "NUL", delimited(field, value.encode() + b"\0")
    yield "1 MB", delimited(field, b"a" * HUGE)
    yield "1 MB of non-ASCII", delimited(field, "\u00e9".encode() * (HUGE // 2))
    yield "1 MB of control characters", delimited(field, b"\x01" * HUGE)


def _json(field: FieldDescriptor, value: Any) -> Variants:
    yield from _string(field, value)
    yield "NUL", delimited(field, value.encode() + b"\0")
    yield "1 MB", delimited(field, b"a" * HUGE)


def _text_bytes(field: FieldDescriptor, value: Any) -> Variants:
    yield from _text(field, value.decode())


def _ulid(field: FieldDescriptor, value: Any) -> Variants:
    yield "empty", delimited(field, b"")
    for length in (1, 15, 17, 26, HUGE):
        yield f"{length} bytes", delimited(field, b"\x01" * length)


def _unsigned(field: FieldDescriptor, value: Any) -> Variants:
    yield "negative", number(field, -1)
    yield "2^63", number(field, 2**63)
    yield "2^32 - 1", number(field, 2**32 - 1)
    yield "eleven bytes", tag(field, VARINT) + b"\xff" * 10 + b"\x01"


def _signed(field: FieldDescriptor, value: Any) -> Variants:
    yield "negative", number(field, -1)
    yield "lowest", number(field, -(2**63))
    yield "highest", number(field, 2**63 - 1)


def _flag(field: FieldDescriptor, value: Any) -> Variants:
    yield "2", number(field, 2)
    yield "negative", number(field, -1)


def _enum(field: FieldDescriptor, value: Any) -> Variants:
    yield "unknown number", number(field, 99)
    yield "negative", number(field, -1)


def _message(field: FieldDescriptor, value: Any) -> Variants:
    yield "empty", delimited(field, b"")
    yield "no message", delimited(field, b"\xff\xff")


# How each field of a request is treated, by its name. A new field needs an entry here, and where a
# malformed value of it is accepted, one in the test's list of what is accepted.
TREATMENTS: dict[str, Treatment] = {
    "delete_opstamp": _unsigned,
    "doc_mapping_json": _json,
    "enable": _flag,
    "end_timestamp": _signed,
    "force": _flag,
    "incarnation_id": _ulid,
    "index_checkpoint_delta_json_opt": _json,
    "index_config_json": _json,
    "index_id": _text,
    "index_id_patterns": _text,
    "index_ids": _text,
    "index_template_json": _json,
    "index_uid": _message,
    "indexing_settings_json": _json,
    "ingest_settings_json": _json,
    "ingester_id": _text,
    "interval_secs": _unsigned,
    "max_age_secs": _unsigned,
    "max_count": _unsigned,
    "num_splits": _unsigned,
    "opstamp_start": _unsigned,
    "overwrite": _flag,
    "publish_token": _text,
    "publish_token_opt": _text,
    "query_ast": _text,
    "query_json": _json,
    "replaced_split_ids": _text,
    "retention_policy_json_opt": _json,
    "search_settings_json": _json,
    "shard_ids": _message,
    "shard_state": _enum,
    "source_config_json": _json,
    "source_configs_json": _json,
    "source_id": _text,
    "split_ids": _text,
    "split_metadata_list_serialized_json": _json,
    "splits_metadata_json": _json,
    "staged_split_ids": _text,
    "start_timestamp": _signed,
    "subrequest_id": _unsigned,
    "subrequests": _message,
    "template_id": _text,
    "template_ids": _text,
}
# Names that a message and the bytes inside it share.
_BY_TYPE: dict[tuple[str, int], Treatment] = {
    ("doc_mapping_uid", FieldDescriptor.TYPE_MESSAGE): _message,
    ("doc_mapping_uid", FieldDescriptor.TYPE_BYTES): _ulid,
    ("shard_id", FieldDescriptor.TYPE_MESSAGE): _message,
    ("shard_id", FieldDescriptor.TYPE_BYTES): _text_bytes,
}


def json_variants(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, what is wrong, and the malformed text, for one JSON document.

    In a list of documents the first is malformed.
    """
    value = json.loads(text)
    is_list = isinstance(value, list)
    document = value[0] if is_list else value
    for what, bad in _other_texts(text, is_list=is_list):
        yield "", what, bad

    def dumped(item: dict[str, Any]) -> str:
        return json.dumps([item] if is_list else item)

    first = next(iter(document))
    pair = f"{json.dumps(first)}: {json.dumps(document[first])}"
    yield first, "a duplicate key", dumped(document).replace(pair, f"{pair}, {pair}", 1)
    for key, current in document.items():
        yield key, "missing", dumped({k: v for k, v in document.items() if k != key})
        for what, wrong in _other_values(current):
            yield key, what, dumped({**document, key: wrong})
        for what, raw in _BAD_VALUES:
            marked = dumped({**document, key: "\ue000"})
            yield key, what, marked.replace('"\\ue000"', raw)
    if "version" in document:
        for version in ("0.6", "1.0", "latest"):
            yield "version", f"unknown {version}", dumped({**document, "version": version})


def _other_texts(text: str, *, is_list: bool) -> Iterator[tuple[str, str]]:
    """Yield texts that are no document at all."""
    yield "not JSON", "{"
    yield "text after it", text + "x"
    yield "single quotes", text.replace('"', "'")
    yield "a number", "3"
    yield "a string", '"x"'
    yield "null", "null"
    yield "a boolean", "true"
    yield "a lone surrogate", '"\\ud800"'
    yield "NaN", "NaN"
    yield "1,000,000 lists in each other", "[" * DEEP
    yield "1,000,000 objects in each other", '{"a":' * DEEP
    yield "a byte order mark", "\ufeff" + text
    if is_list:
        yield "an object", "{}"
        yield "an element that is null", "[null]"
        yield "an element that is a list", "[[]]"
    else:
        yield "a list", "[]"


def _other_values(current: Any) -> Iterator[tuple[str, Any]]:
    """Yield values to put in the place of a key's value."""
    yield "null", None
    for wrong in ({"zz": 1}, [[]], 3, "\u00e9 is no such thing", True):
        if type(wrong) is not type(current):
            yield f"{type(wrong).__name__} in place of {type(current).__name__}", wrong
    if isinstance(current, int) and not isinstance(current, bool):
        yield "negative", -1
        yield "2^64", 2**64
        yield "a fraction", 1.5
    if isinstance(current, str):
        yield "1 MB", "a" * HUGE
        yield "empty", ""


# Texts in the place of a key's value that make the whole document unacceptable.
_BAD_VALUES = (
    ("10^400", "1" + "0" * 400),
    ("10^5000", "1" + "0" * 5000),
    ("1e400", "1e400"),
    ("NaN", "NaN"),
    ("-Infinity", "-Infinity"),
    ("a lone surrogate", '"\\ud800"'),
    ("NUL", '"a\\u0000b"'),
    ("200 lists in each other", "[" * 200 + "]" * 200),
    ("900 objects in each other", '{"a":' * 900 + "1" + "}" * 900),
)


def treatment(field: FieldDescriptor) -> Treatment | None:
    """Return how a field is treated, or None if nobody has said so."""
    return TREATMENTS.get(field.name) or _BY_TYPE.get((field.name, field.type))
