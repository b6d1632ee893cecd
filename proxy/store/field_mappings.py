"""Field mappings of a doc mapping in canonical form: every option of a field's type spelled out.

Facts: each field type has its own options and defaults; the writer always spells them out except
for an unset description, and for `tokenizer` and `record` of a text that is not indexed. Two
mappings are equal when their canonical forms are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from proxy.store.documents import Document, Reader

RESERVED_NAMES: Final = ("_doc_length", "_dynamic", "_field_presence", "_source")

_NAME: Final = re.compile(r"[@$_\-a-zA-Z][@$_/.\-a-zA-Z0-9]{0,254}")
_BINARY_FORMATS: Final = ("base64", "hex")
_RECORDS: Final = ("basic", "freq", "position")
_PRECISIONS: Final = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_INPUT_FORMATS: Final = frozenset({"iso8601", "rfc2822", "rfc3339", "unix_timestamp"})
_OUTPUT_FORMATS: Final = frozenset(
    {
        "iso8601",
        "rfc2822",
        "rfc3339",
        "unix_timestamp_secs",
        "unix_timestamp_millis",
        "unix_timestamp_micros",
        "unix_timestamp_nanos",
    }
)


def canonical(items: list[Any], struct: str, path: str, *, strict: bool) -> list[Document]:
    """Return the canonical form of a list of field mappings.

    `strict` refuses unknown options, as for what a caller sends; without it they are left out of
    the result, as for what is stored. `JsonDeserializeError` naming `struct` on anything wrong.
    """
    return [_entry(Reader(item, struct, f"{path}."), strict=strict) for item in items]


def json_options(reader: Reader, *, strict: bool) -> Document:
    """Return the canonical options of a JSON field, which a dynamic mapping has too."""
    if strict:
        reader.deny_unknown(_OPTIONS["json"] | {"description"})
    return _described(reader, _json(reader))


def element_type(type_id: str) -> str:
    """Return the type of a field's values: `text` for `array<text>` as for `text`."""
    return type_id[6:-1] if type_id.startswith("array<") and type_id.endswith(">") else type_id


def _entry(reader: Reader, *, strict: bool) -> Document:
    name, type_id = reader.string("name"), reader.string("type")
    if name in RESERVED_NAMES:
        reader.fail(f"field name `{name}` is reserved")
    if not _NAME.fullmatch(name):
        reader.fail(
            f"field name `{name[:300]}` is invalid: it must have at most 255 characters, start "
            "with a letter or one of `@$_-`, and go on with letters, digits or `@$_/.-`"
        )
    reader.path = f"{reader.path}{name}."
    kind = element_type(type_id)
    build = _TYPES.get(kind)
    if build is None or (kind != type_id and kind in {"object", "concatenate"}):
        reader.fail(f"field `{name}` has an unknown type: `{type_id}`")
    if kind == "object":
        # Unknown options of an object are ignored by every reader.
        return {"name": name, "type": type_id} | _object(reader, strict=strict)
    if strict:
        reader.deny_unknown(_OPTIONS[kind] | {"name", "type", "description"})
    options = _described(reader, build(reader))
    if type_id == "array<bytes>" and options["fast"]:
        reader.fail(f"field `{name}` of type `array<bytes>` cannot be fast")
    return {"name": name, "type": type_id} | options


def _described(reader: Reader, options: Document) -> Document:
    description = reader.string("description", None, nullable=True)
    return options if description is None else {"description": description} | options


def _one_of(reader: Reader, key: str, choices: tuple[str, ...], default: str) -> str:
    value: str = reader.string(key, default)
    if value not in choices:
        reader.fail(
            f"field `{reader.path}{key}` is `{value[:64]}`, expected one of {', '.join(choices)}"
        )
    return value


def _basic(reader: Reader) -> Document:
    return {
        "stored": reader.boolean("stored", True),
        "indexed": reader.boolean("indexed", True),
        "fast": reader.boolean("fast", False),
    }


def _numeric(reader: Reader) -> Document:
    return _basic(reader) | {
        "coerce": reader.boolean("coerce", True),
        "output_format": _one_of(reader, "output_format", ("number", "string"), "number"),
    }


def _bytes(reader: Reader) -> Document:
    return _basic(reader) | {
        key: _one_of(reader, key, _BINARY_FORMATS, "base64")
        for key in ("input_format", "output_format")
    }


