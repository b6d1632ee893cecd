"""The stored metadata of an index: reading it, serving it, and changing it under the row lock.

Stored documents are kept as they are: a change touches only its own keys, so that unknown keys,
key order and large integers survive. What older versions wrote (0.7, 0.8) is served unchanged.

Facts: the `create_timestamp` column wins over the one in the document; the effective doc mapping
UID of an index config tagged 0.7 or 0.8 is nil, whatever the document says; every change of the
metadata and every publish locks the row of the index first, and another incarnation of the index
ID is "not found".
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy import errors, identifiers
from proxy.store import documents, requests, sqlstate
from proxy.store.checkpoints import Checkpoint
from proxy.store.documents import Document
from proxy.store.pool import Database, Session
from proxy.store.queries import query

STRUCT: Final = "IndexMetadata"
CURRENT_VERSION: Final = "0.9"
LEGACY_VERSIONS: Final = frozenset({"0.7", "0.8"})
VERSIONS: Final = LEGACY_VERSIONS | {CURRENT_VERSION}

_CREATE_TIMESTAMP: Final = '"create_timestamp"'
_ITS_VALUE: Final = re.compile(r"\s*:\s*(-?\d+)(?![\d.eE])").match


class IndexMetadata:
    """One metadata document, checked as far as the metastore relies on it.

    The properties are views: changing `checkpoint` or `sources` in place changes `document`.
    """

    def __init__(self, document: Document) -> None:
        reader = documents.Reader(document, STRUCT)
        _check_version(reader)
        _check(reader)
        self.document = document
        self.index_uid = _canonical_index_uid(reader)

    @classmethod
    def parse(cls, text: str) -> IndexMetadata:
        """Read the stored text. `JsonDeserializeError` if it is no index metadata."""
        return cls(documents.parse(text, STRUCT, is_stored=True))

    @property
    def index_id(self) -> str:
        """The index ID of the index config."""
        return str(self.config["index_id"])

    @property
    def config(self) -> Document:
        """The `index_config` object."""
        config: Document = self.document["index_config"]
        return config

    @property
    def checkpoint(self) -> Checkpoint:
        """Source ID -> partition ID -> position."""
        checkpoint: Checkpoint = self.document["checkpoint"]
        return checkpoint

    @property
    def sources(self) -> list[Document]:
        """The source configs, in stored order."""
        sources: list[Document] = self.document["sources"]
        return sources

    def source(self, source_id: str) -> Document | None:
        """Return the config of one source, or None."""
        return next((item for item in self.sources if item["source_id"] == source_id), None)

    def existing_source(self, source_id: str) -> Document:
        """Return the config of one source. `NotFound(Source)` if it is not registered."""
        source = self.source(source_id)
        if source is None:
            raise errors.NotFound(errors.source(self.index_id, source_id))
        return source

    def dump(self) -> str:
        """Return the document as compact JSON text."""
        return documents.dump(self.document)


@dataclass(slots=True)
class LockedIndex:
    """An index whose row is locked by the transaction of the session that read it.

    `metadata.document` carries the column's `create_timestamp` already.
    """

    index_uid: str
    metadata: IndexMetadata

    @property
    def index_id(self) -> str:
        """The index ID of the UID."""
        return requests.index_id_of(self.index_uid)


async def lock(session: Session, index_uid: str) -> LockedIndex:
    """Lock the row of an index for the rest of the transaction and read its metadata.

    `NotFound(Index)` if the ID is unknown or belongs to another incarnation,
    `JsonDeserializeError` if the stored document is broken. Database errors pass through.
    """
    index_id = requests.index_id_of(index_uid)
    row = await session.fetchrow(query("indexes/lock"), index_id)
    if row is None:
        raise errors.NotFound(errors.index(index_id))
    metadata = IndexMetadata.parse(row["index_metadata_json"])
    metadata.document["create_timestamp"] = row["create_timestamp"]
    if metadata.index_uid != index_uid:
        raise errors.NotFound(errors.index(index_id))
    return LockedIndex(index_uid, metadata)


async def save(session: Session, locked: LockedIndex) -> str:
    """Write the metadata of a locked index back and return the text written.

    `NotFound(Index)` if no row has the UID. Database errors pass through.
    """
    text = locked.metadata.dump()
    updated = await session.fetchval(query("indexes/save"), locked.index_uid, text)
    if updated is None:
        raise errors.NotFound(errors.index(locked.index_id))
    return text


async def mutate(
    database: Database, index_uid: str, change: Callable[[IndexMetadata], bool]
) -> IndexMetadata:
    """Change the metadata of an index in one transaction and return the outcome.

    `change` edits the metadata in place and returns whether it changed anything; if not, nothing
    is written. An error that it raises rolls back. Database errors are reported in the RAW style.
    """
    with sqlstate.raw():
        async with database.transaction() as session:
            return await mutate_in(session, index_uid, change)


async def mutate_in(
    session: Session, index_uid: str, change: Callable[[IndexMetadata], bool]
) -> IndexMetadata:
    """Do as `mutate`, in a transaction that the caller holds open."""
    locked = await lock(session, index_uid)
    if change(locked.metadata):
        await save(session, locked)
    return locked.metadata


def serve(text: str, create_timestamp: int) -> str:
    """Return stored metadata for an answer: the document with the column's `create_timestamp`.

    `JsonDeserializeError` if the stored document is broken. A text seen before is neither parsed
    nor searched again: its timestamp is spliced.
    """
    place = _place_of_timestamp(text)
    if place is not None:
        start, end = place
        created = str(create_timestamp)
        # Mostly it is the same, and then the text is not copied.
        return text if text[start:end] == created else f"{text[:start]}{created}{text[end:]}"
    metadata = IndexMetadata.parse(text)
    metadata.document["create_timestamp"] = create_timestamp
    return metadata.dump()


def effective_doc_mapping_uid(config: Document) -> str | None:
    """Return the UID that readers see for a stored index config's mapping; None if it has none."""
    if config.get("version") in LEGACY_VERSIONS:
        return identifiers.NIL_ULID
    uid = config["doc_mapping"].get("doc_mapping_uid")
    return uid.upper() if isinstance(uid, str) else None


