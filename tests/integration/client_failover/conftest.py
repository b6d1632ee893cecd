"""A client in front of a primary and a replica."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.client import Event, RoutingClient
from tests.support.failing_pair import Pair
from tests.support.fake_node import FakeNode


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    events: list[Event] = []
    async with (
        FakeNode("p", role="metastore") as primary,
        FakeNode("r") as replica,
        RoutingClient(
            [primary.address], [replica.address], allow_writes=True, listener=events.append
        ) as client,
    ):
        made = Pair(primary, replica, client, events)
        await made.settled()
        yield made
