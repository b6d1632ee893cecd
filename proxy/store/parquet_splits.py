"""The splits of metrics and of sketches: two tables with one behaviour.

Facts: a split ID is unique over its whole table. Staging takes the index UID from inside each
metadata document and commits what it could stage before it reports the rest. Marking, deleting
and listing do not check that the index exists. A trigger stamps the publish time of a split that
becomes published. Lists are ordered by split ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import (
    checkpoints,
    documents,
    index_metadata,
    parquet_documents,
    parquet_query,
    publishing,
    sqlstate,
)
from proxy.store.pool import Database
from proxy.store.queries import query
from proxy.store.requests import index_id_of, required_index_uid
from proxy.store.split_query import SPLIT_STATES

_StageRequest = pb.StageMetricsSplitsRequest | pb.StageSketchSplitsRequest
_PublishRequest = pb.PublishMetricsSplitsRequest | pb.PublishSketchSplitsRequest
_ListRequest = pb.ListMetricsSplitsRequest | pb.ListSketchSplitsRequest
_MarkRequest = pb.MarkMetricsSplitsForDeletionRequest | pb.MarkSketchSplitsForDeletionRequest
_DeleteRequest = pb.DeleteMetricsSplitsRequest | pb.DeleteSketchSplitsRequest


@dataclass(frozen=True, slots=True)
class _Family:
    """One of the two tables, and its name in error messages."""

    table: str
    label: str

    def sql(self, verb: str) -> str:
        """Return the statement `parquet/<verb>` on this family's table."""
        return query(f"parquet/{verb}").replace("parquet_splits", self.table)


_METRICS: Final = _Family("metrics_splits", "metrics")
_SKETCHES: Final = _Family("sketch_splits", "sketch")


async def _stage(db: Database, family: _Family, request: _StageRequest) -> pb.EmptyResponse:
    index_uid = required_index_uid(request)
    splits = [parquet_documents.decode(text) for text in request.splits_metadata_json]
    if not splits:
        return pb.EmptyResponse()
    rows = documents.dump([split.row() for split in splits])
    with sqlstate.mapped(index_id_of(index_uid)):
        async with db.transaction() as session:
            staged = {row["split_id"] for row in await session.fetch(family.sql("stage"), rows)}
    # Raised after the commit: what could be staged stays staged.
    refused = [split.split_id for split in splits if split.split_id not in staged]
    if refused:
        raise errors.FailedPrecondition(
            errors.splits(refused), "splits are not in the Staged state"
        )
    return pb.EmptyResponse()


async def _publish(db: Database, family: _Family, request: _PublishRequest) -> pb.EmptyResponse:
    index_uid = required_index_uid(request)
    delta = (
        checkpoints.parse_delta(request.index_checkpoint_delta_json_opt)
        if request.HasField("index_checkpoint_delta_json_opt")
        else None
    )
    token = request.publish_token_opt if request.HasField("publish_token_opt") else None
    staged, replaced = list(request.staged_split_ids), list(request.replaced_split_ids)
    with sqlstate.raw():
        async with db.transaction() as session:
            locked = await index_metadata.lock(session, index_uid)
            if delta is not None:
                await publishing.apply_checkpoint_delta(session, locked, delta, token)
            with sqlstate.mapped(locked.index_id):
                counts = await session.fetchrow(family.sql("publish"), index_uid, staged, replaced)
                _check_counts(counts, staged, replaced)
                # Also without a delta, as in Quickwit: readers of the row see each publish.
                await index_metadata.save(session, locked)
    return pb.EmptyResponse()


def _check_counts(
    counts: asyncpg.Record | None, staged: Sequence[str], replaced: Sequence[str]
) -> None:
    if counts is None:
        raise RuntimeError("a SELECT of two counts returns one row")
    if counts["published"] != len(staged):
        raise errors.NotFound(errors.splits(staged))
    if counts["marked"] != len(replaced):
        raise errors.FailedPrecondition(
            errors.splits(replaced),
            f"expected to mark {len(replaced)} splits for deletion, but only {counts['marked']} "
            "were in Published state",
        )


async def _list(db: Database, family: _Family, request: _ListRequest) -> list[str]:
    # Required, yet the index that counts is the one inside the query.
    index_uid = required_index_uid(request)
    conditions = parquet_query.decode(request.query_json)
    statement = family.sql("list").replace(":conditions", conditions.sql)
    values = conditions.values
    if conditions.limit is not None:
        values = (*values, conditions.limit)
        statement += f"LIMIT ${len(values)}"
    with sqlstate.mapped(index_id_of(index_uid)):
        async with db.acquire() as session:
            rows = await session.fetch(statement, *values)
    return [_record(family, row) for row in rows]


