"""What a router's metrics tell of its backends, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.routing.board import Board
from proxy.routing.catalogue import RPCS, Rpc
from proxy.routing.consistency import Need
from proxy.routing.explanation import hindrance
from proxy.routing.freshness import UNKNOWN
from proxy.routing.members import Backend, BackendState, Load
from proxy.routing.selection import Obstacle

ELIGIBLE: Final = "eligible"

# Whether a backend is eligible depends on the call; this one stands for the reads.
READ: Final[Rpc] = RPCS["ListSplits"]

_WORDS: Final = {
    Obstacle.FOREIGN: "foreign",
    Obstacle.EJECTED: "ejected",
    Obstacle.UNKNOWN_LAG: "unknown_lag",
    Obstacle.TOO_OLD: "too_old",
    Obstacle.FILLING: "filling",
    Obstacle.STANDBY: "standby",
}
_STATES: Final = tuple(state.value for state in BackendState if state is not BackendState.SERVING)
# The words for what may speak against a backend, of a read that asks for nothing but a bound.
REASONS: Final[tuple[str, ...]] = (ELIGIBLE, *_STATES, *_WORDS.values())


@dataclass(frozen=True, slots=True)
class BackendFigures:
    """One backend; `reason` is one of `REASONS`. `lag` is seconds, `lsn` bytes, None is unknown."""

    backend: Backend
    reason: str
    lag: float | None
    lsn: int | None
    load: Load


@dataclass(frozen=True, slots=True)
class Figures:
    """All backends, the retry budget that is left, and how full the primaries are.

    `fallbacks` are reads in flight at primaries in place of replicas; a `fallback_limit` of None
    means that there is none. `max_lag` is the bound that the reasons go by, None is none.
    """

    backends: tuple[BackendFigures, ...]
    retry_budget: float
    fallbacks: int
    fallback_limit: int | None
    max_lag: float | None


def figures(board: Board, now: float, max_lag: float | None) -> Figures:
    """Return the figures at `now`, of reads whose bound is `max_lag`."""
    view, need = board.view(now), Need(max_lag=max_lag)
    backends = tuple(
        BackendFigures(
            backend,
            _reason(backend, hindrance(READ, view, need, backend)),
            view.freshness.get(backend.address, UNKNOWN).lag(now),
            board.ledger.position(backend.address),
            view.load(backend),
        )
        for backend in view.snapshot.backends
    )
    return Figures(backends, board.budget.balance, board.fallbacks, board.fallback_cap, max_lag)


def _reason(backend: Backend, found: Obstacle | None) -> str:
    if found is None:
        return ELIGIBLE
    return backend.state.value if found is Obstacle.NOT_SERVING else _WORDS[found]
