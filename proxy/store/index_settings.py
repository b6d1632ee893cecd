"""The settings of an index (indexing, ingest, search, retention) in canonical form.

Facts: unknown keys are refused in each of them; the canonical form spells out defaults, writes
sizes as integers and durations in their canonical text, and leaves out what the writer leaves out.
"""

from __future__ import annotations

from typing import Any, Final

from proxy.config.sizes import parse_size
from proxy.store import documents, human
from proxy.store.documents import Document, Reader

INDEXING_STRUCT: Final = "quickwit_config::index_config::IndexingSettings"
INGEST_STRUCT: Final = "quickwit_config::index_config::IngestSettings"
SEARCH_STRUCT: Final = "quickwit_config::index_config::SearchSettings"
RETENTION_STRUCT: Final = "quickwit_config::index_config::RetentionPolicy"

_I32_MAX: Final = 2**31 - 1
_DEFAULT_HEAP_SIZE: Final = 2_000_000_000
_DEFAULT_MATURATION: Final = "2days"
_OPAQUE_INDEXING_KEYS: Final = ("parquet_merge_policy", "parquet_indexing")
_INDEXING_NUMBERS: Final = {
    "commit_timeout_secs": 60,
    "docstore_compression_level": 8,
    "docstore_blocksize": 1_000_000,
    "split_num_docs_target": 10_000_000,
}
_MERGE_KEYS: Final = {
    "no_merge": frozenset({"type"}),
    "limit_merge": frozenset(
        {
            "type",
            "merge_factor",
            "max_merge_factor",
            "max_merge_ops",
            "maturation_period",
            "max_finalize_merge_operations",
            "max_finalize_split_num_docs",
        }
    ),
    "stable_log": frozenset(
        {"type", "min_level_num_docs", "merge_factor", "max_merge_factor", "maturation_period"}
    ),
}


def indexing(reader: Reader, *, strict: bool) -> Document:
    """Return canonical indexing settings. `JsonDeserializeError` if they are not valid.

    `strict` refuses unknown keys; without it they are left out of the result.
    """
    _deny(reader, {*_INDEXING_NUMBERS, *_OPAQUE_INDEXING_KEYS, "merge_policy", "resources"}, strict)
    settings: Document = {}
    for key, default in _INDEXING_NUMBERS.items():
        if key == "docstore_compression_level":
            settings[key] = reader.integer(key, default, minimum=-_I32_MAX - 1, maximum=_I32_MAX)
        else:
            settings[key] = reader.integer(key, default)
    settings["merge_policy"] = _merge_policy(_section(reader, "merge_policy"), strict=strict)
    for key in _OPAQUE_INDEXING_KEYS:
        # These belong to builds with metrics and are kept as they come.
        section = reader.object(key, None, nullable=True)
        if section is not None:
            settings[key] = section.document
    resources = _section(reader, "resources")
    _deny(resources, {"heap_size", "max_merge_write_throughput"}, strict)
    _size(resources, "max_merge_write_throughput", None)
    settings["resources"] = {"heap_size": _size(resources, "heap_size", _DEFAULT_HEAP_SIZE)}
    return settings


def ingest(reader: Reader, *, strict: bool) -> Document:
    """Return canonical ingest settings. `JsonDeserializeError` if they are not valid."""
    _deny(reader, {"min_shards", "validate_docs"}, strict)
    settings: Document = {"min_shards": reader.integer("min_shards", 1, minimum=1)}
    if not reader.boolean("validate_docs", True):
        settings["validate_docs"] = False
    return settings


def search(reader: Reader, *, strict: bool) -> Document:
    """Return canonical search settings. `JsonDeserializeError` if they are not valid."""
    _deny(reader, {"default_search_fields"}, strict)
    return {"default_search_fields": reader.strings("default_search_fields", [])}


