"""A primary's node and a replica's, and a pair of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.demo.postgres import PostgresPair
from proxy.roles import Role
from tests.support.ages import serving
from tests.support.pairs import QuickPair
from tests.support.postgres import Scratch
from tests.support.replication import Told


@pytest.fixture
async def primary(migrated_database: Scratch) -> AsyncIterator[Told]:
    """A `metastore` node that stamps the heartbeat."""
    async with serving(Role.METASTORE, migrated_database.primary_uri) as (_, told):
        yield told


@pytest.fixture
async def replica(migrated_database: Scratch) -> AsyncIterator[Told]:
    """A replica's node on the standby."""
    uri = migrated_database.standby_uri
    async with serving(Role.READ_REPLICA, uri, node_id="replica-1") as (_, told):
        yield told


@pytest.fixture
async def own() -> AsyncIterator[PostgresPair]:
    """A pair that a test may break."""
    async with QuickPair() as pair:
        yield pair
