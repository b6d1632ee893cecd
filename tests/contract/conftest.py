"""The contract suite's fixture: each case runs three ways against the same database.

`store` calls the store in the test's process, `node` a metastore node over gRPC, `router` the
routing client. The router's replica node reads the primary's database, so that a case sees its own
writes: what a lagging replica does is the subject of other tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest

from proxy.client import RoutingClient
from proxy.roles import Role
from proxy.store.metastore import PostgresMetastore
from proxy.store.pool import Database
from tests.support.access import Metastore, StoreWay, Way
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch
from tests.support.remote_access import GrpcWay, RouterWay

MAX_MESSAGE_SIZE = 20 * 1024 * 1024


@pytest.fixture(scope="package")
async def sql(shared_scratch: Scratch) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the shared database on the primary, in UTC."""
    connection = await asyncpg.connect(
        shared_scratch.primary_uri, server_settings={"timezone": "UTC"}
    )
    yield connection
    await connection.close()


# For the suite only: other tests count the tasks and connections that they see.
@pytest.fixture(scope="package")
async def ways(shared_scratch: Scratch, shared_database: Database) -> AsyncIterator[dict[str, Way]]:
    """All ways, opened once."""
    # Without heartbeat a case that looks at all tables sees only what it wrote itself.
    uri = shared_scratch.primary_uri
    primary = node_config(Role.METASTORE, uri, node_id="primary", heartbeat=False)
    replica = node_config(Role.READ_REPLICA, uri, node_id="replica")
    async with (
        running(primary) as primary_node,
        running(replica) as replica_node,
        grpc.aio.insecure_channel(address(primary_node)) as channel,
        RoutingClient(
            [address(primary_node)], [address(replica_node)], allow_writes=True
        ) as client,
    ):
        await client.wait_until(
            lambda now: bool(now.serving_primaries and now.serving_replicas), 20
        )
        store = PostgresMetastore(shared_database, max_message_size=MAX_MESSAGE_SIZE)
        yield {"store": StoreWay(store), "node": GrpcWay(channel), "router": RouterWay(client)}


@pytest.fixture(params=["store", "node", "router"])
def metastore(
    request: pytest.FixtureRequest,
    ways: dict[str, Way],
    sql: asyncpg.Connection,
    clean: Scratch,
) -> Metastore:
    """The metastore by one way, its tables empty."""
    return Metastore(ways[request.param], sql)
