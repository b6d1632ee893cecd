"""The pool's connections: each knows its age, and whether it is still fit to be handed out."""

from __future__ import annotations

import asyncio
import select
import time
from typing import Any, Final

from proxy.store.measured import MeasuredConnection
from proxy.store.pooler import TransactionConnection

# Turns of the event loop within which it reads what has arrived and notices a closed connection.
_READ_TURNS: Final = 5


class CheckedConnection(MeasuredConnection):
    """A connection that knows its age and whether the server has sent something unasked."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *args: Any) -> None:
        super().__init__(protocol, transport, *args)
        self.incarnation = ""
        self._opened_at = time.monotonic()
        self._input = select.poll()
        self._input.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def get_reset_query(self) -> str:
        """Return no statement: what the driver would undo is never done on a pooled session.

        That saves a round trip for each call. An open transaction is rolled back nevertheless.
        """
        return ""

    @property
    def unwrapped(self) -> CheckedConnection:
        """The connection itself, taken through the pool's proxy, which dies before it does."""
        return self

    async def is_usable(self, max_lifetime: float | None) -> bool:
        """Whether to hand the connection out: open and younger than its maximum lifetime.

        A server that went away has sent a farewell or the end of the stream. While the event loop
        has not read it yet, the connection still looks open: an idle one with input is doubtful.
        """
        if max_lifetime is not None and time.monotonic() - self._opened_at > max_lifetime:
            return False
        for _ in range(_READ_TURNS):
            if self.is_closed() or not self._input.poll(0):
                break
            await asyncio.sleep(0)
        return not self.is_closed()


class PooledConnection(TransactionConnection, CheckedConnection):
    """One through a transaction pooler."""
