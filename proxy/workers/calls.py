"""Calls of a whole node, as its first worker adds them up for whoever looks at the node.

Each other worker tells once a second what it has counted and what it has in flight. Only what was
added since the last time counts, so that nothing leaps when a worker is started again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.metrics.tally import Count, Counts
from proxy.routing.figures import Figures

_Plain = dict[str, list[int]]


def told_calls(worker: int, tally: Counts, figures: Figures | None) -> dict[str, Any]:
    """Return what a worker tells of its calls, as JSON values."""
    told: dict[str, Any] = {
        "worker": worker,
        "process": os.getpid(),
        "routes": _plain(tally.routes),
        "backends": _plain(tally.backends),
        "figures": None,
    }
    if figures is not None:
        told["figures"] = {
            "in_flight": {one.backend.address: one.load.in_flight for one in figures.backends},
            "budget": figures.retry_budget,
            "fallbacks": figures.fallbacks,
            "limit": figures.fallback_limit,
        }
    return told


@dataclass(slots=True)
class _Added:
    """What the other workers have counted while this one listened."""

    routes: dict[str, Count] = field(default_factory=dict)
    backends: dict[str, Count] = field(default_factory=dict)


class NodeCalls:
    """The calls of this worker, `own`, and of all others that `hear` and `ended` are told of."""

    def __init__(self, own: Counts) -> None:
        self._own = own
        self._last: dict[int, dict[str, Any]] = {}
        self._added = _Added()

    def hear(self, told: dict[str, Any]) -> None:
        """Take what another worker tells; the first that a process tells is where it begins."""
        last = self._last.get(told["worker"])
        if last is not None and last["process"] == told["process"]:
            _add(self._added.routes, last["routes"], told["routes"])
            _add(self._added.backends, last["backends"], told["backends"])
        self._last[told["worker"]] = told
        known = {*self._own.backends}.union(*(one["backends"] for one in self._last.values()))
        for address in self._added.backends.keys() - known:
            del self._added.backends[address]

    def ended(self, worker: int) -> None:
        """Take nothing for in flight any more at a worker that has ended."""
        self._last.pop(worker, None)

    @property
    def routes(self) -> Mapping[str, Count]:
        """Calls by route, of all workers."""
        return _sum(self._own.routes, self._added.routes)

    @property
    def backends(self) -> Mapping[str, Count]:
        """Calls by a backend's address, of all workers."""
        return _sum(self._own.backends, self._added.backends)

    def figures(self, own: Figures | None) -> Figures | None:
        """Return the figures of this worker with the loads of all; what it judges stays its own."""
        others = [one["figures"] for one in self._last.values() if one["figures"] is not None]
        if own is None or not others:
            return own
        backends = tuple(
            replace(one, load=replace(one.load, in_flight=one.load.in_flight + elsewhere))
            for one in own.backends
            for elsewhere in [sum(each["in_flight"].get(one.backend.address, 0) for each in others)]
        )
        limits = [own.fallback_limit, *(one["limit"] for one in others)]
        known = [one for one in limits if one is not None]
        return replace(
            own,
            backends=backends,
            retry_budget=own.retry_budget + sum(one["budget"] for one in others),
            fallbacks=own.fallbacks + sum(one["fallbacks"] for one in others),
            fallback_limit=sum(known) if len(known) == len(limits) else None,
        )


def _plain(counts: Mapping[str, Count]) -> _Plain:
    return {key: [count.calls, count.failed] for key, count in counts.items()}


def _add(added: dict[str, Count], before: _Plain, now: _Plain) -> None:
    for key, (calls, failed) in now.items():
        calls_before, failed_before = before.get(key, (0, 0))
        count = added.setdefault(key, Count())
        # Less than before is a backend that was forgotten and has come back.
        count.calls += calls - calls_before if calls >= calls_before else calls
        count.failed += failed - failed_before if failed >= failed_before else failed


def _sum(own: Mapping[str, Count], added: Mapping[str, Count]) -> Mapping[str, Count]:
    nothing = Count()
    return {
        key: Count(one.calls + other.calls, one.failed + other.failed)
        for key in {**own, **added}
        for one, other in [(own.get(key, nothing), added.get(key, nothing))]
    }
