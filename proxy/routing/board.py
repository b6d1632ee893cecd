"""All that a router knows, and how what it sees changes that. No I/O: `now` is an argument.

The board keeps the snapshot in step with the breakers: a backend is *ejected* while its breaker
lets nothing through. When a pause is over the backend is let in again for one call, its trial;
while that is under way it is ejected once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final

from proxy.routing.breaker import DEFAULT_BREAKER, Breaker, BreakerPolicy, BreakerState
from proxy.routing.budget import RetryBudget
from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import EVENTUALLY, Need
from proxy.routing.freshness import Ledger, Report
from proxy.routing.members import Backend, BackendRole, BackendState, Facts, Load, Snapshot
from proxy.routing.selection import Choice, Route, choose
from proxy.routing.view import DEFAULT_POLICY, Policy, Shortlists, View

_CLOSED: Final = Breaker()
_NEVER: Final = float("inf")
_NONE_TRIED: Final[frozenset[str]] = frozenset()


class Outcome(Enum):
    """What an attempt says of its backend.

    ANSWERED counts for the backend, an answer that is an error of the application included; FAILED
    counts against it; SILENT, a call that was cancelled or refused for its need, counts as neither.
    """

    ANSWERED = "answered"
    FAILED = "failed"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class BoardPolicy:
    """A router's settings. `fallback_concurrency` is None where there is no replica to wait for."""

    choice: Policy = DEFAULT_POLICY
    breaker: BreakerPolicy = DEFAULT_BREAKER
    fallback_concurrency: int | None = 32
    retry_ratio: float = 0.18
    retry_reserve: float = 10.0


