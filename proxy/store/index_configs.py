"""Index configs: decoding, validation, and the canonical form that is stored.

Facts: a config tagged 0.7 or 0.8 has the nil doc mapping UID whatever it says, and is written as
0.9; unknown keys are refused; `index_uri` is required here and written canonically; validation is
part of decoding, so that every failure is a `JsonDeserializeError`.
"""

from __future__ import annotations

from typing import Final

from proxy import identifiers
from proxy.store import doc_mappings, documents, index_settings, uris
from proxy.store.documents import Document, Reader
from proxy.store.index_metadata import CURRENT_VERSION, LEGACY_VERSIONS, VERSIONS

STRUCT: Final = "quickwit_config::index_config::IndexConfig"
_KEYS: Final = frozenset(
    {
        "version",
        "index_id",
        "index_uri",
        "doc_mapping",
        "indexing_settings",
        "ingest_settings",
        "search_settings",
        "retention",
    }
)


def decode(text: str) -> Document:
    """Return the canonical form of an index config. `JsonDeserializeError` if it is not valid.

    The doc mapping always has a UID: a random one if the config has none.
    """
    reader = Reader(documents.parse(text, STRUCT), STRUCT)
    version = reader.string("version")
    if version not in VERSIONS:
        reader.fail(f"unknown version `{version}`, expected one of `0.7`, `0.8`, `0.9`")
    reader.deny_unknown(_KEYS)
    config: Document = {
        "version": CURRENT_VERSION,
        "index_id": reader.string("index_id"),
        "index_uri": reader.string("index_uri", None, nullable=True),
        "doc_mapping": doc_mappings.canonical(reader.object("doc_mapping"), strict=True),
        "indexing_settings": index_settings.indexing(
            _section(reader, "indexing_settings"), strict=True
        ),
        "ingest_settings": index_settings.ingest(_section(reader, "ingest_settings"), strict=True),
        "search_settings": index_settings.search(_section(reader, "search_settings"), strict=True),
        "retention": None,
    }
    retention = reader.object("retention", None, nullable=True)
    if retention is not None:
        config["retention"] = index_settings.retention(retention, strict=True)
    _set_doc_mapping_uid(config["doc_mapping"], version)
    _validate(reader, config)
    return config


def _section(reader: Reader, key: str) -> Reader:
    if key not in reader.document:
        return Reader({}, reader.struct_name, f"{key}.")
    section: Reader = reader.object(key)
    return section


def _set_doc_mapping_uid(mapping: Document, version: str) -> None:
    if version in LEGACY_VERSIONS:
        mapping["doc_mapping_uid"] = identifiers.NIL_ULID
    elif mapping["doc_mapping_uid"] is None:
        mapping["doc_mapping_uid"] = identifiers.new_ulid()


def _validate(reader: Reader, config: Document) -> None:
    problem = identifiers.identifier_problem("index", config["index_id"])
    if problem:
        reader.fail(problem)
    if config["index_uri"] is None:
        reader.fail("missing `index_uri`")
    try:
        config["index_uri"] = uris.normalize(config["index_uri"])
    except ValueError as error:
        reader.fail(f"field `index_uri` is no URI: {error}")
    mapping = config["doc_mapping"]
    search_fields = config["search_settings"]["default_search_fields"]
    problem = (
        doc_mappings.problem(mapping, search_fields)
        or index_settings.merge_policy_problem(config["indexing_settings"])
        or index_settings.retention_problem(config["retention"], mapping["timestamp_field"])
    )
    if problem:
        reader.fail(problem)
