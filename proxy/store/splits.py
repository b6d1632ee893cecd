"""Splits: staging, publishing, marking and deleting them.

Facts: "now" is the database's transaction time in UTC. Every change locks the rows of all splits
it names before it decides, so that a concurrent change is seen either entirely or not at all.
What an unknown index means differs from RPC to RPC and is said at each function; lists of splits
are in `split_lists`.
"""

from __future__ import annotations

import time
from typing import Any

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import (
    checkpoints,
    documents,
    index_metadata,
    publishing,
    split_documents,
    split_sql,
    sqlstate,
)
from proxy.store.pool import Database, Session
from proxy.store.queries import query
from proxy.store.requests import index_id_of, required_index_uid


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
            rows = await session.fetch(query("splits/stage"), index_uid, *columns(staged))
            if len(rows) < len(staged):
                written = {row["split_id"] for row in rows}
                failed = [split.split_id for split in staged if split.split_id not in written]
                raise errors.FailedPrecondition(errors.splits(failed), "splits are not staged")
    return pb.EmptyResponse()


def columns(staged: list[split_documents.StagedSplit]) -> list[list[Any]]:
    """Return the arguments of `splits/stage` after the index UID: one list for each column."""
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
                split_sql.stale(),
                index_uid,
                min(request.delete_opstamp, documents.I64_MAX),
                min(request.num_splits, documents.I64_MAX),
            )
    return pb.ListSplitsResponse(
        splits_serialized_json=f"[{','.join(map(split_documents.render_split, rows))}]"
    )


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
