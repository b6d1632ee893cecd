"""Splits: staging, publishing, marking, deleting and listing them.

Facts: "now" is the database's transaction time in UTC. Every change locks the rows of all splits
it names before it decides, so that a concurrent change is seen either entirely or not at all.
Lists go out in messages of 100 splits, and of 500 after the first 1,000. What an unknown index
means differs from RPC to RPC and is said at each function.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import (
    checkpoints,
    documents,
    index_metadata,
    publishing,
    split_documents,
    split_query,
    split_sql,
    sqlstate,
)
from proxy.store.measured import statement
from proxy.store.pool import Database, Session
from proxy.store.pooler import open_cursor
from proxy.store.queries import query
from proxy.store.requests import index_id_of, required_index_uid

CHUNK_SPLITS: Final = 100
# What follows the first batch of a long list: each message costs sender and receiver the same,
# whatever is in it.
LARGE_CHUNK_SPLITS: Final = 500
# Unless splits are so large that such messages would take much memory.
_LARGE_SPLIT: Final = 2000
# One fetch from the cursor: large enough to hide its round trip, a few MB at most.
BATCH_ROWS: Final = 1000
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
    chunk = CHUNK_SPLITS
    async with aclosing(_batches(db, wanted)) as batches:
        async for rows in batches:
            for start in range(0, len(rows), chunk):
                texts += _rendered(rows[start : start + chunk])
                while len(texts) >= chunk:
                    message, texts = _cut(texts, chunk, max_message_size)
                    yield message
            chunk = _chunk_after(rows)
    while texts:
        message, texts = _cut(texts, CHUNK_SPLITS, max_message_size)
        yield message


def _chunk_after(rows: Sequence[Any]) -> int:
    """Return how many splits the messages shall have after the first batch of a list."""
    is_large = sum(len(row[-1]) for row in rows) > _LARGE_SPLIT * len(rows)
    return CHUNK_SPLITS if is_large else LARGE_CHUNK_SPLITS


def _cut(
    texts: list[str], chunk: int, max_message_size: int
) -> tuple[pb.ListSplitsResponse, list[str]]:
    """Return the next message, and the splits that are left for those after it."""
    body = ",".join(texts[:chunk])
    if _byte_length(body) + _MESSAGE_OVERHEAD <= max_message_size:
        return _response(body), texts[chunk:]
    taken, size = 0, _MESSAGE_OVERHEAD
    for text in texts[:chunk]:
        size += _byte_length(text) + 1
        if taken and size > max_message_size:
            break
        taken += 1
    return _response(",".join(texts[:taken])), texts[taken:]


async def _batches(
    db: Database, wanted: split_query.ListSplitsQuery
) -> AsyncGenerator[list[Any], None]:
    """Yield the rows of a query in batches; the session is back before the last one is yielded."""
    sql, arguments = split_sql.to_sql(wanted)
    last: list[Any] = []
    try:
        if wanted.limit is not None and wanted.limit <= BATCH_ROWS:
            # What fits in one batch takes one round trip instead of four.
            async with db.acquire() as session:
                last = await session.fetch(sql, *arguments)
        else:
            async with (
                db.transaction() as session,
                aclosing(_read(session, sql, arguments)) as read,
            ):
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


async def _read(
    session: Session, sql: str, arguments: list[object]
) -> AsyncGenerator[list[Any], None]:
    """Yield the rows of a statement in batches; the database works on one while one is in use.

    The last batch, and only that, is a short or an empty one.
    """
    with statement(sql) as running:
        cursor = await open_cursor(session, sql, *arguments)
        rows: list[Any] = await cursor.fetch(BATCH_ROWS)
        while len(rows) == BATCH_ROWS:
            ahead = asyncio.create_task(cursor.fetch(BATCH_ROWS), name="rows ahead")
            running.got(rows)
            try:
                # Sent before the rows at hand are worked on.
                await asyncio.sleep(0)
                yield rows
                running.resume()
                rows = await ahead
            finally:
                await _drop(ahead)
        running.got(rows)
    yield rows


async def _drop(task: asyncio.Task[list[Any]]) -> None:
    """End a fetch whose rows nobody wants; the connection is free again on return."""
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        # Seen here, so that it is not reported as lost.
        task.exception()


def _rendered(rows: Iterable[Any]) -> list[str]:
    try:
        return [*map(split_documents.render_split, rows)]
    except errors.JsonDeserializeError as error:
        raise errors.Internal(_CONVERT_FAILED, str(error)) from error


def _byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _response(body: str) -> pb.ListSplitsResponse:
    return pb.ListSplitsResponse(splits_serialized_json=f"[{body}]")


async def stage_splits(db: Database, request: pb.StageSplitsRequest) -> pb.EmptyResponse:
    """Insert splits as Staged, or overwrite those that are Staged; all or none.

    The index is the request's, whatever the documents say; an empty list succeeds for any index.
    `JsonDeserializeError`; `NotFound(Index)` for an unknown UID; `FailedPrecondition` naming the
    splits that are published or marked; `Db` for an ID given twice or over 50 characters.
    """
    index_uid = required_index_uid(request)
    text = request.split_metadata_list_serialized_json
    staged = split_documents.parse_staged(text, now=int(time.time()))
    if not staged:
        return pb.EmptyResponse()
    with sqlstate.mapped(index_id_of(index_uid)):
        async with db.transaction() as session:
            rows = await session.fetch(query("splits/stage"), index_uid, *_columns(staged))
            if len(rows) < len(staged):
                written = {row["split_id"] for row in rows}
                failed = [split.split_id for split in staged if split.split_id not in written]
                raise errors.FailedPrecondition(errors.splits(failed), "splits are not staged")
    return pb.EmptyResponse()


def _columns(staged: list[split_documents.StagedSplit]) -> list[list[Any]]:
    return [
        [split.split_id for split in staged],
        [split.time_range_start for split in staged],
        [split.time_range_end for split in staged],
        [split.tags_json for split in staged],
        [split.metadata_json for split in staged],
        [split.delete_opstamp for split in staged],
        [split.maturity_timestamp for split in staged],
        [split.node_id for split in staged],
    ]


async def publish_splits(db: Database, request: pb.PublishSplitsRequest) -> pb.EmptyResponse:
    """Publish staged splits, replace published ones and advance a checkpoint; all or nothing.

    Errors in this order: `JsonDeserializeError` (delta), `NotFound(Index)`, those of
    `publishing.apply_checkpoint_delta`, `NotFound(Splits)`, `FailedPrecondition` (not staged),
    `FailedPrecondition` (replaced splits that are not published). Not idempotent.
    """
    index_uid = required_index_uid(request)
    delta = None
    if request.HasField("index_checkpoint_delta_json_opt"):
        delta = checkpoints.parse_delta(request.index_checkpoint_delta_json_opt)
    token = request.publish_token_opt if request.HasField("publish_token_opt") else None
    with sqlstate.raw():
        async with db.transaction() as session:
            locked = await index_metadata.lock(session, index_uid)
            if delta is not None:
                await publishing.apply_checkpoint_delta(session, locked, delta, token)
            with sqlstate.mapped(locked.index_id):
                # Written even when nothing changed: the row version is what others wait for.
                await index_metadata.save(session, locked)
                await _publish(session, index_uid, request)
    return pb.EmptyResponse()


async def _publish(session: Session, index_uid: str, request: pb.PublishSplitsRequest) -> None:
    problems = await session.fetchrow(
        query("splits/publish"),
        index_uid,
        list(request.staged_split_ids),
        list(request.replaced_split_ids),
    )
    if problems is None:
        raise errors.Internal("failed to publish splits", "the statement answered no row")
    if problems["missing"]:
        raise errors.NotFound(errors.splits(problems["missing"]))
    if problems["not_staged"]:
        entity = errors.splits(problems["not_staged"])
        raise errors.FailedPrecondition(entity, "splits are not staged")
    if problems["not_published"]:
        entity = errors.splits(problems["not_published"])
        # The text says something else than the condition; callers know it like this.
        raise errors.FailedPrecondition(entity, "splits are not marked for deletion")


async def mark_splits_for_deletion(
    db: Database, request: pb.MarkSplitsForDeletionRequest
) -> pb.EmptyResponse:
    """Mark staged and published splits for deletion; unknown and marked ones are left alone.

    `NotFound(Index)` only when none of the splits exists and no incarnation of the index ID does.
    """
    index_uid = required_index_uid(request)
    index_id = index_id_of(index_uid)
    with sqlstate.mapped(index_id):
        async with db.acquire() as session:
            found = await session.fetchval(query("splits/mark"), index_uid, list(request.split_ids))
            if not found and not await session.fetchval(query("splits/index_id_exists"), index_id):
                raise errors.NotFound(errors.index(index_id))
    return pb.EmptyResponse()


async def delete_splits(db: Database, request: pb.DeleteSplitsRequest) -> pb.EmptyResponse:
    """Delete splits that are marked for deletion; unknown ones are ignored.

    `FailedPrecondition`, and nothing deleted, when one is staged or published; `NotFound(Index)`
    when none of the splits exists and this incarnation of the index does not either.
    """
    index_uid = required_index_uid(request)
    with sqlstate.mapped(index_id_of(index_uid)):
        async with db.acquire() as session:
            outcome = await session.fetchrow(
                query("splits/delete"), index_uid, list(request.split_ids)
            )
            if outcome is None or not outcome["found"]:
                await _require_index_uid(session, index_uid)
    if outcome is not None and outcome["not_deletable"]:
        split_ids = outcome["not_deletable"]
        raise errors.FailedPrecondition(
            errors.splits(split_ids), f"splits `{', '.join(split_ids)}` are not deletable"
        )
    return pb.EmptyResponse()


async def _require_index_uid(session: Session, index_uid: str) -> None:
    if not await session.fetchval(query("splits/index_uid_exists"), index_uid):
        raise errors.NotFound(errors.index(index_id_of(index_uid)))


async def list_stale_splits(
    db: Database, request: pb.ListStaleSplitsRequest
) -> pb.ListSplitsResponse:
    """List up to `num_splits` published, mature splits below a delete opstamp, stalest first.

    One message, `[]` when there are none or the index is unknown.
    """
    index_uid = required_index_uid(request)
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(
                query("splits/list_stale"),
                index_uid,
                min(request.delete_opstamp, documents.I64_MAX),
                min(request.num_splits, documents.I64_MAX),
            )
    return _response(",".join(map(split_documents.render_split, rows)))


async def update_splits_delete_opstamp(
    db: Database, request: pb.UpdateSplitsDeleteOpstampRequest
) -> pb.UpdateSplitsDeleteOpstampResponse:
    """Set the delete opstamp of splits in any state; unknown splits are ignored.

    An empty list succeeds for any index. `NotFound(Index)` when none of the splits exists and
    this incarnation of the index does not either; `InvalidArgument` for an opstamp over 63 bits.
    """
    index_uid = required_index_uid(request)
    if request.delete_opstamp > documents.I64_MAX:
        raise errors.InvalidArgument(
            f"field `delete_opstamp` must be at most {documents.I64_MAX}, "
            f"got {request.delete_opstamp}"
        )
    if request.split_ids:
        with sqlstate.raw():
            async with db.acquire() as session:
                found = await session.fetchval(
                    query("splits/update_opstamp"),
                    index_uid,
                    list(request.split_ids),
                    request.delete_opstamp,
                )
                if not found:
                    await _require_index_uid(session, index_uid)
    return pb.UpdateSplitsDeleteOpstampResponse()
