"""Load shedding: a bound on calls in flight per RPC; a call past it is refused at once.

Facts: each RPC has its own bound of twice the pool's `max_connections`; a shed call is answered
`TooManyRequests` and is not counted in the server metrics. Unlike Quickwit, which lets go of a
stream's permit when the stream opens, a stream counts here until it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from proxy import errors
from proxy.routing.catalogue import Rpc


class Shedder:
    """Counts calls in flight per RPC. Not thread-safe: for one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def admit(self, rpc: Rpc) -> Iterator[None]:
        """Hold a permit for one call. `TooManyRequests` when none is free."""
        if self._in_flight[rpc.name] >= self.limit:
            raise errors.TooManyRequests
        self._in_flight[rpc.name] += 1
        try:
            yield
        finally:
            self._in_flight[rpc.name] -= 1

    @property
    def in_flight(self) -> int:
        """Calls in flight over all RPCs."""
        return self._in_flight.total()
