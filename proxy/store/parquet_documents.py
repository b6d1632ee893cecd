"""The metadata of parquet splits (metrics and sketches): decoding, canonical form, table row.

Facts: a merge window exists only where `window_start` is there and `window_duration_secs` is
positive; otherwise both are normalized away. Sets may come in any order, with duplicates. Unknown
keys are ignored by Quickwit; here they are kept, so that what a newer indexer says is not lost.
The maturity time is 0 for a mature split, else creation plus the maturation period, in whole
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from proxy import errors
from proxy.store import documents
from proxy.store.documents import Document, Reader
from proxy.store.requests import check_length

STRUCT: Final = "quickwit_parquet_engine::split::metadata::ParquetSplitMetadata"

I32_MAX: Final = 2**31 - 1
U32_MAX: Final = 2**32 - 1
MAX_SPLIT_ID_CHARS: Final = 50
MAX_INDEX_UID_CHARS: Final = 282
# The last whole second that a PostgreSQL timestamp holds (end of the year 294276).
MAX_TIMESTAMP: Final = 9_224_318_015_999

_KINDS: Final = frozenset({"Metrics", "Sketches"})
_TAG_COLUMNS: Final = ("service", "env", "datacenter", "region", "host")
_SKIPPED_KEYS: Final = (
    "window_start",
    "row_keys_proto",
    "zonemap_regexes",
    "rg_partition_prefix_len",
)


@dataclass(frozen=True, slots=True)
class ParquetSplit:
    """One decoded split: its canonical document and the values its columns are made from."""

    split_id: str
    document: Document
    maturity_timestamp: int

    def row(self) -> Document:
        """Return the row to stage, as the JSON object that `parquet/stage.sql` reads."""
        document = self.document
        tags = document["low_cardinality_tags"]
        row_keys = document.get("row_keys_proto")
        return {
            "split_id": self.split_id,
            "index_uid": document["index_uid"],
            "time_range_start": document["time_range"]["start_secs"],
            "time_range_end": document["time_range"]["end_secs"],
            "metric_names": document["metric_names"],
            **{f"tag_{key}": tags.get(key) for key in _TAG_COLUMNS},
            "high_cardinality_tag_keys": document["high_cardinality_tag_keys"],
            "num_rows": document["num_rows"],
            "size_bytes": document["size_bytes"],
            "split_metadata_json": documents.dump(document),
            "window_start": document.get("window_start"),
            "window_duration_secs": document["window_duration_secs"],
            "sort_fields": document["sort_fields"],
            "num_merge_ops": document["num_merge_ops"],
            "row_keys": None if row_keys is None else f"\\x{bytes(row_keys).hex()}",
            "zonemap_regexes": document.get("zonemap_regexes", {}),
            "maturity_timestamp": self.maturity_timestamp,
        }


def decode(text: str) -> ParquetSplit:
    """Decode and normalize one metadata document.

    `JsonDeserializeError` naming the field that has the wrong form, or a number that its column
    cannot hold; `InvalidArgument` for an ID that its column cannot hold, and when the split would
    become mature after the last timestamp.
    """
    reader = Reader(documents.parse(text, STRUCT), STRUCT)
    created_at, created_at_secs = _created_at(reader)
    maturity, maturation_secs = _maturity(reader)
    fields: Document = {
        "kind": _kind(reader),
        "partition_id": reader.integer("partition_id", 0),
        "split_id": _key(reader, "split_id", MAX_SPLIT_ID_CHARS),
        "index_uid": _key(reader, "index_uid", MAX_INDEX_UID_CHARS),
        "time_range": _time_range(reader),
        "num_rows": reader.integer("num_rows", maximum=documents.I64_MAX),
        "size_bytes": reader.integer("size_bytes", maximum=documents.I64_MAX),
        "metric_names": _set(reader, "metric_names"),
        "low_cardinality_tags": _tags(reader),
        "high_cardinality_tag_keys": _set(reader, "high_cardinality_tag_keys"),
        "created_at": created_at,
        "maturity": maturity,
        "parquet_file": reader.string("parquet_file", ""),
        **_window(reader),
        "sort_fields": reader.string("sort_fields", ""),
        "num_merge_ops": reader.integer("num_merge_ops", 0, maximum=I32_MAX),
        **_optional(reader),
    }
    for key, value in reader.document.items():
        if key not in _SKIPPED_KEYS:
            fields.setdefault(key, value)
    maturity_timestamp = 0 if maturation_secs is None else created_at_secs + maturation_secs
    if maturity_timestamp > MAX_TIMESTAMP:
        raise errors.InvalidArgument(
            f"split `{fields['split_id']}` becomes mature at {maturity_timestamp} s, after the "
            f"last time that can be stored ({MAX_TIMESTAMP} s): shorten "
            "`maturity.maturation_period_millis`"
        )
    return ParquetSplit(fields["split_id"], fields, maturity_timestamp)


def _key(reader: Reader, key: str, maximum: int) -> str:
    text: str = reader.string(key)
    return check_length(text, maximum, key)


def _kind(reader: Reader) -> str:
    kind: str = reader.string("kind", "Metrics")
    if kind not in _KINDS:
        reader.fail(f"field `kind` is `{kind}`, expected `Metrics` or `Sketches`")
    return kind


def _time_range(reader: Reader) -> Document:
    time_range = reader.object("time_range")
    return {
        key: time_range.integer(key, maximum=documents.I64_MAX)
        for key in ("start_secs", "end_secs")
    }


def _set(reader: Reader, key: str) -> list[str]:
    return sorted(set(reader.strings(key)))


def _tags(reader: Reader) -> Document:
    tags = reader.object("low_cardinality_tags")
    return {key: _set(tags, key) for key in sorted(tags.document)}


def _created_at(reader: Reader) -> tuple[Document, int]:
    """Return the canonical creation time and its whole seconds."""
    created_at = reader.object("created_at")
    created_at.deny_unknown(frozenset({"secs_since_epoch", "nanos_since_epoch"}))
    nanos = created_at.integer("nanos_since_epoch", maximum=U32_MAX)
    carry, nanos = divmod(nanos, 1_000_000_000)
    secs: int = created_at.integer("secs_since_epoch", maximum=documents.I64_MAX) + carry
    if secs > documents.I64_MAX:
        reader.fail("field `created_at` is later than a time can be")
    return {"secs_since_epoch": secs, "nanos_since_epoch": nanos}, secs


def _maturity(reader: Reader) -> tuple[Document, int | None]:
    """Return the canonical maturity and the whole seconds until it; None when mature."""
    if "maturity" not in reader.document:
        return {"type": "mature"}, None
    maturity = reader.object("maturity")
    kind = maturity.string("type")
    if kind == "mature":
        return {"type": kind}, None
    if kind != "immature":
        maturity.fail(f"field `maturity.type` is `{kind}`, expected `mature` or `immature`")
    millis: int = maturity.integer("maturation_period_millis")
    return {"type": kind, "maturation_period_millis": millis}, millis // 1000


def _window(reader: Reader) -> Document:
    start = reader.integer(
        "window_start",
        None,
        nullable=True,
        minimum=documents.I64_MIN,
        maximum=documents.I64_MAX,
    )
    duration = reader.integer("window_duration_secs", 0, maximum=I32_MAX)
    if start is None or duration == 0:
        return {"window_duration_secs": 0}
    if start > documents.I64_MAX - duration:
        reader.fail("field `window_start` is out of range: the window ends after 2^63 - 1 s")
    return {"window_start": start, "window_duration_secs": duration}


def _optional(reader: Reader) -> Document:
    """Return the fields that are left out when empty."""
    fields: Document = {}
    row_keys: list[Any] | None = reader.get("row_keys_proto", None, nullable=True)
    if row_keys is not None:
        fields["row_keys_proto"] = _bytes(reader, row_keys)
    if reader.document.get("zonemap_regexes", {}) != {}:
        regexes = reader.object("zonemap_regexes")
        fields["zonemap_regexes"] = {key: regexes.string(key) for key in sorted(regexes.document)}
    prefix_len = reader.integer("rg_partition_prefix_len", 0, maximum=U32_MAX)
    if prefix_len:
        fields["rg_partition_prefix_len"] = prefix_len
    return fields


def _bytes(reader: Reader, value: object) -> list[int]:
    if not isinstance(value, list):
        reader.fail(f"field `row_keys_proto` is {documents.shape(value)}, expected a list of bytes")
    for element in value:
        if isinstance(element, bool) or not isinstance(element, int) or not 0 <= element <= 255:
            reader.fail("field `row_keys_proto` must be a list of integers from 0 to 255")
    return value
