"""What UpdateIndex does to the metadata of an index. Pure functions.

Facts: the five parts replace the stored ones, nothing is merged. Doc mappings are compared without
their UIDs: an equal one leaves the stored mapping and its UID alone and is not checked further; a
different one needs a UID of its own, the same timestamp field, all current tokenizers, and must
make a doc mapper with the new search settings. Stored parts are compared by meaning, so that
defaults which older versions left out are no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy import identifiers
from proxy.errors import InvalidArgument, JsonDeserializeError
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import doc_mappings, documents, human, index_settings
from proxy.store.documents import Document, Reader
from proxy.store.index_metadata import (
    CURRENT_VERSION,
    IndexMetadata,
    effective_doc_mapping_uid,
)

_SETTINGS: Final[dict[str, Callable[..., Document]]] = {
    "indexing_settings": index_settings.indexing,
    "ingest_settings": index_settings.ingest,
    "search_settings": index_settings.search,
}


@dataclass(frozen=True, slots=True)
class IndexUpdate:
    """The decoded parts of an UpdateIndex request, each in canonical form."""

    doc_mapping: Document
    settings: dict[str, Document]
    retention: Document | None


def decode(request: pb.UpdateIndexRequest) -> IndexUpdate:
    """Decode the JSON parts of a request. `JsonDeserializeError` naming the part's struct."""
    mapping = doc_mappings.canonical(
        _reader(request.doc_mapping_json, doc_mappings.STRUCT), strict=True
    )
    if mapping["doc_mapping_uid"] is None:
        mapping["doc_mapping_uid"] = identifiers.new_ulid()
    indexing = _reader(request.indexing_settings_json, index_settings.INDEXING_STRUCT)
    ingest = _reader(request.ingest_settings_json, index_settings.INGEST_STRUCT)
    search = _reader(request.search_settings_json, index_settings.SEARCH_STRUCT)
    settings = {
        "indexing_settings": index_settings.indexing(indexing, strict=True),
        "ingest_settings": index_settings.ingest(ingest, strict=True),
        "search_settings": index_settings.search(search, strict=True),
    }
    # Readers check these two with every read: an index with a bad one could not be read again.
    _refuse(indexing, index_settings.merge_policy_problem(settings["indexing_settings"]))
    retention = None
    if request.HasField("retention_policy_json_opt"):
        policy = _reader(request.retention_policy_json_opt, index_settings.RETENTION_STRUCT)
        retention = index_settings.retention(policy, strict=True)
        problem = index_settings.period_problem(retention)
        _refuse(policy, problem or human.schedule_problem(retention["schedule"]))
    return IndexUpdate(mapping, settings, retention)


def _refuse(reader: Reader, problem: str | None) -> None:
    if problem is not None:
        reader.fail(problem)


def apply(metadata: IndexMetadata, update: IndexUpdate) -> bool:
    """Put an update into the metadata in place; return whether anything changed.

    `InvalidArgument` if the new doc mapping cannot follow the current one.
    """
    config = metadata.config
    changed = _apply_doc_mapping(config, update)
    for key, settings in update.settings.items():
        if _stored_settings(config, key) != settings:
            config[key] = settings
            changed = True
    if _stored_retention(config) != update.retention:
        config["retention"] = update.retention
        changed = True
    return changed


def _apply_doc_mapping(config: Document, update: IndexUpdate) -> bool:
    new, current = update.doc_mapping, _stored_mapping(config)
    if current is not None and _without_uid(current) == _without_uid(new):
        return False
    _check_doc_mapping(config, current, update)
    config["doc_mapping"] = new
    # Under an older tag every reader would take the UID for nil.
    config["version"] = CURRENT_VERSION
    return True


def _check_doc_mapping(config: Document, current: Document | None, update: IndexUpdate) -> None:
    new = update.doc_mapping
    current_uid = effective_doc_mapping_uid(config)
    if new["doc_mapping_uid"] == current_uid:
        raise InvalidArgument(
            "new doc mapping UID should differ from the current one: the doc mapping has changed, "
            f"but its `doc_mapping_uid` is still `{current_uid}`"
        )
    stored = current or config["doc_mapping"]
    if new["timestamp_field"] != stored.get("timestamp_field"):
        raise InvalidArgument(
            "updating timestamp field is not allowed: the current one is "
            f"`{stored.get('timestamp_field') or 'none'}`, the new one is "
            f"`{new['timestamp_field'] or 'none'}`"
        )
    missing = [item for item in stored.get("tokenizers", []) if item not in new["tokenizers"]]
    if missing:
        raise InvalidArgument(
            "updating tokenizers is allowed only by adding new ones: the new doc mapping lacks "
            f"`{documents.dump(missing)}`"
        )
    search_fields = update.settings["search_settings"]["default_search_fields"]
    if doc_mappings.problem(new, search_fields):
        raise InvalidArgument("invalid doc mapping")


def _reader(text: str, struct: str) -> Reader:
    return Reader(documents.parse(text, struct), struct)


def _without_uid(mapping: Document) -> Document:
    return {key: value for key, value in mapping.items() if key != "doc_mapping_uid"}


def _stored_mapping(config: Document) -> Document | None:
    # None: written by a version whose mappings we cannot compare, so it counts as different.
    try:
        reader = Reader(config["doc_mapping"], doc_mappings.STRUCT)
        return doc_mappings.canonical(reader, strict=False)
    except JsonDeserializeError:
        return None


def _stored_settings(config: Document, key: str) -> Document | None:
    try:
        return _SETTINGS[key](Reader(config.get(key, {}), key), strict=False)
    except JsonDeserializeError:
        return None


def _stored_retention(config: Document) -> Document | None:
    policy = config.get("retention")
    if policy is None:
        return None
    try:
        return index_settings.retention(Reader(policy, "retention"), strict=False)
    except JsonDeserializeError:
        return {}
