"""Real processes on a pair of their own: one metastore node, two replica nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.demo.cluster import DemoCluster


@pytest.fixture
async def cluster() -> AsyncIterator[DemoCluster]:
    """A running cluster; the test may kill and restart its nodes."""
    async with DemoCluster() as running:
        await running.start_databases()
        await running.start_nodes()
        yield running
