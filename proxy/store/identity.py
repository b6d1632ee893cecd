"""The identity of the cluster that owns the database."""

from __future__ import annotations

import uuid

from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import sqlstate
from proxy.store.pool import Database
from proxy.store.queries import query


async def get_cluster_identity(
    db: Database, request: pb.GetClusterIdentityRequest
) -> pb.GetClusterIdentityResponse:
    """Return the cluster's UUID (v4, lower case), the same for ever.

    The first call of all stores it. It writes even when the value exists, because one upsert both
    stores and reads; so it is `Forbidden` on a read-only session.
    """
    with sqlstate.raw():
        async with db.acquire() as session:
            value = await session.fetchval(query("identity/get"), str(uuid.uuid4()))
    return pb.GetClusterIdentityResponse(uuid=value)
