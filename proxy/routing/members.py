"""The backends that a router knows, as a snapshot that never changes.

A change makes a new snapshot. What selection asks for often (who is serving, by role) is worked
out when the snapshot is made, so that a choice costs the same with three backends and a thousand.

States of a backend, as its health watch sees it::

    state          meaning                                   leaves to
    CONNECTING     just learned of, nothing heard yet        SERVING, NOT_SERVING, DOWN
    SERVING        connected, and says that it serves        NOT_SERVING, DOWN
    NOT_SERVING    connected, and says that it does not      SERVING, DOWN
    DOWN           no connection, or a call found it dead    SERVING, NOT_SERVING

A backend that serves may besides be *ejected*, for as long as its breaker lets no call through, and
*foreign*, when it serves another cluster's database: then it takes no call at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Final

# How much one more measured latency weighs in the smoothed one.
_LATENCY_WEIGHT: Final = 0.2
# How long (seconds) a call that was given to a backend is remembered.
GIVEN_WITHIN: Final = 1.0


class BackendRole(Enum):
    """What a backend is to the router. Values are those of the metadata `x-metastore-role`."""

    PRIMARY = "primary"
    REPLICA = "replica"


class BackendState(Enum):
    """What is known of a backend's health. The module's text has the transitions."""

    CONNECTING = "connecting"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a backend says of itself, as far as it changes rarely."""

    node_id: str = ""
    zone: str = ""
    in_recovery: bool | None = None
    is_foreign: bool = False


NO_FACTS: Final = Facts()


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend. `address` (`host:port`) is its identity. Times are monotonic seconds.

    `since` is that of its state; `returned` is when it last came back from a failure, None for one
    that never failed; `joined` is when it was learned of, and tells it from an earlier one at its
    address. `trouble` is why it cannot be reached, where that is known and for a person to mend.
    """

    address: str
    role: BackendRole
    state: BackendState = BackendState.CONNECTING
    since: float = 0.0
    returned: float | None = None
    is_ejected: bool = False
    facts: Facts = NO_FACTS
    joined: float = field(default=0.0, compare=False)
    trouble: str = ""

    @property
    def description(self) -> str:
        """What it is, where and how it is, on one line."""
        text = f"{self.role.value} {self.address} {self.state.value}"
        return f"{text} ({self.trouble})" if self.trouble else text

    @property
    def is_serving(self) -> bool:
        """Whether it is connected, says that it serves, and belongs to this cluster."""
        return self.state is BackendState.SERVING and not self.facts.is_foreign

    @property
    def is_standby(self) -> bool:
        """Whether it is a primary's node whose database is in recovery: it cannot write."""
        return self.role is BackendRole.PRIMARY and self.facts.in_recovery is True


@dataclass(frozen=True, slots=True)
class Load:
    """What the router itself has seen of a backend: calls in flight, and smoothed latency.

    `latency` is in seconds; 0 means that no call has been measured. `given` counts the calls given
    to it, those of `GIVEN_WITHIN` seconds ago for a third of one; it was right at `given_at`.
    """

    in_flight: int = 0
    latency: float = 0.0
    given: float = field(default=0.0, compare=False)
    given_at: float = field(default=0.0, compare=False)

    def begun(self, now: float = 0.0) -> Load:
        """Return the load with one more call in flight, given at `now`."""
        return Load(self.in_flight + 1, self.latency, self.given_until(now) + 1.0, now)

    def given_until(self, now: float) -> float:
        """Return `given` as it is at `now`."""
        return self.given * math.exp(min(0.0, self.given_at - now) / GIVEN_WITHIN)

    def ended(self, seconds: float | None) -> Load:
        """Return the load with one call fewer; `seconds` is None for a call that failed.

        Failures are not measured: a backend that fails fast must not look like a fast one.
        """
        in_flight = max(0, self.in_flight - 1)
        if seconds is None:
            return Load(in_flight, self.latency, self.given, self.given_at)
        is_first = self.latency == 0.0
        latency = seconds if is_first else self.latency + _LATENCY_WEIGHT * (seconds - self.latency)
        return Load(in_flight, latency, self.given, self.given_at)


