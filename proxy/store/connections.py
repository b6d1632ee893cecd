"""The pool's connections: each knows its age, and whether it is still fit to be handed out."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Iterable
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
        # Since when nobody uses it, by the monotonic clock.
        self.idle_since = 0.0
        # The sessions of its pool.
        self.siblings: Callable[[], Iterable[CheckedConnection]] = lambda: (self,)
        self._opened_at = time.monotonic()
        self._input = select.poll()
        self._input.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def get_reset_query(self) -> str:
        """Return no statement: what the driver would undo is never done on a pooled session.

        That saves a round trip for each call. An open transaction is rolled back nevertheless.
        """
        return ""

    @property
    def is_clean(self) -> bool:
        """Whether it can be lent to the next caller as it is: open, idle, and in no transaction."""
        if self.is_closed():
            return False
        # As the driver's own pool looks at them.
        driver: Any = self
        return not (
            driver._top_xact is not None
            or driver._protocol.is_in_transaction()
            or driver._protocol._is_cancelling()
        )

    async def clean(self, bound: float) -> None:
        """Let a statement that was cancelled end, and roll back what is open, within `bound` s.

        Raises what the driver raises, and `TimeoutError`: it is then not to be used again.
        """
        driver: Any = self
        async with asyncio.timeout(bound):
            await driver._protocol._wait_for_cancellation(bound)
            await self.reset()

    def _drop_global_statement_cache(self) -> None:
        # The driver's name for what it does when a column has changed its type: what one session
        # finds out holds for all.
        for session in self.siblings():
            driver: Any = session
            driver._drop_local_statement_cache()

    def is_fit(self, max_lifetime: float | None) -> bool:
        """Whether to hand the connection out without a further look: see `is_usable`."""
        return not (self.is_closed() or self._is_too_old(max_lifetime) or bool(self._input.poll(0)))

    def _is_too_old(self, max_lifetime: float | None) -> bool:
        return max_lifetime is not None and time.monotonic() - self._opened_at > max_lifetime

    async def is_usable(self, max_lifetime: float | None) -> bool:
        """Whether to hand the connection out: open and younger than its maximum lifetime.

        A server that went away has sent a farewell or the end of the stream. While the event loop
        has not read it yet, the connection still looks open: an idle one with input is doubtful.
        """
        if self._is_too_old(max_lifetime):
            return False
        for _ in range(_READ_TURNS):
            if self.is_closed() or not self._input.poll(0):
                break
            await asyncio.sleep(0)
        return not self.is_closed()


class PooledConnection(TransactionConnection, CheckedConnection):
    """One through a transaction pooler."""
