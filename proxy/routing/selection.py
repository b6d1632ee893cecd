"""Which backend takes a call.

Rules, in order, for a read that a replica may serve:

1. An eligible replica: it serves, its breaker lets calls through, and it meets the call's need. One
   of the router's own zone goes first. Of two drawn at random the one with fewer calls in flight
   wins; between equals latency decides by odds, not outright: a replica that is twice as fast gets
   two of three calls, so that a slow one is still measured and can recover. A smaller difference is
   noise and decides nothing: nodes of one kind are used evenly (see `drawing`).
2. A primary that serves and has room, as a *fallback*.
3. An eligible replica that is filling up after its return (see `_is_full`).
4. With `serve_stale`, and no position asked for, a replica over its bound: *stale*.
5. A replica whose breaker is open, unless a primary would have served but for want of room.
6. A primary that is not known to serve: its refusal says more than silence.

Every other call goes to a primary, a serving one drawn by the same rule, else as in 6. A write
never goes to a replica. A primary's node whose database is in recovery takes only reads that any
replica might serve. A backend in `tried` has failed this call and is not chosen again; one of
another cluster never is.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final

from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import EVENTUALLY, Need
from proxy.routing.drawing import draw, least_loaded
from proxy.routing.freshness import UNKNOWN
from proxy.routing.members import Backend, BackendState
from proxy.routing.view import View

_NONE_TRIED: Final[frozenset[str]] = frozenset()

# Where a call is more likely to be answered, when no primary is known to serve: a connection not
# yet made, one made to a node that says it is not ready (it will say why), and one that broke.
_LAST_RESORT: Final = (BackendState.CONNECTING, BackendState.NOT_SERVING, BackendState.DOWN)


class Route(Enum):
    """Why a backend was chosen. Values are those of the metadata `x-metastore-route`."""

    REPLICA = "replica"
    PRIMARY = "primary"
    FALLBACK = "fallback"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that takes a call, and the route that led there."""

    backend: Backend
    route: Route


class Obstacle(Enum):
    """Why a replica does not take a call; the value is what a person is told."""

    TRIED = "it has failed this call already"
    NOT_SERVING = "it does not serve"
    FOREIGN = "it serves another cluster's database"
    EJECTED = "its breaker is open"
    UNKNOWN_LAG = "its lag is unknown"
    TOO_OLD = "its lag is over the bound"
    NO_POSITION = "it cannot show its position in the WAL"
    BEHIND = "it has not replayed the position asked for"
    FILLING = "it returned a moment ago and fills up slowly"
    STANDBY = "its database is in recovery"
    PRIMARY_ONLY = "the call goes to a primary"


def may_use_replica(rpc: Rpc, *, allow_replica: bool = False) -> bool:
    """Tell whether a replica may serve the RPC; `allow_replica` is the caller's leave for reads."""
    return rpc.is_read and (rpc.is_stale_tolerant or allow_replica)


def wants_replica(rpc: Rpc, need: Need) -> bool:
    """Tell whether a call goes to a replica if one is eligible."""
    return may_use_replica(rpc, allow_replica=need.allow_replica) and not need.primary_only


def unfit(backend: Backend, view: View, need: Need) -> Obstacle | None:
    """Return what a replica's data lack for a call; None when they are fresh enough."""
    if need.max_lag is None and need.min_lsn is None and not need.proves_lsn:
        return None
    known = view.freshness.get(backend.address, UNKNOWN)
    lag = known.lag(view.now)
    if need.max_lag is not None:
        if lag is None:
            return Obstacle.UNKNOWN_LAG
        if lag > need.max_lag:
            return Obstacle.TOO_OLD
    if need.min_lsn is not None:
        if known.lsn is None:
            return Obstacle.NO_POSITION
        # One that keeps up has it by now, or within the moment that it waits for it.
        is_likely = not need.has_waited and lag is not None and lag <= view.policy.likely_lag
        if known.lsn < need.min_lsn and not is_likely:
            return Obstacle.BEHIND
    elif need.proves_lsn and known.lsn is None:
        return Obstacle.NO_POSITION
    return None


def obstacle(
    backend: Backend, view: View, need: Need, tried: AbstractSet[str] = _NONE_TRIED
) -> Obstacle | None:
    """Return why a replica is not eligible for a call that replicas may serve; None if it is."""
    if backend.address in tried:
        return Obstacle.TRIED
    if backend.facts.is_foreign:
        return Obstacle.FOREIGN
    if backend.state is not BackendState.SERVING:
        return Obstacle.NOT_SERVING
    if backend.is_ejected:
        return Obstacle.EJECTED
    found = unfit(backend, view, need)
    if found is None and _is_full(backend, view):
        return Obstacle.FILLING
    return found


