"""Load shedding: a bound on calls in flight per RPC; a call past it is refused at once.

Facts: each RPC has its own bound of twice the pool's `max_connections`; a shed call is answered
`TooManyRequests` and is not counted in the server metrics. Unlike Quickwit, which lets go of a
stream's permit when the stream opens, a stream counts here until it ends.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from types import TracebackType

from proxy import errors
from proxy.routing.catalogue import Rpc


class Shedder:
    """Counts calls in flight per RPC. Not thread-safe: for one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_flight: Counter[str] = Counter()

    def admit(self, rpc: Rpc) -> AbstractContextManager[None]:
        """Hold a permit for one call. `TooManyRequests` when none is free."""
        return _Permit(self.limit, self._in_flight, rpc.name)

    @property
    def in_flight(self) -> int:
        """Calls in flight over all RPCs."""
        return self._in_flight.total()


class _Permit:
    """An object, because it is made for every call and a generator costs three times as much."""

    __slots__ = ("_in_flight", "_limit", "_name")

    def __init__(self, limit: int, in_flight: Counter[str], name: str) -> None:
        self._limit = limit
        self._in_flight = in_flight
        self._name = name

    def __enter__(self) -> None:
        if self._in_flight[self._name] >= self._limit:
            raise errors.TooManyRequests
        self._in_flight[self._name] += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._in_flight[self._name] -= 1