def retention(reader: Reader, *, strict: bool) -> Document:
    """Return a canonical retention policy. `JsonDeserializeError` if its form is wrong."""
    _deny(reader, {"period", "schedule"}, strict)
    return {"period": reader.string("period"), "schedule": reader.string("schedule", "hourly")}


def retention_problem(policy: Document | None, timestamp_field: str | None) -> str | None:
    """Return why a canonical retention policy cannot be applied to an index, or None."""
    if policy is None:
        return None
    problem = period_problem(policy)
    if problem is None and timestamp_field is None:
        return (
            "retention policy requires a timestamp field, but the doc mapping does not declare one"
        )
    return problem or human.schedule_problem(policy["schedule"])


def period_problem(policy: Document) -> str | None:
    """Return why the period of a canonical retention policy is no duration, or None."""
    try:
        human.canonical_duration(policy["period"])
    except ValueError as error:
        return f"field `retention.period` {error}"
    return None


def merge_policy_problem(settings: Document) -> str | None:
    """Return why the merge policy of canonical indexing settings is inconsistent, or None."""
    policy = settings["merge_policy"]
    if policy["type"] == "no_merge" or policy["max_merge_factor"] >= policy["merge_factor"]:
        return None
    return (
        f"merge policy `max_merge_factor` ({policy['max_merge_factor']}) must be at least "
        f"`merge_factor` ({policy['merge_factor']})"
    )


def _deny(reader: Reader, known: set[str], strict: bool) -> None:
    if strict:
        reader.deny_unknown(frozenset(known))


def _section(reader: Reader, key: str) -> Reader:
    if key not in reader.document:
        return Reader({}, reader.struct_name, f"{reader.path}{key}.")
    section: Reader = reader.object(key)
    return section


def _merge_policy(reader: Reader, *, strict: bool) -> Document:
    kind = reader.string("type") if reader.document else "stable_log"
    if kind == "default":
        kind = "stable_log"
    if kind not in _MERGE_KEYS:
        reader.fail(f"field `{reader.path}type` must be one of no_merge, limit_merge, stable_log")
    _deny(reader, set(_MERGE_KEYS[kind]), strict)
    policy: Document = {"type": kind}
    if kind == "no_merge":
        return policy
    if kind == "stable_log":
        policy["min_level_num_docs"] = reader.integer("min_level_num_docs", 100_000)
    policy["merge_factor"] = reader.integer("merge_factor", 10)
    policy["max_merge_factor"] = reader.integer("max_merge_factor", 12)
    if kind == "limit_merge":
        policy["max_merge_ops"] = reader.integer("max_merge_ops", 4)
    policy["maturation_period"] = _period(reader)
    if kind == "limit_merge":
        operations = reader.integer("max_finalize_merge_operations", 0)
        if operations:
            policy["max_finalize_merge_operations"] = operations
        docs = reader.integer("max_finalize_split_num_docs", None, nullable=True)
        if docs is not None:
            policy["max_finalize_split_num_docs"] = docs
    return policy


def _period(reader: Reader) -> str:
    text = reader.string("maturation_period", _DEFAULT_MATURATION)
    try:
        return human.canonical_duration(text)
    except ValueError as error:
        reader.fail(f"field `{reader.path}maturation_period` {error}")


def _size(reader: Reader, key: str, default: int | None) -> Any:
    value = reader.get(key, default)
    if value is None:
        if default is None:
            return None
        reader.fail(f"field `{reader.path}{key}` is null, expected an integer or a size")
    if isinstance(value, str):
        try:
            value = parse_size(value)
        except ValueError as error:
            reader.fail(f"field `{reader.path}{key}` {error}")
    if isinstance(value, bool) or not isinstance(value, int):
        reader.fail(
            f"field `{reader.path}{key}` is {documents.shape(value)}, expected an integer or a size"
        )
    if not 0 <= value <= documents.U64_MAX:
        reader.fail(f"field `{reader.path}{key}` is out of range: {value}")
    return value
