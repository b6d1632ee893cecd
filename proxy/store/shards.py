"""Shards: the pieces of a source's ingest queue, their position, owner token and state.

Facts: `update_timestamp` is stamped with this server's clock, not the database's, as in Quickwit.
The column `leader_id` is the ingester; `follower_id` is always NULL. A position that begins with
`~` is the end of the shard: everything in it is indexed. A publish token that contains `/` (of
old versions and of queue sources) wins whenever it is presented and loses against any plan token;
plan tokens begin with a ULID, so the later string is the newer plan. Every sub-message of a shard
is present in an answer, also when empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from proxy import errors, identifiers
from proxy.errors import InvalidArgument
from proxy.proto.quickwit import ingest_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import sqlstate
from proxy.store.pool import Database, Session
from proxy.store.queries import query
from proxy.store.requests import check_length, required, required_index_uid

_STATES: Final[dict[str, ingest_pb2.ShardState.ValueType]] = {
    "unspecified": ingest_pb2.SHARD_STATE_UNSPECIFIED,
    "open": ingest_pb2.SHARD_STATE_OPEN,
    "unavailable": ingest_pb2.SHARD_STATE_UNAVAILABLE,
    "closed": ingest_pb2.SHARD_STATE_CLOSED,
}
# Characters that the text columns of a shard hold.
_MAX_CHARS: Final = 255
# Each shard is opened by a statement of its own: more would outlast the callers' patience.
MAX_OPENED: Final = 10_000
_STATE_NAMES: Final[dict[int, str]] = {number: name for name, number in _STATES.items()}


async def open_shards(db: Database, request: pb.OpenShardsRequest) -> pb.OpenShardsResponse:
    """Open shards, or return them unchanged where they exist; answers keep the request's order.

    The request is checked whole before the first insert; then each shard is a statement of its
    own, and the earlier ones stay when a later one fails. `Db` for an unknown index or a missing
    `doc_mapping_uid`; `NotFound(Source)` when a shard vanishes between insert and read.
    """
    if len(request.subrequests) > MAX_OPENED:
        raise InvalidArgument(
            f"field `subrequests` must have at most {MAX_OPENED} elements, "
            f"got {len(request.subrequests)}: open the shards with several requests"
        )
    wanted = [
        _OpenArguments(subrequest, f"subrequests[{position}]")
        for position, subrequest in enumerate(request.subrequests)
    ]
    response = pb.OpenShardsResponse()
    if not wanted:
        return response
    with sqlstate.raw():
        async with db.acquire() as session:
            for arguments in wanted:
                shard = await _open_or_fetch(session, arguments)
                response.subresponses.add(subrequest_id=arguments.subrequest_id, open_shard=shard)
    return response


async def acquire_shards(
    db: Database, request: pb.AcquireShardsRequest
) -> pb.AcquireShardsResponse:
    """Give shards to a publish token; return those it got, by shard ID, as they are now.

    Shards that a newer token holds, and unknown ones, are left out. Neither the state nor the
    update time of a shard changes.
    """
    index_uid, shard_ids = required_index_uid(request), _shard_ids(request.shard_ids)
    check_length(request.publish_token, _MAX_CHARS, "publish_token")
    if not shard_ids:
        return pb.AcquireShardsResponse()
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(
                query("shards/acquire"),
                index_uid,
                request.source_id,
                shard_ids,
                request.publish_token,
            )
    return pb.AcquireShardsResponse(acquired_shards=[_shard(row) for row in rows])


async def delete_shards(db: Database, request: pb.DeleteShardsRequest) -> pb.DeleteShardsResponse:
    """Delete shards that are fully indexed, or all of them with `force`.

    Those that exist and are not fully indexed are `failures`; every other ID asked for, unknown
    ones included, is a success. A request without IDs gets an empty answer.
    """
    index_uid, shard_ids = required_index_uid(request), _shard_ids(request.shard_ids)
    if not shard_ids:
        return pb.DeleteShardsResponse()
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(
                query("shards/delete"), index_uid, request.source_id, shard_ids, request.force
            )
    kept = {row["shard_id"] for row in rows}
    return pb.DeleteShardsResponse(
        index_uid=request.index_uid,
        source_id=request.source_id,
        successes=[_shard_id(text) for text in shard_ids if text not in kept],
        failures=[_shard_id(text) for text in dict.fromkeys(shard_ids) if text in kept],
    )


async def prune_shards(db: Database, request: pb.PruneShardsRequest) -> pb.EmptyResponse:
    """Delete shards by age (seconds since their update, exclusive) and by number, state no matter.

    Age goes first, then all but the `max_count` most recently updated. `interval_secs` is for the
    caller's own pacing. Without either bound nothing happens.
    """
    index_uid = required_index_uid(request)
    has_age, has_count = request.HasField("max_age_secs"), request.HasField("max_count")
    if not (has_age or has_count):
        return pb.EmptyResponse()
    with sqlstate.raw():
        async with db.acquire() as session:
            if has_age:
                oldest = _now() - timedelta(seconds=request.max_age_secs)
                await session.execute(
                    query("shards/prune_age"), index_uid, request.source_id, oldest
                )
            if has_count:
                await session.execute(
                    query("shards/prune_count"), index_uid, request.source_id, request.max_count
                )
    return pb.EmptyResponse()


async def list_shards(db: Database, request: pb.ListShardsRequest) -> pb.ListShardsResponse:
    """Return one answer for each distinct (index, source) asked for, also when it has no shard.

    An absent, unspecified or unknown state does not filter. Several questions about one source
    are merged. Shards are ordered by ID.
    """
    answers: dict[tuple[str, str], pb.ListShardsSubresponse] = {}
    questions: dict[tuple[str, str, str | None], None] = {}
    for position, subrequest in enumerate(request.subrequests):
        index_uid = _subrequest_index_uid(subrequest, f"subrequests[{position}]")
        source_id = subrequest.source_id
        questions[index_uid, source_id, _state_filter(subrequest.shard_state)] = None
        if (index_uid, source_id) not in answers:
            answers[index_uid, source_id] = pb.ListShardsSubresponse(
                index_uid=identifiers.index_uid_message(index_uid), source_id=source_id
            )
    if not answers:
        return pb.ListShardsResponse()
    columns = [list(column) for column in zip(*questions, strict=True)]
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(query("shards/list"), *columns)
    for row in rows:
        answers[row["index_uid"], row["source_id"]].shards.append(_shard(row))
    return pb.ListShardsResponse(subresponses=answers.values())


class _OpenArguments:
    """The checked values of one request to open a shard."""

    def __init__(self, subrequest: pb.OpenShardSubrequest, path: str) -> None:
        self.subrequest_id = subrequest.subrequest_id
        self.index_uid = _subrequest_index_uid(subrequest, path)
        self.source_id = _column(subrequest.source_id, f"{path}.source_id")
        try:
            required(subrequest, "shard_id")
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error.message}") from error
        self.shard_id = _column(_text(subrequest.shard_id, f"{path}.shard_id"), f"{path}.shard_id")
        # Empty for the shards of queue sources, which no ingester has.
        self.ingester_id = check_length(subrequest.ingester_id, _MAX_CHARS, f"{path}.ingester_id")
        # An absent doc mapping is left to the database to refuse, as in Quickwit.
        self.doc_mapping_uid = (
            identifiers.ulid_from_wire(
                subrequest.doc_mapping_uid.doc_mapping_uid, f"{path}.doc_mapping_uid"
            )
            if subrequest.HasField("doc_mapping_uid")
            else None
        )
        self.publish_token = (
            check_length(subrequest.publish_token, _MAX_CHARS, f"{path}.publish_token")
            if subrequest.HasField("publish_token")
            else None
        )


async def _open_or_fetch(session: Session, arguments: _OpenArguments) -> ingest_pb2.Shard:
    key = (arguments.index_uid, arguments.source_id, arguments.shard_id)
    row = await session.fetchrow(
        query("shards/open"),
        *key,
        arguments.ingester_id,
        arguments.doc_mapping_uid,
        arguments.publish_token,
        _now(),
    )
    if row is None:
        row = await session.fetchrow(query("shards/fetch"), *key)
    if row is None:
        # Quickwit names the whole index UID here.
        raise errors.NotFound(errors.source(arguments.index_uid, arguments.source_id))
    return _shard(row)


def _column(text: str, field: str) -> str:
    if not text:
        raise InvalidArgument(f"field `{field}` must not be empty")
    return check_length(text, _MAX_CHARS, field)


def _subrequest_index_uid(
    subrequest: pb.OpenShardSubrequest | pb.ListShardsSubrequest, path: str
) -> str:
    try:
        return required_index_uid(subrequest)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from error


def _state_filter(state: int) -> str | None:
    return _STATE_NAMES.get(state) if state != ingest_pb2.SHARD_STATE_UNSPECIFIED else None


def _shard_ids(messages: Iterable[ingest_pb2.ShardId]) -> list[str]:
    return [_text(message, f"shard_ids[{n}]") for n, message in enumerate(messages)]


def _text(shard_id: ingest_pb2.ShardId, field: str) -> str:
    try:
        text = shard_id.shard_id.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"field `{field}` must be UTF-8 text, got {len(shard_id.shard_id)} bytes that are not"
        ) from error
    if "\0" in text:
        raise InvalidArgument(f"field `{field}` holds a NUL character, remove it")
    return text


def _shard_id(text: str) -> ingest_pb2.ShardId:
    return ingest_pb2.ShardId(shard_id=text.encode())


def _shard(row: asyncpg.Record) -> ingest_pb2.Shard:
    try:
        shard = ingest_pb2.Shard(
            index_uid=identifiers.index_uid_message(row["index_uid"]),
            source_id=row["source_id"],
            shard_id=_shard_id(row["shard_id"]),
            ingester_id=row["leader_id"],
            shard_state=_STATES[row["shard_state"]],
            publish_position_inclusive=ingest_pb2.Position(
                position=row["publish_position_inclusive"].encode()
            ),
            doc_mapping_uid=identifiers.doc_mapping_uid_message(row["doc_mapping_uid"]),
            update_timestamp=row["update_timestamp"],
        )
    except ValueError as error:
        raise errors.Db(f"shard `{row['shard_id']}` cannot be read: {error}") from error
    if row["publish_token"] is not None:
        shard.publish_token = row["publish_token"]
    return shard


def _now() -> datetime:
    # Timestamp columns have no zone and hold UTC.
    return datetime.now(UTC).replace(tzinfo=None)
