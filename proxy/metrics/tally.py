"""How many calls there were, by route and by backend: what rates are worked out from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from proxy.errors import Code

# The route of calls that a node answers itself.
SERVED: Final = "served"
# Codes that tell of a service in trouble; the others tell of the call.
_TROUBLE: Final = frozenset(
    {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.RESOURCE_EXHAUSTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
    }
)


@dataclass(slots=True)
class Count:
    """Calls that have ended, and those among them that failed by no fault of the caller."""

    calls: int = 0
    failed: int = 0

    def add(self, code: Code) -> None:
        """Count a call."""
        self.calls += 1
        self.failed += code in _TROUBLE


class Counts(Protocol):
    """Counts by route and by a backend's address."""

    @property
    def routes(self) -> Mapping[str, Count]: ...

    @property
    def backends(self) -> Mapping[str, Count]: ...


class Tally:
    """Counts from the start of the node on, of what has a place: a few routes, known backends."""

    def __init__(self) -> None:
        self._routes: dict[str, Count] = {}
        self._backends: dict[str, Count] = {}

    @property
    def routes(self) -> Mapping[str, Count]:
        """Calls by route. A live view."""
        return MappingProxyType(self._routes)

    @property
    def backends(self) -> Mapping[str, Count]:
        """Calls by a backend's address. A live view."""
        return MappingProxyType(self._backends)

    def served(self, code: Code) -> None:
        """Count a call that the node took."""
        _at(self._routes, SERVED).add(code)

    def routed(self, route: str, code: Code) -> None:
        """Count a call that went to a backend."""
        _at(self._routes, route).add(code)

    def answered(self, backend: str, code: Code) -> None:
        """Count a call for the backend that it went to."""
        _at(self._backends, backend).add(code)

    def forget(self, backend: str) -> None:
        """Forget a backend that has left."""
        self._backends.pop(backend, None)


def _at(counts: dict[str, Count], key: str) -> Count:
    found = counts.get(key)
    if found is None:
        found = counts[key] = Count()
    return found
