"""Real processes on a pair of their own: one metastore node, two replica nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.demo.cluster import DemoCluster
from proxy.demo.postgres import PostgresPair
from tests.support.pods import DATABASE
from tests.support.postgres import SETUP


@pytest.fixture
async def cluster() -> AsyncIterator[DemoCluster]:
    """A running cluster; the test may kill and restart its nodes."""
    async with DemoCluster() as running:
        await running.start_databases()
        await running.start_nodes()
        yield running


@pytest.fixture(scope="session")
async def pair() -> AsyncIterator[PostgresPair]:
    """The databases of what is deployed, with the roles of `config/postgres`."""
    async with PostgresPair(setup=SETUP) as made:
        assert made.setup is not None
        await made.setup.make_roles(made.primary, DATABASE)
        yield made
