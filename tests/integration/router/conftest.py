"""A router in front of scripted nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.support.fake_node import FakeNode
from tests.support.nodes import address
from tests.support.routers import Caller, router_config, routing
from tests.support.scripted_router import Setup


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(FakeNode("primary-1", role="metastore"))
        replicas = [
            await stack.enter_async_context(FakeNode(f"replica-{number}")) for number in (1, 2)
        ]
        config = router_config([primary.address], [one.address for one in replicas])
        router = await stack.enter_async_context(routing(config))
        caller = await stack.enter_async_context(Caller(address(router)))
        made = Setup(primary, replicas, router, caller)
        await made.all_serving()
        yield made
