"""Index RPCs: create, read, list, update and delete indexes, and their statistics.

Facts: IndexMetadata prefers the UID when both an ID and a UID are given, IndexesMetadata prefers
the ID; lists of metadata travel as one zstd frame without content size; creation and deletion are
not idempotent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

import zstandard

from proxy import errors, identifiers
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import (
    batches,
    documents,
    index_configs,
    index_reads,
    index_update,
    requests,
    source_configs,
    sqlstate,
)
from proxy.store import (
    index_metadata as metadata_documents,
)
from proxy.store.documents import Document
from proxy.store.index_metadata import IndexMetadata
from proxy.store.index_patterns import compile_patterns
from proxy.store.index_reads import IndexKey
from proxy.store.pool import Database
from proxy.store.queries import query

ZSTD_LEVEL: Final = 3
# Characters of JSON above which rendering moves to a thread, so that other calls go on.
_INLINE_LIMIT: Final = 256 * 1024
# Of a list of no more rows the answer is one round trip; of a longer one as many are read twice.
_BATCH_ROWS: Final = 1000

_STATS_FIELDS: Final = {
    "Staged": "staged",
    "Published": "published",
    "MarkedForDeletion": "marked_for_deletion",
}


async def create_index(db: Database, request: pb.CreateIndexRequest) -> pb.CreateIndexResponse:
    """Create an index under a UID that the server chooses, with its first sources.

    `JsonDeserializeError` for a config that is not valid, `AlreadyExists` for a source named
    twice and for an index ID in use.
    """
    config = index_configs.decode(request.index_config_json)
    index_id = config["index_id"]
    index_uid = f"{index_id}:{identifiers.new_ulid()}"
    sources: dict[str, Document] = {}
    for source in map(source_configs.decode, request.source_configs_json):
        source_id = source["source_id"]
        if source_id in sources:
            raise errors.AlreadyExists(errors.source(index_id, source_id))
        sources[source_id] = source
    text = documents.dump(
        {
            "version": metadata_documents.CURRENT_VERSION,
            "index_uid": index_uid,
            "index_config": config,
            "checkpoint": {source_id: {} for source_id in sources},
            "create_timestamp": int(time.time()),
            "sources": list(sources.values()),
        }
    )
    with sqlstate.mapped(index_id):
        async with db.acquire() as session:
            await session.execute(query("indexes/create"), index_uid, index_id, text)
    return pb.CreateIndexResponse(
        index_uid=identifiers.index_uid_message(index_uid), index_metadata_json=text
    )


async def update_index(db: Database, request: pb.UpdateIndexRequest) -> pb.IndexMetadataResponse:
    """Replace the settings and the doc mapping of an index, and return its metadata.

    `NotFound`, `JsonDeserializeError`, or `InvalidArgument` if the doc mapping cannot follow the
    current one. Nothing is written when nothing differs.
    """
    index_uid = requests.required_index_uid(request)
    update = index_update.decode(request)

    def change(metadata: IndexMetadata) -> bool:
        return index_update.apply(metadata, update)

    metadata = await metadata_documents.mutate(db, index_uid, change)
    return pb.IndexMetadataResponse(index_metadata_serialized_json=metadata.dump())


async def index_metadata(
    db: Database, request: pb.IndexMetadataRequest
) -> pb.IndexMetadataResponse:
    """Return the metadata of one index, named by UID or else by ID.

    `NotFound`, `JsonDeserializeError` for a broken row, `Internal` if the index is not named.
    """
    if request.HasField("index_uid"):
        key = IndexKey(requests.required_index_uid(request), is_uid=True)
    elif request.HasField("index_id"):
        key = IndexKey(request.index_id, is_uid=False)
    else:
        raise errors.Internal("invalid request: neither `index_id` nor `index_uid` is set")
    with sqlstate.raw():
        row = await index_reads.read(db, key)
    if row is None:
        raise errors.NotFound(errors.index(requests.index_id_of(key.text)))
    text = metadata_documents.serve(row["index_metadata_json"], row["create_timestamp"])
    return pb.IndexMetadataResponse(index_metadata_serialized_json=text)


async def indexes_metadata(
    db: Database, request: pb.IndexesMetadataRequest
) -> pb.IndexesMetadataResponse:
    """Return the metadata of several indexes and say which of them could not be found.

    Rows are in no particular order, and duplicates collapse. `JsonDeserializeError` if any stored
    document is broken.
    """
    if not request.subrequests:
        return pb.IndexesMetadataResponse()
    index_ids, index_uids = [], []
    failures = []
    for subrequest in request.subrequests:
        index_uid = (
            identifiers.index_uid_text(subrequest.index_uid, "subrequests.index_uid")
            if subrequest.HasField("index_uid")
            else None
        )
        if subrequest.HasField("index_id"):
            index_ids.append(subrequest.index_id)
        elif index_uid is not None:
            index_uids.append(index_uid)
        else:
            failures.append(
                pb.IndexMetadataFailure(reason=pb.INDEX_METADATA_FAILURE_REASON_INTERNAL)
            )
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(query("indexes/get_many"), index_ids, index_uids)
    if len(rows) + len(failures) < len(request.subrequests):
        failures += _not_found(index_ids, index_uids, rows)
    return pb.IndexesMetadataResponse(
        indexes_metadata_json_zstd=await _render(rows), failures=failures
    )


def _not_found(
    index_ids: list[str], index_uids: list[str], rows: Sequence[Any]
) -> list[pb.IndexMetadataFailure]:
    found_ids = {row["index_id"] for row in rows}
    found_uids = {row["index_uid"] for row in rows}
    reason = pb.INDEX_METADATA_FAILURE_REASON_NOT_FOUND
    return [
        pb.IndexMetadataFailure(index_id=index_id, reason=reason)
        for index_id in index_ids
        if index_id not in found_ids
    ] + [
        pb.IndexMetadataFailure(index_uid=identifiers.index_uid_message(index_uid), reason=reason)
        for index_uid in index_uids
        if index_uid not in found_uids
    ]


async def list_indexes_metadata(
    db: Database, request: pb.ListIndexesMetadataRequest
) -> pb.ListIndexesMetadataResponse:
    """Return the metadata of all indexes that match the patterns, in no particular order.

    `Internal` for bad patterns, `JsonDeserializeError` if any stored document is broken.
    """
    wanted = compile_patterns(request.index_id_patterns, "list_indexes_metadata")
    sql, arguments = wanted.select(query("indexes/list"))
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch_some(_BATCH_ROWS + 1, sql, *arguments)
        if len(rows) <= _BATCH_ROWS:
            packed = await _render(rows)
        else:
            packed = await _render_long(db, sql, arguments)
    return pb.ListIndexesMetadataResponse(indexes_metadata_json_zstd=packed)


async def _render_long(db: Database, sql: str, arguments: Sequence[object]) -> bytes:
    """Return the metadata that a statement selects, packed while the database sends more."""
    texts = _ZstdList()
    async with aclosing(batches.read(db, sql, arguments, size=_BATCH_ROWS)) as read:
        async for rows in read:
            await asyncio.to_thread(texts.add, rows)
    return texts.end()


async def delete_index(db: Database, request: pb.DeleteIndexRequest) -> pb.EmptyResponse:
    """Delete one incarnation of an index with its splits, shards and delete tasks.

    `NotFound` if it does not exist, so a repeated call fails. `Db` while metrics splits are left:
    their foreign key does not cascade.
    """
    index_uid = requests.required_index_uid(request)
    with sqlstate.raw():
        async with db.acquire() as session:
            deleted = await session.fetchval(query("indexes/delete"), index_uid)
    if deleted is None:
        raise errors.NotFound(errors.index(requests.index_id_of(index_uid)))
    return pb.EmptyResponse()


async def list_index_stats(
    db: Database, request: pb.ListIndexStatsRequest
) -> pb.ListIndexStatsResponse:
    """Return number and size of splits by state for all indexes that match the patterns.

    An index without splits appears with zeros. `Internal` for bad patterns and for a split state
    that nobody knows.
    """
    wanted = compile_patterns(request.index_id_patterns, "list_index_stats")
    sql, values = wanted.select(query("indexes/stats"))
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(sql, *values)
    stats: dict[str, pb.IndexStats] = {}
    for row in rows:
        index_uid, state = row["index_uid"], row["split_state"]
        entry = stats.get(index_uid)
        if entry is None:
            entry = stats[index_uid] = _no_splits(index_uid)
        if state is None:
            continue
        field = _STATS_FIELDS.get(state)
        if field is None:
            raise errors.Internal("invalid split state", state)
        counts = pb.SplitStats(
            num_splits=row["num_splits"], total_size_bytes=row["total_size_bytes"]
        )
        getattr(entry, field).CopyFrom(counts)
    return pb.ListIndexStatsResponse(index_stats=stats.values())


def _no_splits(index_uid: str) -> pb.IndexStats:
    try:
        uid = identifiers.index_uid_message(index_uid)
    except ValueError as error:
        raise errors.Internal("failed to parse index_uid", index_uid) from error
    # Clients rely on all three parts being present, zero or not.
    nothing = pb.SplitStats()
    return pb.IndexStats(
        index_uid=uid, staged=nothing, published=nothing, marked_for_deletion=nothing
    )


async def _render(rows: Sequence[Any]) -> bytes:
    size = sum(len(row["index_metadata_json"]) for row in rows)
    if size > _INLINE_LIMIT:
        return await asyncio.to_thread(_zstd_list, rows)
    return _zstd_list(rows)


def _zstd_list(rows: Sequence[Any]) -> bytes:
    texts = _ZstdList()
    texts.add(rows)
    return texts.end()


class _ZstdList:
    """A JSON list of metadata documents, packed as it grows."""

    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
        self._lead = "["
        self._packed: list[bytes] = []

    def add(self, rows: Sequence[Any]) -> None:
        """Append the documents of rows."""
        if not rows:
            return
        served = [
            metadata_documents.serve(row["index_metadata_json"], row["create_timestamp"])
            for row in rows
        ]
        self._packed.append(self._packer.compress(f"{self._lead}{','.join(served)}".encode()))
        self._lead = ","

    def end(self) -> bytes:
        """Return the whole list."""
        last = "[]" if self._lead == "[" else "]"
        self._packed += self._packer.compress(last.encode()), self._packer.flush()
        return b"".join(self._packed)
