"""What a choice looks at: the backends, their loads, their data, and the router's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.routing.freshness import Freshness
from proxy.routing.members import Backend, Load, Snapshot

_NO_LOAD: Final = Load()
# A replica that just returned counts as having this part of its strength.
_LEAST_STRENGTH: Final = 0.2


@dataclass(frozen=True, slots=True)
class Policy:
    """A router's settings of choice. Times are seconds.

    serve_stale   whether rule 4 holds
    slow_start    how long a replica that returned takes to get its full share
    filling       calls that it may have in flight towards the end of that time
    likely_lag    a replica this fresh may be asked for a position it is not yet known to have
    zone          the router's own availability zone; empty for none
    """

    serve_stale: bool = True
    slow_start: float = 5.0
    filling: int = 32
    likely_lag: float = 0.75
    zone: str = ""


DEFAULT_POLICY: Final = Policy()

# What is asked for (bound, position, whether one must be shown, or is known) and in which zone.
ListKey = tuple[float | None, int | None, bool, bool, str]

# Until when the list holds, the replicas it was made of, and those that met the need.
Shortlists = dict[ListKey, tuple[float, tuple[Backend, ...], tuple[Backend, ...]]]


@dataclass(frozen=True, slots=True)
class View:
    """All that a choice looks at, at one moment: `now` in monotonic seconds.

    `loads` and `freshness` are by address; what is missing is idle, or unknown. `has_room` tells
    whether the primaries take one more read in place of a replica. `shortlists` is a memory that
    only saves time; see `drawing`.
    """

    snapshot: Snapshot
    loads: Mapping[str, Load]
    freshness: Mapping[str, Freshness]
    now: float = 0.0
    has_room: bool = True
    policy: Policy = DEFAULT_POLICY
    shortlists: Shortlists = field(default_factory=dict)

    def load(self, backend: Backend) -> Load:
        """Return the load of a backend."""
        return self.loads.get(backend.address, _NO_LOAD)

    def strength(self, backend: Backend) -> float:
        """Return which part of its full share a backend gets: less than 1 after its return."""
        if backend.returned is None:
            return 1.0
        elapsed = self.now - backend.returned
        if elapsed >= self.policy.slow_start:
            return 1.0
        return max(_LEAST_STRENGTH, elapsed / self.policy.slow_start)