class _Checked:
    """Which texts were found sound, and where in them the timestamp is; None if it is elsewhere.

    Only hashes of texts are kept, the oldest dropped first. What is remembered of a text never
    changes, so it stays true whatever other nodes write.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._places: dict[int, tuple[int, int] | None] = {}
        # Long lists are rendered in threads.
        self._lock = threading.Lock()

    def __call__(self, text: str) -> tuple[int, int] | None:
        key = hash(text)
        try:
            return self._places[key]
        except KeyError:
            pass
        place = _find_place(text, IndexMetadata.parse(text))
        with self._lock:
            if len(self._places) >= self._capacity:
                del self._places[next(iter(self._places))]
            self._places[key] = place
        return place


def _find_place(text: str, metadata: IndexMetadata) -> tuple[int, int] | None:
    found = []
    key = text.find(_CREATE_TIMESTAMP)
    while key >= 0:
        end = key + len(_CREATE_TIMESTAMP)
        value = _ITS_VALUE(text, end)
        if value is not None and text[key - 1 : key] != "\\":
            found.append(value.span(1))
        key = text.find(_CREATE_TIMESTAMP, end)
    # A second key of this name would be a partition ID, a client parameter or the like.
    if "create_timestamp" not in metadata.document or len(found) != 1:
        return None
    return found[0]


_place_of_timestamp: Final = _Checked(capacity=65_536)


def _check_version(reader: documents.Reader) -> None:
    version = reader.string("version")
    if version not in VERSIONS:
        reader.fail(f"unknown version `{version}`, expected one of `0.7`, `0.8`, `0.9`")


def _check(reader: documents.Reader) -> None:
    reader.integer("create_timestamp", None, minimum=documents.I64_MIN, maximum=documents.I64_MAX)
    config = reader.object("index_config")
    _check_version(config)
    config.string("index_id")
    config.string("index_uri")
    config.object("doc_mapping")
    checkpoint = reader.object("checkpoint")
    for source_id in checkpoint.document:
        positions = checkpoint.object(source_id)
        for partition_id in positions.document:
            positions.string(partition_id)
    seen: set[str] = set()
    for item in reader.items("sources"):
        source = documents.Reader(item, STRUCT, "sources.")
        source_id = source.string("source_id")
        source.string("source_type")
        source.boolean("enabled", True)
        if source_id in seen:
            reader.fail(f"source `{source_id}` is defined more than once")
        seen.add(source_id)


def _canonical_index_uid(reader: documents.Reader) -> str:
    text: str = reader.string("index_uid")
    try:
        message = identifiers.index_uid_message(text)
    except ValueError as error:
        reader.fail(f"field `index_uid` is not `<index_id>:<ULID>`: {error}")
    return identifiers.index_uid_text(message)