def _date_format(reader: Reader, key: str, text: str, known: frozenset[str]) -> str:
    if text.lower() in known:
        return text.lower()
    if "%" not in text and not (key == "input_formats" and "y" in text):
        reader.fail(f"field `{reader.path}{key}` holds an unknown date time format `{text[:64]}`")
    return text


def _datetime(reader: Reader) -> Document:
    formats = [
        _date_format(reader, "input_formats", text, _INPUT_FORMATS)
        for text in reader.strings("input_formats", [])
    ]
    output = reader.string("output_format", "rfc3339")
    precision = "fast_precision"
    if precision not in reader.document and "precision" in reader.document:
        precision = "precision"
    return {
        "input_formats": list(dict.fromkeys(formats)) or ["rfc3339", "unix_timestamp"],
        "output_format": _date_format(reader, "output_format", output, _OUTPUT_FORMATS),
        "fast_precision": _one_of(reader, precision, _PRECISIONS, "seconds"),
    } | _basic(reader)


def _fast(reader: Reader) -> bool | Document:
    value = reader.get("fast", False)
    if value is False:
        return False
    if value is True:
        return {"normalizer": "raw"}
    fast = reader.object("fast")
    return {"normalizer": _one_of(fast, "normalizer", ("raw", "lowercase"), "raw")}


def _indexing(reader: Reader, tokenizer: str, *, always: bool = False) -> Document:
    if not always and not reader.boolean("indexed", True):
        if reader.get("tokenizer", None) is not None or reader.get("record", None) is not None:
            reader.fail(f"fields `{reader.path}tokenizer` and `record` are allowed only if indexed")
        return {"indexed": False}
    record = reader.get("record", None)
    options: Document = {} if always else {"indexed": True}
    return options | {
        "tokenizer": reader.string("tokenizer", tokenizer, nullable=True),
        "record": "basic" if record is None else _one_of(reader, "record", _RECORDS, "basic"),
    }


def _text(reader: Reader) -> Document:
    options = _indexing(reader, "default")
    options["fieldnorms"] = reader.boolean("fieldnorms", False)
    if options["fieldnorms"] and not options["indexed"]:
        reader.fail(f"field `{reader.path}fieldnorms` is allowed only if indexed")
    return options | {"stored": reader.boolean("stored", True), "fast": _fast(reader)}


def _json(reader: Reader) -> Document:
    return _indexing(reader, "raw") | {
        "stored": reader.boolean("stored", True),
        "expand_dots": reader.boolean("expand_dots", True),
        "fast": _fast(reader),
    }


def _concatenate(reader: Reader) -> Document:
    options = {
        "concatenate_fields": reader.strings("concatenate_fields", []),
        "include_dynamic_fields": reader.boolean("include_dynamic_fields", False),
    } | _indexing(reader, "default", always=True)
    if not options["concatenate_fields"] and not options["include_dynamic_fields"]:
        reader.fail(f"field `{reader.path}concatenate_fields` must name at least one field")
    return options


def _object(reader: Reader, *, strict: bool = True) -> Document:
    items = reader.items("field_mappings")
    if not items:
        reader.fail(f"field `{reader.path}field_mappings` must hold at least one field mapping")
    path = f"{reader.path}field_mappings"
    return {"field_mappings": canonical(items, reader.struct_name, path, strict=strict)}


_TYPES: Final[dict[str, Callable[[Reader], Document]]] = {
    "text": _text,
    "u64": _numeric,
    "i64": _numeric,
    "f64": _numeric,
    "bool": _basic,
    "ip": _basic,
    "datetime": _datetime,
    "bytes": _bytes,
    "json": _json,
    "object": _object,
    "concatenate": _concatenate,
}
_BASIC: Final = frozenset({"stored", "indexed", "fast"})
_TEXT: Final = _BASIC | {"tokenizer", "record"}
_NUMERIC: Final = _BASIC | {"coerce", "output_format"}
_OPTIONS: Final = {
    "text": _TEXT | {"fieldnorms"},
    "u64": _NUMERIC,
    "i64": _NUMERIC,
    "f64": _NUMERIC,
    "bool": _BASIC,
    "ip": _BASIC,
    "datetime": _BASIC | {"input_formats", "output_format", "fast_precision", "precision"},
    "bytes": _BASIC | {"input_format", "output_format"},
    "json": _TEXT | {"expand_dots"},
    "concatenate": frozenset(
        {"concatenate_fields", "include_dynamic_fields", "tokenizer", "record"}
    ),
}