class Board:
    """Chooses backends and learns from what becomes of the calls. Not for several threads."""

    def __init__(self, policy: BoardPolicy = BoardPolicy(), *, rng: Random) -> None:
        self.snapshot = Snapshot()
        self.loads: dict[str, Load] = {}
        self.ledger = Ledger()
        self.budget = RetryBudget(policy.retry_ratio, policy.retry_reserve)
        self.fallbacks = 0
        self.in_flight = 0
        self.fallback_cap = policy.fallback_concurrency
        self._policy = policy
        self._rng = rng
        self._breakers: dict[str, Breaker] = {}
        self._next_trial = _NEVER
        self._shortlists: Shortlists = {}

    # Members and their state

    def set_members(self, roles: Mapping[str, BackendRole], now: float) -> None:
        """Make the members exactly these; what is known of one whose role changed is forgotten."""
        before = self.snapshot
        self.snapshot = before.with_members(roles, now)
        for backend in before.backends:
            if roles.get(backend.address) is not backend.role:
                self.loads.pop(backend.address, None)
                self._breakers.pop(backend.address, None)
                self.ledger.forget(backend.address)
        for backend in self.snapshot.backends:
            self.loads.setdefault(backend.address, Load())

    def set_state(self, address: str, state: BackendState, now: float, trouble: str = "") -> bool:
        """Take note of a backend's state, and of its trouble; tell whether the state changed.

        One that comes back may be another process on another database: a replica's freshness has
        to be shown again. Its breaker lets a trial through at once. What a primary said of the
        cluster holds until it says otherwise, lest another's word count while it is gone.
        """
        before = self.snapshot
        self.snapshot = before.with_state(address, state, now, trouble)
        backend, breaker = before.get(address), self._breakers.get(address)
        if self.snapshot is before or (backend is not None and backend.state is state):
            return False
        if state is BackendState.SERVING:
            if breaker is not None:
                self._set_breaker(address, breaker.reconnected(now), now)
        elif backend is not None and backend.role is BackendRole.REPLICA:
            self.ledger.forget(address)
        return True

    def introduce(self, address: str, facts: Facts) -> None:
        """Take note of what others say of a backend; `heard` has what it says itself."""
        self.snapshot = self.snapshot.with_facts(address, facts)

    def heard(self, address: str, report: Report) -> tuple[Backend, ...]:
        """Take note of what a backend says of its data; return those now found to be foreign."""
        backend = self.snapshot.get(address)
        if backend is None:
            return ()
        if backend.role is BackendRole.PRIMARY:
            self.ledger.heard_primary(address, report)
        else:
            self.ledger.heard_replica(address, report)
        old = backend.facts
        in_recovery = report.in_recovery if report.is_reachable else old.in_recovery
        facts = Facts(report.node_id, report.zone, in_recovery, old.is_foreign)
        before = self.snapshot.with_facts(address, facts)
        # A primary may have settled which cluster this is, and with it whom to refuse.
        others = before.backends if backend.role is BackendRole.PRIMARY else (backend,)
        self.snapshot, found = before, []
        for other in others:
            is_foreign = self.ledger.is_foreign(other.address)
            known = before.get(other.address)
            if known is None or known.facts.is_foreign is is_foreign:
                continue
            changed = replace(known.facts, is_foreign=is_foreign)
            self.snapshot = self.snapshot.with_facts(other.address, changed)
            if is_foreign:
                found.append(known)
        return tuple(found)

    def reconfigure(self, policy: BoardPolicy) -> None:
        """Go by other settings from now on; what was learned of the backends stays."""
        self._policy = policy
        self.fallback_cap = policy.fallback_concurrency
        self.budget.reconfigure(policy.retry_ratio, policy.retry_reserve)
        self._shortlists = {}

    # Choice

    def view(self, now: float) -> View:
        """Return what a choice at `now` looks at."""
        cap = self.fallback_cap
        return View(
            self.snapshot,
            self.loads,
            self.ledger.freshness,
            now,
            cap is None or self.fallbacks < cap,
            self._policy.choice,
            self._shortlists,
        )

    def choose(
        self,
        rpc: Rpc,
        now: float,
        need: Need = EVENTUALLY,
        tried: AbstractSet[str] = _NONE_TRIED,
    ) -> Choice | None:
        """Return the backend for a call at `now`; see `selection.choose`."""
        if now >= self._next_trial:
            self._let_in(now)
        return choose(rpc, self.view(now), self._rng, tried, need)

    def breaker(self, address: str) -> Breaker:
        """Return the breaker of a backend."""
        return self._breakers.get(address, _CLOSED)

    # Calls

    def begin(self, choice: Choice, now: float) -> None:
        """Count an attempt as in flight."""
        address = choice.backend.address
        self.loads[address] = self.loads.get(address, Load()).begun(now)
        self.in_flight += 1
        if choice.route is Route.FALLBACK:
            self.fallbacks += 1
        breaker = self._breakers.get(address)
        if breaker is not None:
            self._set_breaker(address, breaker.begun(now, self._policy.breaker), now)

    def end(self, choice: Choice, outcome: Outcome, now: float, seconds: float | None) -> None:
        """Count an attempt as ended; `seconds` is its latency, None for one that is not measured.

        To be called once for each `begin`.
        """
        address = choice.backend.address
        self.in_flight -= 1
        if choice.route is Route.FALLBACK:
            self.fallbacks -= 1
        present, load = self.snapshot.get(address), self.loads.get(address)
        if present is None or load is None or present.joined != choice.backend.joined:
            # It left meanwhile; another may be at its address.
            return
        self.loads[address] = load.ended(seconds)
        breaker = self._breakers.get(address, _CLOSED)
        if outcome is Outcome.FAILED:
            changed = breaker.failed(now, self._policy.breaker, self._rng)
            self._set_breaker(address, changed, now)
        elif address not in self._breakers:
            return
        elif outcome is Outcome.ANSWERED:
            self._set_breaker(address, breaker.succeeded(), now)
        elif breaker.state is BreakerState.HALF_OPEN:
            # The trial was taken back: the next call may be one.
            self._set_breaker(address, breaker.reconnected(now), now)

    def blame(self, choice: Choice, now: float) -> None:
        """Count an attempt that ended SILENT as FAILED: it turned out to be its backend's fault."""
        address = choice.backend.address
        if address in self.loads:
            changed = self.breaker(address).failed(now, self._policy.breaker, self._rng)
            self._set_breaker(address, changed, now)

    def _set_breaker(self, address: str, breaker: Breaker, now: float) -> None:
        self._breakers[address] = breaker
        allows = breaker.allows(now)
        self.snapshot = self.snapshot.with_ejected(address, not allows, now)
        if not allows:
            self._next_trial = min(self._next_trial, breaker.until)

    def _let_in(self, now: float) -> None:
        self._next_trial = _NEVER
        for address, breaker in tuple(self._breakers.items()):
            if breaker.state is not BreakerState.CLOSED:
                self._set_breaker(address, breaker, now)
