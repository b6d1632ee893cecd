"""Why a call goes where it goes: a verdict on every backend, and the decision in words."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import Need, format_lsn
from proxy.routing.freshness import UNKNOWN
from proxy.routing.members import Backend, BackendRole, Load
from proxy.routing.selection import Choice, Obstacle, Route, choose, obstacle, wants_replica
from proxy.routing.view import View

_FINE: Final = {
    BackendRole.PRIMARY: (
        "it serves the calls that go to a primary, and reads for want of a replica"
    ),
    BackendRole.REPLICA: "it serves and is fresh enough",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What speaks for or against one backend. `lag` is seconds, None when unknown."""

    backend: Backend
    is_eligible: bool
    reason: str
    lag: float | None
    load: Load


@dataclass(frozen=True, slots=True)
class Explanation:
    """The choice that a call would get, the verdicts behind it, and both in words."""

    choice: Choice | None
    verdicts: tuple[Verdict, ...]
    text: str


def explain(rpc: Rpc, view: View, rng: Random, need: Need) -> Explanation:
    """Return where a call would go and why. Nothing is counted or sent."""
    choice = choose(rpc, view, rng, need=need)
    verdicts = tuple(judge(rpc, view, need, backend) for backend in view.snapshot.backends)
    return Explanation(choice, verdicts, _words(rpc, view, need, choice))


def judge(rpc: Rpc, view: View, need: Need, backend: Backend) -> Verdict:
    """Return the verdict on one backend for a call."""
    lag = view.freshness.get(backend.address, UNKNOWN).lag(view.now)
    found = hindrance(rpc, view, need, backend)
    reason = _FINE[backend.role] if found is None else _reason(found, backend, view, need, lag)
    return Verdict(backend, found is None, reason, lag, view.load(backend))


def hindrance(rpc: Rpc, view: View, need: Need, backend: Backend) -> Obstacle | None:
    """Return what speaks against a backend for a call; None when nothing does."""
    if backend.role is BackendRole.PRIMARY:
        return _primary_obstacle(rpc, need, backend)
    return obstacle(backend, view, need) if wants_replica(rpc, need) else Obstacle.PRIMARY_ONLY


def summary(rpc: Rpc, view: View, need: Need) -> str:
    """Return why no backend takes a call, on one line."""
    if not view.snapshot.backends:
        return (
            f"no backend is known for {rpc.name}: check the targets, and `metastore-proxy status`"
        )
    verdicts = [judge(rpc, view, need, backend) for backend in view.snapshot.backends]
    against = [
        f"{v.backend.role.value} {v.backend.address}: {v.reason}"
        for v in verdicts
        if not v.is_eligible
    ]
    return f"no backend can take {rpc.name} now ({'; '.join(against)})"


def _primary_obstacle(rpc: Rpc, need: Need, backend: Backend) -> Obstacle | None:
    if backend.facts.is_foreign:
        return Obstacle.FOREIGN
    if backend.is_standby and not (rpc.is_stale_tolerant and need.is_eventual):
        return Obstacle.STANDBY
    if not backend.is_serving:
        return Obstacle.NOT_SERVING
    return Obstacle.EJECTED if backend.is_ejected else None


def _reason(found: Obstacle, backend: Backend, view: View, need: Need, lag: float | None) -> str:
    if found is Obstacle.NOT_SERVING and backend.trouble:
        return backend.trouble
    if found is Obstacle.TOO_OLD and lag is not None and need.max_lag is not None:
        return f"its lag of {lag:.3f} s is over the bound of {need.max_lag:g} s"
    if found is Obstacle.BEHIND and need.min_lsn is not None:
        return f"it has not replayed {format_lsn(need.min_lsn)}"
    return found.value


def _words(rpc: Rpc, view: View, need: Need, choice: Choice | None) -> str:
    if choice is None:
        if wants_replica(rpc, need) and not view.has_room:
            return f"{rpc.name} is shed: no replica is eligible and the primary takes no more"
        return summary(rpc, view, need)
    address = choice.backend.address
    if choice.route is Route.PRIMARY:
        return f"{rpc.name} goes to the primary {address}: {_why_primary(rpc, need)}"
    if choice.route is Route.FALLBACK:
        return f"{rpc.name} falls back to the primary {address}: no replica is eligible"
    if choice.route is Route.STALE:
        return (
            f"{rpc.name} goes to the replica {address} although it is over its bound: "
            "no primary can take it, and stale answers are allowed"
        )
    return f"{rpc.name} goes to the replica {address}, or another that is as good"


def _why_primary(rpc: Rpc, need: Need) -> str:
    if not rpc.is_read:
        return "it writes"
    if need.primary_only:
        return "its consistency asks for the primary"
    return "it is not stale-tolerant, and no leave was given"