def _is_full(backend: Backend, view: View) -> bool:
    """Tell whether a replica that returned has its share: at first 2 calls, then ever more."""
    if backend.returned is None:
        return False
    elapsed = view.now - backend.returned
    if elapsed >= view.policy.slow_start:
        return False
    part = max(0.0, elapsed) / view.policy.slow_start
    return view.load(backend).in_flight >= 2 + part * view.policy.filling


def choose(
    rpc: Rpc,
    view: View,
    rng: Random,
    tried: AbstractSet[str] = _NONE_TRIED,
    need: Need = EVENTUALLY,
) -> Choice | None:
    """Return the backend for a call, or None when all that could take it have been tried.

    None as well when only a primary without room could; `view.has_room` tells which.
    """
    if not wants_replica(rpc, need):
        primary = _serving_primary(view, rng, tried, rpc, need) or _last_resort(
            view, rng, tried, rpc, need
        )
        return None if primary is None else Choice(primary, Route.PRIMARY)
    replica = _eligible(view, rng, tried, need)
    if replica is not None:
        return Choice(replica, Route.REPLICA)
    primary = _serving_primary(view, rng, tried, rpc, need)
    if primary is not None and view.has_room:
        return Choice(primary, Route.FALLBACK)
    if need.has_waited and not view.snapshot.serving_primaries:
        # Without a primary to turn to, another replica may have the position after all.
        return choose(rpc, view, rng, tried, replace(need, has_waited=False))
    return (
        _second_best(view, rng, tried, need)
        or (None if primary is not None else _worst(view, rng, tried, need))
        or _refusing(view, rng, tried, rpc, need)
    )


def _eligible(view: View, rng: Random, tried: AbstractSet[str], need: Need) -> Backend | None:
    def meets(backend: Backend) -> bool:
        return unfit(backend, view, need) is None

    def accepts(backend: Backend) -> bool:
        return backend.address not in tried and meets(backend) and not _is_full(backend, view)

    asked = (need.max_lag, need.min_lsn, need.proves_lsn, need.has_waited)
    zone, ready = view.policy.zone, view.snapshot.ready_replicas
    near = view.snapshot.ready_in.get(zone) if zone else None
    if near is not None:
        found = draw(near, meets, accepts, view, rng, key=(*asked, zone))
        if found is not None:
            return found
    return draw(ready, meets, accepts, view, rng, key=(*asked, ""))


def _second_best(view: View, rng: Random, tried: AbstractSet[str], need: Need) -> Choice | None:
    """Return a ready replica that fills up, or is over its bound where that may be served."""
    ready = [b for b in view.snapshot.ready_replicas if b.address not in tried]
    filling = [b for b in ready if unfit(b, view, need) is None]
    if filling:
        return Choice(least_loaded(filling, view, rng), Route.REPLICA)
    if ready and _may_be_stale(view, need):
        return Choice(least_loaded(ready, view, rng), Route.STALE)
    return None


def _may_be_stale(view: View, need: Need) -> bool:
    return (
        view.policy.serve_stale
        and need.max_lag is not None
        and need.min_lsn is None
        and not need.proves_lsn
    )


def _worst(view: View, rng: Random, tried: AbstractSet[str], need: Need) -> Choice | None:
    """Return a replica whose breaker is open: with nothing better left, it may have recovered."""
    left = [b for b in view.snapshot.ejected_replicas if b.address not in tried]
    fit = [b for b in left if unfit(b, view, need) is None]
    if fit:
        return Choice(least_loaded(fit, view, rng), Route.REPLICA)
    if left and _may_be_stale(view, need):
        return Choice(least_loaded(left, view, rng), Route.STALE)
    return None


def _refusing(
    view: View, rng: Random, tried: AbstractSet[str], rpc: Rpc, need: Need
) -> Choice | None:
    primary = _last_resort(view, rng, tried, rpc, need) if view.has_room else None
    return None if primary is None else Choice(primary, Route.FALLBACK)


# Primaries


def _takes(backend: Backend, rpc: Rpc, need: Need) -> bool:
    if backend.facts.is_foreign:
        return False
    return not backend.is_standby or (rpc.is_stale_tolerant and need.is_eventual)


def _serving_primary(
    view: View, rng: Random, tried: AbstractSet[str], rpc: Rpc, need: Need
) -> Backend | None:
    serving = [
        b
        for b in view.snapshot.serving_primaries
        if b.address not in tried and _takes(b, rpc, need)
    ]
    # One that can write is newer than one that replays, and a breaker only puts it last.
    best = (
        [b for b in serving if not b.is_ejected and not b.is_standby]
        or [b for b in serving if not b.is_standby]
        or serving
    )
    return least_loaded(best, view, rng) if best else None


def _last_resort(
    view: View, rng: Random, tried: AbstractSet[str], rpc: Rpc, need: Need
) -> Backend | None:
    left = [b for b in view.snapshot.primaries if b.address not in tried and _takes(b, rpc, need)]
    for state in _LAST_RESORT:
        group = [backend for backend in left if backend.state is state]
        if group:
            return rng.choice(group)
    return None
