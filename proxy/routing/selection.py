"""Which backend takes a call.

Rules, in order:

1. A stale-tolerant read goes to a serving replica; of two drawn at random the one with fewer calls
   in flight wins. Between equals latency decides by odds, not outright: a replica that is twice as
   fast gets two of three calls, so that a slow one is still measured and can recover.
2. With no replica left it goes to a primary, as a *fallback*.
3. Every other call goes to a primary, a serving one drawn by the same rule. When none is known to
   serve, one that may answer is tried all the same: its refusal says more than silence.

A backend in `tried` has failed this call and is not chosen again. A replica that is not serving is
never chosen; a write never goes to a replica.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

from proxy.routing.catalogue import Rpc
from proxy.routing.members import Backend, BackendState, Load, Snapshot

_NO_LOAD: Final = Load()
_NONE_TRIED: Final[frozenset[str]] = frozenset()
# Latencies below this (seconds) count as equal: the difference would be noise.
_LATENCY_FLOOR: Final = 0.001

# Where a call is more likely to be answered, when no primary is known to serve: a connection not
# yet made, one made to a node that says it is not ready (it will say why), and one that broke.
_LAST_RESORT: Final = (BackendState.CONNECTING, BackendState.NOT_SERVING, BackendState.DOWN)


class Route(Enum):
    """Why a backend was chosen. Values are those of the metadata `x-metastore-route`."""

    REPLICA = "replica"
    PRIMARY = "primary"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that takes a call, and the route that led there."""

    backend: Backend
    route: Route


def may_use_replica(rpc: Rpc, *, allow_replica: bool = False) -> bool:
    """Tell whether a replica may serve the RPC; `allow_replica` is the caller's leave for reads."""
    return rpc.is_read and (rpc.is_stale_tolerant or allow_replica)


def choose(
    rpc: Rpc,
    snapshot: Snapshot,
    loads: Mapping[str, Load],
    rng: Random,
    tried: AbstractSet[str] = _NONE_TRIED,
    *,
    allow_replica: bool = False,
) -> Choice | None:
    """Return the backend for a call, or None when all that could take it have been tried.

    `loads` is by address; one that is missing counts as idle. `allow_replica` extends rule 1 to a
    read that is not stale-tolerant; it has no effect on a write.
    """
    wants_replica = may_use_replica(rpc, allow_replica=allow_replica)
    if wants_replica:
        replicas = _untried(snapshot.serving_replicas, tried)
        if replicas:
            return Choice(_least_loaded(replicas, loads, rng), Route.REPLICA)
    primary = _primary(snapshot, loads, rng, tried)
    if primary is None:
        return None
    return Choice(primary, Route.FALLBACK if wants_replica else Route.PRIMARY)


def _primary(
    snapshot: Snapshot, loads: Mapping[str, Load], rng: Random, tried: AbstractSet[str]
) -> Backend | None:
    serving = _untried(snapshot.serving_primaries, tried)
    if serving:
        return _least_loaded(serving, loads, rng)
    left = _untried(snapshot.primaries, tried)
    for state in _LAST_RESORT:
        group = [backend for backend in left if backend.state is state]
        if group:
            return rng.choice(group)
    return None


def _untried(backends: Sequence[Backend], tried: AbstractSet[str]) -> Sequence[Backend]:
    if not tried:
        return backends
    return [backend for backend in backends if backend.address not in tried]


def _least_loaded(backends: Sequence[Backend], loads: Mapping[str, Load], rng: Random) -> Backend:
    count = len(backends)
    if count == 1:
        return backends[0]
    first = rng.randrange(count)
    # Drawn from the others, so that the two always differ.
    second = (first + 1 + rng.randrange(count - 1)) % count
    one, other = backends[first], backends[second]
    load, other_load = loads.get(one.address, _NO_LOAD), loads.get(other.address, _NO_LOAD)
    if load.in_flight != other_load.in_flight:
        return one if load.in_flight < other_load.in_flight else other
    return one if rng.random() < _odds(load, other_load) else other


def _odds(load: Load, other: Load) -> float:
    """Return the probability of the first of two with as many calls in flight."""
    if load.latency == 0.0 or other.latency == 0.0:
        return 0.5
    latency = max(load.latency, _LATENCY_FLOOR)
    other_latency = max(other.latency, _LATENCY_FLOOR)
    return other_latency / (latency + other_latency)
