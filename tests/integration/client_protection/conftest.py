"""A client in front of scripted nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_node import FakeNode
from tests.support.protected_pair import Pair


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with FakeNode("p", role="metastore") as primary, FakeNode("r") as replica:
        yield Pair(primary, replica, [])
