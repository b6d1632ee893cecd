"""What is counted of the calls that a node sends to other nodes; a listener of the client's events.

Series of a backend begin when it joins and go when it leaves: a call that ends after that is not
counted for it, or its series would come back and stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.client.events import (
    BackendChanged,
    BackendEjected,
    CallFinished,
    CallHedged,
    CallRetried,
    CallRouted,
    CallShared,
    CallShed,
    Event,
    ResolveFailed,
    RetryDenied,
)
from proxy.errors import Code
from proxy.metrics import series as names
from proxy.metrics.families import Family, counter, family_of, known
from proxy.metrics.tally import Tally
from proxy.routing.catalogue import RPCS
from proxy.routing.figures import REASONS, BackendFigures, Figures
from proxy.routing.members import BackendRole
from proxy.routing.selection import Route

STATUSES: Final = ("success", "error", "cancelled")
_RPC_LABELS: Final = {name: rpc.metric_name for name, rpc in RPCS.items()}
# Of an RPC that is not in the catalogue; there is none, unless a defect makes one up.
_OTHER: Final = "other"


class RoutingMetrics:
    """The series of a node that routes; hand it to the client as its listener."""

    def __init__(self, registry: CollectorRegistry, tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self._routed = Family(counter(names.ROUTED, registry))
        self._fallbacks = Family(counter(names.FALLBACKS, registry))
        self._stale = Family(counter(names.STALE, registry))
        self._resolve_failures = counter(names.RESOLVE_FAILURES, registry)
        self._by_rpc = {
            CallRetried: Family(counter(names.RETRIES, registry)),
            RetryDenied: Family(counter(names.RETRIES_DENIED, registry)),
            CallHedged: Family(counter(names.HEDGES, registry)),
            CallShared: Family(counter(names.SHARED, registry)),
            CallShed: Family(counter(names.CAP_REFUSED, registry)),
        }
        self._backend_calls = Family(counter(names.BACKEND_CALLS, registry))
        self._ejections = Family(counter(names.EJECTIONS, registry))
        self._backends: set[tuple[str, str]] = set()
        self._ended: dict[tuple[str, str, BackendRole, Route, Code], _Ended] = {}
        self._figures = _FiguresCollector()
        registry.register(self._figures)

    def watch(self, figures: Callable[[], Figures | None]) -> None:
        """Export what the client knows of its backends, as it is at each scrape."""
        self._figures.read = figures

    def __call__(self, event: Event, /) -> None:
        """Count an event of the client."""
        if isinstance(event, CallRouted):
            # Each of them ends in a `CallFinished`.
            return
        if isinstance(event, CallFinished):
            self._finished(event)
        elif isinstance(event, CallRetried | RetryDenied | CallHedged | CallShared | CallShed):
            self._by_rpc[type(event)][_RPC_LABELS.get(event.rpc, _OTHER),].inc()
        elif isinstance(event, BackendEjected):
            backend = (event.address, event.role.value)
            if backend in self._backends:
                self._ejections[backend].inc()
        elif isinstance(event, BackendChanged):
            self._changed(event)
        elif isinstance(event, ResolveFailed):
            self._resolve_failures.inc()

    def answered_stale(self, rpc_name: str) -> None:
        """Count an answer with data over the bound."""
        self._stale[_RPC_LABELS.get(rpc_name, _OTHER),].inc()

    def _finished(self, event: CallFinished) -> None:
        code = event.code
        key = (event.rpc, event.backend, event.role, event.route, code)
        found = self._ended.get(key)
        if found is None:
            found = self._ended[key] = self._find(event)
        for counted in found.counters:
            counted.inc()
        self._tally.routed(found.route, code)
        if found.is_member:
            self._tally.answered(event.backend, code)

    def _find(self, event: CallFinished) -> _Ended:
        """Return what counts events like this one: to look that up costs more than to count."""
        rpc = _RPC_LABELS.get(event.rpc, _OTHER)
        role, code, route = event.role.value, event.code, event.route.value
        counters = [self._routed[rpc, route, role, code.name.lower()]]
        backend = (event.backend, role)
        if backend in self._backends:
            counters.append(self._backend_calls[(*backend, _status(code))])
        if code is Code.OK and event.route is Route.FALLBACK:
            counters.append(self._fallbacks[rpc,])
        elif code is Code.OK and event.route is Route.STALE:
            counters.append(self._stale[rpc,])
        return _Ended(route, backend in self._backends, tuple(counters))

    def _changed(self, event: BackendChanged) -> None:
        backend = (event.address, event.role.value)
        if (event.after is not None) is not (backend in self._backends):
            self._ended.clear()
        if event.after is None:
            self._backends.discard(backend)
            self._tally.forget(event.address)
            self._backend_calls.forget(*backend)
            self._ejections.forget(*backend)
        elif backend not in self._backends:
            self._backends.add(backend)
            # From 0, so that the first failure shows in a rate.
            self._ejections[backend]
            for status in STATUSES:
                self._backend_calls[(*backend, status)]


class _Ended(NamedTuple):
    """What counts the calls that ended in the same way on the same backend."""

    route: str
    is_member: bool
    counters: tuple[Counter, ...]


def _status(code: Code) -> str:
    if code is Code.OK:
        return "success"
    return "cancelled" if code is Code.CANCELLED else "error"


class _FiguresCollector(Collector):
    """Asks the client once per scrape, so that all its series are of one moment."""

    def __init__(self) -> None:
        self.read: Callable[[], Figures | None] = lambda: None

    def collect(self) -> Iterator[Metric]:
        """Return the families; without samples while the client is closed."""
        found = self.read()
        backends = () if found is None else found.backends
        if found is not None:
            limit = math.inf if found.fallback_limit is None else found.fallback_limit
            bound = math.inf if found.max_lag is None else found.max_lag
            yield family_of(names.RETRY_BUDGET, (((), found.retry_budget),))
            yield family_of(names.CAP_USED, (((), float(found.fallbacks)),))
            yield family_of(names.CAP_LIMIT, (((), float(limit)),))
            yield family_of(names.MAX_LAG, (((), bound),))
        reasons = [
            ((*_labels(one), reason), float(one.reason == reason))
            for one in backends
            for reason in REASONS
        ]
        yield family_of(names.BACKEND_ELIGIBLE, reasons)
        # A primary's data is the newest there is.
        replicas = [one for one in backends if one.backend.role is BackendRole.REPLICA]
        lags = [(_labels(one), known(one.lag)) for one in replicas]
        yield family_of(names.BACKEND_LAG, lags)
        lsns = [(_labels(one), known(one.lsn)) for one in backends]
        yield family_of(names.BACKEND_LSN, lsns)
        in_flight = [(_labels(one), float(one.load.in_flight)) for one in backends]
        yield family_of(names.BACKEND_IN_FLIGHT, in_flight)
        latencies = [(_labels(one), known(one.load.latency or None)) for one in backends]
        yield family_of(names.BACKEND_LATENCY, latencies)


def _labels(one: BackendFigures) -> tuple[str, str]:
    return one.backend.address, one.backend.role.value
