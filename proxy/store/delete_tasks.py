"""Delete tasks: queries whose matches are to be removed from an index, numbered by opstamps.

Facts: opstamps come from one sequence of the database: strictly increasing, with gaps, from 1.
The query AST is opaque. A stored query is `{"index_uid", "start_timestamp", "end_timestamp",
"query_ast"}`; absent timestamps are left out, and `index_id` and `query` are accepted as names.
"""

from __future__ import annotations

from typing import Any, Final

from proxy import identifiers
from proxy.errors import InvalidArgument
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import documents, sqlstate
from proxy.store.pool import Database
from proxy.store.queries import query
from proxy.store.requests import index_id_of, required_index_uid

_STRUCT: Final = "DeleteQuery"


async def last_delete_opstamp(
    db: Database, request: pb.LastDeleteOpstampRequest
) -> pb.LastDeleteOpstampResponse:
    """Return the highest opstamp of an index; 0 without tasks or for an unknown index."""
    index_uid = required_index_uid(request)
    with sqlstate.raw():
        async with db.acquire() as session:
            opstamp = await session.fetchval(query("delete_tasks/last_opstamp"), index_uid)
    return pb.LastDeleteOpstampResponse(last_delete_opstamp=opstamp)


async def create_delete_task(db: Database, request: pb.DeleteQuery) -> pb.DeleteTask:
    """Add a delete task; each call adds one. `NotFound` for an unknown index or incarnation."""
    index_uid = required_index_uid(request)
    with sqlstate.mapped(index_id_of(index_uid)):
        async with db.acquire() as session:
            row = await session.fetchrow(
                query("delete_tasks/insert"), index_uid, _stored_query(request, index_uid)
            )
    if row is None:
        raise RuntimeError("an insert that succeeds returns its row")
    return pb.DeleteTask(
        create_timestamp=row["create_timestamp"], opstamp=row["opstamp"], delete_query=request
    )


async def list_delete_tasks(
    db: Database, request: pb.ListDeleteTasksRequest
) -> pb.ListDeleteTasksResponse:
    """Return the tasks of an index after `opstamp_start`, by ascending opstamp.

    `JsonDeserializeError` when a stored query cannot be read.
    """
    index_uid = required_index_uid(request)
    if request.opstamp_start > documents.I64_MAX:
        raise InvalidArgument(
            f"field `opstamp_start` must be at most {documents.I64_MAX}, "
            f"got {request.opstamp_start}"
        )
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(query("delete_tasks/list"), index_uid, request.opstamp_start)
    return pb.ListDeleteTasksResponse(
        delete_tasks=[
            pb.DeleteTask(
                create_timestamp=row["create_timestamp"],
                opstamp=row["opstamp"],
                delete_query=_read_query(row["delete_query_json"], row["index_uid"]),
            )
            for row in rows
        ]
    )


def _stored_query(request: pb.DeleteQuery, index_uid: str) -> str:
    document: dict[str, Any] = {"index_uid": index_uid}
    if request.HasField("start_timestamp"):
        document["start_timestamp"] = request.start_timestamp
    if request.HasField("end_timestamp"):
        document["end_timestamp"] = request.end_timestamp
    document["query_ast"] = request.query_ast
    return documents.dump(document)


def _read_query(text: str, index_uid: str) -> pb.DeleteQuery:
    reader = documents.Reader(documents.parse(text, _STRUCT, is_stored=True), _STRUCT)
    for name, alias in (("index_uid", "index_id"), ("query_ast", "query")):
        if alias in reader.document:
            if name in reader.document:
                reader.fail(f"duplicate field `{name}`")
            reader.document[name] = reader.document.pop(alias)
    try:
        uid = identifiers.index_uid_message(reader.string("index_uid", index_uid, nullable=True))
    except ValueError as error:
        reader.fail(str(error))
    message = pb.DeleteQuery(index_uid=uid, query_ast=reader.string("query_ast"))
    start, end = (
        reader.integer(
            key, None, nullable=True, minimum=documents.I64_MIN, maximum=documents.I64_MAX
        )
        for key in ("start_timestamp", "end_timestamp")
    )
    if start is not None:
        message.start_timestamp = start
    if end is not None:
        message.end_timestamp = end
    return message
