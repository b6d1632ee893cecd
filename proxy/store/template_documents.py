"""Index templates: decoding and validation of the document. Pure functions.

Facts: a template is stored as it was sent. Decoding denies unknown keys; validation comes after
it and is `InvalidArgument`, while a document that cannot be decoded is `JsonDeserializeError`.
A pattern may begin with one `-`: then it excludes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from proxy import identifiers
from proxy.errors import InvalidArgument
from proxy.store import doc_mappings, documents, index_settings, uris
from proxy.store.documents import Reader
from proxy.store.index_metadata import VERSIONS

STRUCT: Final = "quickwit_config::index_template::IndexTemplate"
I32_MAX: Final = 2**31 - 1

_SHORTEST_NEGATIVE: Final = re.compile(r"-[a-zA-Z][a-zA-Z0-9\-_.]")
_KEYS: Final = frozenset(
    {
        "version",
        "template_id",
        "index_id_patterns",
        "index_root_uri",
        "priority",
        "description",
        "doc_mapping",
        "indexing_settings",
        "ingest_settings",
        "search_settings",
        "retention",
    }
)


@dataclass(frozen=True, slots=True)
class IndexTemplate:
    """A valid template; the patterns are in the form that SQL's LIKE takes."""

    template_id: str
    positive_patterns: list[str]
    negative_patterns: list[str]
    priority: int


def decode(text: str) -> IndexTemplate:
    """Decode and validate a template.

    `JsonDeserializeError` for a document of the wrong form, `InvalidArgument` for a template that
    is not valid.
    """
    reader = Reader(documents.parse(text, STRUCT), STRUCT)
    version = reader.string("version")
    if version not in VERSIONS:
        reader.fail(f"unknown version `{version}`, expected one of `0.7`, `0.8`, `0.9`")
    reader.deny_unknown(_KEYS)
    template_id = reader.string("template_id")
    patterns = reader.strings("index_id_patterns")
    priority = reader.integer("priority", 0)
    reader.string("description", None, nullable=True)
    _check_root_uri(reader)
    settings_problem = _settings_problem(reader)
    problem = _problem(template_id, patterns, priority) or settings_problem
    if problem is not None:
        raise InvalidArgument(f"invalid index template `{template_id[:300]}`: `{problem}`")
    return IndexTemplate(
        template_id,
        [_like(pattern) for pattern in patterns if not pattern.startswith("-")],
        [_like(pattern[1:]) for pattern in patterns if pattern.startswith("-")],
        priority,
    )


def _check_root_uri(reader: Reader) -> None:
    uri = reader.string("index_root_uri", None, nullable=True)
    if uri is not None:
        try:
            uris.normalize(uri)
        except ValueError as error:
            reader.fail(f"field `index_root_uri` is no URI: {error}")


def _settings_problem(reader: Reader) -> str | None:
    """Decode the sections that are those of an index config; return why they are not valid."""
    mapping = doc_mappings.canonical(reader.object("doc_mapping"), strict=True)
    indexing = index_settings.indexing(_section(reader, "indexing_settings"), strict=True)
    index_settings.ingest(_section(reader, "ingest_settings"), strict=True)
    search = index_settings.search(_section(reader, "search_settings"), strict=True)
    retention = reader.object("retention", None, nullable=True)
    if retention is not None:
        retention = index_settings.retention(retention, strict=True)
    return (
        doc_mappings.problem(mapping, search["default_search_fields"])
        or index_settings.merge_policy_problem(indexing)
        or index_settings.retention_problem(retention, mapping["timestamp_field"])
    )


def _section(reader: Reader, key: str) -> Reader:
    if key not in reader.document:
        return Reader({}, reader.struct_name, f"{key}.")
    section: Reader = reader.object(key)
    return section


def _problem(template_id: str, patterns: list[str], priority: int) -> str | None:
    problem = identifiers.identifier_problem("template", template_id)
    if problem is not None:
        return problem
    if not patterns:
        return "`index_id_patterns` must not be empty"
    for pattern in patterns:
        problem = _pattern_problem(pattern)
        if problem is not None:
            return problem
    if priority > I32_MAX:
        return f"`priority` must be at most {I32_MAX}, got {priority}"
    return None


def _pattern_problem(pattern: str) -> str | None:
    # The leading `-` counts for the minimum length, as in Quickwit.
    if _SHORTEST_NEGATIVE.fullmatch(pattern):
        return None
    return identifiers.index_pattern_problem(pattern.removeprefix("-"))


def _like(pattern: str) -> str:
    return pattern.replace("*", "%")
