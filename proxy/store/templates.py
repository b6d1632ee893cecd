"""Index templates: the settings that a new index gets when its ID matches a pattern.

Facts: of the templates that match, the highest priority wins, then the first ID. Patterns are
always matched with LIKE, so `_` stands for any one character. With several negative patterns an
ID is excluded only if it matches all of them (a property of Quickwit's query, kept).
"""

from __future__ import annotations

from typing import Final

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import sqlstate, template_documents
from proxy.store.pool import Database
from proxy.store.queries import query

# The answer repeats a template for each ID that it matches: more would fit into no message.
MAX_INDEX_IDS: Final = 10_000


async def create_index_template(
    db: Database, request: pb.CreateIndexTemplateRequest
) -> pb.EmptyResponse:
    """Store a template as it was sent; with `overwrite` replace the one of that ID.

    `AlreadyExists(IndexTemplate)` without `overwrite`; `JsonDeserializeError` or
    `InvalidArgument` for a document that is not a valid template.
    """
    template = template_documents.decode(request.index_template_json)
    statement = query("templates/upsert" if request.overwrite else "templates/insert")
    with sqlstate.raw():
        async with db.acquire() as session:
            written = await session.fetchval(
                statement,
                template.template_id,
                template.positive_patterns,
                template.negative_patterns,
                template.priority,
                request.index_template_json,
            )
    if written is None:
        raise errors.AlreadyExists(errors.index_template(template.template_id))
    return pb.EmptyResponse()


async def get_index_template(
    db: Database, request: pb.GetIndexTemplateRequest
) -> pb.GetIndexTemplateResponse:
    """Return a template as it was sent. `NotFound(IndexTemplate)` if there is none of that ID."""
    with sqlstate.raw():
        async with db.acquire() as session:
            text = await session.fetchval(query("templates/get"), request.template_id)
    if text is None:
        raise errors.NotFound(errors.index_template(request.template_id))
    return pb.GetIndexTemplateResponse(index_template_json=text)


async def find_index_template_matches(
    db: Database, request: pb.FindIndexTemplateMatchesRequest
) -> pb.FindIndexTemplateMatchesResponse:
    """Return the template that applies to each index ID; IDs without one are left out.

    `InvalidArgument` for more than 10,000 IDs.
    """
    index_ids = list(request.index_ids)
    if len(index_ids) > MAX_INDEX_IDS:
        raise errors.InvalidArgument(
            f"field `index_ids` must have at most {MAX_INDEX_IDS} elements, "
            f"got {len(index_ids)}: ask with several requests"
        )
    if not index_ids:
        return pb.FindIndexTemplateMatchesResponse()
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(query("templates/find"), index_ids)
    return pb.FindIndexTemplateMatchesResponse(
        matches=[
            pb.IndexTemplateMatch(
                index_id=row["index_id"],
                template_id=row["template_id"],
                index_template_json=row["index_template_json"],
            )
            for row in rows
        ]
    )


async def list_index_templates(
    db: Database, request: pb.ListIndexTemplatesRequest
) -> pb.ListIndexTemplatesResponse:
    """Return all templates as they were sent, ordered by ID."""
    with sqlstate.raw():
        async with db.acquire() as session:
            rows = await session.fetch(query("templates/list"))
    return pb.ListIndexTemplatesResponse(
        index_templates_json=[row["index_template_json"] for row in rows]
    )


async def delete_index_templates(
    db: Database, request: pb.DeleteIndexTemplatesRequest
) -> pb.EmptyResponse:
    """Delete templates; unknown IDs do not matter."""
    with sqlstate.raw():
        async with db.acquire() as session:
            await session.execute(query("templates/delete"), list(request.template_ids))
    return pb.EmptyResponse()
