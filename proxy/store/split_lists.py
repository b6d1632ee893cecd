"""Lists of splits: read from one snapshot in batches, and sent in messages.

Facts: messages hold 100 splits each. Here those after the first 1,000 splits hold 500: no client
counts them, and each costs sender and receiver the same, whatever is in it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import batches, split_documents, split_query, split_sql, sqlstate
from proxy.store.pool import Database

CHUNK_SPLITS: Final = 100
LARGE_CHUNK_SPLITS: Final = 500
# Splits of a list that come in small messages.
_SMALL_CHUNKS_UNTIL: Final = 1000
# Unless splits are so large (in characters) that such messages would take much memory.
_LARGE_SPLIT: Final = 2000
# One fetch from the cursor. With twice as many a list takes 3% less time, and a stream that nobody
# reads twice the memory.
BATCH_ROWS: Final = 500
# A list with a limit up to this is one fetch.
_SMALL_LIMIT: Final = 1000
# A list that is no longer than this takes one round trip instead of four; of a longer one as many
# rows are read twice.
SHORT_ROWS: Final = 250
DEFAULT_MAX_MESSAGE_SIZE: Final = 20 * 1024 * 1024
# Tag and length of the only field of a `ListSplitsResponse`, and the brackets of the list.
_MESSAGE_OVERHEAD: Final = 16

_FETCH_FAILED: Final = "failed to fetch splits"
_CONVERT_FAILED: Final = "failed to convert `PgSplit` to `Split`"


async def list_splits(
    db: Database,
    request: pb.ListSplitsRequest,
    *,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
) -> AsyncGenerator[pb.ListSplitsResponse, None]:
    """Stream the splits that match a query, in messages of 100 and later 500, from one snapshot.

    A message that would exceed `max_message_size` bytes is cut earlier. Nothing found, also for an
    unknown index, is no message at all. At most two batches of rows are in memory; the session goes
    back when the last row is read or the iterator is closed. `JsonDeserializeError` for the query
    comes before the first message; a database error ends the stream with `Internal`.
    """
    wanted = split_query.parse(request.query_json)
    texts: list[str] = []
    chunk, seen = CHUNK_SPLITS, 0
    # No message is kept here while its receiver takes it.
    async with aclosing(_batches(db, wanted)) as read:
        async for rows in read:
            for start in range(0, len(rows), chunk):
                texts += _rendered(rows[start : start + chunk])
                while len(texts) >= chunk:
                    yield _response(_cut(texts, chunk, max_message_size))
            seen += len(rows)
            if len(rows) == BATCH_ROWS:
                chunk = _chunk_after(rows, seen)
    while texts:
        yield _response(_cut(texts, CHUNK_SPLITS, max_message_size))


def _chunk_after(rows: Sequence[Any], seen: int) -> int:
    """Return how many splits the messages shall have after so many of a list."""
    if seen < _SMALL_CHUNKS_UNTIL:
        return CHUNK_SPLITS
    is_large = sum(len(row[-1]) for row in rows) > _LARGE_SPLIT * len(rows)
    return CHUNK_SPLITS if is_large else LARGE_CHUNK_SPLITS


def _cut(texts: list[str], chunk: int, max_message_size: int) -> str:
    """Take the splits of the next message off `texts` and return its list without brackets."""
    body = ",".join(texts[:chunk])
    if _byte_length(body) + _MESSAGE_OVERHEAD <= max_message_size:
        del texts[:chunk]
        return body
    taken, size = 0, _MESSAGE_OVERHEAD
    for text in texts[:chunk]:
        size += _byte_length(text) + 1
        if taken and size > max_message_size:
            break
        taken += 1
    body = ",".join(texts[:taken])
    del texts[:taken]
    return body


async def _batches(
    db: Database, wanted: split_query.ListSplitsQuery
) -> AsyncGenerator[list[Any], None]:
    """Yield the rows of a query in batches; the session is back before the last one is yielded."""
    sql, arguments = split_sql.to_sql(wanted)
    last: list[Any] | None = None
    try:
        last = await _short(db, wanted, sql, arguments)
        if last is None:
            turns = db.lists.batches
            read = batches.read(db, sql, arguments, size=BATCH_ROWS, turns=turns)
            async with db.place_for_list(), aclosing(read):
                async for rows in read:
                    if len(rows) == BATCH_ROWS:
                        yield rows
                    else:
                        last = rows
    except sqlstate.DRIVER_ERRORS as error:
        translated = sqlstate.translate(error, raw=True)
        if isinstance(translated, errors.Db):
            raise errors.Internal(_FETCH_FAILED, translated.message) from error
        raise translated from error
    if last:
        yield last


async def _short(
    db: Database, wanted: split_query.ListSplitsQuery, sql: str, arguments: list[object]
) -> list[Any] | None:
    """Return all rows if they are few, in one round trip; None if there are more."""
    if wanted.limit is not None and wanted.limit <= _SMALL_LIMIT:
        async with db.look_at_list() as session:
            return await session.fetch(sql, *arguments)
    if wanted.sort_by.columns or wanted.offset is not None:
        # The first rows of these are not known before all are.
        return None
    async with db.look_at_list() as session:
        rows = await session.fetch_some(SHORT_ROWS + 1, sql, *arguments)
    return rows if len(rows) <= SHORT_ROWS else None


def _rendered(rows: Iterable[Any]) -> list[str]:
    try:
        return [*map(split_documents.render_split, rows)]
    except errors.JsonDeserializeError as error:
        raise errors.Internal(_CONVERT_FAILED, str(error)) from error


def _byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _response(body: str) -> pb.ListSplitsResponse:
    return pb.ListSplitsResponse(splits_serialized_json=f"[{body}]")
