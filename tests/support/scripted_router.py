"""A router in front of scripted nodes."""

from __future__ import annotations

from typing import Any

from proxy.router_node import RouterNode
from tests.support.fake_node import FakeNode
from tests.support.routers import Caller
from tests.support.waiting import until

ANSWER = b"\x0a\x03abc\xff not a message"


class Setup:
    """A primary, two replicas, a router before them, and a caller."""

    def __init__(
        self, primary: FakeNode, replicas: list[FakeNode], router: RouterNode, caller: Caller
    ) -> None:
        self.primary = primary
        self.replicas = replicas
        self.router = router
        self.caller = caller

    @property
    def nodes(self) -> list[FakeNode]:
        return [self.primary, *self.replicas]

    def script(self, unary: Any) -> None:
        for node in self.nodes:
            node.unary = unary

    async def all_serving(self) -> None:
        await until(lambda: len(self.router.client.backends().serving_replicas) == 2)


async def echo(name: str, raw: bytes, _context: Any) -> bytes:
    return name.encode() + b"|" + raw
