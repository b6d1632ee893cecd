"""Whether a member is alive: how long it has been silent, compared with how it usually speaks.

Facts: chitchat's failure detector with the constants that Quickwit uses. It calls itself "phi", but
is a plain ratio: silence divided by the mean interval, and a member is alive up to 8. The mean has
five intervals of a prior mixed in, so that a new member is judged leniently. Quickwit's prior is
5 s: with heartbeats every second a member counts as dead after 34.7 s of silence (one interval
seen), 18.7 s (10), 10.5 s (60) and 8.2 s (1,000). Ours is the gossip interval where that is
shorter: 8 s at Quickwit's default, for members that have just started as well.
"""

from __future__ import annotations

from array import array
from typing import Final

THRESHOLD: Final = 8.0
WINDOW: Final = 1_000
MAX_INTERVAL: Final = 10.0
PRIOR_INTERVAL: Final = 5.0
PRIOR_WEIGHT: Final = 5.0


class Sampler:
    """The intervals between the heartbeats of one member."""

    __slots__ = ("_intervals", "_next", "_prior", "_total", "last")

    def __init__(self, prior: float = PRIOR_INTERVAL) -> None:
        """Start without a heartbeat; `prior` is the interval in seconds to expect at first."""
        self._prior = min(prior, PRIOR_INTERVAL)
        self.last: float | None = None
        self._intervals = array("d")
        self._next = 0
        self._total = 0.0

    def add(self, now: float) -> None:
        """Record a heartbeat. The first one, and one after a long silence, only start the clock."""
        last, self.last = self.last, now
        if last is None or not 0.0 <= (interval := now - last) <= MAX_INTERVAL:
            return
        if len(self._intervals) < WINDOW:
            self._intervals.append(interval)
            self._total += interval
            return
        self._total += interval - self._intervals[self._next]
        self._intervals[self._next] = interval
        self._next = (self._next + 1) % WINDOW
        if self._next == 0:
            # Once in a window, so that roundings do not add up for ever.
            self._total = sum(self._intervals)

    @property
    def mean(self) -> float | None:
        """The mean interval in seconds, the prior included; None before the first interval."""
        if not self._intervals:
            return None
        prior = PRIOR_WEIGHT * self._prior
        return (self._total + prior) / (len(self._intervals) + PRIOR_WEIGHT)

    def is_alive(self, now: float) -> bool:
        """Tell whether the member has been heard of recently enough; False before any interval."""
        mean = self.mean
        return mean is not None and self.last is not None and now - self.last <= THRESHOLD * mean

    def timeout(self) -> float | None:
        """Return the seconds of silence after which the member counts as dead."""
        mean = self.mean
        return None if mean is None else THRESHOLD * mean

    def clear(self) -> None:
        """Forget the intervals of a member that is dead, but not when it was last heard of."""
        del self._intervals[:]
        self._next, self._total = 0, 0.0