@dataclass(frozen=True)
class Snapshot:
    """All backends at one moment, ordered by role and address.

    `ready_replicas` are those that serve and are not ejected; `ready_in` has them by zone.
    """

    backends: tuple[Backend, ...] = ()
    primaries: tuple[Backend, ...] = field(init=False, repr=False, compare=False)
    serving_primaries: tuple[Backend, ...] = field(init=False, repr=False, compare=False)
    serving_replicas: tuple[Backend, ...] = field(init=False, repr=False, compare=False)
    ready_replicas: tuple[Backend, ...] = field(init=False, repr=False, compare=False)
    ejected_replicas: tuple[Backend, ...] = field(init=False, repr=False, compare=False)
    ready_in: Mapping[str, tuple[Backend, ...]] = field(init=False, repr=False, compare=False)
    _by_address: Mapping[str, Backend] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_address = {backend.address: backend for backend in self.backends}
        if len(by_address) != len(self.backends):
            raise ValueError("an address occurs twice in a snapshot of the backends")
        primaries = tuple(b for b in self.backends if b.role is BackendRole.PRIMARY)
        replicas = tuple(b for b in self.replicas() if b.is_serving)
        ready = tuple(b for b in replicas if not b.is_ejected)
        zones: dict[str, list[Backend]] = {}
        for backend in ready:
            zones.setdefault(backend.facts.zone, []).append(backend)
        derived = {
            "primaries": primaries,
            "serving_primaries": tuple(b for b in primaries if b.is_serving),
            "serving_replicas": replicas,
            "ready_replicas": ready,
            "ejected_replicas": tuple(b for b in replicas if b.is_ejected),
            "ready_in": MappingProxyType({zone: tuple(found) for zone, found in zones.items()}),
            "_by_address": MappingProxyType(by_address),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, backends: Iterable[Backend]) -> Snapshot:
        """Return a snapshot of `backends`, put in order. `ValueError` if an address repeats."""
        return cls(tuple(sorted(backends, key=lambda b: (b.role.value, b.address))))

    def get(self, address: str) -> Backend | None:
        """Return the backend at `address`, or None."""
        return self._by_address.get(address)

    def replicas(self) -> tuple[Backend, ...]:
        """Return all replicas, whatever their state."""
        return tuple(b for b in self.backends if b.role is BackendRole.REPLICA)

    def with_state(
        self, address: str, state: BackendState, now: float, trouble: str = ""
    ) -> Snapshot:
        """Return the snapshot after a backend's state, or its trouble, changed at `now`.

        Returns itself when nothing changes: the address is gone, or already in that state.
        """
        backend = self.get(address)
        if backend is None or (backend.state is state and backend.trouble == trouble):
            return self
        backend = replace(backend, trouble=trouble)
        if backend.state is state:
            return self._with(backend)
        has_failed = backend.state in (BackendState.DOWN, BackendState.NOT_SERVING)
        returned = now if has_failed and state is BackendState.SERVING else backend.returned
        return self._with(replace(backend, state=state, since=now, returned=returned))

    def with_facts(self, address: str, facts: Facts) -> Snapshot:
        """Return the snapshot with what a backend says of itself; itself when nothing changes."""
        backend = self.get(address)
        if backend is None or backend.facts == facts:
            return self
        return self._with(replace(backend, facts=facts))

    def with_ejected(self, address: str, is_ejected: bool, now: float) -> Snapshot:
        """Return the snapshot after a breaker began or ceased to hold calls back at `now`."""
        backend = self.get(address)
        if backend is None or backend.is_ejected is is_ejected:
            return self
        returned = backend.returned if is_ejected else now
        return self._with(replace(backend, is_ejected=is_ejected, returned=returned))

    def _with(self, new: Backend) -> Snapshot:
        return Snapshot(tuple(new if b.address == new.address else b for b in self.backends))

    def with_members(self, roles: Mapping[str, BackendRole], now: float) -> Snapshot:
        """Return the snapshot whose addresses and roles are exactly `roles`.

        A backend that stays with its role keeps its state; a new one starts as CONNECTING.
        """
        kept = {b.address: b for b in self.backends if roles.get(b.address) is b.role}
        return Snapshot.of(
            kept.get(address) or Backend(address, role, since=now, joined=now)
            for address, role in roles.items()
        )
