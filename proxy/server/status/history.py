"""What was, a few minutes back: lags, calls, and since when something is wrong.

Pure: `now` is Unix seconds. Bounded: the oldest goes, and so does what is no longer there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

# Seconds between two samples, and how many are kept: three minutes.
INTERVAL: Final = 1.0
KEPT: Final = 180
# A rate of now is that of so many samples.
_WINDOW: Final = 5
# Of more replicas no history is kept.
MOST: Final = 32

# When, calls and failed ones until then.
_Point = tuple[float, int, int]


class Rates:
    """Counts turned into calls per second."""

    def __init__(self) -> None:
        self._points: deque[_Point] = deque(maxlen=KEPT + 1)

    def note(self, now: float, calls: int, failed: int) -> None:
        """Take note of how many there were until now."""
        self._points.append((now, calls, failed))

    @property
    def now(self) -> tuple[float, float]:
        """Calls per second of the last seconds, and failed ones."""
        points = self._points
        if len(points) < 2:
            return 0.0, 0.0
        then, last = points[max(0, len(points) - 1 - _WINDOW)], points[-1]
        seconds = last[0] - then[0]
        if seconds <= 0.0:
            return 0.0, 0.0
        return (last[1] - then[1]) / seconds, (last[2] - then[2]) / seconds

    def history(self) -> Sequence[float]:
        """Return calls per second between each two samples, the oldest first."""
        return [
            (after[1] - before[1]) / max(after[0] - before[0], 1e-3)
            for before, after in pairwise(self._points)
        ]


class History:
    """Lags and states by node, calls by route and backend, and since when each trouble lasts."""

    def __init__(self) -> None:
        self._lags: dict[str, deque[float]] = {}
        self._routes: dict[str, Rates] = {}
        self._backends: dict[str, Rates] = {}
        self._since: dict[str, float] = {}
        self._states: dict[str, tuple[str, float]] = {}

    def note_lags(self, lags: Mapping[str, float]) -> None:
        """Add a sample of each node's lag, NaN for an unknown one."""
        self._lags = {key: self._lags.get(key) or deque(maxlen=KEPT) for key in list(lags)[:MOST]}
        for key, kept in self._lags.items():
            kept.append(lags[key])

    def lags(self, key: str) -> Sequence[float]:
        """Return a node's samples, the oldest first."""
        return self._lags.get(key, ())

    def note_states(self, now: float, states: Mapping[str, str]) -> Mapping[str, float]:
        """Take note of each node's state; return since when it has been in it."""
        before = self._states
        self._states = {
            key: before[key] if key in before and before[key][0] == state else (state, now)
            for key, state in states.items()
        }
        return {key: since for key, (_, since) in self._states.items()}

    def note_routes(self, now: float, counts: Mapping[str, tuple[int, int]]) -> None:
        """Take note of the calls by route until now: all, and failed ones."""
        self._routes = _noted(self._routes, now, counts)

    def note_backends(self, now: float, counts: Mapping[str, tuple[int, int]]) -> None:
        """Take note of the calls by backend until now."""
        self._backends = _noted(self._backends, now, counts)

    @property
    def routes(self) -> Mapping[str, Rates]:
        """Calls by route."""
        return self._routes

    @property
    def backends(self) -> Mapping[str, Rates]:
        """Calls by a backend's address."""
        return self._backends

    def note_troubles(self, now: float, keys: Iterable[str]) -> Mapping[str, float]:
        """Take note of all that is wrong now; return since when each has been, without a break."""
        self._since = {key: self._since.get(key, now) for key in keys}
        return self._since


def _noted(
    kept: Mapping[str, Rates], now: float, counts: Mapping[str, tuple[int, int]]
) -> dict[str, Rates]:
    found = {key: kept.get(key) or Rates() for key in counts}
    for key, (calls, failed) in counts.items():
        found[key].note(now, calls, failed)
    return found
