"""Doc mappings: the canonical form, and the checks that a doc mapper makes of one.

Facts: a mapping without a UID gets a random one; `dynamic_mapping` belongs to the mode `dynamic`
only, which has one by default; tag fields are a sorted set. A doc mapper can be built only if
field names are unique, the timestamp field is a single-valued fast datetime, tokenizers are known,
unique and shadow no built-in one, default search fields are unique, known and indexed, and tag
fields are indexed raw text or integers. Regular expressions and partition keys are not compiled
here: callers have done that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from proxy import identifiers
from proxy.store import field_mappings
from proxy.store.documents import Document, Reader

STRUCT: Final = "quickwit_doc_mapper::doc_mapping::DocMapping"
_U32_MAX: Final = 2**32 - 1
_MODES: Final = ("lenient", "strict", "dynamic")
_FILTERS: Final = ("remove_long", "lower_caser", "ascii_folding")
_KEYS: Final = frozenset(
    {
        "doc_mapping_uid",
        "mode",
        "dynamic_mapping",
        "field_mappings",
        "timestamp_field",
        "tag_fields",
        "partition_key",
        "max_num_partitions",
        "index_field_presence",
        "store_document_size",
        "document_length",
        "store_source",
        "tokenizers",
    }
)
_BUILT_IN_TOKENIZERS: Final = frozenset(
    {
        "raw",
        "raw_lowercase",
        "lowercase",
        "default",
        "whitespace",
        "chinese_compatible",
        "source_code_default",
        "source_code_with_hex",
        "unicode_segmenter",
        "datadog",
    }
)
_CONCATENABLE: Final = frozenset({"text", "u64", "i64", "f64", "bool", "json", "object"})

# Names from the root down to a field, and its canonical entry.
_Paths = dict[tuple[str, ...], Document]


def canonical(reader: Reader, *, strict: bool) -> Document:
    """Return the canonical form of a mapping, its UID None if the document has none.

    `strict` refuses unknown keys, as for what a caller sends; without it they are left out of the
    result, as for what is stored. `JsonDeserializeError` if the mapping is not valid.
    """
    if strict:
        reader.deny_unknown(_KEYS)
    mapping: Document = {"doc_mapping_uid": _uid(reader)}
    mapping |= _mode(reader, strict=strict)
    mapping["field_mappings"] = field_mappings.canonical(
        reader.items("field_mappings", []),
        reader.struct_name,
        f"{reader.path}field_mappings",
        strict=strict,
    )
    mapping["timestamp_field"] = reader.string("timestamp_field", None, nullable=True)
    # Sets of strings are ordered by bytes.
    mapping["tag_fields"] = sorted(set(reader.strings("tag_fields", [])), key=str.encode)
    partition_key = reader.string("partition_key", None, nullable=True)
    if partition_key is not None:
        mapping["partition_key"] = partition_key
    mapping["max_num_partitions"] = reader.integer(
        "max_num_partitions", 200, minimum=1, maximum=_U32_MAX
    )
    mapping["index_field_presence"] = reader.boolean("index_field_presence", False)
    old_name = "document_length" in reader.document and "store_document_size" not in reader.document
    mapping["store_document_size"] = reader.boolean(
        "document_length" if old_name else "store_document_size", False
    )
    mapping["store_source"] = reader.boolean("store_source", False)
    mapping["tokenizers"] = [
        _tokenizer(Reader(item, reader.struct_name, f"{reader.path}tokenizers."), strict=strict)
        for item in reader.items("tokenizers", [])
    ]
    return mapping


def problem(mapping: Document, default_search_fields: list[str]) -> str | None:
    """Return why no doc mapper can be built from a canonical mapping, or None."""
    return next(_problems(mapping, default_search_fields), None)


def _uid(reader: Reader) -> str | None:
    if "doc_mapping_uid" not in reader.document:
        return None
    text = reader.string("doc_mapping_uid")
    try:
        return identifiers.encode_ulid(identifiers.decode_ulid(text))
    except ValueError as error:
        reader.fail(f"field `{reader.path}doc_mapping_uid` is no ULID: {error}")


def _mode(reader: Reader, *, strict: bool) -> Document:
    mode = reader.string("mode", "dynamic")
    if mode not in _MODES:
        reader.fail(
            f"field `{reader.path}mode` is `{mode[:64]}`, expected one of {', '.join(_MODES)}"
        )
    dynamic = reader.object("dynamic_mapping", None, nullable=True)
    if mode != "dynamic":
        if dynamic is not None:
            reader.fail(
                f"field `{reader.path}dynamic_mapping` is allowed only in mode `dynamic`, "
                f"not `{mode}`"
            )
        return {"mode": mode}
    if dynamic is None:
        dynamic = Reader({"fast": True}, reader.struct_name)
    options = field_mappings.json_options(dynamic, strict=strict)
    return {"mode": mode, "dynamic_mapping": options}


def _tokenizer(reader: Reader, *, strict: bool) -> Document:
    entry: Document = {"name": reader.string("name"), "type": reader.string("type")}
    if entry["type"] == "ngram":
        entry["min_gram"] = reader.integer("min_gram")
        entry["max_gram"] = reader.integer("max_gram")
        entry["prefix_only"] = reader.boolean("prefix_only", False)
    elif entry["type"] == "regex":
        entry["pattern"] = reader.string("pattern")
    elif entry["type"] not in {"simple", "source_code"}:
        reader.fail(f"tokenizer `{entry['name']}` has an unknown type: `{entry['type'][:64]}`")
    entry["filters"] = reader.strings("filters", [])
    for name in entry["filters"]:
        if name not in _FILTERS:
            reader.fail(f"tokenizer `{entry['name']}` has an unknown filter: `{name[:64]}`")
    if strict:
        reader.deny_unknown(frozenset(entry))
    return entry


def _problems(mapping: Document, default_search_fields: list[str]) -> Iterator[str]:
    paths: _Paths = {}
    yield from _collect(mapping["field_mappings"], (), paths)
    yield from _concatenate_problems(mapping, paths)
    yield from _timestamp_problems(mapping["timestamp_field"], paths)
    yield from _tokenizer_problems(mapping, paths)
    fields = {_full_name(path): entry for path, entry in paths.items()}
    yield from _search_field_problems(mapping, default_search_fields, fields)
    for name in mapping["tag_fields"]:
        reason = _tag_problem(fields.get(name))
        if reason:
            yield f"tag field `{name}` {reason}"


def _collect(entries: list[Document], parent: tuple[str, ...], paths: _Paths) -> Iterator[str]:
    for entry in entries:
        path = (*parent, entry["name"])
        if path in paths:
            yield f"duplicated field definition `{entry['name']}`"
        paths[path] = entry
        if entry["type"] == "object":
            yield from _collect(entry["field_mappings"], path, paths)


def _concatenate_problems(mapping: Document, paths: _Paths) -> Iterator[str]:
    for path, entry in paths.items():
        if entry["type"] != "concatenate":
            continue
        if entry["include_dynamic_fields"] and mapping["mode"] != "dynamic":
            yield f"field `{_full_name(path)}` includes dynamic fields, but the mode is not dynamic"
        for name in entry["concatenate_fields"]:
            target = paths.get((*path[:-1], *_split_path(name)))
            if target is None or target["type"] == "concatenate":
                yield f"concatenate field uses an unknown field `{name}`"
            elif field_mappings.element_type(target["type"]) not in _CONCATENABLE:
                yield f"field `{name}` is not supported inside a concatenate field"


def _timestamp_problems(name: str | None, paths: _Paths) -> Iterator[str]:
    if name is None:
        return
    entry = paths.get(_split_path(name))
    if name.startswith((".", "\\.")) or name.endswith("."):
        yield f"timestamp field `{name}` must neither start nor end with a dot"
    elif entry is None:
        yield f"could not find timestamp field `{name}` in field mappings"
    elif field_mappings.element_type(entry["type"]) != "datetime":
        yield f"timestamp field `{name}` should be a datetime field"
    elif entry["type"] != "datetime":
        yield f"timestamp field `{name}` should be single-valued"
    elif not entry["fast"]:
        yield f"timestamp field `{name}` should be a fast field"


def _tokenizer_problems(mapping: Document, paths: _Paths) -> Iterator[str]:
    custom: set[str] = set()
    for entry in mapping["tokenizers"]:
        name = entry["name"]
        if name in custom:
            yield f"duplicated custom tokenizer: `{name}`"
        if name in _BUILT_IN_TOKENIZERS:
            yield f"custom tokenizer `{name}` has the name of a built-in tokenizer"
        if entry["type"] == "ngram" and not 0 < entry["min_gram"] <= entry["max_gram"]:
            yield f"tokenizer `{name}` needs 0 < min_gram <= max_gram"
        custom.add(name)
    users: list[tuple[str, Any]] = [(_full_name(path), entry) for path, entry in paths.items()]
    users.append(("_dynamic", mapping.get("dynamic_mapping", {})))
    for field, entry in users:
        tokenizer = entry.get("tokenizer")
        if tokenizer is not None and tokenizer not in custom | _BUILT_IN_TOKENIZERS:
            yield f"unknown tokenizer `{tokenizer}` for field `{field}`"


def _search_field_problems(
    mapping: Document, names: list[str], fields: dict[str, Document]
) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"duplicated default search field: `{name}`"
        seen.add(name)
        entry = _find_field(name, fields) or mapping.get("dynamic_mapping")
        if entry is None:
            yield f"unknown default search field `{name}`"
        elif not entry.get("indexed", True):
            yield f"default search field `{name}` is not indexed"


def _find_field(name: str, fields: dict[str, Document]) -> Document | None:
    # A path can lead into a JSON field: the longest prefix that is a field decides.
    cuts = [match.start() for match in re.finditer(r"(?<!\\)\.", name)]
    for end in (len(name), *reversed(cuts)):
        entry = fields.get(name[:end])
        if entry is not None and entry["type"] != "object":
            return entry
    return None


def _tag_problem(entry: Document | None) -> str | None:
    if entry is None or entry["type"] == "object":
        return "is unknown"
    kind = field_mappings.element_type(entry["type"])
    if kind == "text":
        return None if entry.get("tokenizer") == "raw" else "needs the `raw` tokenizer"
    if kind not in {"u64", "i64"}:
        return f"is not allowed on `{kind}` fields"
    return None if entry["indexed"] else "must be indexed"


def _full_name(path: tuple[str, ...]) -> str:
    return ".".join(name.replace(".", "\\.") for name in path)


def _split_path(name: str) -> tuple[str, ...]:
    parts = re.split(r"(?<!\\)\.", name)
    if parts[-1] == "":
        parts.pop()
    return tuple(part.replace("\\.", ".") for part in parts)