def _record(family: _Family, row: asyncpg.Record) -> str:
    try:
        split = parquet_documents.decode(row["split_metadata_json"])
    except errors.MetastoreError as error:
        raise errors.Internal(
            f"failed to deserialize {family.label} split '{row['split_id']}'", str(error)
        ) from error
    state = row["split_state"]
    return documents.dump(
        {
            "state": state if state in SPLIT_STATES else "Staged",
            "update_timestamp": row["update_timestamp"],
            "metadata": split.document,
        }
    )


async def _mark(db: Database, family: _Family, request: _MarkRequest) -> pb.EmptyResponse:
    index_uid, split_ids = required_index_uid(request), list(request.split_ids)
    if split_ids:
        with sqlstate.mapped(index_id_of(index_uid)):
            async with db.acquire() as session:
                await session.execute(family.sql("mark"), index_uid, split_ids)
    return pb.EmptyResponse()


async def _delete(db: Database, family: _Family, request: _DeleteRequest) -> pb.EmptyResponse:
    index_uid, split_ids = required_index_uid(request), list(request.split_ids)
    if not split_ids:
        return pb.EmptyResponse()
    with sqlstate.mapped(index_id_of(index_uid)):
        async with db.acquire() as session:
            rows = await session.fetch(family.sql("delete"), index_uid, split_ids)
    in_use = {row["split_id"] for row in rows}
    refused = [split_id for split_id in dict.fromkeys(split_ids) if split_id in in_use]
    if refused:
        entity = errors.splits(refused)
        raise errors.FailedPrecondition(entity, f"{entity} are not deletable")
    return pb.EmptyResponse()


async def stage_metrics_splits(
    db: Database, request: pb.StageMetricsSplitsRequest
) -> pb.EmptyResponse:
    """Insert metrics splits, or overwrite those that are still staged.

    `FailedPrecondition` naming the splits in another state; the others are staged all the same.
    `NotFound(Index)` when a document names an unknown index: then nothing is staged.
    """
    return await _stage(db, _METRICS, request)


async def publish_metrics_splits(
    db: Database, request: pb.PublishMetricsSplitsRequest
) -> pb.EmptyResponse:
    """Publish staged metrics splits, mark those they replace, and move the checkpoint: all or none.

    `NotFound(Splits)` unless every staged ID is staged, and named once; `FailedPrecondition`
    unless every replaced ID is published. Checkpoint and token errors come before both.
    """
    return await _publish(db, _METRICS, request)


async def list_metrics_splits(
    db: Database, request: pb.ListMetricsSplitsRequest
) -> pb.ListMetricsSplitsResponse:
    """Return the metrics splits that satisfy the query, by split ID, in one answer."""
    records = await _list(db, _METRICS, request)
    return pb.ListMetricsSplitsResponse(splits_serialized_json=records)


async def mark_metrics_splits_for_deletion(
    db: Database, request: pb.MarkMetricsSplitsForDeletionRequest
) -> pb.EmptyResponse:
    """Mark staged and published metrics splits for deletion; other IDs do not matter."""
    return await _mark(db, _METRICS, request)


async def delete_metrics_splits(
    db: Database, request: pb.DeleteMetricsSplitsRequest
) -> pb.EmptyResponse:
    """Delete marked metrics splits. `FailedPrecondition`, and none deleted, if one is in use."""
    return await _delete(db, _METRICS, request)


async def stage_sketch_splits(
    db: Database, request: pb.StageSketchSplitsRequest
) -> pb.EmptyResponse:
    """Stage sketch splits; as `stage_metrics_splits`."""
    return await _stage(db, _SKETCHES, request)


async def publish_sketch_splits(
    db: Database, request: pb.PublishSketchSplitsRequest
) -> pb.EmptyResponse:
    """Publish sketch splits; as `publish_metrics_splits`."""
    return await _publish(db, _SKETCHES, request)


async def list_sketch_splits(
    db: Database, request: pb.ListSketchSplitsRequest
) -> pb.ListSketchSplitsResponse:
    """Return the sketch splits that satisfy the query, by split ID, in one answer."""
    records = await _list(db, _SKETCHES, request)
    return pb.ListSketchSplitsResponse(splits_serialized_json=records)


async def mark_sketch_splits_for_deletion(
    db: Database, request: pb.MarkSketchSplitsForDeletionRequest
) -> pb.EmptyResponse:
    """Mark staged and published sketch splits for deletion; other IDs do not matter."""
    return await _mark(db, _SKETCHES, request)


async def delete_sketch_splits(
    db: Database, request: pb.DeleteSketchSplitsRequest
) -> pb.EmptyResponse:
    """Delete marked sketch splits. `FailedPrecondition`, and none deleted, if one is in use."""
    return await _delete(db, _SKETCHES, request)
